//! Asleep: what changed goes to the store.
//!
//! # Order
//! Chunks with data are read, some at once; those that are missing here are named as they are. Those of the generation before are taken over, new ones are
//! compressed and stored; then the file is looked at once more, and the manifest is created. Nobody writes
//! to the file meanwhile; where somebody did, there is no manifest.
//!
//! # Failure
//! What was stored until then is noted before it is named, and found again by the next attempt; so is a
//! manifest that was made and not noted, on a disk that is full, say. The names are ours alone, so nothing is
//! replaced that somebody else needs.
//!
//! # Bounds
//! A few chunks in memory, each as it is and compressed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Arc;

use base::{Digest, Epoch};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, blocking};
use crate::keys::{Generation, Kind};
use crate::lazy::{Boot, Note};
use crate::limits::{CHUNK_BYTES, DISK_BYTES_MAX, STORED_BYTES_MAX, UPLOADS, ZSTD_LEVEL};
use crate::manifest::{Chunk, Manifest};
use crate::place::Upper;
use crate::scan;
use crate::state::{Look, State};

/// How an attempt to store went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// There was nothing to store.
    Nothing,
    /// All of it is in the store.
    Stored {
        /// The generation.
        generation: Generation,
        /// Chunks that were stored now.
        chunks: u64,
        /// Their bytes, as stored.
        bytes: u64,
    },
    /// It was told to stop.
    Stopped,
}

/// What became of one chunk.
enum Piece {
    Hole,
    Known(Chunk),
    New { digest: Digest, body: Bytes },
}

/// One reading of a disk.
#[derive(Debug)]
struct Attempt {
    file: Arc<File>,
    disk_bytes: u64,
    /// Chunks that the store has.
    known: Arc<HashMap<Digest, Chunk>>,
    /// Under which new ones are born.
    epoch: Epoch,
    done: Mutex<Done>,
}

/// What an attempt has stored.
#[derive(Debug, Default)]
struct Done {
    chunks: BTreeMap<u32, Chunk>,
    new: HashMap<Digest, Chunk>,
}

impl Upper {
    /// Stores what the last run changed. `root` is the file system that the upper lies over. Nobody writes
    /// to the disk until it returns.
    ///
    /// # Errors
    /// Those of store and disk; `Overtaken` where another host went on with the machine, after which
    /// there is nothing to be done; `Changed`. Calling again goes on from there.
    pub async fn save(&self, root: &Digest, stop: &CancellationToken) -> Result<Saved> {
        let state = self.state().await?;
        let Some(look) = state.asleep.filter(|_| state.is_ahead_of_the_store()) else {
            return Ok(Saved::Nothing);
        };
        let (files, lazy) = (self.files.clone(), state.lazy);
        let (file, indexes, missing) = blocking(move || {
            if Look::at(&files.disk)? != Some(look) || look.len() > DISK_BYTES_MAX {
                return Err(Error::Changed);
            }
            let file = File::open(&files.disk).map_err(Error::disk("open the upper"))?;
            let mut indexes = scan::with_data(&file, look.len(), CHUNK_BYTES)?;
            let missing =
                if lazy { Note::missing(&files.missing, &Boot::this()?)? } else { BTreeMap::new() };
            // What lies in their place is nothing, or came without being marked.
            indexes.retain(|index| !missing.contains_key(index));
            Ok((Arc::new(file), indexes, missing))
        })
        .await?;
        let parent = match state.parent {
            Some(parent) => Some(self.manifest(parent).await.map_err(gone_is_overtaken)?),
            None => None,
        };
        let generation = Generation { epoch: state.content, kind: Kind::Stored };
        // An attempt that did not live to note it named all that it had stored.
        let made = match self.stored_manifest(generation).await {
            Err(Error::Store(objstore::Error::NotFound { .. })) => None,
            made => Some(made?),
        };
        let attempt = Attempt {
            file,
            disk_bytes: look.len(),
            known: known([&parent, &made], &state),
            epoch: state.content,
            done: Mutex::new(Done { chunks: missing, new: HashMap::new() }),
        };
        let ended = self.save_chunks(&attempt, indexes, stop).await;
        let Done { chunks, new } = attempt.done.into_inner();
        let noted = self.note_ahead(&state, &new).await;
        if !matches!(ended, Ok(true)) {
            noted?;
            return ended.map(|_| Saved::Stopped);
        }
        if let Err(error) = noted {
            // Where it comes to be named, it is found by its name.
            tracing::warn!(%error, "what was stored of an upper is not noted");
        }
        let manifest = Manifest {
            generation,
            parent: state.parent,
            content: state.content,
            root: *root,
            disk_bytes: look.len(),
            origins: parent.as_ref().map(|parent| parent.origins.clone()).unwrap_or_default(),
            chunks,
        };
        self.finish(state, look, manifest, parent, &new).await
    }

    /// False where it was told to stop.
    async fn save_chunks(
        &self,
        attempt: &Attempt,
        indexes: Vec<u32>,
        stop: &CancellationToken,
    ) -> Result<bool> {
        let each = indexes.into_iter().map(|index| async move {
            let Attempt { epoch, done, .. } = attempt;
            let chunk = match attempt.piece(index).await? {
                Piece::Hole => return Ok(()),
                Piece::Known(chunk) => chunk,
                Piece::New { digest, body } => {
                    let stored = u32::try_from(body.len()).unwrap_or(u32::MAX);
                    let chunk = Chunk { digest, born: *epoch, stored };
                    let there = done.lock().new.contains_key(&digest);
                    if !there {
                        self.store.put(&self.keys.chunk(&digest, *epoch), body).await?;
                        done.lock().new.insert(digest, chunk);
                    }
                    chunk
                }
            };
            done.lock().chunks.insert(index, chunk);
            Ok::<_, Error>(())
        });
        let mut each = futures::stream::iter(each).buffer_unordered(UPLOADS);
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(false),
                next = each.next() => next,
            };
            match next {
                Some(done) => done?,
                None => return Ok(true),
            }
        }
    }

    /// Notes what is stored and not named yet.
    async fn note_ahead(&self, of: &State, new: &HashMap<Digest, Chunk>) -> Result<()> {
        let of = of.clone();
        let ahead: Vec<_> = new
            .iter()
            .map(|(digest, chunk)| (digest.to_string(), chunk.born, chunk.stored))
            .collect();
        self.note(move |state| {
            if state.is_same_sleep(&of) {
                state.ahead.extend(ahead);
            }
        })
        .await
    }

    /// Names what is stored.
    async fn finish(
        &self,
        state: State,
        look: Look,
        manifest: Manifest,
        parent: Option<Manifest>,
        new: &HashMap<Digest, Chunk>,
    ) -> Result<Saved> {
        let disk = self.files.disk.clone();
        if blocking(move || Look::at(&disk)).await? != Some(look) {
            return Err(Error::Changed);
        }
        if let Some(parent) = parent.filter(|parent| parent.same_disk(&manifest)) {
            // Written to, and the same again: nobody has to wait for it.
            self.store.delete(&self.keys.changed(state.content)).await?;
            self.note_stored(state, look, parent.content, None).await?;
            return Ok(Saved::Nothing);
        }
        let generation = manifest.generation;
        match self.store.create(&self.keys.manifest(generation), manifest.encode()).await {
            Ok(()) => {}
            Err(objstore::Error::Exists { .. }) => {
                // An attempt of ours that did not live to note it.
                if !self.stored_manifest(generation).await?.same_disk(&manifest) {
                    return Err(Error::Overtaken);
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.keep(&manifest).await;
        let run = state.content;
        self.note_stored(state, look, run, Some(generation)).await?;
        let bytes = new.values().map(|chunk| u64::from(chunk.stored)).sum();
        Ok(Saved::Stored { generation, chunks: new.len() as u64, bytes })
    }

    /// Notes that all of the file is in the store: in the generation that was made, or in the one before.
    /// `run` left it.
    async fn note_stored(
        &self,
        of: State,
        look: Look,
        run: Epoch,
        made: Option<Generation>,
    ) -> Result<()> {
        self.note(move |state| {
            if !state.is_same_sleep(&of) {
                return;
            }
            (state.stored, state.stored_run) = (Some(look), run);
            state.ahead.clear();
            if made.is_some() {
                (state.parent, state.uncollected) = (made, true);
            }
        })
        .await
    }
}

/// A parent that was collected: somebody made a newer generation.
fn gone_is_overtaken(error: Error) -> Error {
    match error {
        Error::Store(objstore::Error::NotFound { .. }) => Error::Overtaken,
        error => error,
    }
}

/// Chunks that are stored already, by content.
fn known(manifests: [&Option<Manifest>; 2], state: &State) -> Arc<HashMap<Digest, Chunk>> {
    let ahead = state.ahead().map(|(digest, born, stored)| Chunk { digest, born, stored });
    let ahead =
        ahead.filter(|chunk| chunk.stored <= STORED_BYTES_MAX && chunk.born <= state.content);
    let named = manifests.into_iter().flatten().flat_map(|one| one.chunks.values().copied());
    Arc::new(ahead.chain(named).map(|chunk| (chunk.digest, chunk)).collect())
}

impl Attempt {
    async fn piece(&self, index: u32) -> Result<Piece> {
        let (file, known, disk_bytes) = (self.file.clone(), self.known.clone(), self.disk_bytes);
        blocking(move || {
            let Some(content) = scan::read(&file, disk_bytes, CHUNK_BYTES, index)? else {
                return Ok(Piece::Hole);
            };
            let digest = Digest::of(&content);
            if let Some(chunk) = known.get(&digest) {
                return Ok(Piece::Known(*chunk));
            }
            let body = zstd::bulk::compress(&content, ZSTD_LEVEL)
                .map_err(Error::disk("compress a chunk of the upper"))?;
            Ok(Piece::New { digest, body: Bytes::from(body) })
        })
        .await
    }
}
