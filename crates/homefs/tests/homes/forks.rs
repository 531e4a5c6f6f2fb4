//! Snapshots, restores in place, forks.

use std::sync::atomic::Ordering;

use base::{ErrorKind, HomeId, SnapshotId};
use homefs::{Draft, HomeFs, Parts, Published};
use vfs::{FileSystem as _, ROOT};

use crate::support::{World, block_on, content, get, make, noise, put, try_get, upload};

/// A sleeping home with something of every tier.
fn asleep() -> World {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "small", b"first");
    upload(&home, "dir/packed", &noise(100_000, 1));
    upload(&home, "dir/chunked", &noise(9 << 20, 2));
    home.release().unwrap();
    world
}

fn change(world: &World) {
    let (home, _) = world.open("a");
    put(&home, "small", b"second, longer");
    put(&home, "later", b"only later");
    home.unlink(home.lookup(ROOT, b"dir").unwrap().ino, b"packed").unwrap();
    upload(&home, "dir/chunked", &noise(5 << 20, 3));
    home.release().unwrap();
}

fn is_first(fs: &dyn vfs::FileSystem) {
    assert_eq!(get(fs, "small"), b"first");
    assert_eq!(get(fs, "dir/packed"), noise(100_000, 1));
    assert_eq!(get(fs, "dir/chunked"), noise(9 << 20, 2));
    assert_eq!(try_get(fs, "later"), None);
}

fn snapshot(world: &World, name: &str) -> SnapshotId {
    let id = SnapshotId::generate();
    block_on(homefs::snapshot(&world.parts(), &world.home, &id, Some(name))).unwrap();
    id
}

fn whole(all: Vec<homefs::Listed>) -> Vec<homefs::SnapshotInfo> {
    let info = |one| match one {
        homefs::Listed::Whole(info) => info,
        homefs::Listed::Damaged { id, why } => panic!("{id}: {why}"),
    };
    all.into_iter().map(info).collect()
}

fn restore(world: &World, id: &SnapshotId) -> homefs::Result<homefs::Head> {
    block_on(homefs::restore(&world.parts(), &world.home, id, &world.server))
}

fn fork(world: &World, at: Option<&SnapshotId>) -> World {
    let child = HomeId::generate();
    block_on(homefs::fork(&world.parts(), &world.home, at, &child, &world.server)).unwrap();
    world.other(child)
}

#[test]
fn a_snapshot_is_one_put_and_can_be_listed_and_deleted() {
    let world = asleep();
    world.store.take_stored();
    let (one, two) = (snapshot(&world, "one"), snapshot(&world, "two"));
    assert_eq!(world.store.take_stored(), 2);
    let parts = world.parts();
    let list = || whole(block_on(homefs::snapshots(&parts, &world.home)).unwrap());
    let names: Vec<_> = list().iter().map(|info| info.name.clone().unwrap()).collect();
    assert_eq!(names, ["one", "two"]);
    // Again under its id: the same.
    let again = block_on(homefs::snapshot(&parts, &world.home, &one, Some("other"))).unwrap();
    assert_eq!(again.0.name.as_deref(), Some("one"));
    for _ in 0..2 {
        block_on(homefs::delete_snapshot(&parts, &world.home, &one)).unwrap();
    }
    assert_eq!(list().iter().map(|info| info.id.clone()).collect::<Vec<_>>(), [two]);
    assert_eq!(restore(&world, &one).unwrap_err().kind(), ErrorKind::NotFound);
    let bad = block_on(homefs::snapshot(&parts, &world.home, &one, Some("a\nb")));
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let nobody = block_on(homefs::snapshot(&parts, &HomeId::generate(), &one, None));
    assert_eq!(nobody.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn whoever_keeps_a_state_learns_whether_its_writer_had_given_the_home_up() {
    let world = asleep();
    let parts = world.parts();
    let (id, child) = (SnapshotId::generate(), HomeId::generate());
    let keep = |id: &SnapshotId, child: &HomeId| {
        let (_, kept) = block_on(homefs::snapshot(&parts, &world.home, id, None)).unwrap();
        assert_eq!(block_on(homefs::hold_fork(&parts, &world.home, None, child)).unwrap(), kept);
        kept
    };
    let asleep = keep(&id, &child);
    assert!(asleep.released);
    // A claim, and a commit of a run: somebody has the home.
    let (home, _) = world.open("a");
    let other = || (SnapshotId::generate(), HomeId::generate());
    let (at_claim, at_claim_too) = other();
    let claimed = keep(&at_claim, &at_claim_too);
    put(&home, "small", b"second");
    home.sync(None).unwrap();
    let (later, later_too) = other();
    let running = keep(&later, &later_too);
    assert_eq!((claimed.released, running.released), (false, false));
    assert!(claimed.epoch > asleep.epoch && running.epoch == claimed.epoch);
    home.release().unwrap();
    let (released, released_too) = other();
    assert!(keep(&released, &released_too).released);
    // The same again: what is kept, and not what is newest.
    assert_eq!(keep(&later, &later_too), running);
    assert_eq!(keep(&id, &child), asleep);
    let of_snapshot =
        |at| block_on(homefs::hold_fork(&parts, &world.home, Some(at), &HomeId::generate()));
    assert_eq!(of_snapshot(&later).unwrap(), running);
    assert_eq!(of_snapshot(&id).unwrap(), asleep);
}

#[test]
fn a_restore_brings_everything_back_in_one_put_here_and_elsewhere() {
    let world = asleep();
    let id = snapshot(&world, "before");
    change(&world);
    let reader = world.snapshot("reader");
    assert_eq!(get(&reader, "later"), b"only later");
    world.store.take_stored();
    restore(&world, &id).unwrap();
    assert_eq!(world.store.take_stored(), 1);
    // A reader that had the state in between, a new one, the host that wrote it, another host.
    assert!(reader.refresh().unwrap());
    is_first(&reader);
    is_first(&world.snapshot("new"));
    let (home, _) = world.open("a");
    is_first(&home);
    put(&home, "after", b"the restore");
    home.release().unwrap();
    let (home, _) = world.open("b");
    is_first(&home);
    assert_eq!(get(&home, "after"), b"the restore");
}

#[test]
fn a_home_is_restored_back_and_forth() {
    let world = asleep();
    let first = snapshot(&world, "first");
    change(&world);
    let second = snapshot(&world, "second");
    restore(&world, &first).unwrap();
    let restored = snapshot(&world, "restored");
    restore(&world, &second).unwrap();
    assert_eq!(get(&world.snapshot("s1"), "later"), b"only later");
    restore(&world, &restored).unwrap();
    is_first(&world.snapshot("s2"));
    for _ in 0..3 {
        restore(&world, &second).unwrap();
        restore(&world, &first).unwrap();
    }
    let (home, _) = world.open("b");
    is_first(&home);
    put(&home, "x", b"y");
    home.release().unwrap();
    restore(&world, &second).unwrap();
    let fresh = world.snapshot("s3");
    assert_eq!((get(&fresh, "small"), try_get(&fresh, "x")), (b"second, longer".to_vec(), None));
}

#[test]
fn a_base_of_what_was_left_behind_is_not_read() {
    let world = asleep();
    let id = snapshot(&world, "before");
    let (home, _) = world.open("a");
    // More commits than lie above a base, so that one is written.
    for n in 0..80 {
        put(&home, "small", format!("{n}").as_bytes());
        home.sync(None).unwrap();
    }
    crate::support::eventually("a base is written", || !world.keys("base/").is_empty());
    home.release().unwrap();
    restore(&world, &id).unwrap();
    is_first(&world.snapshot("new"));
    let (home, _) = world.open("b");
    is_first(&home);
}

#[test]
fn what_changes_after_a_restore_has_another_version_than_anything_before() {
    let world = asleep();
    let id = snapshot(&world, "before");
    let (home, _) = world.open("a");
    let ino = put(&home, "new", b"one");
    let before = home.getattr(ino).unwrap();
    home.release().unwrap();
    drop(home);
    restore(&world, &id).unwrap();
    let (home, _) = world.open("a");
    let ino = put(&home, "new", b"two");
    let after = home.getattr(ino).unwrap();
    assert_ne!((before.ino, before.version), (after.ino, after.version));
    assert!(after.version > before.version);
}

#[test]
fn a_restore_needs_a_home_that_sleeps_and_stands_still() {
    let world = asleep();
    let id = snapshot(&world, "before");
    let (home, _) = world.open("a");
    assert_eq!(restore(&world, &id).unwrap_err().kind(), ErrorKind::Fenced);
    home.release().unwrap();
    // A draft from before goes on; its publication finds that the home moved.
    let draft = world.draft("a");
    put(&draft, "draft", b"d");
    restore(&world, &id).unwrap();
    assert!(matches!(draft.publish().unwrap(), Published::Moved { .. }));
    assert!(Draft::exists(world.dir("a", "draft")));
}

#[test]
fn a_restore_whose_reply_was_lost_may_be_done_again() {
    let world = asleep();
    let id = snapshot(&world, "before");
    change(&world);
    world.store.lose_replies.store(1, Ordering::SeqCst);
    assert_eq!(restore(&world, &id).unwrap_err().kind(), ErrorKind::Unavailable);
    restore(&world, &id).unwrap();
    is_first(&world.snapshot("new"));
}

#[test]
fn a_fork_costs_the_same_for_few_files_and_for_many() {
    let mut costs = Vec::new();
    for files in [100, 3_000] {
        let world = World::new();
        let (home, _) = world.open("a");
        for n in 0..files {
            put(&home, &format!("f{n}"), &noise(200, n));
        }
        home.release().unwrap();
        let (head, child) =
            (block_on(homefs::head(&world.parts(), &world.home)), HomeId::generate());
        assert!(head.unwrap().is_some());
        world.store.take_calls();
        world.store.take_stored();
        block_on(homefs::fork(&world.parts(), &world.home, None, &child, &world.server)).unwrap();
        let (stored, calls) = (world.store.take_stored(), world.store.take_calls());
        assert!(stored <= 3, "{stored} PUTs");
        costs.push((stored, calls));
        let fork = world.other(child);
        assert_eq!(get(&fork.snapshot("s"), "f7"), noise(200, 7));
    }
    assert_eq!(costs[0], costs[1]);
}

#[test]
fn a_fork_has_everything_and_goes_its_own_way() {
    let world = asleep();
    let child = fork(&world, None);
    is_first(&child.snapshot("s"));
    let (ours, _) = world.open("a");
    let (theirs, _) = child.open("b");
    is_first(&theirs);
    put(&ours, "small", b"parent");
    put(&theirs, "small", b"child");
    upload(&theirs, "own", &noise(6 << 20, 9));
    upload(&theirs, "dir/packed", &noise(60_000, 8));
    ours.release().unwrap();
    theirs.release().unwrap();
    for (world, small) in [(&world, &b"parent"[..]), (&child, b"child")] {
        let fresh = world.snapshot("fresh");
        assert_eq!(get(&fresh, "small"), small);
        assert_eq!(get(&fresh, "dir/chunked"), noise(9 << 20, 2));
    }
    let fresh = child.snapshot("another");
    assert_eq!(get(&fresh, "own"), noise(6 << 20, 9));
    assert_eq!(get(&fresh, "dir/packed"), noise(60_000, 8));
    assert_eq!(get(&world.snapshot("other"), "dir/packed"), noise(100_000, 1));
}

#[test]
fn a_draft_of_a_fork_is_published_to_the_fork() {
    let world = asleep();
    let child = fork(&world, None);
    let draft = child.draft("d");
    is_first(&draft);
    upload(&draft, "drafted", &noise(70_000, 4));
    assert!(matches!(draft.publish().unwrap(), Published::Committed { .. }));
    assert_eq!(get(&child.snapshot("s"), "drafted"), noise(70_000, 4));
    is_first(&child.snapshot("s"));
    assert_eq!(try_get(&world.snapshot("s"), "drafted"), None);
}

#[test]
fn a_fork_of_a_fork_of_a_snapshot_of_a_restored_home() {
    let world = asleep();
    let id = snapshot(&world, "first");
    change(&world);
    restore(&world, &id).unwrap();
    let again = snapshot(&world, "again");
    change(&world);
    let child = fork(&world, Some(&again));
    is_first(&child.snapshot("s"));
    let (home, _) = child.open("c");
    put(&home, "of the child", b"c");
    upload(&home, "child/packed", &noise(50_000, 7));
    home.release().unwrap();
    let at = snapshot(&child, "of the child");
    change(&child);
    let grandchild = fork(&child, Some(&at));
    for host in ["x", "y"] {
        let (home, _) = grandchild.open(host);
        is_first(&home);
        assert_eq!(get(&home, "of the child"), b"c");
        assert_eq!(get(&home, "child/packed"), noise(50_000, 7));
        put(&home, host, b"own");
        home.release().unwrap();
    }
    // A fork can be restored to its own snapshots too.
    restore(&child, &at).unwrap();
    is_first(&child.snapshot("t"));
    assert_eq!(get(&world.snapshot("t"), "later"), b"only later");
}

#[test]
fn a_home_that_is_awake_is_snapshot_and_forked_with_all_that_came_before() {
    let world = asleep();
    let (home, _) = world.open("a");
    put(&home, "just now", b"written");
    let id = SnapshotId::generate();
    home.snapshot(&id, None).unwrap();
    put(&home, "just now", b"overwritten");
    let child = HomeId::generate();
    home.fork(&child).unwrap();
    put(&home, "just now", b"later still");
    let child = world.other(child);
    let (forked, _) = child.open("f");
    assert_eq!(get(&forked, "just now"), b"overwritten");
    is_first(&forked);
    home.release().unwrap();
    restore(&world, &id).unwrap();
    assert_eq!(get(&world.snapshot("s"), "just now"), b"written");
}

#[test]
fn an_open_file_without_a_name_is_not_in_a_fork() {
    let world = asleep();
    let (home, _) = world.open("a");
    let ino = make(&home, "open");
    home.write(ino, 0, &noise(40_000, 1)).unwrap();
    home.pin(ino);
    home.unlink(ROOT, b"open").unwrap();
    let child = HomeId::generate();
    home.fork(&child).unwrap();
    let (forked, _) = world.other(child).open("f");
    assert!(forked.getattr(ino).is_err());
    assert_eq!(content(&home, ino), noise(40_000, 1));
}

#[test]
fn a_deleted_parent_keeps_what_its_forks_need_and_the_last_removes_it() {
    let world = asleep();
    let parts = world.parts();
    let id = snapshot(&world, "first");
    let (one, two) = (fork(&world, Some(&id)), fork(&world, None));
    let (home, _) = one.open("o");
    put(&home, "own", b"1");
    home.release().unwrap();
    let grandchild = fork(&one, None);
    change(&world);
    delete(&parts, &world);
    assert_eq!(
        block_on(homefs::head(&parts, &world.home)).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    for fork in [&one, &two, &grandchild] {
        is_first(&fork.snapshot("after"));
    }
    let late = HomeId::generate();
    let refused = block_on(homefs::fork(&parts, &world.home, None, &late, &world.server));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
    delete(&parts, &two);
    delete(&parts, &one);
    let (home, _) = grandchild.open("after all");
    is_first(&home);
    assert_eq!(get(&home, "own"), b"1");
    home.release().unwrap();
    delete(&parts, &grandchild);
    for gone in [&world, &one, &two, &grandchild] {
        let left: Vec<_> = gone.keys("").into_iter().map(|object| object.key).collect();
        assert!(left.len() == 2 && left[0].ends_with("/boundary"), "{left:?}");
        assert!(left[1].contains("/log/"), "{left:?}");
    }
}

fn delete(parts: &Parts, world: &World) {
    block_on(homefs::delete_home(parts, &world.home)).unwrap();
}

#[test]
fn a_fork_that_was_broken_off_is_finished_or_undone() {
    let world = asleep();
    let parts = world.parts();
    let (finished, undone, forgotten) =
        (HomeId::generate(), HomeId::generate(), HomeId::generate());
    for child in [&finished, &undone, &forgotten] {
        block_on(homefs::hold_fork(&parts, &world.home, None, child)).unwrap();
    }
    change(&world);
    // The state is that of the pin, whatever came since.
    let begin =
        |child: &HomeId| block_on(homefs::begin_fork(&parts, &world.home, child, &world.server));
    begin(&finished).unwrap();
    begin(&finished).unwrap();
    is_first(&world.other(finished.clone()).snapshot("s"));
    let abandon = |child| block_on(homefs::abandon_fork(&parts, &world.home, child));
    assert_eq!(abandon(&finished).unwrap_err().kind(), ErrorKind::AlreadyExists);
    for _ in 0..2 {
        abandon(&undone).unwrap();
    }
    assert_eq!(begin(&undone).unwrap_err().kind(), ErrorKind::NotFound);
    // Nor from its beginning, and nothing is kept for it then.
    let again = block_on(homefs::fork(&parts, &world.home, None, &undone, &world.server));
    let said = again.unwrap_err().to_string();
    assert!(said.contains("fork again, into a new home"), "{said}");
    assert!(!world.keys("pins/").iter().any(|object| object.key.contains(&undone.to_string())));
    // One that nobody finishes does not keep a deleted parent.
    delete(&parts, &world);
    assert_eq!(begin(&forgotten).unwrap_err().kind(), ErrorKind::NotFound);
    delete(&parts, &world.other(finished));
    assert_eq!(world.keys("").len(), 2, "the mark, and what fences the last writer");
}

#[test]
fn a_fork_that_nobody_finishes_within_an_hour_is_given_up_by_the_collector() {
    let world = asleep();
    let (parts, child, scratch) = (world.parts(), HomeId::generate(), world.dir("c", "scratch"));
    block_on(homefs::hold_fork(&parts, &world.home, None, &child)).unwrap();
    let collect = || block_on(homefs::collect(&parts, &world.home, &scratch)).unwrap();
    let pins = || world.keys("pins/").len();
    world.clock.pass_minutes(59);
    collect();
    assert_eq!(pins(), 1);
    world.clock.pass_minutes(1);
    collect();
    assert_eq!(pins(), 0);
    let begun = block_on(homefs::begin_fork(&parts, &world.home, &child, &world.server));
    let error = begun.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("fork again, into a new home"), "{error}");
    is_first(&fork(&world, None).snapshot("s"));
}

#[test]
fn a_fork_whose_replies_are_lost_is_made_once() {
    let world = asleep();
    let child = HomeId::generate();
    let parts = world.parts();
    let fork = || block_on(homefs::fork(&parts, &world.home, None, &child, &world.server));
    for _ in 0..2 {
        world.store.lose_replies.store(1, Ordering::SeqCst);
        assert_eq!(fork().unwrap_err().kind(), ErrorKind::Unavailable);
    }
    fork().unwrap();
    let child = world.other(child.clone());
    assert_eq!(child.keys("log/").len(), 1);
    is_first(&child.snapshot("s"));
    let other = block_on(homefs::fork(&parts, &child.home, None, &world.home, &world.server));
    assert_eq!(other.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn a_fork_survives_the_death_of_its_writer_and_a_zombie_of_its_parent() {
    let world = asleep();
    let (zombie, _) = world.open("a");
    put(&zombie, "small", b"never synced");
    let child = fork(&world, None);
    let (home, _) = child.open("c");
    put(&home, "small", b"by the child");
    home.sync(None).unwrap();
    put(&home, "dir-less", &noise(30_000, 6));
    home.sync_local().unwrap();
    drop(home);
    let (home, _) = child.open("c");
    assert_eq!(get(&home, "small"), b"by the child");
    assert_eq!(get(&home, "dir-less"), noise(30_000, 6));
    drop::<HomeFs>(zombie);
    assert_eq!(get(&home, "dir/packed"), noise(100_000, 1));
}
