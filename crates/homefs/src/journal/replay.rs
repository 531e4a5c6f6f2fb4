//! Reading back what a crash left.
//!
//! # Where it ends
//! At the first record that is not whole: the torn end. If a record after it says that it was synced
//! once, or the number in the name of a segment says that there were more, it is damage. And at a
//! mark that the database does not know: the transaction that it stands for was lost with the
//! power, so nothing after it was confirmed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use vfs::Result;

use super::{damaged, frame, segment};
use crate::data::spool::failed;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The last record that holds.
    pub(crate) last: u64,
    /// Segments with the last record in each, in order.
    pub(crate) segments: Vec<(u64, PathBuf)>,
    /// What lies behind the end: a segment with the bytes of it that hold, and whole segments.
    torn: Option<(PathBuf, u64)>,
    beyond: Vec<PathBuf>,
}

impl Found {
    /// Removes what lies behind the end, so that it is not met again, and to disk.
    pub(crate) fn cut_off(&self, dir: &Path) -> Result<()> {
        if self.torn.is_none() && self.beyond.is_empty() {
            return Ok(());
        }
        let cut_off = || {
            for path in self.beyond.iter().rev() {
                fs::remove_file(path)?;
            }
            if let Some((path, len)) = &self.torn {
                let file = File::options().write(true).open(path)?;
                file.set_len(*len)?;
                file.sync_all()?;
            }
            File::open(dir)?.sync_all()
        };
        cut_off().map_err(failed)
    }
}

/// Hands all records after `applied` to `each`, in order: number and body.
pub(crate) fn replay(
    dir: &Path,
    applied: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<Found> {
    let mut found = Found { last: applied, segments: Vec::new(), torn: None, beyond: Vec::new() };
    let mut next = 0;
    let mut ended = false;
    for (first, path) in segment::list(dir).map_err(failed)? {
        let bytes = fs::read(&path).map_err(failed)?;
        // A segment whose name was never synced may be missing while one after it is there. Records
        // that the database has may be missing too: they need not have been on disk.
        let follows = first >= next && first <= found.last + 1;
        if ended || segment::check(&bytes, first)?.is_none() || !follows {
            ended = true;
            check_unsynced(&bytes, found.last)?;
            found.beyond.push(path);
            continue;
        }
        let mut seq = first;
        let mut at = segment::HEADER;
        let mut marked = false;
        while let Some(frame) = frame::parse(&bytes[at..]).filter(|frame| frame.seq == seq) {
            if seq > applied {
                // The transaction of a mark is not in the database.
                marked = frame.body.is_empty();
                if marked {
                    break;
                }
                each(seq, frame.body)?;
                found.last = seq;
            }
            at += frame.bytes();
            seq += 1;
        }
        next = seq;
        if at < bytes.len() {
            ended = true;
            if !marked {
                check_unsynced(&bytes[at..], found.last)?;
            }
            found.torn = Some((path.clone(), at as u64));
        }
        found.segments.push((seq - 1, path));
    }
    Ok(found)
}

/// Refuses a journal in which anything after `last` was synced once.
fn check_unsynced(rest: &[u8], last: u64) -> Result<()> {
    // Wherever a whole record begins.
    let mut at = 0;
    while at + frame::HEADER <= rest.len() {
        let seq = rest[at + 8..at + 16].iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        let plausible = seq > last && seq < last.saturating_add(1 << 32);
        match plausible.then(|| frame::parse(&rest[at..])).flatten() {
            Some(frame) if frame.synced > last => {
                return Err(damaged("a record in the middle of what was on disk cannot be read"));
            }
            Some(frame) => at += frame.bytes(),
            None => at += 1,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::writer::Journal;

    fn write(dir: &Path, records: std::ops::RangeInclusive<u64>, synced: u64) {
        let mut journal = Journal::begin(dir.to_owned(), records.start() - 1, Vec::new()).unwrap();
        for n in records {
            let mut out = Vec::new();
            frame::begin(&mut out);
            out.extend_from_slice(&[n as u8; 40]);
            assert_eq!(journal.append(&mut out).unwrap(), n);
            if n == synced {
                journal.begin_sync().run().unwrap();
                journal.synced(n);
            }
        }
    }

    fn read(dir: &Path, applied: u64) -> Result<Vec<u64>> {
        let mut seen = Vec::new();
        let found = replay(dir, applied, |seq, body| {
            assert!(body.iter().all(|byte| u64::from(*byte) == seq));
            seen.push(seq);
            Ok(())
        })?;
        assert_eq!(found.last, seen.last().copied().unwrap_or(applied));
        Ok(seen)
    }

    #[test]
    fn what_was_written_comes_back_after_what_is_known() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1..=10, 0);
        write(dir.path(), 11..=20, 15);
        assert_eq!(read(dir.path(), 0).unwrap(), (1..=20).collect::<Vec<_>>());
        assert_eq!(read(dir.path(), 13).unwrap(), (14..=20).collect::<Vec<_>>());
        assert!(read(dir.path(), 20).unwrap().is_empty());
        std::fs::remove_file(segment::path(dir.path(), 1)).unwrap();
        assert!(read(dir.path(), 0).is_err(), "a hole in what was synced");
        assert_eq!(read(dir.path(), 10).unwrap().len(), 10);
    }

    #[test]
    fn a_segment_that_never_had_a_name_on_disk_is_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1..=5, 5);
        write(dir.path(), 6..=8, 0);
        write(dir.path(), 9..=12, 0);
        std::fs::remove_file(segment::path(dir.path(), 6)).unwrap();
        assert_eq!(read(dir.path(), 0).unwrap(), [1, 2, 3, 4, 5]);
        replay(dir.path(), 0, |_, _| Ok(())).unwrap().cut_off(dir.path()).unwrap();
        assert_eq!(segment::list(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_torn_end_is_the_end_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1..=5, 3);
        let path = segment::path(dir.path(), 1);
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let expected = len.saturating_sub(segment::HEADER) / 64;
            assert_eq!(read(dir.path(), 0).unwrap().len(), expected, "{len}");
        }
    }

    #[test]
    fn damage_in_what_was_synced_is_told_from_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1..=8, 4);
        let path = segment::path(dir.path(), 1);
        let whole = std::fs::read(&path).unwrap();
        for n in 1..=8_usize {
            for at in [0, 5, 9, 30] {
                let mut bytes = whole.clone();
                bytes[segment::HEADER + (n - 1) * 64 + at] ^= 0x40;
                std::fs::write(&path, &bytes).unwrap();
                match read(dir.path(), 0) {
                    Ok(seen) => assert!(n > 4 && seen.len() == n - 1, "{n} {at} {seen:?}"),
                    Err(error) => assert!(n <= 4, "{n} {at} {error}"),
                }
            }
        }
    }

    #[test]
    fn a_mark_that_was_taken_back_was_never_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path().to_owned(), 0, Vec::new()).unwrap();
        let mut out = Vec::new();
        for n in 1..=2 {
            assert_eq!(journal.mark().unwrap(), n);
            journal.unmark();
            frame::begin(&mut out);
            out.extend_from_slice(&[n as u8; 40]);
            assert_eq!(journal.append(&mut out).unwrap(), n);
        }
        assert_eq!(read(dir.path(), 0).unwrap(), [1, 2]);
    }

    #[test]
    fn a_mark_that_the_database_does_not_know_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1..=3, 0);
        let segments = vec![(3, segment::path(dir.path(), 1))];
        let mut journal = Journal::begin(dir.path().to_owned(), 3, segments).unwrap();
        journal.mark().unwrap();
        let mut out = Vec::new();
        frame::begin(&mut out);
        out.extend_from_slice(&[5; 40]);
        journal.append(&mut out).unwrap();
        drop(journal);
        assert_eq!(read(dir.path(), 4).unwrap(), [5]);
        let found = replay(dir.path(), 0, |_, _| Ok(())).unwrap();
        assert_eq!(found.last, 3);
        found.cut_off(dir.path()).unwrap();
        write(dir.path(), 4..=6, 0);
        assert_eq!(read(dir.path(), 0).unwrap(), (1..=6).collect::<Vec<_>>());
    }
}
