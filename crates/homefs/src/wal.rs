//! Which pages did the last commits change? Read from SQLite's own log.
//!
//! A [`WalTail`] follows the WAL file of a database. It accepts a frame exactly when SQLite's
//! recovery would: the salts are those of the header, the running checksum holds, and a commit
//! frame follows. So what it reports is whole committed transactions and nothing else.
//!
//! Order for whoever checkpoints: [`WalTail::poll`], then see that no [`PageView`] is left
//! ([`WalTail::has_views`]), then checkpoint, with no commit in between, and where all frames were
//! moved say so ([`WalTail::note_checkpoint`]). A poll that finds another
//! generation than the one it read says so (`restarted`); frames of the old one that came after
//! the poll before are then unknown, and whoever did not checkpoint right after that poll must take
//! the set of changed pages as unknown too.
//!
//! Invariants:
//! - A view is the state of the poll that it follows: later commits do not show in it.
//! - A frame is checked against its salts again when it is read, so that a view which outlived its
//!   generation is an error, never another page's bytes.
//!
//! Not here: writing to the database, and deciding when to checkpoint (`meta`).

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::layout::wal_of;
use crate::replica::error::{Error, Result};
use crate::replica::limits::{WAL_FRAMES_AT_ONCE, WAL_FRAMES_FIRST};
use crate::replica::pages::{
    PageSource, corrupt_local, is_page_size, page_count_of, page_offset, page_size_of,
    read_at_or_zeros,
};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The last bit says in which byte order the checksum reads its words.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// What the commits since the poll before did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Advance {
    /// Pages that they wrote. One above the page count was cut off again.
    pub(crate) pages: BTreeSet<u32>,
    /// How many there were.
    pub(crate) transactions: u64,
    /// True where the WAL began anew since the poll before.
    pub(crate) restarted: bool,
}

/// A place in the WAL: its life, by its salts, and the offset.
pub(crate) type Position = ([u8; 8], u64);

/// Follows the WAL of one database.
#[derive(Debug)]
pub(crate) struct WalTail {
    database_path: PathBuf,
    wal_path: PathBuf,
    database: Arc<File>,
    wal: Option<Arc<File>>,
    generation: Option<Generation>,
    /// Page to its newest frame's offset, committed frames of this generation only.
    frames: Arc<HashMap<u32, u64>>,
    /// Held by every view too; the map above is not, once it grew under a view.
    views: Arc<()>,
    page_size: u32,
    page_count: u32,
    /// Frames as they are read; kept, because a poll follows every transaction.
    buffer: Vec<u8>,
}

/// One life of the WAL file, and how far we read it.
#[derive(Debug, Clone, Copy)]
struct Generation {
    salts: [u8; 8],
    big_endian: bool,
    page_size: u32,
    /// The running checksum after the last committed frame.
    sum: Sum,
    /// Where the frame after it begins.
    end: u64,
}

impl WalTail {
    /// Follows the WAL of the database at `path`. What its WAL holds by now is taken as known:
    /// only later commits are reported.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let database = File::open(path).map_err(Error::local("open", path))?;
        let mut tail = Self {
            database_path: path.to_owned(),
            wal_path: wal_of(path),
            database: Arc::new(database),
            wal: None,
            generation: None,
            frames: Arc::default(),
            views: Arc::default(),
            page_size: 0,
            page_count: 0,
            buffer: Vec::new(),
        };
        tail.poll()?;
        Ok(tail)
    }

    /// Reads on to the last commit.
    pub(crate) fn poll(&mut self) -> Result<Advance> {
        let mut advance = Advance { restarted: self.follow_file()?, ..Advance::default() };
        if self.generation.is_none() {
            self.count_from_database()?;
        } else {
            self.read_frames(&mut advance)?;
        }
        Ok(advance)
    }

    /// Where the WAL ends by now; `None` while there is none.
    pub(crate) fn position(&self) -> Option<Position> {
        self.generation.map(|generation| (generation.salts, generation.end))
    }

    /// Pages that were written to the WAL since `position`; all in it where that was in another
    /// life of it.
    pub(crate) fn logged_since(&self, position: Option<Position>) -> BTreeSet<u32> {
        let salts = self.generation.map(|generation| generation.salts);
        let from = position.filter(|position| salts == Some(position.0)).map_or(0, |p| p.1);
        self.frames.iter().filter(|(_, at)| **at >= from).map(|(page, _)| *page).collect()
    }

    /// The state as of the last poll.
    pub(crate) fn view(&self) -> PageView {
        PageView {
            database_path: self.database_path.clone(),
            wal_path: self.wal_path.clone(),
            database: self.database.clone(),
            wal: self.wal.clone(),
            salts: self.generation.map(|generation| generation.salts),
            frames: self.frames.clone(),
            _alive: self.views.clone(),
            page_size: self.page_size,
            page_count: self.page_count,
        }
    }

    /// True while a view is alive: a checkpoint would pull the pages from under it.
    pub(crate) fn has_views(&self) -> bool {
        Arc::strong_count(&self.views) > 1
    }

    /// Says that a checkpoint moved every frame up to the last poll into the database, so that
    /// later views do not look for pages in a log that is about to begin anew.
    pub(crate) fn note_checkpoint(&mut self) {
        self.frames = Arc::default();
    }

    /// Bytes of a page; 0 while there is no database.
    pub(crate) fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Pages of the database as of the last poll.
    pub(crate) fn page_count(&self) -> u32 {
        self.page_count
    }

    /// Bytes of the WAL that hold committed frames.
    pub(crate) fn wal_bytes(&self) -> u64 {
        self.generation.map_or(0, |generation| generation.end)
    }

    /// Finds the file and its generation; true where it is not the one we knew.
    fn follow_file(&mut self) -> Result<bool> {
        let found = match fs::metadata(&self.wal_path) {
            Ok(found) => Some(found.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::local("look at", &self.wal_path)(error)),
        };
        let known = match &self.wal {
            Some(wal) => {
                Some(wal.metadata().map_err(Error::local("look at", &self.wal_path))?.ino())
            }
            None => None,
        };
        if found != known {
            let open = |_| File::open(&self.wal_path).map_err(Error::local("open", &self.wal_path));
            self.wal = found.map(open).transpose()?.map(Arc::new);
        }
        let header = self.read_header()?;
        let same = match (&self.generation, &header) {
            (Some(ours), Some(header)) => found == known && ours.salts == header.salts,
            (None, None) => true,
            _ => false,
        };
        if same {
            return Ok(false);
        }
        // Where there was none before, nothing of ours can have been lost.
        let restarted = self.generation.is_some();
        self.frames = Arc::default();
        self.generation = header;
        if let Some(header) = header {
            self.page_size = header.page_size;
        }
        self.count_from_database()?;
        Ok(restarted)
    }

    /// The header of the WAL; `None` where there is none yet, or only half of one.
    fn read_header(&self) -> Result<Option<Generation>> {
        let Some(wal) = &self.wal else { return Ok(None) };
        let mut header = [0; HEADER];
        read_at_or_zeros(wal, 0, &mut header).map_err(Error::local("read", &self.wal_path))?;
        let magic = u32_be(&header[0..4]);
        let big_endian = magic & 1 == 1;
        let sum = Sum::default().over(&header[..24], big_endian);
        // SQLite ignores a log whose header does not hold; so do we, until it does.
        if magic & !1 != MAGIC || sum != Sum::read(&header[24..]) {
            return Ok(None);
        }
        let page_size = u32_be(&header[8..12]);
        if u32_be(&header[4..8]) != VERSION || !is_page_size(page_size) {
            return Err(corrupt_local(&self.wal_path, "its version or page size is not known"));
        }
        let mut salts = [0; 8];
        salts.copy_from_slice(&header[16..24]);
        Ok(Some(Generation { salts, big_endian, page_size, sum, end: HEADER as u64 }))
    }

    /// The page count while no commit frame says another: that of the file.
    fn count_from_database(&mut self) -> Result<()> {
        let path = &self.database_path;
        let size = self.database.metadata().map_err(Error::local("look at", path))?.len();
        if let Some(page_size) = page_size_of(&self.database, path)? {
            self.page_size = page_size;
            self.page_count = page_count_of(size, page_size, path)?;
        }
        Ok(())
    }

    fn read_frames(&mut self, advance: &mut Advance) -> Result<()> {
        let (Some(wal), Some(generation)) = (self.wal.clone(), self.generation.as_mut()) else {
            return Ok(());
        };
        let frame_len = FRAME_HEADER + generation.page_size as usize;
        // Most transactions append a handful of frames, and what lies behind them in a log that
        // began anew is old: read little first, more where there is more.
        let mut at_once = WAL_FRAMES_FIRST;
        let buffer = &mut self.buffer;
        let (mut at, mut sum) = (generation.end, generation.sum);
        // Frames of the transaction that is being read; they count when its commit frame comes.
        let mut open: Vec<(u32, u64)> = Vec::new();
        'file: loop {
            buffer.resize(frame_len * at_once, 0);
            let filled =
                read_some(&wal, at, buffer).map_err(Error::local("read", &self.wal_path))?;
            let whole = filled / frame_len;
            for frame in buffer[..whole * frame_len].chunks_exact(frame_len) {
                let (header, page) = frame.split_at(FRAME_HEADER);
                sum = sum.over(&header[..8], generation.big_endian);
                sum = sum.over(page, generation.big_endian);
                let number = u32_be(&header[0..4]);
                let ours = header[8..16] == generation.salts && sum == Sum::read(&header[16..]);
                if !ours || number == 0 {
                    break 'file;
                }
                open.push((number, at));
                at += frame_len as u64;
                let count = u32_be(&header[4..8]);
                if count > 0 {
                    let frames = Arc::make_mut(&mut self.frames);
                    advance.pages.extend(open.iter().map(|frame| frame.0));
                    advance.transactions += 1;
                    frames.extend(open.drain(..));
                    self.page_count = count;
                    (generation.sum, generation.end) = (sum, at);
                }
            }
            if whole < at_once {
                break;
            }
            at_once = (at_once * 2).min(WAL_FRAMES_AT_ONCE);
        }
        Ok(())
    }
}

/// The pages of a database as one poll found them.
#[derive(Debug, Clone)]
pub(crate) struct PageView {
    database_path: PathBuf,
    wal_path: PathBuf,
    database: Arc<File>,
    wal: Option<Arc<File>>,
    salts: Option<[u8; 8]>,
    frames: Arc<HashMap<u32, u64>>,
    _alive: Arc<()>,
    page_size: u32,
    page_count: u32,
}

impl PageView {
    fn read_frame(&self, page: u32, offset: u64, into: &mut [u8]) -> Result<()> {
        let stale = || corrupt_local(&self.wal_path, "it began anew while its pages were read");
        let (Some(wal), Some(salts)) = (&self.wal, &self.salts) else { return Err(stale()) };
        let read = |into: &mut [u8], at| {
            read_at_or_zeros(wal, at, into).map_err(Error::local("read", &self.wal_path))
        };
        let mut header = [0; FRAME_HEADER];
        read(into, offset + FRAME_HEADER as u64)?;
        // After the page: a checkpoint that came between the two is seen.
        read(&mut header, offset)?;
        if header[8..16] != salts[..] || u32_be(&header[0..4]) != page {
            return Err(stale());
        }
        Ok(())
    }
}

impl PageSource for PageView {
    fn page_size(&self) -> u32 {
        self.page_size
    }

    fn page_count(&self) -> u32 {
        self.page_count
    }

    fn read_page(&self, page: u32, into: &mut [u8]) -> Result<()> {
        match self.frames.get(&page) {
            Some(offset) => self.read_frame(page, *offset, into),
            None => read_at_or_zeros(&self.database, page_offset(page, self.page_size), into)
                .map_err(Error::local("read", &self.database_path)),
        }
    }
}

/// SQLite's running checksum: two words, each pair of words of the input folded in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sum(u32, u32);

impl Sum {
    fn read(bytes: &[u8]) -> Self {
        Self(u32_be(&bytes[..4]), u32_be(&bytes[4..8]))
    }

    /// Goes on over `bytes`, whose length is a multiple of eight.
    fn over(self, bytes: &[u8], big_endian: bool) -> Self {
        let word = |bytes: &[u8]| {
            let word = u32_be(bytes);
            if big_endian { word } else { word.swap_bytes() }
        };
        bytes.chunks_exact(8).fold(self, |Self(first, second), pair| {
            let first = first.wrapping_add(word(&pair[..4])).wrapping_add(second);
            let second = second.wrapping_add(word(&pair[4..])).wrapping_add(first);
            Self(first, second)
        })
    }
}

fn u32_be(bytes: &[u8]) -> u32 {
    bytes[..4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Fills as much of `into` as the file has at `offset`.
fn read_some(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
