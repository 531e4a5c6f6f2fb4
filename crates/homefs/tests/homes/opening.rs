//! What is told of a home that is being opened.

use std::path::Path;
use std::sync::Arc;

use homefs::{HomeFs, HomeSettings, Opened, Opening, Parts, Recovery};
use objstore::ObjectStore;
use testkit::{FaultyStore, Injection, Verb};

use crate::support::{World, noise, put};

fn open(world: &World, dir: &Path, parts: Parts) -> (homefs::Result<(HomeFs, Opened)>, u64) {
    let opening = Opening::default();
    let settings = HomeSettings { opening: opening.clone(), ..world.settings(dir) };
    let opened = HomeFs::open_writer(settings, parts);
    (opened, opening.done())
}

/// Files that lie in the database, and do not compress.
fn fill(home: &HomeFs, files: std::ops::Range<u64>) -> u64 {
    for n in files.clone() {
        put(home, &format!("f{n}"), &noise(16 << 10, n));
    }
    (files.end - files.start) * (16 << 10)
}

#[test]
fn a_database_that_is_fetched_is_counted_piece_by_piece() {
    let world = World::new();
    let (home, _) = world.open("a");
    let bytes = fill(&home, 0..1_600);
    home.release().unwrap();
    drop(home);
    let (opened, all) = open(&world, &world.dir("b", "home"), world.parts());
    let (home, opened) = opened.unwrap();
    assert_eq!(opened.recovery, Recovery::FromStore { lost_local: false });
    assert!(all >= bytes, "{all} of {bytes}");
    home.release().unwrap();
    drop(home);
    // The store fails in the middle of it.
    let store: Arc<dyn ObjectStore> = world.store.clone();
    let store = FaultyStore::new(store);
    store.inject(Verb::Get, &format!("homes/{}/", world.home), 22, Injection::Before);
    let parts = Parts { store: Arc::new(store), ..world.parts() };
    let (opened, done) = open(&world, &world.dir("c", "home"), parts);
    opened.unwrap_err();
    assert!(done > 0 && done < all, "{done} of {all}");
}

#[test]
fn a_database_that_is_brought_forward_and_a_journal_are_counted_too() {
    let world = World::new();
    let (home, _) = world.open("a");
    let bytes = fill(&home, 0..100);
    home.release().unwrap();
    drop(home);
    let (home, _) = world.open("b");
    put(&home, "one more", b"x");
    home.release().unwrap();
    drop(home);
    let (opened, done) = open(&world, &world.dir("a", "home"), world.parts());
    let (home, opened) = opened.unwrap();
    assert_eq!(opened.recovery, Recovery::FromStore { lost_local: false });
    assert!(done >= bytes, "{done} of {bytes}");
    // What is here is not fetched again, nor copied.
    fill(&home, 100..110);
    drop(home);
    let (opened, done) = open(&world, &world.dir("a", "home"), world.parts());
    assert_eq!(opened.unwrap().1.recovery, Recovery::LocalContinued);
    assert!(done >= 10 && done < bytes, "{done}");
}
