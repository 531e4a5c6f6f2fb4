//! Machines that are given other sizes, on a host in memory.

use super::*;
use crate::fakes::World;
use crate::fakes::life::{by_id, named, running, settled, slept, woken};
use crate::host::Sizes;

fn to(vcpu: f64, memory_mib: u64, storage_gib: u64) -> UpdateMachine {
    let (vcpu, memory_mib) = (Some(vcpu), Some(memory_mib));
    UpdateMachine { vcpu, memory_mib, storage_gib: Some(storage_gib), ..UpdateMachine::default() }
}

#[tokio::test]
async fn cpus_and_storage_reach_a_machine_that_runs_and_memory_its_next_wake() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    let (id, memory_mib) = (&machine.machine_id, machine.memory_mib);
    let target = by_id(&machine);
    let machines = control.machines();
    machines.update(&target, to(2.5, memory_mib * 2, 20), &IfMatch::Any).await.unwrap();
    let in_force = Sizes { vcpu: 2.5, memory_mib, storage_gib: 20 };
    assert_eq!(world.host.sizes_of(id), Some(in_force));
    let status = machines.get(&target).await.unwrap().status;
    assert_eq!(status.memory_configured_mib, memory_mib * 2);
    assert_eq!(status.memory_assigned_mib, Some(memory_mib));

    let error = machines.update(&target, to(1.0, memory_mib, 19), &IfMatch::Any).await.unwrap_err();
    assert_eq!(error.kind(), base::ErrorKind::InvalidArgument);
    assert_eq!(world.host.sizes_of(id), Some(in_force), "storage never shrinks");

    slept(&control, &machine).await;
    let status = machines.get(&target).await.unwrap().status;
    assert_eq!(status.memory_assigned_mib, None);
    woken(&control, &machine).await;
    let grown = Sizes { memory_mib: memory_mib * 2, ..in_force };
    assert_eq!(world.host.sizes_of(id), Some(grown));
    control.close().await;
}

#[tokio::test]
async fn a_machine_that_comes_up_gets_what_it_was_given_meanwhile() {
    let world = World::new();
    world.host.hold_starting(true);
    let control = world.open().await;
    let machines = control.machines();
    let machine = machines.create(named("one")).await.unwrap();
    let starting = |row: &MachineRow| row.observed.phase == Phase::Starting;
    let soon = crate::fakes::life::SOON;
    machines.inner.wait_for(&machine.machine_id, soon, starting).await.unwrap();
    crate::fakes::eventually(|| world.host.sizes_of(&machine.machine_id).is_some()).await;
    let update = to(0.5, machine.memory_mib, 30);
    machines.update(&by_id(&machine), update, &IfMatch::Any).await.unwrap();
    world.host.hold_starting(false);
    settled(&control, machine.clone()).await;
    let has = || world.host.sizes_of(&machine.machine_id).map(|has| (has.vcpu, has.storage_gib));
    crate::fakes::eventually(|| has() == Some((0.5, 30))).await;
    control.close().await;
}
