//! Mending a local directory before it is used: after a crash, after the loss of a host.
//!
//! # What may be wrong
//! - Rows whose spool file is gone, because their host is: the file falls back to its sealed
//!   size and content, which is what was promised.
//! - Spool files that are shorter than their rows say, because power was lost before they were synced:
//!   what is missing does not count, and what was sealed shows again. None of it was confirmed.
//! - Inodes without a name, held by nobody any more: freed.
//! - Local files that no row names: removed.
//! - Packs or chunks that were never stored and are not here: nothing can mend that. The home is
//!   refused, because a file in it would read as damaged.

use std::collections::HashSet;

use rusqlite::Connection;
use vfs::{Ino, ROOT, Result};

use crate::data::layers;
use crate::data::objects::{ObjectId, Objects, left_behind};
use crate::data::spool::SpoolId;
use crate::front::Front;
use crate::limits::FILE_BYTES_MAX;
use crate::meta::inode::Tier;
use crate::meta::rows::{ReadRows as _, Rows as _};
use crate::meta::sql::{self, int, uint};
use crate::meta::tx::{Shared, Tx};
use crate::meta::writer::Writer;
use crate::opening::Opening;
use crate::ops::remove;

/// What was found and done.
#[derive(Debug)]
pub(crate) struct Mended {
    /// Files that fell back to their sealed content.
    pub(crate) files_reverted: u64,
    /// The last version that was given before.
    pub(crate) version: u64,
    /// What has no name, each pinned once, where it was to be kept.
    pub(crate) unnamed: Vec<Ino>,
}

/// Mends the state.
pub(crate) fn mend(
    writer: &Writer,
    front: &Front,
    shared: &Shared,
    keep_unnamed: bool,
    opening: &Opening,
) -> Result<Mended> {
    let version = writer.version();
    let there: HashSet<SpoolId> =
        shared.spool.list().map_err(crate::data::spool::failed)?.into_iter().collect();
    writer.change(|tx| {
        tx.counters.begin_lineage(tx.now);
        // The root stands for the counters: a change changes a row.
        let root = tx.get(ROOT)?;
        tx.save(&root);
        Ok(())
    })?;
    let listed = |sql| front.readers.with(|conn| sql::all(conn, sql, [], |r| uint(r, 0)));
    let (mut orphans, mut spooled) = writer.unfolded();
    orphans.extend(listed("SELECT ino FROM orphan")?);
    spooled.extend(listed("SELECT ino FROM dirty_inode")?);
    for inodes in [&mut orphans, &mut spooled] {
        inodes.sort_unstable();
        inodes.dedup();
    }
    let unnamed = if keep_unnamed { orphans.clone() } else { Vec::new() };
    unnamed.iter().for_each(|ino| shared.pins.pin(*ino));
    for ino in orphans {
        opening.did(1);
        // One that is held from the start goes with its last holder.
        shared.pins.orphaned(ino);
        writer.change(|tx| remove::free_if_orphan(tx, ino))?;
    }
    let mut lost = 0;
    for ino in spooled {
        opening.did(1);
        let row = front.read_rows(&|rows| rows.spooled(ino))?;
        let layers = row.iter().flat_map(|row| &row.layers);
        if layers.map(|layer| (ino, layer.0)).any(|id| !there.contains(&id)) {
            tracing::warn!(
                ino,
                "content of a file is gone from this disk; the file is as it was sealed last"
            );
            writer.change(|tx| fall_back(tx, ino))?;
            lost += 1;
            continue;
        }
        for (generation, ranges) in row.iter().flat_map(|row| &row.layers) {
            let there = shared.spool.len((ino, *generation)).map_err(crate::data::spool::failed)?;
            if ranges.iter().last().is_some_and(|(_, end)| end > there) {
                tracing::warn!(ino, there, "the end of a file was lost with the power, unsynced");
                writer.change(|tx| cut_layer(tx, ino, *generation, there))?;
            }
        }
    }
    Ok(Mended { files_reverted: lost, version, unnamed })
}

/// Bytes of one generation behind `end` do not count any more; those of earlier ones do again.
fn cut_layer(tx: &mut Tx<'_>, ino: Ino, generation: u64, end: u64) -> Result<()> {
    let (Some(row), Some(mut inode)) = (tx.spooled(ino)?, tx.find(ino)?) else { return Ok(()) };
    tx.uncover(ino, generation, end, FILE_BYTES_MAX)?;
    for (earlier, ranges) in row.layers.iter().filter(|layer| layer.0 < generation) {
        for (start, stop) in ranges.within(end, FILE_BYTES_MAX) {
            tx.cover(ino, *earlier, start, stop)?;
        }
    }
    let pieces = layers::pieces(tx, ino, 0, inode.size)?;
    tx.set_alloc(&mut inode, layers::covered(&pieces));
    tx.save(&inode);
    Ok(())
}

/// Gives a file the size and content it had when it was last sealed.
fn fall_back(tx: &mut Tx<'_>, ino: Ino) -> Result<()> {
    let sealed = tx.spooled(ino)?;
    tx.drop_spooled(ino)?;
    let (Some(sealed), Some(mut inode)) = (sealed, tx.find(ino)?) else { return Ok(()) };
    inode.size = sealed.sealed_size;
    inode.mtime = sealed.sealed_mtime;
    tx.attrs_changed(&mut inode);
    let pieces = layers::sealed(tx, ino, 0, inode.size)?;
    tx.set_alloc(&mut inode, layers::covered(&pieces));
    let is_inline = !pieces.iter().any(|piece| piece.from != layers::Source::Blob);
    if is_inline && Tier::of_size(inode.size) == Tier::Inline {
        // It never got further than this anywhere but on the host that is lost.
        inode.tier = Tier::Inline;
    }
    tx.save(&inode);
    Ok(())
}

/// Refuses a home with content that is neither stored nor here. What nothing names is not content:
/// it is not uploaded either (`upload::Pending`), and its row goes with the next round.
pub(crate) fn check_objects(conn: &Connection, objects: &Objects) -> Result<()> {
    const PACKS: &str = "SELECT id,epoch FROM pack WHERE place=0 AND live>0";
    const CHUNKS: &str = "SELECT digest FROM chunk WHERE stored=0 AND refs>0";
    let packs =
        sql::all(conn, PACKS, [], |r| Ok(ObjectId::Pack { id: uint(r, 0)?, epoch: uint(r, 1)? }))?;
    let chunks =
        sql::all(conn, CHUNKS, [], |r| Ok(ObjectId::Chunk(base::Digest::from_bytes(r.get(0)?))))?;
    match packs.into_iter().chain(chunks).find(|id| !objects.local_path(*id).exists()) {
        Some(missing) => {
            tracing::error!(?missing, "unsealed content left behind");
            Err(left_behind())
        }
        None => Ok(()),
    }
}

/// Removes local files that no row names.
pub(crate) fn sweep(
    front: &Front,
    shared: &Shared,
    objects: &Objects,
    opening: &Opening,
) -> Result<()> {
    for id in shared.spool.list().map_err(crate::data::spool::failed)? {
        opening.did(1);
        let row = front.read_rows(&|rows| rows.spooled(id.0))?;
        if row.is_some_and(|row| row.layers.iter().any(|layer| layer.0 == id.1)) {
            shared.spool.inherit(id);
        } else {
            shared.spool.remove(&[id]);
        }
    }
    let packs = std::fs::read_dir(objects.dir.packs_dir()).map_err(crate::data::spool::failed)?;
    for entry in packs.flatten() {
        opening.did(1);
        let name = entry.file_name();
        let key = format!("{}{}", objects.keys.packs(), name.to_string_lossy());
        let named = match objects.keys.pack_id(&key) {
            Some((_, id)) => {
                const NAMED: &str = "SELECT 1 FROM pack WHERE id=?1";
                let there = |conn: &Connection| sql::first(conn, NAMED, [int(id)], |_| Ok(()));
                front.readers.with(there)?.is_some()
            }
            None => false,
        };
        if !named {
            std::fs::remove_file(entry.path()).ok();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::{HomeId, SystemClock};

    use super::*;
    use crate::layout::HomeDir;
    use crate::limits::HOME_BLOCK_BYTES;
    use crate::meta::schema;
    use crate::replica::log::Log;

    #[tokio::test]
    async fn only_what_is_named_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let (store, clock) = (Arc::new(objstore::MemoryStore::new()), Arc::new(SystemClock::new()));
        let log = Log::new(store, clock, HomeId::generate());
        let runtime = tokio::runtime::Handle::current();
        let objects = Objects::new(HomeDir::new(dir.path()), log, runtime, HOME_BLOCK_BYTES);
        let conn = Connection::open_in_memory().unwrap();
        schema::create(&conn, 7).unwrap();
        conn.execute_batch(
            "INSERT INTO pack(id,epoch,len,place,seq,live) VALUES(5,1,10,0,0,0);
             INSERT INTO chunk(digest,len,stored,refs) VALUES(zeroblob(32),10,0,0);",
        )
        .unwrap();
        check_objects(&conn, &objects).unwrap();
        for (named, not) in [
            ("UPDATE pack SET live=1", "UPDATE pack SET live=0"),
            ("UPDATE chunk SET refs=1", "UPDATE chunk SET refs=0"),
        ] {
            conn.execute_batch(named).unwrap();
            assert!(check_objects(&conn, &objects).is_err(), "{named}");
            conn.execute_batch(not).unwrap();
        }
    }
}
