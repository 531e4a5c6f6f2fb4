//! Sets this machine up, builds the release binary, measures it from outside, over HTTP, and says how it compares.
//!
//! A group is a list of sections that run in order on one server of their own. A section that fails
//! costs its own rows; the rest still runs, what was measured is printed, and the command fails. What misses its target
//! is said in the table, and fails the command where that is asked for (`--check`): another host is another number.
//!
//! Numbers are medians. What they are compared with (`peers`) is measured in the same run on the same
//! disk. Talk and progress go to standard error, the table or the JSON document to standard output.
//!
//! Not here: instruction counts and in-process measurements; those live beside the code they measure.

mod disk;
mod homefs;
mod host;
mod http;
mod load;
mod machine;
mod many;
mod pattern;
mod registered;
mod report;
mod samples;
mod server;
mod tree;

use anyhow::bail;

use self::report::Report;
use crate::{cargo, setup};

/// What is measured, and what it is measured on.
const RELEASE: &[&str] =
    &["build", "--quiet", "--release", "--package", "dormouse", "--package", "testkit", "--bins"];

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which group.
    group: String,
    /// One JSON document on standard output instead of a table.
    #[arg(long)]
    json: bool,
    /// Only sections whose words, as they are shown while they run, contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Fail where a row misses what it must reach.
    #[arg(long)]
    check: bool,
}

/// What a group has measured, and what went wrong on the way.
type Measured = (Report, Vec<anyhow::Error>);

/// A group: its name and what runs it. An error is one without which nothing can be measured.
type Group = (&'static str, fn(&str) -> anyhow::Result<Measured>);

/// All groups.
const GROUPS: &[Group] = &[
    (machine::GROUP, machine::measure),
    (machine::HTTP, machine::measure_http),
    (homefs::GROUP, homefs::measure),
    (registered::GROUP, registered::measure),
];

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let Some((_, measure)) = GROUPS.iter().find(|(name, _)| *name == options.group) else {
        let names: Vec<_> = GROUPS.iter().map(|(name, _)| *name).collect();
        bail!("no benchmark group {:?}; there are: {}", options.group, names.join(", "));
    };
    setup::run(&setup::Options::default())?;
    cargo::run(cargo::cargo().args(RELEASE))?;
    let (report, failures) = measure(&options.only)?;
    report.print(options.json)?;
    for failure in &failures {
        eprintln!("error: {failure:#}");
    }
    match (failures.len(), report.missed()) {
        (0, missed) if options.check && !missed.is_empty() => {
            bail!("missed: {}", missed.join(", "))
        }
        (0, _) => Ok(()),
        (n, _) => bail!("{n} sections of {} could not be measured", options.group),
    }
}
