//! Where readers find the tables of stored objects: the rows of packs and chunks.

use std::sync::Arc;

use base::Digest;
use rusqlite::{Connection, Row, params};
use vfs::{Errno, FsError, Result};

use super::blocks::Blocks;
use super::objects::corrupt;
use crate::front::Front;
use crate::meta::readers::Readers;
use crate::meta::sql::{self, int, uint};

/// One stored object. What has this name never changes, and neither does its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Stored {
    /// A pack that is an object of its own.
    Pack { id: u64, epoch: u64 },
    /// A pack in the data section of commit `seq`.
    Rider { id: u64, seq: u64 },
    /// A chunk that commit `born` stored.
    Chunk { digest: Digest, born: u64 },
}

/// Says in which blocks an object is stored.
pub(crate) trait Tables {
    /// `None` where it is stored as it is. `ESTALE` where no row is that of this object any more.
    fn table(&self, object: Stored) -> Result<Option<Arc<Blocks>>>;
}

impl Tables for Readers {
    fn table(&self, object: Stored) -> Result<Option<Arc<Blocks>>> {
        self.with(|conn| conn.table(object))
    }
}

impl Tables for Front {
    /// Rows of packs and chunks are changed in the database only.
    fn table(&self, object: Stored) -> Result<Option<Arc<Blocks>>> {
        self.readers.table(object)
    }
}

impl Tables for Connection {
    fn table(&self, object: Stored) -> Result<Option<Arc<Blocks>>> {
        const PACK: &str = "SELECT len,blocks FROM pack WHERE id=?1 AND epoch=?2 AND place=1";
        const RIDER: &str = "SELECT len,blocks FROM pack WHERE id=?1 AND seq=?2 AND place=2";
        const CHUNK: &str = "SELECT len,blocks FROM chunk WHERE digest=?1 AND born=?2";
        let columns = |r: &Row<'_>| Ok((uint(r, 0)?, r.get::<_, Option<Vec<u8>>>(1)?));
        let row = match object {
            Stored::Pack { id, epoch } => sql::first(self, PACK, [int(id), int(epoch)], columns),
            Stored::Rider { id, seq } => sql::first(self, RIDER, [int(id), int(seq)], columns),
            Stored::Chunk { digest, born } => {
                sql::first(self, CHUNK, params![digest.as_bytes(), int(born)], columns)
            }
        };
        match row? {
            None => Err(FsError::with(Errno::ESTALE, "no row is that of the object it lies in")),
            Some((_, None)) => Ok(None),
            Some((len, Some(table))) => match Blocks::parse(&table, len) {
                Some(blocks) => Ok(Some(Arc::new(blocks))),
                None => Err(corrupt("the table of an object's blocks is damaged")),
            },
        }
    }
}
