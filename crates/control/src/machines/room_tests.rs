//! Guests that wait for room on their host's disk, in memory.

use base::ErrorKind;

use super::*;
use crate::Control;
use crate::executions::NewExecution;
use crate::fakes::World;
use crate::fakes::life::{SOON, by_id, delete, named, running, slept, woken};

async fn until(control: &Control, machine: &Machine, reason: &str) -> Machine {
    let seen = async {
        loop {
            let now = control.machines().get(&by_id(machine)).await.unwrap();
            if now.status.reason == reason {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, seen).await.unwrap_or_else(|_| panic!("its reason is not {reason}"))
}

#[tokio::test]
async fn a_guest_that_waits_for_room_is_said_as_long_as_it_does() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    let before = machine.status.clone();
    for _ in 0..2 {
        world.host.wait_for_room(&machine.machine_id, true);
        let waits = until(&control, &machine, "host_storage_full").await;
        assert_eq!((waits.phase, waits.status.retryable), (Phase::Running, true));
        assert!(waits.status.last_error.unwrap().contains("Free space on the server's disk"));
        world.host.wait_for_room(&machine.machine_id, false);
        assert_eq!(until(&control, &machine, &before.reason).await.status, before);
    }
    control.close().await;
}

#[tokio::test]
async fn a_wake_that_waits_for_room_is_not_given_up() {
    let mut world = World::new();
    world.timing.start_max = Duration::from_secs(2);
    let control = world.open().await;
    world.host.hold_starting(true);
    let machine = control.machines().create(named("held")).await.unwrap();
    until(&control, &machine, "starting").await;
    world.host.wait_for_room(&machine.machine_id, true);
    until(&control, &machine, "host_storage_full").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let waits = control.machines().get(&by_id(&machine)).await.unwrap();
    assert_eq!((waits.phase, world.host.starts()), (Phase::Starting, 1), "it was ended");
    world.host.wait_for_room(&machine.machine_id, false);
    world.host.hold_starting(false);
    woken(&control, &machine).await;
    control.close().await;
}

#[tokio::test]
async fn so_is_one_that_waits_with_its_sleep_and_it_is_deleted_all_the_same() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.hold_stopping(true);
    world.host.wait_for_room(&machine.machine_id, true);
    let asked = control.machines().sleep(&by_id(&machine), &IfMatch::Any).await.unwrap();
    assert_eq!(asked.phase, Phase::Stopping);
    let waits = until(&control, &machine, "host_storage_full").await;
    assert_eq!(waits.phase, Phase::Stopping);
    assert_eq!(delete(&control, &machine).await.phase, Phase::Destroyed);
    control.close().await;
}

#[tokio::test]
async fn what_sleeps_is_not_woken_where_there_is_no_room_and_stays_as_it_is() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.lack_room(300 << 20);
    // One that runs is not in question.
    control.machines().wake(&by_id(&machine), &IfMatch::Any).await.unwrap();
    let machine = slept(&control, &machine).await;
    let (wake, cold) = (
        control.machines().wake(&by_id(&machine), &IfMatch::Any).await.unwrap_err(),
        control.machines().wake_cold(&by_id(&machine), &IfMatch::Any).await.unwrap_err(),
    );
    let command = NewExecution { command: vec!["true".to_owned()], ..NewExecution::default() };
    let run = control.executions().create(&by_id(&machine), command).await.unwrap_err();
    let create = control.machines().create(named("another")).await.unwrap_err();
    for refused in [wake, cold, run, create] {
        assert_eq!((refused.kind(), &*refused.code), (ErrorKind::Exhausted, "HOST_STORAGE_FULL"));
        assert!(refused.message.contains("free 300 MiB more there, then "), "{}", refused.message);
    }
    let now = control.machines().get(&by_id(&machine)).await.unwrap();
    assert_eq!((now.phase, &now.revision), (Phase::Sleeping, &machine.revision));
    assert_eq!((world.host.starts(), world.host.forgotten()), (1, 0));
    world.host.lack_room(0);
    // What it sleeps with has no room, and needs none where it is thrown away.
    world.host.lack_room_for_memory(1);
    let wake = control.machines().wake(&by_id(&machine), &IfMatch::Any).await.unwrap_err();
    assert_eq!(wake.kind(), ErrorKind::Exhausted);
    control.machines().wake_cold(&by_id(&machine), &IfMatch::Any).await.unwrap();
    assert_eq!(world.host.forgotten(), 1);
    world.host.lack_room_for_memory(0);
    woken(&control, &machine).await;
    control.close().await;
}
