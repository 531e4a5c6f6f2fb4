//! What work costs at the store: requests and bytes, and the time of one sync where the store is slow.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use super::{Bench, work};
use crate::bench::report::{Row, Unit};
use crate::bench::samples::{Samples, ms_since};

pub(super) const SMALL_FILES: &str = "PUTs for 10,000 files of 4 KiB";
pub(super) const LARGER_FILES: &str = "PUTs for 1 GiB in 1 MiB files";
pub(super) const FSYNC: &str = "fsync, 50 ms a PUT";
pub(super) const FSYNC_PUTS: &str = "PUTs for one fsync";
pub(super) const SQLITE_PUTS: &str = "PUTs for one SQLite commit";
pub(super) const SQLITE_BYTES: &str = "bytes put for a byte that SQLite wrote";

/// Syncs that are measured.
const SYNCS: u64 = 100;
const COMMITS: u64 = 1000;

/// Appends and syncs, one after the other.
pub(super) fn fsync(bench: &mut Bench) -> anyhow::Result<()> {
    let (_, mount) = bench.fresh("fsync")?;
    let mut file = File::create(mount.dir().join("log"))?;
    file.write_all(b"first\n")?;
    file.sync_all()?;
    bench.store.set_put_latency(50)?;
    let before = bench.store.traffic()?;
    let mut samples = Samples::default();
    for _ in 0..SYNCS {
        file.write_all(b"one more line\n")?;
        let started = Instant::now();
        file.sync_all()?;
        samples.push(ms_since(started));
    }
    let traffic = bench.store.traffic()?.since(&before);
    bench.store.set_put_latency(0)?;
    bench.report.push(Row::new(FSYNC, Unit::Milliseconds, &samples));
    let puts = traffic.puts() as f64 / SYNCS as f64;
    bench.report.push(Row::new(FSYNC_PUTS, Unit::Requests, &Samples::one(puts)));
    let others = (traffic.gets() + traffic.looks()) as f64 / SYNCS as f64;
    bench.report.push(Row::new(
        "other requests for one fsync",
        Unit::Requests,
        &Samples::one(others),
    ));
    drop(file);
    mount.stop()
}

pub(super) fn sqlite(bench: &mut Bench) -> anyhow::Result<()> {
    let (_, mount) = bench.fresh("sqlite")?;
    let path = mount.dir().join("app.db");
    work::sqlite(&path, 1)?;
    let before = bench.store.traffic()?;
    let started = Instant::now();
    let written = work::sqlite(&path, COMMITS)?;
    let took = ms_since(started) / COMMITS as f64;
    let traffic = bench.store.traffic()?.since(&before);
    let puts = traffic.puts() as f64 / COMMITS as f64;
    bench.report.push(Row::new(SQLITE_PUTS, Unit::Requests, &Samples::one(puts)));
    let ratio = traffic.bytes_put() as f64 / written;
    bench.report.push(Row::new(SQLITE_BYTES, Unit::Times, &Samples::one(ratio)));
    bench.report.push(Row::new("one SQLite commit", Unit::Milliseconds, &Samples::one(took)));
    mount.stop()
}

pub(super) fn small_files(bench: &mut Bench) -> anyhow::Result<()> {
    puts(bench, "puts-small", SMALL_FILES, 10_000, 4096)
}

pub(super) fn larger_files(bench: &mut Bench) -> anyhow::Result<()> {
    puts(bench, "puts-larger", LARGER_FILES, 1024, 1 << 20)
}

/// Until all of it is in the store and the home is given up; what mounting costs is not counted.
fn puts(bench: &mut Bench, home: &str, row: &str, files: u64, bytes: usize) -> anyhow::Result<()> {
    let (_, mount) = bench.fresh(home)?;
    let before = bench.store.traffic()?;
    work::create(&mount.dir().join("files"), files, bytes)?;
    mount.stop()?;
    let traffic = bench.store.traffic()?.since(&before);
    bench.report.push(Row::new(row, Unit::Requests, &Samples::one(traffic.puts() as f64)));
    let content = files as f64 * bytes as f64;
    let name = format!("{row}: bytes put for a byte of content");
    bench.report.push(Row::new(
        name,
        Unit::Times,
        &Samples::one(traffic.bytes_put() as f64 / content),
    ));
    Ok(())
}
