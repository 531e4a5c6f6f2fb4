//! Small files that are replaced whole: whoever reads one finds it as it was, or as it is.
//!
//! They are written beside their place and renamed. What differs is what a loss of power leaves.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::statvfs::fstatvfs;

/// Replaces a file, mode 0600. It is on the disk when this returns, under its name.
///
/// # Errors
/// Those of the disk.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_unnamed(path, bytes)?;
    sync_name(path)
}

/// The same without waiting for the name: after a loss of power it is whole, or as it was.
///
/// # Errors
/// Those of the disk.
pub fn replace_unnamed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_beside(path, bytes, true)
}

/// The same without waiting for the disk at all: it outlives the process, but not a loss of power.
///
/// # Errors
/// Those of the disk.
pub fn replace_soon(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_beside(path, bytes, false)
}

/// Bytes that are free on the disk of `at`.
///
/// # Errors
/// Those of the system.
pub fn free(at: impl AsFd) -> io::Result<u64> {
    let disk = fstatvfs(at)?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Brings names beside `path`, and its own, to the disk.
///
/// # Errors
/// Those of the disk.
pub fn sync_name(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn write_beside(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    // The whole name, and more: two files of one stem do not share it.
    let mut beside = path.to_owned();
    beside.as_mut_os_string().push(".tmp");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    if sync {
        file.sync_all()?;
    }
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_by_each_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note.json");
        for (text, replace) in [
            ("first, and longer", replace as fn(&Path, &[u8]) -> io::Result<()>),
            ("second", replace_unnamed),
            ("3", replace_soon),
        ] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_cannot_be_written_beside_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note.json");
        replace(&path, b"kept").unwrap();
        std::fs::create_dir(dir.path().join("note.json.tmp")).unwrap();
        for replace in [replace, replace_unnamed, replace_soon] {
            replace(&path, b"lost").unwrap_err();
            assert_eq!(std::fs::read(&path).unwrap(), b"kept");
        }
    }
}
