//! Egress policies that change while a machine is on its way.

use std::time::Duration;

use base::{Egress, ErrorKind};
use catalog::MachineRow;

use super::types::{EgressWish, IfMatch, Machine, Phase, UpdateMachine};
use crate::Control;
use crate::fakes::life::{SOON, by_id, named, settled, sleep};
use crate::fakes::{World, eventually};

/// Asks for the machine to reach nothing.
fn close_off(
    control: &Control,
    machine: &Machine,
) -> tokio::task::JoinHandle<crate::Result<Machine>> {
    let (machines, machine) = (control.machines(), by_id(machine));
    let egress = Some(EgressWish { policy: Some("none".to_owned()), allow: None });
    let update = UpdateMachine { egress, ..UpdateMachine::default() };
    tokio::spawn(async move { machines.update(&machine, update, &IfMatch::Any).await })
}

async fn until(control: &Control, machine: &Machine, holds: fn(&MachineRow) -> bool) {
    let (machines, id) = (control.machines(), &machine.machine_id);
    assert!(holds(&machines.inner.wait_for(id, SOON, holds).await.unwrap()));
}

/// Until it is written down.
async fn wished(control: &Control, machine: &Machine) {
    until(control, machine, |row| row.spec.egress == Egress::None).await;
}

async fn awake(control: &Control) -> Machine {
    settled(control, control.machines().create(named("one")).await.unwrap()).await
}

#[tokio::test]
async fn an_egress_policy_of_a_machine_that_starts_is_answered_once_it_is_in_force() {
    let world = World::new();
    world.host.hold_starting(true);
    let control = world.open().await;
    let machine = control.machines().create(named("one")).await.unwrap();
    eventually(|| world.host.egress_of(&machine.machine_id).is_some()).await;
    let update = close_off(&control, &machine);
    wished(&control, &machine).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!update.is_finished(), "its keeper came up with the old one");
    world.host.hold_starting(false);
    update.await.unwrap().unwrap();
    assert_eq!(world.host.egress_of(&machine.machine_id), Some(Egress::None));
}

#[tokio::test]
async fn an_egress_policy_of_a_machine_that_stops_is_answered_once_its_keeper_is_gone() {
    let world = World::new();
    let control = world.open().await;
    let machine = awake(&control).await;
    world.host.hold_stopping(true);
    control.machines().sleep(&by_id(&machine), &IfMatch::Any).await.unwrap();
    until(&control, &machine, |row| row.observed.phase == Phase::Stopping).await;
    let update = close_off(&control, &machine);
    wished(&control, &machine).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!update.is_finished(), "its keeper has the old one");
    world.host.hold_stopping(false);
    update.await.unwrap().unwrap();
    assert!(!world.host.is_running(&machine.machine_id));
}

#[tokio::test]
async fn an_egress_policy_that_cannot_be_put_in_force_holds_up_no_sleep() {
    let world = World::new();
    let control = world.open().await;
    let machine = awake(&control).await;
    world.host.fail_egress(&[(ErrorKind::Unavailable, "busy"); 1000]);
    let update = close_off(&control, &machine);
    wished(&control, &machine).await;
    assert_eq!(sleep(&control, &machine).await.phase, Phase::Sleeping);
    update.await.unwrap().unwrap();
}
