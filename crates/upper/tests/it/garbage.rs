//! What nobody needs goes, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::{Digest, MachineId, SnapshotId};
use objstore::ObjectStore;
use testkit::{Attendant, AttendedStore, Verb};
use upper::{Collected, Deleted, Generation, Hold, Holder, Kept, Saved, Standing, Upper};

use crate::support::{CHUNK, Host, World, noise};

async fn stored(world: &World, host: &Host, at: u64, seed: u64) -> Generation {
    host.run(world, at, &noise(seed, 4096)).await;
    host.save_all(world).await.0
}

#[tokio::test]
async fn what_a_newer_generation_does_not_name_goes_after_it() {
    let world = World::new();
    let host = world.host();
    stored(&world, &host, 0, 1).await;
    stored(&world, &host, CHUNK, 2).await;
    let second = stored(&world, &host, 0, 3).await;
    let third = stored(&world, &host, 0, 4).await;
    assert_eq!(world.chunks().await.len(), 4);
    // The third is too young: what it names stays, and what the second names.
    let gone = host.upper.collect(second).await.unwrap();
    assert_eq!((gone.objects, world.chunks().await.len()), (1 + 5, 3));
    let gone = host.upper.collect(third).await.unwrap();
    assert_eq!(world.chunks().await.len(), 2);
    assert!(gone.bytes > 0);
    assert_eq!(world.generations().await, [third.to_string()]);
    assert_eq!(host.upper.collect(third).await.unwrap(), Collected::default());
    assert_eq!(host.upper.collect(second).await.unwrap(), Collected::default());
    let other = world.host();
    other.begin(world.claim()).await.unwrap();
    assert_eq!(other.digest(), host.digest());
}

#[tokio::test]
async fn what_is_collected_later_is_what_was_garbage_when_that_was_put_off() {
    let world = World::new();
    let host = world.host();
    stored(&world, &host, 0, 1).await;
    let seen = stored(&world, &host, 0, 2).await;
    // The server is started again, and looks; the machine runs and sleeps before the grace is over.
    let standing = Upper::standing(&host.files);
    assert_eq!(standing, Standing::Stored { uncollected: Some(seen) });
    stored(&world, &host, 0, 3).await;
    // Somebody may be reading what was the newest until just now.
    host.upper.collect(seen).await.unwrap();
    assert_eq!(world.chunks().await.len(), 2);
    assert!(world.generations().await.contains(&seen.to_string()));
}

#[tokio::test]
async fn an_uploader_that_was_overtaken_deletes_nothing_that_is_needed() {
    let world = World::new();
    let (slow, next) = (world.host(), world.host());
    stored(&world, &slow, 0, 1).await;
    let late = stored(&world, &slow, 0, 2).await;
    // Another host goes on with it; it takes chunks over from what the late one named, and makes more.
    stored(&world, &next, CHUNK, 3).await;
    next.run(&world, 2 * CHUNK, b"under way").await;
    slow.upper.collect(late).await.unwrap();
    assert!(matches!(next.save(&world).await.unwrap(), Saved::Stored { .. }));
    slow.upper.collect(late).await.unwrap();
    let other = world.host();
    other.begin(world.claim()).await.unwrap();
    assert_eq!(other.digest(), next.digest());
}

#[tokio::test]
async fn what_a_broken_off_upload_left_goes_too() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run(&world, 0, b"never named").await;
    one.store.inject(testkit::Verb::Create, "uppers/", 1, testkit::Injection::Before);
    one.save(&world).await.unwrap_err();
    assert_eq!(world.chunks().await.len(), 1);
    tokio::time::pause();
    let newer = stored(&world, &two, 0, 9).await;
    tokio::time::resume();
    two.upper.collect(newer).await.unwrap();
    assert_eq!(world.chunks().await.len(), 1);
    let other = world.host();
    other.begin(world.claim()).await.unwrap();
    assert_eq!(other.digest(), two.digest());
}

#[tokio::test]
async fn a_store_that_fails_while_it_is_asked_loses_nothing() {
    let world = World::new();
    let host = world.host();
    stored(&world, &host, 0, 1).await;
    let newest = stored(&world, &host, 0, 2).await;
    let before = world.keys().await;
    for verb in [testkit::Verb::List, testkit::Verb::Get] {
        std::fs::remove_file(&host.files.manifest).ok();
        host.store.inject(verb, "uppers/", 1, testkit::Injection::Before);
        host.upper.collect(newest).await.unwrap_err();
        assert_eq!(world.keys().await, before);
    }
}

#[tokio::test]
async fn a_deletion_leaves_nothing_of_the_machine_and_all_of_others() {
    let world = World::new();
    let host = world.host();
    let newest = stored(&world, &host, 0, 1).await;
    let others = format!("uppers/{}/chunks/{}-2", MachineId::generate(), Digest::of(b"x"));
    world.memory.put(&others, "x".into()).await.unwrap();
    let store: Arc<dyn ObjectStore> = world.memory.clone();
    assert_eq!(upper::delete(&store, &world.machine).await.unwrap().collected.objects, 3);
    assert_eq!(upper::delete(&store, &world.machine).await.unwrap(), Deleted::default());
    assert_eq!(world.keys().await, [others]);
    // What was put off before comes to its turn all the same.
    std::fs::remove_dir_all(host.dir.path()).unwrap();
    assert_eq!(host.upper.collect(newest).await.unwrap(), Collected::default());
    host.upper.note_collected(newest).await.unwrap();
}

/// Counts how many manifests are read at once.
#[derive(Debug, Default)]
struct Readers {
    now: AtomicUsize,
    most: AtomicUsize,
}

fn reads_manifest(verb: Verb, key: &str) -> bool {
    verb == Verb::Get && (key.contains("/log/") || key.ends_with("-memory"))
}

#[async_trait::async_trait]
impl Attendant for Readers {
    async fn before(&self, _store: &dyn ObjectStore, verb: Verb, key: &str) {
        if reads_manifest(verb, key) {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn after(&self, verb: Verb, key: &str) {
        if reads_manifest(verb, key) {
            self.now.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test]
async fn manifests_of_what_is_kept_are_read_one_after_the_other() {
    let world = World::new();
    let host = world.host();
    for seed in 1..=4 {
        host.run_with_memory(&world, seed).await;
        let holder = Holder::Snapshot(SnapshotId::generate());
        let held = host.upper.hold(&holder, world.epoch(), true).await.unwrap();
        assert_eq!(held, Hold::Kept(Kept { memory: Ok(()) }));
    }
    let newest = stored(&world, &host, 0, 9).await;
    let before = (world.chunks().await, crate::memory::packs(&world).await);
    let store = Arc::new(AttendedStore::new(world.store(), Readers::default()));
    let upper = Upper::new(store.clone(), &world.machine, host.files.clone());
    upper.collect(newest).await.unwrap();
    assert_eq!(store.attendant.most.load(Ordering::SeqCst), 1);
    assert_eq!((world.chunks().await, crate::memory::packs(&world).await), before);
}
