//! What survives which loss.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{ErrorKind, SnapshotId};
use homefs::{HomeFs, HomeSettings, Recovery, SyncMode};
use vfs::{FileSystem as _, Graft, Kind, ROOT, RenameFlags, SetAttr};

use crate::support::{ROOT_USER, World, eventually, get, noise, put, try_get, upload};

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let world = World::new();
    let (home, _) = world.open("a");
    for n in 0..300 {
        upload(&home, &format!("d{}/f{n}", n % 7), &noise(3_000 + n * 200, n as u64));
    }
    drop(home);
    let (home, opened) = world.open("a");
    assert_eq!(opened.recovery, Recovery::LocalContinued);
    for n in 0..300 {
        assert_eq!(get(&home, &format!("d{}/f{n}", n % 7)), noise(3_000 + n * 200, n as u64));
    }
    home.release().unwrap();
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "d1/f1"), noise(3_200, 1));
    assert_eq!(get(&home, "d5/f299"), noise(3_000 + 299 * 200, 299));
}

#[test]
fn a_lost_host_loses_nothing_that_was_synced() {
    let world = World::new();
    let (home, _) = world.open("a");
    let small = put(&home, "small", b"hello");
    let packed = put(&home, "packed", &noise(100_000, 1));
    home.sync(Some(packed)).unwrap();
    home.sync(Some(small)).unwrap();
    put(&home, "later", b"not synced");
    drop(home);
    let (home, opened) = world.open("b");
    assert_eq!(opened.recovery, Recovery::FromStore { lost_local: false });
    assert_eq!(get(&home, "small"), b"hello");
    assert_eq!(get(&home, "packed"), noise(100_000, 1));
    assert_eq!(try_get(&home, "later"), None);
}

#[test]
fn a_file_that_cannot_be_stored_is_named_and_goes_with_its_removal() {
    let mut world = World::new();
    world.sync_patience = Duration::from_millis(300);
    let (home, _) = world.open("a");
    let fine = put(&home, "fine", b"fine");
    put(&home, "target", b"old");
    let broken = put(&home, "draft", &noise(300_000, 1));
    let mut lost = 0;
    for entry in std::fs::read_dir(world.dir("a", "home").join("spool")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with(&format!("{broken}-")) {
            std::fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap();
            lost += 1;
        }
    }
    assert_eq!(lost, 1);
    // It takes its name whole, so whatever is stored from here on has to have it.
    home.rename(ROOT, b"draft", ROOT, b"target", RenameFlags::Replace).unwrap();
    let error = home.sync(Some(fine)).unwrap_err().to_string();
    assert!(error.contains(&format!("inode {broken}")) && error.contains("delete"), "{error}");
    home.unlink(ROOT, b"target").unwrap();
    eventually("the others are stored", || home.sync(Some(fine)).is_ok());
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "fine"), b"fine");
}

#[test]
fn a_local_sync_waits_for_no_store() {
    let world = World::new();
    let dir = world.dir("a", "home");
    let local = || HomeSettings { sync: SyncMode::Local, ..world.settings(&dir) };
    let (home, _) = HomeFs::open_writer(local(), world.parts()).unwrap();
    let ino = put(&home, "f", &noise(100_000, 1));
    world.store.down.store(true, Ordering::SeqCst);
    world.store.take_calls();
    home.sync(Some(ino)).unwrap();
    home.sync(None).unwrap();
    assert_eq!(world.store.take_calls(), 0, "the store was asked for something");
    drop(home);
    // The process is gone, the disk is not.
    world.store.down.store(false, Ordering::SeqCst);
    let (home, opened) = HomeFs::open_writer(local(), world.parts()).unwrap();
    assert_eq!(opened.recovery, Recovery::LocalContinued);
    assert_eq!(get(&home, "f"), noise(100_000, 1));
    // Sleep is what it always is.
    home.release().unwrap();
    drop(home);
    assert_eq!(get(&world.open("b").0, "f"), noise(100_000, 1));
}

#[test]
fn a_file_that_was_dirty_when_its_host_was_lost_is_as_it_was_synced() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = put(&home, "f", &noise(50_000, 1));
    home.sync(Some(ino)).unwrap();
    let other = put(&home, "other", b"x");
    // Dirty bytes of `f` do not go with the sync of `other`, its metadata do.
    home.write(ino, 40_000, &noise(50_000, 2)).unwrap();
    home.sync(Some(other)).unwrap();
    assert_eq!(get(&world.snapshot("c"), "f"), noise(50_000, 1));
    drop(home);
    let (home, opened) = world.open("b");
    assert_eq!(opened.files_reverted, 1);
    assert_eq!(get(&home, "f"), noise(50_000, 1));
    assert_eq!(home.statfs().unwrap().bytes_used, 50_001);
}

#[test]
fn a_file_that_took_its_name_whole_is_not_stored_without_its_content() {
    for size in [20_000, 200_000, 5_000_000] {
        let world = World::new();
        let (home, _) = world.open("a");
        for name in ["placed", "renamed", "merged"] {
            upload(&home, name, b"old");
        }
        let other = put(&home, "other", b"x");
        home.sync(None).unwrap();
        upload(&home, "placed", &noise(size, 1));
        put(&home, "temporary", &noise(size, 2));
        home.rename(ROOT, b"temporary", ROOT, b"renamed", RenameFlags::Replace).unwrap();
        let from = home.create_detached(Kind::Directory, 0o755, ROOT_USER).unwrap().ino;
        let file = home.mknod(from, b"merged", Kind::File, 0o644, ROOT_USER, 0).unwrap().ino;
        for (n, part) in noise(size, 3).chunks(1 << 20).enumerate() {
            home.write(file, (n << 20) as u64, part).unwrap();
        }
        let graft = Graft { from, into: ROOT, removals: &[], implicit: &[from], expect: None };
        home.graft(&graft).unwrap();
        // Somebody else's sync takes all names along.
        home.write(other, 0, b"y").unwrap();
        home.sync(Some(other)).unwrap();
        drop(home);
        let (home, _) = world.open("b");
        for (seed, name) in [(1, "placed"), (2, "renamed"), (3, "merged")] {
            assert!(get(&home, name) == noise(size, seed), "{name}, {size} bytes");
        }
    }
}

#[test]
fn uploads_without_a_pause_are_stored_whole_by_every_sync_beside_them() {
    let world = World::new();
    let (home, _) = world.open("a");
    let other = put(&home, "other", b"x");
    home.sync(None).unwrap();
    let (done, home) = (AtomicBool::new(false), &home);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let done = &done;
            scope.spawn(move || {
                for n in 0.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    upload(home, &format!("f{writer}"), &noise(60_000 + n as usize, n));
                }
            });
        }
        // Also where a check fails: the scope waits for the writers.
        let _stop = StopAtEnd(&done);
        let snapshot = world.snapshot("c");
        let mut seen = 0;
        for n in 0..60_u64 {
            home.write(other, 0, &n.to_le_bytes()).unwrap();
            home.sync(Some(other)).unwrap();
            snapshot.refresh().unwrap();
            for writer in 0..3 {
                let Some(data) = try_get(&snapshot, &format!("f{writer}")) else { continue };
                let n = data.len().checked_sub(60_000).expect("not all of it is there");
                assert!(data == noise(60_000 + n, n as u64), "another content");
                seen += 1;
            }
        }
        assert!(seen > 0, "nothing was stored");
    });
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn one_sync_is_one_request_to_the_store() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = put(&home, "f", &noise(50_000, 1));
    home.sync(Some(ino)).unwrap();
    world.store.take_calls();
    world.store.take_stored();
    home.write(ino, 10, b"changed").unwrap();
    home.sync(Some(ino)).unwrap();
    assert_eq!((world.store.take_calls(), world.store.take_stored()), (1, 1), "one PUT");
    home.write(ino, 0, &noise(1_900_000, 2)).unwrap();
    home.sync(Some(ino)).unwrap();
    assert_eq!((world.store.take_calls(), world.store.take_stored()), (1, 1), "one PUT");
    home.sync(Some(ino)).unwrap();
    assert_eq!(world.store.take_calls(), 0, "nothing changed since");
}

#[test]
fn callers_that_sync_at_once_share_requests() {
    let world = World::new();
    let (home, _) = world.open("a");
    let inodes: Vec<_> = (0..32).map(|n| put(&home, &format!("f{n}"), b"x")).collect();
    home.sync(None).unwrap();
    world.store.take_calls();
    world.store.take_stored();
    let barrier = std::sync::Barrier::new(inodes.len());
    std::thread::scope(|scope| {
        for ino in inodes {
            let (home, barrier) = (&home, &barrier);
            scope.spawn(move || {
                home.write(ino, 0, b"y").unwrap();
                barrier.wait();
                home.sync(Some(ino)).unwrap();
            });
        }
    });
    // The first to come has a round of its own, the others share those that follow.
    let calls = world.store.take_calls();
    assert!((1..=8).contains(&calls), "{calls} requests for 32 callers");
    assert_eq!(world.store.take_stored(), calls, "PUTs only");
}

#[test]
fn a_database_that_syncs_every_commit_uploads_little_more_than_it_writes() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = put(&home, "db-wal", b"");
    home.sync(Some(ino)).unwrap();
    world.store.take_stored();
    // As SQLite's log is written: appended to, and begun anew after a thousand pages.
    let (mut at, mut written) = (0, 0);
    for n in 0..400_u64 {
        let pages = 1 + n % 3;
        let bytes = noise(usize::try_from(pages * 4_120).unwrap(), n);
        at = if at > 1_000_000 { 0 } else { at };
        home.write(ino, at, &bytes).unwrap();
        home.sync(Some(ino)).unwrap();
        at += bytes.len() as u64;
        written += bytes.len() as u64;
    }
    let uploaded = world.store.stored_bytes.load(Ordering::SeqCst);
    let puts = world.store.take_stored();
    println!("{puts} PUTs and {uploaded} bytes for 400 commits of {written} bytes");
    assert!(uploaded <= 3 * written, "{uploaded} bytes were stored for {written}");
    // A base now and then is all there is besides.
    assert!(puts <= 400 + 2 * 400 / 64, "{puts}");
}

#[test]
fn changes_are_replicated_without_being_asked() {
    let mut world = World::new();
    world.replicate_after = Duration::from_millis(50);
    let (home, _) = world.open("a");
    put(&home, "f", &noise(100_000, 1));
    put(&home, "g", b"small");
    eventually("all is replicated", || {
        let status = home.status();
        status.unreplicated_ops == 0 && status.unreplicated_bytes == 0
    });
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "f"), noise(100_000, 1));
    assert_eq!(get(&home, "g"), b"small");
}

#[test]
fn local_work_goes_on_while_the_store_is_away_and_drains_after() {
    let mut world = World::new();
    world.replicate_after = Duration::from_millis(20);
    let (home, _) = world.open("a");
    world.store.down.store(true, Ordering::SeqCst);
    for n in 0..50 {
        upload(&home, &format!("f{n}"), &noise(20_000, n));
    }
    eventually("the status says why", || home.status().replication_error.is_some());
    assert!(home.status().unreplicated_ops > 0);
    world.store.down.store(false, Ordering::SeqCst);
    eventually("it drained", || {
        let status = home.status();
        status.unreplicated_bytes == 0 && status.replication_error.is_none()
    });
    home.sync(None).unwrap();
    drop(home);
    let (home, _) = world.open("b");
    for n in 0..50 {
        assert_eq!(get(&home, &format!("f{n}")), noise(20_000, n));
    }
}

#[test]
fn a_lost_reply_is_settled_and_nothing_is_written_twice() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = put(&home, "f", &noise(60_000, 1));
    world.store.lose_replies.store(2, Ordering::SeqCst);
    home.sync(Some(ino)).unwrap();
    home.write(ino, 0, b"more").unwrap();
    home.sync(Some(ino)).unwrap();
    let released = home.release().unwrap();
    drop(home);
    let (home, opened) = world.open("b");
    assert_eq!(opened.seq, released.seq + 1);
    assert_eq!(&get(&home, "f")[..4], b"more");
}

#[test]
fn an_old_directory_whose_note_is_older_still_is_not_gone_on_from() {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "f", &noise(100_000, 1));
    home.release().unwrap();
    drop(home);
    let (id, parts) = (SnapshotId::generate(), world.parts());
    world.block_on(homefs::snapshot(&parts, &world.home, &id, None)).unwrap();
    let note = world.dir("a", "home").join("replica.json");
    let older = std::fs::read(&note).unwrap();
    let (home, _) = world.open("a");
    put(&home, "f", &noise(100_000, 2));
    home.release().unwrap();
    drop(home);
    // Killed after the newer database had its name and before that was noted.
    std::fs::write(&note, older).unwrap();
    world.block_on(homefs::restore(&parts, &world.home, &id, &world.server)).unwrap();
    let (home, _) = world.open("a");
    assert_eq!(get(&home, "f"), noise(100_000, 1));
}

#[test]
fn a_release_whose_reply_is_lost_is_a_release() {
    for lost in [1, 2] {
        let world = World::new();
        let (home, _) = world.open("a");
        put(&home, "f", &noise(60_000, 1));
        home.sync(None).unwrap();
        put(&home, "late", b"late");
        world.store.lose_replies.store(lost, Ordering::SeqCst);
        let released = home.release().unwrap();
        assert!(home.status().released);
        assert_eq!(home.release().unwrap(), released);
        drop(home);
        let (home, opened) = world.open("a");
        assert_eq!((opened.recovery, opened.seq), (Recovery::Clean, released.seq + 1), "{lost}");
        assert_eq!(get(&home, "late"), b"late");
    }
}

#[test]
fn a_release_that_was_made_after_its_caller_gave_up_is_found_by_the_next_call() {
    let mut world = World::new();
    world.release_patience = Duration::ZERO;
    world.replicate_after = Duration::from_millis(10);
    let (home, _) = world.open("a");
    put(&home, "f", b"x");
    world.store.lose_replies.store(1, Ordering::SeqCst);
    assert_eq!(home.release().unwrap_err().kind(), ErrorKind::Unavailable);
    eventually("it is settled", || home.status().released);
    let released = home.release().unwrap();
    drop(home);
    let (home, opened) = world.open("a");
    assert_eq!((opened.recovery, opened.seq), (Recovery::Clean, released.seq + 1));
    assert_eq!(get(&home, "f"), b"x");
}

#[test]
fn a_released_home_opens_again_without_a_download() {
    let world = World::new();
    let (home, _) = world.open("a");
    upload(&home, "deep/inside/f", &noise(500_000, 1));
    put(&home, "small", b"hello");
    let released = home.release().unwrap();
    assert_eq!(get(&home, "small"), b"hello", "reads go on");
    assert!(home.write(2, 0, b"no").is_err());
    assert_eq!(home.release().unwrap(), released);
    drop(home);
    world.store.take_got();
    let (home, opened) = world.open("a");
    assert_eq!(opened.recovery, Recovery::Clean);
    assert_eq!(get(&home, "deep/inside/f"), noise(500_000, 1));
    let (_, bytes) = world.store.take_got();
    assert!(bytes < 64 << 10, "{bytes} bytes were fetched");
    assert_eq!(home.statfs().unwrap().inodes_used, 5);
}

#[test]
fn an_old_directory_is_brought_up_to_date() {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "one", b"1");
    home.release().unwrap();
    drop(home);
    let (home, _) = world.open("b");
    put(&home, "two", &noise(100_000, 2));
    home.release().unwrap();
    drop(home);
    let (home, opened) = world.open("a");
    assert_eq!(opened.recovery, Recovery::FromStore { lost_local: false });
    assert_eq!(get(&home, "one"), b"1");
    assert_eq!(get(&home, "two"), noise(100_000, 2));
}

#[test]
fn what_was_unlinked_while_held_is_gone_after_a_restart() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = put(&home, "f", &noise(100_000, 1));
    home.pin(ino);
    home.unlink(ROOT, b"f").unwrap();
    assert_eq!(home.getattr(ino).unwrap().nlink, 0);
    assert_eq!(home.read(ino, 0, 10).unwrap().len(), 10);
    home.sync(None).unwrap();
    drop(home);
    let (home, _) = world.open("a");
    assert!(home.getattr(ino).is_err());
    assert_eq!(home.statfs().unwrap().bytes_used, 0);
    assert_eq!(home.statfs().unwrap().inodes_used, 1);
}

#[test]
fn a_home_whose_packs_were_never_stored_is_refused() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = put(&home, "f", &noise(300_000, 1));
    world.store.down.store(true, Ordering::SeqCst);
    // Sealed, but it cannot be stored; nobody waits for it.
    let home = std::sync::Arc::new(home);
    let waiting = {
        let home = home.clone();
        std::thread::spawn(move || home.sync(Some(ino)))
    };
    let packs = world.dir("a", "home").join("packs");
    eventually("it is sealed", || {
        std::fs::read_dir(&packs).is_ok_and(|mut entries| entries.next().is_some())
            && home.status().replication_error.is_some()
    });
    home.stop();
    waiting.join().unwrap().unwrap_err();
    drop(home);
    world.store.down.store(false, Ordering::SeqCst);
    std::fs::remove_dir_all(&packs).unwrap();
    let error = world.try_open("a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("unsealed pack left behind"), "{error}");
}

#[test]
fn a_crash_between_sealing_and_the_store_loses_nothing() {
    let world = World::new();
    let (home, _) = world.open("a");
    let small = put(&home, "rider", &noise(30_000, 1));
    world.store.down.store(true, Ordering::SeqCst);
    let home = std::sync::Arc::new(home);
    let waiting = {
        let home = home.clone();
        std::thread::spawn(move || home.sync(Some(small)))
    };
    eventually("a round failed", || home.status().replication_error.is_some());
    home.stop();
    waiting.join().unwrap().unwrap_err();
    drop(home);
    world.store.down.store(false, Ordering::SeqCst);
    // The claim takes the number that the commit with the small pack would have had.
    let (home, opened) = world.open("a");
    assert_eq!(opened.recovery, Recovery::LocalContinued);
    assert_eq!(get(&home, "rider"), noise(30_000, 1));
    home.release().unwrap();
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "rider"), noise(30_000, 1));
}

#[test]
fn many_commits_are_read_back_through_bases() {
    let world = World::new();
    let (home, _) = world.open("a");
    for n in 0..150 {
        put(&home, &format!("f{n}"), &noise(500, n));
        home.sync(None).unwrap();
    }
    eventually("a base was written", || !world.keys("base/").is_empty());
    let ino = home.lookup(ROOT, b"f3").unwrap().ino;
    home.setattr(ino, &SetAttr { size: Some(10), ..SetAttr::default() }).unwrap();
    home.sync(None).unwrap();
    drop(home);
    let (home, _) = world.open("b");
    for n in 0..150 {
        let len = if n == 3 { 10 } else { 500 };
        assert_eq!(get(&home, &format!("f{n}")), noise(500, n)[..len]);
    }
}

#[test]
fn a_home_at_rest_writes_nothing_to_the_store() {
    let mut world = World::new();
    world.replicate_after = Duration::from_millis(10);
    let (home, _) = world.open("a");
    put(&home, "f", &noise(100_000, 1));
    home.sync(None).unwrap();
    eventually("it came to rest", || home.status().unreplicated_ops == 0);
    world.store.take_stored();
    std::thread::sleep(Duration::from_millis(4_500));
    assert_eq!(world.store.take_stored(), 0);
}

#[test]
fn a_home_can_be_stopped_while_the_store_does_not_answer() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = put(&home, "f", &noise(100_000, 1));
    world.store.hangs.store(true, Ordering::SeqCst);
    let home = std::sync::Arc::new(home);
    let waiting = {
        let home = home.clone();
        std::thread::spawn(move || home.sync(Some(ino)))
    };
    let packs = world.dir("a", "home").join("packs");
    eventually("the round began", || {
        std::fs::read_dir(&packs).is_ok_and(|mut entries| entries.next().is_some())
    });
    home.stop();
    waiting.join().unwrap().unwrap_err();
    drop(home);
    world.store.hangs.store(false, Ordering::SeqCst);
    assert_eq!(get(&world.open("a").0, "f"), noise(100_000, 1));
}

#[test]
fn an_outage_does_not_make_the_local_log_grow_without_end() {
    let mut world = World::new();
    world.replicate_after = Duration::from_millis(10);
    let (home, _) = world.open("a");
    put(&home, "f", b"x");
    world.store.lose_replies.store(1, Ordering::SeqCst);
    world.store.down.store(true, Ordering::SeqCst);
    eventually("a round failed", || home.status().replication_error.is_some());
    let ino = put(&home, "g", b"x");
    for n in 0..12_000_u64 {
        home.write(ino, n % 16_000, &n.to_le_bytes()).unwrap();
    }
    let log = world.dir("a", "home").join("home.db-wal");
    let bytes = std::fs::metadata(log).unwrap().len();
    assert!(bytes < 64 << 20, "{bytes}");
}
