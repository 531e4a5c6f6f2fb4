//! An agent under test and what it takes to talk to it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agent_proto::{AgentClient, Exec, Exited, Output};
use base::SystemEntropy;
use tokio::net::UnixStream;

/// Number of the socket in the agent.
const CONTROL_FD: i32 = 100;

/// A running agent. Killed on drop, with every process group it has made.
#[derive(Debug)]
pub(crate) struct Agent {
    process: Child,
    // The agent sees the end of its socket when the test drops this.
    pub(crate) socket: Option<StdUnixStream>,
}

impl Agent {
    pub(crate) fn start() -> Self {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse-agent"));
        command
            .args(["serve", "--control-fd", &CONTROL_FD.to_string(), "--no-fuse"])
            .stdin(Stdio::null());
        let number = theirs.as_raw_fd();
        // SAFETY: dup2 is async-signal-safe; the copy is not close-on-exec.
        #[allow(unsafe_code, reason = "the only way to hand a descriptor to a child")]
        unsafe {
            command.pre_exec(move || match libc::dup2(number, CONTROL_FD) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let process = command.spawn().unwrap();
        Self { process, socket: Some(ours) }
    }

    /// A new session on the socket. The one before must be dropped.
    pub(crate) async fn connect(&self) -> AgentClient {
        let stream = handle(self.socket.as_ref().unwrap());
        soon(AgentClient::connect(stream, &SystemEntropy)).await.unwrap()
    }

    /// Waits for the agent to end by itself.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        self.socket = None;
        soon(async {
            loop {
                if let Some(status) = self.process.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A handle to `socket` for one session, which leaves the socket open for the next one: a session of the host
/// does not shut down what it runs on.
pub(crate) fn handle(socket: &StdUnixStream) -> UnixStream {
    let socket = socket.try_clone().unwrap();
    socket.set_nonblocking(true).unwrap();
    UnixStream::from_std(socket).unwrap()
}

/// Long enough for a busy machine, short enough to see what hangs.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("nothing happened")
}

/// `sh -c script` in `/`.
pub(crate) fn sh(script: &str) -> Exec {
    Exec {
        command: vec!["sh".into(), "-c".into(), script.into()],
        cwd: Some("/".into()),
        ..Exec::default()
    }
}

/// Everything a command said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exited: Exited,
}

/// Runs a command to its end.
pub(crate) async fn run(client: &AgentClient, exec: &Exec) -> Said {
    let mut execution = soon(client.exec(exec)).await.unwrap();
    finish(&mut execution.output).await
}

/// Reads to the end of a command.
pub(crate) async fn finish(output: &mut agent_proto::ExecOutput) -> Said {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match soon(output.next()).await.unwrap() {
            Output::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            Output::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            Output::Exited(exited) => {
                return Said {
                    stdout: String::from_utf8(stdout).unwrap(),
                    stderr: String::from_utf8(stderr).unwrap(),
                    exited,
                };
            }
        }
    }
}

/// An exit by code.
pub(crate) fn code(code: i32) -> Exited {
    Exited { code: Some(code), signal: None, timed_out: false }
}

/// An exit by signal.
pub(crate) fn signal(signal: i32) -> Exited {
    Exited { code: None, signal: Some(signal), timed_out: false }
}
