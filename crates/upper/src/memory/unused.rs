//! Deleting the memory of templates that no machine needs any more.
//!
//! # Order
//! All names below `templates/` are read. A user of which the store has nothing any more is a machine that was
//! deleted: it is none. A template without users is marked; where nobody uses it then, its manifest goes, its packs and
//! all else, and last the mark.
//!
//! # Invariants
//! - Nobody takes a mark back, and what is marked gets no users any more: who finds the mark, or finds no manifest, stores
//!   the template under a name of its own. So it does not matter how many delete, or how long one takes, as long as
//!   whose name it is lives or is gone. Not excluded: that a host which has not heard of the end of a machine stores under
//!   its name between two who delete, one of whom stands still. What that costs is memory, and a wake then boots.
//!
//! # Failure
//! The first error ends it; the next time goes on.

use std::collections::HashSet;
use std::sync::Arc;

use base::MachineId;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use objstore::ObjectStore;

use crate::collect::{Collected, delete_where};
use crate::error::Result;
use crate::keys::{Keys, TEMPLATES, TemplateId, TemplateKeys};
use crate::limits::{LIST_PAGE, USER_LOOKS};

/// A template of which not all names were seen yet.
struct Seen {
    id: TemplateId,
    used: bool,
}

/// Deletes the memory of templates of which no user is left. Of machines that are `known` to be there the store is not
/// asked.
///
/// # Errors
/// Those of the store. Calling again goes on.
pub async fn collect_templates(
    store: &Arc<dyn ObjectStore>,
    known: &HashSet<MachineId>,
) -> Result<Collected> {
    let (mut collected, mut after) = (Collected::default(), None::<String>);
    let mut seen = None::<Seen>;
    loop {
        let page = store.list(TEMPLATES, after.as_deref(), LIST_PAGE).await?;
        // What is none of ours stays.
        let names = page.iter().filter_map(|object| {
            let id = TemplateKeys::template(&object.key)?;
            Some((id, TemplateKeys::of(id).machine(&object.key), object.key.clone()))
        });
        let names: Vec<_> = names.collect();
        let looks = names.into_iter().map(|(id, user, key)| async move {
            let Some(machine) = user else { return Ok((id, false, false)) };
            let is_user = known.contains(&machine) || has_something(store, &machine).await?;
            if !is_user {
                store.delete(&key).await?;
            }
            Ok::<_, crate::Error>((id, is_user, !is_user))
        });
        let looks: Vec<_> = futures::stream::iter(looks).buffered(USER_LOOKS).try_collect().await?;
        for (id, is_user, is_gone) in looks {
            collected.objects += u64::from(is_gone);
            if seen.as_ref().is_none_or(|seen| seen.id != id) {
                collected += delete(store, seen.replace(Seen { id, used: false })).await?;
            }
            if let Some(seen) = &mut seen {
                seen.used |= is_user;
            }
        }
        match page.last() {
            Some(last) if page.len() == LIST_PAGE => after = Some(last.key.clone()),
            _ => break,
        }
    }
    collected += delete(store, seen).await?;
    Ok(collected)
}

async fn has_something(store: &Arc<dyn ObjectStore>, machine: &MachineId) -> Result<bool> {
    Ok(!store.list(Keys::of(machine).prefix(), None, 1).await?.is_empty())
}

/// Deletes a template of which no user was seen.
async fn delete(store: &Arc<dyn ObjectStore>, seen: Option<Seen>) -> Result<Collected> {
    let mut collected = Collected::default();
    let Some(Seen { id, used: false }) = seen else { return Ok(collected) };
    let (keys, mark) = (TemplateKeys::of(id), TemplateKeys::of(id).unused());
    store.put(&mark, Bytes::new()).await?;
    if !store.list(&keys.users(), None, 1).await?.is_empty() {
        return Ok(collected);
    }
    store.delete(&keys.memory()).await?;
    collected += delete_where(store, keys.prefix(), |key| key != mark).await?;
    store.delete(&mark).await?;
    collected.objects += 1;
    Ok(collected)
}
