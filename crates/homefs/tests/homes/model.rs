//! Random operations against a tree in memory, and again after the host is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::SystemClock;
use proptest::prelude::*;
use vfs::memfs::MemFs;
use vfs::{FileSystem, Ino, Kind, ROOT, RenameFlags, SetAttr};

use crate::support::{ROOT_USER, World, content, noise};

#[derive(Debug, Clone)]
enum Op {
    Make(u8, u8),
    Mkdir(u8, u8),
    Write(u8, u32, u32, u64),
    Append(u8, u32, u64),
    Truncate(u8, u32),
    Punch(u8, u32, u32),
    Zero(u8, u32, u32),
    Link(u8, u8, u8),
    Unlink(u8, u8),
    Rmdir(u8, u8),
    Rename(u8, u8, u8, u8, u8),
    Sync,
    SyncOne(u8),
    Crash,
    Fold,
}

/// Sizes that meet the borders of tiers and slots.
fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => 0..40_000_u32,
        2 => 16_000..17_000_u32,
        1 => 4_190_000..4_200_000_u32,
        1 => 0..9_000_000_u32,
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 1..6_000_u32, 2 => 1..20_000_u32, 1 => 200_000..5_000_000_u32]
}

fn op() -> impl Strategy<Value = Op> {
    let id = || 0..6_u8;
    prop_oneof![
        3 => (id(), id()).prop_map(|(d, n)| Op::Make(d, n)),
        1 => (id(), id()).prop_map(|(d, n)| Op::Mkdir(d, n)),
        6 => (id(), offset(), length(), any::<u64>()).prop_map(|(f, o, l, s)| Op::Write(f, o, l, s)),
        3 => (id(), length(), any::<u64>()).prop_map(|(f, l, s)| Op::Append(f, l, s)),
        2 => (id(), offset()).prop_map(|(f, o)| Op::Truncate(f, o)),
        1 => (id(), offset(), length()).prop_map(|(f, o, l)| Op::Punch(f, o, l)),
        1 => (id(), offset(), length()).prop_map(|(f, o, l)| Op::Zero(f, o, l)),
        1 => (id(), id(), id()).prop_map(|(f, d, n)| Op::Link(f, d, n)),
        1 => (id(), id()).prop_map(|(d, n)| Op::Unlink(d, n)),
        1 => (id(), id()).prop_map(|(d, n)| Op::Rmdir(d, n)),
        2 => (id(), id(), id(), id(), 0..3_u8).prop_map(|(a, b, c, d, f)| Op::Rename(a, b, c, d, f)),
        1 => Just(Op::Sync),
        2 => id().prop_map(Op::SyncOne),
        1 => Just(Op::Crash),
        2 => Just(Op::Fold),
    ]
}

/// Directories and files of a tree by path, so that two trees number them alike.
fn listing(fs: &dyn FileSystem) -> BTreeMap<String, (Ino, Kind)> {
    let mut found = BTreeMap::from([(String::new(), (ROOT, Kind::Directory))]);
    let mut open = vec![(String::new(), ROOT)];
    while let Some((path, ino)) = open.pop() {
        let mut cookie = 0;
        loop {
            let part = fs.readdir(ino, cookie, 100).unwrap();
            let Some(last) = part.last() else { break };
            cookie = last.cookie;
            for entry in part {
                let path = format!("{path}/{}", String::from_utf8(entry.name).unwrap());
                if entry.attr.kind == Kind::Directory {
                    open.push((path.clone(), entry.attr.ino));
                }
                found.insert(path, (entry.attr.ino, entry.attr.kind));
            }
        }
    }
    found
}

fn pick(fs: &dyn FileSystem, kind: Kind, n: u8) -> Option<Ino> {
    let all: Vec<_> = listing(fs).into_values().filter(|found| found.1 == kind).collect();
    (!all.is_empty()).then(|| all[n as usize % all.len()].0)
}

/// Does it; the errno where it failed.
fn apply(fs: &dyn FileSystem, op: &Op) -> Result<(), vfs::Errno> {
    let dir = |n| pick(fs, Kind::Directory, n).unwrap_or(ROOT);
    let file = |n| pick(fs, Kind::File, n);
    let name = |n: u8| vec![b'a' + n];
    let done = match *op {
        Op::Make(d, n) => fs.mknod(dir(d), &name(n), Kind::File, 0o644, ROOT_USER, 0).map(drop),
        Op::Mkdir(d, n) => {
            fs.mknod(dir(d), &name(n), Kind::Directory, 0o755, ROOT_USER, 0).map(drop)
        }
        Op::Write(f, at, len, seed) => match file(f) {
            Some(ino) => fs.write(ino, u64::from(at), &noise(len as usize, seed)),
            None => Ok(()),
        },
        Op::Append(f, len, seed) => match file(f) {
            Some(ino) => {
                let size = fs.getattr(ino).unwrap().size;
                fs.write(ino, size, &noise(len as usize, seed))
            }
            None => Ok(()),
        },
        Op::Truncate(f, size) => match file(f) {
            Some(ino) => {
                let set = SetAttr { size: Some(u64::from(size)), ..SetAttr::default() };
                fs.setattr(ino, &set).map(drop)
            }
            None => Ok(()),
        },
        Op::Punch(f, at, len) => match file(f) {
            Some(ino) => fs.fallocate(ino, 0x03, u64::from(at), u64::from(len)),
            None => Ok(()),
        },
        Op::Zero(f, at, len) => match file(f) {
            Some(ino) => fs.fallocate(ino, 0x10, u64::from(at), u64::from(len)),
            None => Ok(()),
        },
        Op::Link(f, d, n) => match file(f) {
            Some(ino) => fs.link(ino, dir(d), &name(n)).map(drop),
            None => Ok(()),
        },
        Op::Unlink(d, n) => fs.unlink(dir(d), &name(n)),
        Op::Rmdir(d, n) => fs.rmdir(dir(d), &name(n)),
        Op::Rename(a, b, c, d, flags) => {
            let flags = [RenameFlags::Replace, RenameFlags::NoReplace, RenameFlags::Exchange]
                [flags as usize];
            fs.rename(dir(a), &name(b), dir(c), &name(d), flags)
        }
        Op::Sync => fs.sync(None),
        Op::SyncOne(f) => fs.sync(file(f)),
        Op::Crash | Op::Fold => Ok(()),
    };
    done.map_err(|error| error.errno())
}

fn assert_equal(ours: &dyn FileSystem, model: &dyn FileSystem) {
    let (left, right) = (listing(ours), listing(model));
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    let mut inodes = BTreeMap::new();
    for (path, (ino, kind)) in &left {
        let (mine, theirs) = (ours.getattr(*ino).unwrap(), model.getattr(right[path].0).unwrap());
        assert_eq!(mine.kind, theirs.kind, "{path}");
        assert_eq!(mine.nlink, theirs.nlink, "links of {path:?}");
        assert!(mine.size == theirs.size || *kind == Kind::Directory, "size of {path}");
        if *kind == Kind::File {
            assert!(content(ours, *ino) == content(model, right[path].0), "content of {path}");
        }
        inodes.insert(*ino, mine.blocks);
    }
    assert_eq!(ours.statfs().unwrap().inodes_used, inodes.len() as u64, "nothing leaks");
    let blocks: u64 = inodes.values().sum();
    let used = ours.statfs().unwrap().bytes_used;
    assert!(blocks * 512 >= used && blocks * 512 < used + 512 * (inodes.len() as u64 + 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_home_is_what_a_tree_in_memory_is(
        ops in proptest::collection::vec(op(), 1..60),
        cached in prop_oneof![Just(2_usize), Just(homefs::INODES_CACHED)],
    ) {
        let mut world = World::new();
        world.inodes_cached = cached;
        let model = MemFs::new(Arc::new(SystemClock::new()), 1 << 40);
        let (mut home, _) = world.open("a");
        for op in &ops {
            if matches!(op, Op::Crash) {
                drop(home);
                home = world.open("a").0;
                continue;
            }
            if matches!(op, Op::Fold) {
                drop(home.status());
            }
            prop_assert_eq!(apply(&home, op), apply(&model, op), "{:?}", op);
        }
        assert_equal(&home, &model);
        home.sync(None).unwrap();
        assert_equal(&home, &model);
        drop(home);
        let (home, opened) = world.open("b");
        prop_assert_eq!(opened.files_reverted, 0);
        assert_equal(&home, &model);
        home.release().unwrap();
        let snapshot = world.snapshot("c");
        for (path, (ino, kind)) in listing(&snapshot) {
            if kind == Kind::File {
                let there = listing(&model)[&path].0;
                prop_assert!(content(&snapshot, ino) == content(&model, there), "{}", path);
            }
        }
    }
}
