//! A guest for which its host's disk has no room does not run until there is some, and loses nothing.
//!
//! Three things of a guest grow on that disk. Its *upper*: where a write finds no room, QEMU keeps the request and stops
//! the guest (`werror=enospc`). Its *home*: there the guest's programs would hear of it. Its *memory*, a sparse file that is
//! mapped: a page that finds none ends QEMU (SIGBUS). So where room gets scarce, memory takes all that it may still
//! need; and a guest whose memory cannot have that, or any, where next to nothing is left, is held before it is in want of
//! it. What is left is for servers and keepers: a machine can be deleted, a sleep ends. So memory that would not leave it
//! takes nothing. Who has grown most is held first ([`growth`]).
//!
//! # Order
//! One thread has the monitor, looks every second and at each event, and says what it sees. Where there is room
//! again the guest goes on: QEMU repeats the requests that it kept.
//!
//! # Invariants
//! - The monitor has one owner: whoever suspends the guest takes it over ([`Watch::end`]), and nothing has the guest go
//!   on behind its back.
//! - A guest that was stopped for another reason is left alone.
//!
//! # Failure
//! A QEMU that answers late, or refuses, is asked again once it has answered: nobody else has a guest that was held go on.
//! Where its monitor is lost, nobody waits for room any more.

mod growth;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::statvfs::fstatvfs;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::growth::Growth;
pub(crate) use self::growth::{Grows, Told};
use super::qmp::{Line, Qmp};
use crate::limits::{
    QMP_TIMEOUT, ROOM_ANSWER, ROOM_HELD, ROOM_LEFT_MAX, ROOM_LOOK_EVERY, ROOM_MIN, ROOM_PAUSE_MAX,
    ROOM_PIECE, ROOM_RELAPSE,
};

/// The thread that looks.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Closed to end it.
    end: UnixStream,
    thread: JoinHandle<io::Result<Qmp>>,
}

impl Watch {
    /// Looks after a guest that runs: its `monitor`, and what of it grows. Whether the guest waits for room is said to `waits`.
    pub(crate) fn begin(
        monitor: Line,
        grows: Grows,
        told: Arc<Told>,
        waits: watch::Sender<bool>,
    ) -> io::Result<Self> {
        let (end, ended) = UnixStream::pair()?;
        let growth = Growth::begin(grows, told);
        let looked_after =
            Watched { ended, growth, waits, pace: Pace::default(), patience: ROOM_ANSWER };
        let thread = thread::Builder::new().name("room".to_owned());
        let thread = thread.spawn(move || looked_after.until_ended(monitor))?;
        Ok(Self { end, thread })
    }

    /// Ends it; the guest stays as it is. Blocks for a command at most ([`ROOM_ANSWER`]), of which the answer may be still to
    /// come.
    ///
    /// # Errors
    /// Where QEMU is gone.
    pub(crate) fn end(self) -> io::Result<Qmp> {
        drop(self.end);
        self.thread
            .join()
            .map_err(|_| io::Error::other("the thread that looked for room panicked"))?
    }
}

/// What QEMU says of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    Runs,
    /// A write of it found no room.
    Stopped,
    /// We hold it.
    Held,
    /// Somebody else has it stand still.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nothing,
    Hold,
    GoOn,
}

/// What to do with a guest, where so many bytes are `free`, of which it `leaves` some. `memory`: all of its memory has a
/// place.
fn step(guest: Guest, free: u64, leaves: u64, memory: bool) -> Step {
    let free = free.saturating_sub(leaves);
    match guest {
        Guest::Runs if free < ROOM_HELD || !memory => Step::Hold,
        Guest::Stopped | Guest::Held if free >= ROOM_MIN && memory => Step::GoOn,
        _ => Step::Nothing,
    }
}

/// When a guest may go on: one that finds no room again and again, although there seems to be some, waits longer each
/// time.
#[derive(Debug, Default)]
struct Pace {
    pause: Duration,
    not_before: Option<Instant>,
    went_on: Option<Instant>,
}

impl Pace {
    fn stopped(&mut self, now: Instant) {
        let relapse =
            self.went_on.is_some_and(|at| now.saturating_duration_since(at) < ROOM_RELAPSE);
        let longer = if relapse { self.pause * 2 } else { Duration::ZERO };
        self.pause = longer.clamp(ROOM_LOOK_EVERY, ROOM_PAUSE_MAX);
        self.not_before = now.checked_add(self.pause);
    }

    fn may_go_on(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }
}

#[derive(Debug)]
struct Watched {
    ended: UnixStream,
    growth: Growth,
    waits: watch::Sender<bool>,
    pace: Pace,
    /// How long QEMU may take for an answer.
    patience: Duration,
}

impl Watched {
    fn until_ended(mut self, monitor: Line) -> io::Result<Qmp> {
        let qmp = self.look_until_ended(monitor);
        if let Err(error) = &qmp {
            // Nobody has this guest go on any more.
            self.waits.send_replace(false);
            if is_gone(error) {
                tracing::debug!(%error, "look for the guest's room");
            } else {
                tracing::error!(%error, "nobody looks any more whether the host's disk has room for this guest");
            }
        }
        qmp
    }

    fn look_until_ended(&mut self, monitor: Line) -> io::Result<Qmp> {
        // Not while it begins: others wait for QEMU then. What happens meanwhile is seen at the first look.
        let at_once = self.has_ended(None)?;
        let mut qmp = monitor.meet()?;
        if at_once {
            return Ok(qmp);
        }
        let mut held = false;
        let mut looks = 1_u32;
        loop {
            qmp.begin_within(self.patience);
            match self.look(&mut qmp, &mut held, looks > 0) {
                Ok(()) => looks = looks.saturating_sub(1),
                Err(error) if may_be_asked_again(&error) => {
                    tracing::warn!(%error, "look for the guest's room");
                    looks = 2;
                    // It may be as slow as this each time.
                    if error.kind() == io::ErrorKind::TimedOut {
                        self.patience = (self.patience * 2).min(QMP_TIMEOUT);
                    }
                }
                Err(error) => return Err(error),
            }
            if self.has_ended(Some(&qmp))? {
                return Ok(qmp);
            }
            match qmp.forget_events() {
                // The event comes a moment before the guest stands still.
                Ok(true) => looks = 2,
                Ok(false) => {}
                // There was a part of something.
                Err(error) if may_be_asked_again(&error) => looks = 2,
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the end, an event or the next look. True where it is the end.
    fn has_ended(&self, qmp: Option<&Qmp>) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        fds.extend(qmp.map(|qmp| PollFd::new(qmp.as_fd(), PollFlags::POLLIN)));
        let wait = PollTimeout::try_from(ROOM_LOOK_EVERY).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, wait) {
            Ok(_) => Ok(fds.first().and_then(PollFd::any).unwrap_or(true)),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn look(&mut self, qmp: &mut Qmp, held: &mut bool, asked: bool) -> io::Result<()> {
        if qmp.owes_answer() {
            return Ok(());
        }
        let waits = *self.waits.borrow();
        // Where nobody can say, there is no lack of it.
        let Grows { upper, memory, .. } = &self.growth.grows;
        let left = free(upper).unwrap_or(u64::MAX);
        let leaves = if left < ROOM_MIN + ROOM_LEFT_MAX { self.growth.leaves() } else { 0 };
        if left >= ROOM_MIN + leaves && !waits && !asked {
            return Ok(());
        }
        // One that waits takes what it needs only once it can go on with it: till then others may have it.
        let leave = if waits { ROOM_MIN + leaves } else { ROOM_HELD };
        let memory = (left >= ROOM_MIN && !waits)
            || memory.as_ref().is_none_or(|memory| has_its_room(memory, leave));
        let left = free(upper).unwrap_or(u64::MAX);
        let guest = guest(qmp, *held)?;
        let now = Instant::now();
        let stands = matches!(guest, Guest::Stopped | Guest::Held);
        if stands && !waits {
            self.pace.stopped(now);
            self.say(true);
        }
        match step(guest, left, leaves, memory) {
            Step::Nothing => {
                // Somebody else had it go on, or we, and heard of it late; or it was not stopped.
                if guest == Guest::Runs {
                    *held = false;
                    if waits {
                        self.say(false);
                    }
                }
            }
            Step::Hold => {
                // It may stand still also where we hear of it late.
                *held = true;
                self.pace.stopped(now);
                self.say(true);
                qmp.execute("stop", json!({}))?;
            }
            Step::GoOn if !self.pace.may_go_on(now) => {}
            Step::GoOn => {
                qmp.execute("cont", json!({}))?;
                *held = false;
                self.pace.went_on = Some(now);
                self.say(false);
            }
        }
        Ok(())
    }

    fn say(&self, waits: bool) {
        let changed = self.waits.send_replace(waits) != waits;
        if changed && waits {
            tracing::warn!(
                "the host's disk has no room: the guest does not run until there is some"
            );
        } else if changed {
            tracing::info!("there is room on the host's disk: the guest goes on");
        }
    }
}

/// Whether QEMU is there and has refused, or not answered yet.
fn may_be_asked_again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Other)
}

/// Whether the monitor is closed: QEMU has ended, which is seen by whoever waits for it.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn guest(qmp: &mut Qmp, held: bool) -> io::Result<Guest> {
    let seen = qmp.execute("query-status", json!({}))?;
    Ok(match seen.get("status").and_then(Value::as_str) {
        Some("running") => Guest::Runs,
        Some("io-error") => Guest::Stopped,
        Some("paused") if held => Guest::Held,
        _ => Guest::Other,
    })
}

/// Bytes that are free where `file` is; none where nobody can say.
fn free(file: &File) -> Option<u64> {
    let disk = fstatvfs(file).ok()?;
    Some(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Takes all the room that a guest's memory may still need, if that leaves so many bytes, else nothing: what is left of a
/// disk that is asked for too much is none. What is in it stays as it is. What the guest frees is given back, so this is
/// done anew at each look.
fn has_its_room(memory: &File, leave: u64) -> bool {
    let Some(end) = memory.metadata().ok().and_then(|meta| i64::try_from(meta.len()).ok()) else {
        return true;
    };
    // In pieces: others may take theirs at the same time.
    let mut at = 0;
    while at < end {
        let Some(need) = needs(memory) else { return true };
        if free(memory).is_some_and(|free| free < need.saturating_add(leave)) {
            return false;
        }
        let more = if need <= ROOM_PIECE.unsigned_abs() { end } else { ROOM_PIECE };
        let more = more.min(end - at);
        // A file system that cannot do that gives none the less what it has.
        match fallocate(memory.as_fd(), FallocateFlags::FALLOC_FL_KEEP_SIZE, at, more) {
            Err(Errno::ENOSPC | Errno::EDQUOT) => return false,
            Err(_) => return true,
            Ok(()) => at += more,
        }
    }
    true
}

/// Bytes of a file that have no place yet.
fn needs(file: &File) -> Option<u64> {
    let meta = file.metadata().ok()?;
    Some(meta.len().saturating_sub(meta.blocks().saturating_mul(512)))
}

#[cfg(test)]
mod tests;
