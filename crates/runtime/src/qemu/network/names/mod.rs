//! The name server of one guest: answers what its policy allows, and opens the way to what it answered.
//!
//! It listens inside of the machine's namespace, on loopback, where QEMU sends what the guest asks 10.0.2.3; it asks
//! the host's own name servers, from the host's namespace, those on its loopback too. The guest can
//! ask nobody else that its policy does not open.
//!
//! # Order
//! Question, policy, the host's server, [`Gate::grant`], answer: when the guest reads an address, it can reach it.
//! A name that is not allowed is `REFUSED` and told to nobody, so it carries nothing out either.
//!
//! # Bounds
//! A guest has a rate of questions; more are not read. So many are under way at a time; for more there is `SERVFAIL`.
//! Messages are decoded by `hickory-proto`; what is no question gets `FORMERR` or nothing.

mod message;
mod upstream;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::Egress;
use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use self::message::Question;
pub(crate) use self::upstream::Upstream;
use super::gate::{Gate, Resolved};
use crate::limits::{
    QUESTION_BYTES_MAX, QUESTION_CONNECTIONS_MAX, QUESTION_IDLE, QUESTIONS_AT_ONCE_MAX,
    QUESTIONS_BURST, QUESTIONS_PER_SECOND,
};

/// Where it listens, in the namespace.
pub(crate) const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 53);

/// A name server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Names {
    sockets: Sockets,
    tasks: [AbortHandle; 2],
}

/// By which way a question came. It is passed on the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    Udp,
    Tcp,
}

/// Its sockets, made inside of a namespace.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// To be called in the namespace, with its loopback up.
    pub(crate) fn bind() -> io::Result<Self> {
        let (udp, tcp) = (UdpSocket::bind(ADDRESS)?, TcpListener::bind(ADDRESS)?);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { udp: self.udp.try_clone()?, tcp: self.tcp.try_clone()? })
    }
}

impl Names {
    /// Answers on `sockets`, with tasks of `runtime`.
    pub(crate) fn serve(
        runtime: &Handle,
        sockets: Sockets,
        gate: Gate,
        upstream: Arc<Upstream>,
    ) -> io::Result<Self> {
        let _context = runtime.enter();
        let served = sockets.try_clone()?;
        let udp = Arc::new(tokio::net::UdpSocket::from_std(served.udp)?);
        let tcp = tokio::net::TcpListener::from_std(served.tcp)?;
        let at_once = Arc::new(Semaphore::new(QUESTIONS_AT_ONCE_MAX));
        let server = Arc::new(Server { gate, upstream, at_once, pace: Mutex::new(Pace::new()) });
        let packets = runtime.spawn(packets(server.clone(), udp)).abort_handle();
        let connections = runtime.spawn(connections(server, tcp)).abort_handle();
        Ok(Self { sockets, tasks: [packets, connections] })
    }

    /// Its sockets, for tasks of another runtime.
    pub(crate) fn sockets(&self) -> io::Result<Sockets> {
        self.sockets.try_clone()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[derive(Debug)]
struct Server {
    gate: Gate,
    upstream: Arc<Upstream>,
    at_once: Arc<Semaphore>,
    /// One for the guest, by whichever way and in however many connections it asks.
    pace: Mutex<Pace>,
}

impl Server {
    /// Returns when one more question may be read.
    async fn keep_pace(&self) {
        let wait = self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// What to answer to these bytes; `None`: nothing.
    async fn answer(&self, bytes: &[u8], via: Via) -> Option<Vec<u8>> {
        let question = match Question::read(bytes) {
            Ok(question) => question,
            Err(refusal) => return refusal,
        };
        let policy = self.gate.policy();
        if !question.is_allowed_by(&policy) {
            return question.failed(ResponseCode::Refused);
        }
        let Ok(_permit) = self.at_once.try_acquire() else {
            return question.failed(ResponseCode::ServFail);
        };
        let answer = match self.upstream.ask(&question, via).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, "no name server of the host answers");
                return question.failed(ResponseCode::ServFail);
            }
        };
        if matches!(*policy, Egress::Allow(_)) {
            let Some(addresses) = question.addresses(&answer) else {
                return question.failed(ResponseCode::ServFail);
            };
            let name = question.name().to_owned();
            if !addresses.is_empty() && !self.gate.grant(Resolved { name, addresses }).await {
                return question.failed(ResponseCode::ServFail);
            }
        }
        question.passed_on(answer, via == Via::Udp)
    }
}

async fn packets(server: Arc<Server>, socket: Arc<tokio::net::UdpSocket>) {
    let mut under_way = JoinSet::new();
    let mut buffer = [0; QUESTION_BYTES_MAX];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // Of an answer that could not be delivered, say.
            Err(error) => {
                tracing::trace!(%error, "read a question");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        server.keep_pace().await;
        while under_way.try_join_next().is_some() {}
        // Refusals are counted too: they wait for nothing, so they are gone at once.
        if under_way.len() >= 2 * QUESTIONS_AT_ONCE_MAX {
            continue;
        }
        let (server, socket) = (server.clone(), socket.clone());
        let question = buffer[..length].to_vec();
        under_way.spawn(async move {
            if let Some(answer) = server.answer(&question, Via::Udp).await {
                // A guest that does not wait for it asks again.
                drop(socket.send_to(&answer, from).await);
            }
        });
    }
}

async fn connections(server: Arc<Server>, listener: tokio::net::TcpListener) {
    let mut open = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while open.try_join_next().is_some() {}
        match accepted {
            // Whoever comes after so many is hung up on.
            Ok(_) if open.len() >= QUESTION_CONNECTIONS_MAX => {}
            Ok((stream, from)) => {
                open.spawn(connection(server.clone(), stream, from));
            }
            Err(error) => {
                tracing::trace!(%error, "accept a question");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn connection(server: Arc<Server>, mut stream: tokio::net::TcpStream, from: SocketAddr) {
    let talk = async {
        loop {
            let length = tokio::time::timeout(QUESTION_IDLE, stream.read_u16()).await??;
            let mut question = vec![0; usize::from(length)];
            tokio::time::timeout(QUESTION_IDLE, stream.read_exact(&mut question)).await??;
            server.keep_pace().await;
            let Some(answer) = server.answer(&question, Via::Tcp).await else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend(answer);
            tokio::time::timeout(QUESTION_IDLE, stream.write_all(&framed)).await??;
        }
    };
    let ended: io::Result<()> = talk.await;
    if let Err(error) = ended {
        tracing::trace!(%from, %error, "a connection with questions ended");
    }
}

/// A bucket of questions that may be read, which fills at a fixed rate.
#[derive(Debug)]
struct Pace {
    left: f64,
    since: Instant,
}

impl Pace {
    fn new() -> Self {
        Self { left: QUESTIONS_BURST, since: Instant::now() }
    }

    /// Takes one; how long that takes.
    fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.left = (self.left + passed * QUESTIONS_PER_SECOND).min(QUESTIONS_BURST) - 1.0;
        Duration::from_secs_f64((-self.left / QUESTIONS_PER_SECOND).max(0.0))
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
