//! Machines through their whole life, on a host in memory.

use std::time::Duration;

use base::ErrorKind;
use futures::StreamExt as _;

use super::*;
use crate::Control;
use crate::fakes::life::{SOON, by_id, delete, named, settled, sleep, wake};
use crate::fakes::{World, eventually};
use crate::host::KeeperFailure;

async fn create(control: &Control, name: &str) -> Machine {
    let machines = control.machines();
    let machine = machines.create(named(name)).await.unwrap();
    assert_eq!(machine.phase, Phase::Accepted);
    settled(control, machine).await
}

async fn get(control: &Control, machine: &Machine) -> Machine {
    control.machines().get(&by_id(machine)).await.unwrap()
}

async fn until(control: &Control, machine: &Machine, phase: Phase) -> Machine {
    let id = machine.machine_id.clone();
    let machines = control.machines();
    let row = machines.inner.wait_for(&id, SOON, |row| row.observed.phase == phase).await.unwrap();
    assert_eq!(row.observed.phase, phase, "{:?}", row.observed);
    shape(&row)
}

#[tokio::test]
async fn a_machine_is_created_sleeps_wakes_and_goes() {
    let world = World::new();
    let control = world.open().await;
    let machine = create(&control, "one").await;
    assert_eq!((machine.phase, machine.desired_state), (Phase::Running, Desired::Running));
    assert!(world.host.is_running(&machine.machine_id));

    let machine = sleep(&control, &machine).await;
    assert_eq!((machine.phase, machine.desired_state), (Phase::Sleeping, Desired::Sleeping));
    assert!(!world.host.is_running(&machine.machine_id));

    let machine = wake(&control, &machine).await;
    assert_eq!(machine.phase, Phase::Running);

    let machine = delete(&control, &machine).await;
    assert_eq!(machine.phase, Phase::Destroyed);
    assert!(!world.host.has_home(&machine.home_id));
    assert!(world.store.keys().is_empty(), "{:?}", world.store.keys());
    let error = control.machines().get(&by_id(&machine)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    control.close().await;
}

#[tokio::test]
async fn a_watcher_sees_the_way_up_and_then_the_end() {
    let world = World::new();
    world.host.hold_starting(true);
    let control = world.open().await;
    let machine = control.machines().create(named("one")).await.unwrap();
    let mut states = control.machines().watch(&by_id(&machine), None).await.unwrap();
    let mut phases = vec![states.next().await.unwrap().phase];
    until(&control, &machine, Phase::Starting).await;
    world.host.hold_starting(false);
    let mut revisions = Vec::new();
    while let Some(state) = states.next().await {
        phases.push(state.phase);
        revisions.push(state.revision.parse::<u64>().unwrap());
    }
    assert_eq!(phases.last(), Some(&Phase::Running));
    assert!(phases.contains(&Phase::Starting), "{phases:?}");
    assert!(revisions.is_sorted());

    // Already there: one state, then the end.
    let again = control.machines().watch(&by_id(&machine), Some("1")).await.unwrap();
    assert_eq!(again.collect::<Vec<_>>().await.len(), 1);
}

#[tokio::test]
async fn two_creates_with_one_name_make_one_machine() {
    let world = World::new();
    let control = world.open().await;
    let machines = control.machines();
    let (one, two) = tokio::join!(machines.create(named("same")), machines.create(named("same")));
    let error = match (one, two) {
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(machines.list(&PageQuery::default()).await.unwrap().items.len(), 1);
    assert_eq!(world.store.keys().len(), 1);
}

#[tokio::test]
async fn nothing_is_created_where_the_store_does_not_take_the_record() {
    let world = World::new();
    let control = world.open().await;
    world.store.break_down(true);
    let error = control.machines().create(named("one")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    world.store.break_down(false);
    // The name is free again.
    create(&control, "one").await;
}

#[tokio::test]
async fn a_crash_between_row_and_record_is_made_good_at_the_next_start() {
    let world = World::new();
    let control = world.open().await;
    let row = MachineRow { recorded: false, ..test_row("one") };
    let stored = row.clone();
    control.machines().inner.db(move |catalog| catalog.insert_machine(&stored, 9)).await.unwrap();
    control.close().await;
    assert!(world.store.keys().is_empty());

    let control = world.open().await;
    let machine = until(&control, &shape(&row), Phase::Running).await;
    assert_eq!(world.store.keys(), [record::key(&machine.machine_id)]);
}

#[tokio::test]
async fn a_stale_revision_changes_nothing() {
    let world = World::new();
    let control = world.open().await;
    let machine = create(&control, "one").await;
    let stale = IfMatch::Revision("1".to_owned());
    let machines = control.machines();
    let target = by_id(&machine);
    let update = UpdateMachine { memory_mib: Some(2_048), ..Default::default() };
    for error in [
        machines.sleep(&target, &stale).await.unwrap_err(),
        machines.wake(&target, &stale).await.unwrap_err(),
        machines.delete(&target, &stale).await.unwrap_err(),
        machines.update(&target, update.clone(), &stale).await.unwrap_err(),
    ] {
        assert_eq!(error.code, "REVISION_MISMATCH");
        assert_eq!(error.details["expected_revision"], machine.revision);
    }
    assert_eq!(get(&control, &machine).await, machine);
    let current = IfMatch::Revision(machine.revision.clone());
    let updated = machines.update(&target, update, &current).await.unwrap();
    assert_eq!(updated.memory_mib, 2_048);
    assert_ne!(updated.revision, machine.revision);
}

#[tokio::test]
async fn an_update_reaches_the_store() {
    let world = World::new();
    let control = world.open().await;
    let machine = create(&control, "one").await;
    let machine = sleep(&control, &machine).await;
    let update = UpdateMachine { name: Some("two".to_owned()), ..Default::default() };
    control.machines().update(&by_id(&machine), update, &IfMatch::Any).await.unwrap();
    let key = record::key(&machine.machine_id);
    for _ in 0..200 {
        if record::get(&*world.store, &key).await.unwrap().name == "two" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the record still has the old name");
}

#[tokio::test]
async fn what_is_missing_is_said_and_a_wake_tries_again() {
    let world = World::new();
    let control = world.open().await;
    world.host.fail_starts(&[(ErrorKind::NotFound, "IMAGE_MISSING")]);
    let machine = create(&control, "one").await;
    assert_eq!(machine.phase, Phase::Failed);
    assert_eq!(machine.status.reason, "image_missing");
    assert_eq!(machine.status.last_error.as_deref(), Some("IMAGE_MISSING: mend it"));
    assert!(!machine.status.retryable);
    assert_eq!(world.host.starts(), 1);
    let machine = wake(&control, &machine).await;
    assert_eq!((machine.phase, machine.status.last_error), (Phase::Running, None));
}

#[tokio::test]
async fn what_may_work_later_is_tried_again_but_not_for_ever() {
    let world = World::new();
    let control = world.open().await;
    let failure = KeeperFailure {
        code: "store_unavailable".to_owned(),
        message: "the store does not answer; check it".to_owned(),
        retryable: true,
    };
    world.host.die_while_starting(&[failure.clone(), failure.clone()]);
    let machine = create(&control, "one").await;
    assert_eq!((machine.phase, world.host.starts()), (Phase::Running, 3));

    world.host.die_while_starting(&[failure.clone(), failure.clone(), failure]);
    let machine = create(&control, "two").await;
    assert_eq!(machine.phase, Phase::Failed);
    assert_eq!(machine.status.reason, "store_unavailable");
    assert!(machine.status.retryable);
}

#[tokio::test]
async fn a_guest_that_never_answers_fails_its_machine() {
    let mut world = World::new();
    world.timing.start_max = Duration::from_millis(50);
    world.host.hold_starting(true);
    let control = world.open().await;
    let machine = create(&control, "one").await;
    assert_eq!((machine.phase, machine.status.reason.as_str()), (Phase::Failed, "guest_silent"));
    assert!(!world.host.is_running(&machine.machine_id));
    // Its home was claimed and is held; sleep goes through another start.
    world.host.hold_starting(false);
    let machine = sleep(&control, &machine).await;
    assert_eq!(machine.phase, Phase::Sleeping);
}

#[tokio::test]
async fn a_lost_keeper_is_noticed_at_once_and_a_wake_brings_the_machine_back() {
    let world = World::new();
    let control = world.open().await;
    let machine = create(&control, "one").await;
    world.host.crash(&machine.machine_id);
    let machine = until(&control, &machine, Phase::Failed).await;
    assert_eq!(machine.status.reason, "keeper_lost");
    assert!(machine.status.retryable && machine.desired_state == Desired::Running);
    let machine = wake(&control, &machine).await;
    assert_eq!(machine.phase, Phase::Running);
}

#[tokio::test]
async fn a_keeper_that_dies_while_it_puts_its_machine_to_sleep_is_not_taken_for_sleep() {
    let world = World::new();
    let control = world.open().await;
    let machine = create(&control, "one").await;
    world.host.hold_stopping(true);
    control.machines().sleep(&by_id(&machine), &IfMatch::Any).await.unwrap();
    until(&control, &machine, Phase::Stopping).await;
    world.host.crash(&machine.machine_id);
    let machine = until(&control, &machine, Phase::Failed).await;
    assert_eq!(machine.desired_state, Desired::Sleeping);
    world.host.hold_stopping(false);
    assert_eq!(sleep(&control, &machine).await.phase, Phase::Sleeping);
}

#[tokio::test]
async fn a_guest_that_powers_off_is_asleep() {
    let world = World::new();
    let control = world.open().await;
    let machine = create(&control, "one").await;
    world.host.power_off(&machine.machine_id);
    let machine = until(&control, &machine, Phase::Sleeping).await;
    assert_eq!(machine.desired_state, Desired::Sleeping);
    assert_eq!(machine.status.reason, "guest_powered_off");
}

#[tokio::test]
async fn a_machine_whose_home_is_taken_while_it_runs_has_failed_also_on_its_way_to_sleep() {
    let world = World::new();
    let control = world.open().await;
    let one = create(&control, "one").await;
    world.host.fence(&one.machine_id);
    let seen = until(&control, &one, Phase::Failed).await;
    assert_eq!((&*seen.status.reason, seen.desired_state), ("fenced", Desired::Running));
    assert!(seen.status.last_error.unwrap().contains("another server"));

    let two = create(&control, "two").await;
    world.host.hold_stopping(true);
    control.machines().sleep(&by_id(&two), &IfMatch::Any).await.unwrap();
    until(&control, &two, Phase::Stopping).await;
    world.host.fence(&two.machine_id);
    let seen = until(&control, &two, Phase::Failed).await;
    assert_eq!((&*seen.status.reason, seen.desired_state), ("fenced", Desired::Sleeping));
}

#[tokio::test]
async fn a_wake_during_sleep_starts_the_machine_again_once_it_is_down() {
    let world = World::new();
    let control = world.open().await;
    let machine = create(&control, "one").await;
    world.host.hold_stopping(true);
    control.machines().sleep(&by_id(&machine), &IfMatch::Any).await.unwrap();
    until(&control, &machine, Phase::Stopping).await;
    let asked = control.machines().wake(&by_id(&machine), &IfMatch::Any).await.unwrap();
    assert_eq!(asked.desired_state, Desired::Running);
    world.host.hold_stopping(false);
    assert_eq!(settled(&control, asked).await.phase, Phase::Running);
    assert_eq!(world.host.starts(), 2);
}

#[tokio::test]
async fn concurrent_wakes_start_one_keeper() {
    let world = World::new();
    let control = world.open().await;
    let machine = create(&control, "one").await;
    let machine = sleep(&control, &machine).await;
    let wakes = (0..8).map(|_| wake(&control, &machine));
    for woken in futures::future::join_all(wakes).await {
        assert_eq!(woken.phase, Phase::Running);
    }
    assert_eq!(world.host.starts(), 2);
}

#[tokio::test]
async fn a_new_server_adopts_running_machines_and_sees_those_that_died_without_it() {
    let world = World::new();
    let control = world.open().await;
    let kept = create(&control, "kept").await;
    let lost = create(&control, "lost").await;
    let asleep = create(&control, "asleep").await;
    let asleep = sleep(&control, &asleep).await;
    control.close().await;
    world.host.crash(&lost.machine_id);

    let control = world.open().await;
    let lost = until(&control, &lost, Phase::Failed).await;
    assert_eq!(lost.status.reason, "keeper_lost");
    assert_eq!(get(&control, &kept).await.phase, Phase::Running);
    assert_eq!(get(&control, &asleep).await, asleep);
    assert_eq!(world.host.starts(), 3, "nothing was started anew");
    // The adopted one is driven again: it still sleeps when asked.
    assert_eq!(sleep(&control, &kept).await.phase, Phase::Sleeping);
}

#[tokio::test]
async fn a_server_that_crashed_between_any_two_steps_goes_on_where_it_was() {
    let world = World::new();
    for phase in [Phase::Accepted, Phase::PlacementPending, Phase::Starting] {
        let control = world.open().await;
        let row = MachineRow {
            observed: Observation::of(phase, "test"),
            ..test_row(&phase.to_string().replace('_', "-"))
        };
        let stored = row.clone();
        let inner = control.machines().inner;
        inner.db(move |catalog| catalog.insert_machine(&stored, 9)).await.unwrap();
        drop(inner);
        control.close().await;

        let control = world.open().await;
        until(&control, &shape(&row), Phase::Running).await;
        let machine = shape(&row);
        world.host.hold_stopping(true);
        control.machines().sleep(&by_id(&machine), &IfMatch::Any).await.unwrap();
        until(&control, &machine, Phase::Stopping).await;
        control.close().await;

        world.host.hold_stopping(false);
        let control = world.open().await;
        until(&control, &machine, Phase::Sleeping).await;
        control.close().await;
    }
}

#[tokio::test]
async fn delete_works_in_every_phase() {
    let world = World::new();
    let control = world.open().await;

    world.host.hold_starting(true);
    let starting = control.machines().create(named("starting")).await.unwrap();
    until(&control, &starting, Phase::Starting).await;
    assert_eq!(delete(&control, &starting).await.phase, Phase::Destroyed);
    world.host.hold_starting(false);

    let running = create(&control, "running").await;
    assert_eq!(delete(&control, &running).await.phase, Phase::Destroyed);
    assert!(!world.host.is_running(&running.machine_id));

    let stopping = create(&control, "stopping").await;
    world.host.hold_stopping(true);
    control.machines().sleep(&by_id(&stopping), &IfMatch::Any).await.unwrap();
    until(&control, &stopping, Phase::Stopping).await;
    assert_eq!(delete(&control, &stopping).await.phase, Phase::Destroyed);
    world.host.hold_stopping(false);

    let asleep = create(&control, "asleep").await;
    let asleep = sleep(&control, &asleep).await;
    assert_eq!(delete(&control, &asleep).await.phase, Phase::Destroyed);

    world.host.fail_starts(&[(ErrorKind::NotFound, "IMAGE_MISSING")]);
    let failed = create(&control, "failed").await;
    assert_eq!(failed.phase, Phase::Failed);
    assert_eq!(delete(&control, &failed).await.phase, Phase::Destroyed);
    assert!(world.store.keys().is_empty());
}

#[tokio::test]
async fn a_delete_goes_on_when_the_store_is_back() {
    let world = World::new();
    let control = world.open().await;
    let machine = create(&control, "one").await;
    let machine = sleep(&control, &machine).await;
    world.store.break_down(true);
    let asked = control.machines().delete(&by_id(&machine), &IfMatch::Any).await.unwrap();
    assert_eq!(asked.phase, Phase::Destroying);
    let inner = control.machines().inner;
    let complains = |row: &MachineRow| row.observed.last_error.is_some();
    let row = inner.wait_for(&machine.machine_id, SOON, complains).await.unwrap();
    assert_eq!(row.observed.phase, Phase::Destroying);
    // Also over a restart.
    drop(inner);
    control.close().await;
    let control = world.open().await;
    world.store.break_down(false);
    assert_eq!(settled(&control, asked).await.phase, Phase::Destroyed);
    assert!(world.store.keys().is_empty());
}

#[tokio::test]
async fn machines_of_a_lost_host_are_adopted_asleep() {
    let world = World::new();
    let control = world.open().await;
    let released = create(&control, "released").await;
    let released = sleep(&control, &released).await;
    let held = create(&control, "held").await;
    control.close().await;
    world.host.lose();

    let other = world.another();
    let control = other.open().await;
    let taken = create(&control, "released").await;
    let mut adopted = control.machines().adopt(false).await.unwrap();
    adopted.sort_by_key(|one| one.machine_id.clone());
    assert_eq!(adopted.len(), 2);
    assert_eq!((adopted[0].name.as_str(), adopted[0].released), ("released-2", true));
    assert_eq!((adopted[1].name.as_str(), adopted[1].released), ("held", false));
    assert_ne!(taken.machine_id, adopted[0].machine_id);

    assert_eq!(get(&control, &released).await.phase, Phase::Sleeping);
    assert_eq!(wake(&control, &released).await.phase, Phase::Running);
    // The held one is fenced until taking over is allowed.
    assert_eq!(wake(&control, &held).await.status.reason, "fenced");
    assert!(!other.host.took_over());
    let granted = control.machines().adopt(true).await.unwrap();
    assert_eq!(granted.len(), 1);
    assert_eq!(wake(&control, &held).await.phase, Phase::Running);
    assert!(other.host.took_over());
    // The right is used up.
    let row = control.machines().inner.resolve(&by_id(&held)).await.unwrap();
    assert_eq!(row.take_over_from, None);
}

#[tokio::test]
async fn an_idle_machine_falls_asleep_and_a_busy_one_does_not() {
    let world = World::new();
    let control = world.open().await;
    let idle = create(&control, "idle").await;
    let busy = create(&control, "busy").await;
    let mut never = named("never");
    never.autosleep = Some("never".to_owned());
    let never = control.machines().create(never).await.unwrap();
    let never = settled(&control, never).await;
    let command = vec!["sleep".to_owned(), "1000".to_owned()];
    let run = crate::executions::NewExecution { command, ..Default::default() };
    control.executions().create(&by_id(&busy), run).await.unwrap();

    world.clock.advance(Duration::from_secs(299));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(get(&control, &idle).await.phase, Phase::Running);
    world.clock.advance(Duration::from_secs(2));
    let idle = until(&control, &idle, Phase::Sleeping).await;
    assert_eq!(idle.desired_state, Desired::Sleeping);
    assert_eq!(get(&control, &busy).await.phase, Phase::Running);
    assert_eq!(get(&control, &never).await.phase, Phase::Running);
}

#[tokio::test]
async fn idleness_is_counted_from_the_end_of_the_last_command() {
    let world = World::new();
    let control = world.open().await;
    let machine = create(&control, "one").await;
    let command = vec!["sleep".to_owned(), "1000".to_owned()];
    let run = crate::executions::NewExecution { command, ..Default::default() };
    control.executions().create(&by_id(&machine), run).await.unwrap();

    // The server asks, is told that a command runs, and asks again only after the same time.
    world.clock.advance(Duration::from_secs(301));
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.clock.advance(Duration::from_secs(290));
    world.host.end_executions(&machine.machine_id, base::Clock::now(&*world.clock));
    world.clock.advance(Duration::from_secs(20));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(get(&control, &machine).await.phase, Phase::Running, "idle for 20 s only");
    world.clock.advance(Duration::from_secs(281));
    until(&control, &machine, Phase::Sleeping).await;
}

#[tokio::test]
async fn a_right_to_take_over_is_used_up_by_the_claim_not_by_the_guest() {
    let world = World::new();
    let control = world.open().await;
    let held = create(&control, "held").await;
    control.close().await;
    world.host.lose();

    let other = world.another();
    let control = other.open().await;
    control.machines().adopt(true).await.unwrap();
    other.host.hold_starting(true);
    control.machines().wake(&by_id(&held), &IfMatch::Any).await.unwrap();
    let inner = control.machines().inner;
    let used =
        |row: &MachineRow| row.observed.phase == Phase::Starting && row.take_over_from.is_none();
    let row = inner.wait_for(&held.machine_id, SOON, used).await.unwrap();
    assert!(used(&row), "{row:?}");
    assert!(other.host.took_over());
}

#[tokio::test]
async fn all_machines_can_be_put_to_sleep_at_once() {
    let world = World::new();
    let control = world.open().await;
    let one = create(&control, "one").await;
    let two = create(&control, "two").await;
    assert!(control.machines().sleep_all(SOON).await.unwrap().is_empty());
    for machine in [one, two] {
        assert_eq!(get(&control, &machine).await.phase, Phase::Sleeping);
    }
}

#[tokio::test]
async fn lists_go_on_after_a_cursor_and_never_end_in_an_empty_page() {
    let world = World::new();
    let control = world.open().await;
    for n in 0..4 {
        create(&control, &format!("m{n}")).await;
    }
    let machines = control.machines();
    let mut query = PageQuery { cursor: None, limit: Some(2) };
    let mut names = Vec::new();
    loop {
        let page = machines.list(&query).await.unwrap();
        assert_eq!(page.items.len(), 2);
        names.extend(page.items.into_iter().map(|machine| machine.name));
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => break,
        }
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3"]);
    query.cursor = Some("nonsense".to_owned());
    assert_eq!(machines.list(&query).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_second_server_on_one_directory_is_refused() {
    let world = World::new();
    let control = world.open().await;
    let error = Control::open(world.settings(), world.parts()).await.unwrap_err();
    assert_eq!(error.code, "DATA_DIR_LOCKED");
    control.close().await;
    world.open().await;
}

#[tokio::test]
async fn drivers_of_resting_machines_are_gone() {
    let world = World::new();
    let control = world.open().await;
    let machine = create(&control, "one").await;
    sleep(&control, &machine).await;
    let inner = control.machines().inner;
    eventually(|| inner.drivers.count() == 0).await;
}

#[tokio::test]
async fn what_was_asked_for_is_done_also_when_the_caller_goes_away() {
    let world = World::new();
    let control = world.open().await;
    let machines = control.machines();
    // One look at the call, then it is dropped, as a server drops a call whose client hung up.
    assert!(futures::FutureExt::now_or_never(machines.create(named("one"))).is_none());
    let one = MachineRef::Name("one".to_owned());
    for _ in 0..6_000 {
        if machines.get(&one).await.is_ok_and(|machine| machine.phase == Phase::Running) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the machine was written down and never started");
}
