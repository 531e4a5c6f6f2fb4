//! A guest has its share of CPU time, and its hypervisor one of its own.

use std::fs;
use std::time::{Duration, Instant};

use runtime::{Error, Memory, Network, Qemu, QemuSettings, Spec};

use crate::guest::{Guest, image, spec};

/// Its threads: name, control groups, CPU time in seconds.
fn threads(pid: u32) -> Vec<(String, String, f64)> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    threads
        .map(|thread| {
            let read = |name: &str| fs::read_to_string(thread.path().join(name)).unwrap();
            let stat = read("stat");
            let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
            let ticks: f64 = fields.skip(11).take(2).map(|n| n.parse::<f64>().unwrap()).sum();
            (read("comm").trim().to_owned(), read("cgroup"), ticks / 100.0)
        })
        .collect()
}

/// CPU time of the virtual CPU.
fn used_by_guest(pid: u32) -> f64 {
    threads(pid).iter().filter(|thread| thread.0.starts_with("CPU ")).map(|thread| thread.2).sum()
}

async fn check_held(guest: &Guest, vcpu: f64) {
    let pid = guest.instance.pid();
    for (name, groups, _) in threads(pid) {
        let is_apart = groups.lines().any(|group| group.ends_with("/vcpu"));
        assert_eq!(is_apart, name.starts_with("CPU "), "{name}: {groups}");
    }
    let (begun, before) = (Instant::now(), used_by_guest(pid));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (used, elapsed) = (used_by_guest(pid) - before, begun.elapsed().as_secs_f64());
    eprintln!("{used:.2} s of CPU in {elapsed:.2} s");
    assert!(used <= elapsed * vcpu * 1.1 + 0.1, "{used} s of CPU in {elapsed} s");
    assert!(used > 0.0, "it does not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_spins_is_held_to_its_share() {
    let Some(image) = image() else { return };
    if let Err(why) = Qemu::new(QemuSettings::default()).holds_to_shares() {
        assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot run: {why}");
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (file, state) = (dir.path().join("memory"), dir.path().join("devices"));
    let memory = Memory::File(file.clone());
    let fresh = Spec { vcpu: 0.5, memory, ..spec(&image, dir.path(), Network::Isolated) };
    let mut guest = Guest::start(&fresh).await;
    guest.shell("(while :; do :; done) >/dev/null 2>&1 & true");
    check_held(&guest, 0.5).await;
    guest.instance.set_vcpu(0.25).await.unwrap();
    check_held(&guest, 0.25).await;
    guest.instance.set_vcpu(0.75).await.unwrap();
    check_held(&guest, 0.75).await;
    let refused = guest.instance.set_vcpu(0.0).await.unwrap_err();
    assert!(matches!(refused, Error::Shares(_)), "{refused}");
    guest.instance.suspend(&state).await.unwrap();
    drop(guest);
    let saved = Spec { memory: Memory::Saved { file, state }, ..fresh };
    let mut guest = Guest::resume(&saved).await;
    assert_eq!(guest.shell("echo here").1, "here");
    check_held(&guest, 0.5).await;
}
