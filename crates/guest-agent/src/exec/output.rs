//! From a command to the host: both pipes, in the order in which they become readable.

use std::pin::pin;
use std::time::Duration;

use agent_proto::FrameKind;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::Writer;
use crate::limits::{LINGER, LINGER_BYTES_MAX, PIPE_READ_BYTES};
use crate::sys::Ended;

/// Long enough to stand for "not yet".
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// One pipe and the frames that its bytes become.
#[derive(Debug)]
struct Source {
    kind: FrameKind,
    /// `None` once it has ended.
    pipe: Option<pipe::Receiver>,
    buffer: Vec<u8>,
}

impl Source {
    fn new((kind, pipe): (FrameKind, pipe::Receiver)) -> Self {
        Self { kind, pipe: Some(pipe), buffer: vec![0; PIPE_READ_BYTES] }
    }

    /// The next bytes; empty at the end. Waits for ever once ended. Safe to cancel.
    async fn read(&mut self) -> &[u8] {
        let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
        let read = pipe.read(&mut self.buffer).await.unwrap_or(0);
        if read == 0 {
            self.pipe = None;
        }
        &self.buffer[..read]
    }
}

/// Where the output goes, as long as there is a host.
#[derive(Debug)]
struct Sink(Option<Writer>);

impl Sink {
    async fn send(&mut self, kind: FrameKind, bytes: &[u8]) {
        if let Some(writer) = &mut self.0
            && !bytes.is_empty()
            && writer.frame(kind, bytes).await.is_err()
        {
            self.0 = None;
        }
    }
}

/// Copies until the command has ended and both pipes have, or [`LINGER`] is over. Returns how it
/// ended, and the writer unless the host has gone away.
pub(super) async fn pump(
    pipes: [(FrameKind, pipe::Receiver); 2],
    mut exit: oneshot::Receiver<Ended>,
    writer: Writer,
) -> (Option<Ended>, Option<Writer>) {
    let [mut out, mut err] = pipes.map(Source::new);
    let mut sink = Sink(Some(writer));
    let mut ended = None;
    let mut exited = false;
    let mut linger = pin!(sleep(NEVER));
    while !exited || out.pipe.is_some() || err.pipe.is_some() {
        tokio::select! {
            status = &mut exit, if !exited => {
                exited = true;
                ended = status.ok();
                linger.as_mut().reset(Instant::now() + LINGER);
            }
            bytes = out.read() => sink.send(FrameKind::Stdout, bytes).await,
            bytes = err.read() => sink.send(FrameKind::Stderr, bytes).await,
            () = &mut linger => break,
        }
    }
    for mut source in [out, err] {
        flush(&mut source, &mut sink).await;
        if let Some(pipe) = source.pipe {
            drop(tokio::spawn(discard(pipe)));
        }
    }
    (ended, sink.0)
}

/// What is in the pipe now, and no more: someone may be writing on.
async fn flush(source: &mut Source, sink: &mut Sink) {
    let mut taken = 0;
    while let Some(pipe) = &source.pipe
        && taken < LINGER_BYTES_MAX
        && let Ok(read @ 1..) = pipe.try_read(&mut source.buffer)
    {
        taken += read;
        sink.send(source.kind, &source.buffer[..read]).await;
    }
}

/// Reads what nobody wants to hear.
pub(super) fn ignore(pipes: [pipe::Receiver; 2]) {
    for pipe in pipes {
        drop(tokio::spawn(discard(pipe)));
    }
}

/// Reads to the end, so that a process which was left behind is not killed by a broken pipe.
async fn discard(mut pipe: pipe::Receiver) {
    let mut scratch = [0; 4096];
    while pipe.read(&mut scratch).await.is_ok_and(|read| read > 0) {}
}
