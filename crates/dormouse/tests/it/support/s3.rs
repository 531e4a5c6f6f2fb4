//! S3 servers as processes: our own, which can be paused and keeps its objects on disk, and one that
//! shares no line of code with us.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::eventually;

/// A running S3 server.
pub(crate) struct S3Server {
    child: Child,
    endpoint: String,
    key: String,
    secret: String,
    /// To ours.
    control: Option<Mutex<(ChildStdin, BufReader<ChildStdout>)>>,
    _dir: Option<tempfile::TempDir>,
}

impl S3Server {
    /// Starts ours on a free port.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let program = super::server::program();
        let beside = program.parent().expect("the program is in a directory").join("s3-server");
        let program = std::env::var_os("DORMOUSE_S3_SERVER").map_or(beside, Into::into);
        let mut child = Command::new(&program)
            .args(["--control", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                let shown = program.display();
                panic!("start {shown}: {error}; build it with: cargo build -p testkit --bins")
            });
        let mut line = String::new();
        let input = child.stdin.take().expect("it is piped");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        output.read_line(&mut line).expect("read its first line");
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
            control: Some(Mutex::new((input, output))),
            _dir: Some(dir),
        }
    }

    /// Starts moto (PyPI `moto[server]`), an implementation of its own in another language.
    pub(crate) fn independent() -> Self {
        let venv = moto();
        // Free a moment ago; nobody else on this host hands out ports to us.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("find a free port")
            .port();
        let child = Command::new(venv.join("bin/moto_server"))
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start moto");
        let endpoint = format!("http://127.0.0.1:{port}");
        let server = Self {
            child,
            key: "key".to_owned(),
            secret: "secret".to_owned(),
            control: None,
            _dir: None,
            endpoint: endpoint.clone(),
        };
        let http = reqwest::blocking::Client::builder().no_proxy().build().expect("set up HTTP");
        eventually("moto makes a bucket", Duration::from_secs(60), || {
            let made = http.put(format!("{endpoint}/dormouse")).body("").send();
            made.is_ok_and(|reply| reply.status().is_success())
        });
        server
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

    /// Has every request of `verb` take so many milliseconds longer from here on. Ours alone can.
    pub(crate) fn latency(&self, verb: &str, ms: u64) {
        let control = self.control.as_ref().expect("it is ours");
        let (input, output) = &mut *control.lock().expect("nobody panicked with it");
        writeln!(input, "latency {verb} {ms}").expect("tell it");
        let mut line = String::new();
        output.read_line(&mut line).expect("hear it");
        assert_eq!(line.trim(), "ok");
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

/// A virtual environment with moto, kept below `target/`.
fn moto() -> std::path::PathBuf {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("moto");
    if !venv.join("complete").exists() {
        let run = |command: &mut Command| {
            let output = command.output().expect("run a command");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
        let pip = ["-m", "pip", "install", "--quiet", "moto[server]>=5.1,<6"];
        run(Command::new(venv.join("bin/python")).args(pip));
        std::fs::write(venv.join("complete"), "").expect("mark it complete");
    }
    venv
}
