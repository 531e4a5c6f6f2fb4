//! The agent as PID 1.

use std::process::Command;
use std::time::{Duration, Instant};

use agent_proto::{Configure, Exec};
use runtime::{Exit, Network};
use vfs::path::TreePath;
use vfs::path_ops::{self, Put};
use vfs::{Expect, FileSystem};

use crate::agent::{code, run, sh, soon};
use crate::guest::{Guest, console_of, image};

pub(crate) async fn shell(guest: &Guest, script: &str) -> String {
    let said = run(&guest.client, &sh(script)).await;
    assert_eq!(said.exited, code(0), "{script}: {}{}", said.stdout, said.stderr);
    said.stdout.trim_end().to_owned()
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

/// Changes a file from the outside, as the API does.
pub(crate) fn put(guest: &Guest, at: &str, content: &[u8]) {
    let mut put = Put::begin(guest.home.as_ref()).unwrap();
    put.write(content).unwrap();
    let placed = put.finish(&path(at), Expect::Any, None).unwrap();
    guest.channel.notifier().send(&placed.touched);
}

pub(crate) async fn settle(guest: &Guest) {
    let sent = guest.channel.notifier().flush(Duration::from_secs(10)).unwrap();
    soon(guest.client.barrier(sent)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_boots_works_and_ends_cleanly() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::boot(&image, dir.path(), Network::None).await;
    eprintln!("agent ready after {:?}", guest.boot_time);

    let hello = soon(guest.client.hello()).await.unwrap();
    assert!(hello.home_mounted && !hello.unconfigured, "{hello:?}\n{}", guest.console());
    let configure = Configure {
        hostname: "hello".into(),
        unix_nanos: 1_900_000_000_000_000_000,
        entropy: "5a".repeat(32),
        nameservers: vec!["10.0.2.3".into()],
        hosts: vec!["10.9.8.7 friend".into()],
        machine_id: String::new(),
    };
    soon(guest.client.configure(&configure)).await.unwrap();

    let exec = Exec { command: vec!["true".into()], ..Exec::default() };
    assert_eq!(run(&guest.client, &exec).await.exited, code(0));
    let exec = Exec { command: vec!["uname".into(), "-a".into()], ..Exec::default() };
    let uname = run(&guest.client, &exec).await.stdout;
    assert!(uname.starts_with("Linux hello 6."), "{uname}");
    eprintln!("{uname}");

    assert_eq!(
        shell(&guest, "cat /etc/hostname /etc/resolv.conf").await,
        "hello\nnameserver 10.0.2.3"
    );
    assert_eq!(shell(&guest, "getent hosts friend | cut -d' ' -f1").await, "10.9.8.7");
    let now: u64 = shell(&guest, "date +%s").await.parse().unwrap();
    assert!((1_900_000_000..1_900_000_060).contains(&now), "{now}");

    let mounts = shell(&guest, "cut -d' ' -f2,3 /proc/mounts").await;
    for mount in [
        "/ overlay",
        "/proc proc",
        "/sys sysfs",
        "/dev devtmpfs",
        "/dev/pts devpts",
        "/dev/shm tmpfs",
        "/run tmpfs",
        "/root fuse.dormouse",
        "/sys/fs/cgroup cgroup2",
    ] {
        assert!(mounts.lines().any(|line| line == mount), "{mount} in\n{mounts}");
    }
    assert_eq!(shell(&guest, "stat -c %a /tmp").await, "1777");
    assert_eq!(
        shell(&guest, "cat /proc/1/oom_score_adj /proc/self/oom_score_adj").await,
        "-1000\n0"
    );
    assert_eq!(shell(&guest, "ulimit -Sn; ulimit -Hn").await, "65536\n1048576");
    let script = "(cat /proc/self/cgroup); cat /proc/self/cgroup /proc/1/cgroup";
    assert_eq!(shell(&guest, script).await, "0::/machine\n0::/machine\n0::/");
    assert_eq!(
        shell(&guest, "cat /proc/1/comm; ls /proc/1/cwd >/dev/null && echo $HOME").await,
        "init\n/root"
    );
    // A directory of the image can be renamed, and a file in it changed.
    shell(&guest, "mv /usr/share/doc /usr/share/papers && rm -r /usr/share/papers").await;
    assert_eq!(guest.shut_down().await, Exit::PoweredOff);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_home_is_the_hosts() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::boot(&image, dir.path(), Network::None).await;

    let script = "cd; mkdir -p a/b; echo from the guest > a/b/file; ln -s b a/link; pwd";
    assert_eq!(shell(&guest, script).await, "/root");
    let file = path_ops::stat(guest.home.as_ref(), &path("a/b/file"), path_ops::Last::Follow);
    let content = guest.home.read(file.unwrap().ino, 0, 100).unwrap();
    assert_eq!(content, "from the guest\n");

    // What the guest has cached changes behind its back, names and content.
    assert_eq!(shell(&guest, "cat /root/note 2>/dev/null; echo $?").await, "1");
    for round in 0..20 {
        put(&guest, "note", format!("round {round}").as_bytes());
        settle(&guest).await;
        assert_eq!(shell(&guest, "cat /root/note").await, format!("round {round}"));
    }

    // Larger than every buffer on the way, in both directions.
    let begun = Instant::now();
    let sums = shell(
        &guest,
        "head -c 40000000 /dev/urandom > /tmp/big; cp /tmp/big /root/big; echo 3 > /proc/sys/vm/drop_caches; \
         cmp /tmp/big /root/big && stat -c %s /root/big",
    );
    assert_eq!(sums.await, "40000000");
    eprintln!("40 MB to the home and back in {:?}", begun.elapsed());

    // Killed in the middle: interrupted requests do not confuse the relay.
    let script = "for i in 1 2 3 4 5; do timeout -s KILL 0.2 find /usr -type f -exec cp {} /root/copy \\; ; done; true";
    shell(&guest, script).await;
    assert_eq!(shell(&guest, "cat /root/a/link/file").await, "from the guest");
    assert_eq!(guest.shut_down().await, Exit::PoweredOff);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upper_survives_and_is_left_clean() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::boot(&image, dir.path(), Network::None).await;
    shell(&guest, "echo kept > /etc/kept; rm /etc/debian_version").await;
    // Left running, with a file open in the root, and deaf to TERM.
    let stubborn = "trap '' TERM; exec 3> /var/tmp/open; echo up >&3; while :; do sleep 0.1; done";
    let script = format!(
        "setsid sh -c \"{stubborn}\" >/dev/null 2>&1 & until [ -s /var/tmp/open ]; do sleep 0.1; done"
    );
    shell(&guest, &script).await;
    let begun = Instant::now();
    assert_eq!(guest.shut_down().await, Exit::PoweredOff);
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(15), "{took:?}");

    let upper = dir.path().join("upper.ext4");
    let shown = Command::new("dumpe2fs").arg("-h").arg(&upper).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("Filesystem state:         clean"), "{shown}");
    assert!(!shown.contains("needs_recovery"), "{shown}");

    let guest = Guest::boot(&image, dir.path(), Network::None).await;
    assert_eq!(
        shell(&guest, "cat /etc/kept; ls /etc/debian_version 2>/dev/null; true").await,
        "kept"
    );
    assert_eq!(guest.shut_down().await, Exit::PoweredOff);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_comes_from_the_command_line() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::boot(&image, dir.path(), Network::Isolated).await;
    assert_eq!(shell(&guest, "cat /etc/resolv.conf").await, "nameserver 10.0.2.3");
    let routes = shell(&guest, "cat /proc/net/route").await;
    assert!(routes.contains("eth0\t00000000\t0202000A"), "{routes}");
    assert!(routes.contains("eth0\t0002000A\t00000000"), "{routes}");
    let reach = Command::new("curl")
        .args(["-fsIo", "/dev/null", "-m", "10"])
        .arg("http://deb.debian.org/debian/dists/bookworm/InRelease")
        .status();
    if reach.is_ok_and(|status| status.success()) {
        shell(&guest, "apt-get -q update").await;
    } else {
        eprintln!("skipped in part: the host itself does not reach the archive");
    }
    assert_eq!(guest.shut_down().await, Exit::PoweredOff);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_a_root_says_so_and_ends() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("upper.ext4"), vec![0; 1 << 20]).unwrap();
    let exit = Guest::boot_to_its_end(&image, dir.path()).await;
    assert_eq!(exit, Exit::PoweredOff);
    let console = console_of(dir.path());
    let expected = "dormouse-agent: FATAL: need a disk with erofs and one with ext4, \
                    found [/dev/vda Erofs, /dev/vdb Other]";
    assert!(console.contains(expected), "{console}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_talks_nonsense_is_cut_off_and_reported() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (instance, client) = Guest::boot_with_nonsense_for_a_home(&image, dir.path()).await;
    let hello = soon(async {
        loop {
            let hello = client.hello().await.unwrap();
            if !hello.home_mounted {
                return hello;
            }
        }
    })
    .await;
    assert!(hello.detail.unwrap().contains("FUSE message of 4294967295 bytes"));
    // Commands go on; they get errors or an empty directory in place of waiting for ever.
    let said = run(&client, &sh("ls /root; echo still here")).await;
    assert!(said.stdout.ends_with("still here\n"), "{said:?}");
    client.shutdown(Duration::from_secs(1)).await.unwrap();
    assert_eq!(soon(instance.wait()).await, Exit::PoweredOff);
}
