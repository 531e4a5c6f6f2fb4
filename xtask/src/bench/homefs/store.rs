//! The S3 server that homes, and others, are measured on: a process of its own that counts what is asked of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, ensure};

use crate::paths;

/// The running server. It ends with this value.
pub(super) struct Store {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    variables: Vec<(String, String)>,
}

/// What was asked of a store.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic(BTreeMap<String, [u64; 3]>);

impl Traffic {
    /// What was asked after `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let by_verb = self.0.iter().map(|(verb, now)| {
            let before = earlier.0.get(verb).copied().unwrap_or_default();
            (verb.clone(), std::array::from_fn(|at| now[at].saturating_sub(before[at])))
        });
        Self(by_verb.collect())
    }

    fn sum(&self, verbs: &[&str], field: usize) -> u64 {
        verbs.iter().filter_map(|verb| self.0.get(*verb)).map(|counts| counts[field]).sum()
    }

    /// Requests that store an object, in whatever form.
    pub(super) fn puts(&self) -> u64 {
        self.sum(&["put", "create", "multipart"], 0)
    }

    /// Bytes they carried.
    pub(super) fn bytes_put(&self) -> u64 {
        self.sum(&["put", "create", "multipart"], 1)
    }

    /// Requests that read an object.
    pub(super) fn gets(&self) -> u64 {
        self.sum(&["get"], 0)
    }

    /// Bytes they brought.
    pub(super) fn bytes_got(&self) -> u64 {
        self.sum(&["get"], 2)
    }

    /// Listings and HEADs.
    pub(super) fn looks(&self) -> u64 {
        self.sum(&["list", "head"], 0)
    }
}

impl Store {
    /// Starts it with its objects in `dir`.
    pub(super) fn start(dir: &Path) -> anyhow::Result<Self> {
        let program = paths::s3_server();
        ensure!(
            program.exists(),
            "{} is not there; cargo build --release -p testkit --bins makes it",
            program.display()
        );
        let mut process = Command::new(program)
            .args(["--control", "--dir"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the S3 server")?;
        let commands = process.stdin.take().context("its stdin")?;
        let mut answers = BufReader::new(process.stdout.take().context("its stdout")?);
        let mut line = String::new();
        answers.read_line(&mut line).context("wait for the S3 server")?;
        let variables: Vec<_> = line
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        ensure!(!variables.is_empty(), "the S3 server did not start: {line}");
        Ok(Self { process, commands, answers, variables })
    }

    /// What a client has to have in its environment.
    pub(super) fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// The value of one of them.
    pub(super) fn variable(&self, name: &str) -> anyhow::Result<&str> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        Ok(found.with_context(|| format!("the S3 server says no {name}"))?.1.as_str())
    }

    /// A store URL of its own for `prefix`.
    pub(super) fn url(&self, prefix: &str) -> anyhow::Result<String> {
        Ok(format!("{}/{prefix}", self.variable("S3_URL")?))
    }

    /// What was asked since it started.
    pub(super) fn traffic(&mut self) -> anyhow::Result<Traffic> {
        let answer = self.ask("traffic")?;
        Ok(Traffic(serde_json::from_str(&answer).context("read the S3 server's counts")?))
    }

    /// Makes requests that store something take `ms` longer.
    pub(super) fn set_put_latency(&mut self, ms: u64) -> anyhow::Result<()> {
        for verb in ["put", "create"] {
            let answer = self.ask(&format!("latency {verb} {ms}"))?;
            ensure!(answer.trim() == "ok", "the S3 server: {answer}");
        }
        Ok(())
    }

    fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.commands, "{command}").context("ask the S3 server")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("hear the S3 server")?;
        Ok(line)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // It has nothing to finish; objects in its directory go with that.
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait().map(drop)) {
            eprintln!("stop the S3 server: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_counted_by_what_it_costs() {
        let read = |text: &str| Traffic(serde_json::from_str(text).unwrap());
        let before = read(r#"{"put":[1,10,0],"create":[2,20,0],"get":[5,0,500],"list":[1,0,9]}"#);
        let after = read(r#"{"put":[2,40,0],"create":[4,25,0],"get":[6,0,700],"head":[3,0,0]}"#);
        let since = after.since(&before);
        assert_eq!((since.puts(), since.bytes_put()), (3, 35));
        assert_eq!((since.gets(), since.bytes_got(), since.looks()), (1, 200, 3));
    }
}
