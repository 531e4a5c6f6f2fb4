//! Packs, chunks and data sections that content lies in, compared with what is in the store.
//!
//! What is there is listed into a table of the copy, so that memory stays the same whatever the size
//! of the home. In depth, everything is read as readers do, and chunks are compared with their digest.
//!
//! Not here: pages of the metadata, which were read before.

use base::{Digest, Epoch};
use rusqlite::{Connection, params};

use super::Check;
use super::paths;
use super::report::Problem;
use crate::data::blocks::Blocks;
use crate::data::layers::{ChunkRef, PackRef, Place};
use crate::data::objects::Objects;
use crate::error::Result;
use crate::layout::{HomeDir, HomeKeys};
use crate::limits::HOME_BLOCK_BYTES;
use crate::meta::sql::{self, int, uint};
use crate::replica::limits::LIST_PAGE;

/// Bytes read in one go.
const READ_BYTES: u64 = 4 << 20;
/// Keys of what nothing names that are told.
const LEAKED_MAX: usize = 20;
/// Objects between two words on the progress.
const WORD_EVERY: u64 = 64;

/// Something that content lies in, as its row has it.
#[derive(Debug, Clone, Copy)]
enum Named {
    Pack { pack: PackRef, len: u64, stored: Length },
    Chunk { chunk: ChunkRef, len: u64, stored: Length },
}

/// How long the stored bytes must be.
#[derive(Debug, Clone, Copy)]
enum Length {
    /// Stored as it is; a crash may have left more behind it.
    AtLeast(u64),
    /// Stored in blocks.
    Exactly(u64),
    /// In blocks by a table that cannot be.
    Unknown,
}

impl Length {
    /// From the columns `len` and `blocks`.
    fn of(len: u64, table: Option<&[u8]>) -> Self {
        match table.map(|table| Blocks::parse(table, len)) {
            None => Self::AtLeast(len),
            Some(Some(blocks)) => Self::Exactly(blocks.stored_len()),
            Some(None) => Self::Unknown,
        }
    }

    /// What is wrong with a length of `found` bytes.
    fn wrong(self, found: u64) -> Option<String> {
        match self {
            Self::AtLeast(len) if found < len => {
                Some(format!("it has {found} bytes and must have {len}"))
            }
            Self::Exactly(len) if found != len => {
                Some(format!("it has {found} bytes and must have {len}"))
            }
            Self::Unknown => Some("the table of its blocks is damaged".to_owned()),
            _ => None,
        }
    }
}

impl Named {
    fn key(&self, keys: &HomeKeys) -> String {
        match self {
            Self::Pack { pack, .. } => match pack.place {
                Place::Commit(seq) => keys.log(seq),
                Place::Local | Place::Object => keys.pack(Epoch(pack.epoch), pack.id),
            },
            Self::Chunk { chunk, .. } => keys.chunk(&chunk.digest, chunk.born),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Pack { len, .. } | Self::Chunk { len, .. } => *len,
        }
    }

    fn stored(&self) -> Length {
        match self {
            Self::Pack { stored, .. } | Self::Chunk { stored, .. } => *stored,
        }
    }
}

impl Check<'_> {
    /// Is everything there, and as long as it must be?
    pub(super) fn objects(&mut self, conn: &Connection) -> Result<()> {
        self.list(conn)?;
        let named = named(conn)?;
        let total = Some(named.len() as u64);
        for (done, named) in named.iter().enumerate() {
            if (done as u64).is_multiple_of(WORD_EVERY) {
                self.say("objects", done as u64, total);
            }
            let wrong = match named {
                Named::Pack { pack: PackRef { place: Place::Commit(seq), .. }, stored, .. } => {
                    self.wrong_with_data(*seq, *stored)?
                }
                other => wrong_with_object(conn, &other.key(self.log.keys()), other)?,
            };
            if let Some(what) = wrong {
                self.lose(conn, named, what)?;
            }
        }
        self.report.checked.objects = named.len() as u64;
        self.leaks(conn)
    }

    /// What is in the store, as a table.
    fn list(&mut self, conn: &Connection) -> Result<()> {
        const TABLE: &str =
            "CREATE TABLE fsck_object(key TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID";
        sql::run(conn, TABLE, [])?;
        let origins = self.log.keys().origins().iter();
        let mut homes: Vec<_> = origins.map(|origin| HomeKeys::new(origin.home.clone())).collect();
        homes.push(HomeKeys::new(self.log.keys().home().clone()));
        for keys in homes {
            for prefix in [keys.packs(), keys.chunks()] {
                self.list_below(conn, &prefix)?;
            }
        }
        Ok(())
    }

    fn list_below(&mut self, conn: &Connection, prefix: &str) -> Result<()> {
        let (mut after, mut done) = (None::<String>, 0);
        loop {
            let list = self.log.store().list(prefix, after.as_deref(), LIST_PAGE);
            let page =
                self.parts.runtime.block_on(list).map_err(crate::replica::error::Error::from)?;
            sql::run(conn, "BEGIN", [])?;
            for object in &page {
                const ADD: &str = "INSERT OR REPLACE INTO fsck_object VALUES(?1,?2)";
                sql::run(conn, ADD, params![object.key, int(object.size)])?;
            }
            sql::run(conn, "COMMIT", [])?;
            done += page.len() as u64;
            self.say("listing", done, None);
            match page.last() {
                Some(last) if page.len() == LIST_PAGE => after = Some(last.key.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// What is wrong with the data section of a commit.
    fn wrong_with_data(&self, seq: u64, must: Length) -> Result<Option<String>> {
        use crate::replica::error::Error as LogError;
        match self.parts.runtime.block_on(self.log.read(seq)) {
            Ok(None) => Ok(Some("it is missing".to_owned())),
            Ok(Some(stored)) => {
                let wrong = must.wrong(stored.header().data_bytes());
                Ok(wrong.map(|what| format!("its data section: {what}")))
            }
            Err(LogError::Corrupt { why, .. }) => Ok(Some(why)),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads everything.
    pub(super) fn read_all(&mut self, conn: &Connection) -> Result<()> {
        // A directory without anything: what is on this host is not what is checked.
        let nothing = HomeDir::new(self.dir.join("nothing"));
        let runtime = self.parts.runtime.clone();
        let objects = Objects::new(nothing, self.log.reader(), runtime, HOME_BLOCK_BYTES);
        let named = named(conn)?;
        let total = Some(named.iter().map(Named::len).sum());
        for named in &named {
            let mut whole = sha2::Sha256::default();
            let mut buffer = Vec::new();
            let mut at = 0;
            let mut wrong = None;
            while at < named.len() && wrong.is_none() {
                let step = READ_BYTES.min(named.len() - at);
                buffer.resize(usize::try_from(step).unwrap_or(0), 0);
                let read = match named {
                    Named::Pack { pack, .. } => objects.read_pack(conn, *pack, at, &mut buffer),
                    Named::Chunk { chunk, .. } => objects.read_chunk(conn, *chunk, at, &mut buffer),
                };
                match read {
                    Ok(()) => sha2::Digest::update(&mut whole, &buffer),
                    Err(error) if error.kind() == base::ErrorKind::Corrupt => {
                        wrong = Some(error.to_string());
                    }
                    Err(error) => return Err(error.into()),
                }
                at += step;
                self.report.checked.bytes_read += step;
                self.say("content", self.report.checked.bytes_read, total);
            }
            if let (Named::Chunk { chunk, .. }, None) = (named, &wrong) {
                let found: [u8; 32] = sha2::Digest::finalize(whole).into();
                if Digest::from_bytes(found) != chunk.digest {
                    wrong = Some("it does not have the content that its name says".to_owned());
                }
            }
            if let Some(what) = wrong {
                self.lose(conn, named, what)?;
            }
        }
        Ok(())
    }

    /// Tells what is lost with an object, once.
    fn lose(&mut self, conn: &Connection, named: &Named, what: String) -> Result<()> {
        let key = named.key(self.log.keys());
        if self.report.lost.items.iter().any(|problem| problem.subject == key) {
            return Ok(());
        }
        let inodes = match named {
            Named::Pack { pack, .. } => {
                const SQL: &str = "SELECT DISTINCT ino FROM extent WHERE pack=?1 ORDER BY ino";
                sql::all(conn, SQL, [int(pack.id)], |row| uint(row, 0))?
            }
            Named::Chunk { chunk, .. } => {
                const SQL: &str = "SELECT DISTINCT ino FROM extent WHERE digest=?1 ORDER BY ino";
                sql::all(conn, SQL, [chunk.digest.as_bytes()], |row| uint(row, 0))?
            }
        };
        let mut problem = Problem::new(key, what);
        paths::add(conn, &mut problem, &inodes)?;
        // What no file has can be gone without a loss.
        match inodes.is_empty() {
            true => self.report.damaged.add(problem),
            false => self.report.lost.add(problem),
        }
        Ok(())
    }

    /// Objects of this home that nothing names. Only what was certainly there before the commit
    /// counts, and only what no kept state may name.
    fn leaks(&mut self, conn: &Connection) -> Result<()> {
        if self.report.at.is_some() {
            return Ok(());
        }
        // Which pins there are is said elsewhere; where they cannot be read, anything may be kept.
        let Ok(pins) = self.parts.runtime.block_on(self.log.pins()) else { return Ok(()) };
        let keys = HomeKeys::new(self.log.keys().home().clone());
        for named in named(conn)? {
            const KNOWN: &str = "DELETE FROM fsck_object WHERE key=?1";
            sql::run(conn, KNOWN, [named.key(self.log.keys())])?;
        }
        sql::run(conn, "DELETE FROM fsck_object WHERE key IN (SELECT key FROM grave)", [])?;
        let (seq, epoch) = pins
            .iter()
            .fold((0, Epoch(0)), |(seq, epoch), pin| (pin.seq.max(seq), pin.epoch.max(epoch)));
        let mut rows = conn.prepare("SELECT key,size FROM fsck_object").map_err(sql::failed)?;
        let mut rows = rows.query([]).map_err(sql::failed)?;
        while let Some(row) = rows.next().map_err(sql::failed)? {
            let key: String = row.get(0).map_err(sql::failed)?;
            let leaked = match (keys.pack_id(&key), keys.chunk_id(&key)) {
                // The writer of the newest epoch may be about to name it.
                (Some((of, _)), _) => of > epoch && (of < self.head.epoch || self.head.released),
                (_, Some((_, born))) => born > seq && born <= self.head.seq,
                _ => false,
            };
            if leaked {
                self.report.leaked.objects += 1;
                self.report.leaked.bytes += uint(row, 1).map_err(sql::failed)?;
                if self.report.leaked.keys.len() < LEAKED_MAX {
                    self.report.leaked.keys.push(key);
                }
            }
        }
        Ok(())
    }
}

/// Everything that rows say content lies in, and that is said to be stored.
fn named(conn: &Connection) -> Result<Vec<Named>> {
    const PACKS: &str = "SELECT id,epoch,place,seq,len,blocks FROM pack WHERE place<>0";
    let mut named = sql::all(conn, PACKS, [], |row| {
        let place = Place::from_columns(row.get(2)?, uint(row, 3)?);
        let pack = PackRef { id: uint(row, 0)?, epoch: uint(row, 1)?, place };
        let (len, table) = (uint(row, 4)?, row.get::<_, Option<Vec<u8>>>(5)?);
        Ok(Named::Pack { pack, len, stored: Length::of(len, table.as_deref()) })
    })?;
    const CHUNKS: &str = "SELECT digest,born,len,blocks FROM chunk WHERE stored=1";
    named.extend(sql::all(conn, CHUNKS, [], |row| {
        let chunk = ChunkRef { digest: Digest::from_bytes(row.get(0)?), born: uint(row, 1)? };
        let (len, table) = (uint(row, 2)?, row.get::<_, Option<Vec<u8>>>(3)?);
        Ok(Named::Chunk { chunk, len, stored: Length::of(len, table.as_deref()) })
    })?);
    Ok(named)
}

/// What is wrong with an object, from the listing.
fn wrong_with_object(conn: &Connection, key: &str, named: &Named) -> Result<Option<String>> {
    const SIZE: &str = "SELECT size FROM fsck_object WHERE key=?1";
    Ok(match sql::first(conn, SIZE, [key], |row| uint(row, 0))? {
        None => Some("it is missing".to_owned()),
        Some(size) => named.stored().wrong(size),
    })
}
