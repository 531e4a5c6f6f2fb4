//! A server whose disk is full: guests wait, the machine says so, and nothing is lost.

use std::time::Duration;

use serde_json::Value;
use testkit::SmallDisk;

use crate::sleep::how;
use crate::support::{Api, BOOT, Options, Server, eventually};

const MIB: u64 = 1 << 20;
const WRITES_MIB: u64 = 200;
/// Two guests with their memory in files, and what has to be left beside.
const DISK_BYTES: u64 = 8 << 30;
/// Below this, each guest's memory takes all the room that it may still need.
const ROOM_MIN: u64 = 1 << 30;
/// Enough for a guest that fills it to be held at 1.6 GiB, which leaves its neighbour something to do, and its owner time.
const FREE_AT_FIRST: u64 = 6 << 30;

fn status(api: &Api, machine: &str) -> Value {
    api.get(&format!("/v1/machines/{machine}")).ok().json()["status"].clone()
}

fn waits(api: &Api, machine: &str) -> bool {
    status(api, machine)["reason"] == "host_storage_full"
}

/// Leaves next to nothing, and before that the time that a guest's memory takes to get what it needs.
fn fill(disk: &SmallDisk) {
    disk.fill(970 * MIB).expect("fill the disk");
    std::thread::sleep(Duration::from_secs(3));
    disk.fill(50 * MIB).expect("fill the disk");
}

/// Has it write more than there is room for; `sync` waits until it is on its disk.
fn overfill(api: &Api, machine: &str, file: &str) -> String {
    let write = format!(
        "dd if=/dev/urandom bs=1M count={WRITES_MIB} 2>/dev/null | tee {file} | sha256sum >{file}.sum; sync"
    );
    api.start(machine, &["/bin/bash", "-ec", &write])
}

fn assert_whole(api: &Api, machine: &str, file: &str) {
    let whole = format!(
        "sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum <{file} | cmp - {file}.sum; stat -c %s {file}; \
         dmesg | grep -ci 'i/o error' || true"
    );
    assert_eq!(api.shell(machine, &whole), format!("{}\n0\n", WRITES_MIB * MIB));
}

#[test]
fn guests_wait_for_room_say_so_and_go_on_with_all_that_they_wrote() {
    let disk = SmallDisk::new(DISK_BYTES).expect("make a small disk");
    let store = tempfile::tempdir().expect("make a directory");
    let mut server = Server::start_in(&disk.path().join("data"), Options::with_store(store.path()));
    let api = server.api();
    let neighbour = api.create("neighbour");
    api.shell(
        &neighbour,
        "head -c 3000000 /dev/urandom | tee /root/kept | sha256sum >/root/sum; sync",
    );
    api.sleep(&neighbour);
    let machine = api.create("writer");
    let boot = api.shell(&machine, "cat /proc/sys/kernel/random/boot_id");

    // It fills what its server's disk has left.
    let written = overfill(&api, &machine, "/var/one");
    std::thread::sleep(Duration::from_secs(2));
    fill(&disk);
    eventually("it says that it waits", BOOT, || waits(&api, &machine));
    let said = status(&api, &machine);
    assert_eq!(said["phase"], "running", "{said}");
    let words = said["last_error"].as_str().unwrap_or_default();
    assert!(words.contains("Free space on the server's disk"), "{said}");
    // What somebody wants of it meanwhile is answered.
    let refused = api.post_json(
        &format!("/v1/machines/{machine}/executions"),
        &serde_json::json!({ "command": ["true"] }),
    );
    assert_eq!(refused.expect(507).json()["error_code"], "STORAGE_EXHAUSTED");
    // A server that is started anew finds out, too.
    server.terminate();
    server.restart();
    let api = server.api();
    eventually("it says that it waits", BOOT, || waits(&api, &machine));
    disk.make_room().unwrap();
    eventually("it goes on", BOOT, || !waits(&api, &machine));
    assert_eq!(api.ended(&machine, &written)["exit_code"], 0);
    assert_whole(&api, &machine, "/var/one");

    // One that waits is put to sleep: it falls asleep once there is room, with its processes.
    api.shell(&machine, "nohup sleep 100000 >/dev/null 2>&1 &");
    fill(&disk);
    eventually("it says that it waits", BOOT, || waits(&api, &machine));
    api.post(&format!("/v1/machines/{machine}/sleep"), "").ok();
    std::thread::sleep(Duration::from_secs(30));
    let said = status(&api, &machine);
    assert_eq!(
        (&said["phase"], &said["reason"]),
        (&"stopping".into(), &"host_storage_full".into())
    );
    disk.make_room().unwrap();
    api.until(&machine, "sleeping");
    api.wake(&machine);
    assert_eq!(how(&api, &machine).0, "resumed");
    assert_eq!(api.shell(&machine, "cat /proc/sys/kernel/random/boot_id"), boot);
    assert_eq!(api.shell(&machine, "grep -lx sleep /proc/[0-9]*/comm | wc -l"), "1\n");
    assert_whole(&api, &machine, "/var/one");

    // It can be deleted at any time.
    fill(&disk);
    eventually("it says that it waits", BOOT, || waits(&api, &machine));
    // Nobody is woken where he would stop at once, nor made.
    let refused = [
        api.post(&format!("/v1/machines/{neighbour}/wake"), ""),
        api.post_json("/v1/machines", &serde_json::json!({ "name": "another" })),
    ];
    for refused in refused {
        let said = refused.expect(507).json();
        assert_eq!(said["error_code"], "HOST_STORAGE_FULL", "{said}");
        assert!(said["message"].as_str().unwrap_or_default().contains(" MiB more there"), "{said}");
    }
    assert_eq!(status(&api, &neighbour)["phase"], "sleeping");
    api.delete(&format!("/v1/machines/{machine}")).ok();
    eventually("it is gone", BOOT, || {
        api.get(&format!("/v1/machines/{machine}")).status.as_u16() == 404
    });
    disk.make_room().unwrap();
    api.wake(&neighbour);
    assert_eq!(
        api.shell(&neighbour, "sha256sum </root/kept | cmp - /root/sum && echo kept"),
        "kept\n"
    );
}

#[test]
fn who_fills_the_disk_is_held_first_and_others_run_on() {
    let disk = SmallDisk::new(2 * DISK_BYTES).expect("make a small disk");
    let store = tempfile::tempdir().expect("make a directory");
    let server = Server::start_in(&disk.path().join("data"), Options::with_store(store.path()));
    let api = server.api();
    let (neighbour, filler) = (api.create("neighbour"), api.create("filler"));
    disk.fill(FREE_AT_FIRST).expect("fill the disk");

    // What it asks to be zeros it has to write itself, or it would have all that is left before anybody looks.
    assert_eq!(api.shell(&filler, "cat /sys/block/vdb/queue/write_zeroes_max_bytes"), "0\n");
    let fill =
        "head -c 300000000 /dev/urandom >/root/filled; exec dd if=/dev/zero of=/var/filled bs=4M";
    let filling = api.start(&filler, &["/bin/bash", "-c", fill]);
    eventually("it is held", BOOT, || waits(&api, &filler));
    let left = disk.free().expect("look how much is free");
    assert!(left > ROOM_MIN, "{left}: others' memory would look for room, too");
    let work = "head -c 32000000 /dev/urandom | tee /var/work >/root/work; sync; cmp /var/work /root/work; echo same";
    for _ in 0..3 {
        assert_eq!(api.shell(&neighbour, work), "same\n");
        assert!(!waits(&api, &neighbour) && waits(&api, &filler));
    }

    // Its owner can put it to sleep all the same, and tidy up.
    api.sleep(&filler);
    assert_ne!(api.ended(&filler, &filling)["status"], "succeeded");
    api.wake(&filler);
    assert_eq!(how(&api, &filler).0, "resumed");
    api.shell(&filler, "rm /var/filled /root/filled");
    assert!(!waits(&api, &filler));
}
