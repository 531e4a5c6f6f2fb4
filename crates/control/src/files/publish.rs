//! Makes the writes of a draft visible.
//!
//! # Order
//! While the machine sleeps and nobody else published: one conditional write. Otherwise the draft's
//! changes are applied by path: to the live home in one step of its keeper, or with a writer of our own
//! where the machine sleeps. The draft goes last.
//!
//! # Crash
//! Between applying and discarding, the draft is still there, and publishing it again applies the
//! same changes again: its version of each path stands, as it did before.

use std::sync::Arc;

use vfs::path::show;

use super::PublishReport;
use super::route::{self, Place};
use crate::Result;
use crate::control::Inner;
use crate::homes::{DraftChanges, DraftPublished};
use crate::limits::CONFLICTS_SHOWN_MAX;
use crate::machines::MachineRef;

/// Publishes a machine's draft; without one there is nothing to do.
pub(crate) async fn publish(inner: &Arc<Inner>, machine: &MachineRef) -> Result<PublishReport> {
    let (row, place) = route::locate(inner, machine).await?;
    let at = inner.home_at(&row);
    let _alone = inner.draft_lock(&row.id).write_owned().await;
    let homes = &inner.parts.homes;
    if !homes.has_draft(&at).await {
        return Ok(PublishReport::default());
    }
    if matches!(place, Place::Asleep)
        && let DraftPublished::Committed { changed, .. } = homes.publish(&at).await?
    {
        return Ok(PublishReport { published: true, changed, ..PublishReport::default() });
    }
    let changes = homes.changes(&at).await?;
    let report = report(&changes);
    match place {
        Place::Awake(link) => {
            let _busy = inner.activity.begin(&row.id);
            link.graft(changes.removed, changes.tar).await?;
        }
        Place::Asleep => homes.apply(&at, changes).await?,
    }
    homes.discard(&at).await?;
    Ok(report)
}

/// Throws a machine's draft away; true where there was one.
pub(crate) async fn discard(inner: &Arc<Inner>, machine: &MachineRef) -> Result<bool> {
    let row = inner.resolve(machine).await?;
    let at = inner.home_at(&row);
    let _alone = inner.draft_lock(&row.id).write_owned().await;
    let had = inner.parts.homes.has_draft(&at).await;
    inner.parts.homes.discard(&at).await?;
    Ok(had)
}

fn report(changes: &DraftChanges) -> PublishReport {
    let shown = changes.conflicts.iter().take(CONFLICTS_SHOWN_MAX);
    PublishReport {
        published: true,
        changed: (changes.removed.len() + changes.changed.len()) as u64,
        conflicts: shown.map(|path| show(path)).collect(),
        conflicts_total: changes.conflicts.len() as u64,
    }
}
