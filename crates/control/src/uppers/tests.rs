//! When uppers are stored, against a host in memory.

use std::time::Duration;

use super::*;
use crate::fakes::life::{by_id, delete, running, slept, woken};
use crate::fakes::{World, eventually};
use crate::machines::{IfMatch, Machine};
use crate::{Control, PageQuery};

fn stored(world: &World, machine: &Machine) -> u32 {
    let state = world.host.state.lock();
    state.uppers.of.get(&machine.machine_id).map_or(0, |upper| upper.stored)
}

async fn until_upper(control: &Control, machine: &Machine, wanted: Option<UpperStatus>) -> Machine {
    for _ in 0..6_000 {
        let seen = control.machines().get(&by_id(machine)).await.unwrap();
        if seen.status.upper == wanted {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not come to hold within half a minute");
}

/// Waits until the memory of a sleeping machine is so.
async fn until_memory(control: &Control, machine: &Machine, wanted: Option<UpperStatus>) {
    for _ in 0..6_000 {
        let seen = control.machines().get(&by_id(machine)).await.unwrap();
        if seen.status.memory == wanted && seen.status.upper == Some(UpperStatus::Stored) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not come to hold within half a minute");
}

fn memories(world: &World, machine: &Machine) -> u32 {
    world.host.state.lock().uppers.of[&machine.machine_id].memories
}

#[tokio::test]
async fn memory_is_stored_after_the_upper_once_the_machine_has_slept_for_a_while() {
    let mut world = World::new();
    world.timing.store_memory_after = Some(Duration::from_secs(6));
    world.host.state.lock().uppers.remembers = true;
    let control = world.open().await;
    let machine = running(&control).await;
    for _ in 0..3 {
        // It wakes too soon.
        slept(&control, &machine).await;
        until_memory(&control, &machine, Some(UpperStatus::Storing)).await;
        assert_eq!(woken(&control, &machine).await.status.memory, None);
    }
    assert_eq!(memories(&world, &machine), 0);
    slept(&control, &machine).await;
    until_memory(&control, &machine, Some(UpperStatus::Stored)).await;
    assert_eq!(memories(&world, &machine), 1);
    control.close().await;
    // The next server finds that it is.
    let control = world.open().await;
    until_memory(&control, &machine, Some(UpperStatus::Stored)).await;
    assert_eq!(memories(&world, &machine), 1);
    assert_eq!(woken(&control, &machine).await.status.memory, None);
    control.close().await;
}

#[tokio::test]
async fn a_wake_ends_an_upload_of_memory_first_and_the_next_server_takes_one_up() {
    let world = World::new();
    world.host.state.lock().uppers.remembers = true;
    let control = world.open().await;
    let machine = running(&control).await;
    let id = &machine.machine_id;
    let storing = || world.host.state.lock().uppers.of[id].storing;
    for _ in 0..3 {
        // From before the sleep on, or the upload may have ended before anybody looked.
        world.host.state.lock().uppers.memory_held = true;
        slept(&control, &machine).await;
        until_upper(&control, &machine, Some(UpperStatus::Stored)).await;
        eventually(storing).await;
        // The host refuses a keeper while it reads.
        woken(&control, &machine).await;
        world.host.state.lock().uppers.memory_held = false;
    }
    let before = memories(&world, &machine);
    world.host.state.lock().uppers.memory_held = true;
    slept(&control, &machine).await;
    until_upper(&control, &machine, Some(UpperStatus::Stored)).await;
    eventually(storing).await;
    control.close().await;
    assert!(!storing());
    world.host.state.lock().uppers.memory_held = false;
    let control = world.open().await;
    until_memory(&control, &machine, Some(UpperStatus::Stored)).await;
    assert_eq!(memories(&world, &machine), before + 1);
    control.close().await;
}

#[tokio::test]
async fn memory_that_cannot_be_stored_is_tried_again_and_said_and_the_upper_is_stored_all_the_same()
{
    let world = World::new();
    world.host.state.lock().uppers.remembers = true;
    world.host.state.lock().uppers.memory_errors.extend([ErrorKind::Unavailable; 6]);
    let control = world.open().await;
    let machine = running(&control).await;
    slept(&control, &machine).await;
    let mut said = None;
    for _ in 0..6_000 {
        let seen = control.machines().get(&by_id(&machine)).await.unwrap();
        said = said.or(seen.status.last_error);
        if seen.status.memory == Some(UpperStatus::Stored) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(said.unwrap().contains("its memory is on this host only"), "nothing was said");
    until_memory(&control, &machine, Some(UpperStatus::Stored)).await;
    // Where no attempt can do, it is left alone.
    woken(&control, &machine).await;
    world.host.state.lock().uppers.memory_errors.push_back(ErrorKind::Fenced);
    slept(&control, &machine).await;
    eventually(|| world.host.state.lock().uppers.memory_errors.is_empty()).await;
    until_memory(&control, &machine, None).await;
    assert_eq!(memories(&world, &machine), 1);
    control.close().await;
}

#[tokio::test]
async fn memory_that_is_not_to_be_stored_is_not_and_what_was_is_deleted() {
    let mut world = World::new();
    world.timing.store_memory_after = None;
    world.host.state.lock().uppers.remembers = true;
    let control = world.open().await;
    let machine = running(&control).await;
    slept(&control, &machine).await;
    let unstored = || world.host.state.lock().uppers.unstored.contains(&machine.machine_id);
    eventually(unstored).await;
    until_memory(&control, &machine, None).await;
    assert_eq!(memories(&world, &machine), 0);
    control.close().await;
}

#[tokio::test]
async fn a_machine_is_asleep_before_its_upper_is_stored_and_says_so() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    assert_eq!(machine.status.upper, None, "it is awake");
    world.host.state.lock().uppers.held = true;
    let asleep = slept(&control, &machine).await;
    assert_eq!(asleep.status.upper, Some(UpperStatus::Storing));
    assert_eq!(stored(&world, &machine), 0);
    world.host.state.lock().uppers.held = false;
    until_upper(&control, &machine, Some(UpperStatus::Stored)).await;
    assert_eq!(stored(&world, &machine), 1);
    let listed = control.machines().list(&PageQuery::default()).await.unwrap();
    assert_eq!(listed.items[0].status.upper, Some(UpperStatus::Stored));
    // What it replaces goes later, by itself.
    eventually(|| {
        let state = world.host.state.lock();
        state.uppers.of[&machine.machine_id].collected == ["generation 1"]
    })
    .await;
    control.close().await;
}

#[tokio::test]
async fn a_wake_ends_an_upload_first_and_the_next_sleep_takes_it_up() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.state.lock().uppers.held = true;
    for _ in 0..5 {
        slept(&control, &machine).await;
        let id = &machine.machine_id;
        eventually(|| world.host.state.lock().uppers.of[id].storing).await;
        // The host refuses a keeper while it reads.
        assert_eq!(woken(&control, &machine).await.status.upper, None);
    }
    assert_eq!(stored(&world, &machine), 0);
    world.host.state.lock().uppers.held = false;
    slept(&control, &machine).await;
    until_upper(&control, &machine, Some(UpperStatus::Stored)).await;
    assert_eq!(stored(&world, &machine), 1);
    control.close().await;
}

#[tokio::test]
async fn a_store_that_is_away_is_said_and_tried_again() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.state.lock().uppers.errors.extend([ErrorKind::Unavailable; 6]);
    slept(&control, &machine).await;
    let mut said = None;
    for _ in 0..6_000 {
        let seen = control.machines().get(&by_id(&machine)).await.unwrap();
        assert_eq!(seen.phase, Phase::Sleeping);
        said = said.or(seen.status.last_error);
        if seen.status.upper == Some(UpperStatus::Stored) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(said.unwrap().contains("on this host only"), "nothing was said");
    let seen = control.machines().get(&by_id(&machine)).await.unwrap();
    assert_eq!((seen.status.upper, seen.status.last_error), (Some(UpperStatus::Stored), None));
    control.close().await;
}

#[tokio::test]
async fn what_one_server_did_not_come_to_is_stored_by_the_next() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.state.lock().uppers.held = true;
    slept(&control, &machine).await;
    let storing = || world.host.state.lock().uppers.of[&machine.machine_id].storing;
    eventually(storing).await;
    control.close().await;
    assert!(!storing(), "it was broken off before it could note what it has stored");
    world.host.state.lock().uppers.held = false;
    let control = world.open().await;
    until_upper(&control, &machine, Some(UpperStatus::Stored)).await;
    assert_eq!(stored(&world, &machine), 1);
    control.close().await;
}

#[tokio::test]
async fn what_one_server_did_not_collect_the_next_does_and_nothing_that_came_since() {
    let mut world = World::new();
    world.timing.collect_upper_after = Duration::from_secs(60);
    let control = world.open().await;
    let machine = running(&control).await;
    slept(&control, &machine).await;
    until_upper(&control, &machine, Some(UpperStatus::Stored)).await;
    control.close().await;
    let collected = || world.host.state.lock().uppers.of[&machine.machine_id].collected.clone();
    assert_eq!(collected(), Vec::<String>::new());
    world.timing.collect_upper_after = Duration::from_secs(4);
    let control = world.open().await;
    until_upper(&control, &machine, Some(UpperStatus::Stored)).await;
    // It runs and sleeps anew before what the first server left is due.
    woken(&control, &machine).await;
    slept(&control, &machine).await;
    until_upper(&control, &machine, Some(UpperStatus::Stored)).await;
    assert_eq!((stored(&world, &machine), collected()), (2, Vec::new()));
    eventually(|| !collected().is_empty()).await;
    assert_eq!(collected()[0], "generation 1");
    eventually(|| collected().len() > 1).await;
    assert_eq!(collected(), ["generation 1", "generation 2"]);
    control.close().await;
}

#[tokio::test]
async fn an_upper_that_no_attempt_can_store_is_left_alone_and_it_is_said_why() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    for (kind, advice) in [(ErrorKind::Fenced, "there"), (ErrorKind::Conflict, "next sleep")] {
        world.host.state.lock().uppers.errors.push_back(kind);
        slept(&control, &machine).await;
        // It is not on its way any more.
        let seen = until_upper(&control, &machine, None).await;
        let said = seen.status.last_error.unwrap_or_default();
        assert!(said.contains("on this host only") && said.contains(advice), "{said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(stored(&world, &machine), 0);
        assert_eq!(woken(&control, &machine).await.status.last_error, None);
    }
    // The next sleep takes it up.
    slept(&control, &machine).await;
    let seen = until_upper(&control, &machine, Some(UpperStatus::Stored)).await;
    assert_eq!((seen.status.last_error, stored(&world, &machine)), (None, 1));
    control.close().await;
}

#[tokio::test]
async fn what_is_missing_of_an_upper_is_said_of_the_machine() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    slept(&control, &machine).await;
    world.host.state.lock().uppers.missing = Some("it begins empty".to_owned());
    let awake = woken(&control, &machine).await;
    assert_eq!(awake.status.reason, "upper_behind");
    assert_eq!(awake.status.last_error.as_deref(), Some("it begins empty"));
    control.close().await;
}

#[tokio::test]
async fn a_wake_says_that_it_restores_and_has_the_time_for_it() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    slept(&control, &machine).await;
    world.host.hold_starting(true);
    world.host.state.lock().uppers.restoring = Some((1, 9));
    control.machines().wake(&by_id(&machine), &IfMatch::Any).await.unwrap();
    let restoring = || async {
        let seen = control.machines().get(&by_id(&machine)).await.unwrap();
        (seen.phase, seen.status.reason) == (Phase::Starting, "restoring_upper".to_owned())
    };
    for _ in 0..6_000 {
        if restoring().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Longer than a guest has to boot.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(restoring().await);
    world.host.state.lock().uppers.restoring = None;
    world.host.hold_starting(false);
    woken(&control, &machine).await;
    control.close().await;
}

#[tokio::test]
async fn an_upper_that_is_still_coming_is_said_of_a_machine_that_runs_and_what_keeps_it() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    slept(&control, &machine).await;
    world.host.state.lock().uppers.coming = Some((1, 9));
    let awake = woken(&control, &machine).await;
    assert_eq!((awake.phase, awake.status.last_error), (Phase::Running, None));
    until_upper(&control, &machine, Some(UpperStatus::Restoring)).await;
    world.host.state.lock().uppers.trouble = Some("the store is away".to_owned());
    let said = || async {
        let seen = control.machines().get(&by_id(&machine)).await.unwrap();
        seen.status.last_error.unwrap_or_default()
    };
    for _ in 0..6_000 {
        if said().await.contains("the store is away") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(said().await.contains("the store is away"));
    world.host.state.lock().uppers.coming = None;
    world.host.state.lock().uppers.trouble = None;
    let seen = until_upper(&control, &machine, None).await;
    assert_eq!(seen.status.last_error, None);
    control.close().await;
}

#[tokio::test]
async fn a_deleted_machine_leaves_no_upper_in_the_store() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.state.lock().uppers.held = true;
    slept(&control, &machine).await;
    assert_eq!(delete(&control, &machine).await.phase, Phase::Destroyed);
    assert!(world.host.state.lock().uppers.of.is_empty());
    assert!(control.machines().inner.uppers.known.lock().is_empty());
    control.close().await;
}
