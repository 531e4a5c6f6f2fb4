//! Boots, talks, is confined, and leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runtime::{Error, Exit, Network, Qemu, QemuSettings, Runtime};

use crate::guest::{Guest, image, spec};

/// Set for the process that plays the keeper that gets killed: the folder of its guest.
const KEEPER_DIR: &str = "DORMOUSE_TEST_KEEPER_DIR";

fn is_alive(pid: u32) -> bool {
    // A zombie is dead.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

/// Index of the host's end of an instance's way out.
fn link_of(pid: u32) -> String {
    let shown = Command::new("nsenter")
        .args(["-t", &pid.to_string(), "-n", "ip", "-json", "link", "show", "eth0"])
        .output()
        .unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    shown[0]["link_index"].to_string()
}

fn link_exists(index: &str) -> bool {
    fs::read_dir("/sys/class/net").unwrap().flatten().any(|entry| {
        fs::read_to_string(entry.path().join("ifindex")).is_ok_and(|found| found.trim() == index)
    })
}

/// The guest's clock source once its kernel has chosen: for about a second after boot it counts by
/// the same TSC under the name `tsc-early`.
fn settled_clock(guest: &mut Guest) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let shown = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource";
        let clock = guest.shell(shown).1;
        if clock != "tsc-early" || Instant::now() > deadline {
            return clock;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_runs_confined_and_powers_off() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::start(&spec(&image, dir.path(), Network::None)).await;
    let pid = guest.instance.pid();

    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_ne!(field("Uid:"), "0");
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");

    assert_eq!(guest.shell("echo hello; exit 7"), (7, "hello".to_owned()));
    assert_eq!(guest.shell("nproc").1, "1");
    assert_eq!(guest.shell("ls /sys/class/net").1, "lo");
    let serials = guest.shell("cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial").1;
    assert_eq!(serials, "root\nupper");
    assert_eq!(guest.shell("cat /sys/block/vda/ro /sys/block/vdb/ro").1, "1\n0");
    assert_eq!(settled_clock(&mut guest), "tsc", "with another the clock runs slow");

    guest.send("poweroff");
    assert_eq!(guest.instance.wait().await, Exit::PoweredOff);
    assert!(!is_alive(pid));
    assert_eq!(guest.instance.stop(Duration::ZERO).await, Exit::PoweredOff, "asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_the_clock_of_its_host() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::start(&spec(&image, dir.path(), Network::None)).await;
    // The quickest of ten readings; it was taken between the question and the answer.
    let mut uptime = || -> (f64, Instant, Instant) {
        let readings = (0..10).map(|_| {
            let asked = Instant::now();
            let text = guest.shell("cut -d' ' -f1 /proc/uptime").1;
            (text.trim().parse().unwrap(), asked, Instant::now())
        });
        readings.min_by_key(|(_, asked, answered)| *answered - *asked).unwrap()
    };
    let (guest_before, asked_before, answered_before) = uptime();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (guest_after, asked_after, answered_after) = uptime();
    let least = (asked_after - answered_before).as_secs_f64() - 0.15;
    let most = (answered_after - asked_before).as_secs_f64() + 0.15;
    // A wrong frequency gives far more.
    let passed = guest_after - guest_before;
    assert!((least..most).contains(&passed), "{passed:.3} s, and not {least:.3} to {most:.3}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reaches_the_world_and_not_its_host() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::start(&spec(&image, dir.path(), Network::Isolated)).await;

    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    probe.connect("192.0.2.200:9").unwrap();
    let host = probe.local_addr().unwrap().ip().to_string();
    for address in ["10.0.2.2", host.as_str(), "127.0.0.1", "169.254.169.254"] {
        let connect = format!(
            "python3 -c \"import socket; socket.create_connection(('{address}', {port}), 2)\""
        );
        let (code, said) = guest.shell(&connect);
        assert_ne!(code, 0, "{address}: {said}");
    }

    if Command::new("curl")
        .args([
            "-fsIo",
            "/dev/null",
            "-m",
            "10",
            "http://deb.debian.org/debian/dists/bookworm/InRelease",
        ])
        .status()
        .is_ok_and(|status| status.success())
    {
        let (code, said) = guest.shell("apt-get -q update");
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("Reading package lists"), "{said}");
    } else {
        eprintln!("skipped in part: the host itself does not reach the archive");
    }

    let link = link_of(guest.instance.pid());
    assert!(link_exists(&link));
    let exit = guest.instance.stop(Duration::ZERO).await;
    assert!(matches!(exit, Exit::Crashed(_)), "{exit:?}");
    assert!(!link_exists(&link), "the link outlived its guest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_kernel_panics_has_crashed() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(&image, dir.path(), Network::None);
    spec.agent_args.push(("test".to_owned(), "panic".to_owned()));
    let started = Qemu::new(QemuSettings::default()).start(&spec).await.unwrap();
    let exit = started.instance.wait().await;
    let Exit::Crashed(why) = &exit else { panic!("{exit:?}") };
    assert!(why.contains("Kernel panic"), "{why}");
    let console = fs::read_to_string(dir.path().join("log/console.log")).unwrap();
    assert!(console.contains("as asked"), "{console}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_an_instance_ends_the_guest() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(&image, dir.path(), Network::Isolated);
    let started = Qemu::new(QemuSettings::default()).start(&spec).await.unwrap();
    let (pid, link) = (started.instance.pid(), link_of(started.instance.pid()));
    assert!(is_alive(pid) && link_exists(&link));
    drop(started);
    assert!(!is_alive(pid) && !link_exists(&link));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_writable_layer_cannot_have_two_guests() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(&image, dir.path(), Network::None);
    let _first = Guest::start(&spec).await;
    let second = Qemu::new(QemuSettings::default()).start(&spec).await.unwrap();
    let exit = second.instance.wait().await;
    assert!(matches!(&exit, Exit::Crashed(why) if why.contains("lock")), "{exit:?}");
}

#[tokio::test]
async fn a_missing_image_says_what_to_do() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(&image, dir.path(), Network::None);
    spec.kernel = "/nonexistent/vmlinux".into();
    let error = Qemu::new(QemuSettings::default()).start(&spec).await.unwrap_err();
    assert!(matches!(error, Error::Missing { .. }));
    assert!(error.to_string().contains("cargo xtask setup"), "{error}");
}

/// Not a test by itself: the process that [`a_killed_keeper_takes_its_guest_along`] kills.
#[tokio::test(flavor = "multi_thread")]
async fn keeper_to_be_killed() {
    let Some(dir) = std::env::var_os(KEEPER_DIR) else { return };
    let image = image().unwrap();
    let spec = spec(&image, Path::new(&dir), Network::Isolated);
    let guest = Guest::start(&spec).await;
    println!("QEMU {} {}", guest.instance.pid(), spec.machine);
    tokio::time::sleep(Duration::from_secs(300)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_keeper_takes_its_guest_along() {
    if image().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "boot::keeper_to_be_killed", "--nocapture"])
        .env(KEEPER_DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(keeper.stdout.take().unwrap()).lines();
    let said = lines.map(Result::unwrap).find(|line| line.contains("QEMU ")).unwrap();
    let mut words = said.split_whitespace().rev();
    let (id, pid) = (words.next().unwrap(), words.next().unwrap().parse::<u32>().unwrap());
    let link = link_of(pid);
    assert!(is_alive(pid) && link_exists(&link));

    keeper.kill().unwrap();
    keeper.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while (is_alive(pid) || link_exists(&link)) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!is_alive(pid), "qemu outlived its keeper");
    assert!(!link_exists(&link), "the link outlived its keeper");

    let left = || {
        let slots = fs::read_dir("/run/dormouse/instances").unwrap().flatten();
        let machines = slots.filter_map(|slot| fs::read_to_string(slot.path()).ok());
        machines.filter(|machine| machine.trim() == id).count()
    };
    // One slot now, or none where another start on this host has swept already.
    Qemu::new(QemuSettings::default()).sweep().unwrap();
    assert_eq!(left(), 0, "a sweep takes what is left");
}
