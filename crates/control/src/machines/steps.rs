//! The lifecycle's steps. Each is idempotent: it may be taken again after a crash in its middle.
//!
//! # Not here
//! Which step comes when ([`super::lifecycle`]); what happens when one fails ([`super::driver`]).

use std::sync::Arc;
use std::time::Duration;

use base::ErrorKind;
use catalog::{Alarm, Desired, MachineChange, MachineRow, MachineSpec, Observation, Phase, Reboot};
use tokio::time::Instant;

use super::driver::Nudge;
use super::lifecycle::{Observed, Step};
use super::record::{self, Record};
use crate::control::Inner;
use crate::host::{
    KeeperFailure, KeeperLink, KeeperPhase, KeeperSpec, KeeperStatus, Sizes, UpperHolder, Woken,
};
use crate::snapshots::whole;
use crate::{Error, Result, mounted, room, uppers};

/// How long a keeper that no longer answers may take to end.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(5);

/// Longest that a keeper is waited for that is coming up before the deadline is looked at.
const LOOK_FOR: Duration = Duration::from_secs(1);

/// What a machine says that is coming up, where there is nothing else to say.
const STARTING: &str = "starting";

/// First pause between two looks at a keeper that is going down; grows to the second.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// What was seen of a machine, with the means to act on it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) observed: Observed,
    pub(crate) link: Option<Arc<dyn KeeperLink>>,
    pub(crate) failure: Option<KeeperFailure>,
    /// All that its keeper said.
    pub(crate) said: Option<KeeperStatus>,
}

/// Takes one step. `since` is when a waiting step began, or last got on.
pub(crate) async fn take(
    inner: &Arc<Inner>,
    row: &MachineRow,
    seen: Seen,
    step: Step,
    since: &mut Instant,
    nudge: &Nudge,
) -> Result<()> {
    match (step, seen.link) {
        (Step::Record, _) => ensure_recorded(inner, row).await.map(drop),
        (Step::StartKeeper, _) => start_keeper(inner, row).await,
        (Step::AwaitReady, Some(link)) => await_ready(inner, row, &*link, since, nudge).await,
        (Step::AskSleep, Some(link)) => {
            if seen.observed.egress_differs {
                restrict_before_sleep(row, &*link).await;
            }
            ask_sleep(inner, row, &*link).await
        }
        (Step::AskStop, Some(link)) => {
            if seen.observed.egress_differs {
                restrict_before_sleep(row, &*link).await;
            }
            ask_stop(&*link).await
        }
        (Step::ForgetMemory, None) => forget_memory(inner, row).await,
        (Step::AwaitEnd, Some(link)) => await_end(inner, row, &*link, *since, nudge).await,
        (Step::ReportFailure, Some(link)) => report_failure(inner, row, &*link, seen.failure).await,
        (Step::KillKeeper, Some(link)) => link.kill().await,
        (Step::SetEgress, Some(link)) => link.set_egress(&row.spec.egress).await,
        (Step::SetSizes, Some(link)) => link.set_sizes(&sizes_of(row)).await,
        (Step::ReportRunning, link) => report_running(inner, row, link.as_deref()).await,
        (Step::ReportSleeping, _) => {
            inner.activity.forget(&row.id);
            uppers::asleep(inner, &row.id);
            report_sleeping(inner, row).await
        }
        (Step::ReportPoweredOff, _) => report_powered_off(inner, row).await,
        (Step::ReportLost, _) => {
            let error = ended_words(inner, row).await;
            report_failed(inner, row, &error).await
        }
        (Step::Destroy, _) => destroy(inner, row).await,
        // The keeper ended or began between the look and the step: look again.
        (_, None) | (Step::Rest | Step::ForgetMemory, _) => Ok(()),
    }
}

/// The sizes that a row grants.
pub(crate) fn sizes_of(row: &MachineRow) -> Sizes {
    let MachineSpec { vcpu, memory_mib, storage_gib, .. } = row.spec;
    Sizes { vcpu, memory_mib, storage_gib }
}

/// Whether `in_force` are the sizes of `wanted` as far as they can be changed while a machine runs.
pub(crate) fn is_in_force(in_force: Sizes, wanted: Sizes) -> bool {
    in_force == Sizes { memory_mib: in_force.memory_mib, ..wanted }
}

/// Puts home and record into the store and notes that they are there, unless the row changed meanwhile.
pub(crate) async fn ensure_recorded(inner: &Inner, row: &MachineRow) -> Result<MachineRow> {
    let without = match &row.forked_machine {
        Some(parent) => inner.parts.host.begin_upper(parent, &row.id, &row.home).await?,
        None => None,
    };
    match &row.forked_from {
        Some(parent) => inner.parts.homes.begin_fork(parent, &row.home).await?,
        None => inner.parts.homes.create(&row.home).await?,
    }
    record::put(&*inner.parts.store, &Record::of(row)).await?;
    let (name, spec) = (row.name.clone(), row.spec.clone());
    inner
        .edit(&row.id, move |now| {
            let same = now.name == name && now.spec == spec;
            let recorded = if same { Some(true) } else { None };
            let observed = without.map(|why| Observation {
                last_error: Some(whole::without_memory(&why)),
                ..now.observed.clone()
            });
            Ok(MachineChange { recorded, observed, ..MachineChange::default() })
        })
        .await
}

/// Takes home, upper and record out of the store, in this order.
pub(crate) async fn unrecord(inner: &Arc<Inner>, row: &MachineRow) -> Result<()> {
    abandon_fork(inner, row).await?;
    inner.parts.homes.delete(&inner.home_at(row)).await?;
    uppers::delete(inner, &row.id).await?;
    record::delete(&*inner.parts.store, &row.id).await
}

/// Lets go of what is kept for a fork that was not finished. One that was is deleted like any home.
pub(crate) async fn abandon_fork(inner: &Inner, row: &MachineRow) -> Result<()> {
    if let Some(parent) = &row.forked_machine {
        inner.parts.host.abandon_upper(parent, &row.id).await?;
    }
    abandon_home(inner, row).await
}

/// The same for one that was never written down: nobody has begun it, so that nothing is written that says it never
/// will be.
pub(crate) async fn let_go_of_parent(inner: &Inner, row: &MachineRow) -> Result<()> {
    if let Some(parent) = &row.forked_machine {
        let holder = UpperHolder::Fork(row.id.clone());
        inner.parts.host.let_go_of_upper(parent, &holder).await?;
    }
    abandon_home(inner, row).await
}

async fn abandon_home(inner: &Inner, row: &MachineRow) -> Result<()> {
    let Some(parent) = &row.forked_from else { return Ok(()) };
    match inner.parts.homes.abandon_fork(parent, &row.home).await {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

async fn start_keeper(inner: &Inner, row: &MachineRow) -> Result<()> {
    mounted::hold_up(inner, row, "wake it").await?;
    room::hold_up(inner, row, "wake it").await?;
    if !matches!(row.observed.phase, Phase::PlacementPending | Phase::Starting) {
        report(inner, row, Observation::of(Phase::PlacementPending, "placing")).await?;
    }
    report(inner, row, Observation::of(Phase::Starting, STARTING)).await?;
    let spec = KeeperSpec {
        machine: row.id.clone(),
        name: row.name.clone(),
        home: row.home.clone(),
        vcpu: row.spec.vcpu,
        memory_mib: row.spec.memory_mib,
        storage_gib: row.spec.storage_gib,
        image: row.spec.image.clone(),
        fsync_local: row.spec.fsync == catalog::Fsync::Local,
        egress: row.spec.egress.clone(),
        take_over_from: row.take_over_from,
    };
    // A keeper writes to what an upload reads.
    uppers::hold(inner, &row.id).await;
    inner.parts.host.start_keeper(&spec).await
}

/// Puts the row's egress policy in force for as long as the guest is still going down. One that cannot be set
/// holds up no sleep: that ends what the guest reaches as well.
async fn restrict_before_sleep(row: &MachineRow, link: &dyn KeeperLink) {
    if let Err(error) = link.set_egress(&row.spec.egress).await {
        tracing::warn!(machine = %row.id, %error, "it goes to sleep under its old egress policy");
    }
}

async fn await_ready(
    inner: &Inner,
    row: &MachineRow,
    link: &dyn KeeperLink,
    since: &mut Instant,
    nudge: &Nudge,
) -> Result<()> {
    let start_max = inner.settings.timing.start_max;
    let mut said = row.observed.reason.clone();
    if row.observed.phase != Phase::Starting {
        report(inner, row, Observation::of(Phase::Starting, STARTING)).await?;
        STARTING.clone_into(&mut said);
    }
    let mut claimed = row.take_over_from.is_none();
    // The first is asked for at once; those that follow, when there is something new.
    let mut seen: Option<KeeperStatus> = None;
    loop {
        let look = async {
            match &seen {
                None => link.status().await,
                Some(seen) => link.next_status(seen, LOOK_FOR).await,
            }
        };
        let status = tokio::select! {
            () = nudge.given() => return Ok(()),
            () = link.ended() => return Err(ended_words(inner, row).await),
            status = look => status,
        };
        match status {
            Ok(status) => {
                inner.note_room(&row.id, status.waits_for_room);
                if status.home_claimed && !claimed {
                    claimed = true;
                    take_over_used(inner, row).await?;
                }
                match status.phase {
                    KeeperPhase::Starting => {}
                    KeeperPhase::Ready | KeeperPhase::Failed => return Ok(()),
                    // It gave up; its last words say why. Going on as if it had been asked to end would
                    // start it again without end.
                    KeeperPhase::Stopping | KeeperPhase::Stopped => {
                        tokio::select! {
                            () = nudge.given() => return Ok(()),
                            () = link.ended() => return Err(ended_words(inner, row).await),
                            () = tokio::time::sleep(LOOK_EVERY.1) => (),
                        }
                        // What it stores may be nowhere else: it is not ended for taking long.
                        if since.elapsed() >= start_max {
                            return Ok(());
                        }
                        seen = None;
                        continue;
                    }
                }
                if status.waits_for_room {
                    // Its guest is held, and is not silent. What it goes on from would be lost with it.
                    *since = Instant::now();
                }
                let doing = before_the_guest(&status, seen.as_ref());
                if doing.is_some() {
                    // Its time to boot has not begun; the store's patience bounds this one.
                    *since = Instant::now();
                }
                // One that opens its home and does not get on does nothing else.
                let doing = doing.or(status.opening_home.is_none().then_some(STARTING));
                if let Some(doing) = doing.filter(|doing| *doing != said) {
                    report(inner, row, Observation::of(Phase::Starting, doing)).await?;
                    doing.clone_into(&mut said);
                }
                seen = Some(status);
            }
            // It may have ended just now; then its last words say more than its silence.
            Err(silent) => {
                let ended = tokio::time::timeout(LAST_WORDS_WAIT, link.ended()).await;
                return Err(if ended.is_ok() { ended_words(inner, row).await } else { silent });
            }
        }
        if since.elapsed() >= start_max {
            link.kill().await?;
            let is_opening = seen.is_some_and(|seen| seen.opening_home.is_some());
            return Err(took_too_long(is_opening, start_max));
        }
    }
}

/// What a keeper gets on with before its guest runs.
fn before_the_guest(now: &KeeperStatus, seen: Option<&KeeperStatus>) -> Option<&'static str> {
    let opening = now.opening_home.zip(seen.and_then(|seen| seen.opening_home));
    match (now.restoring, opening) {
        (Some((done, all)), _) => {
            tracing::debug!(done, all, "restoring the upper");
            Some("restoring_upper")
        }
        (None, Some((done, before))) if done != before => {
            tracing::debug!(done, "opening the home");
            Some("opening_home")
        }
        _ => None,
    }
}

fn took_too_long(is_opening: bool, start_max: Duration) -> Error {
    let seconds = start_max.as_secs();
    if is_opening {
        let what = format!(
            "opening the home did not get on for {seconds} s; check that the object store is reachable, and \
             this host's disk"
        );
        return Error::new(ErrorKind::Unavailable, what);
    }
    let what = format!(
        "the guest did not answer within {seconds} s; wake the machine again, and look at its \
         console log if it stays silent"
    );
    Error::new(ErrorKind::Internal, what).with_code("GUEST_SILENT")
}

/// A home is taken over once. A right that is kept longer, because nobody heard of the claim, is void all the same:
/// it is of the claim before.
async fn take_over_used(inner: &Inner, row: &MachineRow) -> Result<()> {
    let change = MachineChange { take_over_from: Some(None), ..MachineChange::default() };
    inner.edit(&row.id, move |_| Ok(change)).await.map(drop)
}

/// What a keeper that ended unasked had to say.
pub(crate) async fn ended_words(inner: &Inner, row: &MachineRow) -> Error {
    match inner.parts.host.last_words(&row.id).await.and_then(|words| words.failure) {
        Some(failure) => failure_error(&failure),
        None => keeper_lost(row),
    }
}

async fn ask_sleep(inner: &Inner, row: &MachineRow, link: &dyn KeeperLink) -> Result<()> {
    if row.observed.phase != Phase::Stopping {
        report(inner, row, Observation::of(Phase::Stopping, "sleep_requested")).await?;
    }
    link.sleep().await?;
    // The keeper answers before it begins; do not ask it a thousand times meanwhile.
    tokio::time::sleep(LOOK_EVERY.0).await;
    Ok(())
}

async fn ask_stop(link: &dyn KeeperLink) -> Result<()> {
    link.shut_down().await?;
    // As above.
    tokio::time::sleep(LOOK_EVERY.0).await;
    Ok(())
}

/// The memory goes first: a crash in between throws it away once more.
async fn forget_memory(inner: &Inner, row: &MachineRow) -> Result<()> {
    // It may be on its way to the store.
    uppers::hold(inner, &row.id).await;
    inner.parts.host.forget_memory(&row.id).await?;
    let change = MachineChange {
        observed: Some(Observation::of(Phase::Accepted, "rebooting")),
        reboot: Some(Some(Reboot::Booting)),
        ..MachineChange::default()
    };
    edit_if_wanted(inner, row, move |_| change).await
}

/// A keeper that takes long to store its home is never ended for it: what it holds may be nowhere
/// else. The row says that it takes long.
async fn await_end(
    inner: &Inner,
    row: &MachineRow,
    link: &dyn KeeperLink,
    since: Instant,
    nudge: &Nudge,
) -> Result<()> {
    let patience = since + inner.settings.timing.stop_max;
    let mut pause = LOOK_EVERY.0;
    let mut said = false;
    loop {
        tokio::select! {
            () = nudge.given() => return Ok(()),
            () = link.ended() => return Ok(()),
            () = tokio::time::sleep(pause) => (),
        }
        let status = link.status().await;
        // A guest that waits for room cannot be put to sleep; that is said as long as it is so.
        let waits = status.as_ref().is_ok_and(|status| status.waits_for_room);
        inner.note_room(&row.id, waits);
        if matches!(status, Ok(status) if status.phase == KeeperPhase::Failed) {
            return Ok(());
        }
        if !said && !waits && Instant::now() >= patience {
            said = true;
            let error = Error::new(
                ErrorKind::Unavailable,
                "the home is still being stored; check that the object store is reachable",
            );
            report_trouble(inner, row, &error).await?;
        }
        pause = (pause * 2).min(LOOK_EVERY.1);
    }
}

async fn report_running(
    inner: &Inner,
    row: &MachineRow,
    link: Option<&dyn KeeperLink>,
) -> Result<()> {
    inner.activity.touch(&row.id);
    let (woken, behind) = match link {
        Some(link) => {
            let status = link.status().await?;
            (status.woken, status.upper_behind)
        }
        None => (Woken::Booted, None),
    };
    let change = MachineChange {
        observed: Some(awake(woken, behind)),
        take_over_from: Some(None),
        reboot: Some(None),
        ..MachineChange::default()
    };
    edit_if_wanted(inner, row, move |_| change).await
}

/// How a machine that is awake came up.
fn awake(woken: Woken, behind: Option<String>) -> Observation {
    let observed = match woken {
        Woken::Booted => Observation::of(Phase::Running, "ready"),
        Woken::Resumed => Observation::of(Phase::Running, "resumed"),
        Woken::BootedInstead(why) => Observation {
            last_error: Some(format!(
                "the machine booted and did not go on from its memory: {why}"
            )),
            ..Observation::of(Phase::Running, "booted_without_memory")
        },
        Woken::Cloned => Observation::of(Phase::Running, "cloned"),
        Woken::BootedWithoutTemplate(why) => Observation {
            last_error: Some(format!(
                "the machine booted and did not begin with a template: {why}"
            )),
            ..Observation::of(Phase::Running, "booted_without_template")
        },
    };
    match behind {
        None => observed,
        // It is why there is no memory, too.
        Some(why) => {
            Observation { last_error: Some(why), ..Observation::of(Phase::Running, "upper_behind") }
        }
    }
}

/// With the guest's own wish, which takes the place of that of an earlier sleep.
async fn report_sleeping(inner: &Inner, row: &MachineRow) -> Result<()> {
    let words = inner.parts.host.last_words(&row.id).await;
    // The guest's word for it; what has passed by now was no wish when it was made.
    let now = inner.parts.clock.now();
    let guest = words.and_then(|words| words.wake_at).filter(|at| *at > now);
    let change = move |now: &MachineRow| MachineChange {
        observed: Some(Observation::of(Phase::Sleeping, "asleep")),
        alarm: Some(Alarm { guest, ..now.alarm }),
        ..MachineChange::default()
    };
    edit_if_wanted(inner, row, change).await
}

async fn report_powered_off(inner: &Arc<Inner>, row: &MachineRow) -> Result<()> {
    inner.activity.forget(&row.id);
    uppers::asleep(inner, &row.id);
    let change = |now: &MachineRow| MachineChange {
        desired: Some(Desired::Sleeping),
        observed: Some(Observation::of(Phase::Sleeping, "guest_powered_off")),
        // Nobody asked it this time.
        alarm: Some(Alarm { guest: None, ..now.alarm }),
        ..MachineChange::default()
    };
    edit_if_wanted(inner, row, change).await
}

async fn report_failure(
    inner: &Inner,
    row: &MachineRow,
    link: &dyn KeeperLink,
    failure: Option<KeeperFailure>,
) -> Result<()> {
    link.kill().await?;
    let error = failure.map_or_else(|| keeper_lost(row), |failure| failure_error(&failure));
    // On the way up a later try may do; the driver counts them. Awake or on the way down it is
    // the caller's turn.
    let on_the_way =
        matches!(row.observed.phase, Phase::Accepted | Phase::PlacementPending | Phase::Starting);
    if on_the_way { Err(error) } else { report_failed(inner, row, &error).await }
}

async fn destroy(inner: &Arc<Inner>, row: &MachineRow) -> Result<()> {
    mounted::hold_up(inner, row, "it is deleted").await?;
    uppers::hold(inner, &row.id).await;
    unrecord(inner, row).await?;
    inner.parts.host.remove(&row.id).await?;
    inner.activity.forget(&row.id);
    inner.note_room(&row.id, false);
    uppers::forget(inner, &row.id);
    let id = row.id.clone();
    inner.db(move |catalog| catalog.remove_machine(&id)).await?;
    // Told after the row is gone, so that whoever hears it finds the name free.
    inner.watchers.tell(&MachineRow {
        observed: Observation::of(Phase::Destroyed, "destroyed"),
        revision: row.revision + 1,
        ..row.clone()
    });
    Ok(())
}

/// Writes down where the machine is, unless it is wanted elsewhere by now.
async fn report(inner: &Inner, row: &MachineRow, observed: Observation) -> Result<()> {
    let change = MachineChange { observed: Some(observed), ..MachineChange::default() };
    edit_if_wanted(inner, row, move |_| change).await
}

/// Changes a row, unless by now something else is wanted than when it was looked at.
async fn edit_if_wanted(
    inner: &Inner,
    row: &MachineRow,
    change: impl FnOnce(&MachineRow) -> MachineChange + Send + 'static,
) -> Result<()> {
    let wish = (row.desired, row.reboot);
    let decide = move |now: &MachineRow| {
        let still = (now.desired, now.reboot) == wish;
        Ok(if still { change(now) } else { MachineChange::default() })
    };
    inner.edit(&row.id, decide).await.map(drop)
}

/// The phase stays; the reason and the message say what is waited for.
pub(crate) async fn report_trouble(inner: &Inner, row: &MachineRow, error: &Error) -> Result<()> {
    let (reason, message) = (reason(error), error.message.clone());
    let change = move |now: &MachineRow| {
        let observed = Observation {
            phase: now.observed.phase,
            reason,
            retryable: true,
            last_error: Some(message),
        };
        MachineChange { observed: Some(observed), ..MachineChange::default() }
    };
    edit_if_wanted(inner, row, change).await
}

/// The machine is where nobody wants it, and stays until somebody asks again.
pub(crate) async fn report_failed(inner: &Inner, row: &MachineRow, error: &Error) -> Result<()> {
    let observed = Observation {
        phase: Phase::Failed,
        reason: reason(error),
        retryable: error.is_retryable(),
        last_error: Some(error.message.clone()),
    };
    let change =
        MachineChange { observed: Some(observed), reboot: Some(None), ..MachineChange::default() };
    edit_if_wanted(inner, row, move |_| change).await
}

fn reason(error: &Error) -> String {
    error.code.to_ascii_lowercase()
}

/// Whether it is the machine itself that does not come up, and not what it needs.
pub(crate) fn is_of_the_guest(error: &Error) -> bool {
    ["GUEST_SILENT", "GUEST_ENDED", "KEEPER_LOST"].contains(&&*error.code)
}

/// Whether no later try can do better.
pub(crate) fn is_final(error: &Error) -> bool {
    let codes = ["FENCED", "HOME_GONE", "IMAGE_MISSING", "RUNTIME_MISSING", "UNHEALTHY"];
    codes.contains(&&*error.code)
        || matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported)
}

fn keeper_lost(row: &MachineRow) -> Error {
    Error::new(
        ErrorKind::Unreachable,
        format!(
            "the process that kept machine {} ended unexpectedly; every acknowledged write is kept: \
             wake the machine again",
            row.name
        ),
    )
    .with_code("KEEPER_LOST")
}

fn failure_error(failure: &KeeperFailure) -> Error {
    let kind = match (failure.code.as_str(), failure.retryable) {
        ("fenced", _) => ErrorKind::Fenced,
        ("home_gone", _) => ErrorKind::NotFound,
        (_, true) => ErrorKind::Unavailable,
        (_, false) => ErrorKind::Internal,
    };
    Error::new(kind, failure.message.clone()).with_code(failure.code.to_ascii_uppercase())
}
