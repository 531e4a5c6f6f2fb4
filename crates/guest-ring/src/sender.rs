//! The side that puts messages in.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

use vm_memory::VolatileSlice;

use crate::Broken;
use crate::area::{Area, ENTRIES, MESSAGE_BYTES_MAX, Word};

/// Messages begin at multiples of this.
const ALIGNMENT: usize = 64;

/// Sends over an area; the only one who does.
#[derive(Debug)]
pub struct Sender {
    area: Area,
    sent: u32,
    /// Where the messages lie that were not taken, as far as is known.
    untaken: VecDeque<Extent>,
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    offset: usize,
    end: usize,
}

impl Sender {
    /// Begins where the last one over this area has ended.
    ///
    /// # Errors
    /// Where the other side has not taken what that one has sent.
    pub fn new(area: Area) -> Result<Self, Broken> {
        let sent = area.get(Word::Sent);
        if area.get(Word::Taken) != sent {
            return Err(Broken("begun while messages are under way"));
        }
        Ok(Self { area, sent, untaken: VecDeque::new() })
    }

    /// True once the other side has taken everything.
    ///
    /// # Errors
    /// Where it says that it took what was never sent.
    pub fn is_taken(&mut self) -> Result<bool, Broken> {
        self.reclaim()?;
        Ok(self.untaken.is_empty())
    }

    /// Sends one message, that lies in `parts`. `None`: there is no room until the other side has taken more;
    /// else whether it sleeps, and has to be rung for.
    ///
    /// # Errors
    /// Where the other side is broken, or the message longer than [`MESSAGE_BYTES_MAX`].
    pub fn send(&mut self, parts: &[&[u8]]) -> Result<Option<bool>, Broken> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.reclaim()?;
        let Some(offset) = self.room(bytes) else {
            let never = bytes > MESSAGE_BYTES_MAX;
            return if never { Err(Broken("a message that never fits")) } else { Ok(None) };
        };
        let message = self.area.message(offset, bytes).ok_or(Broken("no room in the area"))?;
        write(&message, parts);
        // Both fit in 21 bits.
        self.area.set(Word::Entry(self.sent), offset as u32);
        self.area.set(Word::EntryLength(self.sent), bytes as u32);
        self.untaken
            .push_back(Extent { offset, end: (offset + bytes).next_multiple_of(ALIGNMENT) });
        self.sent = self.sent.wrapping_add(1);
        self.area.set(Word::Sent, self.sent);
        // See the crate: counted before looking whether to ring.
        fence(Ordering::SeqCst);
        Ok(Some(self.area.get(Word::Asleep) != 0))
    }

    fn reclaim(&mut self) -> Result<(), Broken> {
        let untaken = self.sent.wrapping_sub(self.area.get(Word::Taken)) as usize;
        let known = self.untaken.len();
        let taken = known.checked_sub(untaken).ok_or(Broken("more was taken than sent"))?;
        self.untaken.drain(..taken);
        Ok(())
    }

    /// Where the next message of so many bytes goes: behind the last one, or at the beginning. An area whose
    /// messages are all taken begins anew, so that little traffic touches little memory.
    fn room(&self, bytes: usize) -> Option<usize> {
        if self.untaken.len() >= ENTRIES as usize {
            return None;
        }
        let (Some(first), Some(last)) = (self.untaken.front(), self.untaken.back()) else {
            return (bytes <= MESSAGE_BYTES_MAX).then_some(0);
        };
        let fits = |from: usize, to: usize| to.checked_sub(from).is_some_and(|room| room >= bytes);
        if last.offset < first.offset {
            return fits(last.end, first.offset).then_some(last.end);
        }
        if fits(last.end, MESSAGE_BYTES_MAX) {
            return Some(last.end);
        }
        fits(0, first.offset).then_some(0)
    }
}

fn write(message: &VolatileSlice<'_>, parts: &[&[u8]]) {
    let mut at = 0;
    for part in parts {
        if let Ok(room) = message.offset(at) {
            room.copy_from(part);
        }
        at += part.len();
    }
}
