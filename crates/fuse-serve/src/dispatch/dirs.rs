//! Reading directories.
//!
//! Offsets on the wire: 0 begins, 1 stands after `.`, 2 after `..`, and a cookie of the file system
//! is sent as itself plus 2. So offsets hold across restarts as long as cookies do.

use vfs::{DirEntry, Errno, Ino, Kind};

use super::names;
use crate::limits::{READDIR_ENTRIES_MAX, WRITE_BYTES_MAX};
use crate::reply::{Dirent, Failed, Reply, dirent_bytes};
use crate::session::Session;

/// Offsets that `.` and `..` take.
const DOTS: u64 = 2;

pub(crate) fn read(
    s: &Session,
    ino: Ino,
    offset: u64,
    size: u32,
    plus: bool,
) -> Result<Reply, Failed> {
    let size = size.min(WRITE_BYTES_MAX) as usize;
    let mut page = Page { s, plus, size, reply: Reply::with_capacity(size.min(64 << 10)) };
    if offset < DOTS && !page.dots(ino, offset) {
        return Ok(page.reply);
    }
    let mut cookie = offset.saturating_sub(DOTS);
    loop {
        // As many as fit if every name is short.
        let wanted = (page.room() / dirent_bytes(b"name", plus)).clamp(1, READDIR_ENTRIES_MAX);
        let generation = s.nodes.generation();
        let entries = s.fs.readdir(ino, cookie, wanted)?;
        for entry in &entries {
            if !page.push(entry, generation)? {
                return Ok(page.reply);
            }
            cookie = entry.cookie;
        }
        if entries.len() < wanted {
            return Ok(page.reply);
        }
    }
}

struct Page<'s> {
    s: &'s Session,
    plus: bool,
    size: usize,
    reply: Reply,
}

impl Page<'_> {
    fn room(&self) -> usize {
        self.size.saturating_sub(self.reply.len())
    }

    fn has_room_for(&self, name: &[u8]) -> bool {
        dirent_bytes(name, self.plus) <= self.room()
    }

    /// `.` and `..` from `offset` on; false where they do not fit. The kernel knows the parent
    /// itself, so both carry the directory's own number.
    fn dots(&mut self, ino: Ino, offset: u64) -> bool {
        let plus = self.plus.then_some(None);
        let names: [&[u8]; 2] = [b".", b".."];
        names.iter().zip(1..=DOTS).filter(|(_, after)| *after > offset).all(|(name, after)| {
            let fits = self.has_room_for(name);
            if fits {
                let kind = Kind::Directory;
                self.reply.push_dirent(&Dirent { name, ino, kind, offset: after, plus });
            }
            fits
        })
    }

    /// Adds `entry`; false where the page is full. A lookup is counted only for what is sent.
    fn push(&mut self, entry: &DirEntry, generation: u64) -> Result<bool, Failed> {
        if !self.has_room_for(&entry.name) {
            return Ok(false);
        }
        let offset = entry.cookie.checked_add(DOTS).ok_or(Errno::EIO)?;
        let attr = if self.plus {
            match names::count(self.s, entry.attr, generation) {
                Ok(attr) => attr,
                // What was sent so far is good; the next page will say what is wrong.
                Err(_) if self.reply.len() > 0 => return Ok(false),
                Err(error) => return Err(error),
            }
        } else {
            entry.attr
        };
        let plus = self.plus.then(|| Some((&attr, self.s.ttl())));
        let (ino, kind) = (attr.ino, attr.kind);
        self.reply.push_dirent(&Dirent { name: &entry.name, ino, kind, offset, plus });
        Ok(true)
    }
}
