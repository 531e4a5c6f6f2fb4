//! Snapshots, restores and forks of machines on homes in memory.

use bytes::Bytes;
use futures::{StreamExt as _, stream};

use super::*;
use crate::Control;
use crate::fakes::life::{SOON, created, named, slept};
use crate::fakes::{World, eventually};
use crate::files::{PutOptions, View};
use crate::machines::IfMatch;

async fn put(control: &Control, machine: &MachineRef, text: &str) {
    let body = stream::iter([Ok(Bytes::copy_from_slice(text.as_bytes()))]).boxed();
    let path = vfs::path::TreePath::parse(b"f").unwrap();
    control.files().put(machine, &path, body, PutOptions::default()).await.unwrap();
}

async fn read(control: &Control, machine: &MachineRef) -> String {
    use futures::TryStreamExt as _;
    let path = vfs::path::TreePath::parse(b"f").unwrap();
    let file = control.files().get(machine, &path, None, View::Current).await.unwrap();
    let pieces: Vec<Bytes> = file.body.try_collect().await.unwrap();
    String::from_utf8(pieces.concat()).unwrap()
}

fn called(name: &str) -> NewSnapshot {
    NewSnapshot { name: Some(name.to_owned()), whole: false }
}

fn whole() -> NewSnapshot {
    NewSnapshot { name: None, whole: true }
}

#[tokio::test]
async fn a_machine_is_taken_back_to_a_snapshot_while_it_sleeps_without_a_draft() {
    let world = World::new();
    let control = world.open().await;
    let machine = MachineRef::Id(created(&control, named("one")).await.machine_id);
    put(&control, &machine, "first").await;
    let snapshots = control.snapshots();
    let kept = snapshots.create(&machine, called("before")).await.unwrap();
    put(&control, &machine, "second").await;
    let refused = snapshots.restore(&machine, &kept.snapshot_id).await.unwrap_err();
    assert_eq!((refused.kind(), &*refused.code), (ErrorKind::Conflict, "INVALID_STATE"));
    slept(&control, &machine).await;
    put(&control, &machine, "draft").await;
    let refused = snapshots.restore(&machine, &kept.snapshot_id).await.unwrap_err();
    assert_eq!((refused.kind(), &*refused.code), (ErrorKind::Conflict, "DRAFT_OPEN"));
    control.files().discard_draft(&machine).await.unwrap();
    assert_eq!(read(&control, &machine).await, "second");
    snapshots.restore(&machine, &kept.snapshot_id).await.unwrap();
    assert_eq!(read(&control, &machine).await, "first");
    snapshots.restore(&machine, &kept.snapshot_id).await.unwrap();
    let unknown = snapshots.restore(&machine, &SnapshotId::generate()).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn snapshots_are_listed_in_pages_found_by_id_and_deleted() {
    let world = World::new();
    let control = world.open().await;
    let machine = MachineRef::Id(created(&control, named("one")).await.machine_id);
    let snapshots = control.snapshots();
    for name in ["a", "b", "c"] {
        snapshots.create(&machine, called(name)).await.unwrap();
    }
    let first = PageQuery { cursor: None, limit: Some(2) };
    let page = snapshots.list(&machine, &first).await.unwrap();
    let rest = PageQuery { cursor: page.next_cursor.clone(), limit: Some(2) };
    let rest = snapshots.list(&machine, &rest).await.unwrap();
    let names: Vec<_> =
        page.items.iter().chain(&rest.items).map(|one| one.name.clone().unwrap()).collect();
    assert_eq!((names, rest.next_cursor), (vec!["a".into(), "b".into(), "c".to_owned()], None));
    let one = &page.items[0];
    assert_eq!(snapshots.get(&one.snapshot_id).await.unwrap(), *one);
    assert_eq!(snapshots.delete(&one.snapshot_id).await.unwrap(), *one);
    for gone in [&one.snapshot_id, &SnapshotId::generate()] {
        assert_eq!(snapshots.get(gone).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(snapshots.delete(gone).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
    // Another host finds them after it has taken the machine up.
    slept(&control, &machine).await;
    let other = world.another();
    let adopting = other.open().await;
    adopting.machines().adopt(false).await.unwrap();
    assert_eq!(adopting.snapshots().get(&page.items[1].snapshot_id).await.unwrap(), page.items[1]);
}

#[tokio::test]
async fn a_fork_is_a_machine_of_its_own_that_sleeps() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    put(&control, &machine, "first").await;
    let snapshots = control.snapshots();
    let kept = snapshots.create(&machine, NewSnapshot::default()).await.unwrap();
    put(&control, &machine, "second").await;
    // From its keeper, from a snapshot while it is awake, from the store.
    let fork = |name: &str, at: Option<&SnapshotId>| {
        let fork =
            ForkMachine { name: Some(name.to_owned()), snapshot_id: at.cloned(), whole: false };
        let (snapshots, machine) = (snapshots.clone(), machine.clone());
        async move { snapshots.fork(&machine, fork).await.map(|forked| forked.machine) }
    };
    let now = fork("now", None).await.unwrap();
    let then = fork("then", Some(&kept.snapshot_id)).await.unwrap();
    slept(&control, &machine).await;
    let asleep = fork("asleep", None).await.unwrap();
    put(&control, &machine, "a draft of the parent").await;
    for (made, text) in [(&now, "second"), (&then, "first"), (&asleep, "second")] {
        assert_eq!((made.phase, made.memory_mib), (Phase::Sleeping, parent.memory_mib));
        let made = MachineRef::Id(made.machine_id.clone());
        assert_eq!(read(&control, &made).await, text);
    }
    assert_eq!(world.host.forks_of(&parent.home_id), 3);
    let taken = fork("now", None).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    assert_eq!(
        fork("x", Some(&SnapshotId::generate())).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(world.host.forks_of(&parent.home_id), 3, "nothing is kept for what was refused");
    control.machines().delete(&MachineRef::Id(now.machine_id), &IfMatch::Any).await.unwrap();
    eventually(|| !world.host.has_home(&now.home_id)).await;
}

#[tokio::test]
async fn a_fork_that_does_not_reach_the_store_was_never_made() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    world.store.break_down(true);
    let error = control.snapshots().fork(&machine, ForkMachine::default()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    // Its parent keeps a state for it until the store says otherwise, so it is being deleted until then.
    let rows = async || control.machines().list(&PageQuery::default()).await.unwrap().items;
    let left = rows().await.into_iter().find(|one| one.machine_id != parent.machine_id).unwrap();
    assert_eq!(left.desired_state, Desired::Destroyed);
    world.store.break_down(false);
    let gone = async {
        while rows().await.len() > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.unwrap();
    assert!(world.host.state.lock().uppers.kept[&parent.machine_id].is_empty());
    control.close().await;
}

#[tokio::test]
async fn of_a_fork_that_is_refused_nothing_is_left() {
    let world = World::new();
    let mut settings = world.settings();
    settings.limits.machines_max = 1;
    let control = Control::open(settings, world.parts()).await.unwrap();
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    let fork = async || control.snapshots().fork(&machine, ForkMachine::default()).await;
    assert_eq!(fork().await.unwrap_err().kind(), ErrorKind::TooMany);
    let kept = || world.host.state.lock().uppers.kept[&parent.machine_id].len();
    assert_eq!((kept(), world.host.forks_of(&parent.home_id)), (0, 0));
    // Nobody wrote down that it never will be, which nobody would delete.
    assert_eq!(world.host.state.lock().uppers.abandoned, []);
    control.close().await;
    // One that was written down and did not get far leaves nothing on this host.
    let control = world.open().await;
    world.host.state.lock().uppers.begin_errors.push_back(ErrorKind::Unavailable);
    let error = control.snapshots().fork(&machine, ForkMachine::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    control.close().await;
    let state = world.host.state.lock();
    assert_eq!((state.removed.len(), &state.removed), (1, &state.uppers.abandoned));
}

#[tokio::test]
async fn of_a_sleeping_machine_all_is_kept_once_it_is_stored_and_of_an_awake_one_the_home() {
    let mut world = World::new();
    // Nobody waits for so long.
    world.timing.store_memory_after = Some(std::time::Duration::from_secs(3_600));
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    let snapshots = control.snapshots();
    let home = snapshots.create(&machine, NewSnapshot::default()).await.unwrap();
    assert_eq!(home.contains, [Part::Home]);
    let fork = |at: Option<&Snapshot>, whole| {
        let snapshot_id = at.map(|at| at.snapshot_id.clone());
        let (snapshots, machine) = (snapshots.clone(), machine.clone());
        let fork = ForkMachine { name: None, snapshot_id, whole };
        async move { snapshots.fork(&machine, fork).await }
    };
    let refused = fork(Some(&home), true).await.unwrap_err();
    assert_eq!((refused.kind(), &*refused.code), (ErrorKind::Conflict, "INVALID_STATE"));
    assert_eq!(world.host.forks_of(&parent.home_id), 0, "nothing is kept for what was refused");
    assert_eq!(fork(None, false).await.unwrap().contains, [Part::Home]);
    // It sleeps, with memory that nobody would store for an hour.
    world.host.state.lock().uppers.remembers = true;
    slept(&control, &machine).await;
    let all = [Part::Home, Part::Upper, Part::Memory];
    let made = snapshots.create(&machine, whole()).await.unwrap();
    assert_eq!(made.contains, all);
    assert_eq!(snapshots.get(&made.snapshot_id).await.unwrap(), made);
    let listed = snapshots.list(&machine, &PageQuery::default()).await.unwrap();
    assert_eq!(listed.items, [home.clone(), made.clone()]);
    let now = fork(None, true).await.unwrap();
    assert_eq!((&now.contains[..], &now.machine.status.last_error), (&all[..], &None));
    let then = fork(Some(&made), true).await.unwrap();
    assert_eq!(then.contains, all);
    for fork in [&now, &then] {
        let begun = world.host.state.lock().uppers.begun.get(&fork.machine.machine_id).copied();
        assert_eq!(begun, Some(true));
    }
    assert_eq!(snapshots.delete(&made.snapshot_id).await.unwrap(), made);
    let kept = world.host.state.lock().uppers.kept[&parent.machine_id].len();
    assert_eq!(kept, 2, "the forks' are left");
    control.close().await;
}

#[tokio::test]
async fn what_is_not_stored_in_time_is_not_kept_now_and_nothing_of_it_is() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    world.host.state.lock().uppers.held = true;
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    tokio::time::pause();
    let error = snapshots.create(&machine, NewSnapshot::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message.contains("still being stored"), "{error}");
    let error = snapshots.fork(&machine, ForkMachine::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    tokio::time::resume();
    assert_eq!(world.host.forks_of(&parent.home_id), 0);
    let listed = snapshots.list(&machine, &PageQuery::default()).await.unwrap();
    assert_eq!(listed.items, []);
    world.host.state.lock().uppers.held = false;
    let made = snapshots.create(&machine, whole()).await.unwrap();
    assert_eq!(made.contains, [Part::Home, Part::Upper]);
    control.close().await;
}

#[tokio::test]
async fn an_upper_that_can_never_be_stored_is_left_out_unless_it_is_wanted() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    world.host.state.lock().uppers.errors.push_back(ErrorKind::Conflict);
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    let made = snapshots.create(&machine, NewSnapshot::default()).await.unwrap();
    assert_eq!(made.contains, [Part::Home]);
    let fork = ForkMachine { whole: true, ..ForkMachine::default() };
    for error in [
        snapshots.create(&machine, whole()).await.unwrap_err(),
        snapshots.fork(&machine, fork).await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), &*error.code), (ErrorKind::Conflict, "INVALID_STATE"));
        assert!(!error.is_retryable() && error.message.contains("put it to sleep"), "{error}");
    }
    // Nor by whoever has seen nothing of it.
    let kept = |world: &World| world.host.state.lock().uppers.kept.clone();
    assert_eq!((kept(&world), world.host.forks_of(&parent.home_id)), (HashMap::new(), 0));
    uppers::forget(&control.snapshots().inner, &parent.machine_id);
    tokio::time::pause();
    let error = snapshots.create(&machine, whole()).await.unwrap_err();
    assert_eq!((error.kind(), &*error.code), (ErrorKind::Conflict, "INVALID_STATE"));
    assert!(error.message.contains("put it to sleep"), "{error}");
    control.close().await;
}

#[tokio::test]
async fn an_upload_that_ends_while_the_store_is_asked_is_not_taken_for_one_that_never_will() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    {
        let uppers = &mut world.host.state.lock().uppers;
        (uppers.held, uppers.stored_after_look) = (true, true);
    }
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    tokio::time::pause();
    let error = snapshots.create(&machine, NewSnapshot::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
    tokio::time::resume();
    let made = snapshots.create(&machine, NewSnapshot::default()).await.unwrap();
    assert_eq!(made.contains, [Part::Home, Part::Upper]);
    control.close().await;
}

#[tokio::test]
async fn where_it_is_not_known_whether_an_upper_is_kept_it_is_let_go_of() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    let at = snapshots.create(&machine, whole()).await.unwrap().snapshot_id;
    let kept = || world.host.state.lock().uppers.kept[&parent.machine_id].len();
    let fail = || world.host.state.lock().uppers.keep_errors.push_back(ErrorKind::Unavailable);
    fail();
    snapshots.create(&machine, NewSnapshot::default()).await.unwrap_err();
    assert_eq!(kept(), 1);
    for at in [None, Some(at)] {
        fail();
        let fork = ForkMachine { snapshot_id: at, ..ForkMachine::default() };
        snapshots.fork(&machine, fork).await.unwrap_err();
        assert_eq!((kept(), world.host.forks_of(&parent.home_id)), (1, 0));
    }
    let listed = snapshots.list(&machine, &PageQuery::default()).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    // Where that cannot be done either, it is said what is left.
    fail();
    world.host.state.lock().uppers.let_go_errors.push_back(ErrorKind::Unavailable);
    let error = snapshots.create(&machine, whole()).await.unwrap_err();
    let left: SnapshotId = error.details["snapshot_id"].parse().unwrap();
    assert!(error.is_retryable() && error.message.contains("delete that"), "{error}");
    assert_eq!(kept(), 2);
    snapshots.delete(&left).await.unwrap();
    assert_eq!(kept(), 1);
    control.close().await;
}

#[tokio::test]
async fn a_whole_fork_that_was_broken_off_is_finished_by_the_next_server_or_was_never_made() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    world.host.state.lock().uppers.begin_errors.push_back(ErrorKind::Unavailable);
    let error = snapshots.fork(&machine, ForkMachine::default()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(world.host.state.lock().uppers.kept[&parent.machine_id].is_empty());
    // As a server that was killed before its fork had begun leaves it.
    let fork = snapshots.fork(&machine, ForkMachine::default()).await.unwrap().machine;
    let change = catalog::MachineChange { recorded: Some(false), ..Default::default() };
    control.snapshots().inner.edit(&fork.machine_id, move |_| Ok(change)).await.unwrap();
    world.host.state.lock().uppers.begun.clear();
    control.close().await;
    let control = world.open().await;
    eventually(|| world.host.state.lock().uppers.begun.contains_key(&fork.machine_id)).await;
    let made = MachineRef::Id(fork.machine_id.clone());
    control.machines().delete(&made, &IfMatch::Any).await.unwrap();
    eventually(|| !world.host.has_home(&fork.home_id)).await;
    control.close().await;
}

#[tokio::test]
async fn a_fork_that_has_to_do_without_memory_says_so() {
    let world = World::new();
    world.host.state.lock().uppers.remembers = true;
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    world.host.state.lock().uppers.memory_errors.push_back(ErrorKind::TooLarge);
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    let fork = snapshots.fork(&machine, ForkMachine::default()).await.unwrap();
    assert_eq!(fork.contains, [Part::Home, Part::Upper]);
    let why = fork.machine.status.last_error.unwrap();
    assert!(why.contains("memory of the other machine was not kept"), "{why}");
    // Also where nobody tried to store it.
    world.host.state.lock().uppers.memory_stays = Some("it is too large".to_owned());
    let fork = snapshots.fork(&machine, ForkMachine::default()).await.unwrap();
    let why = fork.machine.status.last_error.unwrap();
    assert!(why.contains("was not kept: it is too large"), "{why}");
    control.close().await;
    // One that had none has nothing to say.
    let mut world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    let fork = control.snapshots().fork(&machine, ForkMachine::default()).await.unwrap();
    assert_eq!(fork.machine.status.last_error, None);
    control.close().await;
    // Where this server stores none, that is why.
    world.timing.store_memory_after = None;
    world.host.state.lock().uppers.remembers = true;
    let control = world.open().await;
    let machine = MachineRef::Id(created(&control, named("two")).await.machine_id);
    slept(&control, &machine).await;
    let fork = control.snapshots().fork(&machine, ForkMachine::default()).await.unwrap();
    let why = fork.machine.status.last_error.unwrap();
    assert!(why.contains("stores no memory"), "{why}");
    control.close().await;
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_can_be_deleted() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    let made = snapshots.create(&machine, whole()).await.unwrap();
    world.host.state.lock().damaged_pins = true;
    assert_eq!(snapshots.get(&made.snapshot_id).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let listed = snapshots.list(&machine, &PageQuery::default()).await.unwrap().items;
    assert_eq!(listed[0].snapshot_id, made.snapshot_id);
    assert!(listed[0].damaged.as_deref().is_some_and(|why| why.contains("cannot be read")));
    let was = snapshots.delete(&made.snapshot_id).await.unwrap();
    assert_eq!((&was.snapshot_id, &was.contains[..]), (&made.snapshot_id, &[Part::Home][..]));
    assert!(was.created_at > Timestamp::UNIX_EPOCH, "{}", was.created_at);
    world.host.state.lock().damaged_pins = false;
    let gone = snapshots.get(&made.snapshot_id).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert!(world.host.state.lock().uppers.kept[&parent.machine_id].is_empty());
    let listed = snapshots.list(&machine, &PageQuery::default()).await.unwrap();
    assert_eq!(listed.items, []);
    control.close().await;
}

#[tokio::test]
async fn a_fork_is_made_without_memory_that_is_damaged_and_says_why() {
    let world = World::new();
    world.host.state.lock().uppers.remembers = true;
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    let at = snapshots.create(&machine, whole()).await.unwrap().snapshot_id;
    for (when_kept, at) in [(true, Some(at.clone())), (false, Some(at)), (false, None)] {
        {
            let uppers = &mut world.host.state.lock().uppers;
            (uppers.damaged_when_kept, uppers.damaged_when_begun) = (when_kept, !when_kept);
        }
        let fork = ForkMachine { snapshot_id: at, whole: true, name: None };
        let fork = snapshots.fork(&machine, fork).await.unwrap();
        assert_eq!(fork.contains, [Part::Home, Part::Upper]);
        let why = fork.machine.status.last_error.unwrap();
        assert!(why.contains("it boots") && why.contains("it is damaged"), "{why}");
        let made = MachineRef::Id(fork.machine.machine_id);
        let seen = control.machines().get(&made).await.unwrap();
        assert_eq!((seen.status.last_error, seen.status.memory), (Some(why), None));
    }
    control.close().await;
}

#[tokio::test]
async fn what_a_snapshot_or_a_fork_kept_is_collected_soon_after_it_is_gone_also_over_a_restart() {
    let mut world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    let made = snapshots.create(&machine, whole()).await.unwrap();
    let fork = snapshots.fork(&machine, ForkMachine::default()).await.unwrap().machine;
    let collections = || world.host.state.lock().uppers.of[&parent.machine_id].collected.len();
    eventually(|| collections() == 1).await;
    snapshots.delete(&made.snapshot_id).await.unwrap();
    eventually(|| collections() == 2).await;
    let made = MachineRef::Id(fork.machine_id);
    control.machines().delete(&made, &IfMatch::Any).await.unwrap();
    eventually(|| collections() == 3).await;
    // One collection for all that are let go of at once, and none that is forgotten.
    let mut some = Vec::new();
    for _ in 0..3 {
        some.push(snapshots.create(&machine, whole()).await.unwrap().snapshot_id);
    }
    control.close().await;
    world.timing.collect_upper_after = std::time::Duration::from_secs(60);
    let control = world.open().await;
    for id in &some {
        control.snapshots().delete(id).await.unwrap();
    }
    control.close().await;
    let collections = || world.host.state.lock().uppers.of[&parent.machine_id].collected.len();
    assert_eq!(collections(), 3);
    world.timing.collect_upper_after = std::time::Duration::from_millis(300);
    let control = world.open().await;
    eventually(|| collections() == 4).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(collections(), 4);
    control.close().await;
}

#[tokio::test]
async fn a_snapshot_that_goes_while_a_fork_of_it_is_made_is_not_found_and_leaves_nothing() {
    let world = World::new();
    let control = world.open().await;
    let parent = created(&control, named("one")).await;
    let machine = MachineRef::Id(parent.machine_id.clone());
    slept(&control, &machine).await;
    let snapshots = control.snapshots();
    let nothing_is_left = || {
        let machines = world.host.state.lock().homes.len();
        let kept = world.host.state.lock().uppers.kept[&parent.machine_id].len();
        assert_eq!((world.host.forks_of(&parent.home_id), kept, machines), (0, 0, 1));
    };
    // It goes after its home was kept.
    for whole in [false, true] {
        let at = snapshots.create(&machine, self::whole()).await.unwrap().snapshot_id;
        world.host.state.lock().gone_after_home = true;
        let fork = ForkMachine { snapshot_id: Some(at), whole, name: None };
        let error = snapshots.fork(&machine, fork).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        world.host.state.lock().gone_after_home = false;
        nothing_is_left();
    }
    // Its upper is gone, and its home is not yet.
    for whole in [false, true] {
        let at = snapshots.create(&machine, self::whole()).await.unwrap().snapshot_id;
        world.host.state.lock().hold_deletes = true;
        let deleted = tokio::spawn({
            let (snapshots, at) = (snapshots.clone(), at.clone());
            async move { snapshots.delete(&at).await }
        });
        eventually(|| world.host.state.lock().uppers.kept[&parent.machine_id].is_empty()).await;
        let fork = ForkMachine { snapshot_id: Some(at), whole, name: None };
        let error = snapshots.fork(&machine, fork).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        world.host.state.lock().hold_deletes = false;
        deleted.await.unwrap().unwrap();
        nothing_is_left();
    }
    // Of one that stays, that is of the home alone, a fork is made.
    let home = {
        let awake = created(&control, named("two")).await;
        let at = MachineRef::Id(awake.machine_id);
        (snapshots.create(&at, NewSnapshot::default()).await.unwrap().snapshot_id, at)
    };
    let fork = ForkMachine { snapshot_id: Some(home.0), ..ForkMachine::default() };
    assert_eq!(snapshots.fork(&home.1, fork).await.unwrap().contains, [Part::Home]);
    control.close().await;
}

#[tokio::test]
async fn a_snapshot_does_not_wait_for_a_pause_after_an_outage_of_the_store() {
    let mut world = World::new();
    world.host.state.lock().uppers.remembers = true;
    let control = world.open().await;
    let machine = MachineRef::Id(created(&control, named("one")).await.machine_id);
    slept(&control, &machine).await;
    control.close().await;
    // Hours, after a failure or two.
    world.timing.backoff_min = std::time::Duration::from_secs(3_600);
    let all = [Part::Home, Part::Upper, Part::Memory];
    for of_memory in [false, true] {
        {
            let mut state = world.host.state.lock();
            let uppers = &mut state.uppers;
            for upper in uppers.of.values_mut() {
                (upper.behind, upper.memory) = (!of_memory, Some(false));
            }
            let errors = if of_memory { &mut uppers.memory_errors } else { &mut uppers.errors };
            errors.push_back(ErrorKind::Unavailable);
        }
        let control = world.open().await;
        let failed = || {
            let state = world.host.state.lock();
            state.uppers.errors.is_empty() && state.uppers.memory_errors.is_empty()
        };
        eventually(failed).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let made = control.snapshots().create(&machine, whole()).await.unwrap();
        assert_eq!(made.contains, all, "of memory: {of_memory}");
        control.close().await;
    }
}
