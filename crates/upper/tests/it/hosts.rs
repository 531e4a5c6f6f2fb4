//! What is stored comes back elsewhere, and what is older is never run upon.

use upper::{Found, Saved, Standing, Upper};

use crate::support::{CHUNK, DISK, World, fetched};

#[tokio::test]
async fn an_upper_comes_back_on_another_host_with_its_holes() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    let guest = |_| {
        one.write(5 * CHUNK + 7, b"installed");
        one.write(DISK - 3, b"end");
    };
    let begun = one.run_with(&world, guest).await;
    assert_eq!((begun.found, begun.behind), (Found::Nowhere, None));
    assert_eq!(Upper::standing(&one.files), Standing::Behind);
    let (generation, chunks) = one.save_all(&world).await;
    assert_eq!(chunks, 2);
    assert_eq!(Upper::standing(&one.files), Standing::Stored { uncollected: Some(generation) });
    let begun = two.begin(world.claim()).await.unwrap();
    assert_eq!((begun.found, begun.behind), (fetched(&world), None));
    assert_eq!(two.digest(), one.digest());
    let meta = std::fs::metadata(&two.files.disk).unwrap();
    let allocated = std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
    assert!(meta.len() == DISK && allocated <= 2 * CHUNK + 65_536, "{allocated} bytes");
    assert!(!two.files.fetched.exists());
}

#[tokio::test]
async fn what_did_not_change_costs_nothing() {
    let world = World::new();
    let one = world.host();
    one.run_and_save(&world, 9, b"once").await;
    let before = one.meter.counts();
    for _ in 0..5 {
        let epoch = world.claim();
        assert_eq!(one.begin(epoch).await.unwrap().found, Found::Here);
        assert!(!one.upper.leave(epoch).await.unwrap());
        assert_eq!(one.save(&world).await.unwrap(), Saved::Nothing);
    }
    assert_eq!(one.meter.counts().since(&before).requests(), 0);
    // And elsewhere it is known to be whole, though many runs came after.
    let two = world.host();
    let begun = two.begin(world.claim()).await.unwrap();
    assert_eq!((begun.found, begun.behind), (fetched(&world), None));
    assert!(two.has(9, b"once"));
}

#[tokio::test]
async fn a_small_change_stores_one_chunk_and_takes_over_the_others() {
    let world = World::new();
    let one = world.host();
    one.run_through(&world, 8).await;
    one.save_all(&world).await;
    let before = one.meter.counts();
    let guest = |_| {
        one.write(3 * CHUNK + 100, b"changed");
        // The same content as another chunk: nothing of it is stored again.
        one.write(20 * CHUNK, &one.read(5 * CHUNK, 4096));
    };
    one.run_with(&world, guest).await;
    assert_eq!(one.save_all(&world).await.1, 1);
    let cost = one.meter.counts().since(&before);
    // The word that something is to come, the chunk, the manifest.
    assert_eq!((cost.put.requests, cost.create.requests, cost.list.requests), (2, 1, 0));
    let two = world.host();
    two.begin(world.claim()).await.unwrap();
    assert_eq!(two.digest(), one.digest());
}

#[tokio::test]
async fn what_was_written_and_is_the_same_again_is_no_new_generation() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_and_save(&world, 0, b"same").await;
    one.run(&world, 0, b"same").await;
    assert_eq!(Upper::standing(&one.files), Standing::Behind);
    assert_eq!(one.save(&world).await.unwrap(), Saved::Nothing);
    assert!(matches!(Upper::standing(&one.files), Standing::Stored { uncollected: Some(_) }));
    assert_eq!(world.generations().await.len(), 2, "{:?}", world.generations().await);
    assert_eq!(two.begin(world.claim()).await.unwrap().behind, None);
}

#[tokio::test]
async fn a_stale_upper_of_a_host_that_gets_its_machine_back_is_not_used() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_and_save(&world, 0, b"of one").await;
    assert_eq!(two.run_and_save(&world, 0, b"of two").await.found, fetched(&world));
    let begun = one.begin(world.claim()).await.unwrap();
    assert_eq!((begun.found, begun.behind), (fetched(&world), None));
    assert!(one.has(0, b"of two"));
    assert!(one.parked().is_empty(), "all of it was stored");
}

#[tokio::test(start_paused = true)]
async fn what_was_nowhere_else_is_set_aside() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run(&world, 0, b"never stored").await;
    let begun = two.run_and_save(&world, 0, b"of two").await;
    assert_eq!(begun.found, Found::Nowhere);
    assert!(begun.behind.unwrap().contains("begins empty"));
    assert_eq!(one.begin(world.claim()).await.unwrap().found, fetched(&world));
    assert!(one.has(0, b"of two"));
    let parked = one.parked();
    assert_eq!(parked.len(), 1);
    assert!(std::fs::read(&parked[0]).unwrap().starts_with(b"never stored"));
}

#[tokio::test]
async fn drafts_and_crashes_in_between_leave_this_hosts_upper_in_use() {
    let world = World::new();
    let one = world.host();
    one.run_and_save(&world, 0, b"slept").await;
    // A draft was published: an epoch without a run.
    world.claim();
    let epoch = world.claim();
    assert_eq!(one.begin(epoch).await.unwrap().found, Found::Here);
    // A keeper that is killed says nothing; what the guest wrote is here.
    one.write(0, b"awake");
    let epoch = world.claim();
    let begun = one.begin(epoch).await.unwrap();
    assert_eq!((begun.found, begun.behind), (Found::Here, None));
    assert!(one.has(0, b"awake"));
    // Killed once more, before it had anything to do with the store.
    world.claim();
    assert_eq!(one.begin(world.claim()).await.unwrap().found, Found::Here);
    assert!(one.has(0, b"awake"));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_comes_after_another_host_began_counts_for_nothing() {
    let world = World::new();
    let (slow, next, last) = (world.host(), world.host(), world.host());
    slow.run_and_save(&world, 0, b"stored").await;
    slow.run(&world, 0, b"too late").await;
    let epoch = world.claim();
    let begun = next.begin(epoch).await.unwrap();
    assert_eq!(begun.found, fetched(&world));
    assert!(begun.behind.unwrap().contains("were stored"));
    assert!(next.has(0, b"stored"));
    // It knows nothing of that, and stores; the machine went on from what was there.
    assert!(matches!(slow.save(&world).await.unwrap(), Saved::Stored { .. }));
    next.upper.leave(epoch).await.unwrap();
    last.begin(world.claim()).await.unwrap();
    assert!(last.has(0, b"stored"));
    // The slow host has the machine again: what it has is the newest that anybody made.
    let begun = slow.begin(world.claim()).await.unwrap();
    assert_eq!(begun.found, Found::Here);
    assert!(slow.has(0, b"too late"));
}

#[tokio::test]
async fn a_wake_waits_for_an_upload_that_is_under_way() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run(&world, 0, b"on its way").await;
    let epoch = world.claim();
    let (begun, saved) = tokio::join!(two.begin(epoch), async {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        one.save(&world).await
    });
    assert!(matches!(saved.unwrap(), Saved::Stored { .. }));
    let begun = begun.unwrap();
    assert_eq!((begun.found, begun.behind), (fetched(&world), None));
    assert!(two.has(0, b"on its way"));
}

#[tokio::test]
async fn a_wake_that_is_repeated_decides_the_same() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_and_save(&world, 0, b"kept").await;
    let epoch = world.claim();
    let first = two.begin(epoch).await.unwrap();
    std::fs::remove_file(&two.files.state).unwrap();
    assert_eq!(two.begin(epoch).await.unwrap(), first);
    assert!(two.has(0, b"kept"));
}

#[tokio::test]
async fn a_root_that_is_not_here_is_told_before_anything_is_fetched() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_and_save(&world, 0, b"kept").await;
    let before = two.meter.counts();
    let refused = two.begin_with(
        world.wake(false),
        |root| {
            assert_eq!(*root, world.root);
            Err(upper::Error::Overtaken)
        },
        |_| unreachable!("it was refused"),
    );
    assert!(matches!(refused.await, Err(upper::Error::Overtaken)));
    assert!(two.meter.counts().since(&before).get.requests <= 1);
    assert!(!two.files.disk.exists() && !two.files.fetched.exists());
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_a_host_with_an_awake_machine_is_said() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_and_save(&world, 0, b"slept").await;
    one.begin(world.claim()).await.unwrap();
    one.write(0, b"awake");
    let pinned = std::cell::Cell::new(false);
    let begun = two.begin_with(
        world.wake(true),
        |_| Ok(()),
        |root| {
            assert_eq!(*root, world.root);
            assert!(!two.files.disk.exists(), "the root is written down first");
            pinned.set(true);
            Ok(())
        },
    );
    assert!(begun.await.unwrap().behind.unwrap().contains("while the machine was awake"));
    assert!(pinned.get());
    two.bring_all().await;
    assert!(two.has(0, b"slept"));
}
