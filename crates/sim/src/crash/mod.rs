//! kill -9 of the real keeper, and of a mount, under a real workload.
//!
//! ```text
//! mod        cycles: wake, work, kill, lose the disk, wake, verify
//!   server   the program under test, as a process, and calls to it
//!   ledger   what was acknowledged: by this host's disk, and by the store
//!   mounted  the same with `dormouse mount`: many more cycles
//!   files    what was answered there
//! ```
//!
//! # A cycle
//! The machine is awake. Writers put, overwrite and delete files through the API; each 2xx is noted.
//! Meanwhile a program in the guest writes files, calls `fsync`, and what it reports is noted as stored. At
//! a moment that chance decides the keeper gets SIGKILL. Every other time the local directory of the home is
//! removed, so that only the store is left. The machine is woken; in some cycles the keeper is killed
//! again while it recovers. Then all that is noted is read back.
//!
//! # Compared
//! After a kill: every acknowledged write, exactly, but for the call that was under way on that path. After
//! the loss of the disk: what the store had acknowledged, or something newer of that path.

mod files;
mod ledger;
mod mounted;
mod server;

pub use mounted::run_mounted;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::chance::Chance;
use ledger::Ledger;
use server::Server;

/// How much to do, with which program.
#[derive(Debug, Clone)]
pub struct Options {
    /// Cycles.
    pub cycles: u64,
    /// Of chance.
    pub seed: u64,
    /// The `dormouse` program.
    pub program: PathBuf,
}

/// What was done.
#[derive(Debug, Default, Clone)]
pub struct Summary {
    /// Cycles that were verified.
    pub cycles: u64,
    /// Of these, those whose disk was lost.
    pub disks_lost: u64,
    /// Of these, those whose keeper or mount was killed while it recovered.
    pub killed_twice: u64,
    /// Of these, those whose mount was killed while it gave the home up.
    pub killed_in_release: u64,
    /// Acknowledged calls.
    pub acknowledged: u64,
    /// Files that the guest had synced to the store.
    pub stored: u64,
    /// Comparisons.
    pub compared: u64,
}

const MACHINE: &str = "crash";
const WRITERS: u64 = 3;

/// Stores everything, by the guest's `syncfs`.
const SYNC_ALL: &[&str] = &["sync", "-f", "/root"];

/// Runs the cycles; `progress` is told after each.
///
/// # Errors
/// The first loss, or what kept a cycle from being done.
pub fn run(options: &Options, progress: &dyn Fn(&Summary)) -> anyhow::Result<Summary> {
    let mut chance = Chance::new(options.seed);
    let mut summary = Summary::default();
    let server = Server::start(&options.program)?;
    let machine = server.create(MACHINE)?;
    let mut ledger = Ledger::default();
    for cycle in 0..options.cycles {
        one(&server, &machine, cycle, &mut chance, &mut ledger, &mut summary)
            .with_context(|| format!("cycle {cycle} of seed {}", options.seed))?;
        progress(&summary);
    }
    Ok(summary)
}

fn one(
    server: &Server,
    machine: &str,
    cycle: u64,
    chance: &mut Chance,
    ledger: &mut Ledger,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    let (disk, twice) = (chance.percent(50), chance.percent(20));
    let work = Duration::from_millis(250 + chance.below(700));
    let seeds: Vec<u64> = (0..WRITERS).map(|_| chance.any()).collect();
    let dead = AtomicBool::new(false);
    // The guest's program goes on until it is killed with its machine.
    let syncer = server.start_syncing(machine, cycle)?;
    let noted = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (own, dead, seed) = (ledger.of(writer), &dead, seeds[writer as usize]);
                scope.spawn(move || write(server, machine, writer, seed, own, dead))
            })
            .collect();
        let begun = Instant::now();
        let mut stored = 0;
        while begun.elapsed() < work {
            std::thread::sleep(Duration::from_millis(60));
            // Asked through the API, which must know of a sync only after it was done.
            let seen = server.synced(machine, &syncer).ok().flatten();
            stored = seen.unwrap_or(stored).max(stored);
        }
        let killed = server.kill_keeper(machine);
        dead.store(true, Ordering::SeqCst);
        let noted: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        killed.map(|()| (noted, stored))
    });
    let (noted, stored) = noted?;
    for (writer, own) in noted.into_iter().enumerate() {
        let (own, count) = own.map_err(|_| anyhow::anyhow!("a writer panicked"))?;
        ledger.put_back(writer as u64, own);
        summary.acknowledged += count;
    }
    ledger.synced(cycle, stored);
    summary.stored += stored;
    server.until_failed(machine)?;
    if disk {
        server.lose_disk(machine)?;
        summary.disks_lost += 1;
    }
    if twice {
        server.begin_wake(machine)?;
        std::thread::sleep(Duration::from_millis(chance.below(400)));
        // It may not be there yet, or have been killed before it wrote its number down.
        if server.kill_keeper(machine).is_ok() {
            summary.killed_twice += 1;
        }
    }
    server.wake(machine)?;
    summary.compared += ledger.verify(disk, &|path| server.read(machine, path))?;
    summary.cycles += 1;
    // From here on the store has all of it: what a lost disk may cost is known again.
    server.run(machine, SYNC_ALL)?;
    ledger.stored_all();
    Ok(())
}

/// One writer's calls, one after the other, until the keeper is gone.
fn write(
    server: &Server,
    machine: &str,
    writer: u64,
    seed: u64,
    mut own: ledger::Own,
    dead: &AtomicBool,
) -> (ledger::Own, u64) {
    let mut chance = Chance::new(seed);
    let mut count = 0;
    while !dead.load(Ordering::SeqCst) {
        let call = own.choose(&mut chance, writer);
        own.begin(&call);
        match server.call(machine, &call) {
            Ok(true) => {
                own.done(&call);
                count += 1;
            }
            // Refused: nothing was done. The keeper is gone: nobody knows.
            Ok(false) => own.refused(),
            Err(_) => break,
        }
    }
    (own, count)
}

/// The `dormouse` program of a release build, where there is one.
///
/// # Errors
/// Where there is none, and what makes it.
pub fn release_program() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("find this program")?;
    let beside =
        here.ancestors().map(|dir| dir.join("release/dormouse")).find(|path| path.exists());
    match beside {
        Some(found) => Ok(found),
        None => bail!("there is no release/dormouse; cargo build --release -p dormouse makes it"),
    }
}

/// Nothing of a summary that says so was tested.
///
/// # Errors
/// What was not reached.
pub fn check_coverage(summary: &Summary) -> anyhow::Result<()> {
    ensure!(summary.acknowledged > summary.cycles, "hardly a write was acknowledged");
    ensure!(summary.stored > 0, "nothing was synced");
    ensure!(summary.disks_lost > 0 || summary.cycles < 8, "no disk was lost");
    Ok(())
}
