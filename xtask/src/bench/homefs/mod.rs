//! The group `homefs`: a home mounted on this host, beside ext4, a FUSE server that holds nothing, `rclone mount` and `s3fs`, all of
//! them on this disk and the last two and ours on one S3 server.
//!
//! # Order
//! Every piece of work is done on ext4 and on ours in turn, so that both see the same host. Peers that are slower by orders get a part
//! of the work, and a row of its own for it.
//!
//! What needs root: mounting, and installing what only this group needs: `rclone`, `s3fs`, `ripgrep`. Where they cannot be had, their numbers are
//! missing and nothing else.
//!
//! Not here: files over HTTP (group `machine`).

mod asleep;
mod cost;
mod files;
mod forks;
mod material;
mod mount;
mod peers;
mod store;
mod trees;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use self::material::Material;
use self::mount::{Home, Mount};
use self::store::Store;
use super::Measured;
use super::host::Host;
use super::report::{Report, Target};
use crate::{progress, setup};

/// Its name.
pub(super) const GROUP: &str = "homefs";

/// Number of runs that a median is of.
const RUNS: usize = 5;
/// No further run begins after this.
const BUDGET: Duration = Duration::from_secs(150);

const fn of_ext4(row: &'static str, must: f64, goal: f64) -> Target {
    Target { row, against: Some("ext4"), must, goal }
}

const fn plain(row: &'static str, must: f64, goal: f64) -> Target {
    Target { row, against: None, must, goal }
}

/// What rows must reach.
const TARGETS: &[Target] = &[
    of_ext4(trees::UNTAR, 3.0, 1.5),
    of_ext4(trees::STATUS, 1.2, 1.1),
    of_ext4(trees::RG, 1.2, 1.1),
    of_ext4(trees::CLONE, 2.0, 1.3),
    of_ext4(files::CREATE, 8.0, 3.0),
    of_ext4(files::DELETE, 2.0, 1.0),
    of_ext4(files::WRITE, 0.6, 0.8),
    of_ext4(files::READ, 0.6, 0.8),
    of_ext4(files::RANDOM, 0.8, 1.0),
    plain(cost::SMALL_FILES, 5.0, 3.0),
    plain(cost::LARGER_FILES, 24.0, 17.0),
    plain(cost::FSYNC, 55.0, 52.0),
    plain(cost::FSYNC_PUTS, 1.0, 1.0),
    plain(cost::SQLITE_PUTS, 1.0, 1.0),
    plain(cost::SQLITE_BYTES, 3.0, 2.0),
    plain(asleep::GETS_SMALL, 4.0, 4.0),
    plain(asleep::GETS_LARGE, 4.0, 4.0),
    plain(asleep::BYTES_SMALL, 2.0, 2.0),
    plain(asleep::BYTES_LARGE, 2.0, 2.0),
    plain(asleep::REOPEN, 250.0, 250.0),
    plain(asleep::MEMORY, 300.0, 190.0),
    plain(forks::PUTS_SMALL, 3.0, 3.0),
    plain(forks::PUTS_LARGE, 3.0, 3.0),
    Target { row: forks::TIME_LARGE, against: Some(forks::SMALL), must: 1.2, goal: 1.0 },
];

/// Everything that sections share. Fields are dropped in this order: mounts before the store, all before the directory.
struct Bench {
    ours: Option<Mount>,
    store: Store,
    report: Report,
    material: Option<Material>,
    root: TempDir,
}

/// A part of the work, with words for people.
type Section = (&'static str, fn(&mut Bench) -> anyhow::Result<()>);

const SECTIONS: &[Section] = &[
    ("what a sync costs", cost::fsync),
    ("SQLite in the home", cost::sqlite),
    ("requests for 10,000 small files", cost::small_files),
    ("requests for 1 GiB in 1 MiB files", cost::larger_files),
    ("10,000 files of 4 KiB", files::many),
    ("10,000 files of 4 KiB, other file systems", files::peers),
    ("one file of 2 GiB", files::large),
    ("untar, git status, rg", trees::untar),
    ("untar, other file systems", trees::peers),
    ("git clone", trees::clone),
    ("a sleeping home of 1,000 files", asleep::small),
    ("a sleeping home of 100,000 files", asleep::large),
    ("forks of homes of 100 and of 100,000 files", forks::measure),
    ("memory", asleep::memory),
];

/// Runs all of it.
pub(super) fn measure(only: &str) -> anyhow::Result<Measured> {
    ensure!(nix::unistd::geteuid().is_root(), "mounting needs root: sudo cargo xtask bench homefs");
    setup::compared().unwrap_or_else(|error| eprintln!("{error:#}"));
    let base = std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
    let root = tempfile::Builder::new()
        .prefix("dormouse-bench-")
        .tempdir_in(&base)
        .with_context(|| format!("make a directory in {}", base.display()))?;
    let store = progress::step("start an S3 server", || Store::start(&root.path().join("s3")))?;
    let report = Report::new(GROUP, Host::this(), TARGETS);
    let mut bench = Bench { ours: None, store, report, material: None, root };
    let mut failures = Vec::new();
    for (what, section) in SECTIONS.iter().filter(|(what, _)| what.contains(only)) {
        if let Err(error) = progress::step(what, || section(&mut bench)) {
            eprintln!("{what}: {error:#}");
            failures.push(error.context(*what));
        }
    }
    let Bench { ours, report, .. } = bench;
    drop(ours);
    Ok((report, failures))
}

impl Bench {
    fn root(&self) -> &Path {
        self.root.path()
    }

    /// The source tree; made when it is first asked for.
    fn material(&mut self) -> anyhow::Result<&Material> {
        if self.material.is_none() {
            let made = progress::step("pack a source tree of 45,000 files", || {
                Material::make(self.root.path())
            });
            self.material = Some(made?);
        }
        self.material.as_ref().context("it was just made")
    }

    /// A folder of the disk.
    fn ext4(&self) -> anyhow::Result<PathBuf> {
        let dir = self.root().join("ext4");
        fs::create_dir_all(&dir).context("make a folder")?;
        Ok(dir)
    }

    fn home(&self, name: &str) -> anyhow::Result<Home> {
        Home::new(&self.store, self.root(), name)
    }

    /// A folder in a home that all sections share who do not count requests.
    fn ours(&mut self) -> anyhow::Result<PathBuf> {
        if self.ours.is_none() {
            let mount = self.home("shared")?.mount(&self.store, &self.root().join("ours"))?;
            self.ours = Some(mount);
        }
        Ok(self.ours.as_ref().context("it was just mounted")?.dir().to_owned())
    }

    /// A home of its own, mounted.
    fn fresh(&self, name: &str) -> anyhow::Result<(Home, Mount)> {
        let home = self.home(name)?;
        let mount = home.mount(&self.store, &self.root().join(format!("mnt-{name}")))?;
        Ok((home, mount))
    }
}
