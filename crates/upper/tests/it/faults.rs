//! A store that fails, lies, or goes away.

use std::time::Duration;

use base::{Epoch, ErrorKind};
use objstore::ObjectStore as _;
use testkit::{FaultRates, Injection, Verb};
use tokio_util::sync::CancellationToken;
use upper::{Begin, Found, Saved, Standing, Upper};

use crate::support::{DISK, World, fetched, until};

#[tokio::test]
async fn an_upload_that_fails_goes_on_where_it_ended() {
    let world = World::new();
    let host = world.host_with_chunks(12).await;
    let before = host.meter.counts();
    let mut failures = 0;
    for _ in 0..40 {
        host.store.inject(Verb::Put, "uppers/", 3, Injection::Before);
        match host.save(&world).await {
            Ok(saved) => {
                assert!(matches!(saved, Saved::Stored { .. }));
                break;
            }
            Err(error) => {
                failures += 1;
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert_eq!(Upper::standing(&host.files), Standing::Behind);
            }
        }
    }
    assert!(failures > 1);
    let puts = host.meter.counts().since(&before).put;
    assert!(puts.requests - puts.errors <= 12 + failures, "{puts:?}: some were stored again");
    let other = world.host();
    other.begin(world.claim()).await.unwrap();
    assert_eq!(other.digest(), host.digest());
}

#[tokio::test]
async fn what_was_uploaded_is_known_whatever_comes_after_it() {
    let world = World::new();
    let host = world.host_with_chunks(9).await;
    let puts = || host.meter.counts().put.requests;
    // The name cannot be made.
    host.store.inject(Verb::Create, "uppers/", 1, Injection::Before);
    host.save(&world).await.unwrap_err();
    let before = puts();
    assert_eq!(host.save_all(&world).await.1, 0);
    assert_eq!(puts(), before);
    // The name is made, and this host's disk takes no note of anything.
    host.run_through(&world, 9).await;
    let in_its_way = host.files.state.with_extension("json.tmp");
    std::fs::create_dir(&in_its_way).unwrap();
    let before = puts();
    for _ in 0..3 {
        assert_eq!(host.save(&world).await.unwrap_err().kind(), ErrorKind::Internal);
        assert_eq!(puts(), before + 9);
    }
    std::fs::remove_dir(&in_its_way).unwrap();
    assert_eq!(host.save_all(&world).await.1, 0);
    assert_eq!(puts(), before + 9);
    let other = world.host();
    other.begin(world.claim()).await.unwrap();
    assert_eq!(other.digest(), host.digest());
}

#[tokio::test]
async fn what_a_collection_notes_meanwhile_is_not_undone_by_an_upload() {
    let world = World::new();
    let host = world.host_with_chunks(2).await;
    let (generation, _) = host.save_all(&world).await;
    // The next run writes what is there already.
    let same = host.read(0, 64);
    host.run(&world, 0, &same).await;
    let before = host.store.calls();
    host.slow_down(Duration::from_secs(1));
    let (saved, ()) = tokio::join!(host.save(&world), async {
        // It has read the note once it talks to the store.
        until(|| host.store.calls() > before).await;
        host.upper.note_collected(generation).await.unwrap();
    });
    assert_eq!(saved.unwrap(), Saved::Nothing);
    assert_eq!(Upper::standing(&host.files), Standing::Stored { uncollected: None });
}

#[tokio::test]
async fn an_upload_that_is_told_to_stop_names_nothing_and_is_taken_up() {
    let world = World::new();
    let host = world.host_with_chunks(12).await;
    host.slow_down(Duration::from_millis(60));
    let stop = CancellationToken::new();
    let (saved, ()) = tokio::join!(host.upper.save(&world.root, &stop), async {
        until(|| host.meter.counts().put.requests >= 5).await;
        stop.cancel();
    });
    assert_eq!(saved.unwrap(), Saved::Stopped);
    assert_eq!(world.generations().await, ["00000000000000000002-changed"]);
    host.store.set_rates(FaultRates::default());
    // The machine woke and slept again; nothing that was stored is stored twice.
    let stored = world.keys().await.len();
    assert_eq!(host.run_with(&world, |_| ()).await.found, Found::Here);
    let (_, chunks) = host.save_all(&world).await;
    assert!(chunks as usize <= 12 - (stored - 1), "{chunks} of 12, {stored} were there");
    let other = world.host();
    assert_eq!(other.begin(world.claim()).await.unwrap().found, fetched(&world));
    assert_eq!(other.digest(), host.digest());
}

#[tokio::test]
async fn lost_replies_of_the_store_are_settled() {
    let world = World::new();
    let host = world.host_with_chunks(3).await;
    host.store.inject(Verb::Create, "uppers/", 1, Injection::After);
    host.save(&world).await.unwrap_err();
    // It is there, and is found to be ours.
    assert!(matches!(host.save(&world).await.unwrap(), Saved::Stored { .. }));
    let other = world.host();
    other.store.inject(Verb::Create, "uppers/", 1, Injection::After);
    let epoch = world.claim();
    other.begin(epoch).await.unwrap_err();
    assert_eq!(other.begin(epoch).await.unwrap().found, fetched(&world));
    assert_eq!(other.digest(), host.digest());
}

#[tokio::test]
async fn a_disk_that_is_written_to_meanwhile_is_not_named() {
    let world = World::new();
    let host = world.host_with_chunks(6).await;
    host.slow_down(Duration::from_millis(80));
    let (saved, ()) = tokio::join!(host.save(&world), async {
        until(|| host.meter.counts().put.requests >= 3).await;
        host.write(0, b"somebody wakes");
    });
    assert!(matches!(saved, Err(upper::Error::Changed)));
    assert_eq!(world.generations().await, ["00000000000000000002-changed"]);
    // Nor one that looks other than it was left.
    assert!(matches!(host.save(&world).await, Err(upper::Error::Changed)));
}

#[tokio::test]
async fn damage_in_the_store_fails_the_wake_and_leaves_everything_as_it_was() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    two.run_and_save(&world, 0, b"older, here").await;
    one.run_and_save(&world, 0, b"newer, there").await;
    let mut chunks = world.chunks().await;
    chunks.retain(|key| key.ends_with("-3"));
    assert_eq!(chunks.len(), 1);
    let good = world.memory.get(&chunks[0], None).await.unwrap();
    let older = two.digest();
    // What its content is shows when it comes: `lazy::a_damaged_chunk_is_an_error_for_who_wants_it_and_for_nothing_else`.
    let longer = [&good[..], b"x"].concat();
    for bad in [longer, good[..good.len() - 1].to_vec(), Vec::new()] {
        world.memory.put(&chunks[0], bad.into()).await.unwrap();
        let error = two.begin(world.claim()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(two.digest(), older);
        assert!(!two.files.fetched.exists());
    }
    world.memory.delete(&chunks[0]).await.unwrap();
    let error = two.begin(world.claim()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("chunks/"), "{error}");
    assert_eq!(two.digest(), older);
    world.memory.put(&chunks[0], good).await.unwrap();
    assert_eq!(two.begin(world.claim()).await.unwrap().found, fetched(&world));
    assert!(two.has(0, b"newer, there"));
}

#[tokio::test]
async fn a_disk_that_is_longer_than_the_machine_may_have_is_refused_before_anything_is_written() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_and_save(&world, 0, b"kept").await;
    let begin = Begin { disk_bytes_max: DISK - 1, ..world.wake(false) };
    let refused = two.begin_with(
        begin,
        |_| unreachable!("nothing is asked about it"),
        |_| unreachable!("nor written down"),
    );
    let error = refused.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let told = error.to_string();
    assert!(told.contains(&DISK.to_string()) && told.contains(&(DISK - 1).to_string()), "{told}");
    assert_eq!(std::fs::read_dir(two.dir.path()).unwrap().count(), 0);
    assert_eq!(two.meter.counts().get.requests, 1, "the manifest");
    // One of exactly that length is as it has to be.
    assert_eq!(two.begin(world.claim()).await.unwrap().found, fetched(&world));
}

#[tokio::test]
async fn a_damaged_manifest_fails_the_wake() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_and_save(&world, 0, b"kept").await;
    let key = world.keys().await.into_iter().find(|key| key.ends_with("-stored")).unwrap();
    let good = world.memory.get(&key, None).await.unwrap();
    for bad in [b"".to_vec(), good[..good.len() - 1].to_vec(), vec![0xff; 1 << 20]] {
        world.memory.put(&key, bad.into()).await.unwrap();
        let error = two.begin(world.claim()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(!two.files.disk.exists(), "no empty upper instead");
    }
}

#[tokio::test]
async fn a_store_that_is_away_fails_the_wake_and_not_the_sleep() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_and_save(&world, 0, b"kept").await;
    two.store.kill();
    assert_eq!(two.begin(world.claim()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(!two.files.disk.exists());
    // Where nothing is to be asked, nothing fails; what is to be stored is known here.
    let epoch = Epoch(world.claim().0);
    let three = world.host();
    three.begin(epoch).await.unwrap();
    let epoch = world.claim();
    three.store.kill();
    assert_eq!(three.begin(epoch).await.unwrap().found, Found::Here);
    three.write(0, b"more");
    three.upper.leave(epoch).await.unwrap_err();
    assert_eq!(Upper::standing(&three.files), Standing::Behind);
    three.store.revive();
    assert!(matches!(three.save(&world).await.unwrap(), Saved::Stored { .. }));
}

#[tokio::test]
async fn a_wake_that_does_not_come_to_its_end_leaves_nothing_on_the_disk() {
    let world = World::new();
    let one = world.host_with_chunks(12).await;
    one.save(&world).await.unwrap();
    let two = world.host();
    two.slow_down(Duration::from_millis(400));
    // Nobody waits for it any more.
    let begun = tokio::time::timeout(Duration::from_millis(50), two.begin(world.claim())).await;
    assert!(begun.is_err() && !two.files.fetched.exists() && !two.files.missing.exists());
    two.store.set_rates(FaultRates::default());
    // The root that it lies over cannot be written down.
    let refused = two.begin_with(
        world.wake(false),
        |_| Ok(()),
        |_| {
            assert!(two.files.fetched.exists());
            Err(upper::Error::Changed)
        },
    );
    assert!(matches!(refused.await, Err(upper::Error::Changed)));
    assert!(!two.files.fetched.exists() && !two.files.disk.exists());
    assert!(!two.files.missing.exists());
    // The process was killed, and this wake has nothing to fetch.
    two.run_and_save(&world, 0, b"here").await;
    std::fs::write(&two.files.fetched, "a part").unwrap();
    assert_eq!(two.begin(world.claim()).await.unwrap().found, Found::Here);
    assert!(!two.files.fetched.exists());
}
