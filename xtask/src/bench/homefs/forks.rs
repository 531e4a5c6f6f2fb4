//! Forks of sleeping machines, as a user makes them: over HTTP, on a server whose homes are in the S3 server.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::{Bench, RUNS, asleep};
use crate::bench::http::{Body, Endpoint};
use crate::bench::report::{Row, Unit};
use crate::bench::samples::{Samples, ms_since};
use crate::bench::server::Server;
use crate::cargo::run_quietly;

pub(super) const PUTS_SMALL: &str = "PUTs for a fork, 100 files";
pub(super) const PUTS_LARGE: &str = "PUTs for a fork, 100,000 files";
pub(super) const TIME_LARGE: &str = "fork, 100,000 files";
/// What that is compared with.
pub(super) const SMALL: &str = "100 files";

/// Bytes of one file.
const BYTES: usize = 1024;
/// Longest wait for a machine to fall asleep.
const SETTLE: Duration = Duration::from_secs(120);

pub(super) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let server = Server::prepare()?;
    let url = bench.store.url("machines")?;
    let endpoint = server.start_on(Some(&url), bench.store.variables())?;
    let (small, puts_small) = forks(bench, &endpoint, 100)?;
    let (large, puts_large) = forks(bench, &endpoint, 100_000)?;
    bench.report.push(Row::new(PUTS_SMALL, Unit::Requests, &puts_small));
    bench.report.push(Row::new(PUTS_LARGE, Unit::Requests, &puts_large));
    bench.report.push(Row::new("fork, 100 files", Unit::Milliseconds, &small));
    let row = Row::new(TIME_LARGE, Unit::Milliseconds, &large);
    bench.report.push(row.peer(SMALL, Some(&small)));
    Ok(())
}

/// Milliseconds, and objects that were put, of forks of one machine with this many files. The record of the new machine is one of the objects.
fn forks(bench: &mut Bench, endpoint: &Endpoint, files: u64) -> anyhow::Result<(Samples, Samples)> {
    let id = sleeping(endpoint, &format!("forked-{files}"))?;
    let tar = bench.root().join(format!("forked-{files}.tar"));
    pack(&bench.root().join(format!("forked-{files}")), files, &tar)?;
    let length = fs::metadata(&tar).context("look at the archive")?.len();
    let mut archive = File::open(&tar).context("open the archive")?;
    let path = format!("/v1/machines/{id}/fs/tree?import=tar");
    let reply = endpoint.connect()?.reply("POST", &path, Body::Stream(length, &mut archive))?;
    let entries = reply["entries"].as_u64().unwrap_or_default();
    ensure!(entries >= files, "{entries} entries were imported of more than {files}: {reply}");
    endpoint.json("POST", &format!("/v1/machines/{id}/fs/publish"), &Value::Null)?;

    let mut puts = Samples::default();
    let times = Samples::take(RUNS, super::BUDGET, |run| {
        let body = json!({"name": format!("fork-{files}-{run}")});
        let before = bench.store.traffic()?;
        let started = Instant::now();
        endpoint.json("POST", &format!("/v1/machines/{id}/fork"), &body)?;
        let took = ms_since(started);
        puts.push(bench.store.traffic()?.since(&before).puts() as f64);
        Ok(took)
    })?;
    Ok((times, puts))
}

/// A machine that sleeps.
fn sleeping(endpoint: &Endpoint, name: &str) -> anyhow::Result<String> {
    let body = json!({"name": name, "vcpu": 1, "memory_mib": 512, "storage_gib": 8,
                      "autosleep": "never"});
    let machine = endpoint.json("POST", "/v1/machines", &body)?;
    let id = machine["machine_id"].as_str().context("a new machine has an id")?.to_owned();
    endpoint.json("POST", &format!("/v1/machines/{id}/sleep"), &Value::Null)?;
    let started = Instant::now();
    loop {
        let seen = endpoint.json("GET", &format!("/v1/machines/{id}"), &Value::Null)?;
        match seen["phase"].as_str() {
            Some("sleeping") => return Ok(id),
            Some("failed") => bail!("the machine failed: {}", seen["status"]["last_error"]),
            now => ensure!(started.elapsed() < SETTLE, "not asleep but {now:?} for too long"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// An archive of this many files.
fn pack(dir: &Path, files: u64, tar: &Path) -> anyhow::Result<()> {
    asleep::fill(dir, files, BYTES)?;
    run_quietly(Command::new("tar").arg("-cf").arg(tar).arg("-C").arg(dir).arg("."))?;
    fs::remove_dir_all(dir).context("remove the unpacked files")
}
