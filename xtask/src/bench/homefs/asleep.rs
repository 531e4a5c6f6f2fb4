//! Homes that sleep, and homes that begin again: what the first read costs, how long reopening takes, what is kept in memory.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

use super::{Bench, work};
use crate::bench::report::{Row, Unit};
use crate::bench::samples::{Samples, ms_since};

pub(super) const GETS_SMALL: &str = "GETs to the first byte, 1,000 files";
pub(super) const GETS_LARGE: &str = "GETs to the first byte, 100,000 files";
pub(super) const BYTES_SMALL: &str = "fetched for it, 1,000 files";
pub(super) const BYTES_LARGE: &str = "fetched for it, 100,000 files";
pub(super) const REOPEN: &str = "reopen after kill -9, 100,000 files";
pub(super) const MEMORY: &str = "memory for 1,000,000 inodes touched";

/// Files of one folder.
const FOLDER: u64 = 100;
/// Bytes of one file.
const BYTES: usize = 4096;
/// Inodes whose memory is looked at.
const INODES: u64 = 1_000_000;

pub(super) fn small(bench: &mut Bench) -> anyhow::Result<()> {
    first_byte(bench, 1_000, GETS_SMALL, BYTES_SMALL)
}

pub(super) fn large(bench: &mut Bench) -> anyhow::Result<()> {
    first_byte(bench, 100_000, GETS_LARGE, BYTES_LARGE)?;
    reopen(bench)
}

/// Folders of files, two levels deep.
pub(super) fn fill(dir: &Path, files: u64, bytes: usize) -> anyhow::Result<()> {
    for folder in 0..files / FOLDER {
        let name = format!("project-{}/folder-{}", folder / 10, folder % 10);
        work::create(&dir.join(name), FOLDER, bytes)?;
    }
    Ok(())
}

/// Reads one file of a published home through a mount that has nothing of it.
fn first_byte(bench: &mut Bench, files: u64, gets: &str, bytes: &str) -> anyhow::Result<()> {
    let (mut home, mount) = bench.fresh(&format!("asleep-{files}"))?;
    fill(mount.dir(), files, BYTES)?;
    mount.stop()?;
    let last = files / FOLDER / 2;
    let path = format!("project-{}/folder-{}/57", last / 10, last % 10);

    home.local = bench.root().join(format!("reader-{files}"));
    let before = bench.store.traffic()?;
    let started = Instant::now();
    let mount = home.mount_published(&bench.store, &bench.root().join(format!("read-{files}")))?;
    let mut byte = [0];
    File::open(mount.dir().join(path)).and_then(|mut file| file.read_exact(&mut byte))?;
    let took = ms_since(started);
    let traffic = bench.store.traffic()?.since(&before);
    mount.stop()?;
    bench.report.push(Row::new(gets, Unit::Requests, &Samples::one(traffic.gets() as f64)));
    let mib = traffic.bytes_got() as f64 / f64::from(1 << 20);
    bench.report.push(Row::new(bytes, Unit::Mebibytes, &Samples::one(mib)));
    let name = format!("listings and HEADs for it, {files} files");
    bench.report.push(Row::new(name, Unit::Requests, &Samples::one(traffic.looks() as f64)));
    let name = format!("time to the first byte, with mounting, {files} files");
    bench.report.push(Row::new(name, Unit::Milliseconds, &Samples::one(took)));
    Ok(())
}

/// Goes on from the local directory of a process that was killed while it wrote.
fn reopen(bench: &mut Bench) -> anyhow::Result<()> {
    let home = bench.home("asleep-100000")?;
    let dir = bench.root().join("mnt-reopen");
    let mut samples = Samples::default();
    for run in 0..super::RUNS {
        let mount = home.mount(&bench.store, &dir)?;
        work::create(&mount.dir().join(format!("more-{run}")), 1000, BYTES)?;
        mount.kill()?;
        let started = Instant::now();
        let mount = home.mount(&bench.store, &dir)?;
        let there = fs::read_dir(mount.dir().join(format!("more-{run}")))?.count();
        samples.push(ms_since(started));
        anyhow::ensure!(there == 1000, "{there} of 1000 files are there after the crash");
        mount.stop()?;
    }
    bench.report.push(Row::new(REOPEN, Unit::Milliseconds, &samples));
    Ok(())
}

/// How much larger the process is for inodes that were made and looked at.
pub(super) fn memory(bench: &mut Bench) -> anyhow::Result<()> {
    let (_, mount) = bench.fresh("memory")?;
    work::create(&mount.dir().join("before"), 1000, 0)?;
    let before = mount.memory()?;
    for folder in 0..INODES / 10_000 {
        let dir = mount.dir().join(format!("folder-{folder}"));
        work::create(&dir, 10_000, 0)?;
        let entries = fs::read_dir(&dir).context("list a folder")?;
        for entry in entries {
            entry?.metadata()?;
        }
    }
    let more = mount.memory()?.saturating_sub(before);
    let mib = more as f64 / f64::from(1 << 20);
    bench.report.push(Row::new(MEMORY, Unit::Mebibytes, &Samples::one(mib)));
    mount.stop()
}
