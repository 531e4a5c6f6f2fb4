//! The way to the host: a port, and a ring beside it once the host has agreed to one ([`guest_ring`]).
//!
//! # Invariants
//! - A message goes over one of them, whole. What is written to the port is written under a lock.
//! - Each host is asked again whether it takes the ring, and until it has said so the port is used.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use guest_ring::{Broken, Piece, bell_to_host};
use nix::errno::Errno;
use nix::unistd::write;

use super::ring::Ring;
use crate::port;

/// How often a host is looked at that takes nothing out of a full ring.
const ROOM_POLL: Duration = Duration::from_micros(200);
/// How long to look for an answer before sleeping.
const LOOK: Duration = Duration::from_millis(1);
/// Looks in vain after one that paid; without that, one in so many messages is looked after.
const CREDIT: u64 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Line {
    port: OwnedFd,
    writing: Mutex<()>,
    ring: Option<Ring>,
    looks: Looks,
}

/// Whether looking for answers pays.
#[derive(Debug, Default)]
struct Looks {
    credit: AtomicU64,
    left_out: AtomicU64,
}

impl Looks {
    // One thread uses them; they are atomic so that it need not own them.
    fn is_worth_it(&self) -> bool {
        self.credit.load(Ordering::Relaxed) > 0
            || self.left_out.fetch_add(1, Ordering::Relaxed).is_multiple_of(CREDIT)
    }

    fn looked(&self, found: bool) {
        let credit = self.credit.load(Ordering::Relaxed).saturating_sub(1);
        self.credit.store(if found { CREDIT } else { credit }, Ordering::Relaxed);
    }
}

impl Line {
    pub(super) fn new(port: OwnedFd, ring: Option<Ring>) -> Self {
        Self { port, writing: Mutex::new(()), ring, looks: Looks::default() }
    }

    pub(super) fn port(&self) -> &OwnedFd {
        &self.port
    }

    /// Asks the host that is there now whether it takes the ring.
    pub(super) fn offer(&self) -> Result<(), Errno> {
        let Some(ring) = &self.ring else { return Ok(()) };
        let _whole = match self.writing.try_lock() {
            Ok(whole) => whole,
            Err(TryLockError::Poisoned(whole)) => whole.into_inner(),
            // A message is half-way through the port, so it is the host of before, which knows.
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        ring.agreed.store(false, Ordering::SeqCst);
        // Nobody is there, or nobody reads: the one thread that hears the host must not wait for that.
        if !port::takes_more(&self.port) {
            return Ok(());
        }
        write_all(&self.port, &ring.offer.encode())
    }

    /// What the host has said to the last offer.
    pub(super) fn offer_answered(&self, taken: bool) {
        if let Some(ring) = &self.ring {
            ring.agreed.store(taken, Ordering::SeqCst);
        }
    }

    /// Sends a message over the port, whatever else there is.
    pub(super) fn send_over_port(&self, message: &[u8]) -> Result<(), Errno> {
        let _whole = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write_all(&self.port, message)
    }

    /// Sends a message; waits while the host takes none.
    pub(super) fn send(&self, message: &[u8]) -> Result<(), Errno> {
        let Some(ring) = self.agreed() else { return self.send_over_port(message) };
        loop {
            match ring.requests().send(&[message]) {
                Ok(Some(true)) => return self.send_over_port(&bell_to_host()),
                Ok(Some(false)) => return Ok(()),
                Ok(None) => thread::sleep(ROOM_POLL),
                Err(_) => return Err(Errno::EPROTO),
            }
        }
    }

    /// True where nothing that was sent is still on its way, and the port takes more at once.
    pub(super) fn is_clear(&self) -> Result<bool, Errno> {
        let taken = self.ring.as_ref().is_none_or(|ring| ring.requests().is_taken() == Ok(true));
        Ok(taken && port::takes_more(&self.port))
    }

    /// Takes all messages out of the ring and has the host ring for the next one.
    pub(super) fn empty(&self, mut take: impl FnMut(&Piece<'_>)) -> Result<(), Broken> {
        let Some(ring) = &self.ring else { return Ok(()) };
        let mut replies = ring.replies();
        replies.wake();
        loop {
            while let Some(piece) = replies.first()? {
                take(&piece);
                piece.take();
            }
            if replies.sleep()? {
                return Ok(());
            }
        }
    }

    /// Says to the host that it need not ring for the answer to what is sent next, where looking for it is worth it.
    ///
    /// Before that is sent: a host is faster than the guest that it emulates. It would have answered, and rung, which costs both
    /// more than the answer, before the guest came to look.
    pub(super) fn expect(&self) -> Option<Expecting<'_>> {
        let ring = self.agreed().filter(|_| self.looks.is_worth_it())?;
        ring.replies().wake();
        Some(Expecting { line: self, ring })
    }

    fn agreed(&self) -> Option<&Ring> {
        self.ring.as_ref().filter(|ring| ring.agreed.load(Ordering::SeqCst))
    }
}

/// The host does not ring. Whoever has this looks.
#[derive(Debug)]
#[must_use = "nobody else hears of what the host sends now"]
pub(super) struct Expecting<'a> {
    line: &'a Line,
    ring: &'a Ring,
}

impl Expecting<'_> {
    /// Takes messages out of the ring, for a moment, until `is_answered`: the thread that delivers them is not woken
    /// then, and neither is the host's.
    pub(super) fn look(
        self,
        is_answered: impl Fn() -> bool,
        mut take: impl FnMut(&Piece<'_>),
    ) -> Result<(), Broken> {
        let begun = Instant::now();
        let mut replies = self.ring.replies();
        // The thread that delivers them may have gone to sleep since.
        replies.wake();
        loop {
            while let Some(piece) = replies.first()? {
                take(&piece);
                piece.take();
            }
            let found = is_answered();
            if found || begun.elapsed() > LOOK {
                self.line.looks.looked(found);
                break;
            }
            // Whoever else has something to do comes first.
            thread::yield_now();
        }
        drop(replies);
        self.line.empty(take)
    }
}

/// One write moves at most 32 KiB into a port.
fn write_all(port: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match write(port, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;

    use guest_ring::{Area, Offer, Sender};

    use super::*;

    /// A line with a ring, and the host's end of what comes over that.
    fn line() -> (Line, Sender) {
        let (to_host, to_guest) = (Area::anonymous().unwrap(), Area::anonymous().unwrap());
        let host = Sender::new(to_guest.clone()).unwrap();
        let offer = Offer { to_host: 0, to_guest: 1 << 21, token: 7 };
        let ring = Ring::over(to_host, to_guest, offer).unwrap();
        let line = Line::new(File::open("/dev/null").unwrap().into(), Some(ring));
        line.empty(|_| ()).unwrap();
        (line, host)
    }

    #[test]
    fn a_host_that_answers_before_anybody_looks_does_not_ring() {
        let (line, mut host) = line();
        assert!(line.expect().is_none(), "the host has not taken the ring yet");
        line.offer_answered(true);
        assert_eq!(host.send(&[b"unasked"]).unwrap(), Some(true), "nobody looks: it rings");
        line.empty(|_| ()).unwrap();
        let expecting = line.expect().expect("the first is looked for");
        assert_eq!(host.send(&[b"answer"]).unwrap(), Some(false));
        let taken = Cell::new(0);
        expecting.look(|| taken.get() == 1, |_| taken.set(taken.get() + 1)).unwrap();
        assert_eq!(taken.get(), 1);
        assert_eq!(
            host.send(&[b"later"]).unwrap(),
            Some(true),
            "it was looked for: it rings again"
        );
    }

    #[test]
    fn who_looked_in_vain_is_rung_for() {
        let (line, mut host) = line();
        line.offer_answered(true);
        line.expect().unwrap().look(|| false, |_| ()).unwrap();
        assert_eq!(host.send(&[b"late"]).unwrap(), Some(true));
        let left_out = (1..CREDIT).filter(|_| line.expect().is_none()).count();
        assert_eq!(
            left_out as u64,
            CREDIT - 1,
            "it did not pay, so the next ones are not looked for"
        );
        assert!(line.expect().is_some());
    }
}
