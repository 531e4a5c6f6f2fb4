//! Commands for a running QEMU, over the socket that it was started with.
//!
//! # Invariants
//! - A monitor sends events only once it is negotiated with. One that is negotiated with has an owner that reads them
//!   ([`room`](super::room)) or closes it soon, so nothing piles up that nobody reads, however long the guest runs.
//! - What QEMU says is bounded in length and in time, events also, of which a guest may cause any number. It is no guest,
//!   but a guest that has broken out of it speaks here.
//! - An answer is known by its number: one that comes late, after it was given up, is taken for no other.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};

use crate::limits::{QMP_LINE_BYTES_MAX, QMP_LINES_MAX, QMP_TIMEOUT};

/// A monitor, met or not yet.
#[derive(Debug)]
pub(crate) enum Line {
    New(UnixStream),
    Met(Qmp),
}

impl Line {
    pub(crate) fn meet(self) -> io::Result<Qmp> {
        match self {
            Self::New(stream) => Qmp::negotiate(stream),
            Self::Met(qmp) => Ok(qmp),
        }
    }
}

/// A monitor that takes commands.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
    /// What has come of a line that is not whole yet.
    begun: Vec<u8>,
    /// When all has to be done that it is asked.
    deadline: Instant,
    /// Number of the last command, and of the last that was answered. They are answered in turn.
    asked: u64,
    answered: u64,
}

impl Qmp {
    /// Negotiates with the monitor at the other end of `stream`.
    pub(crate) fn negotiate(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(QMP_TIMEOUT))?;
        let deadline = Instant::now() + QMP_TIMEOUT;
        let stream = BufReader::new(stream);
        let mut qmp = Self { stream, begun: Vec::new(), deadline, asked: 0, answered: 0 };
        let greeting = qmp.line()?;
        if greeting.get("QMP").is_none() {
            return Err(invalid("no greeting of a monitor"));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Gives it as long again as it had at first.
    pub(crate) fn begin_anew(&mut self) {
        self.begin_within(QMP_TIMEOUT);
    }

    /// Gives it so long for what it is asked next.
    pub(crate) fn begin_within(&mut self, patience: Duration) {
        self.deadline = Instant::now() + patience;
    }

    /// Whether the answer of a command is still to come. Another may be given, but is answered after it.
    pub(crate) fn owes_answer(&self) -> bool {
        self.answered < self.asked
    }

    /// Runs one command.
    ///
    /// # Errors
    /// What QEMU says where it refuses ([`io::ErrorKind::Other`]). `TimedOut` where it has not answered yet: it may do so
    /// later, and do as it was told.
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
        let id = self.asked + 1;
        let mut message =
            json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        message.push('\n');
        match fd {
            None => self.stream.get_mut().write_all(message.as_bytes())?,
            Some(fd) => send_with(self.stream.get_ref(), message.as_bytes(), fd)?,
        }
        self.asked = id;
        loop {
            let said = self.line()?;
            // What answers no command is an event; another one, an answer that nobody waits for any more.
            if answers(&said) != Some(id) {
                continue;
            }
            if let Some(done) = said.get("return") {
                return Ok(done.clone());
            }
            let why = said.get("error").and_then(|error| error.get("desc")).and_then(Value::as_str);
            let why = why.unwrap_or("no reason given");
            return Err(io::Error::other(format!("{command}: {why}")));
        }
    }

    /// Takes what came unasked, or late, and does not wait for more, but for the end of a line. True where there was
    /// something.
    pub(crate) fn forget_events(&mut self) -> io::Result<bool> {
        let mut some = false;
        for _ in 0..QMP_LINES_MAX {
            let mut ready = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            if self.stream.buffer().is_empty() {
                match poll(&mut ready, PollTimeout::ZERO) {
                    Ok(0) | Err(Errno::EINTR) => break,
                    Ok(_) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.line()?;
            some = true;
        }
        Ok(some)
    }

    fn line(&mut self) -> io::Result<Value> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            self.stream.get_ref().set_read_timeout(Some(left))?;
            let came = match self.stream.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                came => came?,
            };
            if came.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = came.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(came.len(), |end| end + 1);
            self.begun.extend_from_slice(came.get(..taken).unwrap_or_default());
            self.stream.consume(taken);
            if self.begun.len() > QMP_LINE_BYTES_MAX {
                return Err(invalid("a line too long"));
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.begun);
                let said: Value = serde_json::from_slice(&line).map_err(|_| invalid("not JSON"))?;
                if let Some(id) = answers(&said).filter(|id| *id <= self.asked) {
                    self.answered = self.answered.max(id);
                }
                return Ok(said);
            }
        }
    }
}

impl AsFd for Qmp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

/// The number of the command that this answers. What has only its number leaves it unanswered.
fn answers(said: &Value) -> Option<u64> {
    let is_answer = said.get("return").is_some() || said.get("error").is_some();
    said.get("id").and_then(Value::as_u64).filter(|_| is_answer)
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

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the monitor takes too long")
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

    const HELLO: &str = "{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n";

    #[test]
    fn an_answer_is_found_behind_events() {
        let mut qmp =
            saying(&format!("{HELLO}{{\"event\": \"STOP\"}}\n{{\"return\": 7, \"id\": 2}}\n"))
                .unwrap();
        assert_eq!(qmp.execute("stop", json!({})).unwrap(), 7);
        // A guest may cause any number of them.
        let events = "{\"event\": \"X\"}\n".repeat(QMP_LINES_MAX * 4);
        let mut qmp = saying(&format!("{HELLO}{events}{{\"return\": 7, \"id\": 2}}\n")).unwrap();
        assert_eq!(qmp.execute("stop", json!({})).unwrap(), 7);
    }

    #[test]
    fn an_answer_that_comes_late_is_taken_for_no_other() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(HELLO.as_bytes()).unwrap();
        let mut qmp = Qmp::negotiate(ours).unwrap();
        for _ in 0..2 {
            qmp.begin_within(Duration::from_millis(20));
            // It has begun to answer, too.
            let begun = if qmp.owes_answer() { "\": \"late\", \"id\": 2}\n" } else { "{\"return" };
            theirs.write_all(begun.as_bytes()).unwrap();
            let error = qmp.execute("stop", json!({})).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(qmp.owes_answer());
        }
        theirs.write_all(b"{\"error\": {}, \"id\": 3}\n{\"return\": 7, \"id\": 4}\n").unwrap();
        qmp.begin_anew();
        assert_eq!(qmp.execute("cont", json!({})).unwrap(), 7);
        assert!(!qmp.owes_answer());
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
            saying(&format!("{HELLO}{{\"error\": {{\"desc\": \"no such thing\"}}, \"id\": 2}}\n"))
                .unwrap();
        let error = qmp.execute("cont", json!({})).unwrap_err();
        assert_eq!(error.to_string(), "cont: no such thing");
    }

    #[test]
    fn garbage_is_refused_in_bounded_space() {
        let long = "x".repeat(QMP_LINE_BYTES_MAX + 1);
        for said in ["", "{", "hello\n", "{\"return\": {}}\n", "[]\n", &long] {
            assert!(saying(said).is_err(), "{}", &said[..said.len().min(20)]);
        }
    }

    #[test]
    fn a_failed_migration_says_why() {
        let failed =
            "{\"return\": {\"status\": \"failed\", \"error-desc\": \"bad section\"}, \"id\": 2}\n";
        let mut qmp = saying(&format!("{HELLO}{failed}")).unwrap();
        let error = migrated(&mut qmp).unwrap_err();
        assert!(error.to_string().contains("bad section"), "{error}");
    }
}
