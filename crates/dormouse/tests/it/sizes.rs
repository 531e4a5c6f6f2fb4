//! A machine that runs is given other sizes.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::sleep::{boot_id, how};
use crate::support::{Api, Options, Server};

fn set(api: &Api, machine: &str, sizes: &Value) -> Value {
    let request = api.request(Method::PATCH, &format!("/v1/machines/{machine}"));
    api.send(request.json(sizes)).ok().json()
}

/// CPU time in seconds that the machine's virtual CPUs have used.
fn used(machine: &str) -> f64 {
    let processes = std::fs::read_dir("/proc").expect("list processes").flatten();
    let hypervisor = processes.map(|process| process.path()).find(|path| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        line.starts_with(b"/usr/bin/qemu") && String::from_utf8_lossy(&line).contains(machine)
    });
    let threads = hypervisor.expect("its hypervisor").join("task");
    let threads = std::fs::read_dir(threads).expect("list threads").flatten();
    let ran = threads.map(|thread| thread.path()).filter_map(|thread| {
        let name = std::fs::read_to_string(thread.join("comm")).ok()?;
        let times = std::fs::read_to_string(thread.join("schedstat")).ok()?;
        let nanos: f64 = times.split(' ').next()?.parse().ok()?;
        name.starts_with("CPU ").then_some(nanos / 1e9)
    });
    ran.sum()
}

/// The control groups of each thread.
fn of_each_thread(process: u32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs").flatten();
    let groups = threads.map(|thread| std::fs::read_to_string(thread.path().join("cgroup")));
    groups.flatten().collect()
}

/// The share of a CPU that the machine uses.
fn share(machine: &str) -> f64 {
    let (begun, before) = (Instant::now(), used(machine));
    std::thread::sleep(Duration::from_secs(4));
    (used(machine) - before) / begun.elapsed().as_secs_f64()
}

#[test]
fn a_machine_that_runs_is_given_cpus_and_storage_at_once_and_memory_when_it_next_wakes() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("grows");
    let boot = boot_id(&api, &machine);
    let held = server.cli(&["doctor", "--json"]).output().expect("run it").stdout;
    let held = !String::from_utf8_lossy(&held).contains("no control groups");

    api.shell(&machine, "nohup sh -c 'while :; do :; done' >/dev/null 2>&1 &");
    set(&api, &machine, &json!({ "vcpu": 0.25 }));
    let quarter = share(&machine);
    set(&api, &machine, &json!({ "vcpu": 0.75 }));
    let more = share(&machine);
    eprintln!("of a CPU: {quarter:.2}, {more:.2}");
    assert!(!held || (quarter < 0.3 && more < 0.8), "{quarter} {more}");
    assert!(!held || more > quarter, "{quarter} {more}");
    if held {
        // What is done for it is not done with what is its neighbours'.
        let keeper = server.keeper(&machine).expect("it has a keeper");
        let groups = of_each_thread(keeper);
        let group = format!("/dormouse/serves-{machine}");
        assert!(groups.len() > 2 && groups.iter().all(|of| of.contains(&group)), "{groups:?}");
    }
    set(&api, &machine, &json!({ "vcpu": 1 }));

    let gib = |api: &Api| {
        let size = api.shell(&machine, "df -B1 --output=size /root | tail -1");
        size.trim().parse::<u64>().expect("a number") >> 30
    };
    let before = gib(&api);
    let too_much = format!("fallocate -l {}M /root/large", (before << 10) + 200);
    assert_ne!(api.run(&machine, &["/bin/sh", "-c", &too_much]).0, 0, "it does not fit");
    set(&api, &machine, &json!({ "storage_gib": before + 1 }));
    assert_eq!(gib(&api), before + 1);
    api.shell(&machine, &too_much);
    let request = api.request(Method::PATCH, &format!("/v1/machines/{machine}"));
    api.send(request.json(&json!({ "storage_gib": before }))).expect(400);

    let seen = set(&api, &machine, &json!({ "memory_mib": 640 }));
    let assigned = &seen["status"]["memory_assigned_mib"];
    assert_eq!(seen["status"]["memory_configured_mib"], 640);
    assert!(assigned.is_number() && *assigned != 640, "{seen}");
    assert_eq!(boot_id(&api, &machine), boot, "it went on");
    // All of it is still so after a boot.
    api.post(&format!("/v1/machines/{machine}/reboot"), "").ok();
    let seen = api.until(&machine, "running");
    assert_eq!(how(&api, &machine).0, "ready");
    assert_eq!(seen["status"]["memory_assigned_mib"], 640, "{seen}");
    assert_eq!(gib(&api), before + 1);
}
