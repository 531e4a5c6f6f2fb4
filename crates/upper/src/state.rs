//! What this host knows of its copy of an upper: a small file beside it.
//!
//! # Invariants
//! - `content` is never later than what the file holds: it may have been run upon since.
//! - `settled` is the epoch of a claim of ours after which the newest generation in the store was ours, or
//!   there was none: a claim that follows directly has nothing to ask. 0 where that is not known.
//! - `stored` says how the file looked when all of it was in the generation `parent`.
//! - Read, changed and written under a lock that all processes of this host respect: a server that stores and
//!   one of its tasks that collects, and the machine's keeper, each change a part of it.
//!
//! # Crash
//! Replaced whole and synced. A note that is missing means that nothing is known: what the store has
//! is newer then.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use base::{Digest, Epoch};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file;
use crate::keys::Generation;
use crate::limits::STATE_BYTES_MAX;
use crate::memory::Pack;
use crate::place::Files;

/// What is written, and all that is read.
const FORMAT: u32 = 1;

/// How a file looks from outside. One that is written to looks different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Look {
    len: u64,
    mtime: i64,
    mtime_nanos: i64,
}

impl Look {
    /// Of the file at `path`; `None` where there is none.
    pub(crate) fn at(path: &Path) -> Result<Option<Self>> {
        match std::fs::metadata(path) {
            Ok(meta) => Ok(Some(Self {
                len: meta.len(),
                mtime: meta.mtime(),
                mtime_nanos: meta.mtime_nsec(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::disk("look at the upper")(error)),
        }
    }

    /// Its length in bytes.
    pub(crate) fn len(self) -> u64 {
        self.len
    }
}

/// The content of the note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) format: u32,
    /// The run that left the file, at least.
    pub(crate) content: Epoch,
    /// See above.
    pub(crate) settled: Epoch,
    /// The newest generation in the store, as far as we know.
    pub(crate) parent: Option<Generation>,
    /// The file, when all of it was in `parent`.
    pub(crate) stored: Option<Look>,
    /// The run that left what is in that generation: later ones may have changed nothing.
    #[serde(default)]
    pub(crate) stored_run: Epoch,
    /// The file, as the last run left it.
    pub(crate) asleep: Option<Look>,
    /// Something in the store may be garbage since `parent`.
    pub(crate) uncollected: bool,
    /// Chunks that an upload stored which was broken off: digest, birth, stored length.
    pub(crate) ahead: Vec<(String, Epoch, u32)>,
    /// Chunks of the file are still in the store; which, the note beside it says. Without that note the file is
    /// worth nothing.
    #[serde(default)]
    pub(crate) lazy: bool,
    /// Of the memory that was saved with it.
    #[serde(default)]
    pub(crate) memory: MemoryNote,
}

/// What this host knows of memory in the store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct MemoryNote {
    /// The run whose memory this host has stored last; 0 for none.
    pub(crate) stored: Epoch,
    /// The last one that this host has stored, or gone on from: it is whole, and the next one takes over what did not
    /// change.
    pub(crate) newest: Option<Epoch>,
    /// The newest at the last wake that asked the store, where the guest did not go on from it. The next one takes its
    /// place, and takes nothing over.
    #[serde(default)]
    pub(crate) found: Option<Epoch>,
    /// Packs that no memory names, but for one that is being stored.
    pub(crate) packs: Vec<NotedPack>,
}

/// A pack that is to be named or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotedPack {
    digest: String,
    born: Epoch,
    len: u32,
    /// The store has it for certain.
    pub(crate) there: bool,
}

impl NotedPack {
    pub(crate) fn of(pack: Pack, there: bool) -> Self {
        let Pack { digest, born, len } = pack;
        Self { digest: digest.to_string(), born, len, there }
    }

    pub(crate) fn pack(&self) -> Option<Pack> {
        let digest = self.digest.parse().ok()?;
        Some(Pack { digest, born: self.born, len: self.len })
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            format: FORMAT,
            content: Epoch::default(),
            settled: Epoch::default(),
            parent: None,
            stored: None,
            stored_run: Epoch::default(),
            asleep: None,
            uncollected: false,
            ahead: Vec::new(),
            lazy: false,
            memory: MemoryNote::default(),
        }
    }
}

impl State {
    /// The note at `path`. One that is missing or cannot be read is one that knows nothing.
    pub(crate) fn read(path: &Path) -> Self {
        Self::known(path).unwrap_or_default()
    }

    /// The same; `None` where it is missing or cannot be read.
    pub(crate) fn known(path: &Path) -> Option<Self> {
        let read = File::open(path).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(STATE_BYTES_MAX).read_to_end(&mut bytes)?;
            let state: Self = serde_json::from_slice(&bytes)?;
            if state.format == FORMAT {
                Ok(state)
            } else {
                Err(io::Error::other(format!("format {}", state.format)))
            }
        });
        match read {
            Ok(state) => Some(state),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "what was known of the upper cannot be read");
                }
                None
            }
        }
    }

    /// Changes the note as it is now; of two that had read it before, one would undo what the other wrote.
    /// On the disk when this returns.
    pub(crate) fn change<T>(files: &Files, change: impl FnOnce(&mut Self) -> T) -> Result<T> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(&files.lock).map_err(Error::disk("open the lock of the upper"))?;
        lock.lock().map_err(Error::disk("lock what is known of the upper"))?;
        let before = Self::read(&files.state);
        let mut state = before.clone();
        let done = change(&mut state);
        if state != before {
            state.write(&files.state)?;
        }
        Ok(done)
    }

    /// The wake under `epoch` made the generation `newest`, which goes on from `parent`; `memory` is the run whose memory
    /// was the newest then.
    pub(crate) fn settle(
        &mut self,
        epoch: Epoch,
        newest: Generation,
        parent: Option<Generation>,
        memory: Option<Epoch>,
    ) {
        // What is stored goes on being known only where it is still the newest.
        if self.parent.is_none() || self.parent != parent {
            self.stored = None;
        }
        (self.settled, self.parent) = (epoch, Some(newest));
        self.ahead.clear();
        // Whoever had the machine meanwhile may name them; a collector knows.
        self.memory.packs.clear();
        // Of what this host had stored itself others may have deleted a part, and what others stored may be why the
        // guest boots.
        (self.memory.newest, self.memory.found) = (None, memory);
    }

    /// True where the file is the very disk that the run of `content` left, which all was stored.
    pub(crate) fn is_disk_of(&self, content: Epoch, file: Option<Look>) -> bool {
        file.is_some() && file == self.asleep && file == self.stored && self.stored_run == content
    }

    /// True where both are of one sleep: what was found out for the one holds for the other.
    pub(crate) fn is_same_sleep(&self, other: &Self) -> bool {
        (self.content, self.asleep) == (other.content, other.asleep)
    }

    fn write(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        file::replace(path, &bytes).map_err(Error::disk("note how the upper is"))
    }

    /// Chunks that lie in the store already and are named by nobody.
    pub(crate) fn ahead(&self) -> impl Iterator<Item = (Digest, Epoch, u32)> {
        self.ahead
            .iter()
            .filter_map(|(digest, born, stored)| Some((digest.parse().ok()?, *born, *stored)))
    }

    /// The memory in the store that the next one takes the place of.
    pub(crate) fn memory_before(&self) -> Option<Epoch> {
        self.memory.newest.or(self.memory.found)
    }

    /// The generation that the memory of the last run goes with: all of the upper is in it. `None` where that is
    /// not so, or where that memory is in the store.
    pub(crate) fn memory_goes_with(&self) -> Option<Generation> {
        let slept = self.asleep.is_some() && self.asleep == self.stored;
        self.parent.filter(|_| slept && !self.memory_is_stored())
    }

    /// True where the memory of the last run is in the store.
    pub(crate) fn memory_is_stored(&self) -> bool {
        self.content > Epoch::default() && self.memory.stored == self.content
    }

    /// True where something is to be stored, given how the file looks.
    pub(crate) fn is_ahead_of_the_store(&self) -> bool {
        self.asleep.is_some() && self.asleep != self.stored
    }
}

/// How far a sleeping machine's upper is in the store, as this host knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// All of it is there.
    Stored {
        /// Something else there may be garbage since this generation.
        uncollected: Option<Generation>,
    },
    /// Something is to be stored.
    Behind,
    /// This host knows of no run that ended in order.
    Unknown,
}

/// Reads how far the upper at `disk` is whose note is at `path`. A note of an earlier run says nothing of
/// what is there now.
pub(crate) fn standing(path: &Path, disk: &Path) -> Standing {
    let state = State::read(path);
    match state.asleep {
        None => Standing::Unknown,
        Some(asleep) if Look::at(disk).ok().flatten() != Some(asleep) => Standing::Unknown,
        Some(_) if state.is_ahead_of_the_store() => Standing::Behind,
        Some(_) => Standing::Stored { uncollected: state.parent.filter(|_| state.uncollected) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Kind;

    #[test]
    fn of_many_who_change_the_note_at_once_nobody_undoes_what_another_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let files = Files {
            disk: at("disk"),
            state: at("state"),
            lock: at("lock"),
            manifest: at("manifest"),
            missing: at("missing"),
            fetched: at("fetched"),
            memory_fetched: at("memory"),
        };
        let add = |born| State::change(&files, |state| state.ahead.push((String::new(), born, 0)));
        std::thread::scope(|scope| {
            for writer in 0..8 {
                scope.spawn(move || (0..10).for_each(|one| add(Epoch(writer * 10 + one)).unwrap()));
            }
        });
        let mut found: Vec<u64> =
            State::read(&files.state).ahead.iter().map(|(_, born, _)| born.0).collect();
        found.sort_unstable();
        assert_eq!(found, (0..80).collect::<Vec<_>>());
    }

    #[test]
    fn a_note_comes_back_as_it_was_written_and_a_damaged_one_knows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upper.json");
        assert_eq!(State::read(&path), State::default());
        let disk = dir.path().join("disk");
        std::fs::write(&disk, "x").unwrap();
        let look = Look::at(&disk).unwrap();
        assert_eq!(look.unwrap().len(), 1);
        let digest = Digest::of(b"x");
        let state = State {
            content: Epoch(4),
            settled: Epoch(5),
            parent: Some(Generation { epoch: Epoch(5), kind: Kind::Begun }),
            stored: look,
            stored_run: Epoch(4),
            asleep: look,
            uncollected: true,
            ahead: vec![(digest.to_string(), Epoch(4), 7)],
            memory: MemoryNote {
                stored: Epoch(4),
                newest: Some(Epoch(4)),
                found: None,
                packs: vec![NotedPack::of(Pack { digest, born: Epoch(4), len: 7 }, true)],
            },
            ..State::default()
        };
        state.write(&path).unwrap();
        assert_eq!(State::read(&path), state);
        assert_eq!(state.ahead().collect::<Vec<_>>(), [(digest, Epoch(4), 7)]);
        assert_eq!(standing(&path, &disk), Standing::Stored { uncollected: state.parent });
        State { stored: None, ..state.clone() }.write(&path).unwrap();
        assert_eq!(standing(&path, &disk), Standing::Behind);
        std::fs::write(&disk, "of a later run").unwrap();
        assert_eq!(standing(&path, &disk), Standing::Unknown);
        for damaged in ["", "{", "[]", "{\"format\":9}"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(State::read(&path), State::default(), "{damaged}");
            assert_eq!(standing(&path, &disk), Standing::Unknown);
        }
    }
}
