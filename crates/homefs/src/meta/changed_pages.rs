//! `home.db-changed`: pages of the database that the store may lack, across a crash.
//!
//! Written before each checkpoint, whole or not at all, and to disk; and after each commit in the
//! store, when an older one would only say too much. Pages that are in SQLite's log behind the
//! place named here count besides, or all in it where it began anew. Too many do no harm; a file
//! that cannot be read means all.
//!
//! `DMPAGES1`, salts of the log (8 bytes) and offset in it (8), then each page as 4 bytes, then the
//! CRC32C of what is before it. Integers are little-endian. One with page `0xffffffff` says that
//! all may have changed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use vfs::Result;

use super::pages::Changed;
use crate::data::spool::failed;
use crate::layout::temporary_of;
use crate::wal::Position;

const MAGIC: &[u8; 8] = b"DMPAGES1";
const ALL: u32 = u32::MAX;

/// Replaces the file. `at`: where the log ended when `changed` was everything. `durably`: on disk
/// when this returns.
pub(crate) fn save(
    path: &Path,
    changed: &Changed,
    at: Option<Position>,
    durably: bool,
) -> Result<()> {
    let (salts, end) = at.unwrap_or_default();
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&salts);
    bytes.extend_from_slice(&end.to_le_bytes());
    match changed {
        Changed::All => bytes.extend_from_slice(&ALL.to_le_bytes()),
        Changed::These(pages) => bytes.extend(pages.iter().flat_map(|page| page.to_le_bytes())),
    }
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    let temporary = temporary_of(path);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        if durably {
            file.sync_data()?;
        }
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(directory) if durably => File::open(directory)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().map_err(failed)
}

/// Reads it.
pub(crate) fn load(path: &Path) -> (Changed, Option<Position>) {
    match fs::read(path).ok().and_then(|bytes| parse(&bytes)) {
        Some((pages, at)) if !pages.contains(&ALL) => (Changed::These(pages), Some(at)),
        _ => (Changed::All, None),
    }
}

fn parse(bytes: &[u8]) -> Option<(BTreeSet<u32>, Position)> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    let (salts, rest) = body.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    let (end, pages) = rest.split_first_chunk::<8>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) || pages.len() % 4 != 0 {
        return None;
    }
    let number = |page: &[u8]| page.iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte));
    let pages = pages.chunks_exact(4).map(number).collect();
    Some((pages, (*salts, u64::from_le_bytes(*end))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_means_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("home.db-changed");
        assert_eq!(load(&path), (Changed::All, None));
        for pages in [vec![], vec![1, 7, 1 << 23]] {
            let changed = Changed::These(pages.into_iter().collect());
            save(&path, &changed, Some(([3; 8], 9)), true).unwrap();
            assert_eq!(load(&path), (changed, Some(([3; 8], 9))));
        }
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(load(&path), (Changed::All, None));
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(load(&path), (Changed::All, None));
        }
        save(&path, &Changed::All, None, false).unwrap();
        assert_eq!(load(&path), (Changed::All, None));
    }
}
