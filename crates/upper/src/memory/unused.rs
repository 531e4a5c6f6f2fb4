//! Deleting the memory of templates that no machine's lies over any more.
//!
//! # Order
//! All names below `templates/` are read. A user of which the store has nothing any more is a machine that was
//! deleted: it is none. A template without users is marked; where still nobody uses it then, its manifest goes, its
//! packs, all else, and last the mark.
//!
//! # Invariants
//! - Whoever makes the mark deletes; a mark that is there already is somebody else's, who may be at it, until it is
//!   older than [`MARK_STANDS`].
//! - A mark is taken back by nobody: whoever saw it did without the template, and whoever did not is seen as a user. A
//!   template that is marked and used gets no new users, and goes when the last one has gone.
//!
//! # Failure
//! The first error ends it; the next time goes on.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use base::{MachineId, ServerId, Timestamp};
use bytes::Bytes;
use objstore::ObjectStore;
use serde::{Deserialize, Serialize};

use crate::collect::{Collected, delete_where};
use crate::error::Result;
use crate::keys::{Keys, TEMPLATES, TemplateId, TemplateKeys};
use crate::limits::LIST_PAGE;
use crate::remote::small;

/// What is written, and the largest that is read.
const FORMAT: u32 = 1;
/// After this a mark is of somebody who did not come to the end.
const MARK_STANDS: Duration = Duration::from_secs(24 * 3600);

/// The content of a mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    format: u32,
    /// Two that are made at once are not the same: a store takes an object twice that is.
    by: ServerId,
    /// Seconds since 1970.
    at: i64,
}

/// A template of which not all names were seen yet.
struct Seen {
    id: TemplateId,
    used: bool,
}

/// Deletes the memory of templates that no machine needs any more. Of machines that are `known` to be there the store is
/// not asked.
///
/// # Errors
/// Those of the store. Calling again goes on.
pub async fn collect_templates(
    store: &Arc<dyn ObjectStore>,
    known: &HashSet<MachineId>,
    now: Timestamp,
) -> Result<Collected> {
    let (mut collected, mut after) = (Collected::default(), None::<String>);
    let mut seen = None::<Seen>;
    loop {
        let page = store.list(TEMPLATES, after.as_deref(), LIST_PAGE).await?;
        for object in &page {
            // What is none of ours stays.
            let Some(id) = TemplateKeys::template(&object.key) else { continue };
            if seen.as_ref().is_none_or(|seen| seen.id != id) {
                collected += delete(store, seen.replace(Seen { id, used: false }), now).await?;
            }
            let keys = TemplateKeys::of(id);
            let Some(machine) = keys.machine(&object.key) else { continue };
            if known.contains(&machine) || has_something(store, &machine).await? {
                seen = Some(Seen { id, used: true });
            } else {
                store.delete(&object.key).await?;
                collected.objects += 1;
            }
        }
        match page.last() {
            Some(last) if page.len() == LIST_PAGE => after = Some(last.key.clone()),
            _ => break,
        }
    }
    collected += delete(store, seen, now).await?;
    Ok(collected)
}

async fn has_something(store: &Arc<dyn ObjectStore>, machine: &MachineId) -> Result<bool> {
    Ok(!store.list(Keys::of(machine).prefix(), None, 1).await?.is_empty())
}

/// Deletes a template that nobody was seen to use.
async fn delete(
    store: &Arc<dyn ObjectStore>,
    seen: Option<Seen>,
    now: Timestamp,
) -> Result<Collected> {
    let mut collected = Collected::default();
    let Some(Seen { id, used: false }) = seen else { return Ok(collected) };
    let keys = TemplateKeys::of(id);
    if !mark(store, &keys, now).await? || !store.list(&keys.users(), None, 1).await?.is_empty() {
        return Ok(collected);
    }
    // Names first: whoever is asked for it then has nothing, rather than a part.
    let mark = keys.unused();
    store.delete(&keys.memory()).await?;
    collected.objects += 1;
    collected += delete_where(store, keys.prefix(), |key| key != mark).await?;
    store.delete(&mark).await?;
    Ok(collected)
}

/// Makes the mark; false where it is somebody else's.
async fn mark(store: &Arc<dyn ObjectStore>, keys: &TemplateKeys, now: Timestamp) -> Result<bool> {
    let key = keys.unused();
    let mark = Mark { format: FORMAT, by: ServerId::generate(), at: seconds(now) };
    let body = Bytes::from(serde_json::to_vec(&mark).unwrap_or_default());
    match store.create(&key, body.clone()).await {
        Ok(()) => return Ok(true),
        Err(objstore::Error::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let is_old = match small::<Mark>(&**store, &key, FORMAT).await {
        Ok(None) => return Ok(false),
        Ok(Some(mark)) => {
            let age = seconds(now).saturating_sub(mark.at);
            u64::try_from(age).is_ok_and(|age| age > MARK_STANDS.as_secs())
        }
        // Damaged: as if it had been made now.
        Err(error) if error.is_damage() => {
            tracing::warn!(%error, "the mark of a template");
            store.put(&key, body).await?;
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    if is_old {
        store.put(&key, body).await?;
    }
    Ok(is_old)
}

fn seconds(at: Timestamp) -> i64 {
    at.as_second()
}
