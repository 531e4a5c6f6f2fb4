//! What needs a real mount and a file system that waits. Skipped without root and `/dev/fuse`, as
//! in `tests/it`.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use crate::Config;
use crate::testing::{GATED, Gated, memfs};

const PATIENCE: Duration = Duration::from_secs(30);

/// `None`, with a word about it, where this host cannot mount.
fn mounted(threads: Threads) -> Option<(Arc<Gated>, Mount, tempfile::TempDir)> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot mount here");
        eprintln!("skipped: it needs root and /dev/fuse");
        return None;
    }
    let fs = Arc::new(Gated::new(memfs()));
    let session = Arc::new(Session::new(fs.clone(), Config::default()));
    let dir = tempfile::Builder::new().prefix("dormouse-fuse-").tempdir().unwrap();
    let options = MountOptions { threads, ..MountOptions::default() };
    let mount = Mount::new(session, dir.path(), &options).unwrap();
    Some((fs, mount, dir))
}

#[test]
fn a_lookup_that_waits_holds_up_no_other_program() {
    let Some((fs, mount, dir)) = mounted(Threads::default()) else { return };
    let (gated, beside) = (dir.path().join(GATED), dir.path().join("beside"));
    fs::create_dir(&beside).unwrap();
    let gate = fs.lookups.lock();
    let waiting = std::thread::spawn(move || fs::metadata(gated).is_err());
    for i in 0..200 {
        let file = beside.join(i.to_string());
        fs::write(&file, b"content").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"content");
        fs::remove_file(&file).unwrap();
    }
    assert!(!waiting.is_finished());
    drop(gate);
    assert!(waiting.join().unwrap(), "the name does not exist");
    drop(mount);
}

#[test]
fn many_programs_work_beside_each_other_and_wait_now_and_then() {
    let Some((fs, mount, dir)) = mounted(Threads::default()) else { return };
    let files = |program: u32| {
        let own = dir.path().join(format!("program-{program}"));
        fs::create_dir(&own).unwrap();
        for i in 0..300_u32 {
            let file = own.join(i.to_string());
            let content = vec![u8::try_from(i % 251).unwrap(); 1 + (i as usize * 4099) % 300_000];
            fs::write(&file, &content).unwrap();
            assert!(fs::metadata(own.join(GATED)).is_err());
            assert!(fs::read(&file).unwrap() == content, "{}", file.display());
            fs::remove_file(&file).unwrap();
        }
        fs::remove_dir(&own).unwrap();
    };
    std::thread::scope(|scope| {
        let programs: Vec<_> = (0..8).map(|program| scope.spawn(move || files(program))).collect();
        while programs.iter().any(|program| !program.is_finished()) {
            let gate = fs.lookups.lock();
            std::thread::sleep(Duration::from_millis(4));
            drop(gate);
            std::thread::sleep(Duration::from_millis(4));
        }
    });
    drop(mount);
}

#[test]
fn a_mount_ends_while_its_leader_looks_for_more() {
    let Some((_fs, mount, dir)) = mounted(Threads::default()) else { return };
    let (file, ended) = (dir.path().join("file"), Arc::new(AtomicBool::new(false)));
    let until = ended.clone();
    let busy = std::thread::spawn(move || {
        // Once the mount is gone this fails, or goes on in the directory below it.
        while !until.load(Ordering::SeqCst) && fs::write(&file, b"x").is_ok() {}
    });
    std::thread::sleep(Duration::from_millis(100));
    let before = Instant::now();
    drop(mount);
    assert!(before.elapsed() < PATIENCE);
    ended.store(true, Ordering::SeqCst);
    busy.join().unwrap();
}
