//! File calls by path over any [`vfs::FileSystem`]: the one implementation, for a live home in the
//! keeper and for a snapshot or a draft in `control`.
//!
//! # Durability
//! Every call that changes something returns only after `sync_local`: it survives power loss here.
//!
//! # Bounds
//! Bodies of any size pass through with at most a few MiB in memory: [`stream`] in,
//! `pulled` out.
//!
//! # Not here
//! Who may call, awake or asleep (`control::files`), headers (`api-v1`).

mod lane;
mod pulled;
mod read;
pub mod stream;
mod types;
mod write;

use std::sync::Arc;

use vfs::path::TreePath;
use vfs::path_ops::{self, Last};
use vfs::{Attr, FileSystem, Kind, Touched};

pub use lane::Lane;
pub use stream::ByteStream;
pub use types::{
    Entry, FileInfo, ImportDone, ListPage, Preconditions, PutDone, PutOptions, Range, Tags,
};

use crate::{Failure, Result};

/// Most entries in one page of a listing.
pub const LIST_ENTRIES_MAX: usize = 1000;

/// Told what a call changed, before the call returns.
pub type OnChange = Arc<dyn Fn(&Touched) + Send + Sync>;

/// File calls on one tree.
#[derive(Clone)]
pub struct Files {
    fs: Arc<dyn FileSystem>,
    on_change: Option<OnChange>,
    lane: Arc<Lane>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("fs", &self.fs).finish_non_exhaustive()
    }
}

impl Files {
    /// Calls on `fs`.
    #[must_use]
    pub fn new(fs: Arc<dyn FileSystem>) -> Self {
        Self { fs, on_change: None, lane: Arc::default() }
    }

    /// Tells `on_change` about every change, so that a guest's caches can be told.
    #[must_use]
    pub fn with_on_change(mut self, on_change: OnChange) -> Self {
        self.on_change = Some(on_change);
        self
    }

    /// Small changes go through `lane`, for those who make another of these for each call.
    #[must_use]
    pub fn with_lane(mut self, lane: Arc<Lane>) -> Self {
        self.lane = lane;
        self
    }

    /// What stands at `path`; a link at its end is shown as a link.
    ///
    /// # Errors
    /// `NotFound`, naming the path.
    pub async fn stat(&self, path: &TreePath) -> Result<FileInfo> {
        let (this, path) = (self.clone(), path.clone());
        blocking(move || {
            let attr = path_ops::stat(&*this.fs, &path, Last::Keep)?;
            this.info(&attr)
        })
        .await
    }

    fn info(&self, attr: &Attr) -> Result<FileInfo> {
        let link_target = match attr.kind {
            Kind::Symlink => Some(self.fs.readlink(attr.ino)?),
            _ => None,
        };
        Ok(FileInfo {
            kind: attr.kind,
            perm: attr.perm,
            owner: attr.owner,
            size: attr.size,
            mtime: attr.mtime,
            etag: self.etag(attr),
            link_target,
        })
    }

    fn etag(&self, attr: &Attr) -> String {
        format!("{:x}-{:x}", attr.ino, attr.version)
    }

    fn changed(&self, touched: &Touched) {
        if let Some(on_change) = &self.on_change {
            on_change(touched);
        }
    }
}

/// Runs file-system work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Failure::internal("a file call ended early", error)),
    }
}

/// Something that may block while it is dropped, let go where that is no harm: it pins inodes, and the
/// last pin frees them.
#[derive(Debug)]
struct LetGo<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> LetGo<T> {
    fn new(held: T) -> Self {
        Self(Some(held))
    }

    fn take(mut self) -> T {
        self.0.take().expect("it is there until it is taken, which consumes this")
    }
}

impl<T: Send + 'static> Drop for LetGo<T> {
    fn drop(&mut self) {
        let Some(held) = self.0.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(handle) => drop(handle.spawn_blocking(move || drop(held))),
            Err(_) => drop(held),
        }
    }
}
