//! Sleeping homes, seen from above: a narrow trait over `homefs`, so that a test can stand in.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use base::{Epoch, HomeId, ServerId, SnapshotId, Timestamp};

use crate::Result;
use crate::files::{ByteStream, FileCalls};

/// Which home, and where its local directories are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeAt {
    /// The home.
    pub home: HomeId,
    /// The machine's directory: `home/`, `draft/` and `snapshot/` are below it.
    pub dir: std::path::PathBuf,
    /// Bytes that the home may hold.
    pub bytes_max: u64,
}

/// The newest commit of a home in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeHead {
    /// Its number.
    pub seq: u64,
    /// Its writer's.
    pub epoch: Epoch,
    /// True where its writer gave the home up.
    pub released: bool,
    /// The server whose commit it is.
    pub holder: ServerId,
    /// When it was made, by that server's clock.
    pub time: Timestamp,
}

/// How a draft's publish went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DraftPublished {
    /// The home is at this commit now.
    Committed {
        /// Its number.
        seq: u64,
        /// How many paths the draft made, changed or took away.
        changed: u64,
    },
    /// The home moved since the draft was opened: nothing was done.
    Moved,
}

/// A kept state of a home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// What people call it.
    pub name: Option<String>,
    /// When it was made.
    pub time: Timestamp,
    /// It cannot be read, and why: it can only be let go of.
    pub damaged: Option<String>,
}

impl HomeSnapshot {
    /// One that cannot be read. Its id says when it was made.
    #[must_use]
    pub fn damaged(id: SnapshotId, why: String) -> Self {
        let time = id.made_at().unwrap_or(Timestamp::UNIX_EPOCH);
        Self { id, name: None, time, damaged: Some(why) }
    }
}

/// The state of a home that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomeState {
    /// Under which epoch it was made.
    pub epoch: Epoch,
    /// True where its writer gave the home up with it; else the machine was awake, here or elsewhere.
    pub released: bool,
}

/// What collecting the garbage of a sleeping home came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HomeCollected {
    /// Objects that were deleted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// There is, or may be, more after this time.
    pub again_after: Option<std::time::Duration>,
}

/// What a draft changes, against the commit it was opened on.
pub struct DraftChanges {
    /// Paths that the draft took away, bytes joined with `/`.
    pub removed: Vec<Vec<u8>>,
    /// Paths that the draft made or changed.
    pub changed: Vec<Vec<u8>>,
    /// What stood at each of these paths when the draft was opened, as an etag of the live home;
    /// `None` for nothing. Where something else stands there now, both sides changed it.
    pub bases: Vec<(Vec<u8>, Option<String>)>,
    /// A tar of everything in `changed`.
    pub tar: ByteStream,
}

impl Debug for DraftChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DraftChanges")
            .field("removed", &self.removed.len())
            .field("changed", &self.changed.len())
            .finish_non_exhaustive()
    }
}

/// Homes in the store, and their drafts on this host.
#[async_trait]
pub trait Homes: Send + Sync + Debug + 'static {
    /// Makes an empty home, released; one that exists is left as it is.
    ///
    /// # Errors
    /// Those of the store.
    async fn create(&self, home: &HomeId) -> Result<()>;
    /// Removes a home from the store and this host; idempotent.
    ///
    /// # Errors
    /// Those of the store.
    async fn delete(&self, at: &HomeAt) -> Result<()>;
    /// The newest commit; `None` for a home that nobody wrote to yet.
    ///
    /// # Errors
    /// Those of the store.
    async fn head(&self, home: &HomeId) -> Result<Option<HomeHead>>;
    /// Deletes what the published state does not need any more. A home that somebody holds is left
    /// alone.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`; those of the store and the disk. Calling again is safe.
    async fn collect(&self, at: &HomeAt) -> Result<HomeCollected>;
    /// The published state, read in place.
    ///
    /// # Errors
    /// Those of the store.
    async fn published(&self, at: &HomeAt) -> Result<Arc<dyn FileCalls>>;
    /// True where unpublished writes exist.
    async fn has_draft(&self, at: &HomeAt) -> bool;
    /// The draft, opened on the published state where there is none.
    ///
    /// # Errors
    /// Those of the store and the disk.
    async fn draft(&self, at: &HomeAt) -> Result<Arc<dyn FileCalls>>;
    /// Publishes the draft in one conditional write, if the home has not moved.
    ///
    /// # Errors
    /// Those of the store.
    async fn publish(&self, at: &HomeAt) -> Result<DraftPublished>;
    /// What the draft changes.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    async fn changes(&self, at: &HomeAt) -> Result<DraftChanges>;
    /// Applies changes onto the newest published state with a writer of its own, and publishes them.
    ///
    /// # Errors
    /// `Fenced` where another server writes; those of the tree.
    async fn apply(&self, at: &HomeAt, changes: DraftChanges) -> Result<()>;
    /// Throws the draft away; idempotent.
    ///
    /// # Errors
    /// Those of the disk.
    async fn discard(&self, at: &HomeAt) -> Result<()>;

    /// Refuses a name that no snapshot can have.
    ///
    /// # Errors
    /// `InvalidArgument`.
    fn check_snapshot_name(&self, name: Option<&str>) -> Result<()>;
    /// Keeps the published state, and says which that is. The same id again is the same snapshot.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a name that cannot be, `TooMany`; those of the store.
    async fn snapshot(
        &self,
        home: &HomeId,
        id: &SnapshotId,
        name: Option<&str>,
    ) -> Result<(HomeSnapshot, HomeState)>;
    /// The snapshots of a home, in the order of their ids, those that cannot be read too.
    ///
    /// # Errors
    /// `NotFound`; those of the store.
    async fn snapshots(&self, home: &HomeId) -> Result<Vec<HomeSnapshot>>;
    /// One snapshot.
    ///
    /// # Errors
    /// `NotFound`; those of the store.
    async fn snapshot_info(&self, home: &HomeId, id: &SnapshotId) -> Result<HomeSnapshot>;
    /// Lets go of a snapshot; idempotent.
    ///
    /// # Errors
    /// Those of the store.
    async fn delete_snapshot(&self, home: &HomeId, id: &SnapshotId) -> Result<()>;
    /// Takes a home that nobody has back to a snapshot.
    ///
    /// # Errors
    /// `NotFound`, `Fenced` where somebody has it, `Conflict` where it moved; those of the store.
    async fn restore(&self, at: &HomeAt, id: &SnapshotId) -> Result<()>;

    /// Keeps the published state, or a snapshot's, for the fork `into`, and says which state that is; idempotent.
    ///
    /// # Errors
    /// `NotFound`, `TooMany`; those of the store.
    async fn hold_fork(
        &self,
        from: &HomeId,
        at: Option<&SnapshotId>,
        into: &HomeId,
    ) -> Result<HomeState>;
    /// Makes `into` a home that goes on from what is kept for it; idempotent.
    ///
    /// # Errors
    /// `NotFound` where nothing is kept for it, `AlreadyExists` where it is another home; those of the
    /// store.
    async fn begin_fork(&self, from: &HomeId, into: &HomeId) -> Result<()>;
    /// Lets go of what is kept for a fork that was not begun; idempotent.
    ///
    /// # Errors
    /// `AlreadyExists` where it was begun; those of the store.
    async fn abandon_fork(&self, from: &HomeId, into: &HomeId) -> Result<()>;
}
