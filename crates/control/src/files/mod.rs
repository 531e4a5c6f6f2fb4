//! Files of a home, whether its machine is awake or asleep.

mod publish;
pub(crate) mod route;
mod types;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use vfs::path::TreePath;
pub use vfs::tar::ImportOptions;

pub use types::{
    ByteStream, DeleteOptions, Entry, FileBody, FileMeta, Imported, Precondition, PublishReport,
    PutDone, PutOptions, RangeSpec, View,
};

use crate::Result;
use crate::control::Inner;
use crate::machines::MachineRef;
use crate::page::{Page, PageQuery};
use route::Hold;

/// File calls on one tree: a live home through its keeper, a published state, or a draft.
#[async_trait]
pub trait FileCalls: Send + Sync + Debug + 'static {
    /// What stands at a path; a link at its end is not followed.
    async fn head(&self, path: &TreePath) -> Result<FileMeta>;
    /// A file's bytes, or a part of them. A range with nothing in it: `RANGE_NOT_SATISFIABLE` with
    /// detail `size`.
    async fn get(&self, path: &TreePath, range: Option<RangeSpec>) -> Result<FileBody>;
    /// Creates or replaces a file.
    async fn put(&self, path: &TreePath, body: ByteStream, options: PutOptions) -> Result<PutDone>;
    /// Removes a path; returns what stood there.
    async fn delete(&self, path: &TreePath, options: DeleteOptions) -> Result<FileMeta>;
    /// Entries of a directory.
    async fn list(&self, path: &TreePath, page: &PageQuery) -> Result<Page<Entry>>;
    /// Unpacks a tar below a directory, all of it or nothing.
    async fn import_tar(
        &self,
        path: &TreePath,
        body: ByteStream,
        options: ImportOptions,
    ) -> Result<Imported>;
    /// A tar of a tree.
    async fn bundle_tar(&self, path: &TreePath) -> Result<ByteStream>;
}

/// Files of homes.
#[derive(Debug, Clone)]
pub struct Files {
    pub(crate) inner: Arc<Inner>,
}

impl Files {
    /// What stands at a path; a link at its end is not followed.
    ///
    /// # Errors
    /// Here and below: `NotFound` for the machine or the path, `Unavailable` for a machine that stays
    /// on its way up or down, and those of the tree.
    pub async fn head(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        view: View,
    ) -> Result<FileMeta> {
        let target = route::for_read(&self.inner, machine, view).await?;
        target.calls.head(path).await
    }

    /// A file's bytes, or a part of them.
    ///
    /// # Errors
    /// `InvalidArgument` with `RANGE_NOT_SATISFIABLE` and detail `size`.
    pub async fn get(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        range: Option<RangeSpec>,
        view: View,
    ) -> Result<FileBody> {
        let target = route::for_read(&self.inner, machine, view).await?;
        let FileBody { meta, range, body } = target.calls.get(path, range).await?;
        Ok(FileBody { meta, range, body: held(body, target.hold) })
    }

    /// Creates or replaces a file. A body that breaks off changes nothing.
    ///
    /// # Errors
    /// `PreconditionFailed`, `Conflict` where a directory stands there.
    pub async fn put(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<PutDone> {
        let target = route::for_write(&self.inner, machine).await?;
        target.calls.put(path, body, options).await
    }

    /// Removes a path; returns what stood there.
    ///
    /// # Errors
    /// `PreconditionFailed`, `Conflict` for a directory with entries unless `recursive`.
    pub async fn delete(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        options: DeleteOptions,
    ) -> Result<FileMeta> {
        let target = route::for_write(&self.inner, machine).await?;
        target.calls.delete(path, options).await
    }

    /// Entries of a directory.
    ///
    /// # Errors
    /// `Conflict` for what is not a directory.
    pub async fn list(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        page: &PageQuery,
        view: View,
    ) -> Result<Page<Entry>> {
        let target = route::for_read(&self.inner, machine, view).await?;
        target.calls.list(path, page).await
    }

    /// Unpacks a tar below a directory, all of it or nothing.
    ///
    /// # Errors
    /// `InvalidArgument` naming the entry that is not allowed.
    pub async fn import_tar(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        body: ByteStream,
        options: ImportOptions,
    ) -> Result<Imported> {
        let target = route::for_write(&self.inner, machine).await?;
        target.calls.import_tar(path, body, options).await
    }

    /// A tar of a tree.
    ///
    /// # Errors
    /// Those of the tree; one that comes up later ends the stream.
    pub async fn bundle_tar(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        view: View,
    ) -> Result<ByteStream> {
        let target = route::for_read(&self.inner, machine, view).await?;
        Ok(held(target.calls.bundle_tar(path).await?, target.hold))
    }

    /// Makes the writes of a draft visible. Without one: nothing to do.
    ///
    /// # Errors
    /// `NotFound`, `Fenced` where another server writes the home, those of the store and the tree.
    pub async fn publish(&self, machine: &MachineRef) -> Result<PublishReport> {
        let (inner, machine) = (self.inner.clone(), machine.clone());
        self.inner.to_the_end(async move { publish::publish(&inner, &machine).await }).await
    }

    /// Throws a draft away; true where there was one.
    ///
    /// # Errors
    /// `NotFound`, those of the disk.
    pub async fn discard_draft(&self, machine: &MachineRef) -> Result<bool> {
        let (inner, machine) = (self.inner.clone(), machine.clone());
        self.inner.to_the_end(async move { publish::discard(&inner, &machine).await }).await
    }
}

/// Holds on to `hold` until the last byte is out.
fn held(body: ByteStream, hold: Hold) -> ByteStream {
    body.inspect(move |_| _ = &hold).boxed()
}

#[cfg(test)]
mod tests;
