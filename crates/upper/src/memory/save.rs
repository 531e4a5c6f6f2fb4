//! Asleep, once the upper is stored: the memory goes to the store.
//!
//! # Order
//! All pieces are read and compared with those of the memory before. New ones are read again, compressed and packed,
//! a pack while the one before it is stored. The generations are looked at, and the file once more; then the manifest
//! is created, and what only the memory before needed is deleted, its name first.
//!
//! # Invariants
//! Whoever goes on with the machine elsewhere makes a generation of the upper before it reads, and may name packs of
//! the memory before in its own. So nothing is named, and nothing deleted, by whom such a generation has overtaken.
//!
//! # Failure
//! What was stored until then is noted, and taken by the next attempt, which makes the same packs where it has the same template; or it is deleted
//! after the next memory is named.
//!
//! # Bounds
//! Two packs in memory, and the state.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use base::Epoch;
use bytes::Bytes;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::Memory;
use super::manifest::{Image, Pack, Piece, Place};
use super::pack::{Found, Packed, Source, kept};
use super::template::Template;
use crate::error::{Error, Result, blocking};
use crate::keys::{Generation, TemplateId};
use crate::limits::{ABOUT_BYTES_MAX, DELETES, MEMORY_BYTES_MAX, MEMORY_STATE_BYTES_MAX};
use crate::looked::Looked;
use crate::origins::Origins;
use crate::pins::Named;
use crate::place::Upper;
use crate::save::Saved;
use crate::state::{Look, NotedPack, State};

/// One attempt.
struct Attempt {
    source: Arc<Source>,
    epoch: Epoch,
    /// How the note was when it began.
    state: State,
    stop: CancellationToken,
    packs: Vec<Pack>,
    /// Of those that are taken over.
    origins: Origins,
    /// What pieces lie over, those that are taken over or those that are new.
    template: Option<TemplateId>,
    /// Where pieces lie, by content.
    places: HashMap<Place, Piece>,
    /// Packs that were stored now, and their bytes.
    stored: (u64, u64),
}

impl Upper {
    /// Stores the memory that the last run left; its upper is in the store. Nobody writes to it until this
    /// returns. `Nothing` also where the upper is not stored yet.
    ///
    /// # Errors
    /// Those of store and disk, `TooLarge`, `Changed`; `Overtaken` where another host has gone on with the machine, or
    /// stored another one in its place: no later attempt can do. Else calling again goes on from there.
    pub async fn save_memory(&self, memory: Memory, stop: &CancellationToken) -> Result<Saved> {
        let state = self.state().await?;
        let Some(upper) = state.memory_goes_with() else { return Ok(Saved::Nothing) };
        let Memory { file, state: beside, about, template } = memory;
        if about.len() > ABOUT_BYTES_MAX || beside.len() as u64 > MEMORY_STATE_BYTES_MAX {
            let (bytes, max) = (beside.len() as u64, MEMORY_STATE_BYTES_MAX);
            return Err(Error::TooLarge { bytes, max });
        }
        let looks = || {
            let (file, disk) = (file.clone(), self.files.disk.clone());
            blocking(move || Ok((Look::at(&file)?, Look::at(&disk)?)))
        };
        let (look, disk) = looks().await?;
        let Some(file_look) = look.filter(|_| disk == state.asleep) else {
            return Err(Error::Changed);
        };
        if file_look.len() > MEMORY_BYTES_MAX {
            return Err(Error::TooLarge { bytes: file_look.len(), max: MEMORY_BYTES_MAX });
        }
        let path = file.clone();
        let source = blocking(move || Source::open(&path, file_look.len(), beside)).await?;
        let before = self.image_before(&state).await?;
        // Of what is not taken over it does not matter what it lies over.
        let taken_over = before.as_ref().filter(|_| state.memory.newest.is_some());
        let over = taken_over.and_then(|before| before.template_for(file_look.len()));
        let template = match &template {
            None => None,
            Some(template) => Template::open(template, file_look.len(), over).await,
        };
        let source = source.over(template.as_ref().map(Template::file));
        let mut attempt = Attempt {
            source: Arc::new(source),
            epoch: state.content,
            state,
            stop: stop.clone(),
            packs: Vec::new(),
            origins: Origins::default(),
            template: over.filter(|_| template.is_some()),
            places: HashMap::new(),
            stored: (0, 0),
        };
        let Some(mut pieces) = attempt.survey().await? else { return Ok(Saved::Stopped) };
        // The template is stored where that is of use.
        if let (Some(template), None) = (&template, over)
            && pieces.iter().any(|found| found.over)
        {
            attempt.template = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Saved::Stopped),
                id = self.stored_template(template, upper, stop) => id,
            };
            if attempt.template.is_none() {
                pieces.iter_mut().for_each(|found| found.over = false);
            }
        }
        if attempt.state.memory.newest.is_some() {
            attempt.take_over(before.as_ref(), &pieces);
        }
        let packed = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Saved::Stopped),
            packed = self.save_packs(&mut attempt, &pieces) => packed?,
        };
        if !packed {
            return Ok(Saved::Stopped);
        }
        let looked = self.not_overtaken(Some(upper)).await?;
        if looks().await? != (look, disk) {
            return Err(Error::Changed);
        }
        let image = self.name(attempt.image(upper, about, &pieces)).await?;
        self.finish_memory(&attempt, before, &image, looked).await?;
        let (chunks, bytes) = attempt.stored;
        Ok(Saved::Stored { generation: upper, chunks, bytes })
    }

    /// Deletes what this host has stored of the machine's memory: it is to be in the store no more.
    ///
    /// # Errors
    /// Those of store and disk; `Overtaken` where another host went on with the machine, whose it is then. Calling again
    /// goes on.
    pub async fn unstore_memory(&self) -> Result<()> {
        let state = self.state().await?;
        let Some(newest) = state.memory_before() else { return Ok(()) };
        self.not_overtaken(state.parent).await?;
        let image = self.image_before(&state).await?;
        self.store.delete(&self.keys.memory(newest)).await?;
        let noted = state.memory.packs.iter().filter_map(NotedPack::pack);
        let packs = noted.chain(image.iter().flat_map(own_packs)).collect();
        let left = self.delete_packs(None, packs).await;
        self.note(move |state| {
            if state.memory_before() == Some(newest) {
                (state.memory.stored, state.memory.newest) = (Epoch::default(), None);
                state.memory.found = None;
                state.memory.packs =
                    left.into_iter().map(|pack| NotedPack::of(pack, false)).collect();
            }
        })
        .await
    }

    /// The memory before, where it still counts for something: whoever stored a later one deleted its name.
    async fn image_before(&self, state: &State) -> Result<Option<Image>> {
        let Some(epoch) = state.memory_before() else { return Ok(None) };
        match self.stored_image(epoch).await {
            Ok(image) => Ok(Some(image)),
            Err(Error::Store(objstore::Error::NotFound { .. })) => Ok(None),
            Err(error @ (Error::Damaged { .. } | Error::Unsupported { .. })) => {
                tracing::warn!(%error, "all of a memory is stored anew");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Packs and stores what is not there. False where it is told to stop.
    async fn save_packs(&self, attempt: &mut Attempt, pieces: &[Found]) -> Result<bool> {
        let mut seen = HashSet::new();
        let is_new = |found: &&Found| found.find(&attempt.places).is_none();
        let wanted = pieces.iter().filter(is_new).filter(|found| seen.insert(found.place()));
        let wanted: Arc<[Found]> = wanted.copied().collect();
        let (mut done, mut made) = (0, None::<(Pack, Bytes)>);
        loop {
            let next = attempt.pack(&wanted, done);
            let (put, next) = tokio::join!(self.put_pack(attempt, made.take()), next);
            put?;
            let Some(packed) = next? else { return Ok(false) };
            let Some(packed) = packed else { return Ok(true) };
            done += packed.pieces.len();
            made = Some(attempt.add(packed));
        }
    }

    /// Notes a pack and stores it, where an earlier attempt has not.
    async fn put_pack(&self, attempt: &Attempt, made: Option<(Pack, Bytes)>) -> Result<()> {
        let Some((pack, body)) = made else { return Ok(()) };
        if attempt.state.memory.packs.iter().any(|one| one.there && one.pack() == Some(pack)) {
            return Ok(());
        }
        self.note_pack(attempt, pack, false).await?;
        self.store.put(&self.keys.pack(&pack.digest, pack.born), body).await?;
        self.note_pack(attempt, pack, true).await
    }

    async fn note_pack(&self, attempt: &Attempt, pack: Pack, there: bool) -> Result<()> {
        let of = attempt.state.clone();
        self.note(move |state| {
            if state.is_same_sleep(&of) {
                state.memory.packs.retain(|one| one.pack() != Some(pack));
                state.memory.packs.push(NotedPack::of(pack, there));
            }
        })
        .await
    }

    /// When it was looked whether `ours` is the newest generation.
    async fn not_overtaken(&self, ours: Option<Generation>) -> Result<Looked> {
        let looked = Looked::now();
        if self.log().await?.newest() == ours { Ok(looked) } else { Err(Error::Overtaken) }
    }

    /// Creates the manifest; the one that is there then.
    async fn name(&self, image: Image) -> Result<Image> {
        let key = self.keys.memory(image.epoch);
        match self.store.create(&key, image.encode()).await {
            Ok(()) => Ok(image),
            // An attempt of ours whose reply was lost, or that did not live to note it. It may have had a template that
            // this one has not, or the other way around.
            Err(objstore::Error::Exists { .. }) => {
                let there = self.stored_image(image.epoch).await?;
                if there.is_same_memory(&image) { Ok(there) } else { Err(Error::Overtaken) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Notes that it is stored, and deletes what nobody needs any more, unless somebody may have come since it was
    /// looked. What is not deleted is noted.
    async fn finish_memory(
        &self,
        attempt: &Attempt,
        before: Option<Image>,
        image: &Image,
        looked: Looked,
    ) -> Result<()> {
        let named: HashSet<Pack> = image.packs.iter().copied().collect();
        let noted = self.state().await?.memory.packs;
        let noted = noted.iter().filter_map(NotedPack::pack);
        let of_before = before.iter().flat_map(own_packs);
        let doomed: HashSet<Pack> =
            noted.chain(of_before).filter(|pack| !named.contains(pack)).collect();
        self.note_memory(attempt, doomed.iter().copied().collect()).await?;
        if looked.is_stale() {
            return Ok(());
        }
        let old = before.filter(|before| before.epoch != image.epoch);
        let left = self.delete_packs(old.map(|old| old.epoch), doomed).await;
        self.note_memory(attempt, left).await
    }

    async fn note_memory(&self, attempt: &Attempt, packs: Vec<Pack>) -> Result<()> {
        let (of, epoch) = (attempt.state.clone(), attempt.epoch);
        self.note(move |state| {
            if state.is_same_sleep(&of) {
                state.memory.stored = epoch;
                (state.memory.newest, state.memory.found) = (Some(epoch), None);
                state.memory.packs =
                    packs.into_iter().map(|pack| NotedPack::of(pack, false)).collect();
            }
        })
        .await
    }

    /// Which of them are left.
    async fn delete_packs(&self, name: Option<Epoch>, doomed: HashSet<Pack>) -> Vec<Pack> {
        if let Some(name) = name
            && let Err(error) = self.store.delete(&self.keys.memory(name)).await
        {
            tracing::warn!(%error, "an older memory stays in the store for now");
            return doomed.into_iter().collect();
        }
        if doomed.is_empty() {
            return Vec::new();
        }
        // After its name: who pins a memory looks for that once it has.
        let mut pinned = Named::new();
        if let Err(error) = self.remote().add_pinned_packs(&mut pinned).await {
            tracing::warn!(%error, "an older memory stays in the store for now");
            return doomed.into_iter().collect();
        }
        // What is pinned is a collector's, from now on.
        let doomed = doomed.into_iter().filter(|pack| !pinned.contains(&(pack.digest, pack.born)));
        let each = doomed.map(|pack| async move {
            let gone = self.store.delete(&self.keys.pack(&pack.digest, pack.born)).await;
            gone.err().map(|error| (pack, error))
        });
        let left: Vec<_> = futures::stream::iter(each)
            .buffer_unordered(DELETES)
            .filter_map(std::future::ready)
            .collect()
            .await;
        if let Some((_, error)) = left.first() {
            tracing::warn!(%error, packs = left.len(), "some of an older memory stays in the store for now");
        }
        left.into_iter().map(|(pack, _)| pack).collect()
    }
}

/// Those that this machine stored itself: of what it was forked from, nothing is its to delete.
fn own_packs(image: &Image) -> impl Iterator<Item = Pack> {
    image.packs.iter().copied().filter(|pack| image.origins.is_own(pack.born))
}

impl Attempt {
    async fn survey(&self) -> Result<Option<Vec<Found>>> {
        let (source, stop) = (self.source.clone(), self.stop.clone());
        blocking(move || source.survey(&stop)).await
    }

    /// Names again what lies in packs of the memory before.
    fn take_over(&mut self, before: Option<&Image>, pieces: &[Found]) {
        self.origins = before.map(|before| before.origins.clone()).unwrap_or_default();
        let named = before.and_then(|before| before.template_for(self.source.file_bytes));
        let at_hand = named.is_some() && named == self.template;
        self.template = named.or(self.template);
        let mut numbers: HashMap<Pack, u32> = HashMap::new();
        let mut kept: Vec<_> =
            kept(before, pieces, at_hand, self.source.file_bytes).into_iter().collect();
        // The same at every attempt.
        kept.sort_unstable_by_key(|(_, (_, piece))| (piece.pack, piece.at));
        for (place, (pack, piece)) in kept {
            let packs = &mut self.packs;
            let number = *numbers.entry(pack).or_insert_with(|| {
                packs.push(pack);
                (packs.len() - 1) as u32
            });
            self.places.insert(place, Piece { pack: number, ..piece });
        }
    }

    /// The next pack; an inner `None` after the last, an outer one where it is told to stop.
    fn pack(
        &self,
        wanted: &Arc<[Found]>,
        done: usize,
    ) -> impl Future<Output = Result<Option<Option<Packed>>>> + use<> {
        let (source, wanted, stop) = (self.source.clone(), wanted.clone(), self.stop.clone());
        blocking(move || {
            let rest = wanted.get(done..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(Some(None));
            }
            Ok(source.pack(rest, &stop)?.map(Some))
        })
    }

    fn add(&mut self, packed: Packed) -> (Pack, Bytes) {
        let Packed { body, digest, pieces } = packed;
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let pack = Pack { digest, born: self.epoch, len };
        let number = self.packs.len() as u32;
        self.packs.push(pack);
        for (found, at, stored) in pieces {
            let Found { digest, over, .. } = found;
            self.places.insert(found.place(), Piece { digest, pack: number, at, stored, over });
        }
        self.stored.0 += 1;
        self.stored.1 += u64::from(len);
        (pack, Bytes::from(body))
    }

    fn image(&self, upper: Generation, about: Vec<u8>, pieces: &[Found]) -> Image {
        let place = |found: &Found| Some((found.index, *found.find(&self.places)?.1));
        let pieces: BTreeMap<u32, Piece> = pieces.iter().filter_map(place).collect();
        Image {
            epoch: self.epoch,
            upper,
            file_bytes: self.source.file_bytes,
            state_bytes: self.source.state_bytes(),
            about,
            origins: self.origins.clone(),
            // As long as something lies over it.
            template: self.template.filter(|_| pieces.values().any(|piece| piece.over)),
            packs: self.packs.clone(),
            pieces,
        }
    }
}
