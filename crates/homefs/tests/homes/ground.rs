//! What a draft stands on stays while others write, restore and collect its home.

use std::io::Read;
use std::sync::atomic::Ordering;

use base::{ErrorKind, SnapshotId};
use bytes::Bytes;
use homefs::{Draft, HomeFs, Published};
use vfs::path::TreePath;
use vfs::tar::{Bundle, ImportOptions};
use vfs::{FileSystem as _, ROOT, RenameFlags, SetAttr};

use crate::support::{World, block_on, get, noise, put, try_get, upload};

const LARGE: usize = 12 << 20;

fn asleep() -> World {
    let world = World::new();
    let (home, _) = world.open("a");
    upload(&home, "large", &noise(LARGE, 1));
    upload(&home, "packed", &noise(100_000, 2));
    upload(&home, "moved/deep/packed", &noise(300_000, 3));
    upload(&home, "chmod", &noise(5 << 20, 4));
    upload(&home, "other", &noise(200_000, 5));
    put(&home, "inline", b"small");
    home.sync(None).unwrap();
    // Rides in a commit.
    upload(&home, "rider", &noise(30_000, 6));
    home.release().unwrap();
    world
}

/// The home moves on, on another host, and everything that nobody keeps is collected.
fn move_on(world: &World) {
    let (home, _) = world.open("b");
    for path in ["large", "packed", "chmod", "other", "rider"] {
        upload(&home, path, &noise(50_000, 99));
    }
    home.unlink(
        home.lookup(home.lookup(ROOT, b"moved").unwrap().ino, b"deep").unwrap().ino,
        b"packed",
    )
    .unwrap();
    for turn in 0..150 {
        put(&home, "turn", &noise(2_000, turn));
        home.sync(None).unwrap();
    }
    collect(world, &home);
    home.release().unwrap();
}

fn collect(world: &World, home: &HomeFs) {
    for _ in 0..12 {
        home.collect().unwrap();
        world.clock.pass_minutes(20);
    }
    home.collect().unwrap();
}

struct Pieces<'a>(Bundle<'a>, Bytes);

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.1.is_empty() {
            let next =
                self.0.next_piece().map_err(|error| std::io::Error::other(error.to_string()))?;
            self.1 = next.unwrap_or_default();
        }
        let part = self.1.split_to(self.1.len().min(into.len()));
        into[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}

/// As a server carries the changes of a draft over to a home that moved.
fn carry_over(draft: &Draft, home: &HomeFs) {
    let (mut removed, mut changed) = (Vec::new(), Vec::new());
    for change in draft.changes().unwrap() {
        match change.now {
            None => removed.push(change.path),
            Some(attr) => changed.push((change.path.join(&b'/'), attr)),
        }
    }
    let options = ImportOptions { keep_owner: true, outside_links: true };
    let tar = Pieces(Bundle::of_paths(draft, changed), Bytes::new());
    vfs::tar::import(home, &TreePath::root(), tar, &removed, options).unwrap();
    home.sync_local().unwrap();
}

fn pins(world: &World) -> usize {
    world.keys("pins/").len()
}

/// Every change that keeps a part of what is stored, and what is there after it.
fn change(draft: &Draft) -> Vec<(&'static str, Vec<u8>)> {
    let mut large = noise(LARGE, 1);
    large[5_000_000..5_000_010].copy_from_slice(b"0123456789");
    let ino = draft.lookup(ROOT, b"large").unwrap().ino;
    draft.write(ino, 5_000_000, b"0123456789").unwrap();
    let ino = draft.lookup(ROOT, b"packed").unwrap().ino;
    draft.setattr(ino, &SetAttr { size: Some(70_000), ..SetAttr::default() }).unwrap();
    draft.rename(ROOT, b"moved", ROOT, b"here", RenameFlags::Replace).unwrap();
    let ino = draft.lookup(ROOT, b"chmod").unwrap().ino;
    draft.setattr(ino, &SetAttr { perm: Some(0o600), ..SetAttr::default() }).unwrap();
    let ino = draft.lookup(ROOT, b"rider").unwrap().ino;
    draft.link(ino, ROOT, b"linked").unwrap();
    upload(draft, "new", &noise(6 << 20, 7));
    draft.sync_local().unwrap();
    vec![
        ("large", large),
        ("packed", noise(100_000, 2)[..70_000].to_vec()),
        ("here/deep/packed", noise(300_000, 3)),
        ("chmod", noise(5 << 20, 4)),
        ("rider", noise(30_000, 6)),
        ("linked", noise(30_000, 6)),
        ("new", noise(6 << 20, 7)),
    ]
}

#[test]
fn a_draft_of_parts_is_carried_over_after_its_home_moved_on() {
    let world = asleep();
    let draft = world.draft("a");
    let expected = change(&draft);
    assert_eq!(pins(&world), 1);
    move_on(&world);
    // Also after a restart, and after an attempt to publish.
    drop(draft);
    let draft = world.draft("a");
    assert!(matches!(draft.publish().unwrap(), Published::Moved { .. }));
    for (path, content) in &expected {
        assert!(get(&draft, path) == *content, "{path}");
    }
    let (home, _) = world.open("c");
    carry_over(&draft, &home);
    home.release().unwrap();
    drop(draft);
    Draft::discard(world.dir("a", "draft"), &world.parts()).unwrap();
    assert_eq!(pins(&world), 0);
    let published = world.snapshot("s");
    for (path, content) in &expected {
        assert!(get(&published, path) == *content, "{path}");
    }
    assert_eq!(get(&published, "other"), noise(50_000, 99), "what only the home changed stays");
    assert_eq!(try_get(&published, "moved/deep"), None);
}

#[test]
fn whole_files_cost_a_draft_no_request_and_parts_one_pin() {
    let world = asleep();
    let draft = world.draft("a");
    world.store.take_calls();
    upload(&draft, "packed", &noise(100_000, 8));
    upload(&draft, "large", &noise(LARGE, 9));
    put(&draft, "inline", b"other");
    put(&draft, "new", &noise(50_000, 1));
    draft.unlink(ROOT, b"other").unwrap();
    draft.rename(ROOT, b"new", ROOT, b"newer", RenameFlags::Replace).unwrap();
    let ino = draft.lookup(ROOT, b"rider").unwrap().ino;
    draft.setattr(ino, &SetAttr { size: Some(0), ..SetAttr::default() }).unwrap();
    put(&draft, "rider", &noise(40_000, 3));
    draft.sync(None).unwrap();
    assert_eq!(world.store.take_calls(), 0);
    let ino = draft.lookup(ROOT, b"chmod").unwrap().ino;
    draft.write(ino, 7, b"x").unwrap();
    let calls = world.store.take_calls();
    assert!((1..=8).contains(&calls), "{calls}");
    for at in 0..100 {
        draft.write(ino, at * 1_000, b"x").unwrap();
    }
    assert_eq!(world.store.take_calls(), 0);
    assert_eq!(pins(&world), 1);
    assert!(matches!(draft.publish().unwrap(), Published::Committed { .. }));
    assert_eq!(pins(&world), 0, "a published draft stands on nothing");
    assert_eq!(get(&world.snapshot("s"), "chmod")[7], b'x');
}

#[test]
fn a_change_of_a_part_after_the_home_moved_on_fails_and_leaves_all_as_it_was() {
    let world = asleep();
    let draft = world.draft("a");
    upload(&draft, "whole", &noise(LARGE, 3));
    move_on(&world);
    let ino = draft.lookup(ROOT, b"large").unwrap().ino;
    let before = draft.getattr(ino).unwrap();
    for error in [
        draft.write(ino, 10, b"x").unwrap_err(),
        draft.rename(ROOT, b"moved", ROOT, b"here", RenameFlags::Replace).unwrap_err(),
        draft.read(ino, 0, 10).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("moved on"), "{error}");
    }
    assert_eq!(draft.getattr(ino).unwrap(), before);
    assert!(draft.lookup(ROOT, b"moved").is_ok() && draft.lookup(ROOT, b"here").is_err());
    assert_eq!(pins(&world), 0);
    // What it has of its own goes on.
    upload(&draft, "more", &noise(100_000, 4));
    let (home, _) = world.open("c");
    carry_over(&draft, &home);
    assert!(get(&home, "whole") == noise(LARGE, 3));
    assert_eq!(get(&home, "more"), noise(100_000, 4));
}

#[test]
fn equal_content_that_the_store_had_is_still_the_drafts_own() {
    let world = asleep();
    let draft = world.draft("a");
    // The same chunks that the home has; sealed when it is published, and the home moves just then.
    upload(&draft, "copy", &noise(LARGE, 1));
    world.store.refuse_logs.store(true, Ordering::SeqCst);
    draft.publish().unwrap_err();
    world.store.refuse_logs.store(false, Ordering::SeqCst);
    move_on(&world);
    assert!(matches!(draft.publish().unwrap(), Published::Moved { .. }));
    assert_eq!(pins(&world), 0);
    assert!(get(&draft, "copy") == noise(LARGE, 1));
}

#[test]
fn a_store_that_is_away_fails_changes_of_parts_only() {
    let world = asleep();
    let draft = world.draft("a");
    let ino = draft.lookup(ROOT, b"large").unwrap().ino;
    world.store.down.store(true, Ordering::SeqCst);
    assert_eq!(draft.write(ino, 10, b"x").unwrap_err().kind(), ErrorKind::Unavailable);
    upload(&draft, "whole", &noise(100_000, 3));
    world.store.down.store(false, Ordering::SeqCst);
    // A pin whose reply was lost is not believed in.
    world.store.lose_replies.store(1, Ordering::SeqCst);
    assert_eq!(draft.write(ino, 10, b"x").unwrap_err().kind(), ErrorKind::Unavailable);
    draft.write(ino, 10, b"x").unwrap();
    assert_eq!(pins(&world), 1);
    drop(draft);
    world.store.down.store(true, Ordering::SeqCst);
    let dir = world.dir("a", "draft");
    Draft::discard(&dir, &world.parts()).unwrap();
    assert!(!Draft::exists(&dir));
    world.store.down.store(false, Ordering::SeqCst);
    assert_eq!(pins(&world), 1);
    let draft = world.draft("a");
    assert_eq!((pins(&world), try_get(&draft, "whole")), (0, None));
}

#[test]
fn an_abandoned_draft_holds_up_the_collector_for_30_days_and_is_told_so() {
    const DAY: u64 = 24 * 60;
    let world = asleep();
    let draft = world.draft("a");
    let ino = draft.lookup(ROOT, b"large").unwrap().ino;
    draft.write(ino, 10, b"x").unwrap();
    // As long as the home rests, for ever.
    world.clock.pass_minutes(100 * DAY);
    let scratch = world.dir("s", "scratch");
    block_on(homefs::collect(&world.parts(), &world.home, &scratch)).unwrap();
    assert_eq!(pins(&world), 1);
    move_on(&world);
    world.clock.pass_minutes(28 * DAY);
    block_on(homefs::collect(&world.parts(), &world.home, &scratch)).unwrap();
    draft.write(ino, 11, b"y").unwrap();
    world.clock.pass_minutes(DAY + DAY / 2);
    // About to go: nothing more is taken on it.
    let error = draft.write(ino, 12, b"z").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(get(&draft, "large")[9..13], [noise(13, 1)[9], b'x', b'y', noise(13, 1)[12]]);
    world.clock.pass_minutes(DAY);
    block_on(homefs::collect(&world.parts(), &world.home, &scratch)).unwrap();
    assert_eq!(pins(&world), 0);
    // What was read before is still in memory.
    drop(draft);
    let draft = world.draft("a");
    let error = draft.read(ino, 1 << 20, 10).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(!error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_draft_stays_whole_where_its_home_is_taken_back_and_collected() {
    let world = asleep();
    let id = SnapshotId::generate();
    block_on(homefs::snapshot(&world.parts(), &world.home, &id, None)).unwrap();
    // The state of the draft is one that the restore leaves behind, with data of its own in commits.
    let (home, _) = world.open("a");
    for n in 0..40 {
        upload(&home, &format!("rides{n}"), &noise(20_000, 1_000 + n));
        home.sync(None).unwrap();
    }
    for turn in 0..120 {
        put(&home, "turn", &noise(2_000, turn));
        home.sync(None).unwrap();
    }
    home.release().unwrap();
    drop(home);
    let draft = world.draft("a");
    for n in 0..40 {
        let ino = draft.lookup(ROOT, format!("rides{n}").as_bytes()).unwrap().ino;
        draft.write(ino, 19_990, b"0123456789").unwrap();
    }
    block_on(homefs::restore(&world.parts(), &world.home, &id, &world.server)).unwrap();
    move_on(&world);
    drop(draft);
    let draft = world.draft("a");
    assert!(matches!(draft.publish().unwrap(), Published::Moved { .. }));
    let (home, _) = world.open("c");
    carry_over(&draft, &home);
    for n in 0..40 {
        let mut content = noise(20_000, 1_000 + n);
        content[19_990..].copy_from_slice(b"0123456789");
        assert!(get(&home, &format!("rides{n}")) == content, "{n}");
    }
}

#[test]
fn a_draft_of_a_fork_has_what_the_fork_inherited_also_after_a_restart() {
    let world = asleep();
    let child = base::HomeId::generate();
    block_on(homefs::fork(&world.parts(), &world.home, None, &child, &world.server)).unwrap();
    let fork = world.other(child);
    drop(fork.draft("a"));
    let draft = fork.draft("a");
    assert!(get(&draft, "large") == noise(LARGE, 1));
    let expected = change(&draft);
    move_on(&fork);
    drop(draft);
    let draft = fork.draft("a");
    for (path, content) in &expected {
        assert!(get(&draft, path) == *content, "{path}");
    }
}
