//! Where the pages of a database come from.
//!
//! Pages are numbered from 1, as SQLite does. A page that exists by the page count but was never
//! written (the page of the lock byte at 1 GiB, a page allocated and freed within one
//! transaction) reads as zeros.
//!
//! Not here: the WAL (`crate::wal`), which is the other source.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::limits::{PAGE_SIZES, PAGES_MAX};

/// A frozen state of a database: reading a page twice gives the same bytes.
pub(crate) trait PageSource: Send + Sync + 'static {
    /// Bytes of a page.
    fn page_size(&self) -> u32;
    /// Pages of the database.
    fn page_count(&self) -> u32;
    /// Reads `page` (from 1) into `into`, which is `page_size` long.
    fn read_page(&self, page: u32, into: &mut [u8]) -> Result<()>;
}

/// A database file without a WAL, that nobody writes.
#[derive(Debug)]
pub(crate) struct DatabaseFile {
    path: PathBuf,
    file: File,
    page_size: u32,
    page_count: u32,
}

impl DatabaseFile {
    /// Opens it. The caller sees to it that no frames of a WAL belong to it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::local("open", path))?;
        let size = file.metadata().map_err(Error::local("look at", path))?.len();
        let page_size = page_size_of(&file, path)?
            .ok_or_else(|| corrupt_local(path, "it is no SQLite database"))?;
        let page_count = page_count_of(size, page_size, path)?;
        Ok(Self { path: path.to_owned(), file, page_size, page_count })
    }
}

impl PageSource for DatabaseFile {
    fn page_size(&self) -> u32 {
        self.page_size
    }

    fn page_count(&self) -> u32 {
        self.page_count
    }

    fn read_page(&self, page: u32, into: &mut [u8]) -> Result<()> {
        let offset = page_offset(page, self.page_size);
        read_at_or_zeros(&self.file, offset, into).map_err(Error::local("read", &self.path))
    }
}

/// The pages that differ between two states of one database, in order; what is above the count of
/// `new` is not among them.
///
/// For a writer that does not know what it changed: the answer is what a commit on `old` has to
/// carry to become `new`.
pub(crate) fn differing_pages(old: &dyn PageSource, new: &dyn PageSource) -> Result<Vec<u32>> {
    let comparable = old.page_size() == new.page_size();
    let mut differing = Vec::new();
    let mut before = vec![0; old.page_size() as usize];
    let mut after = vec![0; new.page_size() as usize];
    for page in 1..=new.page_count() {
        if comparable && page <= old.page_count() {
            old.read_page(page, &mut before)?;
            new.read_page(page, &mut after)?;
            if before == after {
                continue;
            }
        }
        differing.push(page);
    }
    Ok(differing)
}

/// Where a page begins in the file.
pub(crate) fn page_offset(page: u32, page_size: u32) -> u64 {
    debug_assert!(page > 0, "pages are numbered from 1");
    u64::from(page.saturating_sub(1)) * u64::from(page_size)
}

/// True of the sizes that a SQLite page can have.
pub(crate) fn is_page_size(size: u32) -> bool {
    PAGE_SIZES.contains(&size) && size.is_power_of_two()
}

/// The page size that the header of a database file states; `None` where there is no header yet.
pub(crate) fn page_size_of(file: &File, path: &Path) -> Result<Option<u32>> {
    let mut header = [0; 18];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(Error::local("read", path)(error)),
    }
    // The field is two bytes wide, so 65,536 is written as 1.
    let size = match u32::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65_536,
        size => size,
    };
    if header.starts_with(b"SQLite format 3\0") && is_page_size(size) {
        Ok(Some(size))
    } else {
        Err(corrupt_local(path, "its header is not that of a SQLite database"))
    }
}

/// Pages in a file of `size` bytes.
pub(crate) fn page_count_of(size: u64, page_size: u32, path: &Path) -> Result<u32> {
    if !size.is_multiple_of(u64::from(page_size)) {
        return Err(corrupt_local(path, "its size is not a whole number of pages"));
    }
    match u32::try_from(size / u64::from(page_size)) {
        Ok(count) if count <= PAGES_MAX => Ok(count),
        _ => Err(Error::TooLarge { what: "the metadata, in pages,", max: u64::from(PAGES_MAX) }),
    }
}

/// Reads what the file has at `offset`; zeros for what is past its end.
pub(crate) fn read_at_or_zeros(file: &File, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    into[filled..].fill(0);
    Ok(())
}

pub(crate) fn corrupt_local(path: &Path, why: &str) -> Error {
    Error::CorruptLocal { path: path.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::testing::MemoryPages;
    use super::*;

    #[test]
    fn what_differs_is_what_changed_and_what_is_new() {
        let old = MemoryPages::numbered(512, 5);
        let mut new = MemoryPages::numbered(512, 7);
        new.pages[1].fill(9);
        assert_eq!(differing_pages(&old, &new).unwrap(), [2, 6, 7]);
        assert_eq!(differing_pages(&new, &old).unwrap(), [2]);
        assert!(differing_pages(&old, &old).unwrap().is_empty());
        assert_eq!(differing_pages(&MemoryPages::numbered(1024, 5), &old).unwrap().len(), 5);
    }

    #[test]
    fn a_file_that_is_no_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for bytes in [&b""[..], b"hello", &[0; 4096], b"SQLite format 3\0\x00\x03aaaa"] {
            std::fs::write(&path, bytes).unwrap();
            let error = DatabaseFile::open(&path).unwrap_err();
            assert_eq!(error.kind(), base::ErrorKind::Corrupt, "{error}");
        }
    }

    #[test]
    fn a_database_file_gives_its_pages() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA page_size=65536; CREATE TABLE t(a); INSERT INTO t VALUES(1);")
            .unwrap();
        drop(db);
        let file = DatabaseFile::open(&path).unwrap();
        assert_eq!((file.page_size(), file.page_count()), (65_536, 2));
        let mut page = vec![0; 65_536];
        file.read_page(2, &mut page).unwrap();
        assert_eq!(page, std::fs::read(&path).unwrap()[65_536..]);
    }
}
