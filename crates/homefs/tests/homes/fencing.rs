//! One writer at a time.

use base::{ErrorKind, HomeId, ServerId, SnapshotId};
use std::sync::Arc;

use homefs::{HomeFs, HomeSettings, Parts, Recovery, TakeOver};
use objstore::ObjectStore;
use testkit::{FaultyStore, Injection, Verb};
use vfs::{Errno, FileSystem as _, Kind, ROOT};

use crate::support::{ROOT_USER, World, eventually, get, noise, put, try_get, upload};

#[test]
fn a_fenced_writer_cannot_sync() {
    let world = World::new();
    let (old, _) = world.open("a");
    let ino = put(&old, "f", b"first");
    old.sync(None).unwrap();
    put(&old, "f", b"FIRST");
    // Same server, another directory: it may take its own home again.
    let (new, _) = world.open("b");
    assert_eq!(get(&new, "f"), b"first");
    let error = old.sync(Some(ino)).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Fenced, Errno::EIO));
    assert_eq!(old.write(ino, 0, b"x").unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(old.sync_local().unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(old.release().unwrap_err().kind(), ErrorKind::Fenced);
    assert!(old.status().fenced);
    assert_eq!(get(&old, "f"), b"FIRST", "reads go on");
    put(&new, "f", b"newer");
    new.sync(None).unwrap();
    new.release().unwrap();
}

#[test]
fn a_fenced_writer_finds_out_by_itself() {
    let mut world = World::new();
    world.replicate_after = std::time::Duration::from_millis(20);
    let (old, _) = world.open("a");
    let (_new, _) = world.open("b");
    // It may know already: what opening changed is on its way to the store too.
    old.mknod(ROOT, b"f", Kind::File, 0o644, ROOT_USER, 0).ok();
    eventually("it is fenced", || old.status().fenced);
}

#[test]
fn another_server_needs_to_be_told_that_the_first_is_lost() {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "f", b"kept");
    home.sync(None).unwrap();
    drop(home);
    let other =
        HomeSettings { holder: ServerId::generate(), ..world.settings(&world.dir("b", "home")) };
    let error = HomeFs::open_writer(other.clone(), world.parts()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let take_over = HomeSettings { take_over: TakeOver::Whoever, ..other };
    let (home, _) = HomeFs::open_writer(take_over, world.parts()).unwrap();
    assert_eq!(get(&home, "f"), b"kept");
}

#[test]
fn a_right_to_take_over_does_not_outlive_a_claim_whose_home_was_never_opened() {
    let world = World::new();
    let (home, opened) = world.open("a");
    put(&home, "f", b"kept");
    home.sync(None).unwrap();
    let other = HomeSettings {
        holder: ServerId::generate(),
        take_over: TakeOver::From(opened.epoch),
        ..world.settings(&world.dir("b", "home"))
    };
    // It claims the home; the store is away before the database is fetched.
    let store: Arc<dyn ObjectStore> = world.store.clone();
    let store = FaultyStore::new(store);
    let log = format!("homes/{}/log/", world.home);
    store.inject(Verb::Create, &log, 1, Injection::KillAfter);
    let parts = Parts { store: Arc::new(store), ..world.parts() };
    HomeFs::open_writer(other.clone(), parts).unwrap_err();
    let head = world.block_on(homefs::head(&world.parts(), &world.home)).unwrap().unwrap();
    assert_eq!((&head.holder, head.epoch), (&other.holder, opened.epoch.next()));
    drop(home);
    // The first is told to take it back, and works.
    let back = HomeSettings {
        take_over: TakeOver::From(head.epoch),
        ..world.settings(&world.dir("a", "home"))
    };
    let (home, _) = HomeFs::open_writer(back, world.parts()).unwrap();
    put(&home, "g", b"newer");
    home.sync(None).unwrap();
    let error = HomeFs::open_writer(other, world.parts()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    put(&home, "h", b"newest");
    home.sync(None).unwrap();
}

#[test]
fn overtaken_local_changes_are_parked_and_not_deleted() {
    let world = World::new();
    let (old, opened) = world.open("a");
    put(&old, "mine", b"never replicated");
    old.sync_local().unwrap();
    drop(old);
    let (new, _) = world.open("b");
    put(&new, "theirs", b"replicated");
    new.release().unwrap();
    drop(new);
    let (home, reopened) = world.open("a");
    assert_eq!(reopened.recovery, Recovery::FromStore { lost_local: true });
    assert_eq!(get(&home, "theirs"), b"replicated");
    assert_eq!(try_get(&home, "mine"), None);
    let parked = world.dir("a", &format!("home.parked-{}", opened.epoch));
    assert!(parked.join("home.db").exists());
}

#[test]
fn what_is_left_of_a_directory_without_its_database_is_parked() {
    let world = World::new();
    let (old, opened) = world.open("a");
    put(&old, "mine", b"never replicated");
    old.sync_local().unwrap();
    drop(old);
    for file in ["home.db", "home.db-wal", "home.db-shm"] {
        std::fs::remove_file(world.dir("a", "home").join(file)).unwrap();
    }
    let (home, reopened) = world.open("a");
    assert_eq!(reopened.recovery, Recovery::FromStore { lost_local: true });
    assert_eq!(try_get(&home, "mine"), None);
    let parked = world.dir("a", &format!("home.parked-{}", opened.epoch));
    assert!(parked.join("journal").exists());
}

#[test]
fn a_directory_is_open_once() {
    let world = World::new();
    let (_home, _) = world.open("a");
    assert_eq!(world.try_open("a").unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn a_home_that_does_not_exist_is_not_found() {
    let mut world = World::new();
    world.home = base::HomeId::generate();
    assert_eq!(world.try_open("a").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_writer_that_was_overtaken_keeps_no_state_of_long_ago() {
    let world = World::new();
    let (old, _) = world.open("a");
    upload(&old, "f", &noise(300_000, 1));
    old.sync(None).unwrap();
    let (new, _) = world.open("b");
    upload(&new, "f", &noise(300_000, 2));
    new.sync(None).unwrap();
    world.clock.pass_minutes(16);
    new.collect().unwrap();
    // It has nothing to store, so it has not found out.
    old.sync(None).unwrap();
    let error = old.snapshot(&SnapshotId::generate(), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let error = old.hold_fork(&HomeId::generate()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert!(world.keys("pins/").is_empty());
    let id = SnapshotId::generate();
    new.snapshot(&id, None).unwrap();
    new.snapshot(&id, None).unwrap();
    assert_eq!(world.keys("pins/").len(), 1);
}
