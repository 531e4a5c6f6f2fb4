//! Machines that are kept whole while they are awake.

use base::ErrorKind;

use super::*;
use crate::executions::{ExecutionStatus, NewExecution};
use crate::fakes::life::{SOON, by_id, delete, running, settled, slept, woken};
use crate::fakes::{World, eventually};
use crate::files::{PutOptions, View};
use crate::host::KeeperFailure;
use crate::limits::NAP_WAIT;
use crate::snapshots::{ForkMachine, Forked, NewSnapshot, Part, Snapshot};
use crate::{Control, Error};

const ALL: [Part; 3] = [Part::Home, Part::Upper, Part::Memory];

async fn kept(control: &Control, machine: &Machine) -> Result<Snapshot> {
    let whole = NewSnapshot { name: None, whole: true };
    control.snapshots().create(&by_id(machine), whole).await
}

async fn forked(control: &Control, machine: &Machine) -> Result<Forked> {
    let whole = ForkMachine { whole: true, ..ForkMachine::default() };
    control.snapshots().fork(&by_id(machine), whole).await
}

async fn now(control: &Control, machine: &Machine) -> (Desired, Phase) {
    let now = control.machines().get(&by_id(machine)).await.unwrap();
    (now.desired_state, now.phase)
}

fn command(words: &[&str]) -> NewExecution {
    let command = words.iter().map(|word| (*word).to_owned()).collect();
    NewExecution { command, ..NewExecution::default() }
}

/// A world in which machines sleep with memory.
fn world() -> World {
    let mut world = World::new();
    world.timing.store_memory_after = Some(Duration::from_secs(3_600));
    world.host.state.lock().uppers.remembers = true;
    world
}

/// Has a machine be kept whole, and returns once it sleeps for that, with what it is to be stored still under way.
async fn napping(
    world: &World,
    control: &Control,
    machine: &Machine,
) -> tokio::task::JoinHandle<Result<Snapshot>> {
    world.host.state.lock().uppers.held = true;
    let (kept, of) = (control.clone(), machine.clone());
    let keeps = tokio::spawn(async move { self::kept(&kept, &of).await });
    let storing = || {
        let state = world.host.state.lock();
        state.uppers.of.get(&machine.machine_id).is_some_and(|upper| upper.storing)
    };
    eventually(storing).await;
    // It is stored before it is said that it sleeps.
    let asleep = |row: &MachineRow| row.observed.phase == Phase::Sleeping;
    control.machines().inner.wait_for(&machine.machine_id, SOON, asleep).await.unwrap();
    assert_eq!(now(control, machine).await, (Desired::Running, Phase::Sleeping));
    keeps
}

fn starts(world: &World) -> u32 {
    world.host.state.lock().starts
}

#[tokio::test]
async fn a_machine_that_is_awake_sleeps_to_be_kept_whole_and_wakes_again() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let made = kept(&control, &machine).await.unwrap();
    assert_eq!(made.contains, ALL);
    assert_eq!(now(&control, &machine).await, (Desired::Running, Phase::Running));
    assert_eq!(starts(&world), 2);
    let fork = forked(&control, &machine).await.unwrap();
    assert_eq!((&fork.contains[..], fork.machine.phase), (&ALL[..], Phase::Sleeping));
    assert_eq!(now(&control, &machine).await, (Desired::Running, Phase::Running));
    assert_eq!(starts(&world), 3);
    control.close().await;
}

#[tokio::test]
async fn one_that_is_in_use_or_would_boot_is_left_alone() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let inner = control.machines().inner;
    let refused = async |why: &str| {
        let errors: [Error; 2] = [
            kept(&control, &machine).await.unwrap_err(),
            forked(&control, &machine).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!((error.kind(), &*error.code), (ErrorKind::Conflict, "INVALID_STATE"));
            assert!(error.message.contains(why), "{error}");
        }
        assert_eq!(now(&control, &machine).await, (Desired::Running, Phase::Running));
    };
    let used = inner.activity.begin(&machine.machine_id).await;
    refused("is in use").await;
    drop(used);
    let asked = control.executions().create(&by_id(&machine), command(&["sleep", "9"])).await;
    refused("runs commands").await;
    control.executions().delete(&by_id(&machine), &asked.unwrap().execution_id).await.unwrap();
    world.host.state.lock().keeps_no_memory = true;
    refused("from its memory").await;
    world.host.state.lock().keeps_no_memory = false;
    let grows =
        |memory_mib| UpdateMachine { memory_mib: Some(memory_mib), ..UpdateMachine::default() };
    let (machines, at) = (control.machines(), by_id(&machine));
    machines.update(&at, grows(2 * machine.memory_mib), &IfMatch::Any).await.unwrap();
    refused("would boot").await;
    machines.update(&at, grows(machine.memory_mib), &IfMatch::Any).await.unwrap();
    assert_eq!(starts(&world), 1);
    assert_eq!(kept(&control, &machine).await.unwrap().contains, ALL);
    control.close().await;
}

#[tokio::test]
async fn a_command_that_comes_meanwhile_waits_and_runs() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let keeps = napping(&world, &control, &machine).await;
    let executions = control.executions();
    let asked = executions.create(&by_id(&machine), command(&["true"])).await.unwrap();
    assert_eq!(asked.status, ExecutionStatus::WakeInProgress);
    world.host.state.lock().uppers.held = false;
    assert_eq!(keeps.await.unwrap().unwrap().contains, ALL);
    let done = executions.wait(&by_id(&machine), &asked.execution_id, SOON).await.unwrap();
    assert_eq!(done.status, ExecutionStatus::Succeeded);
    assert_eq!(starts(&world), 2);
    control.close().await;
}

#[tokio::test]
async fn what_is_wished_for_meanwhile_counts() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let keeps = napping(&world, &control, &machine).await;
    let asked = control.machines().sleep(&by_id(&machine), &IfMatch::Any).await.unwrap();
    world.host.state.lock().uppers.held = false;
    assert_eq!(keeps.await.unwrap().unwrap().contains, ALL);
    settled(&control, asked).await;
    assert_eq!(now(&control, &machine).await, (Desired::Sleeping, Phase::Sleeping));
    assert_eq!(starts(&world), 1);
    control.machines().wake(&by_id(&machine), &IfMatch::Any).await.unwrap();
    let machine = settled(&control, machine).await;
    assert_eq!(machine.phase, Phase::Running);
    let keeps = napping(&world, &control, &machine).await;
    delete(&control, &machine).await;
    world.host.state.lock().uppers.held = false;
    assert_eq!(keeps.await.unwrap().unwrap_err().kind(), ErrorKind::NotFound);
    control.close().await;
}

#[tokio::test]
async fn a_file_that_is_written_meanwhile_goes_to_the_machine_that_wakes_and_into_no_draft() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let keeps = napping(&world, &control, &machine).await;
    let (files, at) = (control.files(), by_id(&machine));
    let path = vfs::path::TreePath::parse(b"f").unwrap();
    let writes = {
        let (files, at, path) = (files.clone(), at.clone(), path.clone());
        let body = futures::stream::iter([Ok(bytes::Bytes::from_static(b"x"))]).boxed();
        tokio::spawn(async move { files.put(&at, &path, body, PutOptions::default()).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!writes.is_finished());
    world.host.state.lock().uppers.held = false;
    assert_eq!(keeps.await.unwrap().unwrap().contains, ALL);
    writes.await.unwrap().unwrap();
    assert_eq!(files.head(&at, &path, View::Current).await.unwrap().size, 1);
    let drafted = files.head(&at, &path, View::Draft).await.unwrap_err();
    assert_eq!(drafted.kind(), ErrorKind::NotFound);
    control.close().await;
}

#[tokio::test]
async fn several_who_keep_it_whole_do_so_one_after_the_other() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let all = futures::future::join_all((0..3).map(async |_| {
        let (kept, forked) = tokio::join!(kept(&control, &machine), forked(&control, &machine));
        assert_eq!((kept.unwrap().contains, forked.unwrap().contains), (ALL.into(), ALL.into()));
    }));
    all.await;
    assert_eq!(now(&control, &machine).await, (Desired::Running, Phase::Running));
    assert_eq!(starts(&world), 7);
    control.close().await;
}

#[tokio::test]
async fn whoever_comes_while_it_naps_or_wakes_waits_and_is_not_told_that_it_is_in_use() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let first = napping(&world, &control, &machine).await;
    let then = {
        let (control, machine) = (control.clone(), machine.clone());
        tokio::spawn(async move { kept(&control, &machine).await })
    };
    tokio::time::sleep(2 * world.timing.idle_wait).await;
    {
        let mut state = world.host.state.lock();
        (state.hold_starting, state.uppers.held) = (true, false);
    }
    eventually(|| starts(&world) == 2).await;
    tokio::time::sleep(2 * world.timing.idle_wait).await;
    assert!(!then.is_finished());
    world.host.hold_starting(false);
    assert_eq!(first.await.unwrap().unwrap().contains, ALL);
    assert_eq!(then.await.unwrap().unwrap().contains, ALL);
    assert_eq!(starts(&world), 3);
    control.close().await;
}

#[tokio::test]
async fn of_one_that_is_put_to_sleep_all_is_kept_without_a_nap() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let used = control.machines().inner.activity.begin(&machine.machine_id).await;
    let keeps = {
        let (control, machine) = (control.clone(), machine.clone());
        tokio::spawn(async move { kept(&control, &machine).await })
    };
    slept(&control, &machine).await;
    assert_eq!(keeps.await.unwrap().unwrap().contains, ALL);
    assert_eq!(now(&control, &machine).await, (Desired::Sleeping, Phase::Sleeping));
    drop(used);
    control.close().await;
}

#[tokio::test]
async fn a_reboot_that_is_wished_for_meanwhile_is_one() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let keeps = napping(&world, &control, &machine).await;
    control.machines().reboot(&by_id(&machine), false, &IfMatch::Any).await.unwrap();
    // It is told at once: what it waits for will not come.
    let error = tokio::time::timeout(SOON, keeps).await.unwrap().unwrap().unwrap_err();
    assert!(error.message.contains("woken meanwhile"), "{error}");
    let machine = settled(&control, machine).await;
    assert_eq!(now(&control, &machine).await, (Desired::Running, Phase::Running));
    assert_eq!((starts(&world), world.host.state.lock().forgotten), (2, 1));
    control.close().await;
}

#[tokio::test]
async fn a_wake_after_it_is_tried_until_it_can_be_and_one_that_cannot_be_is_not_begun() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.state.lock().room_lacking_for_memory = 1;
    let error = kept(&control, &machine).await.unwrap_err();
    assert!(error.message.contains("too little room"), "{error}");
    assert_eq!(starts(&world), 1);
    world.host.state.lock().room_lacking_for_memory = 0;
    let keeps = napping(&world, &control, &machine).await;
    let tries = control.machines().inner.settings.timing.tries_max;
    let errors = (0..tries + 3).map(|_| (ErrorKind::Unavailable, "STORE_AWAY"));
    world.host.state.lock().start_errors.extend(errors);
    world.host.state.lock().uppers.held = false;
    assert_eq!(keeps.await.unwrap().unwrap().contains, ALL);
    let machine = settled(&control, machine).await;
    assert_eq!(now(&control, &machine).await, (Desired::Running, Phase::Running));
    // Five times where whoever starts it can only say that it does not work, and what was in the way before counts for nothing.
    let keeps = napping(&world, &control, &machine).await;
    let failure = |code: &str, retryable| KeeperFailure {
        code: code.to_owned(),
        message: "it did not work".to_owned(),
        retryable,
    };
    {
        let mut state = world.host.state.lock();
        let away = (0..tries + 3).map(|_| failure("unavailable", true));
        state.dies_while_starting.extend(away);
        state.dies_while_starting.push_back(failure("guest_silent", true));
        state.dies_while_starting.push_back(failure("keeper_failed", false));
        state.uppers.held = false;
    }
    assert_eq!(keeps.await.unwrap().unwrap().contains, ALL);
    let machine = settled(&control, machine).await;
    assert_eq!(now(&control, &machine).await, (Desired::Running, Phase::Running));
    assert!(world.host.state.lock().dies_while_starting.is_empty());
    // Not where no try can do better.
    let keeps = napping(&world, &control, &machine).await;
    {
        let mut state = world.host.state.lock();
        state.dies_while_starting.push_back(failure("unhealthy", false));
        state.uppers.held = false;
    }
    assert_eq!(keeps.await.unwrap().unwrap().contains, ALL);
    assert_eq!(settled(&control, machine.clone()).await.phase, Phase::Failed);
    woken(&control, &machine).await;
    // Not where it is the guest that does not come up.
    let keeps = napping(&world, &control, &machine).await;
    let silent = || KeeperFailure {
        code: "guest_silent".to_owned(),
        message: "the guest did not answer".to_owned(),
        retryable: true,
    };
    world.host.state.lock().dies_while_starting.extend((0..tries).map(|_| silent()));
    world.host.state.lock().uppers.held = false;
    assert_eq!(keeps.await.unwrap().unwrap().contains, ALL);
    assert_eq!(settled(&control, machine.clone()).await.phase, Phase::Failed);
    woken(&control, &machine).await;
    // Any later one is given up, as ever.
    slept(&control, &machine).await;
    let errors = (0..tries + 3).map(|_| (ErrorKind::Unavailable, "STORE_AWAY"));
    world.host.state.lock().start_errors.extend(errors);
    control.machines().wake(&by_id(&machine), &IfMatch::Any).await.unwrap();
    assert_eq!(settled(&control, machine).await.phase, Phase::Failed);
    control.close().await;
}

#[tokio::test]
async fn where_the_store_is_away_it_goes_on() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.state.lock().store_away = true;
    for error in
        [kept(&control, &machine).await.unwrap_err(), forked(&control, &machine).await.unwrap_err()]
    {
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true));
        assert!(error.message.contains("goes on"), "{error}");
    }
    assert_eq!(now(&control, &machine).await, (Desired::Running, Phase::Running));
    world.host.state.lock().store_away = false;
    assert_eq!(starts(&world), 1);
    assert_eq!(kept(&control, &machine).await.unwrap().contains, ALL);
    control.close().await;
}

#[tokio::test]
async fn another_size_that_is_asked_for_meanwhile_is_none_until_it_is_awake() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let keeps = napping(&world, &control, &machine).await;
    let machines = control.machines();
    let row = machines.inner.resolve(&by_id(&machine)).await.unwrap();
    let larger = catalog::MachineSpec { memory_mib: 2 * row.spec.memory_mib, ..row.spec.clone() };
    let refused = machines.inner.naps.refuse_size(&row, &larger).unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
    machines.inner.naps.refuse_size(&row, &row.spec).unwrap();
    let grows = {
        let (machines, at, memory_mib) = (control.machines(), by_id(&machine), larger.memory_mib);
        let grown = UpdateMachine { memory_mib: Some(memory_mib), ..UpdateMachine::default() };
        tokio::spawn(async move { machines.update(&at, grown, &IfMatch::Any).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!grows.is_finished());
    let stale = UpdateMachine { memory_mib: Some(larger.memory_mib), ..UpdateMachine::default() };
    let stale = machines.update(&by_id(&machine), stale, &IfMatch::Revision("1".to_owned())).await;
    assert_eq!(stale.unwrap_err().code, "REVISION_MISMATCH");
    assert!(!grows.is_finished(), "it was told at once");
    // What changes nothing for its memory is not held up, and what is wrong is said at once.
    for (memory_mib, done) in [(row.spec.memory_mib, true), (1, false)] {
        let update = UpdateMachine { memory_mib: Some(memory_mib), ..UpdateMachine::default() };
        let updated = machines.update(&by_id(&machine), update, &IfMatch::Any).await;
        assert_eq!(updated.is_ok(), done);
    }
    world.host.state.lock().uppers.held = false;
    assert_eq!(keeps.await.unwrap().unwrap().contains, ALL);
    assert_eq!(grows.await.unwrap().unwrap().memory_mib, larger.memory_mib);
    let started = world.host.state.lock().started_with.clone().unwrap();
    assert_eq!(started.memory_mib, row.spec.memory_mib, "it went on with the one that it had");
    control.close().await;
}

#[tokio::test]
async fn another_size_is_refused_where_it_stays_on_its_way() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let keeps = napping(&world, &control, &machine).await;
    tokio::time::pause();
    let memory_mib = Some(2 * machine.memory_mib);
    let update = UpdateMachine { memory_mib, ..UpdateMachine::default() };
    let updated = control.machines().update(&by_id(&machine), update, &IfMatch::Any).await;
    tokio::time::resume();
    let refused = updated.unwrap_err();
    assert_eq!((refused.kind(), refused.is_retryable()), (ErrorKind::Unavailable, true));
    let is = control.machines().get(&by_id(&machine)).await.unwrap();
    assert_eq!(is.memory_mib, machine.memory_mib);
    world.host.state.lock().uppers.held = false;
    assert_eq!(keeps.await.unwrap().unwrap().contains, ALL);
    control.close().await;
}

/// Has a machine be kept whole, and returns while its keeper stops for that.
async fn stopping(
    world: &World,
    control: &Control,
    machine: &Machine,
) -> tokio::task::JoinHandle<Result<Snapshot>> {
    world.host.state.lock().hold_stopping = true;
    let keeps = {
        let (control, machine) = (control.clone(), machine.clone());
        tokio::spawn(async move { kept(&control, &machine).await })
    };
    eventually(|| {
        let state = world.host.state.lock();
        let keeper = state.keepers.get(&machine.machine_id);
        keeper.is_some_and(|keeper| *keeper.phase.lock() == crate::host::KeeperPhase::Stopping)
    })
    .await;
    keeps
}

#[tokio::test]
async fn one_that_powers_itself_off_meanwhile_stays_asleep() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let keeps = stopping(&world, &control, &machine).await;
    world.host.power_off(&machine.machine_id);
    keeps.await.unwrap().unwrap();
    assert_eq!(now(&control, &machine).await, (Desired::Sleeping, Phase::Sleeping));
    assert_eq!(starts(&world), 1);
    let is = control.machines().get(&by_id(&machine)).await.unwrap();
    assert_eq!(is.status.reason, "guest_powered_off");
    control.close().await;
}

#[tokio::test]
async fn one_whose_keeper_is_lost_wakes_however_long_something_is_in_the_way() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let tries = control.machines().inner.settings.timing.tries_max;
    let keeps = stopping(&world, &control, &machine).await;
    let errors = (0..3 * tries).map(|_| (ErrorKind::Unavailable, "STORE_AWAY"));
    world.host.state.lock().start_errors.extend(errors);
    world.host.crash(&machine.machine_id);
    keeps.await.unwrap().unwrap_err();
    let machine = settled(&control, machine).await;
    assert_eq!(now(&control, &machine).await, (Desired::Running, Phase::Running));
    assert!(world.host.state.lock().start_errors.is_empty());
    control.close().await;
}

#[tokio::test]
async fn nothing_sleeps_for_what_is_refused_anyway() {
    let world = world();
    let mut settings = world.settings();
    settings.limits.machines_max = 1;
    let control = Control::open(settings, world.parts()).await.unwrap();
    let machine = running(&control).await;
    let unnamed = NewSnapshot { name: Some(String::new()), whole: true };
    let error = control.snapshots().create(&by_id(&machine), unnamed).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(forked(&control, &machine).await.unwrap_err().kind(), ErrorKind::TooMany);
    assert_eq!(starts(&world), 1);
    control.close().await;
}

#[tokio::test]
async fn one_that_is_in_use_is_refused_whatever_else_changes_of_it() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let used = control.machines().inner.activity.begin(&machine.machine_id).await;
    let changes = {
        let (machines, at) = (control.machines(), by_id(&machine));
        tokio::spawn(async move {
            for n in 1.. {
                let autosleep_seconds = Some(1_000 + n);
                let update = UpdateMachine { autosleep_seconds, ..UpdateMachine::default() };
                machines.update(&at, update, &IfMatch::Any).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    tokio::time::pause();
    let error = tokio::time::timeout(2 * NAP_WAIT, kept(&control, &machine)).await;
    tokio::time::resume();
    assert_eq!(error.unwrap().unwrap_err().code, "INVALID_STATE");
    changes.abort();
    drop(used);
    control.close().await;
}

#[tokio::test]
async fn one_whose_keeper_is_lost_on_the_way_down_wakes_and_nothing_is_kept() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let keeps = stopping(&world, &control, &machine).await;
    world.host.crash(&machine.machine_id);
    let error = keeps.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
    let machine = settled(&control, machine).await;
    assert_eq!(now(&control, &machine).await, (Desired::Running, Phase::Running));
    let listed = control.snapshots().list(&by_id(&machine), &PageQuery::default()).await.unwrap();
    assert_eq!(listed.items, []);
    world.host.state.lock().hold_stopping = false;
    slept(&control, &machine).await;
    control.close().await;
}

#[tokio::test]
async fn what_is_not_stored_in_time_is_not_kept_and_the_machine_wakes() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let keeps = napping(&world, &control, &machine).await;
    tokio::time::pause();
    let error = keeps.await.unwrap().unwrap_err();
    tokio::time::resume();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
    assert_eq!(settled(&control, machine.clone()).await.phase, Phase::Running);
    assert_eq!(now(&control, &machine).await, (Desired::Running, Phase::Running));
    control.close().await;
}

#[tokio::test]
async fn a_server_that_ends_meanwhile_leaves_a_machine_that_the_next_one_wakes() {
    let world = world();
    let control = world.open().await;
    let machine = running(&control).await;
    let keeps = napping(&world, &control, &machine).await;
    control.close().await;
    keeps.abort();
    drop((keeps, control));
    world.host.state.lock().uppers.held = false;
    let control = world.open().await;
    let machine = settled(&control, machine).await;
    assert_eq!(now(&control, &machine).await, (Desired::Running, Phase::Running));
    control.close().await;
}
