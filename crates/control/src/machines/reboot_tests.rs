//! Reboots, on a host in memory.

use super::*;
use crate::Control;
use crate::fakes::World;
use crate::fakes::life::{SOON, by_id, running, settled, slept};

async fn reboot(control: &Control, machine: &Machine, force: bool) -> Machine {
    control.machines().reboot(&by_id(machine), force, &IfMatch::Any).await.unwrap()
}

/// How many keepers were started, and how often memory was thrown away.
fn counts(world: &World) -> (u32, u32) {
    (world.host.starts(), world.host.forgotten())
}

#[tokio::test]
async fn a_machine_boots_from_whatever_state_it_is_in() {
    for force in [false, true] {
        let world = World::new();
        let control = world.open().await;
        let machine = running(&control).await;
        let asked = reboot(&control, &machine, force).await;
        assert_eq!((asked.phase, asked.is_settled()), (Phase::Stopping, false));
        let again = settled(&control, asked).await;
        assert_eq!((again.phase, &again.machine_id), (Phase::Running, &machine.machine_id));
        assert_eq!(counts(&world), (2, 1), "{force}");

        slept(&control, &machine).await;
        let again = reboot(&control, &machine, force).await;
        assert_eq!(settled(&control, again).await.phase, Phase::Running);
        assert_eq!(counts(&world), (3, 2), "{force}");
        control.close().await;
    }
}

#[tokio::test]
async fn a_guest_that_does_not_stop_is_ended_where_that_is_asked_for() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.hold_stopping(true);
    let asked = reboot(&control, &machine, false).await;
    let again = reboot(&control, &machine, false).await;
    assert_eq!(asked.revision, again.revision, "it is under way");
    assert_eq!(counts(&world), (1, 0));
    let forced = reboot(&control, &machine, true).await;
    assert_ne!(forced.revision, asked.revision);
    assert_eq!(settled(&control, forced).await.phase, Phase::Running);
    assert_eq!(counts(&world), (2, 1));
    control.close().await;
}

#[tokio::test]
async fn a_reboot_that_was_accepted_is_finished_by_the_next_server() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.hold_stopping(true);
    reboot(&control, &machine, false).await;
    control.close().await;
    // Between the end of one guest and the start of the next.
    world.host.hold_stopping(false);
    let control = world.open().await;
    let machines = control.machines();
    let up = machines.inner.wait_for(&machine.machine_id, SOON, |row| shape(row).is_settled());
    let row = up.await.unwrap();
    assert_eq!((row.observed.phase, row.reboot), (Phase::Running, None), "{:?}", row.observed);
    assert_eq!(counts(&world), (2, 1));
    control.close().await;
}

#[tokio::test]
async fn a_machine_that_comes_up_again_has_one_reboot_and_none_that_was_overtaken() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.hold_starting(true);
    reboot(&control, &machine, false).await;
    let machines = control.machines();
    let starting = |row: &MachineRow| row.observed.phase == Phase::Starting;
    machines.inner.wait_for(&machine.machine_id, SOON, starting).await.unwrap();
    reboot(&control, &machine, true).await;
    world.host.hold_starting(false);
    let row = machines.inner.wait_for(&machine.machine_id, SOON, |row| shape(row).is_settled());
    assert_eq!(row.await.unwrap().observed.phase, Phase::Running);
    assert_eq!(counts(&world), (2, 1));

    world.host.hold_stopping(true);
    reboot(&control, &machine, false).await;
    let asked = machines.sleep(&by_id(&machine), &IfMatch::Any).await.unwrap();
    world.host.hold_stopping(false);
    assert_eq!(settled(&control, asked).await.phase, Phase::Sleeping);
    assert_eq!(counts(&world), (2, 1));
    control.close().await;
}

#[tokio::test]
async fn a_machine_that_failed_boots_and_one_that_goes_does_not() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.crash(&machine.machine_id);
    let machines = control.machines();
    let failed = |row: &MachineRow| row.observed.phase == Phase::Failed;
    machines.inner.wait_for(&machine.machine_id, SOON, failed).await.unwrap();
    let asked = reboot(&control, &machine, false).await;
    assert_eq!(asked.phase, Phase::Accepted);
    assert_eq!(settled(&control, asked).await.phase, Phase::Running);
    assert_eq!(counts(&world), (2, 1));

    world.store.break_down(true);
    machines.delete(&by_id(&machine), &IfMatch::Any).await.unwrap();
    let error = machines.reboot(&by_id(&machine), true, &IfMatch::Any).await.unwrap_err();
    assert_eq!(error.code, "INVALID_STATE");
    control.close().await;
}
