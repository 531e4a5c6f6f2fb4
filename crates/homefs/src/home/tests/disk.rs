//! A local disk that fails: what is said then, and what is there afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vfs::{Errno, Expect, FileSystem, Ino, Kind, NewFile, Owner, ROOT};

use super::World;
use crate::{HomeFs, HomeSettings};

const OWNER: Owner = Owner { uid: 1, gid: 1 };

fn make(fs: &HomeFs, name: &str) -> vfs::Result<Ino> {
    fs.mknod(ROOT, name.as_bytes(), Kind::File, 0o644, OWNER, 0).map(|attr| attr.ino)
}

fn put(fs: &HomeFs, name: &str) -> vfs::Result<()> {
    let file = NewFile { perm: 0o644, owner: OWNER, content: b"put" };
    fs.put_file(ROOT, &[name.as_bytes()], &file, Expect::Any).map(drop)
}

#[test]
fn after_a_sync_that_failed_nothing_is_confirmed_until_the_home_is_opened_again() {
    let world = World::new();
    let fs = world.open();
    let kept = make(&fs, "kept").unwrap();
    fs.write(kept, 0, b"kept").unwrap();
    fs.sync_local().unwrap();

    let faults = fs.engine.writer.faults();
    make(&fs, "doubtful").unwrap();
    faults.sync_fails.store(true, Ordering::SeqCst);
    assert_eq!(fs.sync_local().unwrap_err().errno(), Errno::EIO);
    // The disk works again, and what the kernel dropped in between is still lost.
    faults.sync_fails.store(false, Ordering::SeqCst);
    make(&fs, "later").unwrap();
    assert_eq!(fs.sync_local().unwrap_err().errno(), Errno::EIO);

    drop(fs);
    let fs = world.open();
    assert_eq!(&fs.read(kept, 0, 10).unwrap()[..], b"kept");
    make(&fs, "new").unwrap();
    fs.sync_local().unwrap();
}

#[test]
fn nor_is_it_confirmed_by_way_of_the_store() {
    let world = World::new();
    let fs = Arc::new(world.open());
    let ino = make(&fs, "doubtful").unwrap();
    fs.engine.writer.faults().sync_fails.store(true, Ordering::SeqCst);
    fs.sync_local().unwrap_err();
    fs.engine.writer.faults().sync_fails.store(false, Ordering::SeqCst);
    // It waits for a round that succeeds, for long; here, until this process ends.
    let (answer, answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || answer.send(fs.sync(Some(ino)).is_ok()));
    assert_ne!(answered.recv_timeout(Duration::from_secs(2)), Ok(true));
}

#[test]
fn a_full_disk_refuses_changes_whole_and_takes_them_again_once_there_is_room() {
    let world = World::new();
    let fs = world.open();
    let kept = make(&fs, "kept").unwrap();
    fs.write(kept, 0, b"before").unwrap();
    let used = fs.statfs().unwrap();

    let faults = fs.engine.writer.faults();
    faults.full.store(true, Ordering::SeqCst);
    let refused = make(&fs, "refused").unwrap_err();
    assert_eq!(refused.errno(), Errno::ENOSPC);
    assert!(refused.to_string().contains("no space left"), "{refused}");
    assert_eq!(put(&fs, "put").unwrap_err().errno(), Errno::ENOSPC);
    assert_eq!(fs.write(kept, 3, b"changed").unwrap_err().errno(), Errno::ENOSPC);
    // Larger than what is inline: its bytes reach the spool and no row names them.
    assert_eq!(fs.write(kept, 0, &[9; 40_000]).unwrap_err().errno(), Errno::ENOSPC);
    assert_eq!(fs.unlink(ROOT, b"kept").unwrap_err().errno(), Errno::ENOSPC);

    let unchanged = |fs: &HomeFs| {
        assert_eq!(fs.lookup(ROOT, b"refused").unwrap_err().errno(), Errno::ENOENT);
        assert_eq!(fs.lookup(ROOT, b"put").unwrap_err().errno(), Errno::ENOENT);
        assert_eq!(fs.lookup(ROOT, b"kept").unwrap().ino, kept);
        assert_eq!(&fs.read(kept, 0, 100).unwrap()[..], b"before");
        let now = fs.statfs().unwrap();
        assert_eq!((now.bytes_used, now.inodes_used), (used.bytes_used, used.inodes_used));
    };
    unchanged(&fs);
    // A crash now: half records are not taken for whole ones.
    drop(fs);
    let fs = world.open();
    unchanged(&fs);

    let faults = fs.engine.writer.faults();
    faults.full.store(true, Ordering::SeqCst);
    make(&fs, "again").unwrap_err();
    faults.full.store(false, Ordering::SeqCst);
    make(&fs, "again").unwrap();
    fs.write(kept, 0, &[9; 40_000]).unwrap();
    fs.sync_local().unwrap();
    drop(fs);
    let fs = world.open();
    assert_eq!(fs.lookup(ROOT, b"again").unwrap().nlink, 1);
    assert_eq!(fs.read(kept, 0, 50_000).unwrap().len(), 40_000);
}

#[test]
fn a_release_that_fails_on_this_disk_alone_can_be_made_again() {
    let world = World::new();
    let fs = world.open();
    put(&fs, "kept").unwrap();
    fs.sync_local().unwrap();
    // The store gets everything; what remains is to leave this directory in order.
    let journal = world.disk.path().join("home/journal");
    std::fs::remove_dir_all(&journal).unwrap();
    fs.release().unwrap_err();
    assert!(fs.status().released);
    std::fs::create_dir(&journal).unwrap();
    let released = fs.release().unwrap();
    drop(fs);
    let dir = world.disk.path().join("home");
    let settings = HomeSettings::new(world.home.clone(), dir, world.server.clone());
    let (_fs, opened) = HomeFs::open_writer(settings, world.parts.clone()).unwrap();
    assert_eq!((opened.recovery, opened.seq), (crate::Recovery::Clean, released.seq + 1));
}

#[test]
fn a_transaction_for_which_there_is_no_space_is_not_made() {
    let world = World::new();
    let fs = world.open();
    let ino = make(&fs, "f").unwrap();
    let set = |fs: &HomeFs, name: &[u8]| fs.setxattr(ino, name, b"value", vfs::XattrMode::Any);
    set(&fs, b"user.before").unwrap();
    let faults = fs.engine.writer.faults();
    faults.full.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(set(&fs, b"user.refused").unwrap_err().errno(), Errno::ENOSPC);
        assert_eq!(fs.listxattr(ino).unwrap(), [b"user.before"]);
    }
    // Reads of what is not in memory went on, and so does everything once there is room.
    faults.full.store(false, Ordering::SeqCst);
    make(&fs, "later").unwrap();
    set(&fs, b"user.later").unwrap();
    fs.sync_local().unwrap();
    drop(fs);
    let fs = world.open();
    assert_eq!(fs.listxattr(ino).unwrap(), [&b"user.before"[..], b"user.later"]);
    assert!(fs.lookup(ROOT, b"later").is_ok());
}

#[test]
fn what_loses_its_last_name_and_its_last_holder_at_once_is_freed() {
    const ROUNDS: u64 = 1_000;
    let world = World::new();
    let fs = world.open();
    let used = fs.statfs().unwrap().inodes_used;
    let (held, let_go) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=ROUNDS {
                let ino = loop {
                    match held.swap(0, Ordering::SeqCst) {
                        0 => std::thread::yield_now(),
                        ino => break ino,
                    }
                };
                // Now sooner, now later, so that it comes at every moment of the other.
                (0..n % 512).for_each(|_| std::hint::spin_loop());
                fs.unpin(ino);
                let_go.store(n, Ordering::SeqCst);
            }
        });
        for n in 1..=ROUNDS {
            let ino = make(&fs, "f").unwrap();
            fs.pin(ino);
            held.store(ino, Ordering::SeqCst);
            fs.unlink(ROOT, b"f").unwrap();
            while let_go.load(Ordering::SeqCst) < n {
                std::thread::yield_now();
            }
        }
    });
    assert_eq!(fs.statfs().unwrap().inodes_used, used);
}
