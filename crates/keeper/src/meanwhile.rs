//! What became of a home while the machine sleeps with its memory: the kernel that goes on has to forget
//! what it knew of that.
//!
//! Whoever publishes to a sleeping home notes the step from one version to the next, before it is made;
//! so also a step that never came to be may be noted, and the version that the home has at the wake tells
//! which were made.
//!
//! # Invariants
//! - No two states of a home share a version ([`homefs::Opened::version`]), so a chain of steps that ends
//!   at the home's version is what happened, and all that happened.
//! - Without such a chain the memory is void and the machine boots: a note that is missing, too long or
//!   damaged costs the memory and nothing else.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};

use homefs::Step;
use serde::{Deserialize, Serialize};
use vfs::{Ino, Touched};

use crate::asleep::SleepRecord;
use crate::layout::MachineDir;

/// The format that this program writes, and the only one that it reads.
const FORMAT: u32 = 1;
/// Names, and inodes, that all steps of a sleep may touch. Each is one notification or two for the kernel.
pub const TOUCHED_MAX: u64 = 16_384;
/// Longest note that is read, in bytes: two steps of [`TOUCHED_MAX`] names of 255 bytes, in digits.
const NOTE_BYTES_MAX: u64 = 40 << 20;

/// The content of `meanwhile.json`: at most the state that the home certainly had, and the next one.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    format: u32,
    /// The version that the sleeping kernel knows.
    from: u64,
    states: Vec<State>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    version: u64,
    /// Since `from`.
    entries: BTreeSet<(Ino, Vec<u8>)>,
    inodes: BTreeSet<Ino>,
}

impl State {
    fn and(&self, step: Step) -> Self {
        let Step { to, touched, .. } = step;
        let (mut entries, mut inodes) = (self.entries.clone(), self.inodes.clone());
        entries.extend(touched.entries);
        inodes.extend(touched.inodes);
        Self { version: to, entries, inodes }
    }

    fn is_small(&self) -> bool {
        self.entries.len().max(self.inodes.len()) as u64 <= TOUCHED_MAX
    }
}

impl Note {
    fn read(dir: &MachineDir) -> Option<Self> {
        let file = File::open(dir.meanwhile()).ok()?;
        let mut text = Vec::new();
        file.take(NOTE_BYTES_MAX + 1).read_to_end(&mut text).ok()?;
        if text.len() as u64 > NOTE_BYTES_MAX {
            return None;
        }
        serde_json::from_slice(&text).ok().filter(|note: &Self| note.format == FORMAT)
    }

    /// The state of this version, as it differs from what the kernel knows.
    fn state(dir: &MachineDir, from: u64, version: u64) -> Option<State> {
        if from == version {
            let (entries, inodes) = (BTreeSet::new(), BTreeSet::new());
            return Some(State { version, entries, inodes });
        }
        let note = Self::read(dir).filter(|note| note.from == from)?;
        note.states.into_iter().find(|state| state.version == version)
    }
}

/// Inodes that the kernel of a machine that sleeps here holds: they outlive their names until it wakes.
#[must_use]
pub fn held(dir: &MachineDir) -> Vec<Ino> {
    SleepRecord::read(dir).map(|record| record.held()).unwrap_or_default()
}

/// True where a machine sleeps here with its memory.
#[must_use]
pub fn remembers(dir: &MachineDir) -> bool {
    dir.asleep().exists()
}

/// Notes a step of the home of a machine that sleeps here. Nothing is noted where that would be of no
/// use: nothing sleeps, it does not know the state before, or too much was touched.
///
/// # Errors
/// Those of the disk.
pub fn note(dir: &MachineDir, step: Step) -> io::Result<()> {
    let Some(known) = SleepRecord::read(dir).map(|record| record.version()) else { return Ok(()) };
    let Some(before) = Note::state(dir, known, step.from) else { return Ok(()) };
    let next = before.and(step);
    if !next.is_small() {
        return Ok(());
    }
    let states = vec![before, next];
    let note = Note { format: FORMAT, from: known, states };
    upper::file::replace(&dir.meanwhile(), &serde_json::to_vec(&note)?)
}

/// What a kernel that knows version `from` has to forget of a home that has `version` now; `None` where
/// nobody knows.
pub(crate) fn between(dir: &MachineDir, from: u64, version: u64) -> Option<Touched> {
    let State { entries, inodes, .. } = Note::state(dir, from, version)?;
    Some(Touched { entries: entries.into_iter().collect(), inodes: inodes.into_iter().collect() })
}

/// Takes the note away.
pub(crate) fn forget(dir: &MachineDir) {
    // One that stays is of no other sleep.
    std::fs::remove_file(dir.meanwhile()).ok();
}

#[cfg(test)]
mod tests {
    use base::HomeId;
    use fuse_serve::Saved;

    use super::*;

    fn asleep_at(version: u64) -> (tempfile::TempDir, MachineDir) {
        let path = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(path.path());
        let session = Saved { no_open: true, no_opendir: true, held: vec![(7, 1)] };
        let record = SleepRecord::new(HomeId::generate(), version, Default::default(), session, 0);
        record.write(&dir).unwrap();
        (path, dir)
    }

    fn step(from: u64, to: u64, name: &str) -> Step {
        let touched = Touched { entries: vec![(1, name.as_bytes().to_vec())], inodes: vec![to] };
        Step { from, to, touched }
    }

    fn names(touched: &Touched) -> Vec<&str> {
        touched.entries.iter().map(|(_, name)| std::str::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn steps_add_up_and_one_that_was_not_made_does_not_count() {
        let (_path, dir) = asleep_at(10);
        assert_eq!(held(&dir), [7]);
        assert_eq!(between(&dir, 10, 10), Some(Touched::default()));
        assert_eq!(between(&dir, 10, 20), None);
        note(&dir, step(10, 20, "a")).unwrap();
        assert_eq!(between(&dir, 10, 10), Some(Touched::default()), "it may not have been made");
        assert_eq!(names(&between(&dir, 10, 20).unwrap()), ["a"]);
        // It was not: another one was.
        note(&dir, step(10, 21, "b")).unwrap();
        assert_eq!(between(&dir, 10, 20), None);
        assert_eq!(names(&between(&dir, 10, 21).unwrap()), ["b"]);
        note(&dir, step(21, 30, "c")).unwrap();
        let touched = between(&dir, 10, 30).unwrap();
        assert_eq!(names(&touched), ["b", "c"]);
        assert_eq!(touched.inodes, [21, 30]);
        assert_eq!(names(&between(&dir, 10, 21).unwrap()), ["b"]);
    }

    #[test]
    fn what_nobody_saw_leaves_no_chain() {
        let (_path, dir) = asleep_at(10);
        note(&dir, step(15, 20, "after a step of another server")).unwrap();
        assert_eq!(between(&dir, 10, 20), None);
        note(&dir, step(10, 20, "a")).unwrap();
        assert_eq!(between(&dir, 11, 20), None, "of another sleep");
        let many = (0..=TOUCHED_MAX).map(|n| (n, b"x".to_vec())).collect();
        let touched = Touched { entries: many, inodes: Vec::new() };
        note(&dir, Step { from: 20, to: 30, touched }).unwrap();
        assert_eq!(between(&dir, 10, 30), None);
        assert_eq!(names(&between(&dir, 10, 20).unwrap()), ["a"]);
    }

    #[test]
    fn without_a_sleep_or_with_a_damaged_note_nothing_is_known() {
        let path = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(path.path());
        note(&dir, step(10, 20, "a")).unwrap();
        assert!(!dir.meanwhile().exists() && !remembers(&dir) && held(&dir).is_empty());
        let (_path, dir) = asleep_at(10);
        note(&dir, step(10, 20, "a")).unwrap();
        for damaged in ["", "{", "{\"format\":2,\"from\":10,\"states\":[]}"] {
            std::fs::write(dir.meanwhile(), damaged).unwrap();
            assert_eq!(between(&dir, 10, 20), None, "{damaged}");
        }
        note(&dir, step(10, 20, "a")).unwrap();
        SleepRecord::remove(&dir).unwrap();
        assert!(!dir.meanwhile().exists());
    }
}
