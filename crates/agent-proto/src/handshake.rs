//! Finds the start of a session in a byte stream that may still hold pieces of an earlier one.
//!
//! # Order
//! The host sends `DMH1` and a nonce; the agent answers `DMA1` and the same nonce; each side then
//! stands at the first byte of the session. Where no answer comes, the host repeats with another
//! nonce, behind so many `0xff` that an agent which is still in an earlier session leaves it
//! (yamux knows no such version); only an answer to the newest nonce counts.
//!
//! # Invariants
//! - Neither side reads a byte beyond its peer's half, so nothing of the session is lost.
//! - At most [`STALE_BYTES_MAX`] bytes are discarded.
//!
//! # Who bounds the time
//! The caller: a host waits as long as a boot may take, an agent for ever.

use std::time::Duration;

use base::Entropy;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::sleep;

use crate::limits::{HELLO_REPEAT_AGAIN, HELLO_REPEAT_FIRST, HELLO_REPEAT_MAX, RESYNC_BYTES};
use crate::{Error, STALE_BYTES_MAX};

const HOST_MAGIC: [u8; 4] = *b"DMH1";
const AGENT_MAGIC: [u8; 4] = *b"DMA1";
const HELLO_BYTES: usize = 20;

type HelloBytes = [u8; HELLO_BYTES];

/// The host's half. Returns once the agent has answered.
///
/// # Errors
/// `Closed` where the stream ends, `NoHandshake` where too much else arrives. The stream is in
/// no known state then.
pub async fn host<S>(stream: &mut S, entropy: &dyn Entropy) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    host_repeating(stream, entropy, HELLO_REPEAT_FIRST).await
}

/// The same with an agent that is known to run.
///
/// # Errors
/// As [`host`].
pub(crate) async fn host_again<S>(stream: &mut S, entropy: &dyn Entropy) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    host_repeating(stream, entropy, HELLO_REPEAT_AGAIN).await
}

async fn host_repeating<S>(
    stream: &mut S,
    entropy: &dyn Entropy,
    first_pause: Duration,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = split(stream);
    let mut scanner = Scanner::default();
    let mut pause = first_pause;
    let mut greeting = Vec::new();
    loop {
        let nonce = entropy.nonce();
        let answer = hello(AGENT_MAGIC, nonce);
        greeting.extend_from_slice(&hello(HOST_MAGIC, nonce));
        // Sending may block for as long as nobody reads; the answer to this nonce cannot come
        // before it is sent, so reading waits for nothing meanwhile but stale bytes.
        let repeat = async {
            let sent = send_while_discarding(&mut reader, &mut writer, &greeting).await;
            sent?;
            tokio::select! {
                found = scanner.find(&mut reader, |start| answer.starts_with(start)) => found.map(Some),
                () = sleep(pause) => Ok(None),
            }
        };
        if repeat.await?.is_some() {
            return Ok(());
        }
        pause = (pause * 2).min(HELLO_REPEAT_MAX);
        greeting = vec![0xff; RESYNC_BYTES];
        // What the scanner holds can only be the start of an answer to an older nonce.
        scanner.candidate.clear();
    }
}

/// An agent in an earlier session may be blocked in a write to us, and so not read what we send.
async fn send_while_discarding<S>(
    reader: &mut ReadHalf<&mut S>,
    writer: &mut WriteHalf<&mut S>,
    greeting: &[u8],
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let send = async {
        writer.write_all(greeting).await?;
        writer.flush().await
    };
    let discard = async {
        let mut discarded = 0;
        let mut scratch = [0; 4096];
        while discarded < STALE_BYTES_MAX {
            match reader.read(&mut scratch).await {
                Ok(0) => return Error::Closed { doing: "send the handshake" },
                Ok(read) => discarded += read,
                Err(source) => return Error::io("send the handshake")(source),
            }
        }
        Error::NoHandshake { max: STALE_BYTES_MAX }
    };
    tokio::select! {
        biased;
        sent = send => sent.map_err(Error::io("send the handshake")),
        failed = discard => Err(failed),
    }
}

/// The agent's half. Returns once a host has called and is answered.
///
/// # Errors
/// As [`host`]. After `NoHandshake` it may be called again on the same stream.
pub async fn agent<S>(stream: &mut S) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let called = Scanner::default()
        .find(stream, |start| {
            let magic = start.len().min(HOST_MAGIC.len());
            // A magic inside the nonce is the next host's: the first one was cut off.
            start[..magic] == HOST_MAGIC[..magic]
                && !start[magic..].windows(HOST_MAGIC.len()).any(|piece| piece == HOST_MAGIC)
        })
        .await?;
    let mut answer = called;
    answer[..AGENT_MAGIC.len()].copy_from_slice(&AGENT_MAGIC);
    stream.write_all(&answer).await.map_err(Error::io("answer the handshake"))?;
    stream.flush().await.map_err(Error::io("answer the handshake"))
}

fn hello(magic: [u8; 4], nonce: [u8; 16]) -> HelloBytes {
    let mut hello = [0; HELLO_BYTES];
    hello[..4].copy_from_slice(&magic);
    hello[4..].copy_from_slice(&nonce);
    hello
}

/// Looks for twenty bytes of which every beginning passes a check.
#[derive(Debug, Default)]
struct Scanner {
    /// The longest end of what was read that may be a beginning of what is looked for.
    candidate: Vec<u8>,
    read: usize,
}

impl Scanner {
    /// Reads until the twenty bytes are there. Safe to cancel.
    async fn find<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        may_start: impl Fn(&[u8]) -> bool,
    ) -> Result<HelloBytes, Error> {
        let doing = "wait for the handshake";
        loop {
            if let Ok(found) = HelloBytes::try_from(&self.candidate[..]) {
                self.candidate.clear();
                return Ok(found);
            }
            if self.read > STALE_BYTES_MAX {
                return Err(Error::NoHandshake { max: STALE_BYTES_MAX });
            }
            // Never more than is missing: what follows belongs to the session.
            let mut piece = [0; HELLO_BYTES];
            let wanted = HELLO_BYTES - self.candidate.len();
            let read = reader.read(&mut piece[..wanted]).await.map_err(Error::io(doing))?;
            if read == 0 {
                return Err(Error::Closed { doing });
            }
            self.read += read;
            for byte in &piece[..read] {
                self.candidate.push(*byte);
                while !may_start(&self.candidate) {
                    self.candidate.remove(0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
