//! Keeping local copies of what is stored within bounds.
//!
//! Packs and chunks stay on this host after they were stored, so that reading them needs no
//! request. Past [`LOCAL_COPIES_BYTES_MAX`] the ones written first go.

use std::fs::{self, DirEntry};
use std::path::PathBuf;
use std::time::SystemTime;

use rusqlite::Connection;
use vfs::Result;

use crate::data::objects::Objects;
use crate::limits::LOCAL_COPIES_BYTES_MAX;
use crate::meta::sql::{self, int};

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
    prune_to(conn, objects, LOCAL_COPIES_BYTES_MAX)
}

fn prune_to(conn: &Connection, objects: &Objects, bytes_max: u64) -> Result<()> {
    let mut copies: Vec<Copy> = files(objects.dir.packs_dir())
        .chain(files(objects.dir.chunks_dir()).flat_map(|entry| files(entry.path())))
        .filter_map(|entry| describe(&entry))
        .collect();
    let mut bytes: u64 = copies.iter().map(|copy| copy.bytes).sum();
    copies.sort_unstable_by_key(|copy| copy.written);
    for copy in copies {
        if bytes <= bytes_max {
            break;
        }
        if is_stored(conn, objects, &copy.name)? && fs::remove_file(&copy.path).is_ok() {
            bytes -= copy.bytes;
        }
    }
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

/// True where the store has what this file is a copy of.
fn is_stored(conn: &Connection, objects: &Objects, name: &str) -> Result<bool> {
    let key = format!("{}{name}", objects.keys.packs());
    let found = if let Some((_, pack)) = objects.keys.pack_id(&key) {
        const SQL: &str = "SELECT 1 FROM pack WHERE id=?1 AND place=1";
        sql::first(conn, SQL, [int(pack)], |_| Ok(()))?
    } else if let Ok(digest) = name.parse::<base::Digest>() {
        const SQL: &str = "SELECT 1 FROM chunk WHERE digest=?1 AND stored=1";
        sql::first(conn, SQL, [digest.as_bytes()], |_| Ok(()))?
    } else {
        None
    };
    Ok(found.is_some())
}
