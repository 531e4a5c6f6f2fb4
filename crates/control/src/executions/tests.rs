//! Executions on machines awake, asleep and lost, on a host in memory.

use base::MachineId;
use futures::TryStreamExt as _;

use super::*;
use crate::Control;
use crate::fakes::World;
use crate::fakes::life::{SOON, by_id, running, settled, slept};
use crate::machines::driver::Drivers;
use crate::machines::intent;

fn command(words: &[&str]) -> NewExecution {
    let command = words.iter().map(|word| (*word).to_owned()).collect();
    NewExecution { command, ..NewExecution::default() }
}

async fn status(control: &Control, id: &MachineId, execution: &ExecutionId) -> Execution {
    control.executions().get(&MachineRef::Id(id.clone()), execution).await.unwrap()
}

#[tokio::test]
async fn a_command_runs_on_a_machine_that_is_awake() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    let executions = control.executions();
    let started = executions.create(&by_id(&machine), command(&["echo", "hi"])).await.unwrap();
    assert_eq!(started.status, ExecutionStatus::Succeeded);
    let output = executions.output(&by_id(&machine), &started.execution_id).await.unwrap();
    assert_eq!(output.stdout, "hi");
    let page = PageQuery::default();
    let events = executions.events(&by_id(&machine), &started.execution_id, &page).await.unwrap();
    assert_eq!(events.items[0].sequence, 1);
}

#[tokio::test]
async fn a_command_wakes_a_sleeping_machine_and_keeps_its_id() {
    let world = World::new();
    let control = world.open().await;
    let machine = slept(&control, &running(&control).await).await;
    let executions = control.executions();
    let mut new = command(&["echo", "hi"]);
    new.env.insert("TOKEN".to_owned(), "hunter2".to_owned());
    let waiting = executions.create(&by_id(&machine), new).await.unwrap();
    assert_eq!(waiting.status, ExecutionStatus::WakeInProgress);
    assert_eq!(waiting.env_keys, ["TOKEN"]);
    assert!(waiting.retry_after_ms.is_some());
    let done = executions.wait(&by_id(&machine), &waiting.execution_id, SOON).await.unwrap();
    assert_eq!(done.status, ExecutionStatus::Succeeded);
    assert_eq!(done.execution_id, waiting.execution_id);
    let listed = executions.list(&by_id(&machine), &PageQuery::default()).await.unwrap();
    assert_eq!(listed.items, [done]);
    assert!(!serde_json::to_string(&listed).unwrap().contains("hunter2"));
}

#[tokio::test]
async fn a_command_that_meets_a_machine_that_falls_asleep_waits_for_that_and_wakes_it() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    let inner = control.machines().inner;
    world.clock.advance(Duration::from_secs(2));
    let falling_asleep = inner.activity.fall_asleep(&machine.machine_id, 1, None).unwrap();
    let (executions, by) = (control.executions(), by_id(&machine));
    let asks = {
        let (executions, by) = (executions.clone(), by.clone());
        tokio::spawn(async move { executions.create(&by, command(&["echo", "hi"])).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!asks.is_finished(), "it was begun in a machine that falls asleep");
    inner.edit(&machine.machine_id, intent::sleep_idle).await.unwrap();
    Drivers::nudge(&inner, &machine.machine_id);
    drop(falling_asleep);
    let asked = asks.await.unwrap().unwrap();
    assert_eq!(asked.status, ExecutionStatus::WakeInProgress);
    let done = executions.wait(&by, &asked.execution_id, SOON).await.unwrap();
    assert_eq!(done.status, ExecutionStatus::Succeeded);
}

#[tokio::test]
async fn a_command_that_finds_the_door_closed_wakes_the_machine_again() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    world.host.state.lock().hold_commands = true;
    let (executions, by) = (control.executions(), by_id(&machine));
    let asks = {
        let (executions, by) = (executions.clone(), by.clone());
        tokio::spawn(async move { executions.create(&by, command(&["echo", "hi"])).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    slept(&control, &machine).await;
    world.host.state.lock().hold_commands = false;
    let asked = asks.await.unwrap().unwrap();
    assert_eq!(asked.status, ExecutionStatus::WakeInProgress);
    let done = executions.wait(&by, &asked.execution_id, SOON).await.unwrap();
    assert_eq!(done.status, ExecutionStatus::Succeeded);
}

#[tokio::test]
async fn a_command_whose_machine_cannot_wake_has_failed_and_says_why() {
    let world = World::new();
    let control = world.open().await;
    let machine = slept(&control, &running(&control).await).await;
    world.host.fail_starts(&[(ErrorKind::NotFound, "IMAGE_MISSING")]);
    let executions = control.executions();
    let waiting = executions.create(&by_id(&machine), command(&["true"])).await.unwrap();
    let failed = executions.wait(&by_id(&machine), &waiting.execution_id, SOON).await.unwrap();
    assert_eq!(failed.status, ExecutionStatus::Failed);
    assert_eq!(failed.error_code.as_deref(), Some("WAKE_FAILED"));
    assert!(failed.error_message.unwrap().contains("IMAGE_MISSING: mend it"));
    // It stays readable: output, events, list.
    let id = &waiting.execution_id;
    assert_eq!(executions.output(&by_id(&machine), id).await.unwrap().stdout, "");
    let events = executions.events(&by_id(&machine), id, &PageQuery::default()).await.unwrap();
    assert_eq!(events.items[0].status, Some(ExecutionStatus::Failed));
    let listed = executions.list(&by_id(&machine), &PageQuery::default()).await.unwrap();
    assert_eq!(listed.items.len(), 1);
}

#[tokio::test]
async fn a_command_that_waits_can_be_cancelled_and_never_runs() {
    let world = World::new();
    let control = world.open().await;
    let machine = slept(&control, &running(&control).await).await;
    world.host.hold_starting(true);
    let executions = control.executions();
    let waiting = executions.create(&by_id(&machine), command(&["true"])).await.unwrap();
    let id = waiting.execution_id;
    let cancelled = executions.delete(&by_id(&machine), &id).await.unwrap();
    assert_eq!(cancelled.status, ExecutionStatus::Cancelled);
    world.host.hold_starting(false);
    let woken = control.machines().get(&by_id(&machine)).await.unwrap();
    settled(&control, woken).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let after = status(&control, &machine.machine_id, &id).await;
    assert_eq!(after.status, ExecutionStatus::Cancelled);
}

#[tokio::test]
async fn a_running_command_is_cancelled_and_a_finished_one_stays_as_it_is() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    let executions = control.executions();
    let running = executions.create(&by_id(&machine), command(&["sleep", "9"])).await.unwrap();
    assert_eq!(running.status, ExecutionStatus::Running);
    let ended = executions.delete(&by_id(&machine), &running.execution_id).await.unwrap();
    assert_eq!(ended.status, ExecutionStatus::Cancelled);
    let again = executions.delete(&by_id(&machine), &running.execution_id).await.unwrap();
    assert_eq!(again, ended);
}

#[tokio::test]
async fn a_command_that_waited_over_a_restart_has_failed() {
    let world = World::new();
    let control = world.open().await;
    let machine = slept(&control, &running(&control).await).await;
    world.host.hold_starting(true);
    let executions = control.executions();
    let waiting = executions.create(&by_id(&machine), command(&["true"])).await.unwrap();
    control.close().await;
    let control = world.open().await;
    let after = status(&control, &machine.machine_id, &waiting.execution_id).await;
    assert_eq!(after.status, ExecutionStatus::Failed);
    assert_eq!(after.error_code.as_deref(), Some("SERVER_RESTARTED"));
}

#[tokio::test]
async fn a_command_on_a_lost_keeper_has_failed() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    let executions = control.executions();
    let running = executions.create(&by_id(&machine), command(&["sleep", "9"])).await.unwrap();
    world.host.crash(&machine.machine_id);
    let after = status(&control, &machine.machine_id, &running.execution_id).await;
    assert_eq!(after.error_code.as_deref(), Some("MACHINE_STOPPED"));
}

#[tokio::test]
async fn an_attachment_carries_both_directions_until_the_end() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    let executions = control.executions();
    let running = executions.create(&by_id(&machine), command(&["sleep", "9"])).await.unwrap();
    let attached = executions.attach(&by_id(&machine), &running.execution_id).await.unwrap();
    let Attachment { input, output } = attached;
    input.send(AttachInput::Stdin(Bytes::from_static(b"ping"))).await.unwrap();
    drop(input);
    let items: Vec<AttachOutput> = output.try_collect().await.unwrap();
    assert_eq!(items[0], AttachOutput::Stdout(Bytes::from_static(b"ping")));
    assert!(matches!(items[1], AttachOutput::Ended(_)));
}

#[tokio::test]
async fn an_attachment_to_what_is_over_gives_what_is_kept() {
    let world = World::new();
    let control = world.open().await;
    let machine = slept(&control, &running(&control).await).await;
    let executions = control.executions();
    let waiting = executions.create(&by_id(&machine), command(&["echo", "hi"])).await.unwrap();
    let attached = executions.attach(&by_id(&machine), &waiting.execution_id).await.unwrap();
    let items: Vec<AttachOutput> = attached.output.try_collect().await.unwrap();
    assert_eq!(items[0], AttachOutput::Stdout(Bytes::from_static(b"hi")));
    let AttachOutput::Ended(last) = &items[1] else { panic!("{items:?}") };
    assert_eq!(last.status, ExecutionStatus::Succeeded);
}

#[tokio::test]
async fn no_more_commands_wait_than_allowed() {
    let world = World::new();
    let control = world.open().await;
    let machine = slept(&control, &running(&control).await).await;
    world.host.hold_starting(true);
    let executions = control.executions();
    for _ in 0..crate::limits::WAITING_EXECUTIONS_MAX {
        executions.create(&by_id(&machine), command(&["true"])).await.unwrap();
    }
    let error = executions.create(&by_id(&machine), command(&["true"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.retry_after_ms.is_some());
}

#[tokio::test]
async fn an_execution_of_another_machine_is_not_found() {
    let world = World::new();
    let control = world.open().await;
    let one = slept(&control, &running(&control).await).await;
    let two = running(&control).await;
    world.host.hold_starting(true);
    let executions = control.executions();
    let waiting = executions.create(&by_id(&one), command(&["true"])).await.unwrap();
    let error = executions.get(&by_id(&two), &waiting.execution_id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn lists_are_in_order_over_pages_and_over_commands_that_wait() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    let executions = control.executions();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let done = executions.create(&by_id(&machine), command(&["true"])).await.unwrap();
        ids.push(done.execution_id);
    }
    let machine = slept(&control, &machine).await;
    world.host.hold_starting(true);
    for _ in 0..2 {
        let waiting = executions.create(&by_id(&machine), command(&["true"])).await.unwrap();
        ids.push(waiting.execution_id);
    }
    let mut query = PageQuery { cursor: None, limit: Some(2) };
    let mut pages = Vec::new();
    loop {
        let page = executions.list(&by_id(&machine), &query).await.unwrap();
        pages.push(page.items.into_iter().map(|one| one.execution_id).collect::<Vec<_>>());
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => break,
        }
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(pages.concat(), ids);
}

#[tokio::test]
async fn commands_that_never_ran_are_kept_up_to_a_bound() {
    use crate::limits::NEVER_RAN_EXECUTIONS_MAX;
    let world = World::new();
    let control = world.open().await;
    let machine = slept(&control, &running(&control).await).await;
    world.host.hold_starting(true);
    let executions = control.executions();
    for _ in 0..NEVER_RAN_EXECUTIONS_MAX + 5 {
        let waiting = executions.create(&by_id(&machine), command(&["true"])).await.unwrap();
        executions.delete(&by_id(&machine), &waiting.execution_id).await.unwrap();
    }
    let query = PageQuery { cursor: None, limit: Some(200) };
    let listed = executions.list(&by_id(&machine), &query).await.unwrap();
    assert_eq!(listed.items.len(), NEVER_RAN_EXECUTIONS_MAX);
}
