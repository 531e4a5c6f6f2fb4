//! kill -9 of whoever takes part in a sleep or a wake, and two servers that want the same machine.
//!
//! The tests do a few rounds; `cargo xtask soak` has them do more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use crate::sleep::{COUNTER, boot_id, counted};
use crate::support::server::signal;
use crate::support::{
    Api, BOOT, Chance, Options, Rounds, Server, Storing, adopted, eventually, shown, until_stored,
};

/// Processes of a hypervisor that runs this machine, of whichever server.
pub(crate) fn hypervisors(machine: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("list processes").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let is_qemu = words.next().is_some_and(|first| {
            String::from_utf8_lossy(first).rsplit('/').next().is_some_and(|n| n.starts_with("qemu"))
        });
        is_qemu && words.any(|word| word.starts_with(machine.as_bytes()))
    })
    .collect()
}

/// For how long its guest has run.
fn ran(hypervisor: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{hypervisor}/task")).into_iter().flatten();
    let times = threads.flatten().map(|thread| thread.path()).filter_map(|thread| {
        let name = std::fs::read_to_string(thread.join("comm")).unwrap_or_default();
        let times = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
        let ran = times.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok());
        ran.filter(|_| name.starts_with("CPU "))
    });
    Duration::from_nanos(times.max().unwrap_or(0))
}

/// Whether it is held: it is that of a warm machine.
fn stands_still(hypervisor: u32) -> bool {
    let told = std::fs::read_to_string(format!("/proc/{hypervisor}/stat")).unwrap_or_default();
    told.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}

/// Whether its guest runs. One that is loaded and waits for its home has a processor, which has done nothing since it
/// stood still: half a millisecond of getting ready. One that goes on is at 5 ms long before anybody could hear of it.
fn runs(hypervisor: u32, stood_still: &HashMap<u32, Duration>) -> bool {
    let before = stood_still.get(&hypervisor).copied().unwrap_or_default();
    ran(hypervisor) > before + Duration::from_millis(5) && !stands_still(hypervisor)
}

/// Looks all the time how many copies of a machine run, until it is dropped.
struct Watch<'a>(&'a AtomicBool);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs `work` while somebody counts the copies of a machine that run; the most that there were at once.
fn most_copies(machine: &str, work: impl FnOnce()) -> usize {
    let (done, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    let still = hypervisors(machine).into_iter().filter(|pid| stands_still(*pid));
    let stood_still = still.map(|pid| (pid, ran(pid))).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let copies =
                    hypervisors(machine).into_iter().filter(|pid| runs(*pid, &stood_still)).count();
                most.fetch_max(copies, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let _watch = Watch(&done);
        work();
    });
    most.load(Ordering::SeqCst)
}

/// A call whose answer does not matter, and that may find nobody.
fn try_post(api: &Api, path: &str) {
    api.request(Method::POST, path).send().ok();
}

fn seen(api: &Api, machine: &str) -> Value {
    api.get(&format!("/v1/machines/{machine}")).ok().json()
}

/// Runs a command, where the server gets as far as that; its output.
fn try_shell(api: &Api, machine: &str, script: &str) -> Option<String> {
    let path = format!("/v1/machines/{machine}/executions");
    let reply = api.post_json(&path, &json!({ "command": ["/bin/bash", "-ec", script] }));
    // Where a keeper was killed the server may not have noticed yet: 502, and to be tried again.
    let id = reply.status.is_success().then(|| reply.json()["execution_id"].clone())?;
    let id = id.as_str()?.to_owned();
    let done = api.ended(machine, &id);
    let output = api.get(&format!("{path}/{id}/output")).ok().json();
    (done["status"] == "succeeded").then(|| output["stdout"].as_str().map(str::to_owned))?
}

/// Wakes a machine as often as it takes until a command runs in it; what that printed.
fn until_it_works(api: &Api, machine: &str, script: &str) -> String {
    let mut output = None;
    eventually("the machine comes back", BOOT, || {
        let phase = seen(api, machine)["status"]["phase"].as_str().unwrap_or_default().to_owned();
        if matches!(phase.as_str(), "failed" | "sleeping") {
            try_post(api, &format!("/v1/machines/{machine}/wake"));
        }
        output = (phase == "running").then(|| try_shell(api, machine, script)).flatten();
        output.is_some()
    });
    output.unwrap_or_default()
}

/// The processes that a sleep or a wake needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Keeper,
    Hypervisor,
    Server,
}

const VICTIMS: [Victim; 3] = [Victim::Keeper, Victim::Hypervisor, Victim::Server];

/// What the guest was told that is on the disk of others.
const NOTE: &str = "echo $N >>/root/notes; sync -f /root/notes; wc -l </root/notes";

/// A process that lives as long as its guest does.
struct Living {
    boot: String,
    pid: String,
    counted: u64,
}

impl Living {
    fn begin(api: &Api, machine: &str) -> Self {
        let pid = api.shell(machine, &format!("rm -f /root/count\n{COUNTER}")).trim().to_owned();
        Self { boot: boot_id(api, machine), pid, counted: 0 }
    }

    /// Whether the guest is still the same. Its process then goes on where it was.
    fn goes_on(&mut self, api: &Api, machine: &str) -> bool {
        if boot_id(api, machine) != self.boot {
            return false;
        }
        let before = self.counted;
        eventually("the process goes on", BOOT, || {
            self.counted = counted(api, machine, &self.pid);
            self.counted > before
        });
        true
    }
}

#[test]
fn whoever_is_killed_at_any_point_of_a_sleep_or_a_wake_nothing_is_lost() {
    kill(Rounds::usually(12), Options::default());
}

#[test]
fn whoever_is_killed_of_a_machine_that_stays_warm_nothing_is_lost() {
    kill(Rounds::usually(9), Options { warm: true, ..Options::default() });
}

fn kill(rounds: Rounds, options: Options) {
    let mut chance = Chance::new();
    let (count, warm) = (rounds.count, options.warm);
    let mut server = Server::start(options);
    let machine = server.api().create("killed");
    let at = |n: u64| format!("/v1/machines/{machine}/fs/put-{n}");
    let mut process = Living::begin(&server.api(), &machine);
    let (mut resumed, mut hit) = (0, 0);
    for round in rounds {
        let victim = VICTIMS[(round % 3) as usize];
        let api = server.api();
        api.put(&at(round), format!("content {round}")).ok();
        let noted = api.shell(&machine, &NOTE.replace("$N", &round.to_string()));
        assert_eq!(noted.trim(), (round + 1).to_string(), "what the guest noted is all there");
        // From the first moment of a sleep to well into the wake after it.
        let moment = chance.milliseconds(if warm { 200 } else { 900 });
        let serve = (victim == Victim::Server).then(|| server.pid());
        let killed = AtomicBool::new(false);
        let most = most_copies(&machine, || {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(moment);
                    let pids = match victim {
                        Victim::Keeper => server.keeper(&machine).into_iter().collect(),
                        Victim::Hypervisor => hypervisors(&machine),
                        Victim::Server => serve.into_iter().collect(),
                    };
                    killed.store(!pids.is_empty(), Ordering::SeqCst);
                    pids.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
                });
                try_post(&api, &format!("/v1/machines/{machine}/sleep"));
                try_post(&api, &format!("/v1/machines/{machine}/wake"));
            });
            if victim == Victim::Server {
                server.kill();
                server.restart();
            }
            until_it_works(&server.api(), &machine, "true");
        });
        assert!(most <= 1, "round {round}: {most} copies ran at once");
        let api = server.api();
        let killed = killed.into_inner();
        hit += u64::from(killed);
        // A guest outlives the server, and whoever was not there to be killed.
        let unharmed = victim == Victim::Server || !killed;
        let reason = seen(&api, &machine)["status"]["reason"].clone();
        eprintln!("{victim:?} killed after {moment:?} ({killed}): {reason}");
        resumed += u64::from(reason == "resumed");
        if unharmed || reason == "resumed" {
            assert!(process.goes_on(&api, &machine), "round {round}, {victim:?}: it was booted");
        } else {
            assert!(!process.goes_on(&api, &machine), "round {round}, {victim:?}: {reason}");
            process = Living::begin(&api, &machine);
        }
        let notes = api.shell(&machine, "cat /root/notes");
        let told = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let all: Vec<String> = (0..=round).map(|n| n.to_string()).collect();
        assert_eq!(told(&notes), all, "round {round}, {victim:?} killed after {moment:?}");
        for n in [round, chance.below(round + 1), chance.below(round + 1)] {
            let content = format!("content {n}");
            assert_eq!(api.get(&at(n)).expect(200).text(), content, "round {round}, {victim:?}");
            assert_eq!(api.shell(&machine, &format!("cat /root/put-{n}")), content);
        }
    }
    assert!(hit * 2 > count, "hardly anybody was killed");
    assert!(resumed * 6 >= count, "{resumed} of {count} wakes went on from memory");
    shown(&format!("{count} kills tried, {hit} met somebody, {resumed} wakes went on from memory"));
}

#[test]
fn of_two_servers_that_wake_a_machine_at_once_one_does() {
    let store = tempfile::tempdir().expect("make a directory");
    race(&Options::with_store(store.path()), |_, _| ());
}

#[test]
fn of_two_servers_one_of_which_has_it_warm_one_wakes_it() {
    let storing = Storing::new();
    let options = Options { warm: true, ..storing.options.clone() };
    let (resumed, wakes) = race(&options, until_stored);
    assert_eq!(resumed, wakes, "whoever won had the memory");
}

#[test]
fn of_two_servers_that_race_for_stored_memory_one_has_it() {
    let storing = Storing::new();
    let (resumed, wakes) = race(&storing.options, until_stored);
    assert_eq!(resumed, wakes, "whoever won had the memory");
}

/// Has two servers wake a machine at once, again and again; `asleep` is waited for before. How many wakes went on from
/// memory, and how many there were.
fn race(options: &Options, asleep: impl Fn(&Api, &str)) -> (u64, u64) {
    let (rounds, mut chance) = (Rounds::usually(4), Chance::new());
    let count = rounds.count;
    let first = Server::start(options.clone());
    let machine = first.api().create("contested");
    first.api().sleep(&machine);
    asleep(&first.api(), &machine);
    let (_data, second) = adopted(options);
    let servers = [first.api(), second.api()];
    let (mut won, mut resumed) = ([0, 0], 0);
    for round in rounds {
        let (late, mut winner) = (chance.milliseconds(60), 0);
        let most = most_copies(&machine, || {
            std::thread::scope(|scope| {
                for (who, api) in servers.iter().enumerate() {
                    let machine = &machine;
                    // Sometimes the one is a little later, sometimes the other.
                    let waits = (who as u64 == round % 2).then_some(late);
                    scope.spawn(move || {
                        std::thread::sleep(waits.unwrap_or_default());
                        try_post(api, &format!("/v1/machines/{machine}/wake"));
                    });
                }
            });
            let begun = Instant::now();
            while !servers.iter().any(|api| seen(api, &machine)["status"]["phase"] == "running") {
                assert!(begun.elapsed() < BOOT, "nobody woke it: {:?}", both(&servers, &machine));
                std::thread::sleep(Duration::from_millis(50));
            }
            // Whoever came too late has given up by then, or is about to.
            eventually("the other one gives up", BOOT, || {
                let phases = both(&servers, &machine);
                phases.iter().filter(|phase| *phase == "running").count() == 1
                    && phases.iter().all(|phase| phase != "waking" && phase != "starting")
            });
            // Counted for as long as the winner works: a warm guest that nobody asks for anything is awake within
            // fewer milliseconds than a copy has to run to count.
            let phases = both(&servers, &machine);
            winner = usize::from(phases[1] == "running");
            let noted = servers[winner].shell(&machine, &NOTE.replace("$N", &round.to_string()));
            assert_eq!(noted.trim(), (round + 1).to_string(), "round {round}: {phases:?}");
        });
        assert_eq!(most, 1, "round {round}: {most} copies ran at once");
        won[winner] += 1;
        let status = seen(&servers[winner], &machine)["status"].clone();
        eprintln!("round {round}: {winner} woke it: {} {}", status["reason"], status["last_error"]);
        resumed += u64::from(status["reason"] == "resumed");
        servers[winner].sleep(&machine);
        asleep(&servers[winner], &machine);
    }
    let [one, other] = won;
    shown(&format!("{count} races, {one} and {other} won, {resumed} went on from memory"));
    (resumed, count)
}

/// What both servers say of a machine.
fn both(servers: &[Api; 2], machine: &str) -> Vec<String> {
    let phase = |api| seen(api, machine)["status"]["phase"].as_str().unwrap_or_default().to_owned();
    servers.iter().map(phase).collect()
}
