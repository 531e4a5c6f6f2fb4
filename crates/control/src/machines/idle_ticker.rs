//! Looks for idle machines every few seconds and wishes them asleep.
//!
//! A keeper is asked only once a machine has been idle by this server's own account, so ten thousand
//! awake machines are not asked every two seconds.
//!
//! # Not here
//! What idle means ([`super::auto_sleep`]), how a machine gets to sleep ([`super::driver`]).

use std::sync::Arc;
use std::time::Duration;

use catalog::{Desired, MachineRow, Phase};

use super::auto_sleep::{Verdict, judge};
use super::driver::Drivers;
use super::intent;
use crate::Result;
use crate::control::Inner;

/// Runs until the server closes.
pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            () = inner.shutdown.cancelled() => return,
            () = tokio::time::sleep(inner.settings.timing.idle_every) => (),
        }
        if let Err(error) = tick(&inner).await {
            tracing::warn!(%error, "look for idle machines");
        }
    }
}

async fn tick(inner: &Arc<Inner>) -> Result<()> {
    for row in inner.active().await? {
        if row.desired == Desired::Running
            && row.observed.phase == Phase::Running
            && is_idle(inner, &row).await
        {
            tracing::info!(machine = %row.id, "idle, goes to sleep");
            inner.edit(&row.id, intent::sleep_idle).await?;
            Drivers::nudge(inner, &row.id);
        }
    }
    Ok(())
}

async fn is_idle(inner: &Inner, row: &MachineRow) -> bool {
    let autosleep = row.spec.autosleep_seconds;
    let (idle, busy) = inner.activity.idle(&row.id);
    if judge(autosleep, idle, busy) == Verdict::Stay {
        return false;
    }
    let Some(link) = inner.parts.host.connect(&row.id).await else { return false };
    // A keeper that does not answer is the driver's business.
    let Ok(status) = link.status().await else { return false };
    if status.executions_running > 0 {
        inner.activity.touch(&row.id);
        return false;
    }
    // An execution that ended since: the keeper knows when.
    let since_keeper = status
        .last_activity
        .and_then(|at| Duration::try_from(inner.parts.clock.now().duration_since(at)).ok())
        .unwrap_or(idle);
    let (idle, busy) = inner.activity.idle(&row.id);
    judge(autosleep, idle.min(since_keeper), busy) == Verdict::Sleep
}
