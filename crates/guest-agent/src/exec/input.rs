//! From the host to a command: standard input and signals.

use std::sync::Arc;

use agent_proto::{FrameKind, Signal};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

use super::Reader;
use crate::reaper::Reaper;

/// Feeds a command until the host closes the stream or sends what does not belong here. Both end
/// standard input and nothing else.
pub(super) async fn feed(
    mut reader: Reader,
    mut stdin: Option<pipe::Sender>,
    pid: Pid,
    reaper: Arc<Reaper>,
) {
    while let Ok(Some(frame)) = reader.next().await {
        match frame.kind {
            FrameKind::Stdin if frame.payload.is_empty() => stdin = None,
            FrameKind::Stdin => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&frame.payload).await.is_err()
                {
                    // It does not want to read on; the rest is dropped.
                    stdin = None;
                }
            }
            FrameKind::Signal => {
                // One that came after the end has nobody to go to.
                if let Ok(Signal { signal }) = frame.json("signal") {
                    let _ = reaper.signal_group(pid, signal);
                }
            }
            _ => return,
        }
    }
}
