//! Makes the writes of a draft visible.
//!
//! # Order
//! While the machine sleeps and nobody else published: one conditional write. Otherwise the draft's
//! changes are applied by path: to the live home in one step of its keeper, or with a writer of our own
//! where the machine sleeps, which a wake waits for. The draft goes last.
//!
//! # Crash
//! Between applying and discarding, the draft is still there, and publishing it again applies the
//! same changes again: its version of each path stands, as it did before.

use std::sync::Arc;

use base::ErrorKind;
use catalog::MachineRow;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use vfs::path::{TreePath, show};

use super::route::{self, LOCATED_TIMES, Place};
use super::{FileCalls, PublishReport};
use crate::Result;
use crate::control::Inner;
use crate::drafts::Alone;
use crate::homes::DraftPublished;
use crate::limits::CONFLICTS_SHOWN_MAX;
use crate::machines::MachineRef;

/// Paths looked at at once where conflicts are searched.
const LOOKS_AT_ONCE: usize = 16;

/// Publishes a machine's draft; without one there is nothing to do.
pub(crate) async fn publish(inner: &Arc<Inner>, machine: &MachineRef) -> Result<PublishReport> {
    let (row, place, _alone) = located(inner, machine).await?;
    let at = inner.home_at(&row);
    let homes = &inner.parts.homes;
    if !homes.has_draft(&at).await {
        return Ok(PublishReport::default());
    }
    if matches!(place, Place::Asleep)
        && let DraftPublished::Committed { changed, .. } = homes.publish(&at).await?
    {
        return Ok(PublishReport { published: true, changed, ..PublishReport::default() });
    }
    let mut changes = homes.changes(&at).await?;
    let changed = (changes.removed.len() + changes.changed.len()) as u64;
    let conflicts = match place {
        Place::Awake(link, _busy) => {
            let conflicts = conflicts(&*link, changes.bases).await?;
            link.graft(changes.removed, changes.tar).await?;
            conflicts
        }
        Place::Asleep => {
            let conflicts =
                conflicts(&*homes.published(&at).await?, std::mem::take(&mut changes.bases))
                    .await?;
            homes.apply(&at, changes).await?;
            conflicts
        }
    };
    homes.discard(&at).await?;
    Ok(PublishReport {
        published: true,
        changed,
        conflicts_total: conflicts.len() as u64,
        conflicts: conflicts.iter().take(CONFLICTS_SHOWN_MAX).map(|path| show(path)).collect(),
    })
}

/// Where its home is, to be changed by nobody else from here on: it stays asleep, or its keeper has it.
async fn located(inner: &Arc<Inner>, machine: &MachineRef) -> Result<(MachineRow, Place, Alone)> {
    let mut times = 1;
    loop {
        let (row, place) = route::locate(inner, machine).await?;
        let alone = inner.drafts.alone(&row).await?;
        // It may have been woken, and more, while we waited for slow uploads. Whoever wakes it now waits for us.
        if route::is_still(inner, &row, &place).await? {
            return Ok((row, place, alone));
        }
        if times == LOCATED_TIMES {
            return Err(route::in_transition(&row));
        }
        times += 1;
    }
}

/// The paths of a draft that the home changed too since the draft was opened. Looked at just before
/// the draft is applied: a change in between is overwritten unnamed.
async fn conflicts(
    now: &dyn FileCalls,
    bases: Vec<(Vec<u8>, Option<String>)>,
) -> Result<Vec<Vec<u8>>> {
    let looks = bases.into_iter().map(|(path, base)| async move {
        let there = match now.head(&TreePath::parse(&path)?).await {
            Ok(meta) => Some(meta.etag),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => None,
            Err(error) => return Err(error),
        };
        Ok((there != base).then_some(path))
    });
    let looked = stream::iter(looks).buffered(LOOKS_AT_ONCE);
    looked.try_filter_map(|conflict| async move { Ok(conflict) }).try_collect().await
}

/// Throws a machine's draft away; true where there was one.
pub(crate) async fn discard(inner: &Arc<Inner>, machine: &MachineRef) -> Result<bool> {
    let row = inner.resolve(machine).await?;
    let at = inner.home_at(&row);
    let _alone = inner.drafts.alone(&row).await?;
    let had = inner.parts.homes.has_draft(&at).await;
    inner.parts.homes.discard(&at).await?;
    Ok(had)
}
