//! A guest: over its port, and over a ring in its memory once it has offered one.
//!
//! Messages that come over the port are taken in any case: those from before a ring was agreed on, and bells. What
//! goes to the guest goes over the ring as soon as there is one.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use guest_ring::{BELL_OPCODE, GuestMemory, OFFER_OPCODE, Offer, Receiver, Sender, bell_to_guest};
use parking_lot::Mutex;

use super::stream::StreamLink;
use crate::abi::{IN_HEADER_BYTES, linux};
use crate::limits::MESSAGE_BYTES_MAX;
use crate::link::{Link, Message, Received};

/// A guest whose processor is emulated needs some hundred microseconds between a reply and the next request, and to be
/// rung for costs both sides more than that.
const LOOK: Duration = Duration::from_millis(1);
/// How often the guest is looked at that takes nothing out of a full ring: at first, and in the end.
const ROOM_POLL: Duration = Duration::from_micros(100);
const ROOM_POLL_MAX: Duration = Duration::from_millis(50);

/// Offers that were none, after which no other is looked at: each costs the host a look into the guest's memory.
const OFFERS_REFUSED_MAX: u32 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct GuestLink {
    port: StreamLink,
    memory: Option<GuestMemory>,
    ring: OnceLock<Ring>,
    /// How many offers were none.
    refused: AtomicU32,
    shut: AtomicBool,
    /// Its port is another's once this is over.
    left: AtomicBool,
}

#[derive(Debug)]
struct Ring {
    offer: Offer,
    requests: Mutex<Requests>,
    replies: Mutex<Sender>,
}

#[derive(Debug)]
struct Requests {
    receiver: Receiver,
    asleep: bool,
}

impl GuestLink {
    pub(super) fn new(port: UnixStream, memory: Option<GuestMemory>) -> io::Result<Self> {
        let (ring, refused, shut, left) = Default::default();
        Ok(Self { port: StreamLink::new(port)?, memory, ring, refused, shut, left })
    }

    /// From here on shutting down leaves the port as it is, for who serves it next.
    pub(super) fn leave_port(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Tells the guest what becomes of its offer.
    fn answer_offer(&self, message: &[u8]) -> io::Result<()> {
        let errno =
            match Offer::decode(message).ok_or(linux::EINVAL).and_then(|offer| self.take(offer)) {
                Ok(()) => 0,
                Err(errno) => errno,
            };
        self.port.send(&[&Offer::answer(errno)])
    }

    /// An error number of Linux where the guest has to stay with its port.
    fn take(&self, offer: Offer) -> Result<(), i32> {
        if let Some(ring) = self.ring.get() {
            // A guest that went on after all asks again.
            return if ring.offer == offer { Ok(()) } else { Err(linux::EBUSY) };
        }
        let memory = self.memory.as_ref().ok_or(linux::ENOSYS)?;
        if self.refused.load(Ordering::Relaxed) >= OFFERS_REFUSED_MAX {
            return Err(linux::EINVAL);
        }
        let ring = Ring::of(memory, offer).map_err(|error| {
            // Said once: a guest can offer without end.
            if self.refused.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::warn!(%error, "the guest offers a ring that cannot be one; its port is used");
            }
            linux::EINVAL
        })?;
        self.ring.set(ring).map_err(|_| linux::EBUSY)
    }
}

impl Ring {
    fn of(memory: &GuestMemory, offer: Offer) -> io::Result<Self> {
        let not = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        if offer.to_host == offer.to_guest {
            return Err(not("one area for both directions"));
        }
        let (to_host, to_guest) = (memory.area(offer.to_host)?, memory.area(offer.to_guest)?);
        if !to_host.is_marked(offer.token) || !to_guest.is_marked(offer.token) {
            return Err(not("other memory than the guest means"));
        }
        let (receiver, sender) = (Receiver::new(to_host)?, Sender::new(to_guest)?);
        let requests = Mutex::new(Requests { receiver, asleep: false });
        Ok(Self { offer, requests, replies: Mutex::new(sender) })
    }

    /// True where there was a message.
    fn receive(&self, message: &mut Message) -> io::Result<bool> {
        let mut requests = self.requests.lock();
        let Some(piece) = requests.receiver.first()? else { return Ok(false) };
        let bytes = piece.bytes();
        if !(IN_HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&bytes) {
            let text = format!("a message of {bytes} bytes; {MESSAGE_BYTES_MAX} are allowed");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        piece.copy_to(message.make_room(bytes));
        piece.take();
        if std::mem::take(&mut requests.asleep) {
            requests.receiver.wake();
        }
        Ok(true)
    }
}

impl Link for GuestLink {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.port.descriptor()
    }

    fn has_buffered(&self) -> bool {
        self.port.has_buffered()
    }

    fn is_queue(&self) -> bool {
        self.ring.get().is_some()
    }

    fn takes_help(&self) -> bool {
        // A ring has one receiver: another could take the message, or the bell, that the one who sleeps was to wake of.
        false
    }

    fn receive(&self, message: &mut Message) -> io::Result<Received> {
        let received = match self.ring.get() {
            None => self.port.receive(message)?,
            Some(ring) if ring.receive(message)? => return Ok(Received::Message),
            Some(_) => self.port.receive_now(message)?,
        };
        if received != Received::Message {
            return Ok(received);
        }
        match message
            .bytes()
            .get(4..8)
            .and_then(|opcode| opcode.try_into().ok())
            .map(u32::from_ne_bytes)
        {
            Some(BELL_OPCODE) => Ok(Received::Nothing),
            Some(OFFER_OPCODE) => self.answer_offer(message.bytes()).map(|()| Received::Nothing),
            _ => Ok(Received::Message),
        }
    }

    fn send(&self, parts: &[&[u8]]) -> io::Result<()> {
        let Some(ring) = self.ring.get() else { return self.port.send(parts) };
        let mut replies = ring.replies.lock();
        let mut pause = ROOM_POLL;
        let asleep = loop {
            match replies.send(parts)? {
                Some(asleep) => break asleep,
                None if self.shut.load(Ordering::Relaxed) => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                None => {
                    thread::sleep(pause);
                    pause = (2 * pause).min(ROOM_POLL_MAX);
                }
            }
        };
        drop(replies);
        if asleep { self.port.send(&[&bell_to_guest()]) } else { Ok(()) }
    }

    fn look(&self) -> Duration {
        LOOK
    }

    fn may_sleep(&self) -> io::Result<bool> {
        // A bell and what came right behind it were read at once: the port will not become readable for that.
        if self.port.has_buffered() {
            return Ok(false);
        }
        let Some(ring) = self.ring.get() else { return Ok(true) };
        let mut requests = ring.requests.lock();
        requests.asleep = requests.receiver.sleep()?;
        Ok(requests.asleep)
    }

    fn shut_down(&self) {
        self.shut.store(true, Ordering::Relaxed);
        if !self.left.load(Ordering::Relaxed) {
            self.port.shut_down();
        }
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
