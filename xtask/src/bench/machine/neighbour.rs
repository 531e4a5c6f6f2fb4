//! A machine beside one that keeps its host as busy as it can.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;

use super::{BUDGET, Bench};
use crate::bench::report::{Row, Unit};
use crate::bench::samples::{Samples, ms_since};

/// What the other one costs whoever has done nothing.
pub(super) const BESIDE_A_FLOOD: &str = "the same, beside a machine that floods its home";
/// What that is compared with, in turns.
pub(super) const ALONE: &str = "alone";

/// Processes of the guest that write, read and remove small files without end.
const WRITERS: usize = 3;
const FLOOD: &str = r#"
import os
at = f"/root/flood-{os.getpid()}"
os.mkdir(at)
begun = False
while True:
    for n in range(300):
        with open(f"{at}/{n}", "wb") as file:
            file.write(b"x" * 1000)
    for n in range(300):
        with open(f"{at}/{n}", "rb") as file:
            file.read()
        os.remove(f"{at}/{n}")
    if not begun:
        begun = True
        print("begun", flush=True)
"#;
/// How often it begins and ends.
const TURNS: usize = 4;
/// Commands in each.
const COMMANDS: usize = 10;
/// Until what a flood left is stored.
const SETTLE: Duration = Duration::from_secs(8);
/// Between two commands, so that each wakes a machine that is idle.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let body = json!({"name": "bench-flood", "vcpu": 1, "memory_mib": 512, "storage_gib": 8,
                      "autosleep": "never"});
    let made = bench.endpoint.json("POST", "/v1/machines", &body)?;
    let flood = made["machine_id"].as_str().context("a new machine has an id")?.to_owned();
    let measured = in_turns(bench, &flood);
    let gone = bench.ask("DELETE", &format!("/v1/machines/{flood}"));
    let (beside, alone) = measured?;
    gone?;
    let row = Row::new(BESIDE_A_FLOOD, Unit::Milliseconds, &beside);
    bench.report.push(row.peer(ALONE, Some(&alone)));
    Ok(())
}

/// Milliseconds of commands beside it, and of those without it.
fn in_turns(bench: &Bench, flood: &str) -> anyhow::Result<(Samples, Samples)> {
    super::commands::first_output_of(&bench.endpoint, flood)?;
    let (mut beside, mut alone) = (Samples::default(), Samples::default());
    let executions = format!("/v1/machines/{flood}/executions");
    let begun = Instant::now();
    for _ in 0..TURNS {
        thread::sleep(SETTLE);
        commands(bench, &mut alone)?;
        let writers = (0..WRITERS).map(|_| {
            let command = json!({"command": ["python3", "-c", FLOOD]});
            let writer = bench.endpoint.json("POST", &executions, &command)?;
            Ok(writer["execution_id"].as_str().context("an execution has an id")?.to_owned())
        });
        let writers: Vec<String> = writers.collect::<anyhow::Result<_>>()?;
        for writer in &writers {
            until_begun(bench, &format!("{executions}/{writer}/output"))?;
        }
        commands(bench, &mut beside)?;
        for writer in writers {
            // One that had ended by itself was no flood.
            let ended =
                bench.endpoint.json("DELETE", &format!("{executions}/{writer}"), &json!(null))?;
            anyhow::ensure!(ended["status"] == "cancelled", "no flood: {ended}");
        }
        if begun.elapsed() > 3 * BUDGET {
            break;
        }
    }
    Ok((beside, alone))
}

/// Waits until a writer has written, read and removed its files once.
fn until_begun(bench: &Bench, output: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    while bench.endpoint.json("GET", output, &json!(null))?["stdout"] != "begun\n" {
        anyhow::ensure!(since.elapsed() < 2 * BUDGET, "the flood does not begin");
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn commands(bench: &Bench, samples: &mut Samples) -> anyhow::Result<()> {
    let path = format!("{}?wait_ms=30000", bench.path("/executions")?);
    let mut connection = bench.endpoint.connect()?;
    for _ in 0..COMMANDS {
        let begun = Instant::now();
        let ended = connection.json("POST", &path, &json!({"command": ["true"]}))?;
        anyhow::ensure!(ended["status"] == "succeeded", "a command did not succeed: {ended}");
        samples.push(ms_since(begun));
        thread::sleep(PAUSE);
    }
    Ok(())
}
