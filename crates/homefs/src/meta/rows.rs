//! The rows that hot calls read, wherever they are: one interface over the database alone, over
//! the front, and over an open change.
//!
//! [`Rows`] is what a call is written against; a [`Connection`] implements it with plain
//! statements, for states that nobody changes and for loading what the front lacks.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, params};
use vfs::{Errno, FsError, Ino, Kind, Result};

use super::inode::Inode;
use super::sql::{self, int, uint};
use crate::data::layers::{self, Piece};
use crate::data::ranges::Ranges;

/// A name, shared by the places that keep it.
pub(crate) type Name = Arc<[u8]>;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) ino: Ino,
    /// Its place in listings.
    pub(crate) cookie: u64,
}

/// A file with bytes in the spool: its row of `dirty_inode` with those of `dirty_extent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spooled {
    /// The generation that takes writes.
    pub(crate) generation: u64,
    /// What holds where the spool is lost.
    pub(crate) sealed_size: u64,
    pub(crate) sealed_mtime: i64,
    pub(crate) sealed_version: u64,
    /// Which bytes of which generation count; later ones lie over earlier ones. None is empty.
    pub(crate) layers: Vec<(u64, Ranges)>,
}

impl Spooled {
    /// The first generation after `after` that has bytes.
    pub(crate) fn next_generation(&self, after: Option<u64>) -> Option<u64> {
        self.layers.iter().map(|layer| layer.0).find(|found| after.is_none_or(|a| *found > a))
    }

    /// Adds bytes to a generation.
    pub(crate) fn cover(&mut self, generation: u64, start: u64, end: u64) {
        let at = self.layers.partition_point(|layer| layer.0 < generation);
        match self.layers.get_mut(at) {
            Some(layer) if layer.0 == generation => layer.1.cover(start, end),
            _ => {
                let mut ranges = Ranges::default();
                ranges.cover(start, end);
                self.layers.insert(at, (generation, ranges));
            }
        }
    }

    /// Takes bytes away from all generations up to this one.
    pub(crate) fn uncover(&mut self, generation: u64, start: u64, end: u64) {
        for layer in self.layers.iter_mut().filter(|layer| layer.0 <= generation) {
            layer.1.uncover(start, end);
        }
        self.layers.retain(|layer| !layer.1.is_empty());
    }

    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.layers.iter().map(|layer| layer.1.len()).sum()
    }
}

/// Where a call reads its rows.
pub(crate) trait Rows {
    /// The inode of that number, if it exists.
    fn find(&self, ino: Ino) -> Result<Option<Inode>>;
    /// What `name` stands for in `parent`.
    fn entry(&self, parent: Ino, name: &[u8]) -> Result<Option<Entry>>;
    /// Content of a small file or target of a link.
    fn blob(&self, ino: Ino) -> Result<Option<Bytes>>;
    /// What of a file is in the spool.
    fn spooled(&self, ino: Ino) -> Result<Option<Spooled>>;
    /// Sealed content of a file between `start` and `end`, without what is inline.
    fn sealed(&self, ino: Ino, start: u64, end: u64) -> Result<Vec<Piece>>;

    /// The inode of that number; `ENOENT` without it.
    fn get(&self, ino: Ino) -> Result<Inode> {
        self.find(ino)?.ok_or(FsError::new(Errno::ENOENT))
    }

    /// The same, which must be a directory.
    fn get_dir(&self, ino: Ino) -> Result<Inode> {
        let inode = self.get(ino)?;
        match inode.kind {
            Kind::Directory => Ok(inode),
            _ => Err(FsError::new(Errno::ENOTDIR)),
        }
    }

    /// The same, which must be a regular file.
    fn get_file(&self, ino: Ino) -> Result<Inode> {
        let inode = self.get(ino)?;
        match inode.kind {
            Kind::File => Ok(inode),
            Kind::Directory => Err(FsError::new(Errno::EISDIR)),
            _ => Err(FsError::new(Errno::EINVAL)),
        }
    }

    /// The inode that `name` names in `parent`.
    fn named(&self, parent: Ino, name: &[u8]) -> Result<Option<Inode>> {
        match self.entry(parent, name)? {
            Some(entry) => self.find(entry.ino),
            None => Ok(None),
        }
    }
}

impl Rows for Connection {
    fn find(&self, ino: Ino) -> Result<Option<Inode>> {
        Inode::find(self, ino)
    }

    fn entry(&self, parent: Ino, name: &[u8]) -> Result<Option<Entry>> {
        const SQL: &str = "SELECT ino,cookie FROM dentry WHERE parent=?1 AND name=?2";
        sql::first(self, SQL, params![int(parent), name], |r| {
            Ok(Entry { ino: uint(r, 0)?, cookie: uint(r, 1)? })
        })
    }

    fn blob(&self, ino: Ino) -> Result<Option<Bytes>> {
        const SQL: &str = "SELECT data FROM blob WHERE ino=?1";
        let blob = sql::first(self, SQL, [int(ino)], |r| r.get::<_, Vec<u8>>(0))?;
        Ok(blob.map(Bytes::from))
    }

    fn spooled(&self, ino: Ino) -> Result<Option<Spooled>> {
        const FILE: &str =
            "SELECT gen,sealed_size,sealed_mtime,sealed_version FROM dirty_inode WHERE ino=?1";
        const BYTES: &str = "SELECT gen,off,len FROM dirty_extent WHERE ino=?1 ORDER BY gen,off";
        let found = sql::first(self, FILE, [int(ino)], |r| {
            Ok(Spooled {
                generation: uint(r, 0)?,
                sealed_size: uint(r, 1)?,
                sealed_mtime: r.get(2)?,
                sealed_version: uint(r, 3)?,
                layers: Vec::new(),
            })
        })?;
        let Some(mut found) = found else { return Ok(None) };
        let rows = sql::all(self, BYTES, [int(ino)], |r| {
            let (off, len) = (uint(r, 1)?, uint(r, 2)?);
            Ok((uint(r, 0)?, off, off.saturating_add(len)))
        })?;
        for generation in rows.chunk_by(|a, b| a.0 == b.0) {
            let ranges: Vec<_> = generation.iter().map(|row| (row.1, row.2)).collect();
            found.layers.push((generation[0].0, Ranges::from_sorted(&ranges)));
        }
        Ok(Some(found))
    }

    fn sealed(&self, ino: Ino, start: u64, end: u64) -> Result<Vec<Piece>> {
        layers::extents(self, ino, start, end)
    }
}

/// Where whole reads come from.
pub(crate) trait ReadRows {
    /// Runs `read` over rows of one state. It may be run more than once.
    fn read_rows<T>(&self, read: &dyn Fn(&dyn Rows) -> Result<T>) -> Result<T>;
}
