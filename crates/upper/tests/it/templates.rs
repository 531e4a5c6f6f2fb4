//! What machines that began with the same template have in common is in the store once, for as long as one needs it.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use base::{ErrorKind, MachineId, Timestamp};
use objstore::ObjectStore;
use testkit::{FaultyStore, Injection, Verb};
use tokio_util::sync::CancellationToken;
use upper::{Saved, Upper, collect_templates};

use crate::forks::{begun, delete, held};
use crate::memory::{PIECE, memories, offered, packs};
use crate::support::{Host, World, noise};

/// Pieces that a template has.
const PIECES: u64 = 40;
/// What a clone stores by itself: its state, which is noise, and little more.
const LITTLE: u64 = 450_000;

const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

impl World {
    /// Another machine, of the same store.
    fn neighbour(&self) -> Self {
        self.forked()
    }

    async fn of_templates(&self) -> Vec<String> {
        let keys = self.keys().await.into_iter();
        keys.filter_map(|key| key.strip_prefix("templates/").map(str::to_owned)).collect()
    }

    async fn sweep(&self, known: &[&MachineId], now: Timestamp) -> u64 {
        let known: HashSet<MachineId> = known.iter().map(|id| (*id).clone()).collect();
        collect_templates(&self.store(), &known, now).await.unwrap().objects
    }
}

impl Host {
    pub(crate) fn template(&self) -> PathBuf {
        self.dir.path().join("template")
    }

    /// The template of this host.
    fn has_template(&self, seed: u64) {
        self.remember_in(&self.template(), 0..PIECES, seed);
    }

    /// A guest that began with the template wrote to a page of some pieces.
    fn clone_wrote(&self, pieces: impl Iterator<Item = u64>, seed: u64) {
        if !self.memory().exists() {
            std::fs::copy(self.template(), self.memory()).unwrap();
        }
        self.write_memory(pieces.map(|piece| (piece * PIECE + 16_384, noise(seed + piece, 4096))));
    }

    /// A run that changed little, stored; the bytes that this took.
    async fn clone_slept(&self, world: &World, seed: u64) -> u64 {
        self.run(world, 0, &noise(seed, 64)).await;
        self.save_all(world).await;
        self.clone_wrote([3, 20, 30].into_iter(), seed);
        self.stored_bytes().await
    }

    async fn stored_bytes(&self) -> u64 {
        match self.save_memory().await.unwrap() {
            Saved::Stored { bytes, .. } => bytes,
            other => panic!("{other:?}"),
        }
    }

    /// Wakes and goes on from the memory that is stored.
    async fn resumes(&self, world: &World) {
        let memory = offered(self.begin(world.claim()).await.unwrap()).unwrap();
        self.take(&memory).await.unwrap();
        self.upper.note_memory_used(&memory).await.unwrap();
    }
}

fn allocated(path: PathBuf) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

#[tokio::test]
async fn what_is_the_templates_is_stored_once_and_a_clone_comes_back_whole() {
    let world = World::new();
    let (one, elsewhere) = (world.host(), world.host());
    one.has_template(1);
    // Pages that were freed, and a piece of which all is new.
    one.clone_wrote(std::iter::empty(), 0);
    one.write_memory([(7 * PIECE + 8192, vec![0; 8192]), (60 * PIECE, noise(9, 100_000))]);
    let bytes = one.clone_slept(&world, 1).await;
    assert!(bytes < LITTLE + 100_000, "{bytes}");
    let of_template = world.of_templates().await;
    let of_its_packs = of_template.iter().filter(|key| key.contains("/packs/")).count();
    assert!(of_its_packs >= 1 && of_template.len() == of_its_packs + 2, "{of_template:?}");
    assert!(of_template.iter().any(|key| key.ends_with(world.machine.as_str())));
    // Another one on the same host stores nothing of it anew.
    let other = world.neighbour();
    let beside = other.host();
    beside.has_template(1);
    let before = beside.meter.counts();
    assert!(beside.clone_slept(&other, 100).await < LITTLE);
    let puts = beside.meter.counts().since(&before).put.requests;
    assert_eq!(world.of_templates().await.len(), of_template.len() + 1);
    elsewhere.resumes(&world).await;
    assert!(elsewhere.memory_bytes() == one.memory_bytes());
    assert!(allocated(elsewhere.memory()) <= allocated(one.memory()) + 128 * 1024);
    // The next time nothing is asked of the template any more.
    let before = beside.meter.counts();
    assert!(beside.clone_slept(&other, 200).await < LITTLE);
    let again = beside.meter.counts().since(&before).put.requests;
    assert_eq!(again, puts - 1, "it is a user already");
    let third = other.host();
    third.resumes(&other).await;
    assert!(third.memory_bytes() == beside.memory_bytes());
}

#[tokio::test]
async fn what_lies_over_a_template_stays_there_where_that_is_not_at_hand() {
    let world = World::new();
    let (one, two, three) = (world.host(), world.host(), world.host());
    one.has_template(1);
    one.clone_slept(&world, 1).await;
    // A host without it, then one that has another.
    two.resumes(&world).await;
    three.has_template(2);
    for (host, next, seed) in [(&two, &three, 20), (&three, &one, 30), (&one, &two, 40)] {
        host.write(0, &noise(seed, 64));
        host.upper.leave(world.epoch()).await.unwrap();
        host.save_all(&world).await;
        host.clone_wrote([3, 24, 25].into_iter(), seed);
        let bytes = host.stored_bytes().await;
        assert!(bytes < LITTLE + 3 * PIECE, "{bytes}");
        next.resumes(&world).await;
        assert!(next.memory_bytes() == host.memory_bytes(), "{seed}");
    }
    let templates = world.of_templates().await;
    assert_eq!(templates.iter().filter(|key| key.contains("/users/")).count(), 1, "{templates:?}");
}

#[tokio::test]
async fn a_machine_that_has_nothing_in_common_with_a_template_stores_all_of_its_own() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.has_template(1);
    one.run_and_save(&world, 0, b"slept").await;
    one.remember(0..PIECES, 5);
    assert!(one.stored_bytes().await > PIECES * 60_000);
    world.sweep(&[], Timestamp::UNIX_EPOCH).await;
    two.resumes(&world).await;
    assert!(two.memory_bytes() == one.memory_bytes());
}

#[tokio::test]
async fn a_template_goes_when_the_last_machine_has_that_may_need_it() {
    let (one, now) = (World::new(), Timestamp::UNIX_EPOCH);
    let two = one.neighbour();
    let (here, there) = (one.host(), two.host());
    for host in [&here, &there] {
        host.has_template(1);
    }
    here.clone_slept(&one, 1).await;
    there.clone_slept(&two, 100).await;
    let all = one.of_templates().await;
    assert_eq!(one.sweep(&[], now).await, 0);
    assert_eq!(one.of_templates().await, all);
    delete(&one).await;
    assert_eq!(one.sweep(&[&two.machine], now).await, 1, "it is no user any more");
    let elsewhere = two.host();
    elsewhere.resumes(&two).await;
    assert!(elsewhere.memory_bytes() == there.memory_bytes());
    delete(&two).await;
    assert_eq!(one.sweep(&[&two.machine], now).await, 0, "its server knows it");
    assert!(one.sweep(&[], now).await > 0);
    assert_eq!(one.keys().await, [""; 0]);
    // This host has a note that it was stored, and finds that it is no more.
    let three = one.neighbour();
    let anew = three.host();
    anew.has_template(1);
    anew.run_and_save(&three, 0, b"slept").await;
    anew.clone_wrote([3].into_iter(), 300);
    let noted = upper::Memory { template: Some(here.template()), ..anew.to_store() };
    anew.upper.save_memory(noted, &CancellationToken::new()).await.unwrap();
    assert_eq!(one.of_templates().await.len(), all.len() - 1);
}

#[tokio::test]
async fn a_template_that_a_fork_needs_outlives_the_parent() {
    let parent = World::new();
    let here = parent.host();
    here.has_template(1);
    here.clone_slept(&parent, 1).await;
    let (child, kept) = held(&parent, &here, true).await;
    assert_eq!(kept.memory, Ok(()));
    begun(&parent, &child).await.unwrap();
    delete(&parent).await;
    assert_eq!(parent.sweep(&[], Timestamp::UNIX_EPOCH).await, 0);
    let there = child.host();
    let memory = offered(there.begin(child.claim()).await.unwrap()).unwrap();
    there.take(&memory).await.unwrap();
    assert!(there.memory_bytes() == here.memory_bytes());
    delete(&child).await;
    assert!(parent.sweep(&[], Timestamp::UNIX_EPOCH).await > 0);
    assert_eq!(parent.keys().await, [""; 0]);
}

#[tokio::test]
async fn a_template_that_is_being_deleted_is_not_used() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.has_template(1);
    one.clone_slept(&world, 1).await;
    let key = world.keys().await.into_iter().find(|key| key.ends_with("/memory")).unwrap();
    let mark = key.replace("/memory", "/unused");
    let other = world.neighbour();
    let beside = other.host();
    beside.has_template(1);
    // Its deletion was begun by somebody who is at it, or was killed.
    let told = format!(r#"{{"format":1,"by":"{}","at":0}}"#, base::ServerId::generate());
    world.memory.put(&mark, told.into()).await.unwrap();
    assert!(beside.clone_slept(&other, 100).await > PIECES * 60_000, "it does without");
    // Nobody takes it from who uses it.
    let later = Timestamp::UNIX_EPOCH.checked_add(2 * DAY).unwrap();
    assert_eq!(world.sweep(&[], later).await, 0);
    two.resumes(&world).await;
    assert!(two.memory_bytes() == one.memory_bytes());
    delete(&world).await;
    delete(&other).await;
    assert_eq!(world.sweep(&[], Timestamp::UNIX_EPOCH).await, 2, "two users");
    assert!(!world.of_templates().await.is_empty(), "somebody else is at it");
    world.sweep(&[], later).await;
    assert_eq!(world.keys().await, [""; 0]);
}

#[tokio::test]
async fn a_mark_that_cannot_be_read_counts_from_now_on() {
    let world = World::new();
    let key = format!("templates/{}/unused", base::Digest::of(b"x"));
    for foreign in ["templates/x", "templates/no-digest/users/y"] {
        world.memory.put(foreign, "z".into()).await.unwrap();
    }
    world.memory.put(&key, "damaged".into()).await.unwrap();
    assert_eq!(world.sweep(&[], Timestamp::UNIX_EPOCH).await, 0);
    let later = Timestamp::UNIX_EPOCH.checked_add(2 * DAY).unwrap();
    world.sweep(&[], later).await;
    assert_eq!(world.keys().await, ["templates/no-digest/users/y", "templates/x"]);
}

#[tokio::test]
async fn whoever_is_killed_at_any_request_nothing_that_is_needed_goes_and_nothing_stays() {
    for at in 0.. {
        let world = World::new();
        let (one, two) = (world.host(), world.host());
        one.has_template(1);
        one.run_and_save(&world, 0, b"slept").await;
        one.clone_wrote([3, 20].into_iter(), 1);
        one.store.inject(None, "", at + 1, Injection::KillAfter);
        let killed = one.save_memory().await.is_err() || one.store.is_dead();
        let later = Upper::new(world.store(), &world.machine, one.files.clone());
        world.sweep(&[], Timestamp::UNIX_EPOCH).await;
        let stop = CancellationToken::new();
        later.save_memory(one.to_store(), &stop).await.unwrap();
        assert_eq!(memories(&world).await.len(), 1, "{at}");
        two.resumes(&world).await;
        assert!(two.memory_bytes() == one.memory_bytes(), "{at}");
        delete(&world).await;
        // So is the one who takes it away.
        let store: Arc<dyn ObjectStore> = {
            let store = FaultyStore::new(world.store());
            store.inject(None, "", at + 1, Injection::KillAfter);
            Arc::new(store)
        };
        let swept = collect_templates(&store, &HashSet::new(), Timestamp::UNIX_EPOCH).await;
        let later = Timestamp::UNIX_EPOCH.checked_add(2 * DAY).unwrap();
        world.sweep(&[], later).await;
        assert_eq!(world.keys().await, [""; 0], "{at}");
        if !killed && swept.is_ok() {
            assert!(at > 5);
            return;
        }
    }
}

#[tokio::test]
async fn a_template_that_is_damaged_or_gone_is_said_and_nothing_else_is_lost() {
    let world = World::new();
    let one = world.host();
    one.has_template(1);
    one.clone_slept(&world, 1).await;
    let of_template: Vec<String> =
        world.of_templates().await.into_iter().map(|key| format!("templates/{key}")).collect();
    let host = world.host();
    let memory = offered(host.begin(world.claim()).await.unwrap()).unwrap();
    for key in of_template.iter().filter(|key| !key.contains("/users/")) {
        let was = world.memory.get(key, None).await.unwrap();
        let mut changed = was.to_vec();
        changed[was.len() / 2] ^= 1;
        for broken in [Some(changed.into()), Some(was.slice(1..)), Some("".into()), None] {
            match broken {
                Some(bytes) => world.memory.put(key, bytes).await.unwrap(),
                None => world.memory.delete(key).await.unwrap(),
            }
            let error = host.take(&memory).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{key}");
            assert!(!host.files.memory_fetched.exists());
        }
        world.memory.put(key, was).await.unwrap();
    }
    host.take(&memory).await.unwrap();
    assert!(host.memory_bytes() == one.memory_bytes());
}

#[tokio::test]
async fn a_store_that_takes_no_template_takes_the_memory_all_the_same() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.has_template(1);
    one.run_and_save(&world, 0, b"slept").await;
    one.clone_wrote([3].into_iter(), 1);
    one.store.inject(Verb::Put, "templates/", 2, Injection::Before);
    assert!(one.stored_bytes().await > PIECES * 60_000);
    assert!(!packs(&world).await.is_empty());
    two.resumes(&world).await;
    assert!(two.memory_bytes() == one.memory_bytes());
}
