//! A store that is away for long, under load: nobody fails, what gathers here is bounded, and all of
//! it is stored in the end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::ErrorKind;
use homefs::{BackPressure, HomeFs};
use vfs::{Errno, FileSystem as _, ROOT};

use crate::support::{World, eventually, get, make, noise, put};

const MIB: u64 = 1 << 20;
const BOUND: u64 = 8 * MIB;
const PART: usize = 128 << 10;
const WRITERS: u64 = 4;

fn small_world() -> World {
    let mut world = World::new();
    world.unreplicated_bytes_max = BOUND;
    world.sync_patience = Duration::from_millis(300);
    world.release_patience = Duration::from_millis(300);
    world.replicate_after = Duration::from_millis(50);
    world
}

/// Bytes of all files of a directory, as the disk has them.
fn bytes_in(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, is)| if is.is_dir() { bytes_in(&path) } else { is.blocks() * 512 })
        .sum()
}

#[test]
fn writers_go_on_while_the_store_is_away_and_wait_at_the_bound_and_nothing_is_lost() {
    let world = small_world();
    let (home, _) = world.open("a");
    let (home, written) = (Arc::new(home), Arc::new(AtomicU64::new(0)));
    world.store.down.store(true, Ordering::SeqCst);
    let write = |n: u64| {
        let (home, written) = (home.clone(), written.clone());
        move || {
            // 32 parts of two files each, 32 MiB in all: four times the bound.
            for file in 0..2 {
                let ino = make(&*home, &format!("w{n}-{file}"));
                for part in 0..32 {
                    let data = noise(PART, n * 1_000 + file * 100 + part);
                    home.write(ino, part * PART as u64, &data).unwrap();
                    written.fetch_add(PART as u64, Ordering::SeqCst);
                }
            }
        }
    };
    let writers: Vec<_> = (0..WRITERS).map(|n| std::thread::spawn(write(n))).collect();
    eventually("all writers wait", || home.status().back_pressure == BackPressure::Waiting);
    world.store.take_calls();
    let (since, mut most) = (Instant::now(), 0);
    while since.elapsed() < Duration::from_secs(3) {
        most = most.max(bytes_in(&world.dir("a", "home")));
        std::thread::sleep(Duration::from_millis(100));
    }
    let went_on = written.load(Ordering::SeqCst);
    assert!(went_on >= BOUND, "they were stopped early: {went_on}");
    assert!(went_on <= BOUND + WRITERS * PART as u64, "they were not stopped: {went_on}");
    assert!(writers.iter().any(|writer| !writer.is_finished()));
    assert!(most <= 2 * BOUND + 2 * MIB, "local files took {most} bytes");
    let calls = world.store.take_calls();
    assert!((1..100).contains(&calls), "{calls} calls in three seconds");
    let status = home.status();
    assert!(status.replication_error.is_some() && status.rounds_failed > 0, "{status:?}");
    assert!(status.unreplicated_bytes <= went_on, "{status:?}");
    // Reading and what takes no room goes on.
    assert!(home.lookup(ROOT, b"w0-0").is_ok());
    let began = Instant::now();
    let error = home.sync(None).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Unavailable, Errno::ETIMEDOUT));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

    world.store.down.store(false, Ordering::SeqCst);
    for writer in writers {
        writer.join().unwrap();
    }
    home.sync(None).unwrap();
    let status = home.status();
    assert_eq!((status.unreplicated_bytes, status.back_pressure), (0, BackPressure::None));
    assert_eq!(status.replication_error, None);
    home.release().unwrap();
    drop(home);
    let (home, opened) = world.open("b");
    assert_eq!(opened.files_reverted, 0);
    for n in 0..WRITERS {
        for file in 0..2 {
            let expected: Vec<u8> =
                (0..32).flat_map(|part| noise(PART, n * 1_000 + file * 100 + part)).collect();
            assert_eq!(get(&home, &format!("w{n}-{file}")), expected, "{n} {file}");
        }
    }
}

/// A home at its bound, and the thread of a writer that waits there.
fn waiting(world: &World) -> (Arc<HomeFs>, std::thread::JoinHandle<vfs::Result<()>>) {
    let home = Arc::new(world.open("a").0);
    world.store.down.store(true, Ordering::SeqCst);
    let writer = std::thread::spawn({
        let home = home.clone();
        move || {
            let ino = make(&*home, "f");
            (0..64).try_for_each(|n| home.write(ino, n * MIB, &noise(MIB as usize, n)))
        }
    });
    eventually("the writer waits", || home.status().back_pressure == BackPressure::Waiting);
    (home, writer)
}

#[test]
fn whoever_waits_is_let_go_when_the_home_is_closed() {
    let world = small_world();
    let (home, writer) = waiting(&world);
    let began = Instant::now();
    home.stop();
    assert!(writer.join().unwrap().is_err());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(home);
    world.store.down.store(false, Ordering::SeqCst);
    let (home, _) = world.open("a");
    for n in 0..6 {
        let ino = home.lookup(ROOT, b"f").unwrap().ino;
        assert_eq!(home.read(ino, n * MIB, 1 << 20).unwrap(), noise(MIB as usize, n)[..]);
    }
    home.release().unwrap();
}

#[test]
fn a_release_without_the_store_says_so_and_can_be_made_again() {
    let world = small_world();
    let (home, writer) = waiting(&world);
    let error = home.release().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(writer.join().unwrap().unwrap_err().errno(), Errno::EROFS);
    world.store.down.store(false, Ordering::SeqCst);
    home.release().unwrap();
    drop(home);
    let (home, _) = world.open("b");
    let ino = home.lookup(ROOT, b"f").unwrap().ino;
    assert_eq!(home.read(ino, 5 * MIB, 1 << 20).unwrap(), noise(MIB as usize, 5)[..]);
}

#[test]
fn a_sync_waits_for_the_store_to_come_back_and_a_snapshot_does_not() {
    let mut world = small_world();
    world.sync_patience = homefs::SYNC_PATIENCE;
    let home = Arc::new(world.open("a").0);
    let ino = put(&*home, "f", b"before");
    home.sync(Some(ino)).unwrap();
    world.store.down.store(true, Ordering::SeqCst);
    home.write(ino, 0, b"within").unwrap();
    let waiting = std::thread::spawn({
        let home = home.clone();
        move || home.sync(Some(ino))
    });
    eventually("the store is known to be away", || home.status().rounds_failed > 2);
    let error = home.snapshot(&base::SnapshotId::generate(), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!waiting.is_finished());
    world.store.down.store(false, Ordering::SeqCst);
    waiting.join().unwrap().unwrap();
    let zombie = home;
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "f"), b"within");
    drop(zombie);
}

#[test]
fn what_has_no_name_holds_up_nobody() {
    let world = small_world();
    let (home, _) = world.open("a");
    let ino = put(&home, "open", b"x");
    home.pin(ino);
    home.unlink(ROOT, b"open").unwrap();
    for n in 0..20 {
        home.write(ino, n * MIB, &noise(MIB as usize, n)).unwrap();
    }
    assert_eq!(home.status().unreplicated_bytes, 0);
    home.unpin(ino);
}

#[test]
fn what_was_stored_before_the_store_went_away_is_not_stored_again() {
    let mut world = small_world();
    world.unreplicated_bytes_max = 64 * MIB;
    let (home, _) = world.open("a");
    let whole = noise(24 << 20, 1);
    world.store.take_stored();
    world.store.chunks_let_in.store(4, Ordering::SeqCst);
    put(&home, "f", &whole);
    home.sync(None).unwrap_err();
    let stored = || world.store.stored_bytes.load(Ordering::SeqCst);
    let failed = home.status().rounds_failed;
    eventually("rounds fail", || home.status().rounds_failed >= failed + 2);
    assert!((12 * MIB..13 * MIB).contains(&stored()), "{}", stored());
    world.store.chunks_let_in.store(0, Ordering::SeqCst);
    eventually("the rest gets through", || home.sync(None).is_ok());
    assert!((24 * MIB..25 * MIB).contains(&stored()), "{}", stored());
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "f"), whole);
}
