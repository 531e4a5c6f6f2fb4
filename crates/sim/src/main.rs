//! Runs what the crate offers at the size that is asked for. `cargo xtask sim` and `cargo xtask crash`
//! start it.

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use clap::{Parser, Subcommand};
use sim::power::Names;

/// Proofs of the home file system.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
    /// Threads to run seeds on.
    #[arg(long, global = true, default_value_t = 4)]
    threads: usize,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Seeds of the simulation.
    World {
        /// How many.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// This one only, with its trace; or the first of `--seeds`.
        #[arg(long)]
        seed: Option<u64>,
        /// Steps of a seed.
        #[arg(long, default_value_t = 45)]
        steps: u64,
    },
    /// Power loss under a home's directory.
    Power {
        /// How many.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first.
        #[arg(long)]
        seed: Option<u64>,
        /// A name is durable only once its directory was synced: harder than ext4, XFS and btrfs,
        /// which the engine asks for.
        #[arg(long)]
        strict: bool,
        /// The disk says that it synced and does not: must be found out.
        #[arg(long)]
        lies: bool,
    },
    /// Serves the disk of a power loss; started by `power`.
    #[command(hide = true)]
    Disk {
        #[arg(long)]
        strict: bool,
        #[arg(long)]
        lies: bool,
    },
    /// Random calls compared with a tree in memory.
    Model {
        /// Ignored where there are steps.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first.
        #[arg(long)]
        seed: Option<u64>,
        /// Calls in all.
        #[arg(long)]
        steps: Option<u64>,
    },
    /// kill -9 of the real keeper, or of a mount, under a real workload.
    Crash {
        /// Of a mount: a fraction of a second a cycle, and no guest.
        #[arg(long)]
        mount: bool,
        /// How many cycles.
        #[arg(long, default_value_t = 100)]
        cycles: u64,
        /// Of chance.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// The program under test; by default `release/dormouse` of this build directory.
        #[arg(long)]
        program: Option<std::path::PathBuf>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let begun = Instant::now();
    if let What::Crash { cycles, seed, program, mount } = &cli.what {
        return crash(*cycles, *seed, program.clone(), *mount);
    }
    let (collected, asleep, carried) = <(AtomicU64, AtomicU64, AtomicU64)>::default();
    let (name, outcome) = match &cli.what {
        What::World { seeds, seed, steps } => {
            let options = sim::world::Options { steps: *steps, ..Default::default() };
            let count = |of: &AtomicU64, more| _ = of.fetch_add(more, Relaxed);
            (
                "world",
                many(&cli, *seeds, *seed, |seed, alone| {
                    sim::world::run(seed, &options).map_err(|f| f.to_string()).map(|summary| {
                        if alone {
                            summary.trace.iter().for_each(|line| eprintln!("  {line}"));
                        }
                        count(&collected, summary.collected);
                        count(&asleep, summary.asleep);
                        count(&carried, summary.carried);
                        summary.confirmed
                    })
                }),
            )
        }
        What::Power { seeds, seed, strict, lies } => {
            let names = if *strict { Names::Strict } else { Names::Journaled };
            let program = std::env::current_exe().unwrap_or_else(|_| "sim".into());
            let options =
                sim::power::Options { names, lies: *lies, ..sim::power::Options::new(program) };
            ("power", many(&cli, *seeds, *seed, |seed, _| sim::power::run(seed, &options)))
        }
        What::Model { seeds, seed, steps } => {
            let calls = sim::model::CALLS;
            let seeds = steps.map_or(*seeds, |steps| steps.div_ceil(calls));
            ("model", many(&cli, seeds, *seed, |seed, _| sim::model::run(seed, calls)))
        }
        What::Disk { strict, lies } => {
            let names = if *strict { Names::Strict } else { Names::Journaled };
            return match sim::power::serve(names, *lies) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        What::Crash { .. } => return ExitCode::FAILURE,
    };
    for what in &outcome.failed {
        eprintln!("{what}\n");
    }
    let mut summary = serde_json::json!({
        "what": name,
        "seeds": outcome.seeds,
        "failed": outcome.failed.len(),
        "confirmed": outcome.total,
        "seconds": begun.elapsed().as_secs_f64(),
    });
    if name == "world" {
        for (what, count) in [
            ("collected", collected),
            ("collected_asleep", asleep),
            ("drafts_carried_over", carried),
        ] {
            summary[what] = count.into_inner().into();
        }
    }
    #[allow(clippy::print_stdout, reason = "the result")]
    {
        println!("{summary}");
    }
    if outcome.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one seed, or many.
fn many(
    cli: &Cli,
    seeds: u64,
    seed: Option<u64>,
    one: impl Fn(u64, bool) -> Result<u64, String> + Sync,
) -> sim::Outcome {
    let first = seed.unwrap_or(0);
    let alone = seed.is_some() && seeds == 1;
    sim::seeds(first..first.saturating_add(seeds), cli.threads, |seed| one(seed, alone))
}

fn crash(cycles: u64, seed: u64, program: Option<std::path::PathBuf>, mount: bool) -> ExitCode {
    use sim::crash::{Options, Summary, check_coverage, release_program, run, run_mounted};
    let begun = Instant::now();
    let progress = |summary: &Summary| {
        let Summary { cycles, acknowledged, stored, compared, .. } = summary;
        eprintln!("{cycles}: {acknowledged} acknowledged, {stored} stored, {compared} compared");
    };
    let outcome = program.map_or_else(release_program, Ok).and_then(|program| {
        let options = Options { cycles, seed, program };
        let summary =
            if mount { run_mounted(&options, &progress) } else { run(&options, &progress) };
        let summary = summary?;
        check_coverage(&summary)?;
        Ok(summary)
    });
    match outcome {
        Ok(summary) => {
            let line = serde_json::json!({
                "what": if mount { "crash --mount" } else { "crash" }, "cycles": summary.cycles, "lost": 0,
                "disks_lost": summary.disks_lost, "killed_twice": summary.killed_twice,
                "killed_in_release": summary.killed_in_release,
                "acknowledged": summary.acknowledged, "stored": summary.stored,
                "compared": summary.compared, "seconds": begun.elapsed().as_secs_f64(),
            });
            #[allow(clippy::print_stdout, reason = "the result")]
            {
                println!("{line}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
