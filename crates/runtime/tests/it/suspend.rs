//! A guest that is suspended goes on where it stood.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use runtime::{Error, Exit, Memory, Network, Qemu, QemuSettings, Runtime, Spec};

use crate::guest::{Guest, image, spec};

/// A spec with its memory in a file, and the same as it is after a suspend.
pub(crate) fn specs(spec: Spec, dir: &std::path::Path) -> (Spec, Spec) {
    let (file, state) = (dir.join("memory"), dir.join("devices"));
    let fresh = Spec { memory: Memory::File(file.clone()), ..spec };
    let saved = Spec { memory: Memory::Saved { file, state }, ..fresh.clone() };
    (fresh, saved)
}

/// Starts a process that counts in memory and on its disk; its number.
pub(crate) fn count(guest: &mut Guest) -> String {
    let counter = "(i=0; while :; do i=$((i+1)); echo $i >>/var/count; sleep 0.02; done) >/dev/null 2>&1 & echo $!";
    guest.shell(counter).1
}

pub(crate) fn counted(guest: &mut Guest) -> Vec<u64> {
    guest.shell("cat /var/count").1.lines().map(|line| line.parse().unwrap()).collect()
}

/// The same, once it is more than `before`: the first answer may come before it counts on.
pub(crate) fn counted_beyond(guest: &mut Guest, before: usize) -> Vec<u64> {
    let begun = Instant::now();
    loop {
        let counted = counted(guest);
        if counted.len() > before {
            return counted;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it stands still at {before}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_go_on_after_a_suspend() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (fresh, saved) = specs(spec(&image, dir.path(), Network::Isolated), dir.path());
    let state = dir.path().join("devices");
    let mut guest = Guest::start(&fresh).await;
    let pid = count(&mut guest);
    let mut before = 0;
    for round in 0..5 {
        let alive = guest.shell(&format!("tr '\\0' ' ' </proc/{pid}/stat | cut -d' ' -f1")).1;
        assert_eq!(alive, pid, "round {round}");
        let begun = Instant::now();
        guest.instance.suspend(&state).await.unwrap();
        let suspended = begun.elapsed();
        assert_eq!(guest.instance.wait().await, Exit::Suspended);
        drop(guest);
        // Neither may be open to anybody else while it rests.
        for file in [dir.path().join("memory"), state.clone()] {
            let meta = fs::metadata(file).unwrap();
            assert_eq!((meta.mode() & 0o777, meta.uid()), (0o600, 0));
        }
        let begun = Instant::now();
        guest = Guest::resume(&saved).await;
        let first = counted(&mut guest);
        eprintln!("suspended in {suspended:?}, first answer after {:?}", begun.elapsed());
        assert!(first.len() >= before, "lines are lost: {before}, {}", first.len());
        let counted = counted_beyond(&mut guest, before);
        assert!(counted.iter().copied().eq(1..=counted.len() as u64), "a gap: {counted:?}");
        before = counted.len();
    }
    let (code, said) = guest.shell("ls -d /sys/class/net/eth0 && cat /sys/block/vdb/ro");
    assert_eq!((code, said.as_str()), (0, "/sys/class/net/eth0\n0"));
    guest.send("poweroff");
    assert_eq!(guest.instance.wait().await, Exit::PoweredOff);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_loaded_and_given_up_can_go_on_later() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (fresh, saved) = specs(spec(&image, dir.path(), Network::Isolated), dir.path());
    let state = dir.path().join("devices");
    let mut guest = Guest::start(&fresh).await;
    count(&mut guest);
    guest.instance.suspend(&state).await.unwrap();
    drop(guest);
    let files = || {
        let memory = saved.memory.file().unwrap();
        let changed = [memory, &state, &saved.upper_image].map(|path| {
            let meta = fs::metadata(path).unwrap();
            (meta.len(), meta.mtime(), meta.mtime_nsec())
        });
        // What is mapped can be changed without a word of it in the times.
        (changed, base::Digest::of(&fs::read(memory).unwrap()))
    };
    let before = files();
    let qemu = Qemu::new(QemuSettings::default());
    for _ in 0..2 {
        let loaded = qemu.load(&saved).await.unwrap();
        // Long enough for a guest that runs to write something.
        tokio::time::sleep(Duration::from_millis(300)).await;
        tokio::task::spawn_blocking(move || drop(loaded)).await.unwrap();
        assert_eq!(files(), before);
    }
    let started = qemu.load(&saved).await.unwrap().go_on().await.unwrap();
    let mut guest = Guest::of(started, &saved);
    let counted = counted(&mut guest);
    assert!(counted.iter().copied().eq(1..=counted.len() as u64), "a gap: {counted:?}");
    let refused = qemu.load(&fresh).await.unwrap_err();
    assert!(matches!(refused, Error::Spec(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_suspended_while_it_works() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (fresh, saved) = specs(spec(&image, dir.path(), Network::None), dir.path());
    let state = dir.path().join("devices");
    let mut guest = Guest::start(&fresh).await;
    // Its disk has requests under way, and its processor is never idle.
    guest.shell(
        "(while :; do head -c 4000000 /dev/urandom >/var/load; sync; done) >/dev/null 2>&1 & \
         (while :; do :; done) >/dev/null 2>&1 & true",
    );
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        guest.instance.suspend(&state).await.unwrap();
        drop(guest);
        guest = Guest::resume(&saved).await;
        assert_eq!(guest.shell("echo here").1, "here");
    }
    assert_eq!(guest.shell("dmesg 2>/dev/null | grep -ci 'i/o error'").1, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_on_says_so_and_can_be_booted() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let plain = spec(&image, dir.path(), Network::None);
    let (fresh, saved) = specs(plain.clone(), dir.path());
    let state = dir.path().join("devices");
    let resume = async |spec: Spec| {
        let error = Qemu::new(QemuSettings::default()).start(&spec).await.unwrap_err();
        assert!(matches!(error, Error::Resume(_)), "{error}");
        error.to_string()
    };
    resume(saved.clone()).await;

    let guest = Guest::start(&plain).await;
    let error = guest.instance.suspend(&state).await.unwrap_err();
    assert!(matches!(error, Error::NotSuspended(_)), "{error}");
    drop(guest);

    let guest = Guest::start(&fresh).await;
    guest.instance.suspend(&state).await.unwrap();
    drop(guest);
    let whole = fs::read(&state).unwrap();
    let said = resume(Spec { memory_mib: 640, ..saved.clone() }).await;
    assert!(said.contains("640 MiB"), "{said}");
    for damaged in [&b""[..], &whole[..whole.len() / 2], &b"not a device state at all"[..]] {
        fs::write(&state, damaged).unwrap();
        resume(saved.clone()).await;
    }
    let mut flipped = whole.clone();
    flipped[8] ^= 0xff;
    fs::write(&state, &flipped).unwrap();
    resume(saved).await;

    let mut guest = Guest::start(&fresh).await;
    assert_eq!(guest.shell("echo booted").1, "booted");
}
