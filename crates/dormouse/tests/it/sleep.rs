//! A machine sleeps with its memory and goes on from it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Api, Chance, Options, Rounds, Server, shown};

/// Appends a number and its own process id to `/root/count`, as fast as it likes, for ever; and writes to
/// a file of the home that has no name any more.
pub(crate) const COUNTER: &str = "cat >/root/counter <<'END'
exec 3>/root/unnamed; rm /root/unnamed
i=0
while :; do i=$((i+1)); echo $i $$ >>/root/count; echo $i >&3; sleep 0.02; done
END
nohup bash /root/counter >/dev/null 2>&1 & echo $!
while [ ! -s /root/count ]; do sleep 0.05; done";

/// Makes a tree in the home that nobody changes.
pub(crate) const TREE: &str = "cp -a /usr/share/perl5 /root/tree";

/// The hash of that tree: of what its kernel has in its caches in even cycles, of what the home has in the others.
pub(crate) fn tree_hash(api: &Api, machine: &str, cycle: u64) -> String {
    let forget = if cycle.is_multiple_of(2) { "" } else { "echo 3 >/proc/sys/vm/drop_caches; " };
    let tree = "cd /root/tree && find . -type f -exec sha256sum {} + | sort | sha256sum";
    api.shell(machine, &format!("{forget}{tree}"))
}

/// How the machine came up, and why not from its memory.
pub(crate) fn how(api: &Api, machine: &str) -> (String, String) {
    let seen = api.get(&format!("/v1/machines/{machine}")).ok().json();
    let text = |name: &str| seen["status"][name].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("last_error"))
}

pub(crate) fn boot_id(api: &Api, machine: &str) -> String {
    api.shell(machine, "cat /proc/sys/kernel/random/boot_id")
}

/// How far the counter has come. No number is missing, none is there twice, and one process wrote all.
pub(crate) fn counted(api: &Api, machine: &str, pid: &str) -> u64 {
    let check = "awk -v pid=$PID '$1 != NR || $2 != pid { print \"line\", NR, $0; bad = 1 } \
                 END { if (!bad) print NR }' /root/count";
    let said = api.shell(machine, &check.replace("$PID", pid));
    said.trim().parse().unwrap_or_else(|_| panic!("{said}"))
}

/// How long its guest was paused when it was put to sleep, as its keeper said at its end.
fn paused_ms(server: &Server, machine: &str) -> u128 {
    let words = server.data().join("machines").join(machine).join("status.json");
    let words: Value =
        serde_json::from_slice(&std::fs::read(words).expect("read it")).expect("JSON");
    words["paused_ms"].as_u64().unwrap_or_else(|| panic!("it was not saved: {words}")).into()
}

/// How many processes of the guest have this command line.
fn running(api: &Api, machine: &str, line: &str) -> u64 {
    let list =
        "for p in /proc/[0-9]*/cmdline; do { tr '\\0' ' ' <$p || true; } 2>/dev/null; echo; done";
    let count = format!("{list} | grep -c '^{line} $' || true");
    api.shell(machine, &count).trim().parse().expect("a number")
}

#[test]
fn a_counter_goes_on_over_sleeps_as_if_it_had_blinked() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("counter");
    api.shell(&machine, &format!("{TREE}; echo kept >/usr/local/marker"));
    let (hash, boot) = (tree_hash(&api, &machine, 0), boot_id(&api, &machine));
    let pid = api.shell(&machine, COUNTER).trim().to_owned();
    let (mut before, mut longest, mut chance) = (0, 0, Chance::new());
    let cycles = Rounds::usually(12);
    let count = cycles.count;
    for cycle in cycles {
        std::thread::sleep(chance.milliseconds(200));
        let begun = Instant::now();
        api.sleep(&machine);
        let paused = paused_ms(&server, &machine);
        assert!((1..begun.elapsed().as_millis()).contains(&paused), "cycle {cycle}: {paused} ms");
        longest = longest.max(paused);
        if cycle % 50 == 3 {
            std::thread::sleep(Duration::from_secs(5));
        }
        api.wake(&machine);
        assert_eq!(how(&api, &machine), ("resumed".to_owned(), String::new()), "cycle {cycle}");
        crate::support::eventually("the counter goes on", Duration::from_secs(60), || {
            counted(&api, &machine, &pid) > before
        });
        before = counted(&api, &machine, &pid);
        let clock: f64 = api.shell(&machine, "date +%s.%N").trim().parse().expect("a number");
        let ours = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_secs_f64();
        assert!((ours - clock).abs() < 3.0, "cycle {cycle}: its clock is {} s off", ours - clock);
        assert_eq!(tree_hash(&api, &machine, cycle), hash, "cycle {cycle}");
        assert_eq!(boot_id(&api, &machine), boot, "cycle {cycle}: it was booted");
    }
    assert_eq!(api.shell(&machine, "cat /usr/local/marker").trim(), "kept");
    // What it wrote to the file without a name is all there.
    let unnamed = format!("awk '$1 != NR {{ exit 1 }} END {{ print NR }}' /proc/{pid}/fd/3");
    let lines: u64 = api.shell(&machine, &unnamed).trim().parse().expect("a number");
    assert!(lines >= before, "{lines} of {before}");
    // And the API sees what it writes, as ever.
    let read = api.get(&format!("/v1/machines/{machine}/fs/count")).ok().text();
    assert!(read.lines().count() as u64 >= before);
    let slept = format!("{count} sleeps and wakes, the longest pause {longest} ms");
    shown(&format!("{slept}, of one process that counted to {before} without a gap"));
}

#[test]
fn files_written_by_the_api_between_sleeps_are_seen_by_the_guest() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("between");
    let at = |name: &str| format!("/v1/machines/{machine}/fs/{name}");
    for cycle in 0..4 {
        // The guest's kernel has the file, its absence, and its directory in its caches.
        api.put(&at("dir/file"), format!("content {cycle}")).ok();
        let look = "cat /root/dir/file; ls /root/dir | wc -l; test ! -e /root/dir/later";
        assert_eq!(api.shell(&machine, look), format!("content {cycle}1\n"));
        api.sleep(&machine);
        api.wake(&machine);
        assert_eq!(how(&api, &machine).0, "resumed");
        api.put(&at("dir/file"), format!("changed {cycle}")).ok();
        api.put(&at("dir/later"), "here").ok();
        let look = "cat /root/dir/file /root/dir/later; rm /root/dir/later";
        assert_eq!(api.shell(&machine, look), format!("changed {cycle}here"));
    }
}

#[test]
fn what_is_published_to_a_sleeping_home_is_seen_by_the_processes_that_go_on() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("changed");
    let at = |name: &str| format!("/v1/machines/{machine}/fs/{name}");
    let publish = || drop(api.post(&at("publish"), "").ok());
    let resumed = |what: &str| {
        api.wake(&machine);
        assert_eq!(how(&api, &machine), ("resumed".to_owned(), String::new()), "{what}");
    };
    // Without the file that has no name: what was written to it is on this host only, see below.
    let counter = COUNTER.replace("exec 3>/root/unnamed; rm /root/unnamed\n", "");
    let counter = counter.replace("echo $i >&3; ", "");
    assert!(!counter.contains("unnamed") && !counter.contains(">&3"));
    let pid = api.shell(&machine, &counter).trim().to_owned();
    let boot = boot_id(&api, &machine);
    for (name, content) in [("tree/file", "before"), ("tree/gone/f", "f"), ("open", "before")] {
        api.put(&at(name), content).ok();
    }
    // The kernel has all of it in its caches: content, names, and that there is none. A process has one
    // file open and stands in a directory.
    let look =
        "cd /root; cat tree/file open; cat tree/gone/f; ls tree | tr '\\n' ' '; test ! -e tree/new";
    assert_eq!(api.shell(&machine, look), "beforebeforeffile gone ");
    let holder = "mkdir -p /root/stands && cd /root/stands && exec 4</root/open && \
                  nohup sleep 100000 >/dev/null 2>&1 & sleep 1; echo $!";
    let holder = api.shell(&machine, holder).trim().to_owned();
    api.sleep(&machine);

    // A draft that nobody published is no change.
    api.put(&at("open"), "after").ok();
    resumed("a draft");
    assert_eq!(api.shell(&machine, "cat /root/open"), "before");
    api.delete(&format!("/v1/machines/{machine}/draft")).expect(200);
    api.sleep(&machine);

    api.put(&at("tree/file"), "after").ok();
    api.put(&at("tree/new"), "new").ok();
    api.put(&at("open"), "after").ok();
    api.delete(&at("tree/gone?recursive=true")).ok();
    publish();
    // And once more upon that.
    api.put(&at("tree/file"), "after that").ok();
    publish();
    resumed("two published drafts");
    let look = "cd /root; cat tree/file open tree/new; test ! -e tree/gone; ls tree | tr '\\n' ' '";
    assert_eq!(api.shell(&machine, look), "after thatafternewfile new ");
    let held = format!("cat /proc/{holder}/fd/4; readlink /proc/{holder}/cwd");
    assert_eq!(api.shell(&machine, &held), "before/root/stands\n");
    counted(&api, &machine, &pid);
    api.sleep(&machine);
    resumed("nothing");
    assert_eq!(api.shell(&machine, &held), "before/root/stands\n");

    // A draft whose home moved is applied by path, while it sleeps.
    api.sleep(&machine);
    api.put(&at("tree/new"), "newer").ok();
    resumed("a draft");
    api.shell(&machine, "echo moved >/root/moved");
    api.sleep(&machine);
    publish();
    resumed("a draft that was applied");
    assert_eq!(api.shell(&machine, "cat /root/tree/new /root/moved"), "newermoved\n");
    assert_eq!(boot_id(&api, &machine), boot);
    counted(&api, &machine, &pid);
    assert_eq!(running(&api, &machine, "bash /root/counter"), 1);

    // What a process wrote to a file without a name is on this host only: it would find it empty.
    let unnamed = "exec 5>/root/unnamed; rm /root/unnamed; head -c 100000 /dev/urandom >&5; \
                   nohup sleep 100000 >/dev/null 2>&1 & sleep 1";
    api.shell(&machine, unnamed);
    api.sleep(&machine);
    api.put(&at("tree/new"), "newest").ok();
    publish();
    api.wake(&machine);
    assert_eq!(how(&api, &machine).0, "booted_without_memory");
    assert_eq!(api.shell(&machine, "cat /root/tree/new"), "newest");
}

#[test]
fn memory_does_not_go_on_upon_a_home_that_is_another_one() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("another");
    api.put(&format!("/v1/machines/{machine}/fs/file"), "before").ok();
    let cli = |args: &[&str]| {
        let output = server.cli(args).output().expect("run it");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    cli(&["snapshot", "another", "--name", "first"]);
    let pid = api.shell(&machine, COUNTER).trim().to_owned();
    let boot = boot_id(&api, &machine);
    api.put(&format!("/v1/machines/{machine}/fs/file"), "after").ok();
    counted(&api, &machine, &pid);
    api.sleep(&machine);
    cli(&["restore", "another", "first"]);
    api.wake(&machine);
    let (reason, why) = how(&api, &machine);
    assert_eq!(reason, "booted_without_memory");
    assert!(why.contains("its home was changed while it slept"), "{why}");
    assert_ne!(boot_id(&api, &machine), boot);
    assert_eq!(api.shell(&machine, "cat /root/file"), "before");
    assert_eq!(running(&api, &machine, "bash /root/counter"), 0);
}

#[test]
fn a_wake_that_comes_to_nothing_costs_no_memory() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("unlucky");
    let pid = api.shell(&machine, COUNTER).trim().to_owned();
    let boot = boot_id(&api, &machine);
    let before = counted(&api, &machine, &pid);
    api.sleep(&machine);
    // A keeper misses it once it has claimed the home.
    let pin = server.data().join("machines").join(&machine).join("root.sha256");
    let aside = pin.with_extension("aside");
    std::fs::rename(&pin, &aside).expect("set it aside");
    api.post(&format!("/v1/machines/{machine}/wake"), "").ok();
    let failed = api.until(&machine, "failed");
    let why = failed["status"]["last_error"].as_str().unwrap_or_default();
    assert!(why.contains("root.sha256"), "{why}");
    std::fs::rename(&aside, &pin).expect("put it back");
    api.wake(&machine);
    assert_eq!(how(&api, &machine), ("resumed".to_owned(), String::new()));
    assert_eq!(boot_id(&api, &machine), boot);
    assert!(counted(&api, &machine, &pid) >= before);
}

#[test]
fn a_machine_boots_where_it_is_asked_to() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("cold");
    let boot = boot_id(&api, &machine);
    let cold = format!("/v1/machines/{machine}/wake?cold=true");
    let refused = api.post(&cold, "").expect(409).json();
    assert_eq!(refused["error_code"], "INVALID_STATE", "{refused}");
    api.shell(&machine, "echo kept >/root/file");
    api.sleep(&machine);
    api.post(&cold, "").ok();
    api.until(&machine, "running");
    assert_eq!(how(&api, &machine), ("ready".to_owned(), String::new()));
    let second = boot_id(&api, &machine);
    assert_ne!(second, boot);
    assert_eq!(api.shell(&machine, "cat /root/file").trim(), "kept");
    // Memory of another size is no memory of this machine.
    api.sleep(&machine);
    let size = serde_json::json!({ "memory_mib": 640 });
    api.send(api.request(reqwest::Method::PATCH, &format!("/v1/machines/{machine}")).json(&size))
        .ok();
    api.wake(&machine);
    let (reason, why) = how(&api, &machine);
    assert!(reason == "booted_without_memory" && why.contains("its size"), "{reason}: {why}");
}

#[test]
fn a_command_that_runs_ends_with_the_sleep_and_what_it_left_goes_on() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("commands");
    let pid = api.shell(&machine, COUNTER).trim().to_owned();
    let execution = api.start(&machine, &["/bin/sleep", "1000"]);
    let state = || api.get(&format!("/v1/machines/{machine}/executions/{execution}")).ok().json();
    crate::support::eventually("it runs", Duration::from_secs(60), || {
        state()["status"] == "running"
    });
    api.sleep(&machine);
    let ended: Value = state();
    assert_eq!(
        (&ended["status"], &ended["error_code"]),
        (&"failed".into(), &"MACHINE_STOPPED".into())
    );
    api.wake(&machine);
    assert_eq!(running(&api, &machine, "/bin/sleep 1000"), 0);
    assert_eq!(running(&api, &machine, "bash /root/counter"), 1);
    counted(&api, &machine, &pid);
}

/// So many seconds from now, as the API writes it.
fn from_now(seconds: i64) -> String {
    let now = base::Clock::now(&base::SystemClock::new());
    base::Timestamp::from_second(now.as_second() + seconds).expect("a time").to_string()
}

#[test]
fn a_machine_that_sleeps_is_woken_at_its_time() {
    let mut server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("alarm");
    let wake = |api: &Api, at: &str| api.post(&format!("/v1/machines/{machine}/wake?at={at}"), "");
    for refused in [from_now(-60), "tomorrow".to_owned(), String::new()] {
        let said = wake(&api, &refused).expect(400).json();
        assert_eq!(said["error_code"], "INVALID_REQUEST", "{said}");
    }
    wake(&api, &format!("{}&cold=true", from_now(60))).expect(400);
    let status =
        |api: &Api| api.get(&format!("/v1/machines/{machine}")).ok().json()["status"].clone();

    // Awake it is noted only, and can be taken back.
    let later = from_now(3_600);
    assert_eq!(wake(&api, &later).ok().json()["status"]["wake_at"], later.as_str());
    assert_eq!(wake(&api, "never").ok().json()["status"].get("wake_at"), None);

    // What the guest asks for counts beside it: the sooner one.
    api.shell(&machine, "dormouse-agent wake-at +1h");
    wake(&api, &from_now(7_200)).ok();
    api.sleep(&machine);
    let at: base::Timestamp =
        status(&api)["wake_at"].as_str().expect("a time").parse().expect("a time");
    let in_seconds = at.as_second() - base::Clock::now(&base::SystemClock::new()).as_second();
    assert!((3_000..3_700).contains(&in_seconds), "in {in_seconds} s");
    wake(&api, "never").ok();
    assert_eq!(status(&api).get("wake_at"), None, "its guest's wish is taken back, too");
    api.wake(&machine);
    api.sleep(&machine);
    assert!(status(&api)["wake_at"].is_string(), "its guest is asked at every sleep");
    api.wake(&machine);
    api.shell(&machine, "dormouse-agent wake-at never");
    api.sleep(&machine);
    assert_eq!(status(&api).get("wake_at"), None);

    // By the API, and by the guest.
    wake(&api, &from_now(4)).ok();
    let seen = api.until(&machine, "running");
    assert_eq!(
        (&seen["status"]["reason"], seen["status"].get("wake_at")),
        (&"resumed".into(), None)
    );
    api.shell(&machine, "dormouse-agent wake-at +15");
    api.sleep(&machine);
    api.until(&machine, "running");

    // A time that comes while no server runs.
    api.sleep(&machine);
    wake(&api, &from_now(2)).ok();
    server.kill();
    std::thread::sleep(Duration::from_secs(3));
    server.restart();
    server.api().until(&machine, "running");
}
