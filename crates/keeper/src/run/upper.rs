//! The machine's upper: which one the guest runs upon, and what is noted for the store after it.
//!
//! # Order
//! The home is claimed; the upper is decided upon, and made where it is not here, its chunks to come later
//! ([`disk`](super::disk)); then the guest runs. It is gone; the upper is
//! noted beside the last commit of the home. Storing it is the server's, once the machine sleeps.
//!
//! # Failure
//! Without an upper no guest runs. A note that does not reach the store keeps nobody from sleeping.

use std::io;
use std::path::Path;
use std::time::Duration;

use ::upper::{Begin, Found, StoredMemory, Upper};
use base::{Digest, Epoch, ErrorKind};
use homefs::Opened;
use images::Images;

use super::Keeper;
use super::clone::Beginning;
use crate::{Failure, Result};

/// How long the store may take to hear that the upper changed; a sleep waits for it.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);

impl Keeper {
    pub(super) fn upper(&self) -> Upper {
        Upper::new(self.parts.store.clone(), &self.spec.machine, self.dir.upper_files())
    }

    /// Brings the upper that the guest is to run upon here, and learns which root it lies over. Where there
    /// is none yet, the machine begins with what was found for it; else it does not begin. With it what memory the
    /// store has for it.
    pub(super) async fn ready_upper(
        &mut self,
        opened: &Opened,
        beginning: Beginning,
    ) -> Result<(Beginning, Option<Result<StoredMemory, String>>)> {
        let images = Images::open(&self.spec.upper.images_dir);
        let begin = Begin {
            epoch: opened.epoch,
            was_awake: self.spec.take_over_from.is_some(),
            disk_bytes_max: self.spec.upper.bytes,
        };
        let upper = self.upper();
        let pin = self.dir.root_pin();
        let begun = tokio::select! {
            begun = upper.begin(
                begin,
                |root| root_of(&images, root).map(drop),
                |root| pin_to(&pin, root).map(drop),
            ) => begun?,
            () = self.stop.cancelled() => {
                return Err(Failure::new(ErrorKind::Unavailable, "put to sleep before the guest was up"));
            }
        };
        tracing::info!(found = ?begun.found, "upper");
        let wanted = self.spec.upper.root;
        let root = crate::files::blocking(move || match begun.found {
            Found::Here => pinned(&pin),
            // It was pinned before it was put in its place.
            Found::Stored { root } => Ok(root),
            // Pin first, then make the layer: a crash between leaves a pin that is written again.
            Found::Nowhere => pin_to(&pin, &wanted),
        })
        .await?;
        self.spec.instance.root_image = root_of(&images, &root)?;
        self.standing.lock().upper_behind = begun.behind;
        let beginning = match begun.found {
            Found::Nowhere => self.make_upper(beginning).await?,
            Found::Here | Found::Stored { .. } => Beginning::Boot,
        };
        // One that was opened early goes on being served, with what was loaded upon it.
        if begun.found != Found::Here || self.disk.is_none() {
            self.open_disk().await?;
        }
        Ok((beginning, begun.memory))
    }

    /// The root that the upper here lies over, where both are here. What a claim finds may be another.
    pub(super) fn root_here(&self) -> Option<std::path::PathBuf> {
        let images = Images::open(&self.spec.upper.images_dir);
        root_of(&images, &pinned(&self.dir.root_pin()).ok()?).ok()
    }

    /// Notes how the guest left the upper, which is on the disk; or says why nothing of it is stored.
    pub(super) async fn leave_upper(&self, epoch: Epoch, ended: Result<()>) -> Result<()> {
        let upper = self.upper();
        let left = async {
            match &ended {
                Ok(()) => upper.leave(epoch).await.map(drop),
                Err(_) => upper.leave_unstored(epoch).await,
            }
        };
        let why = match tokio::time::timeout(LEAVE_PATIENCE, left).await {
            Ok(Ok(())) => return ended.map_err(not_stored),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", LEAVE_PATIENCE.as_secs()),
        };
        tracing::warn!(why, "the store does not know yet that the upper changed");
        ended.map_err(not_stored)
    }
}

fn not_stored(error: Failure) -> Failure {
    let what = "this host's disk failed: what has changed since then outside of /root (packages, /etc, /var) may be \
                lost, and is not stored";
    Failure::new(error.kind, format!("{what}: {}", error.message))
}

impl From<::upper::Error> for Failure {
    fn from(error: ::upper::Error) -> Self {
        let doing = "bring the machine's packages and system files (all outside of /root) here";
        Self::new(error.kind(), format!("{doing}: {error}"))
    }
}

fn root_of(images: &Images, root: &Digest) -> Result<std::path::PathBuf> {
    images.root(root).map_err(|error| {
        tracing::warn!(%error, "the root file system is not here");
        Failure::new(
            ErrorKind::NotFound,
            format!(
                "the machine's packages and system files lie over the root file system sha256:{root}, which \
                 this host does not have: copy it into the images directory from a host that has it"
            ),
        )
    })
}

/// The root that the upper here lies over. It is written down before there is an upper, so that only something
/// else can have taken it away; the image's newest root is no answer then, since over another one than its own
/// an upper is another system.
fn pinned(pin: &Path) -> Result<Digest> {
    match std::fs::read_to_string(pin) {
        Ok(text) => text.trim().parse().map_err(|error| {
            Failure::new(ErrorKind::Corrupt, format!("root.sha256 of the machine: {error}"))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::new(
            ErrorKind::Corrupt,
            "root.sha256 of the machine is gone: nobody knows over which root file system its packages and \
             system files lie; put the file back, or set its upper.ext4 aside to begin with what is stored",
        )),
        Err(error) => Err(Failure::internal("read root.sha256 of the machine", error)),
    }
}

/// On the disk before the layer is, or a loss of power could leave a layer over nobody knows what.
fn pin_to(pin: &Path, root: &Digest) -> Result<Digest> {
    ::upper::file::replace(pin, format!("{root}\n").as_bytes())
        .map_err(|error| Failure::internal("pin the machine's image", error))?;
    Ok(*root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upper_whose_root_is_not_known_is_not_run_over_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let pin = dir.path().join("root.sha256");
        let gone = pinned(&pin).unwrap_err();
        assert_eq!(gone.kind, ErrorKind::Corrupt);
        assert!(gone.message.contains("root.sha256"), "{}", gone.message);
        assert!(!pin.exists(), "nothing is made up");
        // Nor is one that cannot be read taken for none.
        std::fs::create_dir(&pin).unwrap();
        assert_eq!(pinned(&pin).unwrap_err().kind, ErrorKind::Internal);
    }

    #[test]
    fn a_machine_stays_with_the_root_that_its_upper_was_made_over() {
        let dir = tempfile::tempdir().unwrap();
        let pin = dir.path().join("root.sha256");
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        for root in [one, two] {
            pin_to(&pin, &root).unwrap();
            assert_eq!(pinned(&pin).unwrap(), root, "whatever the image is by now");
        }
        std::fs::write(&pin, "not a digest").unwrap();
        assert_eq!(pinned(&pin).unwrap_err().kind, ErrorKind::Corrupt);
    }
}
