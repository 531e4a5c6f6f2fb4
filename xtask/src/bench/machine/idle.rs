//! What an idle machine costs its host, beside its guest's memory.
//!
//! A host has the programs and libraries of its machines once. So one number does not say it: what a machine has alone
//! is what one more costs, and a proportional share is what each costs of so many as there are.

use std::fs;

use anyhow::{Context, ensure};
use serde_json::json;

use super::{Bench, RUNS, commands};
use crate::bench::host::Host;
use crate::bench::report::{Row, Unit};
use crate::bench::samples::Samples;

/// Keeper and hypervisor, without what the guest has as its memory, each page divided by how many map it. A host has
/// their programs and libraries once, for however many machines: that is in this, and in the next by a fourth.
pub(super) const IDLE: &str = "host memory of an idle machine, beside its guest's";
pub(super) const IDLE_OF_FOUR: &str = "the same, of each of four";
/// What would be free without it: all but the programs and libraries that others have mapped, too.
pub(super) const IDLE_ONE_MORE: &str = "the same, of one machine more";
/// What a host's worth of them costs in all, with the server, divided by how many they are.
pub(super) const IDLE_OF_FIFTY: &str = "the same, of each of fifty, the server counted";
/// Without what was translated before it slept.
pub(super) const IDLE_WOKEN: &str = "the same, of one that was not warm when it woke";
/// Beside how many, itself included, these are.
const FEW: usize = 4;
/// A host's worth of them.
const MANY: usize = 50;
/// Host memory that one may need, its guest's with it.
const MACHINE_MIB: u64 = 128;

/// What is counted of a process's mappings.
#[derive(Debug, Clone, Copy)]
enum Count {
    /// All that it has alone, and its share of what several have.
    Proportional,
    /// All that it has alone.
    Private,
}

impl Count {
    /// The lines of `/proc/PID/smaps` that say so.
    fn lines(self) -> &'static [&'static str] {
        match self {
            Self::Proportional => &["Pss:"],
            Self::Private => &["Private_Clean:", "Private_Dirty:"],
        }
    }
}

/// After a wake, once nothing is asked of it; then the same with others beside it, which share programs with it.
pub(super) fn idle_memory(bench: &mut Bench) -> anyhow::Result<()> {
    let machine = bench.machine()?.to_owned();
    let alone = mebibytes_of_each(bench, std::slice::from_ref(&machine), Count::Proportional)?;
    bench.report.push(Row::new(IDLE, Unit::Mebibytes, &alone));
    let mut all = vec![machine];
    let measured = with_others(bench, &mut all);
    delete_but(bench, 1, &mut all)?;
    measured?;
    bench.endpoint = bench.server.restart_with_templates()?;
    Ok(())
}

/// Makes others that have slept and were woken, as `all[0]` was, and measures all; then a few of them once more after they
/// have slept and were not warm.
fn with_others(bench: &mut Bench, all: &mut Vec<String>) -> anyhow::Result<()> {
    make_others(bench, FEW, all)?;
    let shares = mebibytes_of_each(bench, all, Count::Proportional)?;
    bench.report.push(Row::new(IDLE_OF_FOUR, Unit::Mebibytes, &shares));
    let private = mebibytes_of_each(bench, all, Count::Private)?;
    bench.report.push(Row::new(IDLE_ONE_MORE, Unit::Mebibytes, &private));

    let available = Host::available_mib();
    let needed = MANY as u64 * MACHINE_MIB;
    ensure!(
        available >= needed,
        "{MANY} machines need {needed} MiB, and {available} are available"
    );
    make_others(bench, MANY, all)?;
    let mut everything = Samples::default();
    for _ in 0..RUNS {
        let machines = once_of_each(bench, all, Count::Proportional)?.iter().sum::<f64>();
        let server = own_kibibytes(bench.server.process()?, Count::Proportional)? / 1024.0;
        everything.push((machines + server) / all.len() as f64);
    }
    bench.report.push(Row::new(IDLE_OF_FIFTY, Unit::Mebibytes, &everything));
    delete_but(bench, FEW, all)?;

    bench.endpoint = bench.server.restart_without_warmth()?;
    for machine in all.iter() {
        // Its keeper has been told by the server before; the next one is told by this one.
        sleep_and_wake(bench, machine)?;
        sleep_and_wake(bench, machine)?;
    }
    let woken = mebibytes_of_each(bench, all, Count::Private)?;
    bench.report.push(Row::new(IDLE_WOKEN, Unit::Mebibytes, &woken));
    Ok(())
}

/// Until there are so many.
fn make_others(bench: &Bench, until: usize, all: &mut Vec<String>) -> anyhow::Result<()> {
    for other in all.len()..until {
        let body = json!({"name": format!("bench-idle-{other}"), "vcpu": 1, "memory_mib": 512,
                          "storage_gib": 8, "autosleep": "never"});
        let made = bench.endpoint.json("POST", "/v1/machines", &body)?;
        let id = made["machine_id"].as_str().context("a new machine has an id")?.to_owned();
        all.push(id.clone());
        commands::first_output_of(&bench.endpoint, &id)?;
        sleep_and_wake(bench, &id)?;
    }
    Ok(())
}

/// All but the first few.
fn delete_but(bench: &Bench, few: usize, all: &mut Vec<String>) -> anyhow::Result<()> {
    while all.len() > few
        && let Some(machine) = all.pop()
    {
        bench.ask("DELETE", &format!("/v1/machines/{machine}"))?;
    }
    Ok(())
}

fn sleep_and_wake(bench: &Bench, machine: &str) -> anyhow::Result<()> {
    bench.ask("POST", &format!("/v1/machines/{machine}/sleep"))?;
    // Wakes it.
    commands::first_output_of(&bench.endpoint, machine)?;
    Ok(())
}

fn mebibytes_of_each(bench: &Bench, machines: &[String], count: Count) -> anyhow::Result<Samples> {
    let mut mebibytes = Samples::default();
    for _ in 0..RUNS {
        once_of_each(bench, machines, count)?.into_iter().for_each(|own| mebibytes.push(own));
    }
    Ok(mebibytes)
}

/// In mebibytes, when they have been idle for a while.
fn once_of_each(bench: &Bench, machines: &[String], count: Count) -> anyhow::Result<Vec<f64>> {
    std::thread::sleep(std::time::Duration::from_secs(1));
    let of_one = |machine: &String| {
        let keeper = bench.server.keeper(machine).context("a machine has no keeper")?;
        let all = with_descendants(keeper)?;
        ensure!(all.len() > 1, "the keeper has no hypervisor");
        let kibibytes: anyhow::Result<f64> =
            all.into_iter().map(|process| own_kibibytes(process, count)).sum();
        Ok(kibibytes? / 1024.0)
    };
    machines.iter().map(of_one).collect()
}

fn with_descendants(process: i32) -> anyhow::Result<Vec<i32>> {
    let mut all = vec![process];
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        let threads = fs::read_dir(format!("/proc/{parent}/task")).context("list threads")?;
        for thread in threads.flatten() {
            let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(list.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        next += 1;
    }
    Ok(all)
}

/// What a process adds to this host, but for the file of a guest's memory.
fn own_kibibytes(process: i32, count: Count) -> anyhow::Result<f64> {
    let maps = fs::read_to_string(format!("/proc/{process}/smaps"))
        .with_context(|| format!("read what process {process} has mapped"))?;
    let (mut sum, mut counts) = (0.0, true);
    for line in maps.lines() {
        match count.lines().iter().find_map(|field| line.strip_prefix(field)) {
            Some(size) if counts => {
                let size = size.trim().trim_end_matches(" kB");
                sum += size.parse::<f64>().with_context(|| format!("not a number: {size}"))?;
            }
            Some(_) => {}
            // The first line of a mapping ends in its file, if it has one.
            None if line.split(' ').next().is_some_and(|range| range.contains('-')) => {
                counts = !line.ends_with("/memory");
            }
            None => {}
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_of_its_own() {
        let ours = i32::try_from(std::process::id()).unwrap();
        let private = own_kibibytes(ours, Count::Private).unwrap();
        assert!(private > 100.0, "{private} KiB");
        assert!(own_kibibytes(ours, Count::Proportional).unwrap() >= private, "less in all");
        assert!(own_kibibytes(-1, Count::Private).is_err());
    }
}
