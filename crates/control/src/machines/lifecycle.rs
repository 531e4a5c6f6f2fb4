//! The next step of a machine. Pure, total, and the only place that orders lifecycle steps.
//!
//! The driver observes, asks [`next_step`], takes the step and observes again. What was observed is
//! never stored: after a crash it is looked at anew, so start-up, retry and the happy path are one.
//!
//! # Invariants
//! - A machine is reported asleep only where its keeper is gone and its home is whole in the store.
//! - Nothing starts before the machine's record is in the store: a host may be lost at any time.
//! - From `failed` nothing moves by itself; only a caller's new wish does (`intent`).

use catalog::{Desired, Phase, Reboot};

/// The keeper, as seen now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// None runs; how the last one left the home.
    Absent(Left),
    /// Coming up.
    Starting,
    /// Its guest answers.
    Ready,
    /// Storing the home; about to end.
    Stopping,
    /// Will get no further.
    Failed,
}

/// How the home was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Whole in the store, or never written to.
    Whole,
    /// The same, by a guest that powered itself off when it was to take a nap.
    PoweredOff,
    /// A writer holds it that is gone: this host's disk may know more than the store.
    Held,
    /// It became another server's while the keeper had it. What this host's disk knows beside is kept aside
    /// there, and is no part of it.
    Lost,
}

/// What is seen of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observed {
    /// What its row says.
    pub(crate) phase: Phase,
    /// Whether the store has its record.
    pub(crate) recorded: bool,
    /// Its keeper.
    pub(crate) keeper: Keeper,
    /// Whether a keeper that is ready holds the guest to another egress policy than the row's.
    pub(crate) egress_differs: bool,
    /// The same of sizes that can be changed while it runs.
    pub(crate) sizes_differ: bool,
    /// The reboot that is under way.
    pub(crate) reboot: Option<Reboot>,
    /// It is to sleep for a moment although it is wanted awake ([`super::nap`]).
    pub(crate) naps: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Put the machine's record into the store.
    Record,
    /// Report `placement_pending` and `starting`, then start a keeper.
    StartKeeper,
    /// Wait until the keeper is ready, fails or ends.
    AwaitReady,
    /// Ask the keeper to put the machine to sleep.
    AskSleep,
    /// Ask the keeper to stop the guest in order and end, keeping nothing of its memory.
    AskStop,
    /// Throw away what the guest had in memory, and note that it is.
    ForgetMemory,
    /// Wait until the keeper has ended.
    AwaitEnd,
    /// Have the keeper hold the guest to the row's egress policy.
    SetEgress,
    /// Have the keeper give the machine the row's sizes.
    SetSizes,
    /// Report `running`.
    ReportRunning,
    /// Report `sleeping`.
    ReportSleeping,
    /// Report `sleeping`, and that this is what is wanted: the guest powered off by itself.
    ReportPoweredOff,
    /// Report `failed`: the keeper ended without a word.
    ReportLost,
    /// Report `failed` with the keeper's own reason, and end the keeper.
    ReportFailure,
    /// End the keeper, storing nothing.
    KillKeeper,
    /// Remove home, record, local files and row, in this order.
    Destroy,
    /// Nothing to do until a caller wants something else or the keeper ends.
    Rest,
}

/// The next step.
#[must_use]
pub(crate) fn next_step(desired: Desired, seen: Observed) -> Step {
    match desired {
        Desired::Running if seen.naps && seen.reboot.is_none() => towards_nap(seen),
        Desired::Running => towards_running(seen),
        Desired::Sleeping => towards_sleeping(seen),
        Desired::Destroyed => match seen.keeper {
            Keeper::Absent(_) => Step::Destroy,
            _ => Step::KillKeeper,
        },
    }
}

fn towards_running(seen: Observed) -> Step {
    if let Some(how @ (Reboot::Orderly | Reboot::Forced)) = seen.reboot {
        return towards_boot(seen.keeper, how);
    }
    match (seen.keeper, seen.phase) {
        (Keeper::Failed, _) => Step::ReportFailure,
        (Keeper::Stopping, _) => Step::AwaitEnd,
        // Before anybody is told that it runs, and before all that can wait.
        (Keeper::Ready, _) if seen.egress_differs => Step::SetEgress,
        // Nobody waits longer for a machine because it grows, and what cannot be had keeps no update from the store.
        (Keeper::Ready, Phase::Running) if seen.sizes_differ && seen.recorded => Step::SetSizes,
        (Keeper::Ready, Phase::Running) => rest(seen),
        (Keeper::Ready, _) => Step::ReportRunning,
        (Keeper::Starting, _) => Step::AwaitReady,
        (Keeper::Absent(_), Phase::Failed) => rest(seen),
        (Keeper::Absent(Left::Whole | Left::PoweredOff), Phase::Running) => Step::ReportPoweredOff,
        (Keeper::Absent(Left::Held | Left::Lost), Phase::Running) => Step::ReportLost,
        (Keeper::Absent(_), _) if !seen.recorded => Step::Record,
        (Keeper::Absent(_), _) => Step::StartKeeper,
    }
}

/// Only from where a nap was written down ([`Phase::Stopping`]), and no further than to where it is asleep: whatever
/// comes in between, the machine wakes again.
fn towards_nap(seen: Observed) -> Step {
    match (seen.keeper, seen.phase) {
        (Keeper::Ready, Phase::Stopping) => Step::AskSleep,
        (Keeper::Absent(Left::Whole), Phase::Stopping) => Step::ReportSleeping,
        (Keeper::Absent(Left::PoweredOff), Phase::Stopping) => Step::ReportPoweredOff,
        (Keeper::Absent(_), Phase::Sleeping) => rest(seen),
        _ => towards_running(seen),
    }
}

/// The guest ends first, whatever state it is in.
fn towards_boot(keeper: Keeper, how: Reboot) -> Step {
    match keeper {
        Keeper::Absent(_) => Step::ForgetMemory,
        Keeper::Failed => Step::KillKeeper,
        _ if how == Reboot::Forced => Step::KillKeeper,
        Keeper::Stopping => Step::AwaitEnd,
        Keeper::Ready | Keeper::Starting => Step::AskStop,
    }
}

fn towards_sleeping(seen: Observed) -> Step {
    match (seen.keeper, seen.phase) {
        (Keeper::Failed, _) => Step::ReportFailure,
        (Keeper::Stopping, _) => Step::AwaitEnd,
        (Keeper::Ready | Keeper::Starting, _) => Step::AskSleep,
        (Keeper::Absent(_), Phase::Failed | Phase::Sleeping) => rest(seen),
        (Keeper::Absent(Left::Whole | Left::PoweredOff), _) => Step::ReportSleeping,
        // A sleep asked for after a failure: only a keeper can bring the home into the store.
        (
            Keeper::Absent(Left::Held),
            Phase::Accepted | Phase::PlacementPending | Phase::Starting,
        ) => {
            if seen.recorded {
                Step::StartKeeper
            } else {
                Step::Record
            }
        }
        (Keeper::Absent(Left::Held | Left::Lost), _) => Step::ReportLost,
    }
}

/// Nothing to do, unless an update of the machine is not in the store yet.
fn rest(seen: Observed) -> Step {
    if seen.recorded { Step::Rest } else { Step::Record }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Keeper = Keeper::Absent(Left::Whole);
    const HELD: Keeper = Keeper::Absent(Left::Held);

    const LOST: Keeper = Keeper::Absent(Left::Lost);
    const OFF: Keeper = Keeper::Absent(Left::PoweredOff);

    const KEEPERS: [Keeper; 8] =
        [WHOLE, OFF, HELD, LOST, Keeper::Starting, Keeper::Ready, Keeper::Stopping, Keeper::Failed];

    fn step(desired: Desired, phase: Phase, keeper: Keeper) -> Step {
        next_step(
            desired,
            Observed {
                phase,
                recorded: true,
                keeper,
                egress_differs: false,
                sizes_differ: false,
                reboot: None,
                naps: false,
            },
        )
    }

    #[test]
    fn each_state_has_its_step() {
        use Desired::{Destroyed, Running, Sleeping};
        for (desired, phase, keeper, expected) in [
            (Running, Phase::Accepted, WHOLE, Step::StartKeeper),
            (Running, Phase::Accepted, HELD, Step::StartKeeper),
            (Running, Phase::PlacementPending, WHOLE, Step::StartKeeper),
            (Running, Phase::Starting, WHOLE, Step::StartKeeper),
            (Running, Phase::Starting, Keeper::Starting, Step::AwaitReady),
            (Running, Phase::Starting, Keeper::Ready, Step::ReportRunning),
            (Running, Phase::Starting, Keeper::Failed, Step::ReportFailure),
            (Running, Phase::Running, Keeper::Ready, Step::Rest),
            (Running, Phase::Running, HELD, Step::ReportLost),
            (Running, Phase::Running, LOST, Step::ReportLost),
            (Running, Phase::Running, WHOLE, Step::ReportPoweredOff),
            (Running, Phase::Running, Keeper::Failed, Step::ReportFailure),
            (Running, Phase::Running, Keeper::Stopping, Step::AwaitEnd),
            (Running, Phase::Stopping, Keeper::Stopping, Step::AwaitEnd),
            (Running, Phase::Stopping, WHOLE, Step::StartKeeper),
            (Running, Phase::Stopping, HELD, Step::StartKeeper),
            (Running, Phase::Failed, WHOLE, Step::Rest),
            (Running, Phase::Failed, HELD, Step::Rest),
            (Running, Phase::Failed, Keeper::Ready, Step::ReportRunning),
            (Sleeping, Phase::Stopping, Keeper::Ready, Step::AskSleep),
            (Sleeping, Phase::Stopping, Keeper::Starting, Step::AskSleep),
            (Sleeping, Phase::Stopping, Keeper::Stopping, Step::AwaitEnd),
            (Sleeping, Phase::Stopping, WHOLE, Step::ReportSleeping),
            (Sleeping, Phase::Stopping, HELD, Step::ReportLost),
            (Sleeping, Phase::Running, HELD, Step::ReportLost),
            (Sleeping, Phase::Stopping, LOST, Step::ReportLost),
            (Sleeping, Phase::Stopping, Keeper::Failed, Step::ReportFailure),
            (Sleeping, Phase::Accepted, HELD, Step::StartKeeper),
            (Sleeping, Phase::Starting, Keeper::Ready, Step::AskSleep),
            (Sleeping, Phase::Accepted, WHOLE, Step::ReportSleeping),
            (Sleeping, Phase::Sleeping, WHOLE, Step::Rest),
            (Sleeping, Phase::Sleeping, HELD, Step::Rest),
            (Sleeping, Phase::Failed, HELD, Step::Rest),
            (Destroyed, Phase::Destroying, Keeper::Ready, Step::KillKeeper),
            (Destroyed, Phase::Destroying, Keeper::Failed, Step::KillKeeper),
            (Destroyed, Phase::Destroying, HELD, Step::Destroy),
        ] {
            assert_eq!(step(desired, phase, keeper), expected, "{desired} {phase} {keeper:?}");
        }
    }

    #[test]
    fn nothing_is_reported_asleep_before_its_home_is_whole() {
        for desired in Desired::ALL {
            for phase in Phase::ALL {
                for keeper in KEEPERS.into_iter().filter(|keeper| ![WHOLE, OFF].contains(keeper)) {
                    let step = step(*desired, *phase, keeper);
                    assert!(
                        !matches!(step, Step::ReportSleeping | Step::ReportPoweredOff),
                        "{desired} {phase} {keeper:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_starts_before_its_record_is_in_the_store() {
        for desired in Desired::ALL {
            for phase in Phase::ALL {
                for keeper in KEEPERS {
                    let seen = Observed {
                        phase: *phase,
                        recorded: false,
                        keeper,
                        egress_differs: false,
                        sizes_differ: false,
                        reboot: None,
                        naps: false,
                    };
                    assert_ne!(next_step(*desired, seen), Step::StartKeeper, "{seen:?}");
                }
            }
        }
    }

    #[test]
    fn a_policy_is_in_force_before_a_machine_is_said_to_run_and_holds_up_nothing_else() {
        for desired in Desired::ALL {
            for phase in Phase::ALL {
                for keeper in KEEPERS {
                    for recorded in [true, false] {
                        let same = Observed {
                            phase: *phase,
                            recorded,
                            keeper,
                            egress_differs: false,
                            sizes_differ: false,
                            reboot: None,
                            naps: false,
                        };
                        let step = next_step(*desired, Observed { egress_differs: true, ..same });
                        if (*desired, keeper) == (Desired::Running, Keeper::Ready) {
                            assert_eq!(step, Step::SetEgress, "{phase}");
                        } else {
                            assert_eq!(step, next_step(*desired, same), "{desired} {same:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_machine_that_runs_is_given_its_sizes() {
        for desired in Desired::ALL {
            for phase in Phase::ALL {
                for keeper in KEEPERS {
                    let seen = |sizes_differ| Observed {
                        phase: *phase,
                        recorded: true,
                        keeper,
                        egress_differs: false,
                        sizes_differ,
                        reboot: None,
                        naps: false,
                    };
                    let step = next_step(*desired, seen(true));
                    if (*desired, *phase, keeper)
                        == (Desired::Running, Phase::Running, Keeper::Ready)
                    {
                        assert_eq!(step, Step::SetSizes);
                    } else {
                        assert_eq!(
                            step,
                            next_step(*desired, seen(false)),
                            "{desired} {phase} {keeper:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_reboot_ends_the_guest_then_forgets_it_then_starts_another() {
        let seen = |keeper, phase, reboot| Observed {
            phase,
            recorded: true,
            keeper,
            egress_differs: true,
            sizes_differ: true,
            reboot,
            naps: false,
        };
        for phase in Phase::ALL {
            let step =
                |keeper, reboot| next_step(Desired::Running, seen(keeper, *phase, Some(reboot)));
            for keeper in [Keeper::Ready, Keeper::Starting] {
                assert_eq!(step(keeper, Reboot::Orderly), Step::AskStop);
            }
            assert_eq!(step(Keeper::Stopping, Reboot::Orderly), Step::AwaitEnd);
            for keeper in [Keeper::Ready, Keeper::Starting, Keeper::Stopping, Keeper::Failed] {
                assert_eq!(step(keeper, Reboot::Forced), Step::KillKeeper);
            }
            for keeper in [WHOLE, HELD] {
                assert_eq!(step(keeper, Reboot::Orderly), Step::ForgetMemory);
                assert_eq!(step(keeper, Reboot::Forced), Step::ForgetMemory);
            }
            for keeper in KEEPERS {
                let without = next_step(Desired::Running, seen(keeper, *phase, None));
                assert_eq!(step(keeper, Reboot::Booting), without, "{phase} {keeper:?}");
            }
        }
        for keeper in [WHOLE, HELD] {
            let seen = seen(keeper, Phase::Accepted, Some(Reboot::Booting));
            assert_eq!(next_step(Desired::Running, seen), Step::StartKeeper);
        }
    }

    #[test]
    fn a_nap_leads_from_stopping_to_asleep_and_in_all_else_is_as_if_there_were_none() {
        for phase in Phase::ALL {
            for keeper in KEEPERS {
                for reboot in [None, Some(Reboot::Orderly), Some(Reboot::Booting)] {
                    let awake = Observed {
                        phase: *phase,
                        recorded: true,
                        keeper,
                        egress_differs: false,
                        sizes_differ: false,
                        reboot,
                        naps: false,
                    };
                    let naps = Observed { naps: true, ..awake };
                    let expected = match (keeper, phase, reboot) {
                        (Keeper::Ready, Phase::Stopping, None) => Step::AskSleep,
                        (WHOLE, Phase::Stopping, None) => Step::ReportSleeping,
                        (OFF, Phase::Stopping, None) => Step::ReportPoweredOff,
                        (Keeper::Absent(_), Phase::Sleeping, None) => Step::Rest,
                        _ => next_step(Desired::Running, awake),
                    };
                    assert_eq!(next_step(Desired::Running, naps), expected, "{naps:?}");
                    for desired in [Desired::Sleeping, Desired::Destroyed] {
                        assert_eq!(next_step(desired, naps), next_step(desired, awake));
                    }
                }
            }
        }
    }

    #[test]
    fn delete_works_from_every_state() {
        for phase in Phase::ALL {
            for keeper in KEEPERS {
                let step = step(Desired::Destroyed, *phase, keeper);
                assert!(matches!(step, Step::KillKeeper | Step::Destroy), "{phase} {keeper:?}");
            }
        }
    }

    #[test]
    fn a_failed_machine_without_a_keeper_waits_for_its_owner() {
        for desired in [Desired::Running, Desired::Sleeping] {
            for keeper in [WHOLE, HELD] {
                assert_eq!(step(desired, Phase::Failed, keeper), Step::Rest);
            }
        }
    }
}
