//! Collects the garbage of homes that sleep: one at a time, and seldom. Once a day also templates that no machine needs.
//!
//! # Order
//! A pass over all machines every [`Timing::housekeep_every`](crate::settings::Timing). One that has
//! slept for [`REST`] is looked at; what came of it is noted in memory and in a small file of the
//! machine's directory, so that a home in which nothing happened costs nothing, after a restart too.
//!
//! # Failure
//! A home that cannot be collected is left for [`AFTER_FAILURE`]; the others go on.
//!
//! # Not here
//! What is garbage (`homefs::garbage`). Homes that are awake: their keepers collect.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{MachineId, Timestamp};
use catalog::{Desired, MachineRow, Phase};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::control::{Inner, blocking};
use crate::{Error, Result};

/// How long a machine sleeps before its home is looked at.
const REST: Duration = Duration::from_secs(3600);
/// The least time between two collections of one home.
const AGAIN_MIN: Duration = Duration::from_secs(600);
/// A home that did not change is looked at again after this: a draft may have been published.
const LOOK_AFTER: Duration = Duration::from_secs(24 * 3600);
/// It is collected again after this: a snapshot may have been deleted.
const COLLECT_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// After a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(3600);
/// Between two homes, so that others come first.
const PAUSE: Duration = Duration::from_millis(500);
/// How often it is looked which templates are of use in the store.
const TEMPLATES_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Rows read at once.
const SCAN: usize = 500;
/// The file with a note.
const FILE: &str = "housekeeping.json";

/// What is known of a machine's home.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The machine's revision then.
    revision: u64,
    /// The home's newest commit then.
    seq: u64,
    /// When it was last collected.
    collected: Option<Timestamp>,
    /// When to look next, whatever happens.
    next: Option<Timestamp>,
    /// There is more to be collected then.
    more: bool,
}

/// Runs until the server closes.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut notes = HashMap::new();
    let looked = Arc::new(Mutex::new(None));
    loop {
        let work = async {
            tokio::time::sleep(inner.settings.timing.housekeep_every).await;
            match pass(&inner, &mut notes).await {
                Ok(known) => look_at_templates(&inner, known, &looked),
                Err(error) => tracing::warn!(%error, "look for homes to collect"),
            }
        };
        tokio::select! {
            () = inner.shutdown.cancelled() => return,
            () = work => (),
        }
    }
}

/// Deletes templates that no machine needs any more, where it is time, beside all else: with many machines of other
/// servers it takes a while. `known` are the machines of this one; who looks holds `looked`.
fn look_at_templates(
    inner: &Arc<Inner>,
    known: HashSet<MachineId>,
    looked: &Arc<Mutex<Option<Timestamp>>>,
) {
    let now = inner.parts.clock.now();
    let Ok(mut last) = looked.clone().try_lock_owned() else { return };
    if last.is_some_and(|then| age(then, now) < TEMPLATES_EVERY) {
        return;
    }
    let inner = inner.clone();
    inner.clone().tasks.spawn(async move {
        let collected = tokio::select! {
            () = inner.shutdown.cancelled() => return,
            collected = inner.parts.host.collect_templates(&known) => collected,
        };
        match collected {
            Ok(objects) => {
                *last = Some(now);
                if objects > 0 {
                    tracing::info!(objects, "collected templates that no machine needs");
                }
            }
            // At the next pass again.
            Err(error) => tracing::warn!(%error, "look for templates that no machine needs"),
        }
    });
}

/// Looks at all machines; which these are.
async fn pass(inner: &Inner, notes: &mut HashMap<MachineId, Note>) -> Result<HashSet<MachineId>> {
    let (mut after, mut kept) = (None::<MachineId>, HashMap::new());
    let mut known = HashSet::new();
    loop {
        let from = after.take();
        let rows = inner.db(move |catalog| catalog.machines(from.as_ref(), SCAN)).await?;
        known.extend(rows.iter().map(|row| row.id.clone()));
        for row in &rows {
            let now = inner.parts.clock.now();
            if !rests(row, now) {
                continue;
            }
            let note = match notes.remove(&row.id) {
                Some(note) => note,
                None => load(note_of(inner, row)).await?,
            };
            let note = if is_due(&note, row.revision, now) {
                let note = look(inner, row, note).await;
                save(note_of(inner, row), &note).await?;
                tokio::time::sleep(PAUSE.min(inner.settings.timing.housekeep_every)).await;
                note
            } else {
                note
            };
            kept.insert(row.id.clone(), note);
        }
        match rows.last() {
            Some(last) if rows.len() == SCAN => after = Some(last.id.clone()),
            _ => break,
        }
    }
    *notes = kept;
    Ok(known)
}

fn rests(row: &MachineRow, now: Timestamp) -> bool {
    row.desired == Desired::Sleeping
        && row.observed.phase == Phase::Sleeping
        && age(row.transition_at, now) >= REST
}

/// Pure: whether it is time to ask the store about a home.
fn is_due(note: &Note, revision: u64, now: Timestamp) -> bool {
    let moved = note.revision != revision && !note.more;
    moved || note.next.is_none_or(|next| now >= next)
}

/// Asks for the head, and collects where something may have changed.
async fn look(inner: &Inner, row: &MachineRow, before: Note) -> Note {
    let now = inner.parts.clock.now();
    let at = |after: Duration| now.checked_add(after).ok();
    match collect(inner, row, &before, now).await {
        Ok(note) => note,
        Err(error) => {
            tracing::warn!(machine = %row.id, home = %row.home, %error, "collect a sleeping home");
            Note { revision: row.revision, next: at(AFTER_FAILURE), ..before }
        }
    }
}

async fn collect(inner: &Inner, row: &MachineRow, before: &Note, now: Timestamp) -> Result<Note> {
    let at = |after: Duration| now.checked_add(after).ok();
    let revision = row.revision;
    let head = inner.parts.homes.head(&row.home).await?.filter(|head| head.released);
    let Some(head) = head else {
        return Ok(Note { revision, next: at(LOOK_AFTER), ..before.clone() });
    };
    let lately = before.collected.is_some_and(|then| age(then, now) < COLLECT_AFTER);
    if head.seq == before.seq && lately && !before.more {
        return Ok(Note { revision, next: at(LOOK_AFTER), ..before.clone() });
    }
    let done = inner.parts.homes.collect(&inner.home_at(row)).await?;
    if done.objects > 0 {
        let (objects, bytes) = (done.objects, done.bytes);
        tracing::info!(machine = %row.id, home = %row.home, objects, bytes, "collected a sleeping home");
    }
    let next = done.again_after.map_or(LOOK_AFTER, |after| after.max(AGAIN_MIN));
    let (seq, more) = (head.seq, done.again_after.is_some());
    Ok(Note { revision, seq, collected: Some(now), next: at(next), more })
}

fn age(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

fn note_of(inner: &Inner, row: &MachineRow) -> PathBuf {
    inner.home_at(row).dir.join(FILE)
}

/// A note that is missing or damaged only costs another look.
async fn load(path: PathBuf) -> Result<Note> {
    blocking(move || {
        let bytes = std::fs::read(path).unwrap_or_default();
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    })
    .await
}

async fn save(path: PathBuf, note: &Note) -> Result<()> {
    let json = serde_json::to_vec(note)
        .map_err(|error| Error::internal("encode a note").caused_by(error))?;
    blocking(move || {
        // Of a machine that is gone by now, nothing is made.
        if let Err(error) = std::fs::write(&path, json)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(%error, "write what is known of a sleeping home");
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::{World, eventually};
    use crate::machines::{CreateMachine, IfMatch, MachineRef};

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_home_is_due_when_it_moved_or_when_it_is_time() {
        let now = Timestamp::UNIX_EPOCH.checked_add(Duration::from_secs(1_000_000)).unwrap();
        let later = now.checked_add(Duration::from_secs(60)).ok();
        let note = Note { revision: 3, next: later, ..Note::default() };
        assert!(is_due(&Note::default(), 0, now), "it was never looked at");
        assert!(!is_due(&note, 3, now));
        assert!(is_due(&note, 3, later.unwrap()));
        assert!(is_due(&note, 4, now));
        assert!(!is_due(&Note { more: true, ..note }, 4, now), "its grace is not over");
    }

    #[tokio::test]
    async fn a_home_that_rests_is_collected_once_also_over_a_restart() {
        let world = World::new();
        let control = world.open().await;
        let machine = control.machines().create(CreateMachine::default()).await.unwrap();
        let machine = control.machines().settle(machine, SOON).await;
        let at = MachineRef::Id(machine.machine_id.clone());
        // Real hosts make it.
        let dir = world.settings().data_dir.join("machines").join(machine.machine_id.as_str());
        std::fs::create_dir_all(dir).unwrap();
        let asked = control.machines().sleep(&at, &IfMatch::Any).await.unwrap();
        control.machines().settle(asked, SOON).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(world.host.collected(), 0, "it only just fell asleep");
        world.clock.advance(REST);
        eventually(|| world.host.collected() == 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        control.close().await;
        let control = world.open().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(world.host.collected(), 1, "nothing happened since");
        world.clock.advance(COLLECT_AFTER);
        eventually(|| world.host.collected() == 2).await;
        control.close().await;
    }

    #[tokio::test]
    async fn templates_are_looked_at_once_a_day_and_told_which_machines_are_there() {
        let world = World::new();
        let control = world.open().await;
        let machine = control.machines().create(CreateMachine::default()).await.unwrap();
        let machine = control.machines().settle(machine, SOON).await;
        let looks = || world.host.state.lock().templates_collected.clone();
        eventually(|| !looks().is_empty()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(looks().len(), 1);
        for day in 2..4 {
            world.clock.advance(TEMPLATES_EVERY);
            eventually(|| looks().len() == day).await;
        }
        assert_eq!(looks()[2], HashSet::from([machine.machine_id]));
        control.close().await;
    }
}
