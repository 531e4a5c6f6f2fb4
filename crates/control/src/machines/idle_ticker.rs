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

use super::auto_sleep::{FallingAsleep, Verdict, judge};
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
            && let Some(_falling_asleep) = falls_asleep(inner, &row).await
        {
            tracing::info!(machine = %row.id, "idle, goes to sleep");
            inner.edit(&row.id, intent::sleep_idle).await?;
            Drivers::nudge(inner, &row.id);
        }
    }
    Ok(())
}

async fn falls_asleep<'a>(inner: &'a Inner, row: &MachineRow) -> Option<FallingAsleep<'a>> {
    let autosleep = row.spec.autosleep_seconds;
    let (idle, busy) = inner.activity.idle(&row.id);
    if judge(autosleep, idle, busy) == Verdict::Stay {
        return None;
    }
    let link = inner.parts.host.connect(&row.id).await?;
    // A keeper that does not answer is the driver's business.
    let status = link.status().await.ok()?;
    if status.executions_running > 0 {
        inner.activity.touch(&row.id);
        return None;
    }
    // An execution that ended since: the keeper knows when.
    let since_keeper = status
        .last_activity
        .and_then(|at| Duration::try_from(inner.parts.clock.now().duration_since(at)).ok());
    inner.activity.fall_asleep(&row.id, autosleep, since_keeper)
}
