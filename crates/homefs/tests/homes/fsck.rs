//! A check of a home finds what is wrong with it, and says whether anything is lost.

use base::{ErrorKind, HomeId, SnapshotId};
use homefs::{Depth, Report};
use objstore::ObjectStore as _;
use vfs::{FileSystem as _, ROOT};

use crate::support::{World, block_on, make, mkdir, noise, put, upload};

/// A sleeping home with something of every tier, and a link.
fn asleep() -> World {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "small", b"first");
    upload(&home, "dir/packed", &noise(2_900_000, 1));
    let ino = upload(&home, "dir/chunked", &noise(9 << 20, 2));
    home.link(ino, ROOT, b"linked").unwrap();
    let dir = mkdir(&home, ROOT, "sub");
    mkdir(&home, dir, "deeper");
    upload(&home, "riding", &noise(100_000, 3));
    home.sync(None).unwrap();
    upload(&home, "second", &noise(50_000, 4));
    home.release().unwrap();
    world
}

fn check_at(world: &World, at: Option<&SnapshotId>, depth: Depth) -> Report {
    let scratch = world.dir("fsck", "scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let mut words = 0;
    let report =
        homefs::fsck(&world.parts(), &world.home, at, depth, &scratch, &mut |_| words += 1);
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "nothing stays behind");
    let report = report.unwrap();
    assert!(words > 2 || report.lost.total > 0);
    report
}

fn check(world: &World, depth: Depth) -> Report {
    check_at(world, None, depth)
}

fn is_clean(report: &Report) {
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!((report.leaked.objects, report.moved), (0, false), "{report:#?}");
}

fn remove(world: &World, key: &str) {
    block_on(world.store.delete(key)).unwrap();
}

/// The key of the largest object below a prefix.
fn largest(world: &World, prefix: &str) -> String {
    let found = world.keys(prefix).into_iter().max_by_key(|object| object.size);
    found.unwrap_or_else(|| panic!("nothing below {prefix}")).key
}

#[test]
fn a_sound_home_is_found_sound_and_nothing_is_changed() {
    let world = asleep();
    world.store.take_stored();
    is_clean(&check(&world, Depth::Quick));
    let deep = check(&world, Depth::Deep);
    is_clean(&deep);
    assert!(deep.checked.bytes_read >= 10 << 20, "{deep:?}");
    assert!(deep.checked.inodes >= 8 && deep.checked.objects >= 4 && deep.checked.pages > 5);
    assert_eq!(world.store.take_stored(), 0);
}

#[test]
fn a_missing_pack_or_chunk_is_lost_content_with_its_paths() {
    for (prefix, paths) in
        [("packs/", &["/dir/packed"][..]), ("chunks/", &["/dir/chunked", "/linked"])]
    {
        let world = asleep();
        let key = largest(&world, prefix);
        remove(&world, &key);
        let report = check(&world, Depth::Quick);
        assert_eq!((report.lost.total, report.damaged.total), (1, 0), "{report:#?}");
        let lost = &report.lost.items[0];
        assert_eq!(lost.subject, key);
        assert!(lost.what.contains("missing"));
        assert!(lost.paths.iter().any(|path| paths.contains(&path.as_str())), "{lost:?}");
    }
}

#[test]
fn a_flipped_byte_is_found_in_depth() {
    let world = asleep();
    let key = largest(&world, "chunks/");
    let mut body = block_on(world.store.get(&key, None)).unwrap().to_vec();
    let middle = body.len() / 2;
    body[middle] ^= 1;
    block_on(world.store.put(&key, body.into())).unwrap();
    is_clean(&check(&world, Depth::Quick));
    let report = check(&world, Depth::Deep);
    assert_eq!(report.lost.items[0].subject, key, "{report:#?}");
}

#[test]
fn an_object_that_is_cut_off_is_found() {
    let world = asleep();
    let key = largest(&world, "packs/");
    let body = block_on(world.store.get(&key, Some(0..10))).unwrap();
    block_on(world.store.put(&key, body)).unwrap();
    assert_eq!(check(&world, Depth::Quick).lost.items[0].subject, key);
}

#[test]
fn a_missing_commit_is_the_loss_of_the_state() {
    let world = asleep();
    let newest = world.keys("log/").pop().unwrap();
    let mut body = block_on(world.store.get(&newest.key, None)).unwrap().to_vec();
    body[60] ^= 1;
    block_on(world.store.put(&newest.key, body.into())).unwrap();
    let report = check(&world, Depth::Quick);
    assert_eq!(report.lost.items[0].subject, newest.key, "{report:#?}");
    assert_eq!(report.lost.items[0].paths, ["/"]);
}

#[test]
fn what_nothing_names_is_told_and_is_no_damage() {
    let world = asleep();
    let prefix = format!("homes/{}", world.home);
    let digest = "ab".repeat(32);
    for key in [format!("{prefix}/packs/1-99"), format!("{prefix}/chunks/ab/{digest}-2")] {
        block_on(world.store.put(&key, "stray".into())).unwrap();
    }
    let report = check(&world, Depth::Quick);
    assert!(report.is_clean());
    assert_eq!((report.leaked.objects, report.leaked.bytes), (2, 10));
}

#[test]
fn snapshots_forks_and_restored_homes_can_be_checked() {
    let world = asleep();
    let (id, parts) = (SnapshotId::generate(), world.parts());
    block_on(homefs::snapshot(&parts, &world.home, &id, Some("s"))).unwrap();
    let child = HomeId::generate();
    block_on(homefs::fork(&parts, &world.home, Some(&id), &child, &world.server)).unwrap();
    let child = world.other(child);
    let (home, _) = child.open("c");
    upload(&home, "own", &noise(6 << 20, 9));
    home.release().unwrap();
    let (home, _) = world.open("a");
    home.unlink(ROOT, b"riding").unwrap();
    home.release().unwrap();
    for depth in [Depth::Quick, Depth::Deep] {
        is_clean(&check(&child, depth));
        assert!(check_at(&world, Some(&id), depth).is_clean());
        assert!(check(&world, depth).is_clean());
    }
    block_on(homefs::restore(&parts, &world.home, &id, &world.server)).unwrap();
    let report = check(&world, Depth::Deep);
    assert!(report.is_clean() && report.checked.pins == 2, "{report:#?}");
    // What the child has from its parent is checked where it lies.
    let key = largest(&world, "chunks/");
    remove(&world, &key);
    for report in [check(&child, Depth::Quick), check_at(&world, Some(&id), Depth::Quick)] {
        assert_eq!(report.lost.items[0].subject, key);
    }
    // A fork that its parent knows nothing of.
    remove(&world, &format!("homes/{}/pins/{}", world.home, child.home));
    assert!(check(&child, Depth::Quick).damaged.items[0].subject.contains("/pins/"));
}

#[test]
fn a_home_in_use_is_checked_as_it_is_published() {
    let world = asleep();
    let (home, _) = world.open("a");
    let ino = make(&home, "open");
    home.write(ino, 0, &noise(70_000, 5)).unwrap();
    is_clean(&check(&world, Depth::Deep));
    home.sync(Some(ino)).unwrap();
    home.pin(ino);
    home.unlink(ROOT, b"open").unwrap();
    let other = make(&home, "other");
    home.write(other, 0, &noise(90_000, 6)).unwrap();
    home.sync(Some(other)).unwrap();
    home.write(other, 10, b"not sealed yet").unwrap();
    let more = make(&home, "more");
    home.sync(Some(more)).unwrap();
    is_clean(&check(&world, Depth::Deep));
}

#[test]
fn what_is_not_there_cannot_be_checked() {
    let world = asleep();
    let nobody = world.other(HomeId::generate());
    let scratch = world.dir("fsck", "scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let parts = world.parts();
    let check = |home: &HomeId, at| {
        homefs::fsck(&parts, home, at, Depth::Quick, &scratch, &mut |_| {}).unwrap_err().kind()
    };
    assert_eq!(check(&nobody.home, None), ErrorKind::NotFound);
    assert_eq!(check(&world.home, Some(&SnapshotId::generate())), ErrorKind::NotFound);
}
