//! Reading a home that sleeps.

use vfs::{Errno, FileSystem as _, ROOT};

use crate::support::{World, content, get, noise, put, upload};

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
