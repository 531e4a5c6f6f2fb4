//! One file of the journal: `journal/<n>`, *n* the number of its first record in 20 digits.
//!
//! It begins with `DMJOURNL`, the format (4 bytes), 4 zeros, and *n* (8 bytes).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::damaged;

/// Bytes before the first record.
pub(crate) const HEADER: usize = 24;
const MAGIC: &[u8; 8] = b"DMJOURNL";
const FORMAT: u32 = 1;

/// Makes the segment whose first record is `first`. Its name is on disk once its directory was
/// synced.
pub(crate) fn create(dir: &Path, first: u64) -> io::Result<File> {
    // What lies there by this name was left by a crash before anything was in it.
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path(dir, first))?;
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[16..].copy_from_slice(&first.to_le_bytes());
    file.write_all(&header)?;
    Ok(file)
}

/// Checks a segment's header; `None` where it was not written whole.
pub(crate) fn check(bytes: &[u8], first: u64) -> vfs::Result<Option<()>> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    if header == &[0; HEADER] {
        return Ok(None);
    }
    let format = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if &header[..8] != MAGIC || header[16..] != first.to_le_bytes() {
        return Err(damaged("a segment does not begin as one"));
    }
    if format != FORMAT {
        return Err(damaged(&format!("its format {format} is not known; use a newer server")));
    }
    Ok(Some(()))
}

/// First records and paths of all segments, in order.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(first) = name.filter(|name| name.len() == 20).and_then(|n| n.parse().ok()) {
            found.push((first, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Where the segment with this first record is.
pub(crate) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}"))
}
