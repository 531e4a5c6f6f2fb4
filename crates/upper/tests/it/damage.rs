//! Objects that cannot be read: what nobody can be sure of is kept, and what goes need not be readable.

use base::{MachineId, SnapshotId};
use objstore::ObjectStore;
use upper::{Collected, Hold, Holder, Kept, abandon_fork};

use crate::forks::{WITHOUT, begun, delete, forked, held, stored};
use crate::support::{CHUNK, World, fetched, noise};

/// Pins that cannot be read.
const DAMAGED: [&str; 3] = ["", "{}", "{\"format\":2}"];

impl World {
    pub(crate) async fn overwrite(&self, name: &str, body: &'static str) {
        let key = format!("uppers/{}/{name}", self.machine);
        self.memory.put(&key, body.into()).await.unwrap();
    }

    async fn count(&self, what: &str) -> usize {
        self.own_keys().await.iter().filter(|key| key.contains(what)).count()
    }
}

#[tokio::test]
async fn a_pin_that_cannot_be_read_is_not_no_pin() {
    let world = World::new();
    let host = world.host();
    stored(&world, &host, 0, 1).await;
    stored(&world, &host, 0, 2).await;
    host.run(&world, CHUNK, b"x").await;
    let (newest, _) = host.save_all(&world).await;
    for (name, body) in [
        (SnapshotId::generate().to_string(), "{}"),
        (SnapshotId::generate().to_string(), "{\"format\":2}"),
        (MachineId::generate().to_string(), ""),
        ("of-later".to_owned(), "{\"format\":1}"),
        (format!("{}-memory", SnapshotId::generate()), "DMMEMORY"),
    ] {
        world.overwrite(&format!("pins/{name}"), body).await;
        let before = world.chunks().await;
        host.upper.collect(newest).await.unwrap_err();
        if !name.ends_with("memory") {
            assert_eq!(world.chunks().await, before, "{name}");
        }
        world.memory.delete(&format!("uppers/{}/pins/{name}", world.machine)).await.unwrap();
    }
    host.upper.collect(newest).await.unwrap();
}

#[tokio::test]
async fn a_machine_goes_whatever_is_wrong_with_its_own_snapshots_and_its_mark() {
    for body in DAMAGED {
        let world = World::new();
        let host = world.host();
        stored(&world, &host, 0, 1).await;
        let holder = Holder::Snapshot(SnapshotId::generate());
        let held = host.upper.hold(&holder, world.epoch(), false).await.unwrap();
        assert!(matches!(held, Hold::Kept(_)));
        for name in ["", "-memory"] {
            world.overwrite(&format!("pins/{holder}{name}"), body).await;
        }
        if !body.contains("format") {
            world.overwrite("deleted", body).await;
        }
        delete(&world).await;
        assert_eq!(world.keys().await, Vec::<String>::new(), "{body}");
    }
}

#[tokio::test]
async fn where_it_is_not_certain_what_a_fork_needs_all_stays_until_that_goes() {
    for (what, body) in
        DAMAGED.map(|body| ("pins", body)).into_iter().chain([("manifest", "DMUPPER")])
    {
        let parent = World::new();
        let here = parent.host();
        stored(&parent, &here, 0, 1).await;
        let child = forked(&parent, &here, WITHOUT).await;
        match what {
            "pins" => parent.overwrite(&format!("pins/{}", child.machine), body).await,
            _ => {
                let names = parent.generations().await;
                let stored = names.iter().find(|name| name.ends_with("-stored")).unwrap();
                parent.overwrite(&format!("log/{stored}"), body).await;
            }
        }
        let before = parent.count("").await;
        for _ in 0..2 {
            assert_eq!(delete(&parent).await, Collected::default(), "{what} {body}");
        }
        assert_eq!(parent.count("").await, before + 1, "the mark is there, and all else");
        let there = child.host();
        assert_eq!(there.begin(child.claim()).await.unwrap().found, fetched(&child));
        assert!(there.has(0, &noise(1, 4096)));
        // It can go, and takes all of that along.
        abandon_fork(&parent.store(), &parent.machine, &child.machine).await.unwrap();
        assert_eq!(there.upper.snapshots().await.unwrap(), []);
        delete(&child).await;
        assert_eq!(parent.keys().await, Vec::<String>::new(), "{what} {body}");
    }
}

#[tokio::test]
async fn what_is_pinned_for_something_unknown_stays() {
    let world = World::new();
    let host = world.host();
    stored(&world, &host, 0, 1).await;
    world.overwrite("pins/of-later", "{\"format\":1}").await;
    assert_eq!(host.upper.snapshots().await.unwrap(), [], "it is no snapshot's");
    let before = world.count("").await;
    assert_eq!(delete(&world).await, Collected::default());
    assert_eq!(world.count("").await, before + 1);
}

#[tokio::test]
async fn a_fork_with_a_damaged_manifest_is_one_that_its_parent_keeps_something_for() {
    let parent = World::new();
    let here = parent.host();
    stored(&parent, &here, 0, 1).await;
    let child = forked(&parent, &here, WITHOUT).await;
    let keys = child.own_keys().await;
    let begun = keys.iter().find_map(|key| key.split_once("/log/")).unwrap().1.to_owned();
    child.overwrite(&format!("log/{begun}"), "DMUPPER").await;
    abandon_fork(&parent.store(), &parent.machine, &child.machine).await.unwrap();
    delete(&parent).await;
    assert_eq!((parent.count("/chunks/").await, parent.count("/pins/").await), (1, 1));
}

#[tokio::test]
async fn a_fork_that_has_not_begun_is_given_up_whatever_is_wrong_with_its_pin() {
    for body in DAMAGED {
        let parent = World::new();
        let here = parent.host();
        stored(&parent, &here, 0, 1).await;
        let (child, _) = held(&parent, &here, WITHOUT).await;
        parent.overwrite(&format!("pins/{}", child.machine), body).await;
        begun(&parent, &child).await.unwrap_err();
        abandon_fork(&parent.store(), &parent.machine, &child.machine).await.unwrap();
        assert_eq!(parent.count("/pins/").await, 0, "{body}");
        delete(&parent).await;
        assert_eq!(parent.keys().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_fork_is_made_without_a_memory_that_cannot_be_read_and_it_is_said_why() {
    let snapshot = Holder::Snapshot(SnapshotId::generate());
    for body in [Some("DMMEMORY"), None] {
        for before_it_is_held in [true, false] {
            let parent = World::new();
            let here = parent.host();
            here.run_with_memory(&parent, 1).await;
            let held = here.upper.hold(&snapshot, parent.epoch(), true).await.unwrap();
            assert_eq!(held, Hold::Kept(Kept { memory: Ok(()) }));
            let child = parent.forked();
            let damage = async |holder: &dyn std::fmt::Display| match body {
                Some(body) => parent.overwrite(&format!("pins/{holder}-memory"), body).await,
                None => {
                    let key = format!("uppers/{}/pins/{holder}-memory", parent.machine);
                    parent.memory.delete(&key).await.unwrap();
                }
            };
            if before_it_is_held {
                damage(&snapshot).await;
            }
            let Holder::Snapshot(at) = &snapshot else { unreachable!() };
            let kept = here.upper.hold_again(at, &child.machine).await.unwrap().unwrap();
            let mut why = kept.memory.err();
            assert_eq!(why.is_some(), before_it_is_held);
            if !before_it_is_held {
                damage(&child.machine).await;
            }
            why = why.or(begun(&parent, &child).await.unwrap());
            let why = why.unwrap();
            let expected = if body.is_some() { "damaged" } else { "not in the store" };
            assert!(why.contains(expected), "{why}");
            assert_eq!(begun(&parent, &child).await.unwrap(), None, "it has begun");
            let there = child.host();
            let found = there.begin(child.claim()).await.unwrap();
            assert_eq!((found.found, there.digest()), (fetched(&child), here.digest()));
            assert!(!matches!(found.memory, Some(Ok(_))));
        }
    }
}
