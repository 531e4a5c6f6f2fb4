//! The collector beside snapshots, restores, forks and drafts, all at once.

use base::{HomeId, SnapshotId};
use homefs::{Depth, Draft, HomeFs};
use vfs::{FileSystem as _, ROOT, RenameFlags};

use crate::support::{World, block_on, eventually, get, noise, put, upload};

fn snapshot(world: &World) -> SnapshotId {
    let id = SnapshotId::generate();
    block_on(homefs::snapshot(&world.parts(), &world.home, &id, None)).unwrap();
    id
}

fn restore(world: &World, id: &SnapshotId) {
    block_on(homefs::restore(&world.parts(), &world.home, id, &world.server)).unwrap();
}

fn fork(world: &World, at: Option<&SnapshotId>) -> World {
    let child = HomeId::generate();
    block_on(homefs::fork(&world.parts(), &world.home, at, &child, &world.server)).unwrap();
    world.other(child)
}

/// So many commits that bases are made and old commits go.
fn many_commits(world: &World, home: &HomeFs, turns: u64) {
    let bases = world.keys("base/").len();
    for turn in 0..turns {
        put(home, "turn", &noise(2_000, turn));
        home.sync(None).unwrap();
    }
    eventually("there is another base", || world.keys("base/").len() > bases);
}

fn collect(world: &World, home: &HomeFs) {
    for _ in 0..8 {
        home.collect().unwrap();
        world.clock.pass_minutes(20);
    }
    home.collect().unwrap();
}

/// Files whose content rides in commits, and one of each other tier.
fn fill(home: &HomeFs, seed: u64) {
    upload(home, "chunked", &noise(9 << 20, seed));
    upload(home, "packed", &noise(300_000, seed));
    put(home, "inline", &noise(3_000, seed));
    home.sync(None).unwrap();
    for n in 0..10 {
        upload(home, &format!("rides{n}"), &noise(20_000, seed + n));
        home.sync(None).unwrap();
    }
}

fn check(fs: &dyn vfs::FileSystem, seed: u64) {
    assert!(get(fs, "chunked") == noise(9 << 20, seed), "chunked of {seed}");
    assert!(get(fs, "packed") == noise(300_000, seed), "packed of {seed}");
    assert!(get(fs, "inline") == noise(3_000, seed), "inline of {seed}");
    for n in 0..10 {
        assert!(get(fs, &format!("rides{n}")) == noise(20_000, seed + n), "rides{n} of {seed}");
    }
}

fn check_state(world: &World, id: &SnapshotId, seed: u64) {
    let dir = world.dir("fsck", "scratch");
    std::fs::create_dir_all(&dir).unwrap();
    let report =
        homefs::fsck(&world.parts(), &world.home, Some(id), Depth::Deep, &dir, &mut |_| ())
            .unwrap();
    assert!(report.lost.items.is_empty() && report.damaged.items.is_empty(), "{report:?}");
    let child = fork(world, Some(id));
    check(&child.snapshot("s"), seed);
    block_on(homefs::delete_home(&child.parts(), &child.home)).unwrap();
}

#[test]
fn what_a_restore_leaves_behind_stays_whole_for_its_snapshot_also_what_rides_in_old_commits() {
    let world = World::new();
    let (home, _) = world.open("a");
    fill(&home, 100);
    home.release().unwrap();
    drop(home);
    let first = snapshot(&world);
    let (home, _) = world.open("a");
    fill(&home, 200);
    many_commits(&world, &home, 150);
    home.release().unwrap();
    drop(home);
    // Its database alone names the commits below its base that content rides in.
    let second = snapshot(&world);
    restore(&world, &first);
    let (home, _) = world.open("b");
    fill(&home, 300);
    many_commits(&world, &home, 150);
    collect(&world, &home);
    many_commits(&world, &home, 150);
    collect(&world, &home);
    check(&home, 300);
    home.release().unwrap();
    drop(home);
    check_state(&world, &second, 200);
    check_state(&world, &first, 100);
    restore(&world, &second);
    check(&world.snapshot("s"), 200);
    let (home, _) = world.open("c");
    for id in [&first, &second] {
        block_on(homefs::delete_snapshot(&world.parts(), &world.home, id)).unwrap();
    }
    many_commits(&world, &home, 150);
    collect(&world, &home);
    check(&home, 200);
    let commits = world.keys("log/").len();
    assert!(commits < 250, "{commits} commits are left");
}

#[test]
fn a_snapshot_a_restore_a_fork_and_a_draft_share_a_collector() {
    let world = World::new();
    let (home, _) = world.open("a");
    fill(&home, 100);
    home.release().unwrap();
    drop(home);
    let first = snapshot(&world);
    let (home, _) = world.open("a");
    fill(&home, 200);
    home.release().unwrap();
    drop(home);
    // A fork and a draft of the second state, which nobody else keeps.
    let child = fork(&world, None);
    let draft = world.draft("d");
    draft.rename(ROOT, b"chunked", ROOT, b"drafted", RenameFlags::Replace).unwrap();
    let ino = draft.lookup(ROOT, b"rides3").unwrap().ino;
    draft.write(ino, 0, b"drafted").unwrap();
    drop(draft);
    restore(&world, &first);
    let (home, _) = world.open("b");
    fill(&home, 300);
    many_commits(&world, &home, 150);
    collect(&world, &home);
    let (forked, _) = child.open("b");
    upload(&forked, "packed", b"of the fork");
    many_commits(&child, &forked, 150);
    collect(&child, &forked);
    upload(&forked, "packed", &noise(300_000, 200));
    check(&forked, 200);
    forked.release().unwrap();
    collect(&world, &home);
    home.release().unwrap();
    drop(home);
    world.clock.pass_minutes(40);
    let scratch = world.dir("s", "scratch");
    for _ in 0..3 {
        block_on(homefs::collect(&world.parts(), &world.home, &scratch)).unwrap();
        block_on(homefs::collect(&child.parts(), &child.home, &scratch)).unwrap();
        world.clock.pass_minutes(40);
    }
    check(&world.snapshot("s"), 300);
    check(&child.snapshot("s"), 200);
    check_state(&world, &first, 100);
    let draft = world.draft("d");
    let mut expected = noise(20_000, 203);
    expected[..7].copy_from_slice(b"drafted");
    assert!(get(&draft, "drafted") == noise(9 << 20, 200));
    assert!(get(&draft, "rides3") == expected);
    drop(draft);
    // Without any of them all of it goes.
    Draft::discard(world.dir("d", "draft"), &world.parts()).unwrap();
    block_on(homefs::delete_snapshot(&world.parts(), &world.home, &first)).unwrap();
    block_on(homefs::delete_home(&child.parts(), &child.home)).unwrap();
    let (home, _) = world.open("e");
    collect(&world, &home);
    check(&home, 300);
    home.release().unwrap();
    // What the restore left behind is swept while the home sleeps.
    for _ in 0..2 {
        world.clock.pass_minutes(40);
        block_on(homefs::collect(&world.parts(), &world.home, &scratch)).unwrap();
    }
    check(&world.snapshot("after"), 300);
    let live = home.statfs().unwrap().bytes_used;
    let stored = world.stored_bytes();
    assert!(stored < live * 3 / 2, "{stored} bytes are stored for {live}");
}

#[test]
fn page_objects_are_kept_by_pins_and_go_with_them() {
    let world = World::new();
    let (home, _) = world.open("a");
    let many = |home: &HomeFs, seed: u64| {
        for n in 0..800 {
            put(home, &format!("f{n}"), &noise(6_000, seed + n));
        }
        home.sync(None).unwrap();
    };
    let check = |fs: &dyn vfs::FileSystem, seed: u64| {
        for n in (0..800).step_by(37) {
            assert!(get(fs, &format!("f{n}")) == noise(6_000, seed + n), "f{n}");
        }
    };
    many(&home, 1_000);
    home.release().unwrap();
    drop(home);
    let id = snapshot(&world);
    let pinned: Vec<_> = world.keys("pages/").into_iter().map(|object| object.key).collect();
    assert!(!pinned.is_empty());
    for turn in 2..5 {
        let (home, _) = world.open("a");
        many(&home, turn * 1_000);
        many_commits(&world, &home, 100);
        collect(&world, &home);
        home.release().unwrap();
    }
    let keys = || -> Vec<_> { world.keys("pages/").into_iter().map(|object| object.key).collect() };
    let kept = keys();
    assert!(pinned.iter().all(|key| kept.contains(key)), "{pinned:?} {kept:?}");
    check(&world.snapshot("s"), 4_000);
    let child = fork(&world, Some(&id));
    check(&child.snapshot("s"), 1_000);
    block_on(homefs::delete_home(&child.parts(), &child.home)).unwrap();
    block_on(homefs::delete_snapshot(&world.parts(), &world.home, &id)).unwrap();
    let (home, _) = world.open("a");
    many_commits(&world, &home, 150);
    collect(&world, &home);
    let left = keys();
    assert!(!pinned.iter().any(|key| left.contains(key)), "{pinned:?} {left:?}");
    check(&home, 4_000);
}

#[test]
fn a_home_that_stands_on_its_newest_base_is_read_and_released() {
    let world = World::new();
    let (home, _) = world.open("a");
    many_commits(&world, &home, 100);
    collect(&world, &home);
    let base = world.keys("base/").pop().unwrap();
    let newest = world.keys("log/").pop().unwrap();
    assert_eq!(base.key.rsplit('/').next(), newest.key.rsplit('/').next(), "nothing came after it");
    // The commit before is gone, and the commit itself was made before there was the base.
    assert_eq!(get(&world.snapshot("s"), "turn"), noise(2_000, 99));
    let id = SnapshotId::generate();
    home.snapshot(&id, None).unwrap();
    world.clock.pass_minutes(20);
    home.collect().unwrap();
    home.release().unwrap();
    assert_eq!(get(&world.snapshot("t"), "turn"), noise(2_000, 99));
    assert_eq!(get(&fork(&world, Some(&id)).snapshot("s"), "turn"), noise(2_000, 99));
}
