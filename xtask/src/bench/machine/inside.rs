//! The home as programs in the machine see it, and what the machine costs its host.

use std::fs;

use anyhow::{Context, ensure};
use serde_json::json;

use super::{BUDGET, Bench, LONG_RUNS, RUNS, commands};
use crate::bench::report::{Row, Unit};
use crate::bench::samples::Samples;

/// Keeper and hypervisor, without what the guest has as its memory, each page divided by how many map it. A host has
/// their programs and libraries once, for however many machines: that is in this, and in the next by a fourth.
pub(super) const IDLE: &str = "host memory of an idle machine, beside its guest's";
pub(super) const IDLE_OF_FOUR: &str = "the same, of each of four";
/// What would be free without it: all but the programs and libraries that others have mapped, too.
pub(super) const IDLE_ONE_MORE: &str = "the same, of one machine more";
/// Without what was translated before it slept.
pub(super) const IDLE_WOKEN: &str = "the same, of one that was not warm when it woke";
/// Beside how many, itself included, both are.
const IDLE_MACHINES: usize = 4;
pub(super) const CREATE: &str = "in the guest: create 1,000 files of 1 KiB";
pub(super) const WRITE: &str = "in the guest: write 256 MB, with fsync";
pub(super) const READ: &str = "in the guest: read them, caches dropped";

/// Seconds, by the guest's own clock: starting a program is not what is measured.
const CREATE_FILES: &str = r#"
import os, shutil, time
shutil.rmtree("/root/small", ignore_errors=True)
os.mkdir("/root/small")
data = os.urandom(1024)
begun = time.perf_counter()
for n in range(1000):
    with open(f"/root/small/{n}", "wb") as file:
        file.write(data)
print(time.perf_counter() - begun)
"#;
const WRITE_LARGE: &str = r#"
import os, time
if os.path.exists("/root/large"):
    os.remove("/root/large")
pieces = [os.urandom(1 << 20) for _ in range(8)]
begun = time.perf_counter()
with open("/root/large", "wb") as file:
    for n in range(256_000_000 // (1 << 20) + 1):
        file.write(pieces[n % 8])
    os.fsync(file.fileno())
    length = file.tell()
print((time.perf_counter() - begun) * 256e6 / length)
"#;
const READ_LARGE: &str = r#"
import os, time
os.sync()
with open("/proc/sys/vm/drop_caches", "w") as caches:
    caches.write("3")
begun = time.perf_counter()
length = 0
with open("/root/large", "rb", buffering=0) as file:
    while piece := file.read(1 << 20):
        length += len(piece)
print((time.perf_counter() - begun) * 256e6 / length)
"#;

/// In `/root`, on a store that is a directory.
pub(super) fn files(bench: &mut Bench) -> anyhow::Result<()> {
    let seconds = |bench: &Bench, script| {
        let said = commands::said(&bench.endpoint, &bench.path("")?, &["python3", "-c", script])?;
        said.trim().parse::<f64>().with_context(|| format!("no number of seconds: {said:?}"))
    };
    let created = Samples::take(RUNS, BUDGET, |_| seconds(bench, CREATE_FILES))?;
    let (mut wrote, mut read) = (Samples::default(), Samples::default());
    Samples::take(LONG_RUNS, 2 * BUDGET, |_| {
        wrote.push(seconds(bench, WRITE_LARGE)?);
        read.push(seconds(bench, READ_LARGE)?);
        Ok(0.0)
    })?;
    let rate = |samples: &Samples| samples.map(|seconds| 256.0 / seconds);
    bench.report.push(Row::new(CREATE, Unit::Seconds, &created));
    bench.report.push(Row::new(WRITE, Unit::MegabytesPerSecond, &rate(&wrote)));
    bench.report.push(Row::new(READ, Unit::MegabytesPerSecond, &rate(&read)));
    let clean = "rm -r /root/small /root/large && echo here";
    commands::output_of(bench, &["sh", "-c", clean])
}

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
    for other in all.iter().skip(1) {
        bench.ask("DELETE", &format!("/v1/machines/{other}"))?;
    }
    let Idle { shares, private, woken } = measured?;
    bench.report.push(Row::new(IDLE_OF_FOUR, Unit::Mebibytes, &shares));
    bench.report.push(Row::new(IDLE_ONE_MORE, Unit::Mebibytes, &private));
    bench.report.push(Row::new(IDLE_WOKEN, Unit::Mebibytes, &woken));
    bench.endpoint = bench.server.restart_with_templates()?;
    Ok(())
}

/// Mebibytes of each of some machines.
struct Idle {
    shares: Samples,
    private: Samples,
    /// What is private after a wake from files.
    woken: Samples,
}

/// Makes others that have slept and were woken, as `all[0]` was, and measures all; then once more after they have slept and
/// were not warm.
fn with_others(bench: &mut Bench, all: &mut Vec<String>) -> anyhow::Result<Idle> {
    for other in 1..IDLE_MACHINES {
        let body = json!({"name": format!("bench-idle-{other}"), "vcpu": 1, "memory_mib": 512,
                          "storage_gib": 8, "autosleep": "never"});
        let made = bench.endpoint.json("POST", "/v1/machines", &body)?;
        let id = made["machine_id"].as_str().context("a new machine has an id")?.to_owned();
        all.push(id.clone());
        commands::first_output_of(&bench.endpoint, &id)?;
        sleep_and_wake(bench, &id)?;
    }
    let shares = mebibytes_of_each(bench, all, Count::Proportional)?;
    let private = mebibytes_of_each(bench, all, Count::Private)?;
    bench.endpoint = bench.server.restart_without_warmth()?;
    for machine in all.iter() {
        // Its keeper has been told by the server before; the next one is told by this one.
        sleep_and_wake(bench, machine)?;
        sleep_and_wake(bench, machine)?;
    }
    Ok(Idle { shares, private, woken: mebibytes_of_each(bench, all, Count::Private)? })
}

fn sleep_and_wake(bench: &Bench, machine: &str) -> anyhow::Result<()> {
    bench.ask("POST", &format!("/v1/machines/{machine}/sleep"))?;
    // Wakes it.
    commands::first_output_of(&bench.endpoint, machine)?;
    Ok(())
}

fn mebibytes_of_each(bench: &Bench, machines: &[String], count: Count) -> anyhow::Result<Samples> {
    let keepers = machines.iter().map(|machine| bench.server.keeper(machine));
    let keepers: Vec<_> = keepers.collect::<Option<_>>().context("a machine has no keeper")?;
    let mut mebibytes = Samples::default();
    for _ in 0..RUNS {
        std::thread::sleep(std::time::Duration::from_secs(1));
        for keeper in &keepers {
            let all = with_descendants(*keeper)?;
            ensure!(all.len() > 1, "the keeper has no hypervisor");
            let kibibytes: anyhow::Result<f64> =
                all.into_iter().map(|process| own_kibibytes(process, count)).sum();
            mebibytes.push(kibibytes? / 1024.0);
        }
    }
    Ok(mebibytes)
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
