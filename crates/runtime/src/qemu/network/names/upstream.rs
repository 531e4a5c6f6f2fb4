//! The host's name servers, as this process reaches them.
//!
//! Each question goes out from a port of its own with an id of its own, so an answer cannot be guessed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::Via;
use super::message::Question;
use crate::limits::{RESOLVER_PATIENCE, RESOLVER_ROUNDS, RESOLVERS_ASKED_MAX, RESOLVERS_LOOKED_UP};
use crate::qemu::network::resolvers;

/// Whom to ask.
#[derive(Debug)]
pub(crate) enum Upstream {
    /// Whoever the host's `resolv.conf` names; it is read again now and then.
    Host(Mutex<Option<(Instant, Vec<SocketAddr>)>>),
    /// These.
    #[cfg(test)]
    Fixed(Vec<SocketAddr>),
}

impl Upstream {
    pub(crate) fn of_host() -> Self {
        Self::Host(Mutex::new(None))
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let known = match self {
            #[cfg(test)]
            Self::Fixed(servers) => return servers.clone(),
            Self::Host(known) => known,
        };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((since, servers)) if since.elapsed() < RESOLVERS_LOOKED_UP => servers.clone(),
            _ => {
                let servers: Vec<SocketAddr> =
                    resolvers::named().into_iter().map(|address| (address, 53).into()).collect();
                *known = Some((Instant::now(), servers.clone()));
                servers
            }
        }
    }

    /// Asks one after the other until one answers.
    ///
    /// # Errors
    /// What the last one failed with.
    pub(super) async fn ask(&self, question: &Question, via: Via) -> io::Result<Vec<u8>> {
        let bytes = question.asked_on().ok_or_else(|| io::Error::other("encode a question"))?;
        let mut last = io::Error::other("this host has no name server");
        let servers = self.servers();
        for _ in 0..RESOLVER_ROUNDS {
            for server in servers.iter().take(RESOLVERS_ASKED_MAX) {
                let asked = async {
                    match via {
                        Via::Udp => by_udp(*server, &bytes, question).await,
                        Via::Tcp => by_tcp(*server, &bytes, question).await,
                    }
                };
                match tokio::time::timeout(RESOLVER_PATIENCE, asked).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(error)) => last = error,
                    Err(late) => last = late.into(),
                }
            }
        }
        Err(last)
    }
}

async fn by_udp(server: SocketAddr, bytes: &[u8], question: &Question) -> io::Result<Vec<u8>> {
    let any = match server.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From then on it hears of nobody else.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut answer).await?;
        if question.is_answered_by(&answer[..length]) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, bytes: &[u8], question: &Question) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if question.is_answered_by(&answer) {
        Ok(answer)
    } else {
        Err(io::Error::other("an answer to another question"))
    }
}
