//! Memory of templates in the store, for memory of machines to lie over.
//!
//! What a machine that began with a template sleeps with is most of that template, page by page. The template is
//! stored once, below `templates/<template>/`, by the first machine that sleeps; the others store how they differ.
//!
//! # Order
//! A machine's memory is to be stored: the machine is noted as a user, it is looked whether the template is being
//! deleted, then whether it is there, and it is stored where it is not: packs, then its manifest. Only then is there a
//! manifest of the machine that names the template.
//!
//! # Invariants
//! - A template's name is that of its content: whoever stores it stores the same.
//! - Who uses one notes that *before* it looks for the mark of a deletion; who deletes one makes the mark *before* it
//!   looks for users. So one of the two sees the other.
//! - A fork names the template that its parent did, and is no user itself: what the parent has in the store does not
//!   all go before the fork, and as long as any of it is there, the parent counts as a user.
//!
//! # Failure
//! Without its template a memory is stored whole, or is of no use to a wake, which boots.

use std::fs::File;
use std::path::Path;
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

/// A template's memory on this host that is in the store too.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) id: TemplateId,
    pub(super) file: File,
}

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
    fn path(memory: &Path) -> std::path::PathBuf {
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

/// The name of a template with these pieces.
fn name(file_bytes: u64, pieces: &[Found]) -> TemplateId {
    let mut text = file_bytes.to_le_bytes().to_vec();
    for found in pieces {
        text.extend_from_slice(&found.index.to_le_bytes());
        text.extend_from_slice(found.digest.as_bytes());
    }
    TemplateId(Digest::of(&text))
}

impl Upper {
    /// The template in the file `memory`, to store a memory of `file_bytes` over that comes after `before`. `None`
    /// where it is of no use; the log says why where somebody could do something about it.
    pub(super) async fn template(
        &self,
        memory: &Path,
        file_bytes: u64,
        before: Option<&Image>,
        stop: &CancellationToken,
    ) -> Option<Template> {
        let named = before.and_then(|before| before.template);
        match self.try_template(memory, file_bytes, named, stop).await {
            Ok(template) => template,
            Err(error) => {
                tracing::warn!(%error, "a memory is stored without its template");
                None
            }
        }
    }

    async fn try_template(
        &self,
        memory: &Path,
        file_bytes: u64,
        named: Option<TemplateId>,
        stop: &CancellationToken,
    ) -> Result<Option<Template>> {
        let path = memory.to_owned();
        let open = move || {
            let Some(look) = Look::at(&path)?.filter(|look| look.len() == file_bytes) else {
                return Ok(None);
            };
            let file = File::open(&path).map_err(Error::disk("open a template's memory"))?;
            let known = Note::read(&path, look);
            Ok(Some((path, look, file, known)))
        };
        let Some((path, look, file, known)) = blocking(open).await? else { return Ok(None) };
        match (named, known) {
            // It is in use already.
            (Some(named), Some(known)) if named == known => {
                return Ok(Some(Template { id: known, file }));
            }
            // What lies over another one stays there.
            (Some(_), _) => return Ok(None),
            (None, _) => {}
        }
        let source = {
            let path = path.clone();
            Arc::new(blocking(move || Source::open(&path, file_bytes, Vec::new())).await?)
        };
        let (id, pieces) = match known {
            Some(id) => (id, None),
            None => match survey(&source, stop).await? {
                Some(pieces) => (name(file_bytes, &pieces), Some(pieces)),
                None => return Ok(None),
            },
        };
        let keys = TemplateKeys::of(id);
        self.store.put(&keys.user(self.keys.machine()), Bytes::new()).await?;
        if self.is_there(&keys.unused()).await? {
            return Ok(None);
        }
        if !self.is_there(&keys.memory()).await? {
            let pieces = match pieces {
                Some(pieces) => pieces,
                None => match survey(&source, stop).await? {
                    Some(pieces) => pieces,
                    None => return Ok(None),
                },
            };
            if name(file_bytes, &pieces) != id
                || !self.put_template(id, source, pieces, stop).await?
            {
                return Ok(None);
            }
        }
        let look_again = path.clone();
        if blocking(move || Look::at(&look_again)).await? != Some(look) {
            return Ok(None);
        }
        blocking(move || {
            Note::write(&path, look, id);
            Ok(())
        })
        .await?;
        Ok(Some(Template { id, file }))
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
            pieces: std::collections::BTreeMap::new(),
        };
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
            self.store.put(&keys.pack(&packed.digest), Bytes::from(packed.body)).await?;
        }
        match self.store.create(&keys.memory(), image.encode()).await {
            Ok(()) => {
                let packs = image.packs.len();
                tracing::info!(template = %id, packs, bytes, "stored a template's memory");
            }
            // Somebody else was as far, with the same.
            Err(objstore::Error::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
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
