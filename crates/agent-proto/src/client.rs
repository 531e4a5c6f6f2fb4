//! The host's convenience: one call per request.
//!
//! # Failure
//! Every call is bounded in time, except [`ExecOutput::next`], which waits as long as the command
//! runs. Once the session has ended all calls fail with `SessionEnded` or `Closed`; there is no
//! reconnect here.

use std::time::Duration;

use base::Entropy;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf, split};
use tokio::time::timeout;

use crate::limits::{BARRIER_TIMEOUT, REPLY_TIMEOUT, SHUTDOWN_TIMEOUT, TRIM_TIMEOUT};
use crate::mux::{HostMux, MuxStream};
use crate::{
    Configure, Error, Exec, Exited, FRAME_BYTES_MAX, FrameKind, FrameReader, FrameWriter, Hello,
    PROTOCOL_VERSION, Reply, Request, Signal, handshake,
};

/// A session with the agent of one guest. Clones share it; the last one to go ends it.
#[derive(Debug, Clone)]
pub struct AgentClient {
    mux: HostMux,
}

impl AgentClient {
    /// Meets the agent at the other end of `stream`. Waits until it answers: the caller bounds
    /// that, by how long a boot may take.
    pub async fn connect<S>(mut stream: S, entropy: &dyn Entropy) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        handshake::host(&mut stream, entropy).await?;
        Ok(Self { mux: HostMux::start(stream) })
    }

    /// The same, with the agent of a guest that slept with its memory: it runs already, and what it
    /// does not answer at once it did not hear.
    pub async fn reconnect<S>(mut stream: S, entropy: &dyn Entropy) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        handshake::host_again(&mut stream, entropy).await?;
        Ok(Self { mux: HostMux::start(stream) })
    }

    /// Says good-bye: the session ends for all clones, with its executions' streams. What was started
    /// goes on in the guest, which waits for the next handshake.
    pub async fn close(&self) {
        self.mux.close().await;
    }

    /// Asks the agent who it is.
    ///
    /// # Errors
    /// `Version` where it speaks another protocol.
    pub async fn hello(&self) -> Result<Hello, Error> {
        match self.ask("hello", &Request::Hello, REPLY_TIMEOUT).await? {
            Reply::Hello(hello) if hello.protocol == PROTOCOL_VERSION => Ok(hello),
            Reply::Hello(hello) => {
                Err(Error::Version { theirs: hello.protocol, ours: PROTOCOL_VERSION })
            }
            _ => Err(Error::UnexpectedReply { what: "hello" }),
        }
    }

    /// Tells the guest its name, the time and some entropy.
    pub async fn configure(&self, configure: &Configure) -> Result<(), Error> {
        let request = Request::Configure(configure.clone());
        self.done("configure", &request, REPLY_TIMEOUT).await
    }

    /// Prepares a guest that is nobody's yet to be told quickly whose it is.
    pub async fn prepare(&self) -> Result<(), Error> {
        self.done("prepare", &Request::Prepare, REPLY_TIMEOUT).await
    }

    /// Returns once the guest's kernel has seen the first `seq` FUSE notifications.
    pub async fn barrier(&self, seq: u64) -> Result<(), Error> {
        self.done("barrier", &Request::Barrier { seq }, BARRIER_TIMEOUT).await
    }

    /// Sends `signal` to the process group of a running execution, past its standard input.
    pub async fn kill(&self, pid: u32, signal: i32) -> Result<(), Error> {
        self.done("kill", &Request::Kill { pid, signal }, REPLY_TIMEOUT).await
    }

    /// Has the guest drop its caches, so that there is less memory to keep.
    pub async fn trim(&self) -> Result<(), Error> {
        self.done("trim", &Request::Trim, TRIM_TIMEOUT).await
    }

    /// When the guest wants to be woken, in seconds since 1970; `None` where it does not. A wish is
    /// no more than that: a caller that is refused or hears nothing goes on as with `None`.
    ///
    /// # Errors
    /// `Refused` where the guest cannot be asked, `Closed` by an agent that does not know the request.
    pub async fn wake_at(&self) -> Result<Option<i64>, Error> {
        match self.ask("wake-at", &Request::WakeAt, REPLY_TIMEOUT).await? {
            Reply::WakeAt { unix_seconds } => Ok(unix_seconds),
            Reply::Failed { errno, message } => Err(Error::Refused { errno, message }),
            _ => Err(Error::UnexpectedReply { what: "wake-at" }),
        }
    }

    /// Freezes the guest's processes and its use of the home, so that it can be stopped and saved.
    ///
    /// # Errors
    /// `Refused` where it came to nothing and the guest runs on: with errno 110 past `patience`, with
    /// 95 where it cannot be frozen. After any other error the guest may be frozen: say
    /// [`thaw`](Self::thaw), if need be in another session.
    pub async fn freeze(&self, patience: Duration) -> Result<(), Error> {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let within = patience.saturating_add(REPLY_TIMEOUT);
        self.done("freeze", &Request::Freeze { patience_ms }, within).await
    }

    /// Sets the guest's clock, adds entropy (hex), and has it go on where it is frozen.
    pub async fn thaw(&self, unix_nanos: i64, entropy: &str) -> Result<(), Error> {
        let request = Request::Thaw { unix_nanos, entropy: entropy.to_owned() };
        self.done("thaw", &request, REPLY_TIMEOUT).await
    }

    /// Stops all processes and powers the guest off. Returns when its file systems are unmounted;
    /// the power goes a moment later.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), Error> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let within = grace.saturating_add(SHUTDOWN_TIMEOUT);
        self.done("shutdown", &Request::Shutdown { grace_ms }, within).await
    }

    /// Starts a command.
    ///
    /// # Errors
    /// `Refused` with an errno where it could not be started: 2 for a program or working
    /// directory that is not there.
    pub async fn exec(&self, exec: &Exec) -> Result<Execution, Error> {
        let start = async {
            let (mut reader, mut writer) = self.open().await?;
            writer.message(&Request::Exec(exec.clone())).await?;
            let reply = reader.message::<Reply>("reply to exec").await?;
            Ok((reply, reader, writer))
        };
        match within("exec", REPLY_TIMEOUT, start).await? {
            (Reply::Started { pid }, reader, writer) => {
                Ok(Execution { pid, output: ExecOutput { reader }, input: ExecInput { writer } })
            }
            (Reply::Failed { errno, message }, ..) => Err(Error::Refused { errno, message }),
            _ => Err(Error::UnexpectedReply { what: "exec" }),
        }
    }

    /// Returns once the session has ended, and why.
    pub async fn ended(&self) -> Error {
        self.mux.ended().await
    }

    async fn done(&self, what: &'static str, ask: &Request, time: Duration) -> Result<(), Error> {
        match self.ask(what, ask, time).await? {
            Reply::Done => Ok(()),
            Reply::Failed { errno, message } => Err(Error::Refused { errno, message }),
            _ => Err(Error::UnexpectedReply { what }),
        }
    }

    async fn ask(&self, what: &'static str, ask: &Request, time: Duration) -> Result<Reply, Error> {
        let asked = async {
            let (mut reader, mut writer) = self.open().await?;
            writer.message(ask).await?;
            reader.message::<Reply>("reply").await
        };
        within(what, time, asked).await
    }

    async fn open(&self) -> Result<Halves, Error> {
        let (reader, writer) = split(self.mux.open().await?);
        Ok((FrameReader::new(reader), FrameWriter::new(writer)))
    }
}

type Halves = (FrameReader<ReadHalf<MuxStream>>, FrameWriter<WriteHalf<MuxStream>>);

async fn within<T>(
    what: &'static str,
    time: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let late = |_| Error::Timeout { what, seconds: time.as_secs() };
    timeout(time, work).await.map_err(late)?
}

/// A command that runs in the guest. Its halves may live in different tasks; once both are gone
/// the command goes on without anyone to hear it.
#[derive(Debug)]
pub struct Execution {
    /// Process id in the guest, and the id of its process group.
    pub pid: u32,
    /// What comes from it.
    pub output: ExecOutput,
    /// What goes to it.
    pub input: ExecInput,
}

/// Something that came from a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From standard output; at most [`FRAME_BYTES_MAX`] bytes.
    Stdout(Bytes),
    /// From standard error; at most [`FRAME_BYTES_MAX`] bytes.
    Stderr(Bytes),
    /// It has ended. Nothing follows.
    Exited(Exited),
}

/// The output of a command.
#[derive(Debug)]
pub struct ExecOutput {
    reader: FrameReader<ReadHalf<MuxStream>>,
}

impl ExecOutput {
    /// The next piece. A caller that does not ask stops the command, once pipes and windows are
    /// full. Safe to cancel.
    ///
    /// # Errors
    /// `Closed` where the guest ends before the command does.
    pub async fn next(&mut self) -> Result<Output, Error> {
        let frame = self.reader.next().await?;
        let frame = frame.ok_or(Error::Closed { doing: "read the output of a command" })?;
        match frame.kind {
            FrameKind::Stdout => Ok(Output::Stdout(frame.payload)),
            FrameKind::Stderr => Ok(Output::Stderr(frame.payload)),
            FrameKind::Exit => Ok(Output::Exited(frame.json("exit")?)),
            FrameKind::Message | FrameKind::Stdin | FrameKind::Signal => {
                Err(Error::UnexpectedFrame { expected: "output", got: frame.kind as u8 })
            }
        }
    }
}

/// The input of a command.
#[derive(Debug)]
pub struct ExecInput {
    writer: FrameWriter<WriteHalf<MuxStream>>,
}

impl ExecInput {
    /// Writes to standard input. Waits while the command does not read. Not safe to cancel.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for piece in bytes.chunks(FRAME_BYTES_MAX) {
            self.writer.frame(FrameKind::Stdin, piece).await?;
        }
        Ok(())
    }

    /// Ends standard input.
    pub async fn close_stdin(&mut self) -> Result<(), Error> {
        self.writer.frame(FrameKind::Stdin, b"").await
    }

    /// Sends a signal, after all input that was written before it; see [`AgentClient::kill`].
    pub async fn signal(&mut self, signal: i32) -> Result<(), Error> {
        self.writer.json(FrameKind::Signal, &Signal { signal }).await
    }
}

#[cfg(test)]
mod tests;
