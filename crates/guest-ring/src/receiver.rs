//! The side that takes messages out.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{VolatileMemoryError, VolatileSlice, WriteVolatile};

use crate::Broken;
use crate::area::{Area, ENTRIES, Word};

/// Receives over an area; the only one who does.
#[derive(Debug)]
pub struct Receiver {
    area: Area,
    taken: u32,
}

/// A message that was not taken yet. The other side may still change what is in it: copy it once, then look.
#[derive(Debug)]
pub struct Piece<'a> {
    area: &'a Area,
    taken: &'a mut u32,
    memory: VolatileSlice<'a>,
}

impl Receiver {
    /// Begins where the last one over this area has ended, awake.
    ///
    /// # Errors
    /// Where the counts cannot be.
    pub fn new(area: Area) -> Result<Self, Broken> {
        let taken = area.get(Word::Taken);
        area.set(Word::Asleep, 0);
        let receiver = Self { area, taken };
        receiver.waiting()?;
        Ok(receiver)
    }

    /// Messages that wait to be taken.
    ///
    /// # Errors
    /// Where there are more than an area holds.
    pub fn waiting(&self) -> Result<u32, Broken> {
        let waiting = self.area.get(Word::Sent).wrapping_sub(self.taken);
        if waiting > ENTRIES {
            Err(Broken("more messages than an area holds"))
        } else {
            Ok(waiting)
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// Where it does not lie in the area.
    pub fn first(&mut self) -> Result<Option<Piece<'_>>, Broken> {
        if self.waiting()? == 0 {
            return Ok(None);
        }
        let offset = self.area.get(Word::Entry(self.taken)) as usize;
        let bytes = self.area.get(Word::EntryLength(self.taken)) as usize;
        let memory = self.area.message(offset, bytes);
        let memory = memory.ok_or(Broken("a message outside of the area"))?;
        Ok(Some(Piece { area: &self.area, taken: &mut self.taken, memory }))
    }

    /// Tells the other side to ring. False, and it does not, where messages have come meanwhile.
    ///
    /// # Errors
    /// As [`Self::waiting`].
    pub fn sleep(&self) -> Result<bool, Broken> {
        self.area.set(Word::Asleep, 1);
        // See the crate: said before looking for the last time.
        fence(Ordering::SeqCst);
        let none = self.waiting()? == 0;
        if !none {
            self.wake();
        }
        Ok(none)
    }

    /// Tells the other side not to ring.
    pub fn wake(&self) {
        self.area.set(Word::Asleep, 0);
    }
}

impl Piece<'_> {
    /// Length of the message.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// Writes it to `file` in one call, without a copy between.
    ///
    /// # Errors
    /// Those of `write(2)`.
    pub fn write_to(&self, file: impl AsFd) -> io::Result<usize> {
        match file.as_fd().write_volatile(&self.memory) {
            Err(VolatileMemoryError::IOError(error)) => Err(error),
            written => written.map_err(io::Error::other),
        }
    }

    /// Copies as much of it as fits into `room`, and says how much.
    pub fn copy_to(&self, room: &mut [u8]) -> usize {
        self.memory.copy_to(room)
    }

    /// Gives its memory back to the other side.
    pub fn take(self) {
        *self.taken = self.taken.wrapping_add(1);
        self.area.set(Word::Taken, *self.taken);
    }
}
