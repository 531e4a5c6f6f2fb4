//! Runs at length what the tests do a few rounds of: sleeps, kills, races, boots of real guests.
//!
//! Each part is one or two end-to-end tests (`crates/dormouse/tests/it`), run by themselves, against the
//! release binary, without a limit of time. One that fails does not keep the others from running, and
//! says how to run it again.
//!
//! Not here: what is checked.

mod place;

use std::io::{BufRead, BufReader, Write, stdout};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};

use self::place::Place;
use crate::cargo::{cargo, run as run_command};
use crate::{paths, setup};

/// What to run, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Which parts [default: all].
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Rounds of each part [default: sleeps 200, kills 100, races 200, boots 100].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Of chance: the same moments again. When a kill meets whom, the host's load decides, too.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Options {
    /// The command that runs a part once more.
    fn again(&self, part: Part) -> String {
        let rounds = self.rounds.map(|rounds| format!(" --rounds {rounds}")).unwrap_or_default();
        format!("cargo xtask soak {}{rounds} --seed {}", part.name(), self.seed)
    }
}

/// Something that a machine has to endure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A process counts on over sleeps and wakes: same pid, no gap, no lost line, the tree unchanged. As many rounds
    /// again while it is warm.
    Sleeps,
    /// kill -9 of QEMU, keeper and server at random moments of a sleep and a wake; in half of the rounds it stays warm.
    Kills,
    /// Two servers wake one machine at once; a third of the rounds with its memory in their store, and one while it is warm
    /// on one of them.
    Races,
    /// Cold boots in a row while every core is busy.
    Boots,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Sleeps => "sleeps",
            Self::Kills => "kills",
            Self::Races => "races",
            Self::Boots => "boots",
        }
    }

    const fn rounds(self) -> u64 {
        match self {
            Self::Sleeps | Self::Races => 200,
            Self::Kills | Self::Boots => 100,
        }
    }

    /// What each of its tests runs of its rounds: they share them, but for sleeps, which have to be that many in a row.
    const fn rounds_of_each(self, rounds: u64) -> u64 {
        match self {
            Self::Sleeps => rounds,
            Self::Kills | Self::Races | Self::Boots => rounds.div_ceil(self.tests().len() as u64),
        }
    }

    /// Its tests.
    const fn tests(self) -> &'static [&'static str] {
        match self {
            Self::Sleeps => &[
                "sleep::a_counter_goes_on_over_sleeps_as_if_it_had_blinked",
                "warm::it_goes_on_in_the_process_that_it_was_in",
            ],
            Self::Kills => &[
                "kills::whoever_is_killed_at_any_point_of_a_sleep_or_a_wake_nothing_is_lost",
                "kills::whoever_is_killed_of_a_machine_that_stays_warm_nothing_is_lost",
            ],
            Self::Races => &[
                "kills::of_two_servers_that_wake_a_machine_at_once_one_does",
                "kills::of_two_servers_one_of_which_has_it_warm_one_wakes_it",
                "kills::of_two_servers_that_race_for_stored_memory_one_has_it",
            ],
            Self::Boots => &["boots::cold_boots_in_a_row_under_load_are_all_good"],
        }
    }
}

/// Builds what users run, and has it endure all that is asked for.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "guests need root here: sudo cargo xtask soak");
    setup::run(&setup::Options::default())?;
    run_command(cargo().args(crate::test::RELEASE))?;
    run_command(test_program().args(["--no-run", "--quiet"]))?;
    let parts = match options.parts.as_slice() {
        [] => Part::value_variants(),
        parts => parts,
    };
    let place = Place::prepare()?;
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for part in parts {
        let rounds = part.rounds_of_each(options.rounds.unwrap_or(part.rounds()));
        for test in part.tests() {
            eprintln!("{}: {rounds} rounds of {test}", part.name());
            let begun = Instant::now();
            match endure(&place, test, rounds, options.seed) {
                Ok(shown) => {
                    let minutes = begun.elapsed().as_secs_f64() / 60.0;
                    passed.push(format!("{}: {shown}; {minutes:.1} min", part.name()));
                }
                Err(error) => {
                    eprintln!("{test}: {error:#}");
                    let again = options.again(*part);
                    failed.push(format!("{}: {error:#}; again: {again}", part.name()));
                }
            }
        }
    }
    eprintln!();
    for line in &failed {
        eprintln!("failed: {line}");
    }
    for line in &passed {
        writeln!(stdout(), "passed: {line}, seed {}", options.seed).context("write the result")?;
    }
    ensure!(failed.is_empty(), "{} of {} failed", failed.len(), failed.len() + passed.len());
    Ok(())
}

/// The end-to-end tests, with the release binary.
fn test_program() -> Command {
    let mut command = cargo();
    command.args(["test", "--package", "dormouse", "--test", "it"]);
    command
}

/// Runs one test; what it has shown.
fn endure(place: &Place, test: &str, rounds: u64, seed: u64) -> anyhow::Result<String> {
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    let mut command = test_program();
    command
        .args(["--quiet", "--", "--exact", test, "--nocapture"])
        .env("DORMOUSE_BIN", paths::dormouse())
        .env("DORMOUSE_TESTS_MUST_RUN", "1")
        .env("DORMOUSE_ROUNDS", rounds.to_string())
        .env("DORMOUSE_SEED", seed.to_string())
        .stdout(writer.try_clone().context("share a pipe")?)
        .stderr(writer);
    let mut child = place.start(&mut command)?;
    // It holds our end for writing, too.
    drop(command);
    let mut said = Said::default();
    for line in BufReader::new(reader).lines() {
        let line = line.context("read what the test says")?;
        eprintln!("  {line}");
        said.hear(&line);
    }
    let status = place.wait(&mut child)?;
    ensure!(status.success(), "{}", said.failure.unwrap_or_else(|| status.to_string()));
    // A test of another name would pass by not being there.
    match (said.ran, said.shown) {
        (true, Some(shown)) => Ok(shown),
        (true, None) => bail!("it passed and did not say what it has shown: that it is to do"),
        (false, _) => bail!("it did not run: is there a test of that name?"),
    }
}

/// What is taken from the output of a test.
#[derive(Debug, Default)]
struct Said {
    /// It was there, and passed.
    ran: bool,
    /// What it has shown, by its own words.
    shown: Option<String>,
    /// The first words of a failure.
    failure: Option<String>,
    /// A panic was announced: what follows says why.
    why_follows: bool,
}

impl Said {
    fn hear(&mut self, line: &str) {
        if std::mem::take(&mut self.why_follows) {
            self.failure.get_or_insert_with(|| line.to_owned());
        }
        if let Some(shown) = line.strip_prefix("shown: ") {
            self.shown = Some(shown.to_owned());
        }
        self.ran |= line.starts_with("test result: ok. 1 passed;");
        self.why_follows = line.starts_with("thread ") && line.contains("panicked at ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hears(lines: &[&str]) -> Said {
        let mut said = Said::default();
        lines.iter().for_each(|line| said.hear(line));
        said
    }

    #[test]
    fn a_test_that_ran_is_told_from_one_that_is_not_there() {
        let said =
            hears(&["running 1 test", "shown: 3 sleeps", "test result: ok. 1 passed; 0 failed"]);
        assert!(said.ran && said.shown.as_deref() == Some("3 sleeps"), "{said:?}");
        let said = hears(&["running 0 tests", "test result: ok. 0 passed; 0 failed"]);
        assert!(!said.ran && said.shown.is_none(), "{said:?}");
    }

    #[test]
    fn a_failure_is_told_by_its_first_words() {
        let panicked = "thread 'a' (1) panicked at src/a.rs:1:2:";
        let said = hears(&[panicked, "it was booted", panicked, "and then"]);
        assert_eq!(said.failure.as_deref(), Some("it was booted"));
    }

    #[test]
    fn each_way_to_sleep_has_all_rounds_and_others_share_them() {
        let each: Vec<_> = Part::value_variants()
            .iter()
            .map(|part| (part.name(), part.rounds_of_each(part.rounds())))
            .collect();
        assert_eq!(each, [("sleeps", 200), ("kills", 50), ("races", 67), ("boots", 100)]);
    }

    #[test]
    fn the_tests_are_there() {
        let tests = paths::root().join("crates/dormouse/tests/it");
        for test in Part::value_variants().iter().flat_map(|part| part.tests()) {
            let (module, name) = test.split_once("::").unwrap();
            let source = std::fs::read_to_string(tests.join(module).with_extension("rs")).unwrap();
            assert!(source.contains(&format!("fn {name}()")), "{test}");
        }
    }
}
