//! Files of machines awake, asleep and in between, on homes in memory.

use std::time::Duration;

use base::ErrorKind;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::Control;
use crate::fakes::World;
use crate::fakes::life::{SOON, running, slept, woken};
use crate::machines::{CreateMachine, IfMatch, Phase};

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

fn body(text: &str) -> ByteStream {
    stream::iter([Ok(Bytes::copy_from_slice(text.as_bytes()))]).boxed()
}

async fn put(control: &Control, machine: &MachineRef, name: &str, text: &str) {
    let options = PutOptions::default();
    control.files().put(machine, &path(name), body(text), options).await.unwrap();
}

/// Whoever publishes, once that has begun.
async fn publish_beside(
    control: &Control,
    machine: &MachineRef,
) -> JoinHandle<Result<PublishReport>> {
    let (control, machine) = (control.clone(), machine.clone());
    let publishes = tokio::spawn(async move { control.files().publish(&machine).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    publishes
}

/// A file that is half there, and whoever waits for the rest.
async fn slow_upload(
    control: &Control,
    machine: &MachineRef,
) -> (mpsc::Sender<std::io::Result<Bytes>>, JoinHandle<Result<PutDone>>) {
    let (more, pieces) = mpsc::channel(1);
    let pieces = stream::unfold(pieces, async |mut pieces| Some((pieces.recv().await?, pieces)));
    let (control, machine) = (control.clone(), machine.clone());
    let uploads = tokio::spawn(async move {
        let options = PutOptions::default();
        control.files().put(&machine, &path("slow"), pieces.boxed(), options).await
    });
    more.send(Ok(Bytes::from("one "))).await.unwrap();
    // There is room for this one when that was taken: the upload has begun.
    more.send(Ok(Bytes::new())).await.unwrap();
    (more, uploads)
}

async fn read(control: &Control, machine: &MachineRef, name: &str, view: View) -> Result<String> {
    let file = control.files().get(machine, &path(name), None, view).await?;
    let pieces: Vec<Bytes> = file.body.try_collect().await.unwrap();
    Ok(String::from_utf8(pieces.concat()).unwrap())
}

#[tokio::test]
async fn a_draft_is_invisible_until_it_is_published() {
    let world = World::new();
    let control = world.open().await;
    let machine = MachineRef::Id(running(&control).await.machine_id);
    put(&control, &machine, "a", "live").await;
    assert_eq!(read(&control, &machine, "a", View::Current).await.unwrap(), "live");
    slept(&control, &machine).await;
    put(&control, &machine, "a", "draft").await;
    put(&control, &machine, "dir/b", "new").await;
    assert_eq!(read(&control, &machine, "a", View::Current).await.unwrap(), "live");
    assert_eq!(read(&control, &machine, "a", View::Draft).await.unwrap(), "draft");

    let report = control.files().publish(&machine).await.unwrap();
    assert_eq!((report.published, report.changed, report.conflicts_total), (true, 2, 0));
    assert_eq!(read(&control, &machine, "a", View::Current).await.unwrap(), "draft");
    woken(&control, &machine).await;
    assert_eq!(read(&control, &machine, "dir/b", View::Current).await.unwrap(), "new");
    // Nothing is left to publish.
    assert!(!control.files().publish(&machine).await.unwrap().published);
}

#[tokio::test]
async fn a_parked_draft_is_applied_to_the_live_home_and_conflicts_are_named() {
    let world = World::new();
    let control = world.open().await;
    let machine = MachineRef::Id(running(&control).await.machine_id);
    put(&control, &machine, "both", "0").await;
    put(&control, &machine, "gone", "0").await;
    slept(&control, &machine).await;
    put(&control, &machine, "both", "draft").await;
    put(&control, &machine, "mine", "draft").await;
    let options = DeleteOptions::default();
    control.files().delete(&machine, &path("gone"), options).await.unwrap();
    woken(&control, &machine).await;
    assert_eq!(read(&control, &machine, "both", View::Current).await.unwrap(), "0");
    assert_eq!(read(&control, &machine, "both", View::Draft).await.unwrap(), "draft");
    put(&control, &machine, "both", "guest").await;
    put(&control, &machine, "theirs", "guest").await;

    let report = control.files().publish(&machine).await.unwrap();
    assert_eq!(report.conflicts, ["both"]);
    assert_eq!(report.changed, 3);
    for (name, text) in [("both", "draft"), ("mine", "draft"), ("theirs", "guest")] {
        assert_eq!(read(&control, &machine, name, View::Current).await.unwrap(), text, "{name}");
    }
    assert!(control.files().head(&machine, &path("gone"), View::Current).await.is_err());
    let error = read(&control, &machine, "both", View::Draft).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_draft_that_the_home_moved_under_is_applied_while_asleep_too() {
    let world = World::new();
    let control = world.open().await;
    let machine = MachineRef::Id(running(&control).await.machine_id);
    slept(&control, &machine).await;
    put(&control, &machine, "mine", "draft").await;
    woken(&control, &machine).await;
    put(&control, &machine, "theirs", "guest").await;
    slept(&control, &machine).await;
    let report = control.files().publish(&machine).await.unwrap();
    assert_eq!((report.changed, report.conflicts_total), (1, 0));
    assert_eq!(read(&control, &machine, "mine", View::Current).await.unwrap(), "draft");
    assert_eq!(read(&control, &machine, "theirs", View::Current).await.unwrap(), "guest");
}

#[tokio::test]
async fn a_wake_waits_for_a_draft_that_is_being_applied() {
    let world = World::new();
    let control = world.open().await;
    let machine = MachineRef::Id(running(&control).await.machine_id);
    slept(&control, &machine).await;
    put(&control, &machine, "mine", "draft").await;
    woken(&control, &machine).await;
    slept(&control, &machine).await;
    world.host.state.lock().hold_apply = true;
    let publishes = publish_beside(&control, &machine).await;
    let before = world.host.starts();
    control.machines().wake(&machine, &IfMatch::Any).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.host.starts(), before, "a keeper would find the home in use");
    // What is wished for meanwhile counts: nothing starts for a wish that is over.
    slept(&control, &machine).await;
    control.machines().wake(&machine, &IfMatch::Any).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.host.starts(), before);
    world.host.state.lock().hold_apply = false;
    assert_eq!(publishes.await.unwrap().unwrap().changed, 1);
    woken(&control, &machine).await;
    assert_eq!(read(&control, &machine, "mine", View::Current).await.unwrap(), "draft");
}

#[tokio::test]
async fn a_wake_does_not_wait_for_a_publish_that_waits_for_a_slow_upload() {
    let world = World::new();
    let control = world.open().await;
    let machine = MachineRef::Id(running(&control).await.machine_id);
    slept(&control, &machine).await;
    let (more, uploads) = slow_upload(&control, &machine).await;
    let publishes = publish_beside(&control, &machine).await;
    assert!(!publishes.is_finished(), "it makes half of an upload visible");
    let wakes = woken(&control, &machine);
    tokio::time::timeout(Duration::from_secs(5), wakes).await.expect("the wake waits");
    more.send(Ok(Bytes::from("two"))).await.unwrap();
    drop(more);
    uploads.await.unwrap().unwrap();
    // Into the home of a machine that is awake meanwhile.
    assert_eq!(publishes.await.unwrap().unwrap().changed, 1);
    assert_eq!(read(&control, &machine, "slow", View::Current).await.unwrap(), "one two");
}

#[tokio::test]
async fn a_publish_goes_where_the_home_is_when_the_uploads_before_it_have_ended() {
    let world = World::new();
    let control = world.open().await;
    let machine = MachineRef::Id(running(&control).await.machine_id);
    slept(&control, &machine).await;
    let (more, uploads) = slow_upload(&control, &machine).await;
    woken(&control, &machine).await;
    let publishes = publish_beside(&control, &machine).await;
    slept(&control, &machine).await;
    more.send(Ok(Bytes::from("two"))).await.unwrap();
    drop(more);
    uploads.await.unwrap().unwrap();
    assert_eq!(publishes.await.unwrap().unwrap().changed, 1);
    assert_eq!(read(&control, &machine, "slow", View::Current).await.unwrap(), "one two");
}

#[tokio::test]
async fn a_write_that_waited_for_a_publish_goes_where_the_home_is_then() {
    let world = World::new();
    let control = world.open().await;
    let machine = MachineRef::Id(running(&control).await.machine_id);
    slept(&control, &machine).await;
    put(&control, &machine, "mine", "draft").await;
    woken(&control, &machine).await;
    slept(&control, &machine).await;
    world.host.state.lock().hold_apply = true;
    let publishes = publish_beside(&control, &machine).await;
    let writes = {
        let (control, machine) = (control.clone(), machine.clone());
        tokio::spawn(async move { put(&control, &machine, "late", "live").await })
    };
    let looks = {
        let (control, machine) = (control.clone(), machine.clone());
        tokio::spawn(async move { read(&control, &machine, "mine", View::Draft).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!writes.is_finished() && !looks.is_finished(), "they are beside a publish");
    control.machines().wake(&machine, &IfMatch::Any).await.unwrap();
    world.host.state.lock().hold_apply = false;
    assert_eq!(publishes.await.unwrap().unwrap().changed, 1);
    tokio::time::timeout(SOON, writes).await.expect("it waits").unwrap();
    assert_eq!(read(&control, &machine, "late", View::Current).await.unwrap(), "live");
    let looked = tokio::time::timeout(SOON, looks).await.expect("it waits").unwrap();
    assert_eq!(looked.unwrap_err().kind(), ErrorKind::NotFound, "there is no draft any more");
}

#[tokio::test]
async fn a_draft_can_be_thrown_away() {
    let world = World::new();
    let control = world.open().await;
    let machine = MachineRef::Id(running(&control).await.machine_id);
    slept(&control, &machine).await;
    put(&control, &machine, "a", "draft").await;
    assert!(control.files().discard_draft(&machine).await.unwrap());
    assert!(!control.files().discard_draft(&machine).await.unwrap());
    assert!(!control.files().publish(&machine).await.unwrap().published);
    assert!(read(&control, &machine, "a", View::Draft).await.is_err());
}

#[tokio::test]
async fn a_call_waits_for_a_machine_on_its_way() {
    let world = World::new();
    let control = world.open().await;
    world.host.hold_starting(true);
    let machine = control.machines().create(CreateMachine::default()).await.unwrap();
    let machine = MachineRef::Id(machine.machine_id);
    let release = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.host.hold_starting(false);
    };
    tokio::join!(put(&control, &machine, "a", "live"), release);
    assert_eq!(read(&control, &machine, "a", View::Current).await.unwrap(), "live");
}

#[tokio::test]
async fn a_home_that_a_lost_keeper_held_is_not_read_without_what_it_knew() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    let target = MachineRef::Id(machine.machine_id.clone());
    put(&control, &target, "a", "acknowledged").await;
    world.host.crash(&machine.machine_id);
    let inner = control.machines().inner;
    let failed = |row: &catalog::MachineRow| row.observed.phase == Phase::Failed;
    inner.wait_for(&machine.machine_id, SOON, failed).await.unwrap();
    let error = read(&control, &target, "a", View::Current).await.unwrap_err();
    assert_eq!((error.kind(), error.code.as_ref()), (ErrorKind::Conflict, "INVALID_STATE"));
    woken(&control, &target).await;
    assert_eq!(read(&control, &target, "a", View::Current).await.unwrap(), "acknowledged");
}

#[tokio::test]
async fn a_body_that_is_still_read_keeps_its_machine_awake() {
    let world = World::new();
    let control = world.open().await;
    let machine = running(&control).await;
    let target = MachineRef::Id(machine.machine_id.clone());
    put(&control, &target, "a", "text").await;
    let file = control.files().get(&target, &path("a"), None, View::Current).await.unwrap();
    world.clock.advance(Duration::from_secs(1_000));
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(world.host.is_running(&machine.machine_id));
    drop(file);
    world.clock.advance(Duration::from_secs(1_000));
    let id = machine.machine_id.clone();
    let inner = control.machines().inner;
    let asleep = |row: &catalog::MachineRow| row.observed.phase == Phase::Sleeping;
    let row = inner.wait_for(&id, SOON, asleep).await.unwrap();
    assert_eq!(row.observed.phase, Phase::Sleeping);
}

#[tokio::test]
async fn files_of_a_machine_that_is_not_there_are_not_found() {
    let world = World::new();
    let control = world.open().await;
    let nobody = MachineRef::Name("nobody".to_owned());
    let error = read(&control, &nobody, "a", View::Current).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
