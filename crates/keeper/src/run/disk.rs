//! The machine's upper while chunks of it are still in the store: the guest's hypervisor reads and writes it through
//! us. A disk that is all here is a plain file, which we have nothing to do with.
//!
//! # Order
//! Opened before a guest is loaded, so that it can be loaded upon it; nothing comes before the guest is about to
//! run ([`Keeper::let_chunks_come`]). Before a guest is saved nothing comes any more ([`Keeper::hold_disk`]): what it waits
//! for it goes on to wait for at its next wake. Once the hypervisor is gone what is here is noted
//! ([`Keeper::end_disk`]); then the file may be looked at.
//!
//! # Invariants
//! - One connection at a time has the disk.
//! - A disk that is not all here is never given to a hypervisor as a file.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use ::upper::{LazyDisk, Progress, Upper};
use parking_lot::Mutex;
use runtime::{DiskServer, ServesDisk};

use super::Keeper;
use crate::Result;

/// A disk that is served to whichever hypervisor comes last.
#[derive(Debug)]
pub(super) struct Served {
    disk: LazyDisk,
    /// To the one that has it.
    server: Mutex<Option<nbd_serve::Server>>,
}

/// The disk as the protocol's server knows it.
#[derive(Debug)]
struct Blocks(LazyDisk);

impl nbd_serve::Disk for Blocks {
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read(at, into)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(at, bytes)
    }

    fn zero(&self, at: u64, len: u64, keep: bool) -> io::Result<()> {
        self.0.zero(at, len, keep)
    }

    fn trim(&self, at: u64, len: u64) -> io::Result<()> {
        self.0.trim(at, len)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

impl ServesDisk for Served {
    fn connect(&self) -> io::Result<UnixStream> {
        let mut server = self.server.lock();
        // Its hypervisor is gone, or about to be.
        self.disk.while_nobody_waits(|| *server = None);
        let (ours, theirs) = UnixStream::pair()?;
        *server = Some(nbd_serve::Server::start(ours, Arc::new(Blocks(self.disk.clone())))?);
        Ok(theirs)
    }

    fn fetched_bytes(&self) -> u64 {
        self.disk.fetched_bytes()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Its server waits for its requests, and those may wait for a store.
        self.disk.hold();
    }
}

impl Served {
    /// The disk of `upper`, where chunks of it are missing.
    async fn open(upper: &Upper, progress: &Progress) -> Result<Option<Arc<Self>>> {
        let disk = LazyDisk::open(upper, progress).await?;
        Ok(disk.map(|disk| Arc::new(Self { disk, server: Mutex::new(None) })))
    }

    /// No hypervisor has it any more. What one waits for has to be held before.
    async fn hang_up(self: Arc<Self>) -> Result<()> {
        crate::files::blocking(move || {
            *self.server.lock() = None;
            Ok(())
        })
        .await
    }
}

impl Keeper {
    /// Opens the disk as it is found here, before it is known whether a guest may run upon it. One that cannot be
    /// opened is none: whoever decides finds that out, too.
    pub(super) async fn open_disk_early(&mut self) {
        if let Err(error) = self.open_disk().await {
            tracing::warn!(%error, "open the machine's upper, of which chunks are missing");
        }
    }

    /// Opens the disk that is here now, in place of the one that was. Where all of it is here, there is nothing to serve.
    pub(super) async fn open_disk(&mut self) -> Result<()> {
        self.drop_disk().await?;
        let progress = self.standing.lock().coming.clone();
        let served = Served::open(&self.upper(), &progress).await?;
        self.spec.instance.upper_server = served.clone().map(|served| DiskServer(served));
        self.standing.lock().disk = served.as_ref().map(|served| served.disk.clone());
        self.disk = served;
        Ok(())
    }

    /// Lets go of the disk as it is: no guest ran upon it, or it is another one's now.
    pub(super) async fn drop_disk(&mut self) -> Result<()> {
        self.spec.instance.upper_server = None;
        self.standing.lock().disk = None;
        match self.disk.take() {
            Some(served) => {
                served.disk.hold();
                served.hang_up().await
            }
            None => Ok(()),
        }
    }

    /// Whether a guest can be loaded before chunks come: a hypervisor looks at the first sector of a disk.
    pub(super) fn can_load_early(&self) -> bool {
        self.disk.as_ref().is_none_or(|served| served.disk.has_begin())
    }

    /// A guest is about to run.
    pub(super) fn let_chunks_come(&self) {
        if let Some(served) = &self.disk {
            tracing::info!(
                missing = served.disk.missing(),
                "chunks of the upper come as they are wanted"
            );
            served.disk.go_on();
        }
    }

    /// The guest has answered: what it does not want comes as well. Not sooner, since a guest that boots has more use for
    /// this host's processors.
    pub(super) fn fetch_rest(&self) {
        if let Some(served) = &self.disk {
            served.disk.fetch_rest();
        }
    }

    /// The guest is about to be saved, or is gone.
    pub(super) fn hold_disk(&self) {
        if let Some(served) = &self.disk {
            served.disk.hold();
        }
    }

    /// The guest's hypervisor is gone: brings what is here to the disk, and notes that it is here. Idempotent.
    pub(super) async fn end_disk(&self) -> Result<()> {
        let Some(served) = &self.disk else { return Ok(()) };
        served.disk.hold();
        served.clone().hang_up().await?;
        served.disk.end().await?;
        Ok(())
    }
}
