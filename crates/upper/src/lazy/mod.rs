//! A disk of which chunks are still in the store: they come when somebody reads or writes them, and the rest in
//! the background.
//!
//! The disk is the sparse file that it will be. Beside it lies a note ([`note`]) of the generation that it came
//! from, with a mark for each chunk. A *missing* chunk is a hole in the file that says nothing; all
//! who read the file have to know of it: a guest reads it through a [`LazyDisk`], [`Upper::save`] takes missing
//! chunks over from the note.
//!
//! # Order
//! *A chunk comes*: fetched, compared with its digest, written to the file, marked as here for this boot of the
//! host, let be used. *A write*: the chunk comes first, unless all of it is overwritten, then it is written; so one
//! that was written to is marked before the write is answered. *A flush*: the file is synced, then the chunks that
//! were written to before it began are marked as here for good, then the marks are synced. *All is here*: the
//! same for all chunks, then the state says that nothing is missing, then the note goes.
//!
//! # Invariants
//! - A chunk is marked after its content is in the file, and marked for good after its content is on the disk.
//! - Nothing is written to a chunk's place by us once it was marked: what the guest wrote is never replaced.
//! - Before [`LazyDisk::go_on`] and after [`LazyDisk::hold`] nothing is fetched: a guest that does not run
//!   finds its disk as it left it.
//!
//! # Crash
//! The process is killed: file and marks are in the kernel's memory, in the order in which they were written. The
//! host loses power: marks may be on the disk that were written after content that is not, so those for
//! one boot do not count after it. What is lost with them was never flushed.
//!
//! # Failure
//! Where the host's disk has little room left, chunks come that somebody wants, and the rest waits; where it has none, who
//! wants one is told so, which a hypervisor waits for. A store that is away is asked again, with bounded pauses, for as long as the guest runs; a chunk that is not there,
//! or is not what was stored, is an error for whoever wants it, now and whenever it is wanted. Both are said.

mod background;
mod fetch;
mod io;
mod latch;
mod note;
mod room;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, watch};

use self::latch::Latch;
use self::note::Mark;
#[cfg(test)]
pub(crate) use self::note::marks_in;
pub(crate) use self::note::{Boot, Note};
use self::room::Room;
use self::table::Table;
use crate::error::{Error, Result, blocking};
use crate::fetch::Progress;
use crate::limits::{CHUNK_BYTES, DISK_LEFT_MIN, FETCHES, LOST_MAX};
use crate::manifest::Chunk;
use crate::place::Upper;
use crate::state::State;

/// A disk that is not all here yet. One at a time for a machine. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct LazyDisk(Arc<Inner>);

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody runs upon it yet.
    Still,
    /// A guest does.
    Running,
    /// One hypervisor leaves, another may come: nobody waits for a chunk meanwhile.
    Changing,
    /// No more.
    Held,
}

#[derive(Debug)]
struct Inner {
    upper: Upper,
    file: File,
    bytes: u64,
    note: Note,
    latch: Latch,
    room: Room,
    /// The background waits for room.
    scarce: AtomicBool,
    missing_at_first: usize,
    /// Place in the note, and what is stored.
    chunks: HashMap<u32, (usize, Chunk)>,
    table: Mutex<Table>,
    /// A chunk came, or will not.
    changed: Notify,
    phase: watch::Sender<Phase>,
    /// True once nothing of ours may be written any more.
    ended: RwLock<bool>,
    /// Guest's requests that wait for a chunk.
    waiting: AtomicUsize,
    /// Told when that falls to none.
    quiet: Notify,
    turns: Arc<Semaphore>,
    progress: Progress,
    /// What keeps chunks from coming as of late.
    trouble: Mutex<Option<String>>,
    /// Chunks that cannot be had, and why; the first few.
    lost: Mutex<BTreeMap<u32, String>>,
    runtime: tokio::runtime::Handle,
}

impl LazyDisk {
    /// The disk of `upper`; `None` where all of it is here. To be called in a tokio runtime, which has to outlive it.
    ///
    /// # Errors
    /// Those of the disk; `Damaged` where what is missing is not known.
    pub async fn open(upper: &Upper, progress: &Progress) -> Result<Option<Self>> {
        let files = upper.files.clone();
        let opened = blocking(move || {
            if !State::read(&files.state).lazy {
                return Ok(None);
            }
            let note = Note::open(&files.missing, &Boot::this()?)?;
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).open(&files.disk);
            let file = file.map_err(Error::disk("open the upper"))?;
            let len = file.metadata().map_err(Error::disk("look at the upper"))?.len();
            if len != note.manifest().disk_bytes {
                return Err(Error::damaged("upper.missing", "the disk has another length"));
            }
            Ok(Some((note, file, len)))
        });
        let Some((note, file, bytes)) = opened.await? else { return Ok(None) };
        let chunks = note.manifest().chunks.iter().enumerate();
        let chunks = chunks.map(|(at, (index, chunk))| (*index, (at, *chunk))).collect();
        let table = Table::new(note.marks());
        Ok(Some(Self(Arc::new(Inner {
            upper: upper.clone(),
            file,
            bytes,
            note,
            latch: Latch::default(),
            room: Room::default(),
            scarce: AtomicBool::new(false),
            missing_at_first: table.missing(),
            chunks,
            table: Mutex::new(table),
            changed: Notify::new(),
            phase: watch::Sender::new(Phase::Still),
            ended: RwLock::new(false),
            waiting: AtomicUsize::new(0),
            quiet: Notify::new(),
            turns: Arc::new(Semaphore::new(FETCHES)),
            progress: progress.clone(),
            trouble: Mutex::new(None),
            lost: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        }))))
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Whether its first chunk is here.
    #[must_use]
    pub fn has_begin(&self) -> bool {
        self.0.table.lock().is_here(0)
    }

    /// How many chunks are missing.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.0.table.lock().missing()
    }

    /// Bytes of those that are not missing any more, since it was opened.
    #[must_use]
    pub fn fetched_bytes(&self) -> u64 {
        let came = self.0.missing_at_first.saturating_sub(self.missing());
        CHUNK_BYTES.saturating_mul(came) as u64
    }

    /// What keeps chunks from coming, for people.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let failed = self.0.latch.failed();
        let failed = failed.map(|why| {
            format!("this host's disk failed, and what has changed since is not stored: {why}")
        });
        let lost = || self.0.lost.lock().values().next().cloned();
        let scarce = || {
            let waits = self.0.scarce.load(Ordering::SeqCst) && self.missing() > 0;
            waits.then(no_room)
        };
        failed.or_else(lost).or_else(|| self.0.trouble.lock().clone()).or_else(scarce)
    }

    /// A guest runs upon it from here on: chunks may come.
    pub fn go_on(&self) {
        let inner = &self.0;
        let first = inner.phase.send_if_modified(|phase| {
            let still = *phase == Phase::Still;
            if still {
                *phase = Phase::Running;
            }
            still
        });
        if first {
            inner.begin_progress();
        }
    }

    /// All of them are to come, in the background, until [`Self::hold`]. To be called once.
    pub fn fetch_rest(&self) {
        let inner = &self.0;
        inner.runtime.spawn(Inner::fetch_rest(inner.clone()));
    }

    /// No guest will run upon it any more that has not stopped: chunks that are being waited for are an error of
    /// kind `StorageFull`, upon which a hypervisor can keep the request for a later run.
    pub fn hold(&self) {
        self.0.phase.send_replace(Phase::Held);
    }

    /// Runs `leave`, which ends a hypervisor's requests: those that wait for a chunk do not hold it up, and fail. After it,
    /// chunks come as before, unless all is held meanwhile.
    pub fn while_nobody_waits(&self, leave: impl FnOnce()) {
        let phase = &self.0.phase;
        let mut before = Phase::Held;
        phase.send_if_modified(|phase| {
            before = *phase;
            let changes = before != Phase::Held;
            if changes {
                *phase = Phase::Changing;
            }
            changes
        });
        leave();
        phase.send_if_modified(|phase| {
            let still = *phase == Phase::Changing;
            if still {
                *phase = before;
            }
            still
        });
    }

    /// Ends it: no guest runs. What is here is on the disk when this returns, and known to be here.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn end(&self) -> Result<()> {
        self.hold();
        let inner = self.0.clone();
        blocking(move || {
            *inner.ended.write() = true;
            inner.progress.begin(0);
            inner.keep_all()
        })
        .await
    }
}

fn no_room() -> String {
    format!(
        "the server's disk has less than {} GiB free, which is left for what is written; free space there, and they \
         come by themselves. What the machine reads comes as before",
        DISK_LEFT_MIN >> 30
    )
}

impl Inner {
    fn phase_is(&self, phase: Phase) -> bool {
        *self.phase.borrow() == phase
    }

    /// Returns once nothing is fetched any more.
    async fn held(&self) {
        let mut phase = self.phase.subscribe();
        phase.wait_for(|phase| matches!(phase, Phase::Held | Phase::Changing)).await.ok();
    }

    fn begin_progress(&self) {
        let all = self.chunks.values().map(|(_, chunk)| u64::from(chunk.stored)).sum();
        let left = self.table.lock().missing_indexes();
        let left: u64 = left.iter().map(|index| self.stored(*index)).sum();
        self.progress.begin(all);
        self.progress.add(all - left);
    }

    fn stored(&self, index: u32) -> u64 {
        self.chunks.get(&index).map_or(0, |(_, chunk)| u64::from(chunk.stored))
    }

    /// Brings to the disk what is here, and marks it so for good. Where that is all, there is no note any more.
    fn keep_all(&self) -> Result<()> {
        let here = self.table.lock().not_kept();
        self.keep(&here)?;
        if self.table.lock().missing() > 0 {
            return Ok(());
        }
        State::change(&self.upper.files, |state| state.lazy = false)?;
        Note::remove(&self.upper.files.missing);
        Ok(())
    }

    /// The same for these chunks.
    fn keep(&self, here: &[u32]) -> Result<()> {
        let kept = self.latch.sync(|| {
            self.file.sync_data().map_err(Error::disk("sync the upper"))?;
            if here.is_empty() {
                return Ok(());
            }
            for index in here {
                self.mark(*index, Mark::Kept)?;
            }
            self.note.sync()?;
            // Before another sync fails: what is kept is not distrusted then.
            let mut table = self.table.lock();
            here.iter().for_each(|index| table.kept(*index));
            Ok(())
        });
        if kept.is_err() {
            self.distrust();
        }
        kept
    }

    /// What is not kept may be lost already: whoever opens the disk next fetches it.
    fn distrust(&self) {
        let doubtful = self.table.lock().not_kept();
        for index in doubtful {
            if let Err(error) = self.mark(index, Mark::Missing) {
                tracing::error!(%error, index, "a chunk of the upper may be lost");
            }
        }
    }

    fn mark(&self, index: u32, mark: Mark) -> Result<()> {
        match self.chunks.get(&index) {
            Some((at, _)) => self.note.set(*at, mark),
            None => Ok(()),
        }
    }

    fn is_quiet(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    /// Such a chunk is said until it is here, whatever else comes.
    fn lose(&self, index: u32, error: &Error) {
        let mut lost = self.lost.lock();
        if lost.len() < LOST_MAX {
            lost.insert(index, error.to_string());
        }
    }

    fn say(&self, trouble: Option<String>) {
        *self.trouble.lock() = trouble;
    }
}
