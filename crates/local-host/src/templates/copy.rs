//! Copies sparse files: holes stay holes, and where the file system can, data is shared.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// Copies `from` to a new file `to`, readable by its owner only. Returns that, not synced.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<File> {
    let source = File::open(from)?;
    let length = source.metadata()?.len();
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    target.set_len(length)?;
    let mut at = 0;
    while let Some((begin, end)) = next_data(&source, at, length)? {
        copy_part(&source, &target, begin, end)?;
        at = end;
    }
    Ok(target)
}

/// The next part of the file that is no hole.
fn next_data(file: &File, from: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if from >= length {
        return Ok(None);
    }
    let Some(begin) = seek(file, from, Whence::SeekData)? else { return Ok(None) };
    let end = seek(file, begin, Whence::SeekHole)?.unwrap_or(length).min(length);
    Ok((begin < end).then_some((begin, end)))
}

fn seek(file: &File, from: u64, whence: Whence) -> io::Result<Option<u64>> {
    match lseek(file, i64::try_from(from).map_err(io::Error::other)?, whence) {
        Ok(at) => u64::try_from(at).map(Some).map_err(io::Error::other),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The standard library has the kernel do it (`copy_file_range`) where that can.
fn copy_part(mut source: &File, mut target: &File, begin: u64, end: u64) -> io::Result<()> {
    source.seek(SeekFrom::Start(begin))?;
    target.seek(SeekFrom::Start(begin))?;
    let copied = io::copy(&mut source.take(end - begin), &mut target)?;
    if copied == end - begin { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn sparse(path: &Path) -> Vec<(u64, Vec<u8>)> {
        let bytes = |at: u64, len: u64| (0..len).map(|n| (n ^ at ^ 0x5a) as u8).collect();
        let parts: [(u64, u64); 3] = [(0, 4096), (9 << 20, 5000), (300 << 20, 3 << 20)];
        let parts: Vec<(u64, Vec<u8>)> = parts.map(|(at, len)| (at, bytes(at, len))).into();
        let file = File::create(path).unwrap();
        file.set_len((400 << 20) + 17).unwrap();
        for (at, bytes) in &parts {
            file.write_all_at(bytes, *at).unwrap();
        }
        parts
    }

    #[test]
    fn a_copy_is_the_same_and_as_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let parts = sparse(&from);
        copy(&from, &to).unwrap();
        let (was, is) = (std::fs::metadata(&from).unwrap(), std::fs::metadata(&to).unwrap());
        assert_eq!((is.len(), is.mode() & 0o777), (was.len(), 0o600));
        assert!(is.blocks() * 512 < 8 << 20, "{} blocks", is.blocks());
        let file = File::open(&to).unwrap();
        for (at, bytes) in parts {
            let mut read = vec![0; bytes.len()];
            file.read_exact_at(&mut read, at).unwrap();
            assert!(read == bytes, "at {at}");
        }
        let mut hole = [1; 100];
        file.read_exact_at(&mut hole, 200 << 20).unwrap();
        assert_eq!(hole, [0; 100]);
        assert!(copy(&from, &to).is_err(), "nothing is overwritten");
    }

    #[test]
    fn an_empty_file_and_one_that_is_a_hole_are_copied() {
        let dir = tempfile::tempdir().unwrap();
        for (name, length) in [("empty", 0), ("hole", 1 << 30)] {
            let (from, to) = (dir.path().join(name), dir.path().join(format!("{name}-copy")));
            File::create(&from).unwrap().set_len(length).unwrap();
            copy(&from, &to).unwrap();
            assert_eq!(std::fs::metadata(&to).unwrap().len(), length);
        }
    }
}
