//! Homes that are not free.

use base::ServerId;

use crate::fakes::World;
use crate::fakes::life::{created, named, slept};
use crate::page::PageQuery;
use crate::snapshots::{Desired, ErrorKind, ForkMachine, MachineRef, NewSnapshot};

#[tokio::test]
async fn of_a_machine_that_is_woken_before_its_home_is_kept_nothing_is() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    // Another server has given it up again since.
    {
        let mut state = world.host.state.lock();
        (state.claim_before_pin, state.given_up_after_pin) = (Some(ServerId::generate()), true);
    }
    let error = snapshots.create(&machine, NewSnapshot::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
    let error = snapshots.fork(&machine, ForkMachine::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
    // This one is about to wake it.
    let row = snapshots.inner.resolve(&machine).await.unwrap();
    let wanted = catalog::MachineChange {
        desired: Some(Desired::Running),
        ..catalog::MachineChange::default()
    };
    snapshots.inner.edit(&parent.machine_id, move |_| Ok(wanted)).await.unwrap();
    let stays = super::refused(&snapshots.inner, &row, "keep a snapshot").await.unwrap();
    assert_eq!(stays.map(|error| error.to_string()), None);
    let listed = snapshots.list(&machine, &PageQuery::default()).await.unwrap();
    assert_eq!((listed.items, world.host.forks_of(&parent.home_id)), (vec![], 0));
    assert!(!world.host.state.lock().uppers.kept.contains_key(&parent.machine_id));
    control.close().await;
}

#[tokio::test]
async fn of_a_home_that_somebody_has_it_is_said_who_and_what_to_do() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    let before = snapshots.create(&machine, NewSnapshot::default()).await.unwrap().snapshot_id;
    let (other, us) = (ServerId::generate(), snapshots.inner.settings.server_id.clone());
    for (holder, kind, code, what) in [
        (&other, ErrorKind::Fenced, "FENCED", "put it to sleep there"),
        (&us, ErrorKind::Conflict, "INVALID_STATE", "wake the machine and put it to sleep"),
    ] {
        world.host.state.lock().claim_before_pin = Some(holder.clone());
        for then in ["keep a snapshot", "fork it", "restore it"] {
            let error = match then {
                "fork it" => snapshots.fork(&machine, ForkMachine::default()).await.unwrap_err(),
                "restore it" => snapshots.restore(&machine, &before).await.unwrap_err(),
                _ => snapshots.create(&machine, NewSnapshot::default()).await.unwrap_err(),
            };
            assert_eq!((error.kind(), &*error.code), (kind, code), "{error}");
            assert!(!error.is_retryable(), "{error}");
            assert_eq!(error.details["holder"], holder.as_str());
            let told = error.message;
            assert!(told.contains(what) && told.contains(&format!("then {then}")), "{told}");
        }
    }
    // What was kept before can be gone on from.
    let fork = ForkMachine { snapshot_id: Some(before), ..ForkMachine::default() };
    snapshots.fork(&machine, fork).await.unwrap();
    let listed = snapshots.list(&machine, &PageQuery::default()).await.unwrap();
    assert_eq!((listed.items.len(), world.host.forks_of(&parent.home_id)), (1, 1));
    control.close().await;
}
