//! What a change reads: its own rows, then those in memory, then those of the database.

use bytes::Bytes;
use vfs::{Ino, Result};

use super::Tx;
use crate::data::layers::{self, Piece};
use crate::front::cache::Sealed;
use crate::front::delta::EntryRef;
use crate::front::{self, Key, Loaded};
use crate::meta::inode::Inode;
use crate::meta::rows::{Entry, Rows, Spooled};

impl Tx<'_> {
    /// Reads a row from the database. Nobody changes it meanwhile: changes are made one at a time.
    pub(super) fn load(&self, key: &Key) -> Result<Loaded> {
        if let Some(none) = key.none_from(self.first_fresh) {
            return Ok(none);
        }
        match self.sql {
            Some(conn) => front::load(conn, key),
            None => self.front.readers.with(|conn| front::load(conn, key)),
        }
    }

    /// The same, kept for the next one who asks.
    fn load_and_keep(&self, key: Key) -> Result<()> {
        let loaded = self.load(&key)?;
        let mut cache = self.front.cache.write();
        // What goes meanwhile was folded, and is what the database has.
        cache.admit(key, loaded, u64::MAX);
        let gone = cache.evict();
        drop(cache);
        drop(gone);
        Ok(())
    }

    pub(super) fn sealed_hot(&self, ino: Ino, start: u64, end: u64) -> Result<Vec<Piece>> {
        if self.changed.unsealed.contains(&ino) {
            return Ok(Vec::new());
        }
        let cut = self.changed.rows.cuts.get(&ino).copied().unwrap_or(u64::MAX);
        for _ in 0..2 {
            let found = self.front.cache.read().sealed_within(ino, start, end);
            if let Some(found) = found {
                return Ok(found.iter().filter_map(|piece| piece.cut(0, cut)).collect());
            }
            self.load_and_keep(Key::Sealed(ino, start, end))?;
        }
        // It went again at once: the file alone is more than what is kept.
        let loaded = self.load(&Key::Sealed(ino, start, end))?;
        let Loaded::Sealed(Sealed { pieces, .. }) = loaded else { return Ok(Vec::new()) };
        let end = end.min(cut).min(self.front.cache.read().cut(ino));
        Ok(pieces.iter().filter_map(|piece| piece.cut(start, end)).collect())
    }
}

/// Reads one kind of row: from the change itself, from memory, from the database.
macro_rules! read_row {
    ($self:ident, $table:ident, $ino:expr, $key:ident) => {{
        if let Some(found) = $self.changed.rows.$table.get(&$ino) {
            return Ok(found.clone());
        }
        if let Some(found) = $self.front.cache.read().$table.get($ino) {
            return Ok(found.clone());
        }
        let loaded = $self.load(&Key::$key($ino))?;
        let Loaded::$key(found) = loaded else { return Ok(None) };
        let mut cache = $self.front.cache.write();
        cache.admit(Key::$key($ino), Loaded::$key(found.clone()), u64::MAX);
        let gone = cache.evict();
        drop(cache);
        drop(gone);
        Ok(found)
    }};
}

impl Rows for Tx<'_> {
    fn find(&self, ino: Ino) -> Result<Option<Inode>> {
        read_row!(self, inodes, ino, Inode)
    }

    fn entry(&self, parent: Ino, name: &[u8]) -> Result<Option<Entry>> {
        if let Some(change) = self.changed.rows.entries.get(&EntryRef { parent, name }) {
            return Ok(change.now);
        }
        if self.changed.made.contains(&parent) {
            return Ok(None);
        }
        if let Some(found) = self.front.cache.read().dirs.get(parent, name) {
            return Ok(found);
        }
        let key = Key::Entry(parent, name.into());
        let loaded = self.load(&key)?;
        let Loaded::Entry(found) = loaded else { return Ok(None) };
        self.front.cache.write().admit(key, Loaded::Entry(found), u64::MAX);
        Ok(found)
    }

    fn blob(&self, ino: Ino) -> Result<Option<Bytes>> {
        read_row!(self, blobs, ino, Blob)
    }

    fn spooled(&self, ino: Ino) -> Result<Option<Spooled>> {
        read_row!(self, spooled, ino, Spooled)
    }

    fn sealed(&self, ino: Ino, start: u64, end: u64) -> Result<Vec<Piece>> {
        match self.sql {
            Some(_) => layers::extents(self.sql()?, ino, start, end.min(u64::MAX >> 1)),
            None => self.sealed_hot(ino, start, end),
        }
    }
}
