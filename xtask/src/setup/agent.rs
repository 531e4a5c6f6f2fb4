//! Builds the guest's agent: one static program.
//!
//! Static against glibc, since that needs nothing but the toolchain that is there anyway. It has a
//! target folder of its own, so that its flags do not rebuild everything else.

use std::path::PathBuf;

use anyhow::ensure;

use crate::cargo::{cargo, run};
use crate::paths;
use crate::progress::step;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The agent as built from this checkout.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

pub(crate) fn build() -> anyhow::Result<Agent> {
    let target_dir = paths::target().join("agent");
    let path = target_dir.join(TARGET).join("release/guest-agent");
    let mut command = cargo();
    command
        .args(["build", "--package", "guest-agent", "--release", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    if path.exists() {
        // Nothing or little to do: cargo decides, and says so itself where it takes longer.
        run(command.arg("--quiet"))?;
    } else {
        step("build the agent", || run(command.arg("--quiet")))?;
    }
    ensure!(path.exists(), "cargo built no {}", path.display());
    // All crates of the workspace share one version.
    Ok(Agent { path, version: env!("CARGO_PKG_VERSION").to_owned() })
}
