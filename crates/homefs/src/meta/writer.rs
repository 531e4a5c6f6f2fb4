//! Changes to a home: in the front and the journal, then in the database.
//!
//! # A change
//! Under the lock of changes, on the caller's thread: run it on rows, append its record to the
//! journal, put its rows into the front, answer. One that needs the database is run again as a
//! *transaction*: what the front has is folded, the change is run, both are committed as one, and
//! the journal gets a mark with its number.
//!
//! # Fold
//! In the background, when enough has gathered or the oldest of it has waited long enough: the
//! rows that changed are taken from under the lock, written in one transaction that also says how
//! far it goes (`applied`), and count as clean from then on. Changes and reads go on meanwhile.
//!
//! ```text
//! changes    a change on rows, and its record
//! transact   a change as a transaction
//! fold       what changed, into the database
//! bell       when to fold
//! replaying  records of the journal, after a crash
//! ```
//!
//! # Locks
//! `database`, then `changes`, then the front's cache. Readers take only the last.
//!
//! # Durability
//! A record is in the page cache before anyone is answered, so a killed process loses nothing.
//! Surviving power loss is another step: `data::durable`.
//!
//! # Failure
//! A change that fails leaves nothing behind, nor does one whose record cannot be written. A fold
//! that fails keeps its rows and is tried again; while it fails callers go on until too much has
//! gathered, and then get its error. A damaged database makes every later call fail; nothing is
//! repaired here.

mod bell;
mod changes;
mod fold;
mod replaying;
mod transact;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use base::Clock;
use parking_lot::Mutex;
use vfs::{Errno, FsError, Ino, Result};

use self::bell::Bell;
use self::changes::Changes;
pub(crate) use self::fold::Database;
use self::replaying::Replaying;
use super::counters::Counters;
use super::pages::Pages;
use super::readers::Readers;
use super::tx::{Changed, Shared, Tx};
use super::{schema, sql};
use crate::data::spool::{SpoolId, failed};
use crate::front::Front;
use crate::front::delta::Delta;
use crate::journal::replay;
use crate::journal::writer::{Journal, SyncWork};
use crate::layout::HomeDir;
use crate::limits::FOLD_FIRST_BYTES;
use crate::opening::Opening;

/// How far the home got, for those who wait for the store. Counts changes since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    committed: AtomicU64,
}

impl Progress {
    /// How many changes there were.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }
}

/// Called after every change. Must not block.
pub(crate) type OnCommit = Box<dyn Fn() + Send + Sync>;

/// The one who changes a home.
#[derive(Debug)]
pub(crate) struct Writer {
    inner: Arc<Inner>,
    pub(crate) progress: Arc<Progress>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    front: Arc<Front>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    progress: Arc<Progress>,
    on_commit: OnCommit,
    database: Mutex<Database>,
    changes: Mutex<Changes>,
    /// The database has reached its bound.
    full: AtomicBool,
    /// Bytes of records, and rows, that are not folded.
    unfolded_bytes: AtomicU64,
    unfolded_rows: AtomicUsize,
    bell: Bell,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("progress", &self.progress).finish_non_exhaustive()
    }
}

/// What [`Writer::start`] needs.
pub(crate) struct Start {
    pub(crate) dir: HomeDir,
    /// Whether the store has all that the database has.
    pub(crate) clean: bool,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) on_commit: OnCommit,
    /// Inodes kept in memory.
    pub(crate) inodes_cached: usize,
    /// Grows with what the journal has.
    pub(crate) opening: Opening,
}

/// What to sync so that everything so far is durable.
#[derive(Debug)]
pub(crate) struct Unsynced {
    pub(crate) journal: SyncWork,
    /// The database's log first.
    pub(crate) database: bool,
    /// Spool files that nothing names any more once that is done; they need not be synced.
    pub(crate) garbage: Vec<SpoolId>,
    version: u64,
}

impl Writer {
    /// Opens the database, which must exist, takes in what the journal has, and starts the thread.
    pub(crate) fn start(start: Start) -> Result<Self> {
        let Start { dir, clean, shared, clock, on_commit, inodes_cached, opening } = start;
        let path = dir.database();
        let conn = schema::open_writer(&path)?;
        schema::check(&conn)?;
        let mut pages = Pages::open(&conn, &path, clean)?;
        if schema::migrate(&conn)? {
            pages.after_commit()?;
        }
        let counters = Counters::load(&conn)?;
        let applied = sql::first(&conn, APPLIED, [], |r| sql::uint(r, 0))?.unwrap_or_default();
        let front = Arc::new(Front::new(Readers::open(&path)?, applied, inodes_cached));
        front.cache.write().counters = counters;
        std::fs::create_dir_all(dir.journal_dir()).map_err(failed)?;

        let mut rows = Delta::default();
        let mut replaying = Replaying::new(&front, &shared, counters);
        let found = replay::replay(&dir.journal_dir(), applied, |seq, body| {
            opening.did(1);
            replaying.again(seq, body, &mut rows)
        })?;
        found.cut_off(&dir.journal_dir())?;
        let Replaying { counters: newest, bytes, changed, .. } = replaying;
        let garbage = changed.spool_garbage.iter().map(|id| (found.last, *id)).collect();
        let journal = Journal::begin(dir.journal_dir(), found.last, found.segments)?;
        let progress = Arc::new(Progress::default());
        progress.committed.store(found.last - applied, Ordering::Release);
        let unfolded_rows = AtomicUsize::new(rows.len());
        let inner = Arc::new(Inner {
            front,
            shared,
            clock,
            progress: progress.clone(),
            on_commit,
            database: Mutex::new(Database { conn, pages, counters, applied, before: applied }),
            changes: Mutex::new(Changes {
                counters: newest,
                journal,
                rows,
                first_fresh: counters.next_ino,
                changed: Changed::default(),
                record: Vec::new(),
                garbage,
                durable_version: newest.version,
                transacted: true,
                closed: false,
            }),
            full: AtomicBool::new(false),
            unfolded_bytes: AtomicU64::new(bytes),
            unfolded_rows,
            bell: Bell::default(),
        });
        if found.last > applied {
            inner.ring();
        }
        let thread = inner.clone();
        let handle = std::thread::Builder::new()
            .name("home-fold".to_owned())
            .spawn(move || thread.serve())
            .map_err(|error| {
                FsError::with(Errno::EAGAIN, format!("start the thread that folds: {error}"))
            })?;
        Ok(Self { inner, progress, thread: Mutex::new(Some(handle)) })
    }

    /// The newest rows, to read them.
    pub(crate) fn front(&self) -> Arc<Front> {
        self.inner.front.clone()
    }

    /// Makes a change and returns when it survives this process. `change` may be run twice.
    pub(crate) fn change<T>(&self, change: impl Fn(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        self.inner.relieve()?;
        let hot = self.inner.change(&mut self.inner.changes.lock(), &change)?;
        match hot {
            Some(done) => {
                self.inner.changed();
                Ok(done)
            }
            None => self.run(change),
        }
    }

    /// Makes a change as a transaction of the database, in which statements may be run too.
    pub(crate) fn run<T>(&self, change: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        let inner = &self.inner;
        if inner.unfolded_bytes.load(Ordering::Relaxed) > FOLD_FIRST_BYTES {
            inner.fold()?;
        }
        let before = inner.progress.committed();
        let done = {
            let mut database = inner.database.lock();
            inner.transact(&mut database, &mut inner.changes.lock(), change)
        };
        if inner.progress.committed() > before {
            (inner.on_commit)();
        }
        done
    }

    /// Brings everything acknowledged so far into the database.
    pub(crate) fn drain(&self) -> Result<()> {
        self.inner.fold()
    }

    /// Runs `work` while the database stands still.
    pub(crate) fn between<T>(&self, work: impl FnOnce(&mut Database) -> T) -> Result<T> {
        Ok(work(&mut self.inner.database.lock()))
    }

    /// The last version given to anything.
    pub(crate) fn version(&self) -> u64 {
        self.inner.changes.lock().counters.version
    }

    /// What to sync for everything so far to be durable.
    pub(crate) fn unsynced(&self) -> Unsynced {
        let mut changes = self.inner.changes.lock();
        let database = std::mem::take(&mut changes.transacted);
        let garbage = changes.garbage.drain(..).map(|(_, id)| id).collect();
        let (journal, version) = (changes.journal.begin_sync(), changes.counters.version);
        Unsynced { journal, database, garbage, version }
    }

    /// All of that is durable.
    pub(crate) fn synced(&self, done: &Unsynced) {
        let mut changes = self.inner.changes.lock();
        changes.journal.synced(done.journal.upto);
        changes.durable_version = done.version;
    }

    /// Bytes of records that are not folded.
    pub(crate) fn unfolded_bytes(&self) -> u64 {
        self.inner.unfolded_bytes.load(Ordering::Relaxed)
    }

    /// The number of the last change.
    pub(crate) fn last(&self) -> u64 {
        self.inner.changes.lock().journal.last()
    }

    /// Inodes that have rows of these kinds which the database may lack: orphans, and files in
    /// the spool.
    pub(crate) fn unfolded(&self) -> (Vec<Ino>, Vec<Ino>) {
        let changes = self.inner.changes.lock();
        let orphans = changes.rows.orphans.keys().copied().collect();
        (orphans, changes.rows.spooled.keys().copied().collect())
    }

    /// What of the local disk fails.
    #[cfg(test)]
    pub(crate) fn faults(&self) -> Arc<crate::journal::faults::Faults> {
        self.inner.changes.lock().journal.faults.clone()
    }

    /// Its bound may be another one now: the next change is let in, and tells.
    pub(crate) fn look_for_room(&self) {
        self.inner.full.store(false, Ordering::Relaxed);
    }

    /// Leaves the database file whole, with an empty log and no journal. Nobody makes changes.
    pub(crate) fn close(&self) -> Result<()> {
        self.inner.fold()?;
        let mut database = self.inner.database.lock();
        let database = &mut *database;
        database.pages.close(&database.conn)?;
        self.inner.changes.lock().journal.clear()
    }

    /// Lets no more changes in and ends the thread. What is not folded stays in the journal.
    pub(crate) fn stop(&self) {
        self.inner.changes.lock().closed = true;
        self.inner.bell.stop();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that folds panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

const APPLIED: &str = "SELECT value FROM kv WHERE name='applied'";

fn stopped() -> FsError {
    FsError::with(Errno::EIO, "the home is closed")
}

/// The wall clock in nanoseconds since 1970, as inodes keep it.
pub(crate) fn now_ns(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.now().as_nanosecond()).unwrap_or(i64::MAX)
}
