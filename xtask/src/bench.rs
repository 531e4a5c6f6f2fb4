//! Runs a group of benchmarks against the release binary.

use anyhow::bail;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which group.
    group: String,
    /// One JSON document on standard output instead of a table.
    #[arg(long)]
    json: bool,
}

/// A group: its name and what runs it. `true` asks for JSON.
type Group = (&'static str, fn(bool) -> anyhow::Result<()>);

/// All groups.
const GROUPS: &[Group] = &[];

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let Some((_, measure)) = GROUPS.iter().find(|(name, _)| *name == options.group) else {
        let names: Vec<_> = GROUPS.iter().map(|(name, _)| *name).collect();
        bail!("no benchmark group {:?}; there are: {}", options.group, names.join(", "));
    };
    measure(options.json)
}
