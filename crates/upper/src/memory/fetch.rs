//! From the store to a memory.
//!
//! # Order
//! Packs are fetched some at once; of each, the pieces that are wanted are unpacked, compared with their digests
//! and written to a new sparse file, page by page: one of zeros is a hole. Whoever asked puts it in its place.
//!
//! Nothing is synced: who goes on from it does so at once, and its memory is no more after a loss of power.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;

use super::StoredMemory;
use super::manifest::{Image, Pack, Piece, len_of};
use crate::error::{Error, Result, blocking};
use crate::fetch::{Fetched, Progress, unpack};
use crate::limits::{PACK_FETCHES, PIECE_BYTES};
use crate::place::Upper;
use crate::scan;

/// A page of a guest.
const PAGE: usize = 4096;

/// A memory that was fetched. The file goes with this, unless it was put somewhere.
#[derive(Debug)]
pub struct FetchedMemory {
    fetched: Fetched,
    state: Vec<u8>,
}

impl FetchedMemory {
    /// Puts the file in its place; what else was stored with it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn place(self, at: &Path) -> Result<Vec<u8>> {
        std::fs::rename(self.fetched.path(), at)
            .map_err(Error::disk("put the fetched memory in its place"))?;
        Ok(self.state)
    }
}

/// What is being put together.
struct Target {
    file: Arc<File>,
    file_bytes: u64,
    state: Mutex<Vec<u8>>,
}

impl Upper {
    /// Fetches a memory into a file beside.
    ///
    /// # Errors
    /// Those of store and disk; `Corrupt` where something of it is damaged or missing.
    pub async fn fetch_memory(
        &self,
        memory: &StoredMemory,
        progress: &Progress,
    ) -> Result<FetchedMemory> {
        let begun = std::time::Instant::now();
        let image = &memory.0;
        let mut wanted: BTreeMap<u32, Vec<(u32, Piece)>> = BTreeMap::new();
        for (index, piece) in &image.pieces {
            wanted.entry(piece.pack).or_default().push((*index, *piece));
        }
        let wanted: Vec<(Pack, Vec<(u32, Piece)>)> = wanted
            .into_iter()
            .filter_map(|(pack, pieces)| Some((*image.packs.get(pack as usize)?, pieces)))
            .collect();
        let bytes = wanted.iter().map(|(pack, _)| u64::from(pack.len)).sum();
        progress.begin(bytes);
        let fetched = self.fetch_packs(memory, wanted, progress).await;
        progress.begin(0);
        if fetched.is_ok() {
            let (packs, ms) = (image.packs.len(), begun.elapsed().as_millis());
            tracing::info!(epoch = %image.epoch, packs, bytes, ms, "fetched the guest's memory");
        }
        fetched
    }

    async fn fetch_packs(
        &self,
        memory: &StoredMemory,
        wanted: Vec<(Pack, Vec<(u32, Piece)>)>,
        progress: &Progress,
    ) -> Result<FetchedMemory> {
        let (path, image) = (self.files.memory_fetched.clone(), &memory.0);
        let (file_bytes, state_bytes) = (image.file_bytes, image.state_bytes);
        let fetched = blocking(move || Fetched::make(path, file_bytes)).await?;
        let state = vec![0; usize::try_from(state_bytes).unwrap_or_default()];
        let target =
            Arc::new(Target { file: fetched.file(), file_bytes, state: Mutex::new(state) });
        let each = wanted.into_iter().map(|(pack, pieces)| {
            let target = target.clone();
            async move {
                self.fetch_pack(target, image, pack, pieces).await?;
                progress.add(u64::from(pack.len));
                Ok::<_, Error>(())
            }
        });
        futures::stream::iter(each).buffer_unordered(PACK_FETCHES).try_collect::<()>().await?;
        let state = std::mem::take(&mut *target.state.lock());
        Ok(FetchedMemory { fetched, state })
    }

    async fn fetch_pack(
        &self,
        target: Arc<Target>,
        image: &Image,
        pack: Pack,
        pieces: Vec<(u32, Piece)>,
    ) -> Result<()> {
        // Below this machine's prefix, or of one that it was forked from.
        let key = image.origins.keys(&self.keys, pack.born).pack(&pack.digest, pack.born);
        let stored = self.get_whole(&key, pack.len).await?;
        blocking(move || {
            for (index, piece) in pieces {
                let begin = piece.at as usize;
                let stored = stored.get(begin..begin + piece.stored as usize).unwrap_or_default();
                target.write(&key, index, &piece, stored)?;
            }
            Ok(())
        })
        .await
    }
}

impl Target {
    fn write(&self, key: &str, index: u32, piece: &Piece, stored: &[u8]) -> Result<()> {
        let state_bytes = self.state.lock().len() as u64;
        let (len, of_state) = len_of(self.file_bytes, state_bytes, index);
        let content = unpack(key, stored, len, &piece.digest)?;
        if let Some(at) = of_state {
            let begin = at as usize * PIECE_BYTES;
            if let Some(place) = self.state.lock().get_mut(begin..begin + len) {
                place.copy_from_slice(&content);
            }
            return Ok(());
        }
        let mut at = u64::from(index) * PIECE_BYTES as u64;
        for page in content.chunks(PAGE) {
            if !scan::is_zeros(page) {
                self.file
                    .write_all_at(page, at)
                    .map_err(Error::disk("write the fetched memory"))?;
            }
            at += page.len() as u64;
        }
        Ok(())
    }
}
