//! Feeds decoders of hostile bytes for longer than their tests do (crate `fuzz`).
//!
//! A target is a test whose path has a module `fuzz`. The short form runs with all other tests.

use std::time::SystemTime;

use clap::Args;

use crate::cargo::{cargo, run as run_command};

/// Crates that have targets.
const CRATES: &[&str] = &[
    "agent-proto",
    "fuse-serve",
    "guest-ring",
    "homefs",
    "keeper",
    "nbd-serve",
    "runtime",
    "upper",
    "vfs",
];

/// What to feed, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Targets whose name has this in it, as `fuzz::NAME` [default: all].
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Of chance [default: the time of day].
    #[arg(long)]
    seed: Option<u64>,
    /// Runs this input alone.
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<std::path::PathBuf>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = options.seed.unwrap_or(now.as_secs());
    let mut command = cargo();
    command.args(["test", "--quiet", "--lib", "--no-fail-fast"]);
    command.args(CRATES.iter().flat_map(|name| ["--package", name]));
    command.arg(format!("fuzz::{}", options.target.as_deref().unwrap_or_default()));
    // One after the other: they count time, and what they say belongs together.
    command.args(["--", "--test-threads", "1", "--nocapture"]);
    command.env("DORMOUSE_FUZZ_SECONDS", options.seconds.to_string());
    command.env("DORMOUSE_FUZZ_SEED", seed.to_string());
    if let Some(input) = &options.input {
        command.env("DORMOUSE_FUZZ_INPUT", std::path::absolute(input)?);
    }
    run_command(&mut command)
}
