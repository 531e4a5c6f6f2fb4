//! Crashes that lose a part of the journal, and many threads at once over a small memory.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use homefs::HomeFs;
use proptest::prelude::*;
use vfs::{Errno, Expect, FileSystem, Kind, NewFile, ROOT, RenameFlags, SetAttr, XattrMode};

use crate::support::{ROOT_USER, World, content, get, make, mkdir, noise, put, try_get, upload};

/// Files of the journal with their lengths, in order.
fn journal(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let entries = fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.path(), entry.metadata().unwrap().len())).collect()
}

/// Cuts the journal off somewhere behind what it was at `synced`, as power loss does.
fn lose_power(dir: &Path, synced: &BTreeMap<PathBuf, u64>, at: u64) {
    let now = journal(dir);
    let kept = |path: &PathBuf| synced.get(path).copied().unwrap_or(0);
    let open: u64 = now.iter().map(|(path, len)| len - kept(path).min(*len)).sum();
    let mut left = if open == 0 { 0 } else { at % (open + 1) };
    for (path, len) in &now {
        let more = left.min(len - kept(path).min(*len));
        left -= more;
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(kept(path) + more).unwrap();
    }
}

/// All names with what they name.
fn tree(fs: &dyn FileSystem) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![(String::new(), ROOT)];
    while let Some((path, ino)) = open.pop() {
        let mut cookie = 0;
        while let Some(last) = {
            let part = fs.readdir(ino, cookie, 7).unwrap();
            for entry in &part {
                let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
                assert_eq!(fs.lookup(ino, &entry.name).unwrap(), entry.attr);
                match entry.attr.kind {
                    Kind::Directory => open.push((path.clone(), entry.attr.ino)),
                    _ => drop(found.insert(path.clone(), content(fs, entry.attr.ino))),
                }
                found.entry(path).or_default();
            }
            part.last().map(|last| last.cookie)
        } {
            cookie = last;
        }
    }
    found
}

#[derive(Debug, Clone)]
enum Op {
    Put(u8, u16, u64),
    Append(u8, u16, u64),
    Cut(u8, u16),
    Unlink(u8),
    Rename(u8, u8),
    Tag(u8, u8),
    Sync,
    Status,
    PowerLoss(u64),
    Kill,
}

fn op() -> impl Strategy<Value = Op> {
    let name = || 0..8_u8;
    prop_oneof![
        4 => (name(), 0..40_000_u16, any::<u64>()).prop_map(|(n, len, seed)| Op::Put(n, len, seed)),
        3 => (name(), 1..20_000_u16, any::<u64>()).prop_map(|(n, len, s)| Op::Append(n, len, s)),
        1 => (name(), 0..30_000_u16).prop_map(|(n, len)| Op::Cut(n, len)),
        2 => name().prop_map(Op::Unlink),
        2 => (name(), name()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => (name(), any::<u8>()).prop_map(|(n, value)| Op::Tag(n, value)),
        2 => Just(Op::Sync),
        1 => Just(Op::Status),
        2 => any::<u64>().prop_map(Op::PowerLoss),
        1 => Just(Op::Kill),
    ]
}

fn path(n: u8) -> String {
    format!("d{}/f{n}", n % 2)
}

/// Does it. Each is one call that changes something, or none.
fn apply(fs: &HomeFs, op: &Op) {
    let find = |n: u8| {
        let dir = fs.lookup(ROOT, format!("d{}", n % 2).as_bytes()).ok()?;
        Some((dir.ino, fs.lookup(dir.ino, format!("f{n}").as_bytes()).ok()))
    };
    match *op {
        Op::Put(n, len, seed) => {
            let (path, data) = (path(n), noise(usize::from(len).min(16_384), seed));
            let names: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
            let file = NewFile { content: &data, perm: 0o600, owner: ROOT_USER };
            fs.put_file(ROOT, &names, &file, Expect::Any).unwrap();
        }
        Op::Append(n, len, seed) => {
            if let Some((_, Some(file))) = find(n) {
                fs.write(file.ino, file.size, &noise(usize::from(len), seed)).unwrap();
            }
        }
        Op::Cut(n, len) => {
            if let Some((_, Some(file))) = find(n) {
                let set = SetAttr { size: Some(u64::from(len)), ..SetAttr::default() };
                fs.setattr(file.ino, &set).unwrap();
            }
        }
        Op::Unlink(n) => {
            if let Some((dir, Some(_))) = find(n) {
                fs.unlink(dir, format!("f{n}").as_bytes()).unwrap();
            }
        }
        Op::Rename(a, b) => {
            if let (Some((from, Some(_))), Some((to, _))) = (find(a), find(b)) {
                let (old, new) = (format!("f{a}"), format!("f{b}"));
                fs.rename(from, old.as_bytes(), to, new.as_bytes(), RenameFlags::Replace).unwrap();
            }
        }
        Op::Tag(n, value) => {
            if let Some((_, Some(file))) = find(n) {
                fs.setxattr(file.ino, b"user.tag", &[value], XattrMode::Any).unwrap();
            }
        }
        Op::Status => drop(fs.status()),
        Op::Sync | Op::PowerLoss(_) | Op::Kill => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn power_loss_leaves_what_was_synced_and_a_beginning_of_what_was_not(
        ops in proptest::collection::vec(op(), 1..60)
    ) {
        let mut world = World::new();
        world.inodes_cached = 4;
        let dir = world.dir("a", "home");
        let mut home = world.open("a").0;
        // States since the last sync, that one first.
        let mut states = vec![tree(&home)];
        let mut synced = journal(&dir);
        for op in &ops {
            apply(&home, op);
            match *op {
                Op::Sync => {
                    home.sync_local().unwrap();
                    synced = journal(&dir);
                    states = vec![tree(&home)];
                }
                Op::Kill => {
                    drop(home);
                    home = world.open("a").0;
                    prop_assert_eq!(&tree(&home), states.last().unwrap());
                }
                Op::PowerLoss(at) => {
                    drop(home);
                    lose_power(&dir, &synced, at);
                    home = world.open("a").0;
                    let found = tree(&home);
                    prop_assert!(states.contains(&found), "{:?}", found.keys());
                    home.sync_local().unwrap();
                    synced = journal(&dir);
                    states = vec![found];
                }
                _ => states.push(tree(&home)),
            }
        }
        home.sync(None).unwrap();
        prop_assert_eq!(&tree(&home), states.last().unwrap());
    }
}

/// A disk may keep a record of the journal and lose the bytes that it names, as long as neither was synced.
#[test]
fn bytes_that_went_with_the_power_before_they_were_synced_hide_nothing() {
    let world = World::new();
    let (home, _) = world.open("a");
    upload(&home, "file", &noise(60_000, 1));
    home.sync(None).unwrap();
    let ino = home.lookup(ROOT, b"file").unwrap().ino;
    home.write(ino, 20_000, &noise(10_000, 2)).unwrap();
    home.write(ino, 58_000, &noise(9_000, 3)).unwrap();
    drop(home);
    let spool = fs::read_dir(world.dir("a", "home").join("spool")).unwrap();
    for entry in spool.map(|entry| entry.unwrap().path()) {
        fs::File::options().write(true).open(entry).unwrap().set_len(59_000).unwrap();
    }

    let (home, _) = world.open("a");
    let mut expected = noise(60_000, 1);
    expected[20_000..30_000].copy_from_slice(&noise(10_000, 2));
    expected[58_000..59_000].copy_from_slice(&noise(9_000, 3)[..1_000]);
    expected.resize(67_000, 0);
    assert!(get(&home, "file") == expected, "what was sealed shows again");
    home.write(ino, 66_000, b"on").unwrap();
    expected[66_000..66_002].copy_from_slice(b"on");
    home.sync(None).unwrap();
    assert!(get(&home, "file") == expected);
    drop(home);
    fs::remove_dir_all(world.dir("a", "home")).unwrap();
    assert!(get(&world.open("a").0, "file") == expected, "the store has it");
}

#[test]
fn damage_in_what_was_synced_is_not_passed_over() {
    let world = World::new();
    let (home, _) = world.open("a");
    for n in 0..20 {
        upload(&home, &format!("f{n}"), &noise(500, n));
    }
    drop(home);
    let (path, len) = journal(&world.dir("a", "home")).pop_last().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(len).unwrap() / 2] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = world.try_open("a").unwrap_err();
    assert_eq!(error.kind(), base::ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_large_directory_is_listed_whole_while_it_changes() {
    let mut world = World::new();
    world.inodes_cached = 100;
    let (home, _) = world.open("a");
    let dir = mkdir(&home, ROOT, "dir");
    let name = |n: usize| format!("name{n}").into_bytes();
    for n in 0..9_000 {
        home.mknod(dir, &name(n), Kind::File, 0o644, ROOT_USER, 0).unwrap();
    }
    drop(home);
    // More than is brought into memory at once, and in the database only.
    let (home, _) = world.open("a");
    drop(home.status());
    let mut expected: Vec<_> = (0..9_000).map(name).collect();
    let (mut cookie, mut seen) = (0, Vec::new());
    for n in 0.. {
        let part = home.readdir(dir, cookie, 1_000).unwrap();
        let Some(last) = part.last() else { break };
        cookie = last.cookie;
        seen.extend(part.into_iter().map(|entry| entry.name));
        // Behind and before the place where the walk is.
        home.unlink(dir, &name(n)).unwrap();
        let made = format!("made{n}").into_bytes();
        if n == 3 {
            home.mknod(dir, &made, Kind::File, 0o644, ROOT_USER, 0).unwrap();
            expected.push(made);
        }
    }
    assert_eq!(seen, expected);
    assert_eq!(home.rmdir(ROOT, b"dir").unwrap_err().errno(), Errno::ENOTEMPTY);
    for name in &seen {
        home.unlink(dir, name).ok();
    }
    home.rmdir(ROOT, b"dir").unwrap();
}

#[test]
fn what_a_thread_wrote_it_reads_whatever_others_do() {
    let mut world = World::new();
    world.inodes_cached = 8;
    world.replicate_after = std::time::Duration::from_millis(5);
    let (home, _) = world.open("a");
    let done = AtomicBool::new(false);
    let end = |_: &()| done.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let (home, done) = (&home, &done);
        let workers: Vec<_> = (0..3).map(|n| scope.spawn(move || work(home, n))).collect();
        scope.spawn(move || {
            let ino = make(home, "tagged");
            for n in 0_u32.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                home.setxattr(ino, b"user.n", &n.to_le_bytes(), XattrMode::Any).unwrap();
                assert_eq!(home.getxattr(ino, b"user.n").unwrap(), n.to_le_bytes());
                drop(home.status());
                home.sync_local().unwrap();
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        end(&());
    });
    let before = tree(&home);
    drop(home);
    assert_eq!(tree(&world.open("a").0), before);
}

/// Random calls in a directory of its own, compared with a map.
fn work(home: &HomeFs, thread: u64) {
    let dir = mkdir(home, ROOT, &format!("t{thread}"));
    let mut model: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    for (step, random) in noise(1_500, thread + 1).chunks_exact(3).enumerate() {
        let (what, name, other) =
            (random[0] % 7, vec![b'a' + random[1] % 12], vec![b'a' + random[2] % 12]);
        let attr = home.lookup(dir, &name).map_err(|error| error.errno());
        assert_eq!(attr.is_ok(), model.contains_key(&name), "{thread} {step} {attr:?}");
        match (what, attr) {
            (0..=2, Err(_)) => {
                home.mknod(dir, &name, Kind::File, 0o644, ROOT_USER, 0).unwrap();
                model.insert(name, Vec::new());
            }
            (0..=3, Ok(attr)) => {
                let data = noise([300, 9_000, 17_000][usize::from(random[2] % 3)], step as u64);
                home.write(attr.ino, attr.size, &data).unwrap();
                model.get_mut(&name).unwrap().extend(data);
            }
            (4, Ok(_)) => {
                home.unlink(dir, &name).unwrap();
                model.remove(&name);
            }
            (5, Ok(_)) if name != other => {
                home.rename(dir, &name, dir, &other, RenameFlags::Replace).unwrap();
                let moved = model.remove(&name).unwrap();
                model.insert(other, moved);
            }
            (6, Ok(attr)) => assert!(content(home, attr.ino) == model[&name], "{thread} {step}"),
            _ => {
                let mut names: Vec<_> =
                    home.readdir(dir, 0, 100).unwrap().into_iter().map(|e| e.name).collect();
                let mut expected: Vec<_> = model.keys().cloned().collect();
                names.sort();
                expected.sort();
                assert_eq!(names, expected, "{thread} {step}");
            }
        }
    }
}

#[test]
fn a_home_is_opened_again_and_again_without_more_being_sent_than_changed() {
    let mut world = World::new();
    let (home, _) = world.open("a");
    for n in 0..300 {
        put(&home, &format!("f{n}"), &noise(3_000, n));
    }
    home.sync(None).unwrap();
    drop(home);
    world.store.take_stored();
    let before: u64 = world.keys("").iter().map(|object| object.size).sum();
    for round in 0..3 {
        let (home, _) = world.open("a");
        put(&home, "f7", &noise(3_000, 1_000 + round));
        home.sync(None).unwrap();
        assert!(try_get(&home, "f299").is_some());
        drop(home);
    }
    let after: u64 = world.keys("").iter().map(|object| object.size).sum();
    assert!(after - before < 300_000, "{} bytes for three small files", after - before);
    world.replicate_after = std::time::Duration::from_secs(1);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "f7"), noise(3_000, 1_002));
}
