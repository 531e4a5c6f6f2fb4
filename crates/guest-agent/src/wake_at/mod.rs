//! When the guest wants to be woken: a wish that its user leaves, and that the host asks for before
//! the guest sleeps ([`agent_proto::Request::WakeAt`]).
//!
//! ```text
//! dormouse-agent wake-at TIME     asks to be woken then, in place of what was asked before
//! dormouse-agent wake-at never    takes it back
//! dormouse-agent wake-at          prints it, in UTC; nothing where there is none
//! ```
//!
//! `TIME` is RFC 3339 (`2026-12-01T08:00:00Z`), `@UNIX_SECONDS`, or from now on `+SECONDS`, `+90s`,
//! `+15m`, `+8h`, `+2d`. The program lies in `/run/dormouse/bin`, where the `PATH` of executions ends;
//! a shell that sets its own `PATH`, as a login shell does, finds it there by its whole path.
//!
//! # Where it is
//! One line with seconds since 1970 in `/run/dormouse/wake-at`, on a tmpfs: it sleeps with the memory,
//! and a boot begins without one. Whoever changes it holds a lock on the directory.
//!
//! # Failure
//! The line is the word of whoever is root in the guest: what is not a moment to come is no wish, and
//! reading it neither waits nor takes more memory than a line. A wish that cannot be read, or not soon,
//! costs the host nothing but the answer.

mod time;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base::Timestamp;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::limits::WISH_BYTES_MAX;
pub(crate) use time::parse;

/// The agent's directory in a guest. Only its boot makes it, so there is none outside.
pub(crate) const DIR: &str = "/run/dormouse";
const FILE: &str = "wake-at";
const NEW_FILE: &str = "wake-at.new";

/// Wishes for `at`, in place of what was wished before; `None` takes that back.
pub(crate) fn wish(dir: &Path, at: Option<Timestamp>) -> io::Result<()> {
    let _turn = turn(dir, FlockArg::LockExclusive)?;
    let Some(at) = at else { return remove(dir) };
    let new = dir.join(NEW_FILE);
    fs::write(&new, format!("{}\n", at.as_second()))?;
    fs::rename(new, dir.join(FILE))
}

/// The moment that is wished for, where it is still to come.
pub(crate) fn wished(dir: &Path, now: Timestamp) -> Option<Timestamp> {
    read(dir).filter(|at| *at > now)
}

/// The same, and clears away a moment that is over.
pub(crate) fn wished_or_over(dir: &Path, now: Timestamp) -> Option<Timestamp> {
    let turn = turn(dir, FlockArg::LockExclusiveNonblock);
    let at = read(dir)?;
    if at > now {
        return Some(at);
    }
    // Whoever has the turn puts another one there just now.
    if turn.is_ok() {
        // It is over all the same.
        drop(remove(dir));
    }
    None
}

fn turn(dir: &Path, how: FlockArg) -> io::Result<Flock<File>> {
    let dir = open(dir, OFlag::O_DIRECTORY)?;
    Flock::lock(dir, how).map_err(|(_, errno)| errno.into())
}

fn read(dir: &Path) -> Option<Timestamp> {
    let file = open(&dir.join(FILE), OFlag::empty()).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    let read = file.take(WISH_BYTES_MAX + 1).read_to_string(&mut text).ok()?;
    let seconds = text.trim_end().parse().ok().filter(|_| read as u64 <= WISH_BYTES_MAX)?;
    Timestamp::from_second(seconds).ok()
}

/// Opens what may be anything: does not wait for the other end of a pipe, does not follow a link.
fn open(path: &Path, and: OFlag) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | and;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
