//! The metadata thread: the one owner of the connection that writes.
//!
//! # Order
//! Take what has queued up; run each change inside a savepoint of one transaction; write the
//! counters; commit; note which pages changed; answer all callers. Between two transactions the
//! thread does what needs the database to stand still: capture pages, checkpoint.
//!
//! # Durability
//! The commit is in the write-ahead log before anyone is answered, so a killed process loses
//! nothing. Surviving power loss is another step: `data::durable`.
//!
//! # Failure
//! A change that fails is rolled back alone. A commit that fails is rolled back as a whole, and
//! all its callers get the error. A damaged database makes every later call fail; nothing is
//! repaired here.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use base::Clock;
use parking_lot::Mutex;
use rusqlite::Connection;
use vfs::{Errno, FsError, Ino, Result};

use super::counters::Counters;
use super::tx::{Shared, Tx};
use super::{schema, sql};
use crate::limits::{BATCH_MAX, QUEUE_MAX, WAL_BYTES_CHECKPOINT, metadata_bytes_max};
use crate::meta::pages::{Captured, Pages};

/// How far the home got, for those who wait for durability. Counts committed transactions.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    committed: AtomicU64,
}

impl Progress {
    /// The number of the last transaction that changed something.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }
}

/// Called after every transaction that changed something. Must not block.
pub(crate) type OnCommit = Box<dyn Fn() + Send>;

/// Spool files to remove once this transaction is durable.
pub(crate) type SpoolGarbage = Mutex<Vec<(u64, (Ino, u64))>>;

/// The handle to the thread.
#[derive(Debug)]
pub(crate) struct Writer {
    requests: flume::Sender<Request>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) garbage: Arc<SpoolGarbage>,
}

enum Request {
    Change(Box<dyn Change>),
    Between(Box<dyn FnOnce(&mut Thread) + Send>),
    Stop,
}

/// A closure, its result, and whom to tell.
trait Change: Send {
    /// Runs it. False: roll back.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    fn answer(self: Box<Self>, committed: Result<()>);
}

struct Call<F, T> {
    run: Option<F>,
    result: Option<Result<T>>,
    reply: flume::Sender<Result<T>>,
}

impl<F, T> Change for Call<F, T>
where
    F: FnOnce(&mut Tx<'_>) -> Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        let result = self.run.take().map(|run| run(tx));
        let keep = matches!(result, Some(Ok(_)));
        self.result = result;
        keep
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let result = match (self.result, committed) {
            (Some(Ok(value)), Ok(())) => Ok(value),
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (None, Ok(())) => Err(stopped()),
        };
        // Nobody may be waiting any more: `unpin` does not.
        self.reply.send(result).ok();
    }
}

/// What the thread owns. [`Writer::between`] hands it out.
pub(crate) struct Thread {
    pub(crate) conn: Connection,
    pub(crate) counters: Counters,
    pub(crate) pages: Pages,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    progress: Arc<Progress>,
    garbage: Arc<SpoolGarbage>,
    on_commit: OnCommit,
}

/// What [`Writer::start`] needs.
pub(crate) struct Start {
    pub(crate) database: PathBuf,
    /// Whether the pages that differ from the store are known: none. Else all count as changed.
    pub(crate) clean: bool,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) on_commit: OnCommit,
}

impl Writer {
    /// Opens the database, which must exist, and starts the thread.
    pub(crate) fn start(start: Start) -> Result<Self> {
        let Start { database, clean, shared, clock, on_commit } = start;
        let conn = schema::open_writer(&database)?;
        schema::check(&conn)?;
        let pages = Pages::open(&conn, &database, clean)?;
        let counters = Counters::load(&conn)?;
        let progress = Arc::new(Progress::default());
        let garbage = Arc::new(SpoolGarbage::default());
        let (requests, queue) = flume::bounded(QUEUE_MAX);
        let mut thread = Thread {
            conn,
            counters,
            pages,
            shared,
            clock,
            progress: progress.clone(),
            garbage: garbage.clone(),
            on_commit,
        };
        let handle = std::thread::Builder::new()
            .name("home-meta".to_owned())
            .spawn(move || thread.serve(&queue))
            .map_err(|error| {
                FsError::with(Errno::EAGAIN, format!("start the metadata thread: {error}"))
            })?;
        Ok(Self { requests, thread: Mutex::new(Some(handle)), progress, garbage })
    }

    /// Runs `change` in a transaction and returns when that is committed.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.submit(change)?.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// The same without waiting for the answer.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<flume::Receiver<Result<T>>> {
        let (reply, answer) = flume::bounded(1);
        let call = Call { run: Some(change), result: None, reply };
        self.requests.send(Request::Change(Box::new(call))).map_err(|_| stopped())?;
        Ok(answer)
    }

    /// Runs `work` between two transactions.
    pub(crate) fn between<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Thread) -> T + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = flume::bounded(1);
        let work = move |thread: &mut Thread| {
            reply.send(work(thread)).ok();
        };
        self.requests.send(Request::Between(Box::new(work))).map_err(|_| stopped())?;
        answer.recv().map_err(|_| stopped())
    }

    /// Finishes what has queued up and closes the database. Later calls fail.
    pub(crate) fn stop(&self) {
        self.requests.send(Request::Stop).ok();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the metadata thread panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn stopped() -> FsError {
    FsError::with(Errno::EIO, "the home is closed")
}

impl Thread {
    /// The pages that the store does not have.
    pub(crate) fn capture(&mut self) -> Captured {
        self.pages.capture(self.progress.committed())
    }

    fn serve(&mut self, queue: &flume::Receiver<Request>) {
        let mut waiting = None;
        while let Some(request) = waiting.take().or_else(|| queue.recv().ok()) {
            match request {
                Request::Stop => return,
                Request::Between(work) => work(self),
                Request::Change(first) => {
                    let mut batch = vec![first];
                    while batch.len() < BATCH_MAX {
                        match queue.try_recv() {
                            Ok(Request::Change(next)) => batch.push(next),
                            Ok(other) => {
                                waiting = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.transact(batch);
                }
            }
        }
    }

    fn transact(&mut self, mut batch: Vec<Box<dyn Change>>) {
        let before = self.counters;
        let mut garbage = Vec::new();
        let committed = self.try_transact(&mut batch, &mut garbage);
        match &committed {
            Ok(changed) => {
                if *changed {
                    let number = self.progress.committed.fetch_add(1, Ordering::AcqRel) + 1;
                    self.garbage.lock().extend(garbage.into_iter().map(|id| (number, id)));
                }
            }
            Err(error) => {
                tracing::error!(%error, "a metadata transaction failed");
                self.counters = before;
                if !self.conn.is_autocommit() {
                    sql::run(&self.conn, "ROLLBACK", []).ok();
                }
            }
        }
        let changed = matches!(committed, Ok(true));
        let outcome = committed.map(drop);
        for change in batch {
            change.answer(outcome.clone());
        }
        if changed {
            (self.on_commit)();
            if self.pages.wal_bytes() > WAL_BYTES_CHECKPOINT
                && let Err(error) = self.pages.checkpoint(&self.conn)
            {
                tracing::warn!(%error, "checkpoint of the home's metadata; trying again later");
            }
        }
    }

    /// True where anything changed.
    fn try_transact(
        &mut self,
        batch: &mut [Box<dyn Change>],
        garbage: &mut Vec<(Ino, u64)>,
    ) -> Result<bool> {
        let before = self.counters;
        let now = now_ns(self.clock.as_ref());
        sql::run(&self.conn, "BEGIN IMMEDIATE", [])?;
        let full = self.is_full()?;
        for change in batch {
            let (counters, trash) = (self.counters, garbage.len());
            sql::run(&self.conn, "SAVEPOINT change", [])?;
            let mut tx = Tx {
                conn: &self.conn,
                counters: &mut self.counters,
                shared: &self.shared,
                now,
                full,
                spool_garbage: garbage,
            };
            if !change.run(&mut tx) {
                self.counters = counters;
                garbage.truncate(trash);
                sql::run(&self.conn, "ROLLBACK TO change", [])?;
            }
            sql::run(&self.conn, "RELEASE change", [])?;
        }
        self.counters.save(&self.conn, &before)?;
        sql::run(&self.conn, "COMMIT", [])?;
        self.pages.after_commit()
    }

    fn is_full(&self) -> Result<bool> {
        let bound = metadata_bytes_max(self.shared.bytes_max);
        Ok(self.pages.database_bytes() > bound && {
            // Pages on the free list can be used again.
            let free: i64 = sql::first(&self.conn, "PRAGMA freelist_count", [], |r| r.get(0))?
                .unwrap_or_default();
            free < 64
        })
    }
}

/// The wall clock in nanoseconds since 1970, as inodes keep it.
pub(crate) fn now_ns(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.now().as_nanosecond()).unwrap_or(i64::MAX)
}
