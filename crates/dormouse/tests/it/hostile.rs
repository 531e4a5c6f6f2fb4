//! A guest that means harm, beside one that does not.
//!
//! It floods, lies and falls silent as the agent, on every port that it has and in the memory that it shares with the
//! host (`hostile/guest.py`, run by its root, with the agent's own descriptors), and takes what it can get of
//! processes, memory, disk and output.
//! Its keeper and the server stay within their bounds of memory, and its neighbour does not notice.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Api, BOOT, Options, Server, eventually};

const PROGRAM: &str = include_str!("hostile/guest.py");

/// Resident memory of a keeper whose guest has 512 MiB, at its most: docs/semantics.md, "Jail".
const KEEPER_BYTES_MAX: u64 = 256 << 20;
/// The same of a server that has two machines.
const SERVER_BYTES_MAX: u64 = 256 << 20;
/// How long a machine may take to sleep whose agent does not answer: executions are ended (10 s), the agent is
/// asked (2 s and 15 s), the upper is looked at; and as long again, on a host that does other work.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Longer than anybody is asked, in seconds.
const WITHOUT_END: u32 = 600;
/// How long the hostile agent talks.
const PORTS_SECONDS: u32 = 8;
/// How long it writes over the ring before nothing in that is right any more.
const RING_SECONDS: u32 = 8;
/// How long an attack of seconds may take where the host is slow.
const ATTACK_MAX: Duration = Duration::from_secs(120);
/// How often a neighbour is asked.
const CALLS: usize = 20;

/// What a neighbour's callers see: half of the calls, and nearly all, are answered within these.
#[derive(Debug)]
struct Latency {
    exec: (Duration, Duration),
    get: (Duration, Duration),
}

impl Latency {
    fn of(api: &Api, machine: &str) -> Self {
        let exec = || {
            let path = format!("/v1/machines/{machine}/executions?wait_ms=30000");
            let done = api.post_json(&path, &json!({ "command": ["true"] })).ok().json();
            assert_eq!(done["status"], "succeeded", "{done}");
        };
        let get = || {
            let path = format!("/v1/machines/{machine}/fs/file");
            assert_eq!(api.get(&path).ok().text(), "content");
        };
        Self { exec: timed(exec), get: timed(get) }
    }

    /// Within what two cores may vary by on which other tests run as well. A neighbour that waits for a
    /// hostile one, for a lock or in a queue, waits for as long as that one likes, which is longer.
    #[track_caller]
    fn is_as(&self, before: &Self, what: &str) {
        eprintln!("{what}: {self:?}, before: {before:?}");
        for (now, then) in [(self.exec, before.exec), (self.get, before.get)] {
            assert!(now.0 <= 4 * then.0 + Duration::from_secs(5), "{what}: {self:?} {before:?}");
            assert!(now.1 <= 4 * then.1 + Duration::from_secs(20), "{what}: {self:?} {before:?}");
        }
    }
}

fn timed(call: impl Fn()) -> (Duration, Duration) {
    let mut took: Vec<Duration> = (0..CALLS)
        .map(|_| {
            let begun = Instant::now();
            call();
            begun.elapsed()
        })
        .collect();
    took.sort_unstable();
    (took[CALLS / 2], took[CALLS * 19 / 20 - 1])
}

/// The most memory that a process has had resident.
fn most_resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has memory");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

struct World {
    server: Server,
    api: Api,
    neighbour: String,
    hostile: String,
    before: Latency,
}

impl World {
    fn new() -> Self {
        let server = Server::start(Options::default());
        let api = server.api();
        let create = |name: &str, vcpu: f64| {
            let body = json!({"name": name, "vcpu": vcpu, "memory_mib": 512, "storage_gib": 1, "autosleep": "never"});
            let machine = api.post_json("/v1/machines", &body).ok().json();
            machine["machine_id"].as_str().expect("it has an id").to_owned()
        };
        let (neighbour, hostile) = (create("neighbour", 1.0), create("hostile", 0.5));
        [&neighbour, &hostile].iter().for_each(|machine| drop(api.until(machine, "running")));
        api.put(&format!("/v1/machines/{neighbour}/fs/file"), "content").ok();
        api.put(&format!("/v1/machines/{hostile}/fs/guest.py"), PROGRAM).ok();
        let before = Latency::of(&api, &neighbour);
        Self { server, api, neighbour, hostile, before }
    }

    /// Has the hostile guest do this for so long; its execution.
    fn begin(&self, mode: &str, seconds: u32) -> String {
        let seconds = seconds.to_string();
        let execution =
            self.api.start(&self.hostile, &["python3", "/root/guest.py", mode, &seconds]);
        eventually("it has begun", BOOT, || self.said(&execution).contains("begun"));
        execution
    }

    /// Has it end before its time.
    fn end(&self, execution: &str) {
        self.api.delete(&format!("/v1/machines/{}/executions/{execution}", self.hostile)).ok();
        self.api.ended(&self.hostile, execution);
    }

    /// Waits until it has noted what came of an attack after which it is heard as an agent no more.
    fn until_over(&self, mode: &str) {
        let machine = self.server.data().join("machines").join(&self.hostile);
        let console = machine.join("instance").join("console.log");
        let sign = format!("{mode} over");
        eventually(&format!("{sign} on the console"), ATTACK_MAX, || {
            // A log that is full begins anew, and is not there for a moment.
            let said = std::fs::read(&console).unwrap_or_default();
            String::from_utf8_lossy(&said).contains(&sign)
        });
    }

    fn said(&self, execution: &str) -> String {
        let path = format!("/v1/machines/{}/executions/{execution}/output", self.hostile);
        self.api.get(&path).ok().text()
    }

    /// Nobody but the hostile machine is harmed.
    #[track_caller]
    fn all_is_well(&self, what: &str) {
        Latency::of(&self.api, &self.neighbour).is_as(&self.before, what);
        let keeper = self.server.keeper(&self.hostile).expect("it has a keeper");
        let (keeper, server) = (most_resident(keeper), most_resident(self.server.pid()));
        eprintln!("{what}: keeper {} MiB, server {} MiB", keeper >> 20, server >> 20);
        assert!(keeper <= KEEPER_BYTES_MAX, "{what}: its keeper has {keeper} bytes");
        assert!(server <= SERVER_BYTES_MAX, "{what}: the server has {server} bytes");
    }
}

/// Checks the checks: the host was really told all that.
fn attacks_arrived(said: &str) {
    eprintln!("{said}");
    let taken = |name: &str| -> Vec<u64> {
        let line = said.lines().find(|line| line.starts_with(name));
        let words = line.unwrap_or_else(|| panic!("{name}: {said}")).split(' ').skip(1);
        words.map(|word| word.parse().expect("a number")).collect()
    };
    let [control, home] = taken("odd")[..] else { panic!("{said}") };
    assert!(control > 100 << 10 && home > 100 << 10, "{said}");
    // Where answers are not read, questions are not either, after some time.
    assert!(taken("unread")[0] > 0, "{said}");
    assert!(said.contains("announced") && said.contains("garbage"), "{said}");
}

/// The same for the ring, of which the host takes nothing once it is broken.
fn ring_was_broken(said: &str) {
    eprintln!("{said}");
    let passed = |name: &str| -> (u64, u64) {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        let pair = line.unwrap_or_else(|| panic!("{name}: {said}")).trim();
        serde_json::from_str(pair).expect("two numbers")
    };
    let (asked, answered) = passed("changed");
    assert!(asked > 100 && answered > 10, "{said}");
    assert!(passed("flood").0 > 100, "{said}");
    let (asked, answered) = passed("kept");
    assert!(asked > 0 && answered <= 64, "{said}");
    assert!(said.contains("broken not heard"), "{said}");
}

#[test]
fn a_hostile_guest_harms_nobody_else_and_obeys_its_owner() {
    let world = World::new();
    let World { api, hostile, .. } = &world;

    let flood = ["output", "console"].map(|mode| world.begin(mode, WITHOUT_END));
    let fill = world.begin("fill", 5);
    world.all_is_well("output, console and disk without end");
    flood.iter().for_each(|execution| world.end(execution));
    api.ended(hostile, &fill);
    let filled = world.said(&fill);
    assert!(filled.contains("done"), "{filled}");

    let forks = world.begin("forks", WITHOUT_END);
    world.all_is_well("processes without end");
    world.end(&forks);

    world.begin("ring", RING_SECONDS);
    world.all_is_well("a ring that changes while it is read");
    world.until_over("ring");
    let log = world.server.data().join("machines").join(hostile).join("keeper.log");
    let log = || std::fs::read_to_string(&log).expect("its keeper has said something");
    eventually("the ring is broken", ATTACK_MAX, || log().contains("the ring is broken"));
    world.all_is_well("a ring that is broken");
    let log = log();
    assert_eq!(log.matches("the channel closes").count(), 1, "{log}");
    api.sleep(hostile);
    api.wake(hostile);
    ring_was_broken(&api.shell(hostile, "cat /var/said"));

    world.begin("ports", PORTS_SECONDS);
    world.all_is_well("an agent that lies");
    world.until_over("ports");
    world.all_is_well("an agent that talked nonsense");

    // It answers nothing, and is put to sleep all the same.
    let begun = Instant::now();
    api.sleep(hostile);
    assert!(begun.elapsed() < SLEEP_MAX, "{:?}", begun.elapsed());
    eprintln!("asleep within {:?}", begun.elapsed());
    // What its owner has in it is there.
    let kept = api.get(&format!("/v1/machines/{hostile}/fs/guest.py")).ok().text();
    assert_eq!(kept, PROGRAM);

    api.wake(hostile);
    attacks_arrived(&api.shell(hostile, "cat /var/said"));
    world.begin("streams", WITHOUT_END);
    world.all_is_well("an agent that opens streams");
    let begun = Instant::now();
    api.delete(&format!("/v1/machines/{hostile}")).ok();
    eventually("it is gone", SLEEP_MAX, || world.server.keeper(hostile).is_none());
    eprintln!("deleted within {:?}", begun.elapsed());
    Latency::of(api, &world.neighbour).is_as(&world.before, "once it is gone");
}
