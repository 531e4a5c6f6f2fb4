//! Builds the guest's agent: one static program.
//!
//! Static against glibc, since that needs nothing but the toolchain that is there anyway. It has a
//! target folder of its own, so that its flags do not rebuild everything else.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::cargo::cargo;
use crate::paths;
use crate::progress::step;

const PACKAGE: &str = "guest-agent";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The agent as built from this checkout.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

/// Builds what has changed, which cargo knows best.
pub(crate) fn build() -> anyhow::Result<Agent> {
    let target_dir = paths::target().join("agent");
    let work = || {
        let output = cargo()
            .args([
                "build",
                "--quiet",
                "--package",
                PACKAGE,
                "--profile",
                "agent",
                "--target",
                TARGET,
            ])
            .args(["--message-format", "json-render-diagnostics", "--target-dir"])
            .arg(&target_dir)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .stderr(Stdio::inherit())
            .output()
            .context("start cargo")?;
        if !output.status.success() {
            bail!("cargo could not build {PACKAGE}");
        }
        executable(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("cargo built no program from {PACKAGE}"))
    };
    // Where it was built before, little or nothing is to be done and nothing is said.
    let path = if target_dir.exists() { work()? } else { step("build the agent", work)? };
    // All crates of the workspace share one version.
    Ok(Agent { path, version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// A line of cargo's messages; most have none of these.
#[derive(Debug, Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

/// The program in cargo's messages: dependencies have none.
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    messages.filter_map(|message| message.executable).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_by_what_cargo_says() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"libc"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"agent"},"executable":"/t/agent"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some(PathBuf::from("/t/agent")));
        assert_eq!(executable("{\"reason\":\"build-finished\"}"), None);
    }
}
