//! Mending a local directory before it is used: after a crash, after the loss of a host.
//!
//! # What may be wrong
//! - Rows whose spool file is gone, because their host is: the file falls back to its sealed
//!   size and content, which is what was promised.
//! - Inodes without a name, held by nobody any more: freed.
//! - Local files that no row names: removed.
//! - Packs or chunks that were never stored and are not here: nothing can mend that. The home is
//!   refused, because a file in it would read as damaged.

use std::collections::HashSet;

use rusqlite::{Connection, params};
use vfs::{Ino, Result};

use crate::data::layers;
use crate::data::objects::{ObjectId, Objects, left_behind};
use crate::data::spool::SpoolId;
use crate::meta::inode::{Inode, Tier};
use crate::meta::sql::{self, int, uint};
use crate::meta::tx::{Shared, Tx};
use crate::meta::writer::Writer;
use crate::ops::remove;

/// Mends the database. How many files fell back to their sealed content.
pub(crate) fn mend(writer: &Writer, shared: &Shared) -> Result<u64> {
    let there: HashSet<SpoolId> =
        shared.spool.list().map_err(crate::data::spool::failed)?.into_iter().collect();
    writer.run(move |tx| {
        tx.counters.begin_lineage(tx.now);
        remove::free_orphans(tx)?;
        let mut lost = 0;
        for ino in sql::all(tx.conn, "SELECT ino FROM dirty_inode", [], |r| uint(r, 0))? {
            if generations(tx.conn, ino)?.iter().any(|found| !there.contains(&(ino, *found))) {
                fall_back(tx, ino)?;
                lost += 1;
            }
        }
        Ok(lost)
    })
}

/// Makes a copy of a database show what was sealed and nothing else. For reading only: counters
/// stay as they are.
pub(crate) fn settle(conn: &Connection) -> Result<()> {
    const SIZES: &str = "UPDATE inode SET (size,mtime,version)=\
         (SELECT sealed_size,sealed_mtime,sealed_version FROM dirty_inode d WHERE d.ino=inode.ino) \
         WHERE ino IN (SELECT ino FROM dirty_inode)";
    for sql in [SIZES, "DELETE FROM dirty_extent", "DELETE FROM dirty_inode"] {
        sql::run(conn, sql, [])?;
    }
    Ok(())
}

/// Gives a file the size and content it had when it was last sealed.
fn fall_back(tx: &mut Tx<'_>, ino: Ino) -> Result<()> {
    const SEALED: &str = "SELECT sealed_size,sealed_mtime FROM dirty_inode WHERE ino=?1";
    let sealed =
        sql::first(tx.conn, SEALED, [int(ino)], |r| Ok((uint(r, 0)?, r.get::<_, i64>(1)?)))?;
    remove::drop_spool(tx, ino)?;
    let (Some((size, mtime)), Some(mut inode)) = (sealed, Inode::find(tx.conn, ino)?) else {
        return Ok(());
    };
    inode.size = size;
    inode.mtime = mtime;
    tx.attrs_changed(&mut inode);
    let pieces = layers::sealed(tx.conn, ino, 0, size)?;
    tx.set_alloc(&mut inode, layers::covered(&pieces));
    let is_inline = !pieces.iter().any(|piece| piece.from != layers::Source::Blob);
    if is_inline && Tier::of_size(size) == Tier::Inline {
        // It never got further than this anywhere but on the host that is lost.
        inode.tier = Tier::Inline;
    }
    inode.save(tx.conn)
}

fn generations(conn: &Connection, ino: Ino) -> Result<Vec<u64>> {
    const SQL: &str = "SELECT DISTINCT gen FROM dirty_extent WHERE ino=?1";
    sql::all(conn, SQL, params![int(ino)], |r| uint(r, 0))
}

/// Refuses a home with content that is neither stored nor here.
pub(crate) fn check_objects(conn: &Connection, objects: &Objects) -> Result<()> {
    let packs = sql::all(conn, "SELECT id,epoch FROM pack WHERE place=0", [], |r| {
        Ok(ObjectId::Pack { id: uint(r, 0)?, epoch: uint(r, 1)? })
    })?;
    let chunks = sql::all(conn, "SELECT digest FROM chunk WHERE stored=0", [], |r| {
        Ok(ObjectId::Chunk(base::Digest::from_bytes(r.get(0)?)))
    })?;
    match packs.into_iter().chain(chunks).find(|id| !objects.local_path(*id).exists()) {
        Some(missing) => {
            tracing::error!(?missing, "unsealed content left behind");
            Err(left_behind())
        }
        None => Ok(()),
    }
}

/// Removes local files that no row names.
pub(crate) fn sweep(conn: &Connection, shared: &Shared, objects: &Objects) -> Result<()> {
    for id in shared.spool.list().map_err(crate::data::spool::failed)? {
        const NAMED: &str = "SELECT 1 FROM dirty_extent WHERE ino=?1 AND gen=?2 LIMIT 1";
        if sql::first(conn, NAMED, params![int(id.0), int(id.1)], |_| Ok(()))?.is_none() {
            shared.spool.remove(id);
        }
    }
    let packs = std::fs::read_dir(objects.dir.packs_dir()).map_err(crate::data::spool::failed)?;
    for entry in packs.flatten() {
        let name = entry.file_name();
        let key = format!("{}{}", objects.keys.packs(), name.to_string_lossy());
        let named = match objects.keys.pack_id(&key) {
            Some((_, id)) => {
                const NAMED: &str = "SELECT 1 FROM pack WHERE id=?1";
                sql::first(conn, NAMED, [int(id)], |_| Ok(()))?.is_some()
            }
            None => false,
        };
        if !named {
            std::fs::remove_file(entry.path()).ok();
        }
    }
    Ok(())
}
