//! Keeping local copies of what is stored within bounds.
//!
//! Packs and chunks stay on this host after they were stored, so that reading them needs no
//! request. Past [`LOCAL_COPIES_BYTES_MAX`] the ones written first go. What no row names any more goes
//! too, a while after it was written: whoever still reads it finds it in the store.

use std::fs::{self, DirEntry};
use std::path::PathBuf;
use std::time::SystemTime;

use rusqlite::{Connection, params};
use vfs::Result;

use crate::data::objects::Objects;
use crate::limits::LOCAL_COPIES_BYTES_MAX;
use crate::meta::sql::{self, int};
use crate::replica::limits::HORIZON;

/// One local file.
#[derive(Debug)]
struct Copy {
    written: SystemTime,
    bytes: u64,
    path: PathBuf,
    name: String,
}

/// Removes what is too much. Errors of single files are left for the next time.
pub(crate) fn prune(conn: &Connection, objects: &Objects) -> Result<()> {
    prune_to(conn, objects, LOCAL_COPIES_BYTES_MAX, SystemTime::now())
}

fn prune_to(conn: &Connection, objects: &Objects, bytes_max: u64, now: SystemTime) -> Result<()> {
    let copies: Vec<Copy> = files(objects.dir.packs_dir())
        .chain(files(objects.dir.chunks_dir()).flat_map(|entry| files(entry.path())))
        .filter_map(|entry| describe(&entry))
        .collect();
    let mut known = Vec::with_capacity(copies.len());
    for copy in copies {
        let use_of = use_of(conn, objects, &copy.name)?;
        let age = now.duration_since(copy.written).unwrap_or_default();
        if use_of == Use::None && age >= HORIZON && fs::remove_file(&copy.path).is_ok() {
            continue;
        }
        known.push((copy, use_of));
    }
    let mut copies = known;
    let mut bytes: u64 = copies.iter().map(|(copy, _)| copy.bytes).sum();
    copies.sort_unstable_by_key(|(copy, _)| copy.written);
    for (copy, use_of) in copies {
        if bytes <= bytes_max {
            break;
        }
        if use_of == Use::Copy && fs::remove_file(&copy.path).is_ok() {
            bytes -= copy.bytes;
        }
    }
    // A file that is held open goes on taking its room.
    objects.close_files();
    Ok(())
}

fn files(dir: PathBuf) -> impl Iterator<Item = DirEntry> {
    fs::read_dir(dir).into_iter().flatten().flatten()
}

fn describe(entry: &DirEntry) -> Option<Copy> {
    let metadata = entry.metadata().ok()?;
    Some(Copy {
        written: metadata.modified().ok()?,
        bytes: metadata.len(),
        path: entry.path(),
        name: entry.file_name().into_string().ok()?,
    })
}

/// What a local file is to the home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// The store has it too.
    Copy,
    /// It is nowhere else as an object of its own, or is none of ours.
    Only,
    /// No row names it.
    None,
}

fn use_of(conn: &Connection, objects: &Objects, name: &str) -> Result<Use> {
    let key = format!("{}{name}", objects.keys.packs());
    let stored = if let Some((epoch, pack)) = objects.keys.pack_id(&key) {
        const SQL: &str = "SELECT place=1 FROM pack WHERE id=?1 AND epoch=?2";
        sql::first(conn, SQL, params![int(pack), int(epoch.0)], |r| r.get(0))?
    } else if let Ok(digest) = name.parse::<base::Digest>() {
        const SQL: &str = "SELECT stored=1 FROM chunk WHERE digest=?1";
        sql::first(conn, SQL, [digest.as_bytes()], |r| r.get(0))?
    } else {
        Some(false)
    };
    Ok(match stored {
        Some(true) => Use::Copy,
        Some(false) => Use::Only,
        None => Use::None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::{Epoch, HomeId, SystemClock};

    use super::*;
    use crate::data::layers::{PackRef, Place};
    use crate::layout::HomeDir;
    use crate::limits::HOME_BLOCK_BYTES;
    use crate::meta::schema;
    use crate::replica::log::Log;

    #[test]
    fn what_was_dropped_is_not_held_open() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (dir, home) = (tempfile::tempdir().unwrap(), HomeId::generate());
        let store = Arc::new(objstore::MemoryStore::new());
        let log = Log::new(store, Arc::new(SystemClock::new()), home);
        let dir = HomeDir::new(dir.path());
        let objects = Objects::new(dir, log, runtime.handle().clone(), HOME_BLOCK_BYTES);
        fs::create_dir_all(objects.dir.packs_dir()).unwrap();
        let conn = Connection::open_in_memory().unwrap();
        schema::create(&conn, 7).unwrap();
        let packs = [(5, Place::Object), (6, Place::Local)];
        for (id, place) in packs {
            fs::write(objects.dir.pack(Epoch(1), id), [7; 100]).unwrap();
            let (place, seq) = place.columns();
            const SQL: &str =
                "INSERT INTO pack(id,epoch,len,place,seq,live) VALUES(?1,1,100,?2,?3,9)";
            conn.execute(SQL, params![int(id), place, int(seq)]).unwrap();
        }
        let read = |(id, place): (u64, Place)| {
            objects.read_pack(&conn, PackRef { id, epoch: 1, place }, 0, &mut [0; 100])
        };
        packs.into_iter().try_for_each(read).unwrap();
        prune_to(&conn, &objects, 200, SystemTime::now()).unwrap();
        packs.into_iter().try_for_each(read).unwrap();
        prune_to(&conn, &objects, 199, SystemTime::now()).unwrap();
        assert!(read(packs[0]).is_err(), "only the store has it now");
        read(packs[1]).unwrap();
    }
}
