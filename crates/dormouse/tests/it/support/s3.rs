//! An S3 server as a process, on a directory of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A running S3 server.
pub(crate) struct S3Server {
    child: Child,
    endpoint: String,
    key: String,
    secret: String,
    _dir: tempfile::TempDir,
}

impl S3Server {
    /// Starts one on a free port.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let program = super::server::program();
        let beside = program.parent().expect("the program is in a directory").join("s3-server");
        let program = std::env::var_os("DORMOUSE_S3_SERVER").map_or(beside, Into::into);
        let mut child = Command::new(&program)
            .args(["--listen", "127.0.0.1:0", "--dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "start {}: {error}; build it with: cargo build -p testkit --bins",
                    program.display()
                )
            });
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("read its first line");
        let field = |name: &str| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(&format!("{name}=")).map(str::to_owned))
                .unwrap_or_else(|| panic!("no {name} in {line:?}"))
        };
        Self {
            endpoint: field("AWS_ENDPOINT_URL"),
            key: field("AWS_ACCESS_KEY_ID"),
            secret: field("AWS_SECRET_ACCESS_KEY"),
            child,
            _dir: dir,
        }
    }

    /// What a client's environment needs.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", self.endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", &self.key),
            ("AWS_SECRET_ACCESS_KEY", &self.secret),
            ("AWS_REGION", "us-east-1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// Where homes go.
    pub(crate) fn url(&self) -> String {
        "s3://dormouse/test".to_owned()
    }

    /// Stops answering, without closing anything.
    pub(crate) fn pause(&self) {
        super::server::signal(self.child.id(), nix::sys::signal::Signal::SIGSTOP);
    }

    /// Answers again.
    pub(crate) fn resume(&self) {
        super::server::signal(self.child.id(), nix::sys::signal::Signal::SIGCONT);
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
