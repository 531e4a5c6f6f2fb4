//! Runs every check and every test.
//!
//! All steps run, also after one has failed, and the tests come last, so that their summary closes the
//! output. The layer check is one of the tests.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::bail;

use crate::cargo::{cargo, run as run_command};
use crate::setup;

/// The server, and the S3 server that end-to-end tests start beside it.
pub(crate) const RELEASE: &[&str] =
    &["build", "--quiet", "--release", "--package", "dormouse", "--package", "testkit", "--bins"];

/// What can run without root. The runner counts the others as skipped.
const WITHOUT_ROOT: &str = "not ((package(fuse-serve) | package(guest-agent) | package(runtime)) & kind(test)) \
     & not (package(runtime) & test(network)) & not (package(dormouse) & (test(mount::) | test(posix::)))";

pub(crate) fn run() -> anyhow::Result<()> {
    setup::run(&setup::Options::default())?;
    let can_run_all = nix::unistd::geteuid().is_root() && Path::new("/dev/fuse").exists();
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
        if can_run_all {
            steps.push(("tests", &["nextest", "run", "--workspace"]));
        } else {
            eprintln!(
                "not root, or no /dev/fuse: tests of mounts and guests are skipped, and counted as such"
            );
            steps.push(("tests", &["nextest", "run", "--workspace", "-E", WITHOUT_ROOT]));
        }
    } else {
        steps.push(("tests", &["test", "--workspace", "--no-fail-fast"]));
    }
    // End-to-end tests run what users run: the release binary.
    steps.insert(0, ("release binary", RELEASE));
    let release = crate::paths::target().join("release");
    let mut failed = Vec::new();
    let tools = match can_run_all.then(crate::posix::ensure_tools).transpose() {
        Ok(tools) => tools,
        Err(error) => {
            // Their tests will fail too; the others need not wait for a registry.
            eprintln!("suites of file systems: {error:#}");
            failed.push("suites of file systems");
            None
        }
    };
    for (name, arguments) in steps {
        let begin = Instant::now();
        eprintln!("{name}: cargo {}", arguments.join(" "));
        let mut command = cargo();
        command.args(arguments).env("DORMOUSE_BIN", release.join("dormouse"));
        command.env("DORMOUSE_S3_SERVER", release.join("s3-server"));
        if let Some(tools) = &tools {
            command.env("DORMOUSE_POSIX_TOOLS", tools);
        }
        if can_run_all {
            // Set-up has brought what they need: a test that cannot run here is a failure.
            command.env("DORMOUSE_TESTS_MUST_RUN", "1");
        }
        if let Err(error) = run_command(&mut command) {
            eprintln!("{name} failed: {error:#}");
            failed.push(name);
        }
        eprintln!("{name}: {} s", begin.elapsed().as_secs());
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
