//! One guest is booted and saved before it is anybody's, and becomes several machines.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use runtime::{Exit, Memory, Network, Purpose, Spec};

use crate::agent::{run, sh, soon};
use crate::boot::shell;
use crate::guest::{Guest, configure, image, spec, start};

/// What two machines must not have in common, each with how to see it.
const IDENTITY: [(&str, &str); 9] = [
    ("boot id", "cat /proc/sys/kernel/random/boot_id"),
    ("random number", "head -c 32 /dev/urandom | od -An -tx8"),
    ("random uuid", "cat /proc/sys/kernel/random/uuid"),
    // Its kernel gives every process 16 random bytes: here the key of its hashes.
    ("random bytes of a process", "python3 -c 'print(hash(\"x\"))'"),
    ("machine id", "cat /etc/machine-id"),
    ("hardware address", "cat /sys/class/net/eth0/address"),
    ("host name", "hostname; cat /etc/hostname"),
    ("hosts", "grep -v localhost /etc/hosts"),
    ("home", "cat /root/home"),
];

async fn identity(guest: &Guest) -> BTreeMap<&'static str, String> {
    let mut seen = BTreeMap::new();
    for (what, how) in IDENTITY {
        seen.insert(what, shell(guest, how).await);
    }
    seen
}

fn copy(from: &Path, to: &Path) {
    let copied =
        Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_of_one_guest_are_machines_of_their_own() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (memory, devices) = (dir.path().join("memory"), dir.path().join("devices"));
    let template = Spec {
        memory: Memory::File(memory.clone()),
        purpose: Purpose::Template,
        ..spec(&image, dir.path(), Network::Isolated)
    };
    let guest = Guest::begin(start(&template).await, dir.path()).await;
    let hello = soon(guest.client.hello()).await.unwrap();
    assert!(hello.unconfigured && hello.home_mounted, "{hello:?}");
    // Nobody's: no home, no id, no way out.
    let mut look = sh("grep -c fuse.dormouse /proc/mounts; wc -c </etc/machine-id");
    look.cwd = Some("/".to_owned());
    assert_eq!(run(&guest.client, &look).await.stdout, "0\n0\n");
    assert_eq!(guest.session.requests(), 0, "nothing was asked of a home");
    let out = "curl -m 2 -s -o /dev/null http://1.1.1.1 || echo no way out";
    let out = agent_proto::Exec { cwd: Some("/".to_owned()), ..sh(out) };
    assert_eq!(run(&guest.client, &out).await.stdout, "no way out\n");
    soon(guest.client.prepare()).await.unwrap();
    assert!(soon(guest.client.hello()).await.unwrap().unconfigured);
    assert_eq!(run(&guest.client, &look).await.stdout, "1\n33\n");
    assert_eq!(guest.session.requests(), 0, "nothing was asked of a home");
    soon(guest.suspend(&devices)).await;

    let mut seen = Vec::new();
    for who in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        for name in ["memory", "devices", "upper.ext4"] {
            let from = Path::new(template.upper_image.parent().unwrap()).join(name);
            copy(&from, &dir.path().join(name));
        }
        let saved =
            Memory::Saved { file: dir.path().join("memory"), state: dir.path().join("devices") };
        let clone = Spec {
            machine: base::MachineId::generate(),
            memory: saved,
            purpose: Purpose::Machine,
            upper_image: dir.path().join("upper.ext4"),
            log_dir: dir.path().join("log"),
            ..template.clone()
        };
        let begun = Instant::now();
        let guest = Guest::begin(start(&clone).await, dir.path()).await;
        let (met, mut whose) = (begun.elapsed(), configure(&format!("clone-{who}"), who));
        let hour = i64::from(who) * 3_600;
        whose.unix_nanos += hour * 1_000_000_000;
        guest.configure(&whose).await;
        let configured = begun.elapsed();
        // It is too late for that, and changes nothing.
        soon(guest.client.prepare()).await.unwrap_err();
        shell(&guest, &format!("echo home {who} >/root/home")).await;
        eprintln!(
            "met after {met:?}, configured after {configured:?}, home written after {:?}",
            begun.elapsed()
        );
        let date: i64 = shell(&guest, "date +%s").await.parse().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let ahead = date - i64::try_from(now).unwrap();
        assert!((hour - 30..hour + 30).contains(&ahead), "its clock is {ahead} s ahead");
        seen.push(identity(&guest).await);
        // Its upper is its own, and whole: it takes what is written, and a later boot.
        shell(&guest, "echo kept >/etc/kept; dmesg >/dev/null").await;
        assert_eq!(guest.shut_down().await, Exit::PoweredOff);
        let booted = Spec { memory: Memory::Anonymous, ..clone };
        let guest = Guest::begin(start(&booted).await, dir.path()).await;
        guest.configure(&configure("again", who)).await;
        let kept = shell(&guest, "cat /etc/kept /etc/machine-id").await;
        assert_eq!(kept, format!("kept\n{}", seen.last().unwrap()["machine id"]));
        assert_eq!(guest.shut_down().await, Exit::PoweredOff);
    }
    for (what, _) in IDENTITY {
        assert_ne!(seen[0][what], seen[1][what], "they share a {what}");
    }
    assert_eq!(seen[1]["machine id"], "02".repeat(16));
    assert_eq!(seen[1]["host name"], "clone-2\nclone-2");
}
