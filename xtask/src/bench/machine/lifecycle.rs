//! Create, wake, sleep, publish.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::{BUDGET, Bench, LONG_RUNS, RUNS, commands};
use crate::bench::report::{Row, Unit};
use crate::bench::samples::{Samples, ms_since};

/// Longest wait for a phase: a sleep that uploads gigabytes is slow, not stuck.
const SETTLE: Duration = Duration::from_secs(180);
/// How often a phase is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Without a boot.
pub(super) const FROM_TEMPLATE: &str = "create from a template → first output";
/// With its memory, on the same host, a moment after it went to sleep: it is still warm.
pub(super) const WAKE: &str = "wake → first output";
/// The same once nothing of it is loaded any more.
pub(super) const WAKE_FROM_FILES: &str = "wake → first output, not warm";
/// With its memory, of which 100 MB were touched.
pub(super) const SLEEP: &str = "sleep → `sleeping`";
/// From the first step that holds the guest's processes until its memory and devices are on the disk; of the same
/// sleeps.
pub(super) const PAUSE: &str = "guest pause at sleep";
/// What the store has of the memory of a machine that has just begun, did nothing much and sleeps.
pub(super) const STORED: &str = "memory image in the store, of an idle machine";
const STORED_OWN: &str = "of that, what it does not share with machines of its template";
/// What touches them: a file on a tmpfs.
const TOUCH: &str = "head -c 100000000 /dev/urandom > /dev/shm/touched && echo here";

/// From the request that creates a machine to the output of the first command in it. The last machine
/// stays for the other sections.
pub(super) fn create(bench: &mut Bench) -> anyhow::Result<()> {
    create_some(bench, RUNS)
}

/// The same once, where only the machine is wanted.
pub(super) fn create_one(bench: &mut Bench) -> anyhow::Result<()> {
    create_some(bench, 1)
}

fn create_some(bench: &mut Bench, runs: usize) -> anyhow::Result<()> {
    let samples = Samples::take(runs, 2 * BUDGET, |run| create_anew(bench, run))?;
    if let Some(keeper) = bench.server.keeper(bench.machine()?) {
        bench.report.machine().look_at_guest(keeper);
    }
    let name = "create → first output (cold boot)";
    bench.report.push(Row::new(name, Unit::Milliseconds, &samples));
    Ok(())
}

/// In place of the machine that there is. Milliseconds until the first command's output.
fn create_anew(bench: &mut Bench, run: usize) -> anyhow::Result<f64> {
    if let Some(last) = bench.machine.take() {
        bench.ask("DELETE", &format!("/v1/machines/{last}"))?;
    }
    let body = json!({"name": format!("bench-{run}"), "vcpu": 1, "memory_mib": 512,
                      "storage_gib": 8, "autosleep": "never"});
    let started = Instant::now();
    let machine = bench.endpoint.json("POST", "/v1/machines", &body)?;
    let id = machine["machine_id"].as_str().context("a new machine has an id")?;
    bench.machine = Some(id.to_owned());
    commands::first_output(bench)?;
    Ok(ms_since(started))
}

/// The same with a server that makes templates, once it has one and a copy of it lies ready.
pub(super) fn create_from_template(bench: &mut Bench) -> anyhow::Result<()> {
    bench.endpoint = bench.server.restart_with_templates()?;
    create_anew(bench, 0)?;
    let samples = Samples::take(2 * RUNS, 2 * BUDGET, |run| {
        let begun = Instant::now();
        while !bench.server.has_templates() {
            ensure!(begun.elapsed() < SETTLE, "no template is made");
            thread::sleep(LOOK);
        }
        let took = create_anew(bench, run)?;
        let status = &bench.ask("GET", &bench.path("")?)?["status"];
        ensure!(status["reason"] == "cloned", "it did not begin with a template: {status}");
        Ok(took)
    })?;
    bench.report.push(Row::new(FROM_TEMPLATE, Unit::Milliseconds, &samples));
    Ok(())
}

/// Of an idle machine with a small home.
pub(super) fn sleep_and_wake(bench: &mut Bench) -> anyhow::Result<()> {
    commands::output_of(bench, &["sh", "-c", TOUCH])?;
    let (mut sleeps, mut pauses) = (Samples::default(), Samples::default());
    let mut asleep = |bench: &mut Bench| {
        sleeps.push(sleep(bench)?);
        pauses.push(bench.server.paused_ms(bench.machine()?)?);
        Ok(())
    };
    let warm = wakes(bench, &mut asleep)?;
    bench.endpoint = bench.server.restart_without_warmth()?;
    let from_files = wakes(bench, |bench| sleep(bench).map(drop))?;
    bench.endpoint = bench.server.restart_with_templates()?;
    bench.report.push(Row::new(WAKE, Unit::Milliseconds, &warm));
    bench.report.push(Row::new(WAKE_FROM_FILES, Unit::Milliseconds, &from_files));
    bench.report.push(Row::new(SLEEP, Unit::Milliseconds, &sleeps));
    bench.report.push(Row::new(PAUSE, Unit::Milliseconds, &pauses));
    Ok(())
}

/// What it takes to wake it, each time that it was put to sleep. Not the first time: a keeper that is there already has
/// been told by the server before.
fn wakes(
    bench: &mut Bench,
    mut asleep: impl FnMut(&mut Bench) -> anyhow::Result<()>,
) -> anyhow::Result<Samples> {
    wake(bench, |bench| sleep(bench).map(drop))?;
    Samples::take(RUNS, 2 * BUDGET, |_| wake(bench, &mut asleep))
}

fn wake(
    bench: &mut Bench,
    asleep: impl FnOnce(&mut Bench) -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    asleep(bench)?;
    let started = Instant::now();
    bench.ask("POST", &bench.path("/wake")?)?;
    commands::first_output(bench)?;
    let took = ms_since(started);
    let status = &bench.ask("GET", &bench.path("")?)?["status"];
    ensure!(status["reason"] == "resumed", "it did not go on from its memory: {status}");
    Ok(took)
}

/// Of machines that take the place of the one that there is; the last one stays for the other sections.
pub(super) fn stored_memory(bench: &mut Bench) -> anyhow::Result<()> {
    bench.endpoint = bench.server.restart_storing_memory()?;
    let mut own = Samples::default();
    let sizes = Samples::take(LONG_RUNS, 2 * BUDGET, |run| {
        create_anew(bench, run)?;
        sleep(bench)?;
        let begun = Instant::now();
        while bench.ask("GET", &bench.path("")?)?["status"]["memory"] != "stored" {
            ensure!(begun.elapsed() < SETTLE, "its memory is not stored");
            thread::sleep(LOOK);
        }
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (its_own, of_template) = bench.server.stored_memory_bytes(bench.machine()?)?;
        own.push(mebibytes(its_own));
        Ok(mebibytes(its_own + of_template))
    })?;
    bench.report.push(Row::new(STORED, Unit::Mebibytes, &sizes));
    bench.report.push(Row::new(STORED_OWN, Unit::Mebibytes, &own));
    bench.endpoint = bench.server.restart_with_templates()?;
    // Wakes it.
    commands::first_output(bench)?;
    Ok(())
}

/// Once: it uploads what other sections have written.
pub(super) fn sleep_after_writes(bench: &mut Bench) -> anyhow::Result<()> {
    let mut samples = Samples::default();
    samples.push(sleep(bench)?);
    let name = "sleep → `sleeping`, right after the writes above";
    bench.report.push(Row::new(name, Unit::Milliseconds, &samples));
    Ok(())
}

/// Once: it uploads what other sections have written into the draft.
pub(super) fn publish(bench: &mut Bench) -> anyhow::Result<()> {
    let mut samples = Samples::default();
    let started = Instant::now();
    bench.ask("POST", &bench.path("/fs/publish")?)?;
    samples.push(ms_since(started));
    let name = "publish of all that was written asleep";
    bench.report.push(Row::new(name, Unit::Milliseconds, &samples));
    Ok(())
}

/// Milliseconds until it sleeps.
fn sleep(bench: &Bench) -> anyhow::Result<f64> {
    let started = Instant::now();
    bench.ask("POST", &bench.path("/sleep")?)?;
    until(bench, "sleeping")?;
    Ok(ms_since(started))
}

fn until(bench: &Bench, phase: &str) -> anyhow::Result<()> {
    let path = bench.path("")?;
    let started = Instant::now();
    loop {
        let seen = bench.ask("GET", &path)?;
        match seen["phase"].as_str() {
            Some(now) if now == phase => return Ok(()),
            Some("failed") => bail!("the machine failed: {}", seen["status"]["last_error"]),
            now => ensure!(started.elapsed() < SETTLE, "not {phase} but {now:?} for too long"),
        }
        thread::sleep(LOOK);
    }
}
