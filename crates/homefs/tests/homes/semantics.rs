//! The tree itself: the suite that every file system runs, and what is ours besides.

use std::sync::Arc;

use parking_lot::Mutex;
use vfs::{Errno, Expect, FileSystem, Graft, Kind, Owner, ROOT, SetAttr};

use crate::support::{ROOT_USER, World, get, make, mkdir, noise, put};

#[test]
fn a_home_does_what_every_file_system_does() {
    let worlds = Mutex::new(Vec::new());
    vfs::suite::run(&|| {
        let mut world = World::new();
        world.bytes_max = 64 << 20;
        let (home, _) = world.open("a");
        worlds.lock().push(world);
        Arc::new(home)
    });
}

#[test]
fn a_draft_does_what_every_file_system_does() {
    let worlds = Mutex::new(Vec::new());
    vfs::suite::run(&|| {
        let mut world = World::new();
        world.bytes_max = 64 << 20;
        let draft = world.draft("a");
        worlds.lock().push(world);
        Arc::new(draft)
    });
}

#[test]
fn space_is_bounded_and_given_back() {
    let mut world = World::new();
    world.bytes_max = 1 << 20;
    let (home, _) = world.open("a");
    let ino = put(&home, "f", &noise(900_000, 1));
    let more = make(&home, "g");
    let error = home.write(more, 0, &noise(200_000, 2)).unwrap_err();
    assert_eq!(error.errno(), Errno::ENOSPC);
    // Overwriting needs nothing more.
    home.write(ino, 0, &noise(900_000, 3)).unwrap();
    home.link(ino, ROOT, b"second").unwrap();
    assert_eq!(home.statfs().unwrap().bytes_used, 900_000, "a hard link takes no space");
    home.unlink(ROOT, b"f").unwrap();
    assert_eq!(home.statfs().unwrap().bytes_used, 900_000);
    home.setattr(ino, &SetAttr { size: Some(300_000), ..SetAttr::default() }).unwrap();
    assert_eq!(home.statfs().unwrap().bytes_used, 300_000);
    home.write(more, 0, &noise(200_000, 2)).unwrap();
    home.unlink(ROOT, b"second").unwrap();
    assert_eq!(home.statfs().unwrap().bytes_used, 200_000);
}

#[test]
fn a_home_grows_while_it_is_written_to() {
    let mut world = World::new();
    world.bytes_max = 1 << 20;
    let (home, _) = world.open("a");
    let ino = put(&home, "f", &noise(1 << 20, 1));
    let more = || home.write(ino, 1 << 20, &noise(1 << 20, 2));
    assert_eq!(more().unwrap_err().errno(), Errno::ENOSPC);
    home.grow(2 << 20);
    assert_eq!(home.statfs().unwrap().bytes_max, 2 << 20);
    more().unwrap();
    home.grow(1 << 20);
    assert_eq!(home.statfs().unwrap().bytes_max, 2 << 20, "it never shrinks");
    assert_eq!(home.write(ino, 2 << 20, b"x").unwrap_err().errno(), Errno::ENOSPC);
}

#[test]
fn allocating_far_into_a_small_file_counts_what_lies_before() {
    let mut world = World::new();
    world.bytes_max = 1 << 20;
    let (home, _) = world.open("a");
    let rest = make(&home, "rest");
    home.write(rest, 0, &noise((1 << 20) - 10_000, 1)).unwrap();
    // One piece of content from the beginning: 12,000 bytes, not the 1,000 that are asked for.
    let small = make(&home, "small");
    assert_eq!(home.fallocate(small, 0, 11_000, 1_000).unwrap_err().errno(), Errno::ENOSPC);
    assert_eq!(home.getattr(small).unwrap().size, 0, "a refusal changes nothing");
    home.fallocate(small, 0, 9_000, 1_000).unwrap();
    assert_eq!(home.statfs().unwrap().bytes_used, 1 << 20, "filled to the last byte");
    // Beyond the end of the file, where nothing is kept, nothing is taken.
    home.fallocate(small, 1, 11_000, 1_000).unwrap();
    home.fallocate(rest, 1, 2 << 20, 1 << 20).unwrap();
    home.fallocate(small, 0, 0, 10_000).unwrap();
}

#[test]
fn what_was_allocated_can_be_written_when_all_else_is_full() {
    let mut world = World::new();
    world.bytes_max = 1 << 20;
    let (home, _) = world.open("a");
    for (name, len) in [("small", 10_000), ("large", 300_000)] {
        let ino = put(&home, name, &noise(100, 1));
        home.write(ino, len / 2, &noise(100, 2)).unwrap();
        // Written and punched: what was there must not come back.
        home.fallocate(ino, 3, 0, 50).unwrap();
        home.fallocate(ino, 0, 0, len).unwrap();
        assert_eq!(home.getattr(ino).unwrap().size, len);
        assert_eq!(home.getattr(ino).unwrap().blocks, len.div_ceil(512));
    }
    let (small, large) =
        (home.lookup(ROOT, b"small").unwrap(), home.lookup(ROOT, b"large").unwrap());
    let mut expected = [vec![0; 50], noise(100, 1)[50..].to_vec()].concat();
    expected.resize(10_000, 0);
    expected[5_000..5_100].copy_from_slice(&noise(100, 2));
    assert_eq!(get(&home, "small"), expected);
    let rest = make(&home, "rest");
    home.write(rest, 0, &noise((1 << 20) - 310_000, 3)).unwrap();
    assert_eq!(home.write(rest, 1 << 20, b"x").unwrap_err().errno(), Errno::ENOSPC);
    assert_eq!(home.fallocate(rest, 0, 1 << 20, 1).unwrap_err().errno(), Errno::ENOSPC);
    home.write(small.ino, 0, &noise(10_000, 4)).unwrap();
    home.write(large.ino, 0, &noise(300_000, 5)).unwrap();
    home.sync(None).unwrap();
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "small"), noise(10_000, 4));
    assert_eq!(get(&home, "large"), noise(300_000, 5));
}

#[test]
fn no_offset_breaks_anything() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = make(&home, "f");
    for offset in [u64::MAX, i64::MAX as u64, 16 << 40, (16 << 40) - 1, 1 << 63] {
        let error = home.write(ino, offset, b"xx").unwrap_err();
        assert_eq!(error.errno(), Errno::EFBIG, "{offset}");
        assert!(home.read(ino, offset, u32::MAX).unwrap().is_empty());
        assert!(home.fallocate(ino, 0, offset, u64::MAX).is_err());
    }
    let huge = SetAttr { size: Some(u64::MAX), ..SetAttr::default() };
    assert_eq!(home.setattr(ino, &huge).unwrap_err().errno(), Errno::EFBIG);
    assert_eq!(home.getattr(ino).unwrap().size, 0);
    assert!(home.readdir(ROOT, u64::MAX, usize::MAX).unwrap().is_empty());
}

#[test]
fn punching_holes_does_not_forge_space() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = put(&home, "f", &noise(10_000, 1));
    home.write(ino, 10_000, &noise(100_000, 2)).unwrap();
    for _ in 0..50 {
        home.fallocate(ino, 3, 1_000, 2_000).unwrap();
    }
    let used = home.statfs().unwrap().bytes_used;
    assert!((108_000..=110_000).contains(&used), "{used}");
    let mut expected = [noise(10_000, 1), noise(100_000, 2)].concat();
    expected[1_000..3_000].fill(0);
    assert_eq!(get(&home, "f"), expected);
    home.sync(None).unwrap();
    assert_eq!(get(&home, "f"), expected);
}

#[test]
fn a_graft_that_fails_changes_nothing() {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "keep", b"1");
    let dir = mkdir(&home, ROOT, "dir");
    home.mknod(dir, b"inside", Kind::File, 0o644, ROOT_USER, 0).unwrap();
    let from = home.create_detached(Kind::Directory, 0o755, ROOT_USER).unwrap().ino;
    for name in [b"aaa", b"dir", b"zzz"] {
        home.mknod(from, name, Kind::File, 0o644, ROOT_USER, 0).unwrap();
    }
    let before = home.readdir(ROOT, 0, 100).unwrap();
    let removals = [vec![b"keep".to_vec()]];
    let graft = Graft { from, into: ROOT, removals: &removals, implicit: &[], expect: None };
    assert_eq!(home.graft(&graft).unwrap_err().errno(), Errno::EEXIST);
    assert_eq!(home.readdir(ROOT, 0, 100).unwrap(), before);
    assert_eq!(home.readdir(from, 0, 100).unwrap().len(), 3);
    home.unpin(from);
}

#[test]
fn directories_with_the_set_group_bit_hand_their_group_down() {
    let world = World::new();
    let (home, _) = world.open("a");
    let owner = Owner { uid: 5, gid: 50 };
    let dir = home.mknod(ROOT, b"d", Kind::Directory, 0o2775, owner, 0).unwrap();
    let file = home.mknod(dir.ino, b"f", Kind::File, 0o644, ROOT_USER, 0).unwrap();
    let sub = home.mknod(dir.ino, b"s", Kind::Directory, 0o755, ROOT_USER, 0).unwrap();
    assert_eq!((file.owner.gid, file.perm), (50, 0o644));
    assert_eq!((sub.owner.gid, sub.perm), (50, 0o2755));
}

#[test]
fn a_placed_file_checks_what_it_replaces() {
    let world = World::new();
    let (home, _) = world.open("a");
    let seen = put(&home, "f", b"old");
    let version = home.getattr(seen).unwrap().version;
    home.write(seen, 0, b"new").unwrap();
    let ino = home.create_detached(Kind::File, 0o600, ROOT_USER).unwrap().ino;
    let place = |expect| home.place(ino, ROOT, &[b"f"], expect).map_err(|error| error.errno());
    assert_eq!(place(Expect::Absent).unwrap_err(), Errno::EEXIST);
    assert_eq!(place(Expect::Version(seen, version)).unwrap_err(), Errno::ESTALE);
    let version = home.getattr(seen).unwrap().version;
    assert!(!place(Expect::Version(seen, version)).unwrap().created);
    assert!(home.getattr(seen).is_err(), "replaced and held by nobody");
}

#[test]
fn attributes_that_are_too_large_say_so_and_are_no_full_disk() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = put(&home, "f", b"x");
    let set = |n: u32, len: usize| {
        home.setxattr(ino, format!("user.{n:02}").as_bytes(), &vec![7; len], vfs::XattrMode::Any)
    };
    let refused = |error: vfs::FsError| {
        assert_eq!((error.kind(), error.errno()), (base::ErrorKind::TooLarge, Errno::ENOSPC));
    };
    refused(set(0, (64 << 10) + 1).unwrap_err());
    for n in 0..15 {
        set(n, 64 << 10).unwrap();
    }
    refused(set(15, 64 << 10).unwrap_err());
}

#[test]
fn versions_never_repeat_after_a_host_is_lost() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = put(&home, "f", b"1");
    home.sync(None).unwrap();
    home.write(ino, 0, b"2").unwrap();
    let lost = home.getattr(ino).unwrap().version;
    drop(home);
    let (home, _) = world.open("b");
    home.write(ino, 0, b"3").unwrap();
    assert!(home.getattr(ino).unwrap().version > lost);
}

#[test]
fn a_walk_sees_every_entry_once_while_others_come_and_go() {
    let world = World::new();
    let (home, _) = world.open("a");
    for n in 0..500 {
        make(&home, &format!("stay{n}"));
    }
    let (mut cookie, mut seen) = (0, Vec::new());
    loop {
        let part = home.readdir(ROOT, cookie, 37).unwrap();
        let Some(last) = part.last() else { break };
        cookie = last.cookie;
        let n = seen.len();
        make(&home, &format!("come{n}"));
        home.unlink(ROOT, format!("come{n}").as_bytes()).unwrap();
        // Replacing a name that stays keeps its place.
        make(&home, &format!("tmp{n}"));
        home.rename(ROOT, format!("tmp{n}").as_bytes(), ROOT, b"stay0", Default::default())
            .unwrap();
        seen.extend(part.into_iter().map(|entry| entry.name));
    }
    seen.sort();
    let before = seen.len();
    seen.dedup();
    assert_eq!((before, seen.len()), (500, 500));
}
