//! What callers may want of a machine in each state. Pure; the catalog runs these in the
//! transaction that writes the change, so check and change cannot come apart.

use catalog::{Desired, MachineChange, MachineRow, Observation, Phase, Reboot};

use super::types::{IfMatch, UpdateMachine};
use super::validate;
use crate::settings::SizeLimits;
use crate::{Error, Result};

/// What `wake` changes. Awake or on the way: nothing.
pub(crate) fn wake(row: &MachineRow, if_match: &IfMatch) -> Result<MachineChange> {
    check_revision(row, if_match)?;
    refuse_destroyed(row, Desired::Running)?;
    let on_the_way = row.desired == Desired::Running && row.observed.phase != Phase::Failed;
    if on_the_way {
        return Ok(MachineChange::default());
    }
    let observed = match row.observed.phase {
        // Its keeper finishes first; the driver starts the next one.
        Phase::Stopping => row.observed.clone(),
        _ => Observation::of(Phase::Accepted, "wake_requested"),
    };
    Ok(wanted(Desired::Running, observed))
}

/// Whether the machine sleeps, so that what it sleeps with can be thrown away.
pub(crate) fn check_asleep(row: &MachineRow, if_match: &IfMatch) -> Result<()> {
    check_revision(row, if_match)?;
    refuse_destroyed(row, Desired::Running)?;
    let rests = matches!(row.observed.phase, Phase::Sleeping | Phase::Failed);
    if rests && (row.desired == Desired::Sleeping || row.observed.phase == Phase::Failed) {
        return Ok(());
    }
    Err(Error::new(
        base::ErrorKind::Conflict,
        format!("machine {} is awake or on its way; put it to sleep first", row.name),
    )
    .with_code("INVALID_STATE")
    .with_detail("current_desired_state", row.desired)
    .with_detail("current_observed_state", row.observed.phase)
    .with_detail("expected_observed_state", Phase::Sleeping))
}

/// What `reboot` changes. One that is under way is all that a second one wants, unless that one is to be forced. A
/// machine that sleeps or has failed boots; there is no state in which one that is to stay is refused.
pub(crate) fn reboot(row: &MachineRow, if_match: &IfMatch, force: bool) -> Result<MachineChange> {
    check_revision(row, if_match)?;
    refuse_destroyed(row, Desired::Running)?;
    let how = if force { Reboot::Forced } else { Reboot::Orderly };
    let under_way = match row.reboot {
        Some(Reboot::Orderly) => !force,
        Some(Reboot::Forced | Reboot::Booting) => true,
        None => false,
    };
    if under_way {
        return Ok(MachineChange::default());
    }
    let phase = match row.observed.phase {
        Phase::Starting | Phase::Running | Phase::Stopping => Phase::Stopping,
        _ => Phase::Accepted,
    };
    let observed = Observation::of(phase, "reboot_requested");
    Ok(MachineChange { reboot: Some(Some(how)), ..wanted(Desired::Running, observed) })
}

/// What `sleep` changes. Asleep or on the way: nothing. A machine that is still starting is put to
/// sleep too, and one that has failed goes through another start if its home is not in the store.
pub(crate) fn sleep(row: &MachineRow, if_match: &IfMatch, reason: &str) -> Result<MachineChange> {
    check_revision(row, if_match)?;
    refuse_destroyed(row, Desired::Sleeping)?;
    let on_the_way = row.desired == Desired::Sleeping && row.observed.phase != Phase::Failed;
    if on_the_way {
        return Ok(MachineChange::default());
    }
    let phase = if row.observed.phase == Phase::Failed { Phase::Accepted } else { Phase::Stopping };
    Ok(wanted(Desired::Sleeping, Observation::of(phase, reason)))
}

/// What the idle ticker changes: only a machine that is awake and wanted awake.
pub(crate) fn sleep_idle(row: &MachineRow) -> Result<MachineChange> {
    if row.desired == Desired::Running && row.observed.phase == Phase::Running {
        return sleep(row, &IfMatch::Any, "idle");
    }
    Ok(MachineChange::default())
}

/// What `delete` changes. Works in every state.
pub(crate) fn delete(row: &MachineRow, if_match: &IfMatch) -> Result<MachineChange> {
    check_revision(row, if_match)?;
    if row.desired == Desired::Destroyed {
        return Ok(MachineChange::default());
    }
    Ok(wanted(Desired::Destroyed, Observation::of(Phase::Destroying, "delete_requested")))
}

/// What `update` changes.
pub(crate) fn update(
    row: &MachineRow,
    update: &UpdateMachine,
    if_match: &IfMatch,
    limits: &SizeLimits,
) -> Result<MachineChange> {
    check_revision(row, if_match)?;
    refuse_destroyed(row, row.desired)?;
    if let Some(name) = &update.name {
        validate::name(name)?;
    }
    let spec = validate::updated_spec(&row.spec, update, limits)?;
    let renamed = update.name.as_ref().is_some_and(|name| *name != row.name);
    let changed = renamed || spec != row.spec;
    Ok(MachineChange {
        name: update.name.clone(),
        spec: Some(spec),
        recorded: if changed { Some(false) } else { None },
        ..MachineChange::default()
    })
}

/// Refuses a stale revision, and a machine that is being deleted.
pub(crate) fn check(row: &MachineRow, if_match: &IfMatch, target: Desired) -> Result<()> {
    check_revision(row, if_match)?;
    refuse_destroyed(row, target)
}

/// A new wish; it takes the place of a reboot that is under way.
fn wanted(desired: Desired, observed: Observation) -> MachineChange {
    MachineChange {
        desired: Some(desired),
        observed: Some(observed),
        reboot: Some(None),
        ..MachineChange::default()
    }
}

fn check_revision(row: &MachineRow, if_match: &IfMatch) -> Result<()> {
    let IfMatch::Revision(provided) = if_match else { return Ok(()) };
    let expected = row.revision.to_string();
    if *provided == expected {
        return Ok(());
    }
    // What the caller sent comes back to it, cut to a length that a revision could have.
    let provided: String = provided.chars().take(40).collect();
    Err(Error::new(
        base::ErrorKind::Conflict,
        format!(
            "machine {} is at revision {expected}, not {provided}; read it again, then repeat \
             the request with its revision",
            row.name
        ),
    )
    .with_code("REVISION_MISMATCH")
    .with_detail("expected_revision", expected)
    .with_detail("provided_revision", provided))
}

fn refuse_destroyed(row: &MachineRow, target: Desired) -> Result<()> {
    if row.desired != Desired::Destroyed {
        return Ok(());
    }
    Err(Error::new(
        base::ErrorKind::Conflict,
        format!("machine {} is being deleted; create another one", row.name),
    )
    .with_code("INVALID_STATE")
    .with_detail("current_desired_state", row.desired)
    .with_detail("current_observed_state", row.observed.phase)
    .with_detail("expected_observed_state", Phase::Running)
    .with_detail("target_desired_state", target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::test_row;

    fn row(desired: Desired, phase: Phase) -> MachineRow {
        MachineRow { desired, observed: Observation::of(phase, "test"), ..test_row("one") }
    }

    #[test]
    fn a_stale_revision_is_refused_with_both_revisions() {
        let row = row(Desired::Running, Phase::Running);
        let error = delete(&row, &IfMatch::Revision("9".to_owned())).unwrap_err();
        assert_eq!(error.code, "REVISION_MISMATCH");
        assert_eq!(error.kind(), base::ErrorKind::Conflict);
        assert_eq!(error.details["expected_revision"], "1");
        assert_eq!(error.details["provided_revision"], "9");
        assert!(error.is_retryable());
        assert!(delete(&row, &IfMatch::parse(Some("W/\"1\"")).unwrap()).is_ok());
    }

    #[test]
    fn only_a_machine_that_rests_can_lose_what_it_sleeps_with() {
        for (desired, phase, may) in [
            (Desired::Sleeping, Phase::Sleeping, true),
            (Desired::Sleeping, Phase::Stopping, false),
            (Desired::Running, Phase::Running, false),
            (Desired::Running, Phase::Accepted, false),
            (Desired::Running, Phase::Failed, true),
            (Desired::Sleeping, Phase::Failed, true),
            (Desired::Destroyed, Phase::Sleeping, false),
        ] {
            let checked = check_asleep(&row(desired, phase), &IfMatch::Any);
            assert_eq!(checked.is_ok(), may, "{desired} {phase}");
        }
        let asleep = row(Desired::Sleeping, Phase::Sleeping);
        assert!(check_asleep(&asleep, &IfMatch::Revision("9".to_owned())).is_err());
    }

    #[test]
    fn wake_and_sleep_are_idempotent() {
        let none = MachineChange::default();
        for phase in [Phase::Accepted, Phase::PlacementPending, Phase::Starting, Phase::Running] {
            assert_eq!(wake(&row(Desired::Running, phase), &IfMatch::Any).unwrap(), none);
        }
        for phase in [Phase::Stopping, Phase::Sleeping] {
            let row = row(Desired::Sleeping, phase);
            assert_eq!(sleep(&row, &IfMatch::Any, "asked").unwrap(), none);
        }
    }

    #[test]
    fn a_failed_machine_can_be_woken_and_put_to_sleep() {
        let failed = row(Desired::Running, Phase::Failed);
        let woken = wake(&failed, &IfMatch::Any).unwrap();
        assert_eq!(woken.observed.unwrap().phase, Phase::Accepted);
        let slept = sleep(&failed, &IfMatch::Any, "asked").unwrap();
        assert_eq!(slept.desired, Some(Desired::Sleeping));
        assert_eq!(slept.observed.unwrap().phase, Phase::Accepted);
    }

    #[test]
    fn a_machine_that_is_being_deleted_takes_no_other_wish() {
        let gone = row(Desired::Destroyed, Phase::Destroying);
        let error = wake(&gone, &IfMatch::Any).unwrap_err();
        assert_eq!(error.code, "INVALID_STATE");
        assert_eq!(error.details["current_desired_state"], "destroyed");
        assert_eq!(error.details["target_desired_state"], "running");
        assert!(sleep(&gone, &IfMatch::Any, "asked").is_err());
        let limits = SizeLimits::default();
        assert!(update(&gone, &UpdateMachine::default(), &IfMatch::Any, &limits).is_err());
        assert_eq!(delete(&gone, &IfMatch::Any).unwrap(), MachineChange::default());
    }

    #[test]
    fn a_reboot_is_taken_in_every_phase_and_once() {
        for phase in Phase::ALL.iter().filter(|phase| **phase != Phase::Destroyed) {
            for desired in [Desired::Running, Desired::Sleeping] {
                let before = row(desired, *phase);
                let change = reboot(&before, &IfMatch::Any, false).unwrap();
                assert_eq!(change.desired, Some(Desired::Running));
                assert_eq!(change.reboot, Some(Some(Reboot::Orderly)));
                let observed = change.observed.unwrap();
                assert!(matches!(observed.phase, Phase::Stopping | Phase::Accepted), "{phase}");
                assert!(
                    observed.phase == Phase::Accepted || before.observed.phase != Phase::Sleeping
                );
            }
        }
        let under_way = |reboot| MachineRow { reboot, ..row(Desired::Running, Phase::Stopping) };
        let none = MachineChange::default();
        for (reboot, force, changes) in [
            (Reboot::Orderly, false, false),
            (Reboot::Orderly, true, true),
            (Reboot::Forced, false, false),
            (Reboot::Forced, true, false),
            (Reboot::Booting, false, false),
            (Reboot::Booting, true, false),
        ] {
            let change = super::reboot(&under_way(Some(reboot)), &IfMatch::Any, force).unwrap();
            assert_eq!(change != none, changes, "{reboot} {force}");
        }
        let stale = reboot(
            &row(Desired::Running, Phase::Running),
            &IfMatch::parse(Some("9")).unwrap(),
            true,
        );
        assert_eq!(stale.unwrap_err().code, "REVISION_MISMATCH");
        let gone = reboot(&row(Desired::Destroyed, Phase::Destroying), &IfMatch::Any, true);
        assert_eq!(gone.unwrap_err().code, "INVALID_STATE");
    }

    #[test]
    fn another_wish_takes_the_place_of_a_reboot() {
        let row =
            MachineRow { reboot: Some(Reboot::Orderly), ..row(Desired::Running, Phase::Stopping) };
        assert_eq!(
            wake(&row, &IfMatch::Any).unwrap(),
            MachineChange::default(),
            "it will be awake"
        );
        for change in [sleep(&row, &IfMatch::Any, "asked"), delete(&row, &IfMatch::Any)] {
            assert_eq!(change.unwrap().reboot, Some(None));
        }
    }

    #[test]
    fn delete_is_accepted_in_every_phase() {
        for phase in Phase::ALL {
            let change = delete(&row(Desired::Running, *phase), &IfMatch::Any).unwrap();
            assert_eq!(change.desired, Some(Desired::Destroyed), "{phase}");
        }
    }

    #[test]
    fn only_a_machine_that_is_awake_falls_asleep_by_itself() {
        for phase in Phase::ALL.iter().filter(|phase| **phase != Phase::Running) {
            let change = sleep_idle(&row(Desired::Running, *phase)).unwrap();
            assert_eq!(change, MachineChange::default(), "{phase}");
        }
        let change = sleep_idle(&row(Desired::Running, Phase::Running)).unwrap();
        assert_eq!(change.observed.unwrap().reason, "idle");
    }

    #[test]
    fn an_update_must_reach_the_store_again_only_where_it_changes_something() {
        let row = row(Desired::Sleeping, Phase::Sleeping);
        let limits = SizeLimits::default();
        let same = UpdateMachine { name: Some(row.name.clone()), ..Default::default() };
        assert_eq!(update(&row, &same, &IfMatch::Any, &limits).unwrap().recorded, None);
        let other = UpdateMachine { autosleep: Some("1h".to_owned()), ..Default::default() };
        let change = update(&row, &other, &IfMatch::Any, &limits).unwrap();
        assert_eq!(change.recorded, Some(false));
        assert_eq!(change.spec.unwrap().autosleep_seconds, 3_600);
    }
}
