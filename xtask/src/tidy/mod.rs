//! Checks what the compiler does not: layers, homes of foreign crates, the text of the sources,
//! and that the tests are there which the promises name.
//!
//! Every finding is one line that names the place and says what to do. Runs as a command and as a test.

mod layers;
mod promises;
mod sources;

use anyhow::bail;

use crate::paths;

/// Prints what is wrong; an error where anything is.
pub(crate) fn run() -> anyhow::Result<()> {
    let findings = findings()?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        n => bail!("{n} findings"),
    }
}

fn findings() -> anyhow::Result<Vec<String>> {
    let mut findings = layers::check(&layers::packages()?);
    findings.extend(sources::check(paths::root())?);
    findings.extend(promises::check(paths::root())?);
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let findings = findings().unwrap();
        assert!(findings.is_empty(), "\n{}", findings.join("\n"));
    }
}
