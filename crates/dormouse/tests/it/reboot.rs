//! A machine boots where that is asked for, whatever it is doing, and whoever is killed meanwhile.

use std::time::Duration;

use reqwest::Method;

use crate::sleep::{COUNTER, boot_id, how};
use crate::support::{Api, BOOT, Options, Server, eventually};

/// Counts the processes that are [`COUNTER`]'s.
const COUNTERS: &str = "grep -lz '^/root/counter$' /proc/[0-9]*/cmdline 2>/dev/null | wc -l";

fn reboot(machine: &str, force: bool) -> String {
    format!("/v1/machines/{machine}/reboot?force={force}")
}

fn is_up(api: &Api, machine: &str) -> bool {
    let seen = api.get(&format!("/v1/machines/{machine}")).ok().json();
    let phase = &seen["status"]["phase"];
    assert_ne!(phase, "failed", "{seen}");
    phase == "running"
}

/// That it was booted since it had this boot's id, has its files and none of its processes.
fn check_booted(api: &Api, machine: &str, before: &str) -> String {
    assert_eq!(how(api, machine), ("ready".to_owned(), String::new()));
    let boot = boot_id(api, machine);
    assert_ne!(boot, before);
    assert_eq!(api.shell(machine, "cat /root/file /usr/local/marker"), "kept\nhere\n");
    assert_eq!(api.shell(machine, COUNTERS).trim(), "0");
    boot
}

#[test]
fn a_reboot_keeps_files_and_nothing_else() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("reboots");
    let mut boot = boot_id(&api, &machine);
    for force in [false, true] {
        api.shell(&machine, COUNTER);
        assert_eq!(api.shell(&machine, COUNTERS).trim(), "1");
        // What is forced loses what is in caches only.
        api.shell(&machine, "echo kept >/root/file; echo here >/usr/local/marker; sync");
        let begun = std::time::Instant::now();
        let done = api.post(&reboot(&machine, force), "").ok();
        eventually("it is up", BOOT, || is_up(&api, &machine));
        eprintln!("force {force}: {:?}, answered {}", begun.elapsed(), done.status);
        assert_eq!(done.json()["machine_id"].as_str(), Some(machine.as_str()));
        boot = check_booted(&api, &machine, &boot);
    }
    // Written and not synced: one that is asked writes it back.
    api.shell(
        &machine,
        "echo kept >/root/file; rm -f /root/late; head -c 300000 /dev/zero >/root/late",
    );
    api.sleep(&machine);
    api.post(&reboot(&machine, false), "").ok();
    eventually("it is up", BOOT, || is_up(&api, &machine));
    boot = check_booted(&api, &machine, &boot);
    api.shell(&machine, "echo unsynced >/root/late; echo more >/usr/local/late");
    let cli = server.cli(&["reboot", "reboots"]).output().expect("run it");
    assert!(cli.status.success(), "{}", String::from_utf8_lossy(&cli.stderr));
    boot = check_booted(&api, &machine, &boot);
    assert_eq!(api.shell(&machine, "cat /root/late /usr/local/late"), "unsynced\nmore\n");
    // It sleeps and wakes as ever after that.
    api.sleep(&machine);
    api.wake(&machine);
    assert_eq!(how(&api, &machine).0, "resumed");
    assert_eq!(boot_id(&api, &machine), boot);
    api.send(api.request(Method::DELETE, &format!("/v1/machines/{machine}"))).ok();
    api.post(&reboot(&machine, false), "").expect(404);
}

#[test]
fn a_reboot_is_finished_by_the_next_server() {
    let mut server = Server::start(Options::default());
    let machine = server.api().create("crashes");
    let note = "echo kept >/root/file; echo here >/usr/local/marker; sync";
    server.api().shell(&machine, note);
    let mut boot = boot_id(&server.api(), &machine);
    for (force, after) in [(false, 0), (false, 300), (false, 1_500), (true, 0), (true, 200)] {
        let api = server.api();
        let asked = api.request(Method::POST, &reboot(&machine, force));
        api.send(asked.header("prefer", "respond-async")).expect(202);
        std::thread::sleep(Duration::from_millis(after));
        server.kill();
        server.restart();
        let api = server.api();
        eventually("it is up", BOOT, || is_up(&api, &machine));
        boot = check_booted(&api, &machine, &boot);
    }
}

#[test]
fn one_that_is_put_to_sleep_before_it_is_up_and_then_wanted_awake_wakes() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("hasty");
    for booted in [200, 400, 800, 1_600] {
        std::thread::scope(|scope| {
            // They answer once the machine is where it was asked to be, or somebody asks for something else.
            scope.spawn(|| api.post(&reboot(&machine, true), ""));
            std::thread::sleep(Duration::from_millis(booted));
            scope.spawn(|| api.post(&format!("/v1/machines/{machine}/sleep"), ""));
            std::thread::sleep(Duration::from_millis(booted / 10));
            api.wake(&machine);
        });
        assert_eq!(api.shell(&machine, "echo up"), "up\n");
    }
}
