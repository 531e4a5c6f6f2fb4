//! Commands for a running QEMU, over the socket that it was started with.
//!
//! # Invariants
//! - A monitor sends events only once it is negotiated with. One that is negotiated with has an owner that reads them
//!   ([`room`](super::room)) or closes it soon, so nothing piles up that nobody reads, however long the guest runs.
//! - What QEMU says is bounded in length and in time. It is no guest, but a guest that has broken out of
//!   it speaks here.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};

use crate::limits::{QMP_LINE_BYTES_MAX, QMP_LINES_MAX, QMP_TIMEOUT};

/// A monitor that takes commands.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
    /// When all has to be done that it is asked.
    deadline: Instant,
}

impl Qmp {
    /// Negotiates with the monitor at the other end of `stream`.
    pub(crate) fn negotiate(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(QMP_TIMEOUT))?;
        let deadline = Instant::now() + QMP_TIMEOUT;
        let mut qmp = Self { stream: BufReader::new(stream), deadline };
        let greeting = qmp.line()?;
        if greeting.get("QMP").is_none() {
            return Err(invalid("no greeting of a monitor"));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Gives it as long again as it had at first.
    pub(crate) fn begin_anew(&mut self) {
        self.deadline = Instant::now() + QMP_TIMEOUT;
    }

    /// Runs one command.
    ///
    /// # Errors
    /// What QEMU says where it refuses.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        self.execute_with(command, arguments, None)
    }

    /// Gives QEMU a descriptor that later commands know as `name`.
    pub(crate) fn give(&mut self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.execute_with("getfd", json!({ "fdname": name }), Some(fd)).map(drop)
    }

    fn execute_with(
        &mut self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<Value> {
        let mut message = json!({ "execute": command, "arguments": arguments }).to_string();
        message.push('\n');
        match fd {
            None => self.stream.get_mut().write_all(message.as_bytes())?,
            Some(fd) => send_with(self.stream.get_ref(), message.as_bytes(), fd)?,
        }
        for _ in 0..QMP_LINES_MAX {
            let answer = self.line()?;
            if let Some(done) = answer.get("return") {
                return Ok(done.clone());
            }
            if let Some(error) = answer.get("error") {
                let why = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
                return Err(io::Error::other(format!("{command}: {why}")));
            }
            // An event: of no interest here.
        }
        Err(invalid("events without end"))
    }

    /// Takes what came unasked and does not wait for more, but for the end of a line. True where there was something.
    pub(crate) fn forget_events(&mut self) -> io::Result<bool> {
        let mut some = false;
        for _ in 0..QMP_LINES_MAX {
            let mut ready = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            if self.stream.buffer().is_empty() && poll(&mut ready, PollTimeout::ZERO)? == 0 {
                break;
            }
            self.line()?;
            some = true;
        }
        Ok(some)
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the monitor takes too long"));
            }
            self.stream.get_ref().set_read_timeout(Some(left))?;
            let came = self.stream.fill_buf()?;
            if came.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = came.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(came.len(), |end| end + 1);
            line.extend_from_slice(came.get(..taken).unwrap_or_default());
            self.stream.consume(taken);
            if line.len() > QMP_LINE_BYTES_MAX {
                return Err(invalid("a line too long"));
            }
            if end.is_some() {
                return serde_json::from_slice(&line).map_err(|_| invalid("not JSON"));
            }
        }
    }
}

impl AsFd for Qmp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

/// Sends all of `bytes`, the descriptor with the first of them.
fn send_with(stream: &UnixStream, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let first = [IoSlice::new(bytes)];
    let sent = sendmsg::<()>(stream.as_raw_fd(), &first, &rights, MsgFlags::empty(), None)?;
    let mut stream = stream;
    stream.write_all(bytes.get(sent..).unwrap_or_default())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the hypervisor's monitor: {what}"))
}

/// How often a migration is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Waits until a migration, in or out, is complete, as long as the monitor may be used.
pub(crate) fn migrated(qmp: &mut Qmp) -> io::Result<()> {
    loop {
        let seen = qmp.execute("query-migrate", json!({}))?;
        match seen.get("status").and_then(Value::as_str) {
            Some("completed") => return Ok(()),
            Some(status @ ("failed" | "cancelled")) => {
                let why = seen.get("error-desc").and_then(Value::as_str).unwrap_or(status);
                return Err(io::Error::other(format!("the device state: {why}")));
            }
            _ => std::thread::sleep(LOOK_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor that says `lines`, whatever it is asked.
    fn saying(lines: &str) -> io::Result<Qmp> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let lines = lines.as_bytes().to_vec();
        std::thread::spawn(move || {
            theirs.write_all(&lines)?;
            theirs.shutdown(std::net::Shutdown::Write)?;
            io::copy(&mut theirs, &mut io::sink())
        });
        Qmp::negotiate(ours)
    }

    const HELLO: &str = "{\"QMP\": {}}\n{\"return\": {}}\n";

    #[test]
    fn an_answer_is_found_behind_events() {
        let mut qmp =
            saying(&format!("{HELLO}{{\"event\": \"STOP\"}}\n{{\"return\": 7}}\n")).unwrap();
        assert_eq!(qmp.execute("stop", json!({})).unwrap(), 7);
    }

    #[test]
    fn what_came_unasked_is_taken_without_waiting_for_more() {
        let event = "{\"event\": \"STOP\"}\n";
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(HELLO.as_bytes()).unwrap();
        let mut qmp = Qmp::negotiate(ours).unwrap();
        assert!(!qmp.forget_events().unwrap());
        theirs.write_all(event.repeat(3).as_bytes()).unwrap();
        assert!(qmp.forget_events().unwrap());
        assert!(!qmp.forget_events().unwrap());
        drop(theirs);
        qmp.forget_events().unwrap_err();
    }

    #[test]
    fn a_refusal_says_why() {
        let mut qmp =
            saying(&format!("{HELLO}{{\"error\": {{\"desc\": \"no such thing\"}}}}\n")).unwrap();
        let error = qmp.execute("cont", json!({})).unwrap_err();
        assert_eq!(error.to_string(), "cont: no such thing");
    }

    #[test]
    fn garbage_is_refused_in_bounded_space() {
        let long = "x".repeat(QMP_LINE_BYTES_MAX + 1);
        for said in ["", "{", "hello\n", "{\"return\": {}}\n", "[]\n", &long] {
            assert!(saying(said).is_err(), "{}", &said[..said.len().min(20)]);
        }
        let events = "{\"event\": \"X\"}\n".repeat(QMP_LINES_MAX + 1);
        let mut qmp = saying(&format!("{HELLO}{events}")).unwrap();
        assert!(qmp.execute("stop", json!({})).is_err());
    }

    #[test]
    fn a_failed_migration_says_why() {
        let failed = "{\"return\": {\"status\": \"failed\", \"error-desc\": \"bad section\"}}\n";
        let mut qmp = saying(&format!("{HELLO}{failed}")).unwrap();
        let error = migrated(&mut qmp).unwrap_err();
        assert!(error.to_string().contains("bad section"), "{error}");
    }
}
