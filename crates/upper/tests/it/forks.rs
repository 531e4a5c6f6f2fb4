//! Forks have what their parents had, go their own ways, and outlive them.

use std::sync::Arc;

use base::{ErrorKind, MachineId, SnapshotId};
use objstore::ObjectStore;
use testkit::{Attendant, AttendedStore, FaultyStore, Injection, Verb};
use upper::{
    Collected, Error, Found, Hold, Holder, Kept, Standing, Upper, abandon_fork, begin_fork,
};

use crate::memory::offered;
use crate::support::{CHUNK, Host, World, fetched, noise};

pub(crate) const WITHOUT: bool = false;

/// Words about a memory, for a fork.
fn retell(about: &[u8]) -> Option<Vec<u8>> {
    Some([about, b", for a fork"].concat())
}

fn for_fork(child: &World) -> Holder {
    Holder::Fork(child.machine.clone())
}

/// Keeps the state of the last run for a fork, which is to be.
pub(crate) async fn held(parent: &World, host: &Host, with_memory: bool) -> (World, Kept) {
    let child = parent.forked();
    match host.upper.hold(&for_fork(&child), parent.epoch(), with_memory).await.unwrap() {
        Hold::Kept(kept) => (child, kept),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn begun(parent: &World, child: &World) -> Result<Option<String>, Error> {
    begin_fork(&child.store(), &parent.machine, &child.machine, &retell).await
}

pub(crate) async fn forked(parent: &World, host: &Host, with_memory: bool) -> World {
    let (child, _) = held(parent, host, with_memory).await;
    assert_eq!(begun(parent, &child).await.unwrap(), None);
    child
}

/// A store of a server that is killed with its next call but `at` under way, which is done.
fn killed_at(world: &World, at: u64) -> Arc<dyn ObjectStore> {
    let store = FaultyStore::new(world.store());
    store.inject(None, "uppers/", at + 1, Injection::KillAfter);
    Arc::new(store)
}

pub(crate) async fn delete(world: &World) -> Collected {
    upper::delete(&world.store(), &world.machine).await.unwrap().collected
}

/// A run that changes something, stored.
pub(crate) async fn stored(world: &World, host: &Host, at: u64, seed: u64) {
    host.run(world, at, &noise(seed, 4096)).await;
    host.save_all(world).await;
}

#[tokio::test]
async fn a_fork_has_everything_costs_nothing_and_goes_its_own_way() {
    let parent = World::new();
    let here = parent.host();
    here.run_through(&parent, 3).await;
    here.save_all(&parent).await;
    let chunks = parent.chunks().await;
    let child = forked(&parent, &here, WITHOUT).await;
    assert_eq!(parent.chunks().await, chunks, "nothing is copied");
    let there = child.host();
    let begun = there.begin(child.claim()).await.unwrap();
    assert_eq!((begun.found, begun.behind), (fetched(&child), None));
    assert_eq!(begun.memory, None, "there is nothing to miss");
    assert_eq!(there.digest(), here.digest());
    // Each goes on, changes a chunk that both have, and stores that alone.
    there.write(0, b"the child was here");
    there.upper.leave(child.epoch()).await.unwrap();
    assert_eq!(there.save_all(&child).await.1, 1);
    here.run(&parent, CHUNK, b"the parent was here").await;
    assert_eq!(here.save_all(&parent).await.1, 1);
    for (world, host) in [(&parent, &here), (&child, &there)] {
        let other = world.host();
        other.begin(world.claim()).await.unwrap();
        assert_eq!(other.digest(), host.digest());
    }
    assert!(there.has(0, b"the child was here") && !here.has(0, b"the child was here"));
}

#[tokio::test]
async fn a_fork_costs_as_many_requests_for_few_chunks_as_for_many() {
    let mut calls = Vec::new();
    for chunks in [1, 30] {
        let parent = World::new();
        let here = parent.host_with_chunks(chunks).await;
        here.save_all(&parent).await;
        let before = here.store.calls();
        let (child, _) = held(&parent, &here, WITHOUT).await;
        let store: Arc<dyn ObjectStore> = Arc::new(here.store.clone());
        begin_fork(&store, &parent.machine, &child.machine, &retell).await.unwrap();
        calls.push(here.store.calls() - before);
    }
    assert_eq!(calls[0], calls[1]);
    assert!(calls[0] <= 12, "{calls:?}");
}

#[tokio::test]
async fn what_a_fork_needs_is_not_collected_and_goes_with_the_last_who_needs_it() {
    let parent = World::new();
    let here = parent.host();
    stored(&parent, &here, 0, 1).await;
    stored(&parent, &here, CHUNK, 2).await;
    let (one, was) = (forked(&parent, &here, WITHOUT).await, here.digest());
    let snapshot = SnapshotId::generate();
    let hold = here.upper.hold(&Holder::Snapshot(snapshot.clone()), parent.epoch(), false).await;
    assert!(matches!(hold.unwrap(), Hold::Kept(_)));
    // All of it is changed, and what was is garbage.
    stored(&parent, &here, 0, 3).await;
    stored(&parent, &here, CHUNK, 4).await;
    let (newest, _) = {
        here.run(&parent, 2 * CHUNK, b"more").await;
        here.save_all(&parent).await
    };
    here.upper.collect(newest).await.unwrap();
    let two = parent.forked();
    let kept = here.upper.hold_again(&snapshot, &two.machine).await.unwrap();
    assert!(kept.is_some());
    here.upper.let_go(&Holder::Snapshot(snapshot.clone())).await.unwrap();
    here.upper.collect(newest).await.unwrap();
    assert_eq!(here.upper.hold_again(&snapshot, &two.machine).await.unwrap(), None, "it is gone");
    // A fork of a snapshot begins where that was made.
    begun(&parent, &two).await.unwrap();
    let check = async |world: &World| {
        let host = world.host();
        let begin = upper::Begin {
            epoch: base::Epoch(1_000 + world.claim().0),
            was_awake: false,
            disk_bytes_max: crate::support::DISK,
        };
        host.begin_with(begin, |_| Ok(()), |_| Ok(())).await.unwrap();
        host.bring_all().await;
        assert_eq!(host.digest(), was);
    };
    check(&one).await;
    check(&two).await;
    // The parent goes, but for what they need.
    delete(&parent).await;
    let left = parent.own_keys().await;
    let chunks = left.iter().filter(|key| key.contains("/chunks/")).count();
    assert_eq!((chunks, left.len()), (2, 2 + 1 + 2 + 1), "chunks, name, pins, mark: {left:?}");
    assert_eq!(delete(&parent).await, Collected::default());
    check(&two).await;
    delete(&one).await;
    check(&two).await;
    delete(&two).await;
    assert_eq!(parent.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_fork_of_a_fork_outlives_both() {
    let first = World::new();
    let one = first.host();
    stored(&first, &one, 0, 1).await;
    let second = forked(&first, &one, WITHOUT).await;
    let two = second.host();
    two.begin(second.claim()).await.unwrap();
    two.write(CHUNK, b"second");
    two.upper.leave(second.epoch()).await.unwrap();
    two.save_all(&second).await;
    let third = forked(&second, &two, WITHOUT).await;
    // In both orders of deletion.
    delete(&first).await;
    delete(&second).await;
    let three = third.host();
    three.begin(third.claim()).await.unwrap();
    assert_eq!(three.digest(), two.digest());
    three.write(2 * CHUNK, b"third");
    three.upper.leave(third.epoch()).await.unwrap();
    let (newest, chunks) = three.save_all(&third).await;
    assert_eq!(chunks, 1);
    three.upper.collect(newest).await.unwrap();
    let other = third.host();
    other.begin(third.claim()).await.unwrap();
    assert_eq!(other.digest(), three.digest());
    delete(&third).await;
    assert_eq!(first.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_not_stored_yet_or_went_on_is_not_kept() {
    let world = World::new();
    let (here, there) = (world.host(), world.host());
    let holder = Holder::Snapshot(SnapshotId::generate());
    let hold = async |host: &Host, epoch| host.upper.hold(&holder, epoch, true).await.unwrap();
    assert_eq!(hold(&here, world.epoch()).await, Hold::Nothing);
    here.run(&world, 0, b"first").await;
    assert_eq!(hold(&here, world.epoch()).await, Hold::Storing);
    assert_eq!(hold(&there, world.epoch()).await, Hold::Storing, "another host is told so");
    // Nor where the store was not told.
    here.save_all(&world).await;
    let epoch = world.claim();
    here.begin(epoch).await.unwrap();
    here.write(0, b"second");
    here.store.inject(Verb::Put, "uppers/", 1, Injection::Before);
    here.upper.leave(epoch).await.unwrap_err();
    assert_eq!(hold(&here, epoch).await, Hold::Storing);
    here.save_all(&world).await;
    // Of the state of the home before, it is not.
    assert_eq!(hold(&here, base::Epoch(epoch.0 - 1)).await, Hold::Moved);
    assert!(matches!(hold(&here, epoch).await, Hold::Kept(_)));
    assert!(matches!(hold(&here, epoch).await, Hold::Kept(_)), "it is kept already");
    // A run of which nobody came to note the end.
    let epoch = world.claim();
    here.begin(epoch).await.unwrap();
    here.write(0, b"third");
    let other = Holder::Snapshot(SnapshotId::generate());
    assert_eq!(here.upper.hold(&other, epoch, true).await.unwrap(), Hold::Storing);
}

#[tokio::test]
async fn a_machine_without_a_disk_has_nothing_to_keep() {
    let world = World::new();
    let host = world.host();
    // Woken on a host that found none.
    world.claim();
    host.begin(world.claim()).await.unwrap();
    std::fs::remove_file(&host.files.disk).unwrap();
    let holder = Holder::Fork(MachineId::generate());
    assert_eq!(host.upper.hold(&holder, world.epoch(), true).await.unwrap(), Hold::Nothing);
    assert!(!world.keys().await.iter().any(|key| key.contains("/pins/")));
}

#[tokio::test]
async fn a_fork_that_is_broken_off_anywhere_is_finished_by_the_same_again() {
    for with_memory in [false, true] {
        for at in 0.. {
            let parent = World::new();
            let here = parent.host();
            here.run_and_save(&parent, 0, &noise(1, 64)).await;
            here.remember(0..3, 1);
            here.memory_stored().await;
            let child = parent.forked();
            let (holder, epoch) = (for_fork(&child), parent.epoch());
            let attempt = async |store: Arc<dyn ObjectStore>| {
                let upper = Upper::new(store.clone(), &parent.machine, here.files.clone());
                upper.hold(&holder, epoch, with_memory).await?;
                begin_fork(&store, &parent.machine, &child.machine, &retell).await.map(drop)
            };
            let broken = attempt(killed_at(&parent, at)).await.is_err();
            attempt(parent.store()).await.unwrap();
            attempt(parent.store()).await.unwrap();
            let there = child.host();
            let begun = there.begin(child.claim()).await.unwrap();
            assert_eq!(begun.found, fetched(&child), "killed at {at}");
            assert!(there.has(0, &noise(1, 64)));
            let memory = begun.memory.is_some_and(|memory| memory.is_ok());
            assert_eq!(memory, with_memory, "killed at {at}");
            delete(&parent).await;
            delete(&child).await;
            assert_eq!(parent.keys().await, Vec::<String>::new(), "killed at {at}");
            if !broken {
                assert!(at > 5, "{at}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn deletions_that_are_broken_off_anywhere_leave_what_forks_need_and_then_nothing() {
    for at in 0.. {
        let parent = World::new();
        let here = parent.host();
        stored(&parent, &here, 0, 1).await;
        let (one, two) =
            (forked(&parent, &here, WITHOUT).await, forked(&parent, &here, WITHOUT).await);
        stored(&parent, &here, 0, 2).await;
        let mut through = true;
        for machine in [&parent.machine, &one.machine] {
            through &= upper::delete(&killed_at(&parent, at), machine).await.is_ok();
        }
        let there = two.host();
        assert_eq!(there.begin(two.claim()).await.unwrap().found, fetched(&two), "killed at {at}");
        assert!(there.has(0, &noise(1, 4096)), "killed at {at}");
        for world in [&parent, &one, &two] {
            delete(world).await;
        }
        assert_eq!(parent.keys().await, Vec::<String>::new(), "killed at {at}");
        if through {
            break;
        }
    }
}

#[tokio::test]
async fn a_fork_that_was_never_begun_keeps_nothing_of_a_parent_that_goes() {
    let parent = World::new();
    let here = parent.host();
    stored(&parent, &here, 0, 1).await;
    let (child, _) = held(&parent, &here, WITHOUT).await;
    delete(&parent).await;
    assert!(parent.own_keys().await.is_empty());
    // Nobody begins it any more, upon what is gone.
    assert_eq!(begun(&parent, &child).await.unwrap_err().kind(), ErrorKind::NotFound);
    delete(&child).await;
    assert_eq!(parent.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn one_that_is_abandoned_lets_go_and_one_that_has_begun_is_not() {
    let parent = World::new();
    let here = parent.host();
    stored(&parent, &here, 0, 1).await;
    let (child, _) = held(&parent, &here, WITHOUT).await;
    let begun_one = forked(&parent, &here, WITHOUT).await;
    for world in [&child, &begun_one, &child] {
        abandon_fork(&parent.store(), &parent.machine, &world.machine).await.unwrap();
    }
    assert_eq!(begun(&parent, &child).await.unwrap_err().kind(), ErrorKind::NotFound);
    let pins: Vec<_> =
        parent.own_keys().await.into_iter().filter(|key| key.contains("/pins/")).collect();
    assert_eq!(pins.len(), 1);
    assert!(pins[0].ends_with(begun_one.machine.as_str()));
}

#[tokio::test]
async fn of_a_machine_that_is_deleted_nothing_is_kept() {
    let world = World::new();
    let host = world.host();
    stored(&world, &host, 0, 1).await;
    let grave = format!("uppers/{}/deleted", world.machine);
    world.memory.put(&grave, "{\"format\":1,\"parent\":null}".into()).await.unwrap();
    let holder = Holder::Fork(MachineId::generate());
    let error = host.upper.hold(&holder, world.epoch(), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!world.keys().await.iter().any(|key| key.contains("/pins/")));
}

/// Makes a fork of a snapshot and lets the snapshot go, between the names of pins and the first look at one.
#[derive(Debug)]
struct HandingOver {
    from: String,
    to: String,
}

#[async_trait::async_trait]
impl Attendant for HandingOver {
    async fn before(&self, store: &dyn ObjectStore, verb: Verb, key: &str) {
        for end in ["", "-memory"] {
            let (from, to) = (format!("{}{end}", self.from), format!("{}{end}", self.to));
            if verb == Verb::Get && key == from && store.head(&from).await.is_ok() {
                let pin = store.get(&from, None).await.unwrap();
                store.put(&to, pin).await.unwrap();
                store.delete(&from).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn what_is_handed_from_a_snapshot_to_a_fork_is_kept_all_the_time() {
    let world = World::new();
    let host = world.host();
    host.run_with_memory(&world, 1).await;
    let snapshot = Holder::Snapshot(SnapshotId::generate());
    let hold = host.upper.hold(&snapshot, world.epoch(), true).await.unwrap();
    assert_eq!(hold, Hold::Kept(Kept { memory: Ok(()) }));
    let (kept, was) = (crate::memory::packs(&world).await, host.digest());
    // Nothing of it is in what the next runs leave.
    let child = world.forked();
    host.run_with_memory(&world, 2).await;
    host.run_with_memory(&world, 3).await;
    let (newest, _) = {
        host.run(&world, CHUNK, b"more").await;
        host.save_all(&world).await
    };
    let pins = format!("uppers/{}/pins/", world.machine);
    let handing =
        HandingOver { from: format!("{pins}{snapshot}"), to: format!("{pins}{}", child.machine) };
    let store = AttendedStore::new(world.store(), handing);
    Upper::new(Arc::new(store), &world.machine, host.files.clone()).collect(newest).await.unwrap();
    let packs = crate::memory::packs(&world).await;
    assert!(kept.iter().all(|pack| packs.contains(pack)), "{packs:?}");
    begun(&world, &child).await.unwrap();
    let there = child.host();
    let found = there.begin(child.claim()).await.unwrap();
    assert_eq!(there.digest(), was);
    there.take(&offered(found).unwrap()).await.unwrap();
}

#[tokio::test]
async fn snapshots_are_listed_with_what_they_keep() {
    let world = World::new();
    let host = world.host();
    host.run_with_memory(&world, 1).await;
    let (with, without) = (SnapshotId::generate(), SnapshotId::generate());
    for (id, memory) in [(&with, true), (&without, false)] {
        let holder = Holder::Snapshot(id.clone());
        let Hold::Kept(kept) = host.upper.hold(&holder, world.epoch(), memory).await.unwrap()
        else {
            panic!("it is not kept");
        };
        assert_eq!(kept.memory.is_ok(), memory);
        assert_eq!(host.upper.kept(id).await.unwrap().unwrap().memory.is_ok(), memory);
    }
    let mut expected = vec![(with.clone(), true), (without, false)];
    expected.sort();
    let mut listed = host.upper.snapshots().await.unwrap();
    listed.sort();
    assert_eq!(listed, expected);
    host.upper.let_go(&Holder::Snapshot(with.clone())).await.unwrap();
    assert_eq!(host.upper.kept(&with).await.unwrap(), None);
    assert_eq!(host.upper.snapshots().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_fork_goes_on_from_the_memory_once_and_stores_what_changed_of_it() {
    let parent = World::new();
    let here = parent.host();
    here.run_with_memory(&parent, 1).await;
    let memory = here.memory_bytes();
    let child = forked(&parent, &here, true).await;
    // The parent goes on, and stores another one in its place.
    here.begin(parent.claim()).await.unwrap();
    here.write(0, b"further");
    here.upper.leave(parent.epoch()).await.unwrap();
    here.save_all(&parent).await;
    here.remember(0..120, 2);
    here.memory_stored().await;
    let (there, late) = (child.host(), child.host());
    let found = there.begin(child.claim()).await.unwrap();
    assert_eq!(found.found, Found::Stored { root: child.root });
    let stored = offered(found).unwrap();
    assert_eq!(stored.about(), b"about it, for a fork");
    there.take(&stored).await.unwrap();
    assert!(there.memory_bytes() == memory);
    there.upper.note_memory_used(&stored).await.unwrap();
    // For no other claim.
    let found = late.begin(child.claim()).await.unwrap();
    assert!(offered(found).unwrap_err().contains("the machine ran"));
    // What it leaves is compared with that: nothing of it changed but a piece.
    there.upper.leave(child.epoch()).await.unwrap();
}

#[tokio::test]
async fn packs_of_a_parent_stay_as_long_as_a_fork_names_them() {
    let parent = World::new();
    let here = parent.host();
    here.run_with_memory(&parent, 1).await;
    let child = forked(&parent, &here, true).await;
    let there = child.host();
    let stored = offered(there.begin(child.claim()).await.unwrap()).unwrap();
    there.take(&stored).await.unwrap();
    there.upper.note_memory_used(&stored).await.unwrap();
    there.write(0, b"child");
    there.upper.leave(child.epoch()).await.unwrap();
    there.save_all(&child).await;
    there.remember(0..1, 5);
    there.memory_stored().await;
    delete(&parent).await;
    let packs_left = parent.own_keys().await.iter().filter(|key| key.contains("/memory/")).count();
    assert_eq!(packs_left, 1, "it is the parent's");
    let other = child.host();
    let stored = offered(other.begin(child.claim()).await.unwrap()).unwrap();
    other.take(&stored).await.unwrap();
    assert!(other.memory_bytes() == there.memory_bytes());
    // The next one takes the place of what is its own, and leaves alone what is not.
    other.upper.note_memory_used(&stored).await.unwrap();
    other.write(0, b"further");
    other.upper.leave(child.epoch()).await.unwrap();
    other.save_all(&child).await;
    other.remember(0..120, 9);
    other.memory_stored().await;
    assert_eq!(
        parent.own_keys().await.iter().filter(|key| key.contains("/memory/")).count(),
        1,
        "nothing of the parent is the child's to delete"
    );
    delete(&child).await;
    assert_eq!(parent.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_only_a_snapshot_or_a_fork_kept_can_be_collected_once_that_is_gone() {
    let parent = World::new();
    let here = parent.host();
    let snapshot = Holder::Snapshot(SnapshotId::generate());
    assert_eq!(here.upper.freed().await.unwrap(), None, "there is nothing");
    stored(&parent, &here, 0, 1).await;
    let hold = here.upper.hold(&snapshot, parent.epoch(), WITHOUT).await.unwrap();
    assert!(matches!(hold, Hold::Kept(_)));
    stored(&parent, &here, 0, 2).await;
    let child = forked(&parent, &here, WITHOUT).await;
    stored(&parent, &here, 0, 3).await;
    let collected = async |chunks: usize| {
        let since = here.upper.freed().await.unwrap().unwrap();
        let uncollected = Some(since);
        assert_eq!(Upper::standing(&here.files), Standing::Stored { uncollected });
        here.upper.collect(since).await.unwrap();
        here.upper.note_collected(since).await.unwrap();
        let nothing = Standing::Stored { uncollected: None };
        assert_eq!(Upper::standing(&here.files), nothing);
        assert_eq!(parent.chunks().await.len(), chunks);
    };
    collected(3).await;
    here.upper.let_go(&snapshot).await.unwrap();
    collected(2).await;
    let deleted = upper::delete(&parent.store(), &child.machine).await.unwrap();
    assert_eq!(deleted.freed, Some(parent.machine.clone()));
    collected(1).await;
    // A host that it never ran on knows it too, and notes nothing.
    let there = parent.host();
    assert_eq!(there.upper.freed().await.unwrap(), here.upper.freed().await.unwrap());
    assert_eq!(Upper::standing(&there.files), Standing::Unknown);
    // Of a parent that goes, nobody is told.
    let child = forked(&parent, &here, WITHOUT).await;
    delete(&parent).await;
    let deleted = upper::delete(&parent.store(), &child.machine).await.unwrap();
    assert_eq!((deleted.freed, parent.keys().await), (None, vec![]));
}
