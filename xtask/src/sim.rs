//! Starts the simulation of homes (crate `sim`) at the size that is asked for.
//!
//! Not here: what it does and checks. The bounded forms are tests of that crate.

use clap::Args;

use crate::cargo::{cargo, run as run_command};

/// What to run, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many seeds [default: 1,000; with `--seed`, that one].
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Power loss under a home's directory, in place of the schedules.
    #[arg(long, conflicts_with = "model")]
    power: bool,
    /// Random calls compared with a tree in memory, in place of the schedules.
    #[arg(long)]
    model: bool,
    /// Steps of the model, in all; of a schedule, each.
    #[arg(long)]
    steps: Option<u64>,
    /// Threads to run seeds on.
    #[arg(long, default_value_t = 4)]
    threads: usize,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "sim", "--bin", "sim", "--"]);
    command.arg(match (options.power, options.model) {
        (true, _) => "power",
        (_, true) => "model",
        _ => "world",
    });
    let seeds = options.seeds.unwrap_or(if options.seed.is_some() { 1 } else { 1_000 });
    command.args(["--seeds", &seeds.to_string(), "--threads", &options.threads.to_string()]);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if let Some(steps) = options.steps {
        command.args(["--steps", &steps.to_string()]);
    }
    run_command(&mut command)
}

/// How often to kill.
#[derive(Debug, Args)]
pub(crate) struct Cycles {
    /// How many cycles.
    #[arg(long, default_value_t = 100)]
    cycles: u64,
    /// Of chance.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Kill `dormouse mount --read-write` in place of keepers: many more cycles in the same time.
    #[arg(long)]
    mount: bool,
}

/// Builds what users run, and kills it.
pub(crate) fn crash(cycles: &Cycles) -> anyhow::Result<()> {
    if !cycles.mount {
        crate::setup::run(&crate::setup::Options::default())?;
    }
    run_command(cargo().args(["build", "--quiet", "--release", "--package", "dormouse"]))?;
    let (count, seed) = (cycles.cycles.to_string(), cycles.seed.to_string());
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "sim", "--bin", "sim", "--"]);
    command.args(["crash", "--cycles", &count, "--seed", &seed, "--program"]);
    command.arg(crate::paths::dormouse());
    if cycles.mount {
        command.arg("--mount");
    }
    run_command(&mut command)
}
