//! A machine that is woken soon after it went to sleep goes on in the hypervisor that it was in.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use crate::kills::hypervisors;
use crate::sleep::{COUNTER, TREE, boot_id, counted, how, tree_hash};
use crate::support::server::signal;
use crate::support::{Api, Options, Rounds, Server, eventually, shown};

const SOON: Duration = Duration::from_secs(10);

fn server() -> Server {
    Server::start(Options { warm: true, ..Options::default() })
}

/// The one hypervisor that has the machine.
fn hypervisor(machine: &str) -> u32 {
    let found = hypervisors(machine);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

fn is_gone(machine: &str) {
    eventually("its hypervisor ends", SOON, || hypervisors(machine).is_empty());
}

fn resumed() -> (String, String) {
    ("resumed".to_owned(), String::new())
}

/// Whether the machine's keeper, or what is left of it, is no keeper: another could begin.
fn is_nobody(server: &Server, machine: &str) -> bool {
    let held = std::fs::read_to_string("/proc/locks").expect("list locks");
    let lock = server.data().join("machines").join(machine).join("keeper.lock");
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(lock).expect("it is there"));
    !held
        .lines()
        .any(|line| line.split_whitespace().any(|word| word.ends_with(&format!(":{inode}"))))
}

#[test]
fn it_goes_on_in_the_process_that_it_was_in() {
    let mut server = server();
    let mut api = server.api();
    let machine = api.create("counter");
    api.shell(&machine, TREE);
    let (hash, boot) = (tree_hash(&api, &machine, 0), boot_id(&api, &machine));
    let pid = api.shell(&machine, COUNTER).trim().to_owned();
    let mut process = (hypervisor(&machine), server.keeper(&machine));
    let (mut before, mut others) = (0, 0);
    let cycles = Rounds::usually(6);
    let count = cycles.count;
    for cycle in cycles {
        api.sleep(&machine);
        assert!(is_nobody(&server, &machine), "cycle {cycle}");
        let path = format!("/v1/machines/{machine}/fs/meanwhile");
        if cycle % 3 == 1 {
            // Its kernel has read what is another thing now.
            api.put(&path, cycle.to_string()).ok();
            api.post(&format!("/v1/machines/{machine}/fs/publish"), "").ok();
        }
        if cycle % 4 == 2 {
            // It needs no server.
            server.kill();
            server.restart();
            api = server.api();
        }
        let begun = Instant::now();
        api.wake(&machine);
        eprintln!("cycle {cycle}: awake after {:?}", begun.elapsed());
        assert_eq!(how(&api, &machine), resumed(), "cycle {cycle}");
        // After many lives a process begins anew.
        let now = (hypervisor(&machine), server.keeper(&machine));
        others += u64::from(std::mem::replace(&mut process, now) != now);
        assert!(others <= cycle / 60, "cycle {cycle}: {others} other processes");
        if cycle % 3 == 1 {
            assert_eq!(api.shell(&machine, "cat /root/meanwhile"), cycle.to_string());
        }
        eventually("the counter goes on", Duration::from_secs(60), || {
            counted(&api, &machine, &pid) > before
        });
        before = counted(&api, &machine, &pid);
        assert_eq!(tree_hash(&api, &machine, cycle), hash, "cycle {cycle}");
    }
    assert_eq!(boot_id(&api, &machine), boot);
    let warm = format!(
        "{count} sleeps and wakes of one that stayed warm, {others} of them in another process"
    );
    shown(&format!("{warm}, which counted to {before} and whose tree stayed as it was"));
}

#[test]
fn it_goes_on_from_its_files_where_that_process_is_gone_or_of_no_use() {
    let server = server();
    let api = server.api();
    let machine = api.create("counter");
    let (boot, pid) = (boot_id(&api, &machine), api.shell(&machine, COUNTER).trim().to_owned());
    let mut last = hypervisor(&machine);
    let mut comes_back_in_another = |what: &str| {
        api.wake(&machine);
        assert_eq!(how(&api, &machine), resumed(), "{what}");
        counted(&api, &machine, &pid);
        assert_ne!(hypervisor(&machine), last, "{what}");
        last = hypervisor(&machine);
    };
    api.sleep(&machine);
    signal(hypervisor(&machine), Signal::SIGKILL);
    comes_back_in_another("its hypervisor was killed");
    api.sleep(&machine);
    signal(server.keeper(&machine).expect("it is warm"), Signal::SIGKILL);
    is_gone(&machine);
    comes_back_in_another("its process was killed");
    api.sleep(&machine);
    signal(server.keeper(&machine).expect("it is warm"), Signal::SIGTERM);
    is_gone(&machine);
    comes_back_in_another("its process was told to end");
    // It is not what it was: what is enforced outside of it is not what it was started with.
    api.sleep(&machine);
    let path = format!("/v1/machines/{machine}");
    let none = api.request(Method::PATCH, &path).json(&json!({ "egress": { "policy": "none" } }));
    api.send(none).ok();
    comes_back_in_another("it is to be held to something else");
    assert_eq!(boot_id(&api, &machine), boot);
}

#[test]
fn nothing_is_left_of_it_where_nobody_wants_it_any_more() {
    let server = server();
    let api = server.api();
    let cold = api.create("cold");
    let boot = boot_id(&api, &cold);
    api.sleep(&cold);
    api.post(&format!("/v1/machines/{cold}/wake?cold=true"), "").ok();
    assert_ne!(boot_id(&api, &cold), boot);
    hypervisor(&cold);
    api.sleep(&cold);
    api.delete(&format!("/v1/machines/{cold}")).ok();
    is_gone(&cold);
    let dir = server.data().join("machines").join(&cold);
    eventually("its directory goes", SOON, || !dir.exists());
    eventually("its process ends", SOON, || server.keeper(&cold).is_none());
}

#[test]
fn it_stays_for_as_long_as_it_was_told() {
    let args = vec!["--warm-seconds".to_owned(), "2".to_owned()];
    let server = Server::start(Options { warm: true, args, ..Options::default() });
    let api: Api = server.api();
    let machine = api.create("short");
    api.sleep(&machine);
    hypervisor(&machine);
    is_gone(&machine);
    eventually("its process ends", SOON, || server.keeper(&machine).is_none());
    api.wake(&machine);
    assert_eq!(how(&api, &machine), resumed());
}

#[test]
fn a_server_that_ends_leaves_nothing_of_those_that_sleep() {
    let mut server = server();
    let api = server.api();
    let (asleep, awake) = (api.create("asleep"), api.create("awake"));
    api.sleep(&asleep);
    hypervisor(&asleep);
    server.terminate();
    assert!(hypervisors(&asleep).is_empty());
    assert_eq!(hypervisors(&awake).len(), 1);
    server.restart();
    server.api().wake(&asleep);
    assert_eq!(how(&server.api(), &asleep), resumed());
}
