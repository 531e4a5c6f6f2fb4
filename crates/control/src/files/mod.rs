//! Files of a home, whether its machine is awake or asleep.

mod types;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use vfs::path::TreePath;

pub use types::{
    ByteStream, DeleteOptions, Entry, FileBody, FileMeta, Imported, Precondition, PublishReport,
    PutDone, PutOptions, RangeSpec, View,
};

use crate::control::Inner;
use crate::machines::MachineRef;
use crate::page::{Page, PageQuery};
use crate::{Error, Result};

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
    async fn import_tar(&self, path: &TreePath, body: ByteStream) -> Result<Imported>;
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
    pub async fn head(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        view: View,
    ) -> Result<FileMeta> {
        self.read(machine, view).await?.head(path).await
    }
    /// A file's bytes, or a part of them.
    pub async fn get(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        range: Option<RangeSpec>,
        view: View,
    ) -> Result<FileBody> {
        self.read(machine, view).await?.get(path, range).await
    }
    /// Creates or replaces a file. A body that breaks off changes nothing.
    pub async fn put(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<PutDone> {
        self.write(machine).await?.put(path, body, options).await
    }
    /// Removes a path; returns what stood there.
    pub async fn delete(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        options: DeleteOptions,
    ) -> Result<FileMeta> {
        self.write(machine).await?.delete(path, options).await
    }
    /// Entries of a directory.
    pub async fn list(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        page: &PageQuery,
        view: View,
    ) -> Result<Page<Entry>> {
        self.read(machine, view).await?.list(path, page).await
    }
    /// Unpacks a tar below a directory, all of it or nothing.
    pub async fn import_tar(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        body: ByteStream,
    ) -> Result<Imported> {
        self.write(machine).await?.import_tar(path, body).await
    }
    /// A tar of a tree.
    pub async fn bundle_tar(
        &self,
        machine: &MachineRef,
        path: &TreePath,
        view: View,
    ) -> Result<ByteStream> {
        self.read(machine, view).await?.bundle_tar(path).await
    }
    /// Makes the writes of a draft visible. Without one: nothing to do.
    pub async fn publish(&self, machine: &MachineRef) -> Result<PublishReport> {
        let _ = (machine, &self.inner);
        Err(Error::internal("not written yet"))
    }
    /// Throws a draft away; true where there was one.
    pub async fn discard_draft(&self, machine: &MachineRef) -> Result<bool> {
        let _ = machine;
        Err(Error::internal("not written yet"))
    }
    async fn read(&self, machine: &MachineRef, view: View) -> Result<Arc<dyn FileCalls>> {
        let _ = (machine, view);
        Err(Error::internal("not written yet"))
    }
    async fn write(&self, machine: &MachineRef) -> Result<Arc<dyn FileCalls>> {
        let _ = machine;
        Err(Error::internal("not written yet"))
    }
}
