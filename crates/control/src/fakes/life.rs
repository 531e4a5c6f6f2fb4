//! Machines on their way through their lives: each step is asked for, and waited for.

use std::time::Duration;

use crate::Control;
use crate::machines::{CreateMachine, IfMatch, Machine, MachineRef, Phase};

/// Longer than anything takes here.
pub(crate) const SOON: Duration = Duration::from_secs(20);

impl From<&Machine> for MachineRef {
    fn from(machine: &Machine) -> Self {
        Self::Id(machine.machine_id.clone())
    }
}

impl From<&MachineRef> for MachineRef {
    fn from(machine: &MachineRef) -> Self {
        machine.clone()
    }
}

pub(crate) fn by_id(machine: &Machine) -> MachineRef {
    machine.into()
}

pub(crate) fn named(name: &str) -> CreateMachine {
    CreateMachine { name: Some(name.to_owned()), ..CreateMachine::default() }
}

/// Where it comes to rest, or fails.
pub(crate) async fn settled(control: &Control, machine: Machine) -> Machine {
    control.machines().settle(machine, SOON).await
}

pub(crate) async fn created(control: &Control, new: CreateMachine) -> Machine {
    let machine = control.machines().create(new).await.unwrap();
    settled(control, machine).await
}

pub(crate) async fn sleep(control: &Control, machine: impl Into<MachineRef>) -> Machine {
    let asked = control.machines().sleep(&machine.into(), &IfMatch::Any).await.unwrap();
    settled(control, asked).await
}

pub(crate) async fn wake(control: &Control, machine: impl Into<MachineRef>) -> Machine {
    let asked = control.machines().wake(&machine.into(), &IfMatch::Any).await.unwrap();
    settled(control, asked).await
}

pub(crate) async fn delete(control: &Control, machine: impl Into<MachineRef>) -> Machine {
    let asked = control.machines().delete(&machine.into(), &IfMatch::Any).await.unwrap();
    settled(control, asked).await
}

/// A new machine that runs.
pub(crate) async fn running(control: &Control) -> Machine {
    let machine = created(control, CreateMachine::default()).await;
    assert_eq!(machine.phase, Phase::Running, "{:?}", machine.status);
    machine
}

/// One that was put to sleep, and sleeps.
pub(crate) async fn slept(control: &Control, machine: impl Into<MachineRef>) -> Machine {
    let machine = sleep(control, machine).await;
    assert_eq!(machine.phase, Phase::Sleeping, "{:?}", machine.status);
    machine
}

/// One that was woken, and runs.
pub(crate) async fn woken(control: &Control, machine: impl Into<MachineRef>) -> Machine {
    let machine = wake(control, machine).await;
    assert_eq!(machine.phase, Phase::Running, "{:?}", machine.status);
    machine
}
