//! From the store to a memory.
//!
//! # Order
//! Packs are fetched some at once; of each, the pieces that are wanted are unpacked, compared with their digests
//! and written to a new sparse file, page by page, where they differ from what is there: zeros, which stay holes, or a
//! template's piece, which comes before what lies over it. Whoever asked puts the file in its place.
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
use super::pack::lay_over;
use crate::error::{Error, Result, blocking};
use crate::fetch::{Fetched, Progress, has_digest, unpack};
use crate::keys::TemplateKeys;
use crate::limits::{PACK_FETCHES, PAGE_BYTES, PIECE_BYTES};
use crate::place::Upper;

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

/// A pack, and what is wanted of it.
struct Wanted {
    key: String,
    len: u32,
    pieces: Vec<(u32, Piece)>,
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
        let mut parts = Vec::new();
        if let Some(id) = image.template {
            let (template, keys) =
                (self.template_image(id, image.file_bytes).await?, TemplateKeys::of(id));
            let lies_below = |index| image.pieces.get(&index).is_some_and(|piece| piece.over);
            parts.push(wanted(&template, |pack| keys.pack(&pack.digest), lies_below));
        }
        // Below this machine's prefix, or of one that it was forked from.
        let key =
            |pack: &Pack| image.origins.keys(&self.keys, pack.born).pack(&pack.digest, pack.born);
        parts.push(wanted(image, key, |_| true));
        let packs = parts.iter().flatten();
        let (packs, bytes) = (packs.clone().count(), packs.map(|pack| u64::from(pack.len)).sum());
        progress.begin(bytes);
        let fetched = self.fetch_packs(image, parts, progress).await;
        progress.begin(0);
        if fetched.is_ok() {
            let ms = begun.elapsed().as_millis();
            let template = image.template.is_some();
            tracing::info!(epoch = %image.epoch, packs, bytes, template, ms, "fetched the guest's memory");
        }
        fetched
    }

    async fn fetch_packs(
        &self,
        image: &Image,
        parts: Vec<Vec<Wanted>>,
        progress: &Progress,
    ) -> Result<FetchedMemory> {
        let path = self.files.memory_fetched.clone();
        let (file_bytes, state_bytes) = (image.file_bytes, image.state_bytes);
        let fetched = blocking(move || Fetched::make(path, file_bytes)).await?;
        let state = vec![0; usize::try_from(state_bytes).unwrap_or_default()];
        let target =
            Arc::new(Target { file: fetched.file(), file_bytes, state: Mutex::new(state) });
        for part in parts {
            let each = part.into_iter().map(|pack| {
                let target = target.clone();
                async move {
                    let len = u64::from(pack.len);
                    self.fetch_pack(target, pack).await?;
                    progress.add(len);
                    Ok::<_, Error>(())
                }
            });
            futures::stream::iter(each).buffer_unordered(PACK_FETCHES).try_collect::<()>().await?;
        }
        let state = std::mem::take(&mut *target.state.lock());
        Ok(FetchedMemory { fetched, state })
    }

    async fn fetch_pack(&self, target: Arc<Target>, pack: Wanted) -> Result<()> {
        let Wanted { key, len, pieces } = pack;
        let stored = self.get_whole(&key, len).await?;
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

/// The packs of `image` in which pieces lie that are wanted.
fn wanted(
    image: &Image,
    key: impl Fn(&Pack) -> String,
    is_wanted: impl Fn(u32) -> bool,
) -> Vec<Wanted> {
    let mut by_pack: BTreeMap<u32, Vec<(u32, Piece)>> = BTreeMap::new();
    for (index, piece) in image.pieces.iter().filter(|(index, _)| is_wanted(**index)) {
        by_pack.entry(piece.pack).or_default().push((*index, *piece));
    }
    let pack = |(pack, pieces): (u32, _)| {
        let pack = image.packs.get(pack as usize)?;
        Some(Wanted { key: key(pack), len: pack.len, pieces })
    };
    by_pack.into_iter().filter_map(pack).collect()
}

impl Target {
    fn write(&self, key: &str, index: u32, piece: &Piece, stored: &[u8]) -> Result<()> {
        let state_bytes = self.state.lock().len() as u64;
        let (len, of_state) = len_of(self.file_bytes, state_bytes, index);
        let mut content = unpack(key, stored, len)?;
        let mut below = vec![0; len];
        let at = u64::from(index) * PIECE_BYTES as u64;
        if piece.over {
            self.file
                .read_exact_at(&mut below, at)
                .map_err(Error::disk("read the fetched memory"))?;
            lay_over(&mut content, &below);
        }
        has_digest(key, &content, &piece.digest)?;
        if let Some(at) = of_state {
            let begin = at as usize * PIECE_BYTES;
            if let Some(place) = self.state.lock().get_mut(begin..begin + len) {
                place.copy_from_slice(&content);
            }
            return Ok(());
        }
        let pages = content.chunks(PAGE_BYTES).zip(below.chunks(PAGE_BYTES));
        for (n, (page, _)) in pages.enumerate().filter(|(_, (page, below))| page != below) {
            self.file
                .write_all_at(page, at + (n * PAGE_BYTES) as u64)
                .map_err(Error::disk("write the fetched memory"))?;
        }
        Ok(())
    }
}
