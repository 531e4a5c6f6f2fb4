//! A host that stores memory is overtaken by one that goes on with the machine.

use std::sync::Arc;

use async_trait::async_trait;
use base::ErrorKind;
use objstore::ObjectStore;
use testkit::{Attendant, AttendedStore, Verb};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use upper::{Error, Progress, Upper};

use crate::memory::{memories, offered, packs};
use crate::support::{Host, World};

/// Has packs wait at the door of the store.
#[derive(Debug)]
struct Door {
    came: Semaphore,
    may_go: Semaphore,
}

impl Door {
    /// Once the first has come.
    async fn wait(&self) {
        self.came.acquire().await.unwrap().forget();
    }
}

#[async_trait]
impl Attendant for Door {
    async fn before(&self, _store: &dyn ObjectStore, verb: Verb, key: &str) {
        if verb == Verb::Put && key.contains("/memory/") {
            self.came.add_permits(1);
            drop(self.may_go.acquire().await.unwrap());
        }
    }
}

/// Goes on from what another host stored, changes a little of upper and memory, and sleeps; the upper is stored.
async fn go_on(host: &Host, world: &World, seed: u64) {
    let epoch = world.claim();
    let memory = offered(host.begin(epoch).await.unwrap()).unwrap();
    host.take(&memory).await.unwrap();
    host.upper.note_memory_used(&memory).await.unwrap();
    host.write(0, &seed.to_le_bytes());
    host.upper.leave(epoch).await.unwrap();
    host.save_all(world).await;
    host.remember(0..2, seed);
}

/// Boots, changes a little of the upper, and sleeps; the upper is stored.
async fn boot(host: &Host, world: &World, seed: u64) {
    let epoch = world.claim();
    host.begin(epoch).await.unwrap();
    host.write(0, &seed.to_le_bytes());
    host.upper.leave(epoch).await.unwrap();
    host.save_all(world).await;
}

/// Whether a host that knows nothing gets all of what `of` has.
async fn comes_back(world: &World, of: &Host) {
    let host = world.host();
    let memory = offered(host.begin(world.claim()).await.unwrap()).unwrap();
    let fetched = host.upper.fetch_memory(&memory, &Progress::default()).await.unwrap();
    fetched.place(&host.memory()).unwrap();
    assert!(host.memory_bytes() == of.memory_bytes());
}

#[tokio::test]
async fn a_host_that_was_overtaken_names_and_deletes_nothing() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    two.run_with_memory(&world, 1).await;
    go_on(&one, &world, 2).await;
    // All of it changes: of what is in the store it needs nothing any more.
    one.remember(0..120, 3);
    let [came, may_go] = [0, 0].map(Semaphore::new);
    let held = Arc::new(AttendedStore::new(world.memory.clone(), Door { came, may_go }));
    let slow = Upper::new(held.clone(), &world.machine, one.files.clone());
    let stop = CancellationToken::new();
    let (saved, others) = tokio::join!(slow.save_memory(one.to_store(), &stop), async {
        held.attendant.wait().await;
        // There is other memory by now.
        boot(&two, &world, 4).await;
        two.remember(0..2, 5);
        two.memory_stored().await;
        let others = packs(&world).await;
        held.attendant.may_go.add_permits(100);
        others
    });
    let error = saved.unwrap_err();
    assert!(matches!(error, Error::Overtaken) && error.kind() == ErrorKind::Fenced, "{error}");
    assert_eq!(memories(&world).await.len(), 1);
    let now = packs(&world).await;
    assert!(others.iter().all(|pack| now.contains(pack)), "{others:?} {now:?}");
    // Nor does it take away what is not its own any more.
    assert!(matches!(one.upper.unstore_memory().await, Err(Error::Overtaken)));
    comes_back(&world, &two).await;
}

#[tokio::test]
async fn a_host_that_gets_its_machine_back_takes_the_place_of_what_is_there_and_nothing_over() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_with_memory(&world, 1).await;
    // Elsewhere it booted, and left memory of which nothing was there before.
    boot(&two, &world, 2).await;
    two.remember(0..120, 3);
    two.memory_stored().await;
    let others = packs(&world).await;
    // Here it boots again, because of what is there, perhaps. It comes to hold the same.
    boot(&one, &world, 4).await;
    one.remember(0..120, 3);
    one.memory_stored().await;
    assert_eq!(memories(&world).await.len(), 1, "the newest before it went, whoever had stored it");
    let now = packs(&world).await;
    assert!(!now.is_empty() && now.iter().all(|pack| !others.contains(pack)), "{now:?}");
    comes_back(&world, &one).await;
    // And where it is not wanted any more, it goes.
    boot(&two, &world, 6).await;
    two.upper.unstore_memory().await.unwrap();
    assert!(memories(&world).await.is_empty());
}
