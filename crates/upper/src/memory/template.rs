//! Memory of templates in the store, for memory of machines to lie over.
//!
//! What a machine that began with a template sleeps with is most of that template, page by page. The template is
//! stored once, below `templates/<template>/`, by the first machine that sleeps; the others store how they differ.
//!
//! # Order
//! A machine's memory is to be stored, and has pages in common with the template. Where this host has stored the template before: the machine is noted as a user,
//! then it is looked whether the template is being deleted, and whether all of it is there. Where it is not, or was
//! never stored, the machine stores it under a name of its own: the note of a user, packs, the manifest, a look whether
//! all that is still there. Only then is there a manifest of the machine that names the template.
//!
//! # Invariants
//! - A name is one machine's to store under, which is a user of it for as long as it lives: what was deleted does not come
//!   back, and what was broken off goes on.
//! - Who uses a template notes that *before* it looks for the mark of a deletion, and then for the manifest; who deletes
//!   one makes the mark *before* it looks for users, and takes the manifest away before the mark. So one of the two sees
//!   the other, however long either takes.
//! - A fork names the template that its parent did, and is no user itself: what the parent has in the store does not
//!   all go before the fork, and as long as any of it is there, the parent counts as a user.
//!
//! # Failure
//! Without its template a memory is stored whole, or is of no use to a wake, which boots.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Digest, Epoch};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::manifest::{Image, Pack, Piece};
use super::pack::{Found, Source};
use crate::error::{Error, Result, blocking};
use crate::file;
use crate::keys::{Generation, Kind, TemplateId, TemplateKeys};
use crate::limits::{LIST_PAGE, TEMPLATE_PACKS_MAX};
use crate::origins::Origins;
use crate::place::Upper;
use crate::remote::found;
use crate::state::Look;

/// What is written, and all that is read.
const FORMAT: u32 = 1;
/// The longest note.
const NOTE_BYTES_MAX: u64 = 64 << 10;
/// Added to the name of a template's file: the note beside it.
const NOTE: &str = ".stored";

/// What a host knows of a template that it stored.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    format: u32,
    /// How its file looked.
    look: Look,
    /// Its name in the store.
    template: String,
}

impl Note {
    fn path(memory: &Path) -> PathBuf {
        let mut path = memory.to_owned();
        path.as_mut_os_string().push(NOTE);
        path
    }

    /// The name of the template in `memory`, where it was stored from here as it is.
    fn read(memory: &Path, look: Look) -> Option<TemplateId> {
        let path = Self::path(memory);
        if std::fs::metadata(&path).ok()?.len() > NOTE_BYTES_MAX {
            return None;
        }
        let note: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let is_it = note.format == FORMAT && note.look == look;
        is_it.then(|| note.template.parse().ok().map(TemplateId)).flatten()
    }

    fn write(memory: &Path, look: Look, id: TemplateId) {
        let note = Self { format: FORMAT, look, template: id.to_string() };
        let bytes = serde_json::to_vec(&note).unwrap_or_default();
        if let Err(error) = file::replace_soon(&Self::path(memory), &bytes) {
            tracing::debug!(%error, "note that a template is stored");
        }
    }
}

/// The name under which `machine` stores a template with these pieces: the same at every attempt.
fn name(machine: &str, file_bytes: u64, pieces: &[Found]) -> TemplateId {
    let mut text = format!("{machine}\n{file_bytes}\n").into_bytes();
    for found in pieces {
        text.extend_from_slice(&found.index.to_le_bytes());
        text.extend_from_slice(found.digest.as_bytes());
    }
    TemplateId(Digest::of(&text))
}

/// A template's memory on this host.
#[derive(Debug)]
pub(super) struct Template {
    path: PathBuf,
    look: Look,
    file: Arc<File>,
    /// Its name in the store, as far as this host knows.
    known: Option<TemplateId>,
}

impl Template {
    /// The one in the file `memory`, for a memory of `file_bytes`. `named` is the one that the memory lies over already
    /// from which pieces are taken over. `None` where it is of no use.
    pub(super) async fn open(
        memory: &Path,
        file_bytes: u64,
        named: Option<TemplateId>,
    ) -> Option<Self> {
        let path = memory.to_owned();
        let open = move || {
            let Some(look) = Look::at(&path)?.filter(|look| look.len() == file_bytes) else {
                return Ok(None);
            };
            let file = File::open(&path).map_err(Error::disk("open a template's memory"))?;
            let known = Note::read(&path, look);
            Ok(Some(Self { path, look, file: Arc::new(file), known }))
        };
        match blocking(open).await {
            // What lies over another one stays there.
            Ok(template) => template.filter(|one| named.is_none() || named == one.known),
            Err(error) => {
                tracing::warn!(%error, "a memory is stored without its template");
                None
            }
        }
    }

    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }
}

impl Upper {
    /// The name of a template that is in the store now and stays as long as this machine has something there, whose
    /// newest generation is `upper`. `None` where it is to be done without; the log says why where somebody could do
    /// something about it.
    pub(super) async fn stored_template(
        &self,
        template: &Template,
        upper: Generation,
        stop: &CancellationToken,
    ) -> Option<TemplateId> {
        match self.try_stored_template(template, upper, stop).await {
            Ok(id) => id,
            Err(error) => {
                tracing::warn!(%error, "a memory is stored without its template");
                None
            }
        }
    }

    async fn try_stored_template(
        &self,
        template: &Template,
        upper: Generation,
        stop: &CancellationToken,
    ) -> Result<Option<TemplateId>> {
        let (look, file_bytes) = (template.look, template.look.len());
        if let Some(id) = template.known
            && self.is_of_use(id, file_bytes).await?
        {
            return Ok(Some(id));
        }
        let path = template.path.clone();
        let source = blocking(move || Source::open(&path, file_bytes, Vec::new())).await?;
        let source = Arc::new(source);
        let Some(pieces) = survey(&source, stop).await? else { return Ok(None) };
        let id = name(self.keys.machine(), file_bytes, &pieces);
        let keys = TemplateKeys::of(id);
        let user = keys.user(self.keys.machine());
        self.store.put(&user, Bytes::new()).await?;
        if !self.put_template(id, source, pieces, stop).await? {
            return Ok(None);
        }
        // Whoever takes this machine for one that is gone may have deleted what came before its manifest. And others are
        // not to rely on what a machine stores that another host has deleted, or gone on with.
        let stays = self.is_there(&user).await?
            && !self.is_there(&keys.unused()).await?
            && self.log().await?.newest() == Some(upper);
        let path = template.path.clone();
        let noted = move || {
            // It may have been replaced meanwhile.
            let is_it = stays && Look::at(&path)? == Some(look);
            if is_it {
                Note::write(&path, look, id);
            }
            Ok(is_it.then_some(id))
        };
        blocking(noted).await
    }

    /// Notes that this machine's memory may lie over a template that is stored; false where that is not to be used. The
    /// note stays then: memory of the machine that somebody keeps may lie over it.
    async fn is_of_use(&self, id: TemplateId, file_bytes: u64) -> Result<bool> {
        let keys = TemplateKeys::of(id);
        self.store.put(&keys.user(self.keys.machine()), Bytes::new()).await?;
        if self.is_there(&keys.unused()).await? {
            return Ok(false);
        }
        match self.template_image(id, file_bytes).await {
            Err(Error::Store(error)) => Err(error.into()),
            Err(error) => {
                tracing::info!(%error, "a template is stored anew");
                Ok(false)
            }
            Ok(image) => {
                let there = self.template_packs(&keys).await?;
                let is_there =
                    |pack: &Pack| there.get(&keys.pack(&pack.digest)) == Some(&u64::from(pack.len));
                Ok(image.packs.iter().all(is_there))
            }
        }
    }

    /// Names and lengths of the packs of a template.
    async fn template_packs(&self, keys: &TemplateKeys) -> Result<HashMap<String, u64>> {
        let (mut packs, mut after) = (HashMap::new(), None::<String>);
        loop {
            let page = self.store.list(&keys.packs(), after.as_deref(), LIST_PAGE).await?;
            packs.extend(page.iter().map(|object| (object.key.clone(), object.size)));
            match page.last() {
                Some(last) if page.len() == LIST_PAGE && packs.len() < TEMPLATE_PACKS_MAX => {
                    after = Some(last.key.clone());
                }
                _ => return Ok(packs),
            }
        }
    }

    /// Stores packs, then the manifest. False where it is told to stop.
    async fn put_template(
        &self,
        id: TemplateId,
        source: Arc<Source>,
        wanted: Vec<Found>,
        stop: &CancellationToken,
    ) -> Result<bool> {
        let (keys, wanted): (_, Arc<[Found]>) = (TemplateKeys::of(id), wanted.into());
        let mut image = Image {
            epoch: Epoch::default(),
            upper: Generation { epoch: Epoch::default(), kind: Kind::Begun },
            file_bytes: source.file_bytes,
            state_bytes: 0,
            about: Vec::new(),
            origins: Origins::default(),
            template: None,
            packs: Vec::new(),
            pieces: BTreeMap::new(),
        };
        // Of an attempt that was broken off.
        let there = self.template_packs(&keys).await?;
        let (mut done, mut bytes) = (0, 0);
        while done < wanted.len() {
            let (source, wanted, stop) = (source.clone(), wanted.clone(), stop.clone());
            let packed =
                blocking(move || source.pack(wanted.get(done..).unwrap_or_default(), &stop));
            let Some(packed) = packed.await? else { return Ok(false) };
            let pack = u32::try_from(image.packs.len()).unwrap_or(u32::MAX);
            done += packed.pieces.len();
            for (found, at, stored) in packed.pieces {
                let piece = Piece { digest: found.digest, pack, at, stored, over: false };
                image.pieces.insert(found.index, piece);
            }
            let len = u32::try_from(packed.body.len()).unwrap_or(u32::MAX);
            bytes += u64::from(len);
            image.packs.push(Pack { digest: packed.digest, born: image.epoch, len });
            let key = keys.pack(&packed.digest);
            if there.get(&key) != Some(&u64::from(len)) {
                self.store.put(&key, Bytes::from(packed.body)).await?;
            }
        }
        // Nobody else writes under this name.
        self.store.put(&keys.memory(), image.encode()).await?;
        let packs = image.packs.len();
        tracing::info!(template = %id, packs, bytes, "stored a template's memory");
        Ok(true)
    }

    async fn is_there(&self, key: &str) -> Result<bool> {
        match self.store.head(key).await {
            Ok(_) => Ok(true),
            Err(objstore::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The manifest of the template that a memory of `file_bytes` lies over.
    pub(super) async fn template_image(&self, id: TemplateId, file_bytes: u64) -> Result<Image> {
        let key = TemplateKeys::of(id).memory();
        let image = found(self.remote().image(key.clone(), Epoch::default()).await)?;
        let image = image.ok_or_else(|| Error::Missing { key: key.clone() })?;
        let is_one = image.file_bytes == file_bytes && image.template.is_none();
        is_one
            .then_some(image)
            .ok_or_else(|| Error::damaged(&key, "it is no template of this memory"))
    }
}

async fn survey(source: &Arc<Source>, stop: &CancellationToken) -> Result<Option<Vec<Found>>> {
    let (source, stop) = (source.clone(), stop.clone());
    blocking(move || source.survey(&stop)).await
}
