//! Many connections at once, with as little of the machine as that takes.
//!
//! The load shares its cores with what it measures. So a few threads serve all connections: each
//! waits for whichever of its sockets has an answer, reads it with one call, and sends the next request with one
//! call. Requests are written into a buffer that is used again; replies are looked at in place. Every
//! status is checked, every body is read to its end.
//!
//! Not here: chunked bodies; what is asked for here has a length.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::http::Endpoint;

/// Threads that make the load; the rest of the machine is the server's.
const THREADS: usize = 2;
/// A server that says nothing for this long is stuck, in milliseconds.
const SILENCE_MAX_MS: u16 = 60_000;
/// Bytes that one read takes.
const READ_BYTES: usize = 64 << 10;

/// What is asked, and how the answer must look.
pub(crate) trait Requests: Sync {
    /// Appends request `number`, head and body, to `out`. `head` has the lines that all have.
    fn write(&self, number: u64, head: &str, out: &mut Vec<u8>);
    /// Looks at the body of the answer to it, which had a 2xx.
    fn check(&self, number: u64, body: &[u8]) -> anyhow::Result<()>;
}

/// Requests a second: `total` of them, over `connections` that are open before the clock starts, each
/// with one under way.
pub(crate) fn rate(
    endpoint: &Endpoint,
    connections: usize,
    total: u64,
    requests: &dyn Requests,
) -> anyhow::Result<f64> {
    let start = Barrier::new(THREADS);
    let next = AtomicU64::new(0);
    let number = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < total);
    let one = |thread: usize| {
        let own = (0..connections).filter(|connection| connection % THREADS == thread);
        let open: anyhow::Result<Vec<Line>> = own.map(|_| Line::open(endpoint)).collect();
        // Everybody comes here, also who cannot begin, or the others would wait for ever.
        start.wait();
        let mut lines = open?;
        let started = Instant::now();
        drive(&mut lines, &number, requests)?;
        Ok::<f64, anyhow::Error>(started.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || one(thread))).collect();
        let mut longest: f64 = 0.0;
        for thread in threads {
            let seconds = thread.join().map_err(|_| anyhow!("a thread of the load broke down"))?;
            longest = longest.max(seconds.context("one of many connections")?);
        }
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 requests")]
        let rate = total as f64 / longest;
        Ok(rate)
    })
}

/// Keeps one request under way on each line until there are no more.
fn drive(
    lines: &mut [Line],
    number: &dyn Fn() -> Option<u64>,
    requests: &dyn Requests,
) -> anyhow::Result<()> {
    let mut busy = 0;
    for line in &mut *lines {
        busy += usize::from(line.ask(number(), requests)?);
    }
    while busy > 0 {
        let asked: Vec<usize> =
            (0..lines.len()).filter(|index| lines[*index].asked.is_some()).collect();
        let ready: Vec<usize> = {
            let mut wait: Vec<PollFd<'_>> = (asked.iter())
                .map(|index| PollFd::new(lines[*index].stream.as_fd(), PollFlags::POLLIN))
                .collect();
            match poll(&mut wait, PollTimeout::from(SILENCE_MAX_MS)) {
                Ok(0) => bail!("the server says nothing any more"),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("wait for replies"),
            }
            let is_ready = |poll: &PollFd<'_>| poll.any().unwrap_or(true);
            let found = asked.iter().zip(&wait).filter(|(_, poll)| is_ready(poll));
            found.map(|(index, _)| *index).collect()
        };
        for index in ready {
            if lines[index].hear(requests)? {
                busy -= usize::from(!lines[index].ask(number(), requests)?);
            }
        }
    }
    Ok(())
}

/// One connection.
struct Line {
    stream: TcpStream,
    head: String,
    out: Vec<u8>,
    heard: Vec<u8>,
    /// The request that is under way.
    asked: Option<u64>,
}

impl Line {
    fn open(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let (stream, head) = endpoint.stream()?;
        Ok(Self { stream, head, out: Vec::new(), heard: Vec::new(), asked: None })
    }

    /// Sends the next request; false where there is none.
    fn ask(&mut self, number: Option<u64>, requests: &dyn Requests) -> anyhow::Result<bool> {
        self.asked = number;
        let Some(number) = number else { return Ok(false) };
        self.out.clear();
        requests.write(number, &self.head, &mut self.out);
        self.stream.write_all(&self.out).context("send a request")?;
        Ok(true)
    }

    /// Takes what has come; true where the answer is whole.
    fn hear(&mut self, requests: &dyn Requests) -> anyhow::Result<bool> {
        let before = self.heard.len();
        self.heard.resize(before + READ_BYTES, 0);
        let count = self.stream.read(&mut self.heard[before..]).context("read a reply")?;
        self.heard.truncate(before + count);
        ensure!(count > 0, "the server hung up");
        let Some((status, body, end)) = reply(&self.heard)? else { return Ok(false) };
        ensure!(end == self.heard.len(), "more came than was asked for");
        let body = &self.heard[body..end];
        let number = self.asked.unwrap_or_default();
        if !(200..300).contains(&status) {
            bail!("request {number}: {status} {}", String::from_utf8_lossy(body));
        }
        requests.check(number, body).with_context(|| format!("request {number}"))?;
        self.heard.clear();
        Ok(true)
    }
}

/// Status, where the body begins, where it ends; `None` where more must come.
fn reply(bytes: &[u8]) -> anyhow::Result<Option<(u16, usize, usize)>> {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..head]).context("the head of a reply")?;
    let status = text.get(9..12).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("no HTTP status: {text:?}"))?;
    let length = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    let length: usize = match length {
        Some(length) => length,
        None if status == 204 => 0,
        None => bail!("a reply without a length: {text:?}"),
    };
    let end = head + 4 + length;
    Ok((bytes.len() >= end).then_some((status, head + 4, end)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_reply_is_taken_when_it_is_whole() {
        let whole = b"HTTP/1.1 201 Created\r\nContent-length: 3\r\n\r\nabc";
        for cut in 0..whole.len() {
            assert_eq!(reply(&whole[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(reply(whole).unwrap(), Some((201, whole.len() - 3, whole.len())));
        assert_eq!(reply(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(), Some((204, 27, 27)));
        assert!(reply(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(reply(b"no status here\r\n\r\n").is_err());
    }

    struct Numbers;

    impl Requests for Numbers {
        fn write(&self, number: u64, head: &str, out: &mut Vec<u8>) {
            write!(out, "GET /{number} HTTP/1.1\r\n{head}\r\n").unwrap();
        }

        fn check(&self, number: u64, body: &[u8]) -> anyhow::Result<()> {
            ensure!(body == number.to_string().as_bytes(), "{body:?}");
            Ok(())
        }
    }

    /// Answers every request with its path; request 7 with `seventh`. What was asked.
    fn server(seventh: &'static str) -> (Endpoint, Arc<Mutex<BTreeSet<u64>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint =
            Endpoint::new(&format!("http://{}", listener.local_addr().unwrap()), "k").unwrap();
        let asked = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, seen) = (stream.unwrap(), seen.clone());
                thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    while let Some(Ok(line)) = lines.next() {
                        let Some(path) = line.strip_prefix("GET /") else { continue };
                        let number: u64 = path.split(' ').next().unwrap().parse().unwrap();
                        assert!(seen.lock().unwrap().insert(number), "asked twice");
                        let text = number.to_string();
                        let plain = format!(
                            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
                            text.len()
                        );
                        let reply = if number == 7 { seventh } else { &plain };
                        stream.write_all(reply.as_bytes()).unwrap();
                    }
                });
            }
        });
        (endpoint, asked)
    }

    #[test]
    fn every_request_is_asked_once_and_a_bad_answer_fails_the_measurement() {
        let (endpoint, asked) = server("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7");
        assert!(rate(&endpoint, 5, 200, &Numbers).unwrap() > 0.0);
        assert_eq!(*asked.lock().unwrap(), (0..200).collect());
        for bad in [
            "HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nbusy",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n8",
        ] {
            let (endpoint, _) = server(bad);
            let error = rate(&endpoint, 5, 200, &Numbers).unwrap_err();
            assert!(format!("{error:#}").contains("request 7"), "{error:#}");
        }
    }
}
