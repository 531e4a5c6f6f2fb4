//! Reading a sparse file in pieces of one length.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::error::{Error, Result};
use crate::manifest::piece_len;

/// Numbers of the pieces of `unit` bytes in which the first `len` bytes of the file have data, in ascending
/// order. Others are holes.
pub(crate) fn with_data(file: &File, len: u64, unit: usize) -> Result<Vec<u32>> {
    let mut found: Vec<u32> = Vec::new();
    let mut at = 0;
    while at < len {
        let Some(data) = seek(file, at, Whence::SeekData)? else { break };
        let end = seek(file, data, Whence::SeekHole)?.unwrap_or(len).min(len);
        if data >= end {
            break;
        }
        let number = |byte: u64| u32::try_from(byte / unit as u64).unwrap_or(u32::MAX);
        let next = found.last().map_or(0, |last| last + 1);
        found.extend(number(data).max(next)..=number(end - 1));
        at = end;
    }
    Ok(found)
}

fn seek(file: &File, from: u64, whence: Whence) -> Result<Option<u64>> {
    let from = i64::try_from(from).map_err(|_| Error::Changed)?;
    match lseek(file.as_fd(), from, whence) {
        Ok(at) => Ok(u64::try_from(at).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(Error::disk("look for data in what is to be stored")(error.into())),
    }
}

/// The content of piece `index`; `None` where it is all zeros.
pub(crate) fn read(file: &File, len: u64, unit: usize, index: u32) -> Result<Option<Vec<u8>>> {
    let mut content = vec![0; piece_len(len, unit, index)];
    file.read_exact_at(&mut content, u64::from(index) * unit as u64)
        .map_err(Error::disk("read what is to be stored"))?;
    Ok(if is_zeros(&content) { None } else { Some(content) })
}

/// Whether there is nothing but zeros.
pub(crate) fn is_zeros(content: &[u8]) -> bool {
    content.first().is_none_or(|first| *first == 0)
        && content.get(1..).unwrap_or_default()
            == content.split_last().map_or(&[][..], |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CHUNK_BYTES;

    #[test]
    fn data_is_found_between_holes_and_zeros_are_none() {
        let file = tempfile::tempfile().unwrap();
        let disk = 10 * CHUNK_BYTES as u64 + 5;
        file.set_len(disk).unwrap();
        assert_eq!(with_data(&file, disk, CHUNK_BYTES).unwrap(), Vec::<u32>::new());
        let at = |chunk: u64| chunk * CHUNK_BYTES as u64;
        file.write_all_at(b"x", at(2) + 9).unwrap();
        file.write_all_at(b"yz", at(4) - 1).unwrap();
        file.write_all_at(b"end", at(10)).unwrap();
        file.write_all_at(&[0; 4096], at(7)).unwrap();
        let found = with_data(&file, disk, CHUNK_BYTES).unwrap();
        assert!([2, 3, 4, 10].iter().all(|index| found.contains(index)), "{found:?}");
        assert!(found.is_sorted_by(|a, b| a < b) && !found.contains(&0), "{found:?}");
        let read = |index| read(&file, disk, CHUNK_BYTES, index).unwrap();
        assert_eq!(read(7), None);
        assert_eq!(read(0), None);
        assert_eq!(read(10).unwrap(), b"end\0\0");
        assert_eq!(read(2).unwrap()[9], b'x');
        assert_eq!(read(3).unwrap().last(), Some(&b'y'));
    }

    #[test]
    fn a_last_byte_alone_is_data() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(CHUNK_BYTES as u64).unwrap();
        file.write_all_at(b"x", CHUNK_BYTES as u64 - 1).unwrap();
        assert!(read(&file, CHUNK_BYTES as u64, CHUNK_BYTES, 0).unwrap().is_some());
    }
}
