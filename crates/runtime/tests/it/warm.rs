//! A guest that is warm goes on in the process that it was in, or from its files, and never in both.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use base::Egress;
use runtime::{Exit, Network, Qemu, QemuSettings, Runtime, Spec};

use crate::guest::{Guest, image, spec};
use crate::suspend::{count, counted, counted_beyond, specs};

const SOON: Duration = Duration::from_secs(20);

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn stands_still(pid: u32) -> bool {
    let told = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    told.rsplit(')').next().unwrap().split_whitespace().next() == Some("T")
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_go_on_where_they_are() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (fresh, saved) = specs(spec(&image, dir.path(), Network::Isolated), dir.path());
    let state = dir.path().join("devices");
    let qemu = Qemu::new(QemuSettings::default());
    assert!(!qemu.warm());
    let mut guest = Guest::of(qemu.start(&fresh).await.unwrap(), &fresh);
    guest.is_ready();
    count(&mut guest);
    let pid = guest.instance.pid();
    let mut before = 0;
    for _ in 0..5 {
        assert!(guest.instance.suspend_warm(&state).await.unwrap());
        assert_eq!(guest.instance.wait().await, Exit::Suspended);
        assert_eq!(guest.instance.stop(Duration::ZERO).await, Exit::Suspended);
        drop(guest);
        assert!(qemu.warm() && lives(pid));
        assert!(stands_still(pid), "it could do something while it is nobody's");
        let rests = fs::metadata(dir.path().join("memory")).unwrap().modified().unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = fs::metadata(dir.path().join("memory")).unwrap().modified().unwrap();
        assert_eq!(now, rests, "somebody writes to memory that rests");
        let begun = Instant::now();
        let loaded = qemu.load(&saved).await.unwrap();
        assert!(!qemu.warm());
        guest = Guest::of(loaded.go_on().await.unwrap(), &saved);
        let first = counted(&mut guest);
        eprintln!("first answer after {:?}", begun.elapsed());
        assert!(first.len() >= before, "lines are lost: {before}, {}", first.len());
        let counted = counted_beyond(&mut guest, before);
        assert_eq!(guest.instance.pid(), pid);
        assert!(counted.iter().copied().eq(1..=counted.len() as u64), "a gap: {counted:?}");
        before = counted.len();
    }
    let (code, _) = guest.shell("dd if=/dev/zero of=/var/large bs=1M count=8 conv=fsync");
    assert_eq!(code, 0, "its disk");
    guest.send("poweroff");
    assert_eq!(guest.instance.wait().await, Exit::PoweredOff);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_from_its_files_once_it_is_gone() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (fresh, saved) = specs(spec(&image, dir.path(), Network::Isolated), dir.path());
    let state = dir.path().join("devices");
    let qemu = Qemu::new(QemuSettings::default());
    let mut guest = Guest::of(qemu.start(&fresh).await.unwrap(), &fresh);
    guest.is_ready();
    count(&mut guest);
    let pid = guest.instance.pid();
    let rest = async |guest: Guest| {
        assert!(guest.instance.suspend_warm(&state).await.unwrap());
    };
    // Another is asked for: it is ended before that one begins.
    guest.instance.set_egress(&Egress::None).await.unwrap();
    rest(guest).await;
    guest = Guest::of(qemu.load(&saved).await.unwrap().go_on().await.unwrap(), &saved);
    let second = guest.instance.pid();
    assert!(!lives(pid) && second != pid && !qemu.warm());
    // Its files are other ones.
    rest(guest).await;
    let copy = dir.path().join("copy");
    fs::copy(&state, &copy).unwrap();
    fs::rename(&copy, &state).unwrap();
    guest = Guest::of(qemu.load(&saved).await.unwrap().go_on().await.unwrap(), &saved);
    let third = guest.instance.pid();
    assert!(!lives(second) && third != second);
    // It is given up when it was taken.
    rest(guest).await;
    drop(qemu.load(&saved).await.unwrap());
    assert!(!lives(third) && !qemu.warm());
    guest = Guest::of(qemu.load(&saved).await.unwrap().go_on().await.unwrap(), &saved);
    // It is ended, and killed by somebody.
    rest(guest).await;
    qemu.end_warm();
    assert!(!qemu.warm());
    guest = Guest::of(qemu.load(&saved).await.unwrap().go_on().await.unwrap(), &saved);
    let fifth = guest.instance.pid();
    rest(guest).await;
    kill(fifth);
    while qemu.warm() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    guest = Guest::of(qemu.load(&saved).await.unwrap().go_on().await.unwrap(), &saved);
    let counted = counted(&mut guest);
    assert!(counted.iter().copied().eq(1..=counted.len() as u64), "a gap: {counted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_boots_takes_its_place() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (fresh, _) = specs(spec(&image, dir.path(), Network::None), dir.path());
    let qemu = Qemu::new(QemuSettings::default());
    let mut guest = Guest::of(qemu.start(&fresh).await.unwrap(), &fresh);
    guest.is_ready();
    let pid = guest.instance.pid();
    assert!(guest.instance.suspend_warm(&dir.path().join("devices")).await.unwrap());
    drop(guest);
    let again = Spec { log_dir: dir.path().join("again"), ..fresh };
    let mut guest = Guest::of(qemu.start(&again).await.unwrap(), &again);
    assert!(!lives(pid) && !qemu.warm());
    guest.is_ready();
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn names_are_served_by_the_tasks_of_each_life() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (fresh, saved) = specs(spec(&image, dir.path(), Network::Isolated), dir.path());
    let state = dir.path().join("devices");
    let qemu = Qemu::new(QemuSettings::default());
    // Each life as a keeper has a runtime of its own.
    let life = || tokio::runtime::Runtime::new().unwrap();
    let pid = life().block_on(async {
        let mut guest = Guest::of(qemu.start(&fresh).await.unwrap(), &fresh);
        guest.is_ready();
        assert!(is_answered(guest.instance.pid(), SOON), "in the first life");
        assert!(guest.instance.suspend_warm(&state).await.unwrap());
        guest.instance.pid()
    });
    assert!(!is_answered(pid, Duration::from_secs(1)), "by nobody");
    let second = life();
    second.block_on(async {
        let started = qemu.load(&saved).await.unwrap().go_on().await.unwrap();
        assert_eq!(started.instance.pid(), pid);
        assert!(is_answered(pid, SOON), "in the second life");
        started.instance.stop(Duration::ZERO).await;
    });
}

/// Whether somebody answers to a question for a name in the network of an instance.
fn is_answered(pid: u32, patience: Duration) -> bool {
    let question = b"\x01\x02\x01\0\0\x01\0\0\0\0\0\0\x01a\x01b\0\0\x01\0\x01";
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(patience)).unwrap();
            socket.connect("127.0.0.1:53").unwrap();
            socket.send(question).unwrap();
            socket.recv(&mut [0; 512]).is_ok()
        });
        asked.join().unwrap()
    })
}
