//! The group `machine`: one machine through its life, and its files awake and asleep.
//!
//! # Order
//! What the disk can do alone comes first, while nothing else runs. Then machines are created, by a boot and
//! from a template, and some whose memory is stored; the last one is woken and put to sleep while its home is small; then
//! its files are used awake, it sleeps, the same is done to the sleeping home, and the draft that this made is published.
//!
//! Not here: waking a machine on another host.

pub(super) mod commands;
mod files;
mod idle;
mod inside;
mod lifecycle;
mod neighbour;
mod trees;

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::Measured;
use super::disk::Disk;
use super::host::Host;
use super::http::Endpoint;
use super::report::{Report, Target};
use super::server::Server;
use super::tree::Tree;
use crate::progress;

/// Its name.
pub(super) const GROUP: &str = "machine";
/// The name of the part of it that is about small files over HTTP, which takes a minute.
pub(super) const HTTP: &str = "http";

/// Usual number of runs.
const RUNS: usize = 5;
/// Number of runs where one takes seconds.
const LONG_RUNS: usize = 3;
/// No further run begins after this; keeps the whole group below ten minutes.
const BUDGET: Duration = Duration::from_secs(30);

/// What rows must reach. Later issues add theirs; a row without one is for the record.
const TARGETS: &[Target] = &[
    Target { row: commands::WARM, against: None, must: 20.0, goal: 8.0 },
    Target {
        row: neighbour::BESIDE_A_FLOOD,
        against: Some(neighbour::ALONE),
        must: 1.5,
        goal: 1.1,
    },
    Target { row: lifecycle::FROM_TEMPLATE, against: None, must: 400.0, goal: 150.0 },
    Target { row: lifecycle::WAKE, against: None, must: 250.0, goal: 100.0 },
    Target { row: lifecycle::WAKE_FROM_FILES, against: None, must: 250.0, goal: 100.0 },
    Target { row: lifecycle::SLEEP, against: None, must: 1_500.0, goal: 500.0 },
    Target { row: lifecycle::PAUSE, against: None, must: 300.0, goal: 100.0 },
    Target { row: lifecycle::STORED, against: None, must: 40.0, goal: 20.0 },
    Target { row: idle::IDLE, against: None, must: 40.0, goal: 12.0 },
    Target { row: idle::IDLE_OF_FOUR, against: None, must: 40.0, goal: 12.0 },
    Target { row: idle::IDLE_ONE_MORE, against: None, must: 40.0, goal: 12.0 },
    Target { row: idle::IDLE_OF_FIFTY, against: None, must: 40.0, goal: 12.0 },
    Target { row: idle::IDLE_WOKEN, against: None, must: 40.0, goal: 12.0 },
    Target { row: inside::CREATE, against: None, must: 1.3, goal: 0.8 },
    Target { row: inside::WRITE, against: None, must: 60.0, goal: 110.0 },
    Target { row: inside::READ, against: None, must: 90.0, goal: 180.0 },
    Target { row: "PUT 4 KiB, awake, 32 connections", against: None, must: 5e3, goal: 2e4 },
    Target { row: "PUT 4 KiB, asleep, 32 connections", against: None, must: 1e4, goal: 2e4 },
];

/// Everything that sections share.
struct Bench {
    server: Server,
    endpoint: Endpoint,
    report: Report,
    disk: Disk,
    tree: Option<Tree>,
    /// The machine's id, once there is one.
    machine: Option<String>,
    /// What the large file in the home was made from.
    large: Option<u32>,
}

/// A part of the work, with words for people.
type Section = (&'static str, fn(&mut Bench) -> anyhow::Result<()>);

const SECTIONS: &[Section] = &[
    ("pack a source tree", make_tree),
    ("the disk alone: 4 KiB files", files::disk_small),
    ("the disk alone: 1 GiB", files::disk_large),
    ("the disk alone: tar", trees::disk),
    ("create → first output", lifecycle::create),
    ("create from a template", lifecycle::create_from_template),
    ("stored memory", lifecycle::stored_memory),
    ("sleep and wake", lifecycle::sleep_and_wake),
    ("exec", commands::measure),
    ("exec, beside a machine that floods its home", neighbour::measure),
    ("memory of an idle machine", idle::idle_memory),
    ("files, in the guest", inside::files),
    ("4 KiB, awake", |bench| files::small(bench, State::Awake)),
    ("tar, awake", |bench| trees::measure(bench, State::Awake)),
    ("1 GiB, awake", |bench| files::large(bench, State::Awake)),
    ("sleep, everything uploaded", lifecycle::sleep_after_writes),
    ("4 KiB, asleep", |bench| files::small(bench, State::Asleep)),
    ("tar, asleep", |bench| trees::measure(bench, State::Asleep)),
    ("1 GiB, asleep", |bench| files::large(bench, State::Asleep)),
    ("publish the draft", lifecycle::publish),
];

const HTTP_SECTIONS: &[Section] = &[
    ("the disk alone: 4 KiB files", files::disk_small),
    ("create → first output", lifecycle::create_one),
    ("4 KiB, awake", |bench| files::small(bench, State::Awake)),
    ("sleep, everything uploaded", lifecycle::sleep_after_writes),
    ("4 KiB, asleep", |bench| files::small(bench, State::Asleep)),
];

/// Whether the machine runs while its files are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Awake,
    Asleep,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Awake => "awake",
            Self::Asleep => "asleep",
        }
    }
}

/// Runs all of it.
pub(super) fn measure(only: &str) -> anyhow::Result<Measured> {
    run(GROUP, SECTIONS, only)
}

/// Runs what is about small files over HTTP.
pub(super) fn measure_http(only: &str) -> anyhow::Result<Measured> {
    run(HTTP, HTTP_SECTIONS, only)
}

fn run(group: &'static str, sections: &[Section], only: &str) -> anyhow::Result<Measured> {
    let server = Server::prepare()?;
    let endpoint = progress::step("start the server", || server.start());
    let endpoint = endpoint.inspect_err(|_| server.show_logs())?;
    let report = Report::new(group, Host::this(), TARGETS);
    let (disk, tree, machine, large) = (Disk::default(), None, None, None);
    let mut bench = Bench { server, endpoint, report, disk, tree, machine, large };
    let mut failures = Vec::new();
    for (what, section) in sections.iter().filter(|(what, _)| what.contains(only)) {
        if let Err(error) = progress::step(what, || section(&mut bench)) {
            bench.server.wait_if_interrupted();
            eprintln!("{what}: {error:#}");
            failures.push(error.context(*what));
        }
    }
    if !failures.is_empty() {
        bench.server.show_logs();
    }
    let Bench { server, report, .. } = bench;
    progress::step("clean up", || {
        drop(server);
        Ok(())
    })?;
    Ok((report, failures))
}

fn make_tree(bench: &mut Bench) -> anyhow::Result<()> {
    bench.tree = Some(Tree::make(bench.server.root())?);
    Ok(())
}

impl Bench {
    fn machine(&self) -> anyhow::Result<&str> {
        self.machine.as_deref().context("there is no machine")
    }

    fn tree(&self) -> anyhow::Result<&Tree> {
        self.tree.as_ref().context("there is no source tree")
    }

    /// The URL path of something of the machine.
    fn path(&self, rest: &str) -> anyhow::Result<String> {
        Ok(format!("/v1/machines/{}{rest}", self.machine()?))
    }

    /// A call without a body, JSON back.
    fn ask(&self, method: &str, path: &str) -> anyhow::Result<Value> {
        self.endpoint.json(method, path, &Value::Null)
    }
}
