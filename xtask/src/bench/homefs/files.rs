//! Many small files and one large one.

use std::fs;
use std::io::Write;

use anyhow::Context;

use super::mount::Mount;
use super::{BUDGET, Bench, RUNS, work};
use crate::bench::disk::megabytes;
use crate::bench::report::{Row, Unit};
use crate::bench::samples::Samples;

pub(super) const CREATE: &str = "create 10,000 files of 4 KiB";
pub(super) const DELETE: &str = "delete them";
pub(super) const WRITE: &str = "write 2 GiB";
pub(super) const READ: &str = "read it again";
pub(super) const RANDOM: &str = "random reads of 4 KiB, warm";

const FILES: u64 = 10_000;
const BYTES: usize = 4096;
/// Files that slow programs are given.
const FILES_FEW: u64 = 500;
const LARGE: u64 = 2 << 30;
const RANDOM_READS: u64 = 100_000;

pub(super) fn many(bench: &mut Bench) -> anyhow::Result<()> {
    let (ext4, ours) = (bench.ext4()?, bench.ours()?);
    let null = Mount::null(&bench.root().join("null"))
        .inspect_err(|error| eprintln!("the null server is left out: {error:#}"))
        .ok();
    let mut nulls = Samples::default();
    let (mut create, mut delete) = (Samples::default(), Samples::default());
    let mut delete_ours = Samples::default();
    let create_ours = Samples::take(RUNS, BUDGET, |run| {
        let name = format!("many-{run}");
        create.push(work::create(&ext4.join(&name), FILES, BYTES)?);
        delete.push(work::delete(&ext4.join(&name), FILES)?);
        if let Some(null) = &null
            && let Ok(took) = work::create(&null.dir().join(&name), FILES, BYTES)
        {
            nulls.push(took);
        }
        let took = work::create(&ours.join(&name), FILES, BYTES)?;
        delete_ours.push(work::delete(&ours.join(&name), FILES)?);
        Ok(took)
    })?;
    let nulls = (nulls.len() > 0).then_some(nulls);
    let row = Row::new(CREATE, Unit::Seconds, &create_ours).peer("ext4", Some(&create));
    bench.report.push(row.peer("null", nulls.as_ref()));
    bench.report.push(Row::new(DELETE, Unit::Seconds, &delete_ours).peer("ext4", Some(&delete)));
    Ok(())
}

/// Fewer of them, on what else can be mounted here.
pub(super) fn peers(bench: &mut Bench) -> anyhow::Result<()> {
    let (ext4, ours) = (bench.ext4()?, bench.ours()?);
    let mut theirs = Samples::default();
    let took = Samples::take(RUNS, BUDGET, |run| {
        let name = format!("few-{run}");
        theirs.push(work::create(&ext4.join(&name), FILES_FEW, BYTES)?);
        work::create(&ours.join(&name), FILES_FEW, BYTES)
    })?;
    let name = format!("create {FILES_FEW} files of 4 KiB");
    let row = Row::new(name, Unit::Seconds, &took).peer("ext4", Some(&theirs));
    let row = bench.beside_others(row, |dir| work::create(&dir.join("few"), FILES_FEW, BYTES));
    bench.report.push(row);
    Ok(())
}

pub(super) fn large(bench: &mut Bench) -> anyhow::Result<()> {
    let (ext4, ours) = (bench.ext4()?.join("large"), bench.ours()?.join("large"));
    let rate = |seconds: f64| megabytes(LARGE) / seconds;
    let mut theirs: [Samples; 4] = Default::default();
    let mut mine: [Samples; 4] = Default::default();
    Samples::take(RUNS, BUDGET, |run| {
        for (place, samples) in [(&ext4, &mut theirs), (&ours, &mut mine)] {
            let tag = u32::try_from(run)?;
            samples[0].push(rate(work::write(place, LARGE, tag)?));
            samples[1].push(rate(work::read(place)?));
            samples[2].push(RANDOM_READS as f64 / work::read_randomly(place, RANDOM_READS)?);
            drop_caches()?;
            samples[3].push(rate(work::read(place)?));
        }
        Ok(0.0)
    })?;
    for place in [&ext4, &ours] {
        fs::remove_file(place).context("remove the file")?;
    }
    let rows = [
        (WRITE, Unit::MegabytesPerSecond),
        (READ, Unit::MegabytesPerSecond),
        (RANDOM, Unit::RequestsPerSecond),
        ("read it, nothing cached", Unit::MegabytesPerSecond),
    ];
    for (at, (name, unit)) in rows.into_iter().enumerate() {
        bench.report.push(Row::new(name, unit, &mine[at]).peer("ext4", Some(&theirs[at])));
    }
    Ok(())
}

/// Empties the kernel's caches of file content; what is not written yet is written first.
fn drop_caches() -> anyhow::Result<()> {
    nix::unistd::sync();
    let mut file = fs::File::options().write(true).open("/proc/sys/vm/drop_caches")?;
    file.write_all(b"1\n").context("empty the kernel's caches")
}
