//! The memory that a machine sleeps with, stored beside its upper.
//!
//! A *memory* is one sparse file, what else it takes to go on from it (*state*, a few hundred KiB), and some
//! words *about* it by which its user decides whether it fits. This crate understands none of them.
//!
//! # Order
//! The upper is stored; the memory is cut into pieces, those that the memory before it has not are
//! packed and stored; then the manifest, which names packs, the run that it is of and the generation of the upper
//! that it was saved with. Pieces that a template has too are stored as differences from it (`template`). A wake elsewhere has created its own generation before it reads any of that.
//!
//! # Invariants
//! - A memory counts for the one claim of the home that follows directly on the run that left it, and beside the
//!   very generation of the upper that it names. So it is never used twice, whoever used it and wherever.
//! - Bytes before names: packs, then the manifest, deletion last, of names before what they name.
//! - Nothing that the store says is believed: lengths are bounded, and every piece is compared with its digest.
//! - A pack is noted here before it is stored, so that one that nobody came to name is found and deleted.
//!
//! # Failure
//! Memory can be done without: whatever is wrong with it costs the processes, and nothing else.

mod fetch;
mod manifest;
mod pack;
mod save;
mod template;
mod unused;

use std::path::PathBuf;

use base::Epoch;

pub use self::fetch::FetchedMemory;
#[cfg(test)]
pub(crate) use self::manifest::Piece;
pub(crate) use self::manifest::{BYTES_MAX, Image, Pack};
pub use self::unused::collect_templates;
use crate::error::Result;
use crate::keys::Generation;
use crate::place::Upper;

/// A memory to be stored. Nobody writes to its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// The sparse file.
    pub file: PathBuf,
    /// What else it takes to go on from it, at most [`STATE_BYTES_MAX`](crate::MEMORY_STATE_BYTES_MAX).
    pub state: Vec<u8>,
    /// What tells whether it fits; in the manifest, so that nothing else has to be read for that. At most
    /// [`ABOUT_BYTES_MAX`](crate::ABOUT_BYTES_MAX).
    pub about: Vec<u8>,
    /// The memory of the template that the machine began with, where that is still here: a file that nobody writes to.
    pub template: Option<PathBuf>,
}

/// A memory in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMemory(pub(crate) Image);

impl StoredMemory {
    /// What was said about it when it was stored; anybody may have written it.
    #[must_use]
    pub fn about(&self) -> &[u8] {
        &self.0.about
    }

    /// Length of its file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.0.file_bytes
    }

    /// Bytes that its file takes at most.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.0.pieces.len() as u64 * crate::limits::PIECE_BYTES as u64
    }
}

impl Upper {
    /// The memory that a wake under `epoch` can go on from, beside the generation `upper`.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(crate) async fn memory_for(
        &self,
        epoch: Epoch,
        stored: &[Epoch],
        upper: Option<Generation>,
    ) -> Result<StoredMemory, String> {
        let Some(last) = stored.iter().max() else {
            return Err("it is not in the store".to_owned());
        };
        if last.next() != epoch {
            return Err(
                "the machine ran, or its home was changed, after what is stored of it".to_owned()
            );
        }
        let image = self.stored_image(*last).await.map_err(|error| error.to_string())?;
        if Some(image.upper) != upper {
            return Err(
                "what is stored of it belongs to another state of the machine's disk".to_owned()
            );
        }
        Ok(StoredMemory(image))
    }

    /// Notes that the guest goes on from a memory of the store: what it leaves is compared with that.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn note_memory_used(&self, memory: &StoredMemory) -> Result<()> {
        let epoch = memory.0.epoch;
        self.note(move |state| {
            state.memory.stored = epoch;
            (state.memory.newest, state.memory.found) = (Some(epoch), None);
        })
        .await
    }

    /// The manifest of the memory that the run of `epoch` left.
    pub(crate) async fn stored_image(&self, epoch: Epoch) -> Result<Image> {
        self.remote().image(self.keys.memory(epoch), epoch).await
    }
}
