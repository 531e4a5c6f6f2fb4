//! Commands in the machine.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{BUDGET, Bench, RUNS};
use crate::bench::http::Endpoint;
use crate::bench::report::{Row, Unit};
use crate::bench::samples::{Samples, ms_since};
use crate::cargo::run_quietly;

/// The row that says how quick a command is: one call that is held until the command has ended.
pub(super) const WARM: &str = "exec of `true`, one held call";

/// Commands that the medians are of.
const COMMANDS: usize = 30;
/// Commands before that: the first ones find cold caches.
const WARM_UP: usize = 3;
/// Longest that a call on an execution can be held.
const HELD: &str = "wait_ms=30000";
/// Longest wait for a command; the machine may have to boot first.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a client that polls waits in between.
const POLL: Duration = Duration::from_millis(1);

pub(super) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let executions = bench.path("/executions")?;
    let command = json!({"command": ["true"]});
    let mut connection = bench.endpoint.connect()?;

    let mut held = || {
        let started = Instant::now();
        let ended = connection.json("POST", &format!("{executions}?{HELD}"), &command)?;
        succeeded(&ended)?;
        Ok(ms_since(started))
    };
    Samples::take(WARM_UP, BUDGET, |_| held())?;
    let samples = Samples::take(COMMANDS, BUDGET, |_| held())?;
    bench.report.push(Row::new(WARM, Unit::Milliseconds, &samples));

    let samples = Samples::take(COMMANDS, BUDGET, |_| {
        let started = Instant::now();
        let mut seen = connection.json("POST", &executions, &command)?;
        let id = seen["execution_id"].as_str().context("an execution has an id")?.to_owned();
        while !is_final(&seen) {
            ensure!(started.elapsed() < PATIENCE, "`true` does not end: {seen}");
            thread::sleep(POLL);
            seen = connection.json("GET", &format!("{executions}/{id}"), &Value::Null)?;
        }
        succeeded(&seen)?;
        Ok(ms_since(started))
    })?;
    let name = "exec of `true`, create and poll";
    bench.report.push(Row::new(name, Unit::Milliseconds, &samples));

    let machine = bench.machine()?;
    let samples = Samples::take(2 * RUNS, BUDGET, |_| {
        let started = Instant::now();
        run_quietly(bench.server.command_line().args(["exec", machine, "--", "true"]))?;
        Ok(ms_since(started))
    })?;
    let name = "`dormouse exec … -- true`, attached";
    bench.report.push(Row::new(name, Unit::Milliseconds, &samples));
    Ok(())
}

/// Runs a command that says something, and waits until that can be read.
pub(super) fn first_output(bench: &Bench) -> anyhow::Result<()> {
    output_of(bench, &["echo", "here"])
}

/// The same in any machine, which need not be the one that sections share.
pub(in crate::bench) fn first_output_of(endpoint: &Endpoint, machine: &str) -> anyhow::Result<()> {
    said(endpoint, &format!("/v1/machines/{machine}"), &["echo", "here"])
        .and_then(|said| ensure_here(&said))
}

/// The same for a command that says `here`.
pub(super) fn output_of(bench: &Bench, command: &[&str]) -> anyhow::Result<()> {
    said(&bench.endpoint, &bench.path("")?, command).and_then(|said| ensure_here(&said))
}

fn ensure_here(said: &str) -> anyhow::Result<()> {
    ensure!(said == "here\n", "the command's output is not there: {said:?}");
    Ok(())
}

/// What a command says on its standard output.
pub(super) fn said(endpoint: &Endpoint, machine: &str, command: &[&str]) -> anyhow::Result<String> {
    let executions = format!("{machine}/executions");
    let command = json!({ "command": command });
    let started = Instant::now();
    let mut connection = endpoint.connect()?;
    let mut seen = connection.json("POST", &format!("{executions}?{HELD}"), &command)?;
    let id = seen["execution_id"].as_str().context("an execution has an id")?.to_owned();
    while !is_final(&seen) {
        ensure!(started.elapsed() < PATIENCE, "the command does not end: {seen}");
        seen = connection.json("GET", &format!("{executions}/{id}?{HELD}"), &Value::Null)?;
    }
    succeeded(&seen)?;
    let output = connection.json("GET", &format!("{executions}/{id}/output"), &Value::Null)?;
    Ok(output["stdout"].as_str().context("a command has an output")?.to_owned())
}

fn is_final(execution: &Value) -> bool {
    let status = execution["status"].as_str().unwrap_or_default();
    matches!(status, "succeeded" | "failed" | "cancelled" | "expired")
}

fn succeeded(execution: &Value) -> anyhow::Result<()> {
    ensure!(execution["status"] == "succeeded", "a command did not succeed: {execution}");
    Ok(())
}
