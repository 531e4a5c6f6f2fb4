//! The file-system suites that others wrote, against a mounted home.
//!
//! `pjdfstest` and `fsx` come from the package registry, at fixed versions, into `target/tools`;
//! what runs them is `crates/dormouse/tests/it/posix.rs`. `cargo xtask test` runs all of the first
//! and a part of the second, this task runs both in full. Every fifth operation of `fsx` is a sync, so
//! the disk decides how long that takes; `TMPDIR` says which one is used (up to 12 GiB of it).

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::cargo::{cargo, run as run_command};
use crate::paths;

/// Programs and versions.
const TOOLS: &[(&str, &str)] = &[("pjdfstest", "0.2.2"), ("fsx", "0.3.2")];
/// How long installing both may take.
const INSTALL: Duration = Duration::from_secs(900);

/// How much.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Operations of fsx at each boundary between tiers.
    #[arg(long, default_value_t = 1_000_000)]
    operations: u64,
    /// The first seed; a failure says which one it had.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "mounting needs root: sudo cargo xtask posix");
    let tools = ensure_tools()?;
    run_command(cargo().args(["build", "--release", "--package", "dormouse"]))?;
    run_command(
        cargo()
            .args(["nextest", "run", "--profile", "posix", "--package", "dormouse"])
            .args(["--no-capture", "--", "posix::"])
            .env("DORMOUSE_BIN", paths::dormouse())
            .env("DORMOUSE_POSIX_TOOLS", tools)
            .env("DORMOUSE_TESTS_MUST_RUN", "1")
            .env("DORMOUSE_FSX_OPERATIONS", options.operations.to_string())
            .env("DORMOUSE_FSX_SEED", options.seed.to_string()),
    )
}

/// Installs what is missing, and says where it is.
pub(crate) fn ensure_tools() -> anyhow::Result<PathBuf> {
    let root = paths::target().join("tools");
    let bin = root.join("bin");
    let listed = std::fs::read_to_string(root.join(".crates.toml")).unwrap_or_default();
    let missing: Vec<String> = TOOLS
        .iter()
        .filter(|(name, version)| {
            !listed.contains(&format!("\"{name} {version} ")) || !bin.join(name).exists()
        })
        .map(|(name, version)| format!("{name}@{version}"))
        .collect();
    if missing.is_empty() {
        return Ok(bin);
    }
    eprintln!("install {}", missing.join(", "));
    let mut install = cargo()
        .args(["install", "--quiet", "--locked", "--root"])
        .arg(&root)
        .arg("--target-dir")
        .arg(root.join("build"))
        .args(&missing)
        .stdin(Stdio::null())
        .spawn()
        .context("start cargo install")?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = install.try_wait()? {
            break status;
        }
        if begun.elapsed() > INSTALL {
            install.kill().context("end cargo install")?;
            install.wait()?;
            bail!("cargo install took longer than {INSTALL:?}; is the package registry reachable?");
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    ensure!(status.success(), "cargo install {}: {status}", missing.join(" "));
    Ok(bin)
}
