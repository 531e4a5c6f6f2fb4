//! Runs every check and every test.
//!
//! All steps run, also after one has failed, and the tests come last, so that their summary closes the
//! output. The layer check is one of the tests.

use std::process::{Command, Stdio};

use anyhow::bail;

use crate::cargo::{cargo, run as run_command};
use crate::setup;

pub(crate) fn run() -> anyhow::Result<()> {
    setup::run(&setup::Options::default())?;
    let mut steps: Vec<(&str, &[&str])> = vec![
        ("format", &["fmt", "--all", "--check"]),
        (
            "lints",
            &["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"],
        ),
    ];
    if has_nextest() {
        // nextest does not run documentation tests.
        steps.push(("documentation tests", &["test", "--quiet", "--workspace", "--doc"]));
        steps.push(("tests", &["nextest", "run", "--workspace"]));
    } else {
        steps.push(("tests", &["test", "--workspace", "--no-fail-fast"]));
    }
    let mut failed = Vec::new();
    for (name, arguments) in steps {
        eprintln!("{name}: cargo {}", arguments.join(" "));
        if let Err(error) = run_command(cargo().args(arguments)) {
            eprintln!("{name} failed: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn has_nextest() -> bool {
    let version = Command::new("cargo-nextest")
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}
