//! Trees: unpacking, looking at, searching, cloning.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::{BUDGET, Bench, RUNS, work};
use crate::bench::report::{Row, Unit};
use crate::bench::samples::Samples;

pub(super) const UNTAR: &str = "untar 45,000 files";
pub(super) const STATUS: &str = "git status, warm";
pub(super) const RG: &str = "rg, warm";
pub(super) const CLONE: &str = "git clone of a packed repository";

/// Seconds of the same work on both.
#[derive(Default)]
struct Pair {
    ext4: Samples,
    ours: Samples,
}

impl Pair {
    /// Does it on both in turn, as often as there is time.
    fn take(
        runs: usize,
        ext4: &Path,
        ours: &Path,
        mut work: impl FnMut(&Path, usize) -> anyhow::Result<f64>,
    ) -> anyhow::Result<Self> {
        let mut theirs = Samples::default();
        let ours = Samples::take(runs, BUDGET, |run| {
            theirs.push(work(ext4, run)?);
            work(ours, run)
        })?;
        Ok(Self { ext4: theirs, ours })
    }

    fn row(&self, name: &str) -> Row {
        Row::new(name, Unit::Seconds, &self.ours).peer("ext4", Some(&self.ext4))
    }
}

pub(super) fn untar(bench: &mut Bench) -> anyhow::Result<()> {
    let (ext4, ours) = (bench.ext4()?, bench.ours()?);
    let material = bench.material()?;
    eprintln!("{} files, {} MB", material.files, material.bytes / 1_000_000);
    let tar = material.tar.clone();
    let folder = |place: &Path, run: usize| place.join(format!("tree-{run}"));
    let pair = Pair::take(RUNS, &ext4, &ours, |place, run| {
        if run > 0 {
            fs::remove_dir_all(folder(place, run - 1)).context("remove a tree")?;
        }
        work::untar(&tar, &folder(place, run))
    })?;
    bench.report.push(pair.row(UNTAR));

    // The last tree is still there.
    let run = pair.ours.len() - 1;
    for place in [&ext4, &ours] {
        // The first brings the index up to date, the second is for the kernel's caches.
        work::git_status(&folder(place, run))?;
        work::git_status(&folder(place, run))?;
    }
    let pair = Pair::take(RUNS, &ext4, &ours, |place, _| work::git_status(&folder(place, run)))?;
    bench.report.push(pair.row(STATUS));
    for place in [&ext4, &ours] {
        work::rg(&folder(place, run))?;
    }
    let pair = Pair::take(RUNS, &ext4, &ours, |place, _| work::rg(&folder(place, run)))?;
    bench.report.push(pair.row(RG));
    for place in [&ext4, &ours] {
        fs::remove_dir_all(folder(place, run)).context("remove a tree")?;
    }
    Ok(())
}

/// A part of the tree on what else can be mounted here.
pub(super) fn peers(bench: &mut Bench) -> anyhow::Result<()> {
    let (ext4, ours) = (bench.ext4()?, bench.ours()?);
    let tar = bench.material()?.small_tar.clone();
    let files = bench.material()?.small_files;
    let pair = Pair::take(RUNS, &ext4, &ours, |place, run| {
        work::untar(&tar, &place.join(format!("small-{run}")))
    })?;
    let row = pair.row(&format!("untar {files} files"));
    let row = bench.beside_others(row, |dir| work::untar(&tar, &dir.join("small")));
    bench.report.push(row);
    Ok(())
}

pub(super) fn clone(bench: &mut Bench) -> anyhow::Result<()> {
    let (ext4, ours) = (bench.ext4()?, bench.ours()?);
    let repository = bench.material()?.repository.clone();
    eprintln!("the pack has {} MB", bench.material()?.repository_bytes / 1_000_000);
    let folder = |place: &Path, run: usize| place.join(format!("clone-{run}"));
    let pair = Pair::take(RUNS, &ext4, &ours, |place, run| {
        if run > 0 {
            fs::remove_dir_all(folder(place, run - 1)).context("remove a clone")?;
        }
        work::git_clone(&repository, &folder(place, run))
    })?;
    bench.report.push(pair.row(CLONE));
    Ok(())
}
