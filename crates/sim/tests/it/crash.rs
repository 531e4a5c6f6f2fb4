//! kill -9 of the real keeper, and of mounts.

use std::path::PathBuf;

use sim::crash::{Options, check_coverage, run, run_mounted};

/// `cargo xtask test` builds the release binary and says where it is.
fn program() -> Option<PathBuf> {
    let program = std::env::var_os("DORMOUSE_BIN");
    if program.is_none() {
        assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "DORMOUSE_BIN is not set");
        eprintln!("skipped: DORMOUSE_BIN is not set");
    }
    program.map(PathBuf::from)
}

#[test]
fn kills_of_a_keeper_lose_nothing() {
    let Some(program) = program() else { return };
    let options = Options { cycles: 10, seed: 0, program };
    let summary = run(&options, &|_| ()).unwrap_or_else(|error| panic!("{error:#}"));
    check_coverage(&summary).unwrap();
    assert_eq!(summary.cycles, 10);
}

#[test]
fn a_hundred_kills_of_a_mount_lose_nothing() {
    let Some(program) = program() else { return };
    if let Some(why) = sim::power::missing() {
        assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot run: {why}");
        eprintln!("skipped: {why}");
        return;
    }
    let options = Options { cycles: 100, seed: 0, program };
    let summary = run_mounted(&options, &|_| ()).unwrap_or_else(|error| panic!("{error:#}"));
    check_coverage(&summary).unwrap();
    assert_eq!(summary.cycles, 100);
    assert!(summary.killed_twice > 5 && summary.killed_in_release > 5, "{summary:?}");
}
