//! Reading a home that sleeps.

use std::sync::atomic::Ordering;

use base::ErrorKind;
use vfs::{Errno, FileSystem as _, ROOT};

use crate::support::{World, content, eventually, get, noise, put, upload};

/// A world with a home that sleeps, whose metadata are some megabytes.
fn asleep() -> World {
    let world = World::new();
    let (home, _) = world.open("a");
    for n in 0..400 {
        put(&home, &format!("f{n}"), &noise(10_000, n));
    }
    home.release().unwrap();
    world
}

#[test]
fn a_store_that_is_away_is_said_to_be_and_reading_goes_on_when_it_is_back() {
    let world = asleep();
    let snapshot = world.snapshot("b");
    let ino = snapshot.lookup(ROOT, b"f7").unwrap().ino;
    world.store.down.store(true, Ordering::SeqCst);
    let error = snapshot.read(ino, 0, 100).unwrap_err();
    assert_eq!((error.errno(), error.kind()), (Errno::EIO, ErrorKind::Unavailable), "{error}");
    assert!(snapshot.refresh().is_err());
    world.store.down.store(false, Ordering::SeqCst);
    assert_eq!(snapshot.read(ino, 0, 100).unwrap(), noise(10_000, 7)[..100]);
}

#[test]
fn missing_pages_are_damage_unless_a_newer_state_was_published() {
    let world = asleep();
    let (held, damaged) = (world.snapshot("b"), world.snapshot("c"));
    world.remove("pages/");
    let error = damaged.lookup(ROOT, b"f300").and_then(|f| damaged.read(f.ino, 0, 9)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");

    let draft = world.draft_of_new_state("a");
    draft.publish().unwrap();
    let error = held.lookup(ROOT, b"f300").and_then(|f| held.read(f.ino, 0, 9)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[test]
fn content_that_was_collected_is_told_from_damage() {
    let world = World::new();
    let (home, _) = world.open("a");
    upload(&home, "pack", &noise(300_000, 1));
    upload(&home, "chunk", &noise(5 << 20, 2));
    home.sync(None).unwrap();
    upload(&home, "rider", &noise(30_000, 3));
    home.sync(None).unwrap();
    home.release().unwrap();
    drop(home);
    let held = world.snapshot("b");
    let inos: Vec<_> = ["pack", "chunk", "rider"]
        .map(|name| held.lookup(ROOT, name.as_bytes()).unwrap().ino)
        .into();
    let (home, _) = world.open("a");
    for name in ["pack", "chunk", "rider"] {
        upload(&home, name, b"other");
    }
    for turn in 0..150 {
        put(&home, "turn", &noise(2_000, turn));
        home.sync(None).unwrap();
    }
    for _ in 0..6 {
        home.collect().unwrap();
        world.clock.pass_minutes(16);
    }
    for ino in &inos {
        let error = held.read(*ino, 0, 100).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("no longer kept; read the newest one"), "{error}");
    }
    held.refresh().unwrap();
    assert_eq!(get(&held, "chunk"), b"other");
    // What is missing of the newest state is damage.
    upload(&home, "pack", &noise(300_000, 4));
    home.release().unwrap();
    held.refresh().unwrap();
    world.remove("packs/");
    let damaged = held.lookup(ROOT, b"pack").and_then(|found| held.read(found.ino, 0, 9));
    let error = damaged.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("packs/"), "{error}");
}

#[test]
fn a_snapshot_that_is_read_a_lot_is_copied_and_then_asks_for_nothing() {
    let world = World::new();
    let (home, _) = world.open("a");
    for n in 0..3_000 {
        put(&home, &format!("f{n}"), &noise(9_000, n));
    }
    home.release().unwrap();
    drop(home);
    let snapshot = world.snapshot("b");
    let read = |n: u64| assert_eq!(get(&snapshot, &format!("f{n}")), noise(9_000, n));
    for n in 0..3_000 {
        read(n * 1_013 % 3_000);
    }
    eventually("the metadata are here", || {
        world.store.take_got();
        (0..3_000).step_by(37).for_each(read);
        world.store.take_got().0 == 0
    });
    // The next one finds the copy.
    drop(snapshot);
    let snapshot = world.snapshot("b");
    world.store.take_got();
    assert_eq!(get(&snapshot, "f1234"), noise(9_000, 1_234));
    assert_eq!(world.store.take_got().0, 0);
}

#[test]
fn a_snapshot_fetches_only_what_is_wanted() {
    let world = World::new();
    let (home, _) = world.open("a");
    for n in 0..40 {
        put(&home, &format!("f{n}"), &noise(1 << 20, n));
    }
    put(&home, "large", &noise(40 << 20, 99));
    home.release().unwrap();
    drop(home);
    let snapshot = world.snapshot("b");
    world.store.take_got();
    let ino = snapshot.lookup(ROOT, b"f7").unwrap().ino;
    assert_eq!(snapshot.read(ino, 5_000, 100).unwrap(), noise(1 << 20, 7)[5_000..5_100]);
    let (gets, bytes) = world.store.take_got();
    assert!(gets <= 2 && bytes <= 128 << 10, "{gets} requests, {bytes} bytes");
    let ino = snapshot.lookup(ROOT, b"large").unwrap().ino;
    snapshot.read(ino, 30 << 20, 4_096).unwrap();
    let (gets, bytes) = world.store.take_got();
    assert!(gets <= 2 && bytes <= 128 << 10, "{gets} requests, {bytes} bytes");
    assert_eq!(content(&snapshot, ino), noise(40 << 20, 99));
}

#[test]
fn a_snapshot_shows_one_commit_until_it_is_refreshed() {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "f", b"one");
    home.sync(None).unwrap();
    let snapshot = world.snapshot("b");
    put(&home, "f", b"two");
    upload(&home, "new/file", &noise(20_000, 1));
    home.sync(None).unwrap();
    assert_eq!(get(&snapshot, "f"), b"one");
    assert!(snapshot.refresh().unwrap());
    assert!(!snapshot.refresh().unwrap());
    assert_eq!(get(&snapshot, "f"), b"two");
    assert_eq!(get(&snapshot, "new/file"), noise(20_000, 1));
    assert_eq!(snapshot.unlink(ROOT, b"f").unwrap_err().errno(), Errno::EROFS);
}

#[test]
fn a_refresh_with_nothing_new_costs_a_few_small_requests() {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "f", &noise(15_000, 1));
    home.release().unwrap();
    let snapshot = world.snapshot("b");
    drop(snapshot);
    world.store.take_got();
    let snapshot = world.snapshot("b");
    assert_eq!(get(&snapshot, "f"), noise(15_000, 1));
    let (gets, bytes) = world.store.take_got();
    assert!(gets <= 3 && bytes <= 128 << 10, "{gets} requests, {bytes} bytes");
}

#[test]
fn a_clean_home_on_the_same_host_is_made_use_of() {
    let world = World::new();
    let (home, _) = world.open("a");
    for n in 0..200 {
        put(&home, &format!("f{n}"), &noise(10_000, n));
    }
    put(&home, "packed", &noise(1 << 20, 7));
    home.release().unwrap();
    drop(home);
    world.store.take_got();
    let snapshot = world.snapshot("a");
    assert_eq!(get(&snapshot, "f3"), noise(10_000, 3));
    assert_eq!(get(&snapshot, "packed"), noise(1 << 20, 7));
    let (_, bytes) = world.store.take_got();
    assert!(bytes <= 128 << 10, "{bytes} bytes fetched although all is here");
}
