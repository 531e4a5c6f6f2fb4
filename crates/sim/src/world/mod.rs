//! A seeded simulation of homes, hosts that write and read them, and a store that fails.
//!
//! ```text
//! run        one seed: choose a step, do it, compare, until the end; then lose everything but the store
//!   steps    which step comes next
//!   writers  opening, acting, syncing, giving up, dying
//!   drafts   unpublished writes and their publication
//!   carry    drafts whose home moved on meanwhile
//!   readers  snapshots; walking a commit to see that all it names is there
//!   races    two of these at once, in an order that the seed decides
//!   pins     snapshots, restores, forks, the end of homes
//!   garbage  the collector, beside all of them
//!   belief   what the store may hold: the oracle
//! ```
//!
//! # How far a seed repeats
//! Choices, ids, nonces, clocks, content, the faults of each call of the store and the order of racing
//! calls come from the seed. What does not: the engine's own threads. They act on what a step
//! asked for while that step waits, so the trace of a seed is the same in each run; a test holds that.
//! A fault that strikes the k-th call of a round whose uploads run at once may strike another one.
//!
//! # Always true
//! See [`Belief`]. A violation ends the run with a sentence, the seed and the trace.

mod belief;
mod carry;
mod drafts;
mod garbage;
mod host;
mod pins;
mod races;
mod readers;
mod steps;
mod writers;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base::HomeId;
use homefs::Parts;
use objstore::{MemoryStore, ObjectStore as _};
use testkit::SeededEntropy;

pub use belief::{Belief, Held};
use host::Host;
use pins::Kept;
pub(crate) use writers::watched;

use crate::chance::{Chance, mix, uuid};
use crate::store::{Rates, Wire};

pub(crate) static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("start a runtime")
});

/// The outcome of a check: a violation in one sentence.
pub(crate) type Check<T = ()> = Result<T, String>;

/// How much a seed does.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Steps of one seed.
    pub steps: u64,
    /// Homes.
    pub homes: usize,
    /// Hosts.
    pub hosts: usize,
    /// What is broken on purpose: the simulation must find it out.
    pub broken: Option<Broken>,
}

/// A fault that no promise survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A store that acknowledges one in ten writes and drops it.
    Store,
    /// A collector that deletes the largest object of each home, once a seed.
    Collector,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: 60, homes: 2, hosts: 3, broken: None }
    }
}

/// What a seed did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Every step and its outcome.
    pub trace: Vec<String>,
    /// Syncs and publications that were confirmed.
    pub confirmed: u64,
    /// Calls of the store.
    pub calls: u64,
    /// Objects that collectors deleted.
    pub collected: u64,
    /// Of them by those of homes that slept, as they said themselves.
    pub asleep: u64,
    /// Drafts that were carried over to a home that had moved.
    pub carried: u64,
    /// Restores and forks that were made, and snapshots that were compared.
    pub pinned: u64,
}

/// A seed that violates a promise.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// What is wrong.
    pub what: String,
    /// What led to it.
    pub trace: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.trace {
            writeln!(f, "  {line}")?;
        }
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

/// All there is.
#[derive(Debug)]
pub(crate) struct World {
    seed: u64,
    chance: Chance,
    truth: Arc<MemoryStore>,
    homes: Vec<(HomeId, Belief)>,
    hosts: Vec<Host>,
    /// Snapshots of all homes.
    kept: Vec<Kept>,
    rates: Rates,
    /// The clocks of all hosts agree.
    steady: bool,
    broken: Option<Broken>,
    /// Processes so far; each has faults and entropy of its own.
    processes: u64,
    acts: u64,
    ids: u64,
    summary: Summary,
    dir: tempfile::TempDir,
}

/// Runs one seed.
///
/// # Errors
/// What was violated, and how it came to that.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Box<Failure>> {
    let mut world = World::new(seed, options);
    let outcome = world.play(options.steps);
    let World { summary, hosts, .. } = world;
    drop(hosts);
    match outcome {
        Ok(()) => Ok(summary),
        Err(what) => Err(Box::new(Failure { seed, what, trace: summary.trace })),
    }
}

/// A directory for a seed, in memory where the host has that.
pub(crate) fn scratch() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("dormouse-sim-");
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).expect("make a directory")
}

impl World {
    fn new(seed: u64, options: &Options) -> Self {
        let mut chance = Chance::new(seed);
        let rates = match chance.below(4) {
            0 => Rates::default(),
            1 => Rates { late: 500, ..Rates::default() },
            2 => Rates { unavailable: 10, lost_reply: 30, busy: 10, late: 300, ..Rates::default() },
            _ => Rates { unavailable: 40, lost_reply: 20, busy: 5, late: 300, ..Rates::default() },
        };
        let steady = chance.percent(50);
        let bytes = seed.to_le_bytes();
        let homes = (0..options.homes)
            .map(|n| {
                let id = format!("home-{}", uuid(&[b"home", &bytes, &n.to_le_bytes()]));
                (id.parse().expect("it is an id"), Belief::default())
            })
            .collect();
        let hosts = (0..options.hosts).map(|n| Host::new(seed, n, steady, &mut chance)).collect();
        Self {
            seed,
            chance,
            truth: Arc::new(MemoryStore::new()),
            homes,
            hosts,
            kept: Vec::new(),
            rates,
            steady,
            broken: options.broken,
            processes: 0,
            acts: 0,
            // Other ones than those of the first homes.
            ids: 1_000,
            summary: Summary::default(),
            dir: scratch(),
        }
    }

    fn play(&mut self, steps: u64) -> Check {
        for home in 0..self.homes.len() {
            let (parts, _) = self.process(0, false);
            let (id, server) = (self.homes[home].0.clone(), self.hosts[0].server.clone());
            RUNTIME
                .block_on(homefs::create_home(&parts, &id, &server))
                .map_err(|error| format!("a home cannot be made: {error}"))?;
        }
        for _ in 0..steps {
            let by = Duration::from_millis(self.chance.below(3_000));
            self.pass(by);
            self.step()?;
        }
        if self.broken == Some(Broken::Collector) {
            self.lose_objects();
        }
        self.end()
    }

    /// Everything but the store is lost; what was confirmed is there.
    fn end(&mut self) -> Check {
        self.note("end: all hosts are lost".to_owned());
        for host in 0..self.hosts.len() {
            for home in 0..self.homes.len() {
                self.kill(host, home);
                self.kill_draft(host, home);
                self.lose_disk(host, home);
            }
        }
        for home in 0..self.homes.len() {
            self.check_whole(home, None)?;
            self.walk(home)?;
        }
        for n in 0..self.kept.len() {
            if self.kept[n].certain {
                self.look_at(n)?;
            }
        }
        for home in 0..self.homes.len() {
            self.open(0, home, true, false)?;
            self.kill(0, home);
        }
        Ok(())
    }

    /// What a broken collector does: of each home the object with most bytes goes.
    fn lose_objects(&mut self) {
        for (id, _) in &self.homes {
            let prefix = format!("homes/{id}/");
            let listed = RUNTIME.block_on(self.truth.list(&prefix, None, 10_000));
            let largest = listed.unwrap_or_default().into_iter().max_by_key(|object| object.size);
            if let Some(largest) = largest {
                RUNTIME.block_on(self.truth.delete(&largest.key)).ok();
            }
        }
    }

    /// Keys of a home's objects.
    fn objects(&self, home: usize) -> BTreeSet<String> {
        let prefix = format!("homes/{}/", self.homes[home].0);
        let listed = RUNTIME.block_on(self.truth.list(&prefix, None, 10_000));
        listed.unwrap_or_default().into_iter().map(|object| object.key).collect()
    }

    /// Lets time pass for all.
    fn pass(&self, by: Duration) {
        for host in &self.hosts {
            host.clock.advance(by);
        }
    }

    /// What a new process on `host` works with.
    fn process(&mut self, host: usize, faulty: bool) -> (Parts, Arc<Wire>) {
        self.processes += 1;
        let seed = mix(&[&self.seed.to_le_bytes(), &self.processes.to_le_bytes()]);
        let mut rates = if faulty { self.rates } else { Rates::default() };
        if self.broken == Some(Broken::Store) {
            rates.dropped = 100;
        }
        let wire = Arc::new(Wire::new(self.truth.clone(), seed, rates));
        let parts = Parts {
            store: wire.clone(),
            clock: self.hosts[host].clock.clone(),
            entropy: Arc::new(SeededEntropy::new(seed)),
            runtime: RUNTIME.handle().clone(),
        };
        (parts, wire)
    }

    fn note(&mut self, line: String) {
        self.summary.trace.push(line);
    }
}
