//! Machines whose homes are mounted on this host, in memory.

use std::time::Duration;

use base::SnapshotId;

use super::*;
use crate::Control;
use crate::PageQuery;
use crate::executions::NewExecution;
use crate::fakes::life::{by_id, created, delete, named, settled, slept, woken};
use crate::fakes::{World, eventually};
use crate::machines::driver::Drivers;
use crate::machines::{IfMatch, Machine, Phase, intent};
use crate::snapshots::{ForkMachine, NewSnapshot};

/// What a mount says of itself here.
const PROCESS: u32 = 4_711;

/// A machine that sleeps, its home mounted.
async fn mounted(world: &World, control: &Control) -> Machine {
    let machine = created(control, named("one")).await;
    let machine = slept(control, &machine).await;
    world.host.mount(&machine.home_id, Some(PROCESS));
    machine
}

fn check(refused: &Error, then: &str) {
    assert_eq!((refused.kind(), &*refused.code), (ErrorKind::Conflict, "INVALID_STATE"));
    assert_eq!(
        refused.message,
        format!(
            "machine one is mounted read-write on this host (process 4711); unmount it, then {then}"
        )
    );
    assert_eq!(refused.details["process"], "4711");
}

#[tokio::test]
async fn a_machine_that_is_mounted_is_not_deleted() {
    let world = World::new();
    let control = world.open().await;
    let machine = mounted(&world, &control).await;
    let refused = control.machines().delete(&by_id(&machine), &IfMatch::Any).await.unwrap_err();
    check(&refused, "delete it");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let still = control.machines().get(&by_id(&machine)).await.unwrap();
    assert_eq!((still.phase, still.revision), (Phase::Sleeping, machine.revision.clone()));
    assert!(world.host.has_home(&machine.home_id));
    world.host.mount(&machine.home_id, None);
    assert_eq!(delete(&control, &machine).await.phase, Phase::Destroyed);
    assert!(!world.host.has_home(&machine.home_id));
}

#[tokio::test]
async fn a_mount_that_was_quicker_than_a_deletion_keeps_the_home_until_it_ends() {
    let world = World::new();
    let control = world.open().await;
    let machine = mounted(&world, &control).await;
    let inner = control.machines().inner.clone();
    let id = machine.machine_id.clone();
    inner.edit(&id, |row| intent::delete(row, &IfMatch::Any)).await.unwrap();
    Drivers::nudge(&inner, &id);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(world.host.has_home(&machine.home_id));
    let waits = control.machines().get(&by_id(&machine)).await.unwrap();
    assert!(waits.status.last_error.unwrap().contains("process 4711"));
    // Asked for again: it is under way.
    control.machines().delete(&by_id(&machine), &IfMatch::Any).await.unwrap();
    world.host.mount(&machine.home_id, None);
    eventually(|| !world.host.has_home(&machine.home_id)).await;
}

#[tokio::test]
async fn a_mount_that_an_awake_machine_is_about_to_refuse_holds_up_nothing() {
    let world = World::new();
    let control = world.open().await;
    let machine = created(&control, named("one")).await;
    world.host.state.lock().mounted.insert(machine.home_id.clone(), PROCESS);
    let asked = control.machines().delete(&by_id(&machine), &IfMatch::Any).await.unwrap();
    assert_eq!(asked.phase, Phase::Destroying);
}

#[tokio::test]
async fn a_machine_that_is_mounted_is_not_woken_and_stays_asleep() {
    let world = World::new();
    let control = world.open().await;
    let machine = mounted(&world, &control).await;
    let (one, machines) = (by_id(&machine), control.machines());
    let starts = world.host.starts();
    check(&machines.wake(&one, &IfMatch::Any).await.unwrap_err(), "wake it");
    check(&machines.wake_cold(&one, &IfMatch::Any).await.unwrap_err(), "wake it");
    check(&machines.reboot(&one, true, &IfMatch::Any).await.unwrap_err(), "reboot it");
    let command = NewExecution { command: vec!["true".to_owned()], ..NewExecution::default() };
    let refused = control.executions().create(&one, command).await.unwrap_err();
    check(&refused, "run the command again");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let still = machines.get(&one).await.unwrap();
    assert_eq!((still.phase, still.revision), (Phase::Sleeping, machine.revision.clone()));
    assert_eq!((world.host.starts(), world.host.forgotten()), (starts, 0));
    world.host.mount(&machine.home_id, None);
    woken(&control, &machine).await;
}

#[tokio::test]
async fn a_time_that_comes_while_it_is_mounted_waits_for_the_unmount() {
    let world = World::new();
    let control = world.open().await;
    let machine = mounted(&world, &control).await;
    let (one, machines) = (by_id(&machine), control.machines());
    let at = world.parts().clock.now() + Duration::from_secs(60);
    machines.wake_at(&one, Some(at), &IfMatch::Any).await.unwrap();
    world.clock.advance(Duration::from_secs(120));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(machines.get(&one).await.unwrap().phase, Phase::Sleeping);
    world.host.mount(&machine.home_id, None);
    eventually(|| world.host.is_running(&machine.machine_id)).await;
}

#[tokio::test]
async fn a_mount_that_was_quicker_than_a_wake_is_named_and_no_keeper_starts() {
    let world = World::new();
    let control = world.open().await;
    let machine = mounted(&world, &control).await;
    let starts = world.host.starts();
    let inner = control.machines().inner.clone();
    let id = machine.machine_id.clone();
    inner.edit(&id, |row| intent::wake(row, &IfMatch::Any)).await.unwrap();
    Drivers::nudge(&inner, &id);
    let failed = settled(&control, control.machines().get(&by_id(&machine)).await.unwrap()).await;
    assert_eq!((failed.phase, world.host.starts()), (Phase::Failed, starts));
    assert!(
        failed.status.last_error.unwrap().ends_with("(process 4711); unmount it, then wake it")
    );
}

#[tokio::test]
async fn of_a_machine_that_is_mounted_no_state_is_kept_and_none_brought_back() {
    let world = World::new();
    let control = world.open().await;
    let machine = slept(&control, &created(&control, named("one")).await).await;
    let (one, snapshots) = (by_id(&machine), control.snapshots());
    let before = snapshots.create(&one, NewSnapshot::default()).await.unwrap().snapshot_id;
    world.host.mount(&machine.home_id, Some(PROCESS));
    let refused = snapshots.create(&one, NewSnapshot::default()).await.unwrap_err();
    check(&refused, "keep a snapshot");
    let fork = |at: Option<&SnapshotId>| ForkMachine {
        snapshot_id: at.cloned(),
        ..ForkMachine::default()
    };
    check(&snapshots.fork(&one, fork(None)).await.unwrap_err(), "fork it");
    check(&snapshots.restore(&one, &before).await.unwrap_err(), "restore it");
    assert_eq!(snapshots.list(&one, &PageQuery::default()).await.unwrap().items.len(), 1);
    // What was kept before is not what the mount changes.
    snapshots.fork(&one, fork(Some(&before))).await.unwrap();
    world.host.mount(&machine.home_id, None);
    snapshots.create(&one, NewSnapshot::default()).await.unwrap();
    snapshots.fork(&one, fork(None)).await.unwrap();
}
