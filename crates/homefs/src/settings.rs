//! What a home is opened with, and what it says about itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Entropy, Epoch, HomeId, ServerId};
use objstore::ObjectStore;
use vfs::{Ino, Touched};

use crate::opening::Opening;
use crate::pressure::BackPressure;
use crate::replica::log::Log;

/// Inodes whose metadata stay in memory, unless settings say otherwise. A hash table of 2^18 places
/// takes 229,376 rows; this leaves room for those that are not folded, so that it never doubles.
pub const INODES_CACHED: usize = 200_000;

/// How long a change waits at most before its replication begins, unless settings say otherwise.
pub const REPLICATE_AFTER: Duration = Duration::from_secs(2);

/// Content that only this host has, in bytes at most, unless settings say otherwise. Ten minutes
/// without the store at 14 MB/s.
pub const UNREPLICATED_BYTES_MAX: u64 = 8 * base::GIB;

/// How long a program's `fsync` waits while the store is away, unless settings say otherwise: as a
/// disk that is slow, not one that fails. A database that is told of a failed `fsync` may give up.
pub const SYNC_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How long giving a home up, or keeping a state of it, waits then: the caller can come again.
pub const RELEASE_PATIENCE: Duration = Duration::from_secs(20);

/// What [`vfs::FileSystem::sync`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// The object store.
    #[default]
    Store,
    /// The local disk. Replication goes on in the background all the same.
    Local,
}

/// Whether a home may be taken from another server that holds it, since that one is lost for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TakeOver {
    /// It may not.
    #[default]
    Never,
    /// From whoever holds it under this epoch. Who claims it later, be it the same server, is another matter: nobody
    /// said of that one that it is lost.
    From(Epoch),
    /// From whoever holds it. For who decides now, not for what is kept.
    Whoever,
}

impl TakeOver {
    /// Whether it may be taken from who holds it under `epoch`.
    pub(crate) fn covers(self, epoch: Epoch) -> bool {
        match self {
            Self::Never => false,
            Self::From(looked_at) => looked_at == epoch,
            Self::Whoever => true,
        }
    }
}

impl From<bool> for TakeOver {
    fn from(whoever: bool) -> Self {
        if whoever { Self::Whoever } else { Self::Never }
    }
}

/// What a user tunes. Plain data.
#[derive(Debug, Clone)]
pub struct HomeSettings {
    /// Which home.
    pub home: HomeId,
    /// The local directory, for this home alone. A clean `home` beside it is made use of.
    pub dir: PathBuf,
    /// The server that opens it.
    pub holder: ServerId,
    /// The most bytes of content.
    pub bytes_max: u64,
    /// What `sync` waits for.
    pub sync: SyncMode,
    /// How long a change waits at most before its replication begins.
    pub replicate_after: Duration,
    /// The most bytes of content that only this host may have. From half of it on writes are slowed
    /// down; at the bound they wait for the store. The local disk needs twice that much: content is
    /// copied when it is sealed.
    pub unreplicated_bytes_max: u64,
    /// How long a caller of `sync` waits while the store is away.
    pub sync_patience: Duration,
    /// How long one of `release`, `snapshot` or `fork` does.
    pub release_patience: Duration,
    /// Inodes whose metadata stay in memory, beside those that changed lately; 200 to 300 bytes each.
    pub inodes_cached: usize,
    /// Whether to take the home although another server holds it.
    pub take_over: TakeOver,
    /// Inodes that are pinned once from the start: a kernel that slept with its memory holds them. Those
    /// that lost their names while they were open are kept. Inodes that are gone do no harm.
    pub held: Vec<Ino>,
    /// Whether inodes without a name are kept that nobody holds, until
    /// [`HomeFs::let_go_of_unnamed`](crate::HomeFs::let_go_of_unnamed): for one who learns later what is held.
    pub keep_unnamed: bool,
    /// Grows while the home is being opened.
    pub opening: Opening,
}

impl HomeSettings {
    /// Settings as most have them: 100 GiB, `sync` waits for the store, replication after 2 s, at
    /// most about 80 MiB for metadata.
    #[must_use]
    pub fn new(home: HomeId, dir: impl Into<PathBuf>, holder: ServerId) -> Self {
        Self {
            home,
            dir: dir.into(),
            holder,
            bytes_max: 100 * base::GIB,
            sync: SyncMode::Store,
            replicate_after: REPLICATE_AFTER,
            unreplicated_bytes_max: UNREPLICATED_BYTES_MAX,
            sync_patience: SYNC_PATIENCE,
            release_patience: RELEASE_PATIENCE,
            inodes_cached: INODES_CACHED,
            take_over: TakeOver::Never,
            held: Vec::new(),
            keep_unnamed: false,
            opening: Opening::default(),
        }
    }
}

/// What does the work.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where homes live.
    pub store: Arc<dyn ObjectStore>,
    /// Times of files, and of quiet.
    pub clock: Arc<dyn Clock>,
    /// Names that nobody else draws.
    pub entropy: Arc<dyn Entropy>,
    /// Runs calls on the store. Calls on a home block on it, so they must not be made from its
    /// own tasks (use `spawn_blocking`).
    pub runtime: tokio::runtime::Handle,
}

impl Parts {
    /// The log of a home, to be read.
    pub(crate) fn log(&self, home: &HomeId) -> Log {
        Log::new(self.store.clone(), self.clock.clone(), home.clone())
    }
}

/// Where the tree came from when a home was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The local directory had exactly what the store has.
    Clean,
    /// The local directory had more: its process was killed.
    LocalContinued,
    /// The store. `lost_local`: what was here had been overtaken by another writer before it was
    /// replicated; it lies beside the directory as `<dir>.parked-<epoch>`.
    FromStore {
        /// Whether local changes were parked.
        lost_local: bool,
    },
}

/// The outcome of opening a home for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Our epoch.
    pub epoch: Epoch,
    /// The number of our claim.
    pub seq: u64,
    /// Where the tree came from.
    pub recovery: Recovery,
    /// Whether whoever had it last ended without giving it up.
    pub crashed: bool,
    /// Files that fell back to what was last synced, because a host was lost with the rest.
    pub files_reverted: u64,
    /// The tree's version as it was found: the same as an earlier [`HomeFs::version`](crate::HomeFs::version) exactly where nothing
    /// has changed since.
    pub version: u64,
}

/// The outcome of giving a home up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// The epoch that ended.
    pub epoch: Epoch,
    /// The commit that ended it.
    pub seq: u64,
}

/// The outcome of publishing a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// All of it is visible.
    Committed {
        /// The commit that made it so.
        seq: u64,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Others wrote meanwhile: nothing was published. Apply [`crate::Draft::changes`] to the live
    /// home.
    Moved {
        /// The commit that the draft began on.
        draft_base: u64,
        /// The newest commit.
        head: u64,
    },
}

/// What a commit is about to make of a home, for a kernel that sleeps and knows the state before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The [`Opened::version`] that the home has.
    pub from: u64,
    /// The one that it has once the commit is made.
    pub to: u64,
    /// What such a kernel has to forget.
    pub touched: Touched,
}

/// What became of one path in a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathChange {
    /// Names from the root.
    pub path: Vec<Vec<u8>>,
    /// What the draft has there; `None` where it removed it.
    pub now: Option<vfs::Attr>,
    /// Inode and version that stood there when the draft began. Where the live home has another
    /// one now, both sides changed it.
    pub base: Option<(Ino, u64)>,
}

/// How an open home is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeStatus {
    /// Our epoch.
    pub epoch: Epoch,
    /// The newest commit of ours that is in the store.
    pub seq: u64,
    /// Another writer has the home.
    pub fenced: bool,
    /// Given up by [`crate::HomeFs::release`].
    pub released: bool,
    /// Metadata transactions that the store does not have.
    pub unreplicated_ops: u64,
    /// Bytes of content that the store does not have.
    pub unreplicated_bytes: u64,
    /// What writers feel of that.
    pub back_pressure: BackPressure,
    /// Commits that were stored since the home was opened.
    pub rounds: u64,
    /// Attempts to store one that failed.
    pub rounds_failed: u64,
    /// Bytes of changes that only the journal has, not the database yet.
    pub journal_bytes: u64,
    /// Why the last attempt to replicate failed; gone with the next success.
    pub replication_error: Option<String>,
    /// Bytes that may be stored.
    pub bytes_max: u64,
    /// Bytes that are.
    pub bytes_used: u64,
    /// Inodes that exist.
    pub inodes_used: u64,
}
