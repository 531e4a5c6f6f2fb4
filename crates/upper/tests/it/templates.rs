//! What machines that began with the same template have in common is in the store once, for as long as one needs it.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use base::{ErrorKind, MachineId};
use objstore::ObjectStore;
use testkit::{Attendant, AttendedStore, FaultyStore, Injection, Verb};
use tokio_util::sync::CancellationToken;
use upper::{Memory, Saved, Upper, collect_templates};

use crate::forks::{begun, delete, held};
use crate::memory::{PIECE, memories, offered, packs};
use crate::support::{Host, World, noise};

/// Pieces that a template has.
const PIECES: u64 = 24;
/// What a clone stores by itself: its state, which is noise, and little more.
const LITTLE: u64 = 450_000;

impl World {
    /// Another machine, of the same store.
    fn neighbour(&self) -> Self {
        self.forked()
    }

    async fn of_templates(&self) -> Vec<String> {
        let keys = self.keys().await.into_iter();
        keys.filter_map(|key| key.strip_prefix("templates/").map(str::to_owned)).collect()
    }

    async fn sweep(&self, known: &[&MachineId]) -> u64 {
        let known: HashSet<MachineId> = known.iter().map(|id| (*id).clone()).collect();
        collect_templates(&self.store(), &known).await.unwrap().objects
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
            self.remember(0..PIECES, 1);
        }
        self.write_memory(pieces.map(|piece| (piece * PIECE + 16_384, noise(seed + piece, 4096))));
    }

    /// A run that changed little, stored; the bytes that this took.
    async fn clone_slept(&self, world: &World, seed: u64) -> u64 {
        self.run(world, 0, &noise(seed, 64)).await;
        self.save_all(world).await;
        self.clone_wrote([3, 15, 20].into_iter(), seed);
        self.stored_bytes(seed).await
    }

    /// Stores its memory, beside a state that is another one each time; the bytes that this took.
    async fn stored_bytes(&self, seed: u64) -> u64 {
        let memory = Memory { state: noise(seed + 1_000, 300_000), ..self.to_store() };
        match self.upper.save_memory(memory, &CancellationToken::new()).await.unwrap() {
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
    let (other, beside, memory) = another_clone(&one, &world, 100).await;
    let saved = beside.upper.save_memory(memory, &CancellationToken::new()).await.unwrap();
    assert!(matches!(saved, Saved::Stored { bytes, .. } if bytes < LITTLE), "{saved:?}");
    assert_eq!(world.of_templates().await.len(), of_template.len() + 1, "a user");
    elsewhere.resumes(&world).await;
    assert!(elsewhere.memory_bytes() == one.memory_bytes());
    assert!(allocated(elsewhere.memory()) <= allocated(one.memory()) + 128 * 1024, "holes");
    // The next time the template is not asked after any more.
    let puts = async |seed| {
        beside.run_and_save(&other, 0, &noise(seed, 64)).await;
        beside.clone_wrote([3].into_iter(), seed);
        let memory = Memory { template: Some(one.template()), ..beside.to_store() };
        let state = noise(seed, 300_000);
        let before = beside.meter.counts();
        let memory = Memory { state, ..memory };
        beside.upper.save_memory(memory, &CancellationToken::new()).await.unwrap();
        let counts = beside.meter.counts().since(&before);
        (counts.put.requests, counts.head.requests, counts.list.requests)
    };
    assert_eq!(puts(200).await, (1, 0, 2));
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
        host.clone_wrote([3, 18, 19].into_iter(), seed);
        let bytes = host.stored_bytes(seed).await;
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
    assert!(one.stored_bytes(0).await > PIECES * 60_000);
    assert!(world.of_templates().await.is_empty(), "it is of no use");
    two.resumes(&world).await;
    assert!(two.memory_bytes() == one.memory_bytes());
}

#[tokio::test]
async fn a_template_goes_when_the_last_machine_has_that_may_need_it() {
    let one = World::new();
    let here = one.host();
    here.has_template(1);
    here.clone_slept(&one, 1).await;
    let (two, there, memory) = another_clone(&here, &one, 100).await;
    there.upper.save_memory(memory, &CancellationToken::new()).await.unwrap();
    let all = one.of_templates().await;
    assert_eq!(one.sweep(&[]).await, 0);
    assert_eq!(one.of_templates().await, all);
    delete(&one).await;
    assert_eq!(one.sweep(&[&two.machine]).await, 1, "it is no user any more");
    let elsewhere = two.host();
    elsewhere.resumes(&two).await;
    assert!(elsewhere.memory_bytes() == there.memory_bytes());
    delete(&two).await;
    assert_eq!(one.sweep(&[&two.machine]).await, 0, "its server knows it");
    assert!(one.sweep(&[]).await > 0);
    assert_eq!(one.keys().await, [""; 0]);
    // This host has a note that it was stored, and finds that it is no more.
    let three = one.neighbour();
    let anew = three.host();
    anew.has_template(1);
    anew.run_and_save(&three, 0, b"slept").await;
    anew.clone_wrote([3].into_iter(), 300);
    let noted = Memory { template: Some(here.template()), ..anew.to_store() };
    anew.upper.save_memory(noted, &CancellationToken::new()).await.unwrap();
    assert_eq!(one.of_templates().await.len(), all.len(), "and it is noted in either");
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
    assert_eq!(parent.sweep(&[]).await, 0);
    let there = child.host();
    let memory = offered(there.begin(child.claim()).await.unwrap()).unwrap();
    there.take(&memory).await.unwrap();
    assert!(there.memory_bytes() == here.memory_bytes());
    delete(&child).await;
    assert!(parent.sweep(&[]).await > 0);
    assert_eq!(parent.keys().await, [""; 0]);
}

/// Manifests of templates, without what their names end with.
fn manifests(keys: &[String]) -> Vec<String> {
    let all = keys.iter().filter_map(|key| key.strip_suffix("/memory"));
    all.map(|key| format!("templates/{key}")).collect()
}

/// A machine that began with the template of `one`, whose memory is to be stored.
async fn another_clone(one: &Host, world: &World, seed: u64) -> (World, Host, Memory) {
    let other = world.neighbour();
    let beside = other.host();
    beside.run_and_save(&other, 0, b"slept").await;
    beside.clone_wrote([3].into_iter(), seed);
    let memory = Memory { template: Some(one.template()), ..beside.to_store() };
    (other, beside, memory)
}

#[tokio::test]
async fn a_template_that_is_being_deleted_or_not_all_there_is_stored_anew_under_another_name() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.has_template(1);
    one.clone_slept(&world, 1).await;
    let first = manifests(&world.of_templates().await).remove(0);
    let named = |what: &str| format!("{first}/{what}");
    let pack = world.keys().await.into_iter().find(|key| key.contains("/packs/")).unwrap();
    let was = world.memory.get(&pack, None).await.unwrap();
    let manifest = world.memory.get(&named("memory"), None).await.unwrap();
    let note = one.dir.path().join("template.stored");
    let known = std::fs::read(&note).unwrap();
    let mut others = Vec::new();
    for (n, harm) in ["unused", "pack", "length", "memory", "damage"].into_iter().enumerate() {
        let put = async |key: &str, bytes: &[u8]| {
            world.memory.put(key, bytes.to_vec().into()).await.unwrap();
        };
        match harm {
            // Somebody is at it, or was killed.
            "unused" => put(&named("unused"), b"").await,
            "pack" => world.memory.delete(&pack).await.unwrap(),
            "length" => put(&pack, &was[1..]).await,
            "memory" => world.memory.delete(&named("memory")).await.unwrap(),
            _ => put(&named("memory"), &manifest[..manifest.len() - 1]).await,
        }
        let (other, beside, memory) = another_clone(&one, &world, 100 + n as u64).await;
        beside.upper.save_memory(memory, &CancellationToken::new()).await.unwrap();
        assert_ne!(std::fs::read(&note).unwrap(), known, "{harm}");
        std::fs::write(&note, &known).unwrap();
        let there = manifests(&world.of_templates().await);
        assert_eq!(there.iter().filter(|one| **one != first).count(), n + 1, "{harm}: {there:?}");
        let elsewhere = other.host();
        elsewhere.resumes(&other).await;
        assert!(elsewhere.memory_bytes() == beside.memory_bytes(), "{harm}");
        put(&pack, &was).await;
        put(&named("memory"), &manifest).await;
        world.memory.delete(&named("unused")).await.unwrap();
        others.push(other);
    }
    // Who used it goes on with it, marked or not.
    world.memory.put(&named("unused"), "".into()).await.unwrap();
    assert_eq!(world.sweep(&[]).await, 0);
    two.resumes(&world).await;
    assert!(two.memory_bytes() == one.memory_bytes());
    for world in others.iter().chain([&world]) {
        delete(world).await;
    }
    world.sweep(&[]).await;
    assert_eq!(world.keys().await, [""; 0]);
}

/// What is stored of the machine is what it had, and nothing stays in the store that is nobody's.
async fn comes_back_and_leaves_nothing(world: &World, host: &Host, at: u64) {
    let elsewhere = world.host();
    elsewhere.resumes(world).await;
    assert!(elsewhere.memory_bytes() == host.memory_bytes(), "{at}");
    delete(world).await;
    world.sweep(&[]).await;
    assert_eq!(world.keys().await, [""; 0], "{at}");
}

/// A host with a template that only a deleted machine used so far, and another machine of it that sleeps.
async fn last_user_gone() -> (Host, World, Host, Memory) {
    let world = World::new();
    let one = world.host();
    one.has_template(1);
    one.clone_slept(&world, 1).await;
    let (other, beside, memory) = another_clone(&one, &world, 100).await;
    delete(&world).await;
    (one, other, beside, memory)
}

/// A machine that sleeps in the middle of what somebody else does.
#[derive(Debug)]
struct Comes {
    at: u64,
    calls: Arc<AtomicU64>,
    upper: Upper,
    memory: Memory,
}

#[async_trait]
impl Attendant for Comes {
    async fn before(&self, _store: &dyn ObjectStore, _verb: Verb, _key: &str) {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
            let stop = CancellationToken::new();
            let saved = self.upper.save_memory(self.memory.clone(), &stop).await;
            assert!(matches!(saved, Ok(Saved::Stored { .. })));
        }
    }
}

#[tokio::test]
async fn a_machine_that_comes_while_a_template_is_deleted_loses_nothing() {
    for at in 0.. {
        let (_one, world, beside, memory) = last_user_gone().await;
        let calls = Arc::new(AtomicU64::new(0));
        let (upper, its) = (beside.upper.clone(), memory.clone());
        let comes = Comes { at, calls: calls.clone(), upper, memory: its };
        let store: Arc<dyn ObjectStore> = Arc::new(AttendedStore::new(world.store(), comes));
        collect_templates(&store, &HashSet::new()).await.unwrap();
        world.sweep(&[]).await;
        let came = calls.load(Ordering::SeqCst) > at;
        if !came {
            beside.upper.save_memory(memory, &CancellationToken::new()).await.unwrap();
        }
        comes_back_and_leaves_nothing(&world, &beside, at).await;
        if !came {
            assert!(at > 5);
            return;
        }
    }
}

/// Somebody who deletes templates, in the middle of what a machine does.
#[derive(Debug)]
struct Sweeps {
    at: u64,
    calls: Arc<AtomicU64>,
    store: Arc<dyn ObjectStore>,
}

#[async_trait]
impl Attendant for Sweeps {
    async fn before(&self, _store: &dyn ObjectStore, _verb: Verb, _key: &str) {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
            collect_templates(&self.store, &HashSet::new()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_template_that_is_deleted_while_a_machine_comes_is_not_what_it_lies_over() {
    for at in 0.. {
        let (_one, world, beside, memory) = last_user_gone().await;
        let calls = Arc::new(AtomicU64::new(0));
        let sweeps = Sweeps { at, calls: calls.clone(), store: world.store() };
        let store: Arc<dyn ObjectStore> = Arc::new(AttendedStore::new(world.store(), sweeps));
        let upper = Upper::new(store, &world.machine, beside.files.clone());
        upper.save_memory(memory, &CancellationToken::new()).await.unwrap();
        world.sweep(&[]).await;
        comes_back_and_leaves_nothing(&world, &beside, at).await;
        if calls.load(Ordering::SeqCst) <= at {
            assert!(at > 6);
            return;
        }
    }
}

#[tokio::test]
async fn a_machine_whose_memory_has_another_length_now_or_that_booted_lies_over_what_is_there() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.has_template(1);
    one.clone_slept(&world, 1).await;
    // It was given more memory, and booted.
    one.run_and_save(&world, 0, b"more").await;
    std::fs::File::options().write(true).open(one.memory()).unwrap().set_len(300 * PIECE).unwrap();
    one.stored_bytes(2).await;
    two.resumes(&world).await;
    assert!(two.memory_bytes() == one.memory_bytes());
    // Its template is gone, and what it had stored over it is of no use: it boots on a host that has the template.
    let other = world.neighbour();
    let (here, three) = (other.host(), other.host());
    here.has_template(1);
    here.clone_slept(&other, 100).await;
    for key in world.of_templates().await.iter().filter(|key| !key.contains("/users/")) {
        world.memory.delete(&format!("templates/{key}")).await.unwrap();
    }
    let memory = offered(three.begin(other.claim()).await.unwrap()).unwrap();
    assert_eq!(three.take(&memory).await.unwrap_err().kind(), ErrorKind::Corrupt);
    three.write(0, b"it boots");
    three.upper.leave(other.epoch()).await.unwrap();
    three.save_all(&other).await;
    here.run_and_save(&other, 0, b"went on here").await;
    here.clone_wrote([5].into_iter(), 300);
    assert!(here.stored_bytes(3).await < LITTLE + PIECE);
    let elsewhere = other.host();
    elsewhere.resumes(&other).await;
    assert!(elsewhere.memory_bytes() == here.memory_bytes());
}

#[tokio::test]
async fn a_memory_that_was_named_and_not_noted_is_taken_as_it_is_with_a_template_or_without() {
    for later_has_it in [true, false] {
        let world = World::new();
        let (one, two) = (world.host(), world.host());
        one.has_template(1);
        one.run_and_save(&world, 0, b"slept").await;
        one.clone_wrote([3].into_iter(), 1);
        let (with, without) = (one.to_store(), Memory { template: None, ..one.to_store() });
        let (first, second) = if later_has_it { (without, with) } else { (with, without) };
        one.store.inject(Verb::Create, "uppers/", 1, Injection::After);
        let stop = CancellationToken::new();
        one.upper.save_memory(first, &stop).await.unwrap_err();
        assert!(matches!(one.upper.save_memory(second, &stop).await, Ok(Saved::Stored { .. })));
        assert!(Upper::memory_is_stored(&one.files));
        two.resumes(&world).await;
        assert!(two.memory_bytes() == one.memory_bytes());
        delete(&world).await;
        world.sweep(&[]).await;
        assert_eq!(world.keys().await, [""; 0]);
    }
}

#[tokio::test]
async fn names_that_are_none_of_ours_stay_and_harm_nothing() {
    let world = World::new();
    let one = world.host();
    one.has_template(1);
    one.clone_slept(&world, 1).await;
    let ours = manifests(&world.of_templates().await).remove(0);
    let capitals = format!("{}/x", ours.to_uppercase().replace("TEMPLATES", "templates"));
    let foreign = ["templates/x".to_owned(), "templates/no-digest/users/y".to_owned(), capitals];
    for key in &foreign {
        world.memory.put(key, "z".into()).await.unwrap();
    }
    let before = world.keys().await;
    assert_eq!(world.sweep(&[]).await, 0);
    assert_eq!(world.keys().await, before);
    delete(&world).await;
    world.sweep(&[]).await;
    let mut left = world.keys().await;
    left.sort();
    let mut foreign = foreign.to_vec();
    foreign.sort();
    assert_eq!(left, foreign);
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
        world.sweep(&[]).await;
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
        let swept = collect_templates(&store, &HashSet::new()).await;
        world.sweep(&[]).await;
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
    assert!(one.stored_bytes(0).await > PIECES * 60_000);
    assert!(!packs(&world).await.is_empty());
    two.resumes(&world).await;
    assert!(two.memory_bytes() == one.memory_bytes());
}
