//! How many pieces lie unread in a session.
//!
//! yamux bounds the bytes that a stream may hold unread (its window), and keeps each frame as a buffer of its
//! own: frames of one byte cost some seventy times what they hold. So frames are counted too, as they come
//! in, until what they held is read. An honest agent's hold at least six bytes.
//!
//! # Precision
//! Frames are counted by blocks of [`BLOCK`] bytes of their stream; a block is over when all of it is read, or
//! when nothing is left unread.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::limits::FRAMES_UNREAD_MAX;

const BLOCK: u64 = 1024;

/// The streams of one session that someone holds.
#[derive(Debug, Default)]
pub(super) struct Unread {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    streams: HashMap<u32, Stream>,
    /// Frames of all of them.
    frames: usize,
}

#[derive(Debug, Default)]
struct Stream {
    received: u64,
    read: u64,
    /// Frames that end in each block, from that of the next byte to be read.
    blocks: VecDeque<usize>,
}

impl Unread {
    /// Counts for `stream` from here on.
    pub(super) fn opened(&self, stream: u32) {
        self.with(|state| drop(state.streams.insert(stream, Stream::default())));
    }

    /// Nobody will read it any more.
    pub(super) fn closed(&self, stream: u32) {
        self.with(|state| {
            let gone = state.streams.remove(&stream).unwrap_or_default();
            state.frames -= gone.blocks.iter().sum::<usize>();
        });
    }

    /// A frame of so many bytes is coming in. False where there are too many. One for a stream that
    /// nobody holds is thrown away by yamux.
    pub(super) fn received(&self, stream: u32, bytes: u32) -> bool {
        self.with(|state| {
            let Some(of) = state.streams.get_mut(&stream).filter(|_| bytes > 0) else {
                return true;
            };
            let first = of.read / BLOCK;
            of.received += u64::from(bytes);
            // A peer that does not keep to its window is refused by yamux right after this.
            let block = ((of.received - 1) / BLOCK).saturating_sub(first).min(BLOCK);
            let block = usize::try_from(block).unwrap_or(0);
            if of.blocks.len() <= block {
                of.blocks.resize(block + 1, 0);
            }
            of.blocks[block] += 1;
            state.frames += 1;
            state.frames <= FRAMES_UNREAD_MAX
        })
    }

    /// So many bytes were read.
    pub(super) fn read(&self, stream: u32, bytes: usize) {
        self.with(|state| {
            let Some(of) = state.streams.get_mut(&stream) else { return };
            let first = of.read / BLOCK;
            of.read += bytes as u64;
            let over = if of.read >= of.received {
                of.blocks.len()
            } else {
                usize::try_from(of.read / BLOCK - first).unwrap_or(0).min(of.blocks.len())
            };
            state.frames -= of.blocks.drain(..over).sum::<usize>();
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // Nothing here panics half-way.
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[cfg(test)]
    pub(super) fn frames(&self) -> usize {
        self.with(|state| state.frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_count_until_what_they_held_is_read() {
        let unread = Unread::default();
        unread.opened(1);
        for _ in 0..3000 {
            assert!(unread.received(1, 1));
        }
        assert_eq!(unread.frames(), 3000);
        unread.read(1, 1023);
        assert_eq!(unread.frames(), 3000, "the first block is not over");
        unread.read(1, 1);
        assert_eq!(unread.frames(), 3000 - 1024);
        unread.read(1, 3000 - 1024);
        assert_eq!(unread.frames(), 0);
        assert!(unread.received(1, 5000) && unread.received(1, 1));
        unread.read(1, 4999);
        assert!(unread.frames() <= 2);
        unread.closed(1);
        assert_eq!(unread.frames(), 0);
    }

    #[test]
    fn frames_that_nobody_will_read_are_not_counted() {
        let unread = Unread::default();
        unread.opened(3);
        assert!(unread.received(1, 1) && unread.received(3, 0));
        assert_eq!(unread.frames(), 0);
        unread.closed(3);
        assert!(unread.received(3, 1));
        assert_eq!(unread.frames(), 0);
    }

    #[test]
    fn too_many_are_refused_over_all_streams() {
        let unread = Unread::default();
        [1, 3].iter().for_each(|stream| unread.opened(*stream));
        assert!((0..FRAMES_UNREAD_MAX / 2).all(|_| unread.received(1, 1) && unread.received(3, 1)));
        assert!(!unread.received(1, 1));
        unread.closed(3);
        assert!(unread.received(1, 1));
    }
}
