//! Unpublished writes to a sleeping home.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use base::ErrorKind;
use homefs::{Draft, HomeFs, HomeSettings, Published, Step};
use vfs::{Errno, FileSystem as _, ROOT, RenameFlags};

use crate::support::{World, content, get, mkdir, noise, put, try_get, upload};

fn asleep() -> World {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "kept", b"kept");
    put(&home, "changed", b"before");
    upload(&home, "tree/a/deep", &noise(50_000, 1));
    upload(&home, "tree/b", b"b");
    home.release().unwrap();
    world
}

#[test]
fn a_published_draft_is_visible_at_once_and_in_one_write() {
    let world = asleep();
    let draft = world.draft("a");
    put(&draft, "changed", b"after!");
    upload(&draft, "new/large", &noise(9 << 20, 2));
    draft.unlink(ROOT, b"kept").unwrap();
    let snapshot = world.snapshot("b");
    assert_eq!(get(&snapshot, "changed"), b"before");
    let commits = world.keys("log/").len();
    let Published::Committed { seq, .. } = draft.publish().unwrap() else { panic!("not moved") };
    assert_eq!(world.keys("log/").len(), commits + 1);
    assert!(snapshot.refresh().unwrap());
    assert_eq!(snapshot.seq(), seq);
    assert_eq!(get(&snapshot, "changed"), b"after!");
    assert_eq!(get(&snapshot, "new/large"), noise(9 << 20, 2));
    assert_eq!(get(&snapshot, "tree/a/deep"), noise(50_000, 1));
    assert_eq!(try_get(&snapshot, "kept"), None);
    assert_eq!(draft.unlink(ROOT, b"changed").unwrap_err().errno(), Errno::EROFS);
    assert!(!Draft::exists(world.dir("a", "draft")));
    let (home, _) = world.open("a");
    assert_eq!(get(&home, "new/large"), noise(9 << 20, 2));
}

#[test]
fn a_kernel_that_knows_the_state_before_is_told_what_to_forget() {
    let world = World::new();
    let (home, _) = world.open("a");
    let kept = put(&home, "kept", b"kept");
    let changed = put(&home, "changed", b"before");
    let replaced = put(&home, "replaced", b"before");
    let tree = mkdir(&home, ROOT, "tree");
    upload(&home, "tree/deep/f", b"f");
    let deep = home.lookup(tree, b"deep").unwrap().ino;
    let f = home.lookup(deep, b"f").unwrap().ino;
    home.release().unwrap();
    let version = home.version();
    drop(home);

    let dir = world.dir("a", "draft");
    let held = vec![replaced];
    let settings = || HomeSettings { held: held.clone(), ..world.settings(&dir) };
    let draft = Draft::open(settings(), world.parts()).unwrap();
    put(&draft, "changed", b"after!");
    upload(&draft, "new", b"new");
    upload(&draft, "replaced", b"after!");
    draft.unlink(deep, b"f").unwrap();
    draft.rmdir(tree, b"deep").unwrap();
    let told = Mutex::new(Vec::new());
    let tell = |step: Step| told.lock().unwrap().push(step);
    assert!(matches!(draft.publish_announced(100, &tell).unwrap(), Published::Committed { .. }));
    let Step { from, to, mut touched } = told.into_inner().unwrap().pop().unwrap();
    assert_eq!(from, version);
    touched.entries.sort();
    let names = [(ROOT, "new"), (ROOT, "replaced"), (tree, "deep"), (deep, "f")];
    assert_eq!(touched.entries, names.map(|(dir, name)| (dir, name.as_bytes().to_vec())));
    for ino in [ROOT, changed, replaced, tree, deep, f] {
        assert!(touched.inodes.contains(&ino), "{ino} of {:?}", touched.inodes);
    }
    assert!(!touched.inodes.contains(&kept));
    drop(draft);

    // Who holds a file that was replaced has it as it was.
    let dir = world.dir("a", "home");
    let settings = HomeSettings { held, ..world.settings(&dir) };
    let (home, opened) = HomeFs::open_writer(settings, world.parts()).unwrap();
    assert_eq!(opened.version, to);
    assert_eq!(get(&home, "replaced"), b"after!");
    assert_eq!(content(&home, replaced), b"before");
    home.unpin(replaced);
    assert_eq!(home.getattr(replaced).unwrap_err().errno(), Errno::ENOENT);
}

#[test]
fn nothing_is_told_where_somebody_holds_what_only_its_own_host_has() {
    let world = World::new();
    let (home, _) = world.open("a");
    let held = put(&home, "unnamed", &noise(300_000, 1));
    home.pin(held);
    home.unlink(ROOT, b"unnamed").unwrap();
    home.release().unwrap();
    drop(home);
    let dir = world.dir("a", "draft");
    let settings = HomeSettings { held: vec![held], ..world.settings(&dir) };
    let draft = Draft::open(settings, world.parts()).unwrap();
    upload(&draft, "another", b"x");
    let tell = |step: Step| panic!("{step:?}");
    assert!(matches!(draft.publish_announced(100, &tell).unwrap(), Published::Committed { .. }));
}

#[test]
fn nothing_is_told_of_more_than_was_asked_for_and_of_a_home_that_moved() {
    let world = asleep();
    let draft = world.draft("a");
    for n in 0..5 {
        upload(&draft, &format!("f{n}"), b"x");
    }
    let (home, _) = world.open("b");
    home.release().unwrap();
    let tell = |step: Step| panic!("{step:?}");
    assert!(matches!(draft.publish_announced(100, &tell).unwrap(), Published::Moved { .. }));
    Draft::discard(world.dir("a", "draft"), &world.parts()).unwrap_err();
    drop(draft);
    Draft::discard(world.dir("a", "draft"), &world.parts()).unwrap();
    let draft = world.draft("a");
    for n in 0..5 {
        upload(&draft, &format!("f{n}"), b"x");
    }
    assert!(matches!(draft.publish_announced(4, &tell).unwrap(), Published::Committed { .. }));
}

#[test]
fn a_draft_survives_a_restart_and_is_published_after() {
    let world = asleep();
    let draft = world.draft("a");
    upload(&draft, "f", &noise(100_000, 3));
    drop(draft);
    assert!(Draft::exists(world.dir("a", "draft")));
    let draft = world.draft("a");
    assert_eq!(get(&draft, "f"), noise(100_000, 3));
    assert!(matches!(draft.publish().unwrap(), Published::Committed { .. }));
    assert_eq!(get(&world.snapshot("b"), "f"), noise(100_000, 3));
}

#[test]
fn a_draft_on_a_home_that_moved_publishes_nothing_and_tells_its_changes() {
    let world = asleep();
    let draft = world.draft("a");
    let base = draft.base_seq();
    put(&draft, "changed", b"by the draft");
    draft.unlink(ROOT, b"kept").unwrap();
    draft.rename(ROOT, b"tree", ROOT, b"moved", RenameFlags::Replace).unwrap();
    mkdir(&draft, ROOT, "empty");
    let (home, _) = world.open("b");
    put(&home, "changed", b"by the machine");
    home.release().unwrap();
    let Published::Moved { draft_base, head } = draft.publish().unwrap() else { panic!() };
    assert_eq!(draft_base, base);
    assert!(head > base);
    let changes = draft.changes().unwrap();
    let named = |there: bool| -> Vec<String> {
        let all = changes.iter().filter(|change| change.now.is_some() == there);
        all.map(|change| String::from_utf8(change.path.join(&b'/')).unwrap()).collect()
    };
    assert_eq!(named(true), ["changed", "empty", "moved", "moved/a", "moved/a/deep", "moved/b"]);
    assert_eq!(named(false), ["kept", "tree", "tree/a", "tree/a/deep", "tree/b"]);
    // Both sides changed it: what the draft began on is not what the home has now.
    let changed = changes.iter().find(|change| change.path == [b"changed"]).unwrap();
    let live = home.lookup(ROOT, b"changed").unwrap();
    assert_ne!(changed.base, Some((live.ino, live.version)));
    assert_eq!(changed.base.unwrap().0, live.ino);
    put(&draft, "more", b"the draft goes on");
}

#[test]
fn a_directory_whose_name_went_to_another_one_is_told_whole() {
    let world = asleep();
    let draft = world.draft("a");
    draft.rename(ROOT, b"tree", ROOT, b"moved", RenameFlags::Replace).unwrap();
    let tree = mkdir(&draft, ROOT, "tree");
    draft.mknod(tree, b"b", vfs::Kind::File, 0o644, crate::support::ROOT_USER, 0).unwrap();
    let changes = draft.changes().unwrap();
    let named = |there: bool| -> Vec<String> {
        let all = changes.iter().filter(|change| change.now.is_some() == there);
        all.map(|change| String::from_utf8(change.path.join(&b'/')).unwrap()).collect()
    };
    let there = ["moved", "moved/a", "moved/a/deep", "moved/b", "tree", "tree/b"];
    assert_eq!(named(true), there);
    assert_eq!(named(false), ["tree/a", "tree/a/deep"]);
}

#[test]
fn what_changed_is_told_at_once_however_deep_it_lies() {
    const LEVELS: usize = 3_000;
    let world = World::new();
    let (home, _) = world.open("a");
    let mut at = ROOT;
    for _ in 0..LEVELS {
        at = mkdir(&home, at, "d");
    }
    home.release().unwrap();
    let draft = world.draft("a");
    // Away from where it was, and another in its place.
    draft.rename(ROOT, b"d", ROOT, b"moved", RenameFlags::Replace).unwrap();
    let mut at = ROOT;
    for _ in 0..LEVELS / 2 {
        at = mkdir(&draft, at, "d");
    }
    let since = std::time::Instant::now();
    assert_eq!(draft.changed().unwrap(), 2 * LEVELS as u64);
    let changes = draft.changes().unwrap();
    // Work that grows with the square of the depth takes minutes.
    assert!(since.elapsed() < std::time::Duration::from_secs(60), "{:?}", since.elapsed());
    assert_eq!(changes.len(), 2 * LEVELS);
    let (there, gone): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.now.is_some());
    assert_eq!((there.len(), gone.len()), (LEVELS + LEVELS / 2, LEVELS / 2));
    assert!(changes.is_sorted_by_key(|change| &change.path));
    assert_eq!(changes.last().unwrap().path.len(), LEVELS);
    assert!(changes.iter().all(|change| change.base.is_some() == (change.path[0] == b"d")));
}

#[test]
fn publishing_while_someone_has_the_home_open_is_refused() {
    let world = asleep();
    let draft = world.draft("a");
    put(&draft, "f", b"x");
    let (_home, _) = world.open("b");
    match draft.publish() {
        Ok(Published::Moved { .. }) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced),
        other => panic!("{other:?}"),
    }
    put(&draft, "g", b"and it goes on");
}

#[test]
fn a_publication_whose_reply_was_lost_is_not_done_twice() {
    let world = asleep();
    let draft = world.draft("a");
    put(&draft, "f", b"once");
    let commits = world.keys("log/").len();
    world.store.lose_replies.store(1, Ordering::SeqCst);
    assert_eq!(draft.publish().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(draft.unlink(ROOT, b"f").is_err(), "its fate is unknown");
    drop(draft);
    let draft = world.draft("a");
    assert!(draft.unlink(ROOT, b"f").is_err(), "also after a restart");
    assert!(matches!(draft.publish().unwrap(), Published::Committed { .. }));
    assert_eq!(world.keys("log/").len(), commits + 1);
    assert_eq!(get(&world.snapshot("b"), "f"), b"once");
}

#[test]
fn a_discarded_draft_leaves_no_trace() {
    let world = asleep();
    let dir = world.dir("a", "draft");
    let draft = world.draft("a");
    put(&draft, "f", b"x");
    assert_eq!(Draft::discard(&dir, &world.parts()).unwrap_err().kind(), ErrorKind::Conflict);
    drop(draft);
    Draft::discard(&dir, &world.parts()).unwrap();
    Draft::discard(&dir, &world.parts()).unwrap();
    assert!(!Draft::exists(&dir));
    assert_eq!(try_get(&world.draft("a"), "f"), None);
}

#[test]
fn nothing_is_uploaded_before_a_draft_is_published() {
    let world = asleep();
    let draft = world.draft("a");
    world.store.take_stored();
    upload(&draft, "f", &noise(5 << 20, 1));
    draft.sync(None).unwrap();
    assert_eq!(world.store.take_stored(), 0);
}
