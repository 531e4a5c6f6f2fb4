//! Wakes machines whose time has come.
//!
//! # Crash
//! Times are in the catalog; those that came while no server ran are taken up by the next one.
//!
//! # Not here
//! Who sets them: callers ([`super::Machines::wake_at`]), and guests, who are asked before they sleep.

use std::sync::Arc;

use base::Timestamp;
use catalog::{Alarm, Desired, MachineChange, MachineRow, Phase};

use super::driver::Drivers;
use super::intent;
use super::types::IfMatch;
use crate::control::Inner;
use crate::limits::ALARMS_AT_ONCE;
use crate::{Error, Result, mounted, room};

/// Runs until the server closes.
pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            () = inner.shutdown.cancelled() => return,
            () = tokio::time::sleep(inner.settings.timing.idle_every) => (),
        }
        if let Err(error) = tick(&inner).await {
            tracing::warn!(%error, "look for machines that are to be woken");
        }
    }
}

async fn tick(inner: &Arc<Inner>) -> Result<()> {
    let now = inner.parts.clock.now();
    let (mut woken, mut after) = (0, None);
    while woken < ALARMS_AT_ONCE {
        let last = after.clone();
        let page = inner
            .db(move |catalog| catalog.machines_due(now, last.as_ref(), ALARMS_AT_ONCE))
            .await?;
        let Some(last) = page.last() else { break };
        // Those that cannot be woken yet must not be in the way of all behind them.
        after = Some(last.id.clone());
        for due in page {
            woken += usize::from(wake_due(inner, &due, now).await?);
        }
    }
    Ok(())
}

/// Wakes a machine whose time has come, unless it has to wait.
async fn wake_due(inner: &Arc<Inner>, due: &MachineRow, now: Timestamp) -> Result<bool> {
    // Its time comes when it is unmounted, and when there is room for it.
    if mounted::refuse(inner, due, "wake it").await.is_err()
        || room::refuse(inner, due, "wake it").await.is_err()
    {
        return Ok(false);
    }
    let row = inner.edit(&due.id, move |row| ring(row, now)).await?;
    let rings = row.alarm != due.alarm;
    if rings {
        tracing::info!(machine = %row.id, desired = %row.desired, "its time to be woken has come");
        Drivers::nudge(inner, &row.id);
    }
    Ok(rings)
}

/// What becomes of a machine whose time has come: one that sleeps, or failed to get there, wakes; one that
/// is on its way there wakes then; for any other it is over.
fn ring(row: &MachineRow, now: Timestamp) -> Result<MachineChange> {
    let left = row.alarm.after(now);
    if left == row.alarm {
        return Ok(MachineChange::default());
    }
    let to_sleep = row.desired == Desired::Sleeping;
    let rests = to_sleep && matches!(row.observed.phase, Phase::Sleeping | Phase::Failed);
    if to_sleep && !rests {
        return Ok(MachineChange::default());
    }
    let wake = if rests { intent::wake(row, &IfMatch::Any)? } else { MachineChange::default() };
    let observed = wake.observed.map(|observed| {
        let reason = "alarm".to_owned();
        catalog::Observation { reason, ..observed }
    });
    Ok(MachineChange { alarm: Some(left), observed, ..wake })
}

/// What setting the time changes; `None` takes it back.
pub(crate) fn set(
    row: &MachineRow,
    if_match: &IfMatch,
    at: Option<Timestamp>,
    now: Timestamp,
) -> Result<MachineChange> {
    intent::check(row, if_match, Desired::Running)?;
    if at.is_some_and(|at| at <= now) {
        let what = "that time has passed; give a later one, or wake the machine now";
        return Err(Error::invalid(what));
    }
    // Who takes it back wants it to sleep, whatever its guest wished for when it was put to sleep.
    let guest = at.and(row.alarm.guest);
    let alarm = Alarm { asked: at, guest };
    Ok(MachineChange { alarm: Some(alarm), ..MachineChange::default() })
}

#[cfg(test)]
mod tests {
    use catalog::Observation;

    use super::*;
    use crate::machines::test_row;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn row(desired: Desired, phase: Phase) -> MachineRow {
        MachineRow {
            desired,
            observed: Observation::of(phase, "test"),
            alarm: Alarm { asked: Some(at(100)), guest: Some(at(200)) },
            ..test_row("one")
        }
    }

    #[test]
    fn what_sleeps_wakes_and_what_is_awake_stays_as_it_is() {
        for phase in [Phase::Sleeping, Phase::Failed] {
            let asleep = row(Desired::Sleeping, phase);
            assert_eq!(ring(&asleep, at(99)).unwrap(), MachineChange::default());
            let change = ring(&asleep, at(100)).unwrap();
            assert_eq!(change.desired, Some(Desired::Running));
            assert_eq!(change.observed.unwrap().reason, "alarm");
            assert_eq!(change.alarm, Some(Alarm { asked: None, guest: Some(at(200)) }));
        }
        for (desired, phase) in [
            (Desired::Running, Phase::Running),
            (Desired::Running, Phase::Failed),
            (Desired::Destroyed, Phase::Destroying),
        ] {
            let change = ring(&row(desired, phase), at(300)).unwrap();
            assert_eq!((change.desired, change.observed), (None, None), "{desired} {phase}");
            assert_eq!(change.alarm, Some(Alarm::default()));
        }
    }

    #[test]
    fn what_falls_asleep_meanwhile_is_woken_then() {
        for phase in [Phase::Stopping, Phase::Accepted, Phase::Starting] {
            let on_its_way = row(Desired::Sleeping, phase);
            assert_eq!(ring(&on_its_way, at(300)).unwrap(), MachineChange::default());
        }
    }

    #[test]
    fn a_time_is_set_taken_back_and_refused_where_it_has_passed() {
        let row = row(Desired::Sleeping, Phase::Sleeping);
        let set = |at| set(&row, &IfMatch::Any, at, self::at(150));
        let set_to = Alarm { asked: Some(at(151)), guest: Some(at(200)) };
        assert_eq!(set(Some(at(151))).unwrap().alarm, Some(set_to));
        assert_eq!(set(None).unwrap().alarm, Some(Alarm::default()));
        let error = set(Some(at(150))).unwrap_err();
        assert_eq!(error.kind(), base::ErrorKind::InvalidArgument);
    }
}
