//! A source tree of thousands of files, in and out as tar.

use std::fs::File;
use std::time::Instant;

use anyhow::{Context, ensure};

use super::{BUDGET, Bench, LONG_RUNS, State};
use crate::bench::disk::megabytes;
use crate::bench::http::Body;
use crate::bench::report::{Row, Unit};
use crate::bench::samples::Samples;
use crate::bench::tree::Tree;

pub(super) fn disk(bench: &mut Bench) -> anyhow::Result<()> {
    let tree = bench.tree.as_ref().context("there is no source tree")?;
    bench.disk.measure_tar(&bench.server.root().join("peer"), tree, LONG_RUNS, BUDGET)
}

/// Import and export, each in files and in bytes a second.
pub(super) fn measure(bench: &mut Bench, state: State) -> anyhow::Result<()> {
    let word = state.word();
    let (files, tar_bytes) = (bench.tree()?.files, bench.tree()?.tar_bytes);

    let imports = Samples::take(LONG_RUNS, BUDGET, |run| {
        let path = bench.path(&format!("/fs/tree-{word}-{run}?import=tar"))?;
        let mut tar = File::open(&bench.tree()?.tar).context("open the archive")?;
        let mut connection = bench.endpoint.connect()?;
        let started = Instant::now();
        let reply = connection.reply("POST", &path, Body::Stream(tar_bytes, &mut tar))?;
        let seconds = started.elapsed().as_secs_f64();
        let entries = reply["entries"].as_u64().unwrap_or_default();
        ensure!(entries >= files, "{entries} entries were imported of more than {files}: {reply}");
        Ok(seconds)
    })?;
    let disk = &bench.disk;
    let peers = [("tar", &disk.untar), ("tar, synced", &disk.untar_synced)];
    let rows = rows(&format!("tar import, {word}"), bench.tree()?, &imports, &peers);
    rows.into_iter().for_each(|row| bench.report.push(row));

    // Asleep, what was imported awake is the published state.
    let path = bench.path("/fs/tree-awake-0?bundle=tar")?;
    let exports = Samples::take(LONG_RUNS, BUDGET, |_| {
        let mut connection = bench.endpoint.connect()?;
        let started = Instant::now();
        let read = connection.read(&path, &mut |_| Ok(()))?;
        let seconds = started.elapsed().as_secs_f64();
        ensure!(read > tar_bytes / 10 * 9, "only {read} bytes were exported of {tar_bytes}");
        Ok(seconds)
    })?;
    let peers = [("tar", &bench.disk.tar)];
    let rows = self::rows(&format!("tar export, {word}"), bench.tree()?, &exports, &peers);
    rows.into_iter().for_each(|row| bench.report.push(row));
    Ok(())
}

/// The same seconds as files and as bytes a second.
fn rows(
    name: &str,
    tree: &Tree,
    seconds: &Samples,
    peers: &[(&'static str, &Samples)],
) -> [Row; 2] {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 files")]
    let files = tree.files as f64;
    let counts =
        [(Unit::FilesPerSecond, files), (Unit::MegabytesPerSecond, megabytes(tree.tar_bytes))];
    counts.map(|(unit, count)| {
        let rate = |seconds: &Samples| seconds.map(|seconds| count / seconds);
        let row = Row::new(name, unit, &rate(seconds));
        peers.iter().fold(row, |row, (peer, seconds)| row.peer(peer, Some(&rate(seconds))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_files_and_megabytes_a_second() {
        let tree = Tree { tar: "tree.tar".into(), tar_bytes: 30_000_000, files: 6000 };
        let of = |seconds: f64| {
            let mut samples = Samples::default();
            samples.push(seconds);
            samples
        };
        let [files, bytes] = rows("tar import", &tree, &of(3.0), &[("tar", &of(1.5))]);
        let files = serde_json::to_value(files).unwrap();
        assert_eq!((&files["unit"], &files["ours"]), (&"files/s".into(), &2000.0.into()));
        assert_eq!(files["peers"]["tar"], 4000.0);
        assert_eq!(files["ratios"]["tar"], 0.5);
        let bytes = serde_json::to_value(bytes).unwrap();
        assert_eq!((&bytes["unit"], &bytes["ours"]), (&"MB/s".into(), &10.0.into()));
    }
}
