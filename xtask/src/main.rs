//! The project's own commands.
//!
//! `setup` makes this machine ready and is the first step of `run` and `test`. Talk goes to standard
//! error, results to standard output; a failure says what to do and exits non-zero.
//!
//! Not here: how an image is made (crate `images`) and what a test checks. These commands only put
//! the pieces in order.

mod bench;
mod cargo;
mod fuzz;
mod interrupt;
mod keepers;
mod paths;
mod posix;
mod progress;
mod run;
mod setup;
mod sim;
mod soak;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Make this machine ready: Debian packages, agent, kernel, base image. Quick when all is there.
    Setup(setup::Options),
    /// Set up, build, start a server with a machine named `hello`; Ctrl-C stops the server.
    Run {
        /// Arguments for `dormouse serve`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        serve: Vec<String>,
    },
    /// Set up, build and run every check and every test.
    Test,
    /// Run the file-system suites of others on a mounted home, in full: pjdfstest, fsx. Needs root.
    Posix(posix::Options),
    /// Check what the compiler does not: which crate may use which, file sizes, leftovers.
    Tidy,
    /// Simulation of homes: seeds of schedules with crashes, races and faults, power loss, a model.
    Sim(sim::Options),
    /// kill -9 of the real keeper under a real workload, again and again.
    Crash(sim::Cycles),
    /// Sleeps, kills, races and boots of real guests, hundreds of them: hours. Needs root.
    Soak(soak::Options),
    /// Mutated bytes for every decoder that reads what a guest, a client or the store says.
    Fuzz(fuzz::Options),
    /// Measure.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup(options) => setup::run(&options).map(drop),
        Task::Run { serve } => run::run(&serve),
        Task::Test => test::run(),
        Task::Posix(options) => posix::run(&options),
        Task::Tidy => tidy::run(),
        Task::Sim(options) => sim::run(&options),
        Task::Crash(cycles) => sim::crash(&cycles),
        Task::Soak(options) => soak::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Bench(options) => bench::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
