//! Power loss, on real mounts.

use sim::power::{Options, missing, run};

/// False, with a word about it, where this host cannot mount.
fn can_mount() -> bool {
    if let Some(why) = missing() {
        // `cargo xtask test` says where nothing may be skipped: there it is a failure.
        assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot run: {why}");
        eprintln!("skipped: {why}");
        return false;
    }
    true
}

fn options() -> Options {
    Options::new(env!("CARGO_BIN_EXE_sim"))
}

fn all(range: std::ops::Range<u64>, options: &Options) -> sim::Outcome {
    sim::seeds(range, 4, |seed| run(seed, options))
}

#[test]
fn what_was_confirmed_survives_power_loss() {
    if can_mount() {
        let outcome = all(0..100, &options());
        assert!(outcome.failed.is_empty(), "{}", outcome.failed[0]);
        assert!(outcome.total > 300, "hardly anything was confirmed: {}", outcome.total);
    }
}

/// The harness itself: a disk that says it synced and did not must be found out.
#[test]
fn a_disk_that_lies_about_fsync_is_found_out() {
    if can_mount() {
        let outcome = all(0..40, &Options { lies: true, ..options() });
        assert!(!outcome.failed.is_empty(), "nothing was lost in {} seeds", outcome.seeds);
    }
}
