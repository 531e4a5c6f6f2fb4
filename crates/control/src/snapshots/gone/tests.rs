//! Snapshots and forks of machines that go.

use crate::fakes::World;
use crate::fakes::life::{created, named, slept};
use crate::snapshots::{Desired, ErrorKind, ForkMachine, MachineRef, NewSnapshot};

#[tokio::test]
async fn a_fork_that_races_a_deletion_of_its_parent_is_told_of_that() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    // Its parent lives: what is wrong is said as it is.
    world.host.state.lock().uppers.begin_errors.push_back(ErrorKind::NotFound);
    let error = snapshots.fork(&machine, ForkMachine::default()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && !error.message.contains("deleted"), "{error}");
    let wanted = catalog::MachineChange { desired: Some(Desired::Destroyed), ..Default::default() };
    snapshots.inner.edit(&parent.machine_id, move |_| Ok(wanted)).await.unwrap();
    for kind in [ErrorKind::NotFound, ErrorKind::Unreachable, ErrorKind::Unavailable] {
        world.host.state.lock().uppers.begin_errors.push_back(kind);
        let error = snapshots.fork(&machine, ForkMachine::default()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::NotFound, false), "{error}");
        assert!(error.message.contains("machine one is being deleted"), "{error}");
        assert_eq!(error.details["machine_id"], parent.machine_id.as_str());
    }
    let taken = ForkMachine { name: Some("one".to_owned()), ..ForkMachine::default() };
    assert_eq!(snapshots.fork(&machine, taken).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(world.host.forks_of(&parent.home_id), 0);
    control.close().await;
}

#[tokio::test]
async fn of_a_machine_that_another_server_deleted_it_is_said_so() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    world.host.state.lock().homes.remove(&parent.home_id);
    let snapshots = control.snapshots();
    let fork = snapshots.fork(&machine, ForkMachine::default()).await.unwrap_err();
    let kept = snapshots.create(&machine, NewSnapshot::default()).await.unwrap_err();
    for error in [fork, kept] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message.contains("machine one") && error.message.contains("another server"));
    }
    control.close().await;
}
