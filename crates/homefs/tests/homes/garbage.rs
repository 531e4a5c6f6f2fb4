//! What nothing needs any more goes, and nothing else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::SnapshotId;
use homefs::HomeFs;
use vfs::{FileSystem as _, ROOT, SetAttr};

use crate::support::{World, block_on, eventually, get, make, noise, put, try_get, upload};

/// A file of each tier, of content that differs with `turn`.
fn churn(home: &HomeFs, turn: u64) {
    for n in 0..20 {
        put(home, &format!("inline{n}"), &noise(3_000, turn * 100 + n));
        upload(home, &format!("packed{n}"), &noise(150_000, turn * 100 + n));
    }
    upload(home, "chunked", &noise(9 << 20, turn));
    let append = home.lookup(ROOT, b"append").unwrap().ino;
    let at = home.getattr(append).unwrap().size;
    home.write(append, at, &noise(10_000, turn)).unwrap();
    home.sync(None).unwrap();
}

fn check(fs: &dyn vfs::FileSystem, turn: u64) {
    for n in 0..20 {
        assert_eq!(get(fs, &format!("inline{n}")), noise(3_000, turn * 100 + n));
        assert_eq!(get(fs, &format!("packed{n}")), noise(150_000, turn * 100 + n));
    }
    assert_eq!(get(fs, "chunked"), noise(9 << 20, turn));
    let append: Vec<u8> = (0..=turn).flat_map(|turn| noise(10_000, turn)).collect();
    assert_eq!(get(fs, "append"), append);
}

/// Lets all grace pass, and collects what there is.
fn collect(world: &World, home: &HomeFs) {
    for _ in 0..4 {
        home.collect().unwrap();
        world.clock.pass_minutes(16);
    }
    home.collect().unwrap();
}

fn used(home: &HomeFs) -> u64 {
    home.statfs().unwrap().bytes_used
}

#[test]
fn space_after_churn_is_little_more_than_what_lives() {
    let world = World::new();
    let (home, _) = world.open("a");
    make(&home, "append");
    for turn in 0..20 {
        churn(&home, turn);
        world.clock.pass_minutes(2);
    }
    let before = world.stored_bytes();
    assert!(before > 5 * used(&home), "{before}: the churn made garbage");
    collect(&world, &home);
    let (stored, live) = (world.stored_bytes(), used(&home));
    assert!(stored * 4 <= live * 5, "{stored} bytes are stored for {live}");
    check(&home, 19);
    home.release().unwrap();
    drop(home);
    check(&world.snapshot("c"), 19);
    let (home, _) = world.open("b");
    check(&home, 19);
}

#[test]
fn nothing_goes_before_its_grace_is_over() {
    let world = World::new();
    let (home, _) = world.open("a");
    make(&home, "append");
    for turn in 0..3 {
        churn(&home, turn);
    }
    home.collect().unwrap();
    let keys = world.keys("").len();
    world.clock.pass_minutes(14);
    home.collect().unwrap();
    assert!(world.keys("").len() >= keys);
    // A reader that began before still finds all of it.
    let reader = world.snapshot("c");
    world.clock.pass_minutes(14);
    churn(&home, 3);
    home.collect().unwrap();
    check(&reader, 2);
    collect(&world, &home);
    reader.refresh().unwrap();
    check(&reader, 3);
}

#[test]
fn a_snapshot_and_a_fork_keep_what_they_need_until_they_are_gone() {
    let world = World::new();
    let (home, _) = world.open("a");
    make(&home, "append");
    churn(&home, 0);
    home.release().unwrap();
    drop(home);
    let id = SnapshotId::generate();
    block_on(homefs::snapshot(&world.parts(), &world.home, &id, None)).unwrap();
    let child = base::HomeId::generate();
    block_on(homefs::fork(&world.parts(), &world.home, None, &child, &world.server)).unwrap();
    let fork = world.other(child);

    let (home, _) = world.open("a");
    for turn in 1..80 {
        put(&home, "small", &noise(100, turn));
        if turn % 20 == 0 {
            upload(&home, "chunked", &noise(9 << 20, turn));
        }
        home.sync(None).unwrap();
    }
    for n in 0..20 {
        home.unlink(ROOT, format!("packed{n}").as_bytes()).unwrap();
    }
    collect(&world, &home);
    // The fork writes, and collects what it has from its parent as if it were its own.
    let (forked, _) = fork.open("b");
    check(&forked, 0);
    churn(&forked, 1);
    collect(&fork, &forked);
    check(&forked, 1);
    drop(forked);
    home.release().unwrap();
    drop(home);

    let kept = world.stored_bytes();
    block_on(homefs::restore(&world.parts(), &world.home, &id, &world.server)).unwrap();
    let (home, _) = world.open("d");
    check(&home, 0);
    put(&home, "after", b"x");
    collect(&world, &home);
    check(&home, 0);
    block_on(homefs::delete_snapshot(&world.parts(), &world.home, &id)).unwrap();
    block_on(homefs::delete_home(&fork.parts(), &fork.home)).unwrap();
    upload(&home, "chunked", b"small now");
    home.sync(None).unwrap();
    collect(&world, &home);
    assert!(world.stored_bytes() + (9 << 20) < kept);
    assert_eq!(get(&home, "packed3"), noise(150_000, 3));
}

#[test]
fn a_pin_that_cannot_be_read_stops_the_collector() {
    let world = World::new();
    let (home, _) = world.open("a");
    make(&home, "append");
    churn(&home, 0);
    churn(&home, 1);
    let pin = format!("homes/{}/pins/{}", world.home, SnapshotId::generate());
    world.block_on(objstore::ObjectStore::put(&*world.store, &pin, "{".into())).unwrap();
    world.clock.pass_minutes(20);
    let before = world.stored_bytes();
    home.collect().unwrap_err();
    assert!(world.stored_bytes() >= before);
    world.block_on(objstore::ObjectStore::delete(&*world.store, &pin)).unwrap();
    collect(&world, &home);
    assert!(world.stored_bytes() < before);
    check(&home, 1);
}

#[test]
fn a_writer_that_slept_through_it_all_is_fenced_by_what_is_never_deleted() {
    let world = World::new();
    let (zombie, _) = world.open("a");
    put(&zombie, "mine", b"x");
    zombie.sync(None).unwrap();
    put(&zombie, "mine", b"never confirmed");
    let (home, _) = world.open("b");
    for turn in 0..150 {
        put(&home, "f", &noise(2_000, turn));
        home.sync(None).unwrap();
    }
    eventually("there is a base", || !world.keys("base/").is_empty());
    collect(&world, &home);
    put(&home, "f", b"more");
    home.sync(None).unwrap();
    collect(&world, &home);
    let left = world.keys("log/").len();
    assert!(left < 100, "{left} commits are left of 150");
    zombie.sync(None).unwrap_err();
    assert!(zombie.status().fenced);
    assert_eq!(&get(&world.snapshot("c"), "f")[..4], b"more");
}

#[test]
fn data_in_old_commits_is_moved_so_that_they_can_go() {
    let world = World::new();
    let (home, _) = world.open("a");
    for n in 0..150 {
        upload(&home, &format!("f{n}"), &noise(20_000, n));
        home.sync(None).unwrap();
    }
    eventually("there is a base", || !world.keys("base/").is_empty());
    collect(&world, &home);
    let left = world.keys("log/").len();
    assert!(left < 100, "{left} commits are left of 150");
    drop(home);
    let (home, _) = world.open("b");
    for n in 0..150 {
        assert_eq!(get(&home, &format!("f{n}")), noise(20_000, n));
    }
}

#[test]
fn what_a_crash_left_in_the_store_is_swept() {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "f", b"x");
    home.sync(None).unwrap();
    // Stored, and the commit that would have named it never came.
    upload(&home, "lost", &noise(9 << 20, 1));
    world.store.refuse_logs.store(true, Ordering::SeqCst);
    let home = std::sync::Arc::new(home);
    let waiting = {
        let home = home.clone();
        std::thread::spawn(move || home.sync(None))
    };
    eventually("chunks were stored", || world.keys("chunks/").len() == 3);
    home.stop();
    waiting.join().unwrap().unwrap_err();
    drop(home);
    world.store.refuse_logs.store(false, Ordering::SeqCst);
    let (home, _) = world.open("b");
    assert_eq!(try_get(&home, "lost"), None);
    upload(&home, "kept", &noise(9 << 20, 2));
    home.sync(None).unwrap();
    home.collect().unwrap();
    assert_eq!(world.keys("chunks/").len(), 3);
    assert_eq!(get(&home, "kept"), noise(9 << 20, 2));
    assert_eq!(get(&home, "f"), b"x");
}

#[test]
fn what_is_replaced_while_it_is_being_stored_goes_too() {
    let world = World::new();
    let (home, _) = world.open("a");
    let other = put(&home, "other", b"x");
    world.store.chunk_millis.store(30, Ordering::SeqCst);
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut content = noise((4 << 20) + 500_000, 1);
            for n in 0_u64.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                // Two chunks, both new each time.
                for at in [0, 4 << 20] {
                    content[at..at + 8].copy_from_slice(&n.to_le_bytes());
                }
                upload(&home, "chunked", &content);
                begun.store(true, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // On a busy host all would be synced before there is anything to replace.
        while !begun.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let synced = (0..30_u64).try_for_each(|n| {
            home.write(other, 0, &n.to_le_bytes())?;
            home.sync(Some(other))
        });
        done.store(true, Ordering::Relaxed);
        synced.unwrap();
    });
    home.sync(None).unwrap();
    let before = world.stored_bytes();
    collect(&world, &home);
    assert_eq!(world.keys("chunks/").len(), 2, "of what is there now, and no other");
    let (stored, live) = (world.stored_bytes(), used(&home));
    assert!(stored * 4 <= live * 5, "{stored} bytes are stored for {live}; {before} before");
}

#[test]
fn a_sleeping_home_is_collected_without_being_taken() {
    let world = World::new();
    let (home, _) = world.open("a");
    make(&home, "append");
    for turn in 0..10 {
        churn(&home, turn);
    }
    let released = home.release().unwrap();
    let live = used(&home);
    drop(home);
    let scratch = world.dir("s", "scratch");
    let collect =
        || world.block_on(homefs::collect(&world.parts(), &world.home, &scratch)).unwrap();
    let early = collect();
    assert!(early.objects == 0 && early.again_after.is_some());
    world.clock.pass_minutes(31);
    let collected = collect();
    assert!(collected.objects > 20 && collected.bytes > 8 * live, "{collected:?}");
    assert!(world.stored_bytes() < 2 * live);
    check(&world.snapshot("c"), 9);
    let (home, opened) = world.open("b");
    assert_eq!(opened.seq, released.seq + 1);
    check(&home, 9);
    // The graves that were emptied are let go of.
    churn(&home, 10);
    crate::garbage::collect(&world, &home);
    check(&home, 10);
}

#[test]
fn local_files_of_what_died_go_while_the_home_is_open() {
    let world = World::new();
    let (home, _) = world.open("a");
    let dir = world.dir("a", "home");
    let files = || {
        let packs = std::fs::read_dir(dir.join("packs")).unwrap().count();
        let chunks = std::fs::read_dir(dir.join("chunks")).unwrap();
        packs
            + chunks
                .map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap().count())
                .sum::<usize>()
    };
    upload(&home, "kept", &noise(9 << 20, 1));
    upload(&home, "gone", &noise(9 << 20, 2));
    upload(&home, "also gone", &noise(500_000, 3));
    home.sync(None).unwrap();
    assert_eq!(files(), 7);
    home.unlink(ROOT, b"gone").unwrap();
    home.unlink(ROOT, b"also gone").unwrap();
    home.sync(None).unwrap();
    // They were written long ago.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(1_000);
    for entry in std::fs::read_dir(dir.join("packs")).unwrap() {
        std::fs::File::open(entry.unwrap().path()).unwrap().set_modified(old).unwrap();
    }
    for folder in std::fs::read_dir(dir.join("chunks")).unwrap() {
        for entry in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            std::fs::File::open(entry.unwrap().path()).unwrap().set_modified(old).unwrap();
        }
    }
    home.release().unwrap();
    assert_eq!(files(), 3);
    assert_eq!(get(&home, "kept"), noise(9 << 20, 1));
}

#[test]
fn a_cut_off_file_does_not_keep_all_that_it_was() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = upload(&home, "f", &noise(12 << 20, 1));
    home.sync(None).unwrap();
    home.setattr(ino, &SetAttr { size: Some(100), ..SetAttr::default() }).unwrap();
    home.sync(None).unwrap();
    collect(&world, &home);
    assert!(world.stored_bytes() < 1 << 20, "{}", world.stored_bytes());
    assert_eq!(get(&home, "f"), noise(12 << 20, 1)[..100]);
}
