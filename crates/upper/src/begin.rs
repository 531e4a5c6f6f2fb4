//! A wake: upon which upper the guest runs.
//!
//! # Order
//! The home is claimed under `epoch`. Where the claim follows directly on one of ours after which the newest
//! generation was known, nothing is asked. Else: look at the generations; wait a while for one that is
//! announced; create a generation `begun` of this epoch, which says the same as the newest; where this host's
//! file is older than that, look whether all chunks are in the store, and make a disk of which all are missing
//! ([`lazy`](crate::lazy)); note what is here now.
//!
//! # Invariants
//! - From `begun` on, no older upload counts, and no collector touches what the newest named.
//! - A file of this host that is older than what is stored is never run upon. What it has that may
//!   be nowhere else is set aside, not deleted.
//!
//! # Crash
//! Before the note: the next wake decides anew, and the same. A disk of which all is missing comes to its place last: what
//! was there before is gone by then, with what was missing of it; the state says that the new one is not all here, and
//! what is missing of it is noted. So a disk that is found is an older one, or has all that belongs to it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base::{Digest, Epoch};
use tokio::time::Instant;

use crate::error::{Error, Result, blocking};
use crate::fetch::{self, Fetched};
use crate::file;
use crate::keys::{Generation, Kind};
use crate::lazy::{Boot, Note};
use crate::limits::{PENDING_LOOK, PENDING_PATIENCE};
use crate::looked::Looked;
use crate::manifest::Manifest;
use crate::memory::StoredMemory;
use crate::place::{Files, Log, Upper};
use crate::state::{Look, State};

/// The first claim after the one that made a home.
const FIRST_RUN: Epoch = Epoch(2);
/// Most uppers of one run that are set aside.
const PARKED_MAX: u32 = 100;
/// How often a decision that took too long is made anew.
const DECISIONS_MAX: u32 = 3;

/// How a wake begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// The epoch of the claim.
    pub epoch: Epoch,
    /// The machine was awake on a host that is lost.
    pub was_awake: bool,
    /// The longest upper that the machine may have, in bytes.
    pub disk_bytes_max: u64,
}

/// What the guest runs upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Where it came from.
    pub found: Found,
    /// What of it is missing, for people: the newest that was made is not here.
    pub behind: Option<String>,
    /// The memory in the store that the guest can go on from, or why there is none, for people. `None` where
    /// the upper is the one here, and so is the memory, if any.
    pub memory: Option<Result<StoredMemory, String>>,
}

/// Where the upper came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// This host's file.
    Here,
    /// The store, where its chunks still are; it lies over this root.
    Stored {
        /// Digest of the root file system.
        root: Digest,
    },
    /// There is none: the caller makes an empty one.
    Nowhere,
}

impl Begun {
    fn with(found: Found) -> Self {
        Self { found, behind: None, memory: None }
    }
}

/// The generation that a wake begins with, and what was there when it was made.
struct Settled {
    newest: Manifest,
    /// The last run that changed something.
    changed: Option<Epoch>,
    /// Runs whose memory is in the store.
    memory: Vec<Epoch>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Keep,
    Fetch,
    Blank,
}

/// Pure: which upper is newest. `here` is the run that left this host's file, at least; `stored` that of
/// the newest generation, 0 for a blank one.
fn choose(here: Option<Epoch>, stored: Option<Epoch>) -> Choice {
    let stored = stored.unwrap_or_default();
    match here {
        Some(here) if here >= stored => Choice::Keep,
        _ if stored > Epoch::default() => Choice::Fetch,
        _ => Choice::Blank,
    }
}

impl Upper {
    /// Decides upon which upper the guest runs, and makes a disk for it where it is not here. `root_here` is asked
    /// whether this host has the root file system that a stored upper lies over, before anything is made;
    /// `pin` writes down which it is, before the disk is put in its place: an upper is never
    /// without its root. Afterwards [`LazyDisk::open`](crate::LazyDisk::open) says whether chunks are missing.
    ///
    /// # Errors
    /// Those of store and disk, `Corrupt` where what is stored is damaged, `TooLarge` where it is longer than
    /// the machine may have; those of `root_here` and `pin`.
    /// The upper here is as it was then.
    pub async fn begin<E: From<Error>>(
        &self,
        begin: Begin,
        root_here: impl Fn(&Digest) -> Result<(), E>,
        pin: impl FnOnce(&Digest) -> Result<(), E>,
    ) -> Result<Begun, E> {
        let (state, look, is_whole) = self.seen().await?;
        if !is_whole {
            tracing::warn!(
                "nobody knows what is missing of the upper here; the stored one is used"
            );
        }
        let is_first = begin.epoch <= FIRST_RUN;
        if look.is_some()
            && is_whole
            && state.settled > Epoch::default()
            && state.settled.next() == begin.epoch
        {
            return Ok(Begun::with(Found::Here));
        }
        if is_first {
            let found = if look.is_some() { Found::Here } else { Found::Nowhere };
            self.note(move |state| state.settled = begin.epoch).await?;
            return Ok(Begun::with(found));
        }
        let here = look.filter(|_| is_whole).map(|_| state.content);
        let Settled { newest, changed, memory } = self.settle(begin.epoch, here).await?;
        let choice = choose(here, Some(newest.content));
        if choice == Choice::Fetch && newest.disk_bytes > begin.disk_bytes_max {
            let (bytes, max) = (newest.disk_bytes, begin.disk_bytes_max);
            return Err(Error::TooLarge { bytes, max }.into());
        }
        // Of a host that was lost and is this one, nothing is missing.
        let ours = state.content.max(state.settled);
        let elsewhere = newest.parent.is_some_and(|parent| parent.epoch > ours);
        let was_awake = begin.was_awake && (choice != Choice::Keep || elsewhere);
        let behind = behind(choice, was_awake, &newest, here, changed);
        if let Some(why) = &behind {
            tracing::warn!(why, "the upper is not the newest that was made");
        }
        self.keep(&newest).await;
        let (generation, parent) = (newest.generation, newest.parent);
        let last = memory.iter().max().copied();
        let settle = move |state: &mut State| state.settle(begin.epoch, generation, parent, last);
        let memory = match choice {
            // The very disk that is stored: others ran upon it since, and changed nothing of it. Without such memory
            // there may be some here.
            Choice::Keep if state.is_disk_of(newest.content, look) => {
                self.memory_for(begin.epoch, &memory, parent).await.ok().map(Ok)
            }
            Choice::Keep => None,
            // A fork that nobody woke yet has nothing to miss.
            Choice::Fetch if memory.is_empty() && newest.is_of_new_fork() => None,
            // Before the upper is fetched: what is newer by then is no memory of it.
            Choice::Fetch => Some(self.memory_for(begin.epoch, &memory, parent).await),
            // One that never ran has nothing to miss.
            Choice::Blank if changed.is_none() && memory.is_empty() => None,
            Choice::Blank => Some(Err("it is not in the store".to_owned())),
        };
        let found = match choice {
            Choice::Keep => {
                self.note(settle).await?;
                Found::Here
            }
            Choice::Blank => {
                self.note(move |state| {
                    *state = State::default();
                    settle(state);
                })
                .await?;
                Found::Nowhere
            }
            Choice::Fetch => {
                root_here(&newest.root)?;
                self.look_for_chunks(&newest).await?;
                let (path, len) = (self.files.fetched.clone(), newest.disk_bytes);
                let made = blocking(move || Fetched::make(path, len)).await?;
                pin(&newest.root)?;
                let root = newest.root;
                let files = self.files.clone();
                let taken = move || take_over(&files, &made, &newest, &state, look);
                let stored = blocking(taken).await?;
                self.note(move |state| {
                    settle(state);
                    (state.stored, state.asleep) = (stored, stored);
                })
                .await?;
                Found::Stored { root }
            }
        };
        Ok(Begun { found, behind, memory })
    }

    /// With whether it is known what is missing of the disk.
    async fn seen(&self) -> Result<(State, Option<Look>, bool)> {
        let files = self.files.clone();
        blocking(move || {
            // A process that was killed while it fetched could not take it away.
            fetch::remove(&files.fetched);
            fetch::remove(&files.memory_fetched);
            let (known, look) = (State::known(&files.state), Look::at(&files.disk)?);
            let is_whole = match &known {
                Some(state) if state.lazy => Note::missing(&files.missing, &Boot::this()?).is_ok(),
                Some(_) => {
                    // All was here, and the process was killed before it went.
                    Note::remove(&files.missing);
                    true
                }
                // Nobody says that all is here.
                None => !files.missing.exists(),
            };
            Ok((known.unwrap_or_default(), look, is_whole))
        })
        .await
    }

    /// Makes the generation that this wake begins with.
    async fn settle(&self, epoch: Epoch, here: Option<Epoch>) -> Result<Settled> {
        let ours = Generation { epoch, kind: Kind::Begun };
        for _ in 0..DECISIONS_MAX {
            let (looked, log) = self.look(here).await?;
            let settled = |newest, changed| Settled { newest, changed, memory: log.memory.clone() };
            let newest = match log.newest() {
                // A wake that was broken off and is repeated.
                Some(newest) if newest == ours => {
                    let newest = self.stored_manifest(ours).await?;
                    return Ok(settled(newest, log.last_change()));
                }
                Some(newest) if newest > ours => return Err(Error::Overtaken),
                Some(newest) => match self.manifest(newest).await {
                    // A later one came, and this was collected.
                    Err(Error::Store(objstore::Error::NotFound { .. })) => continue,
                    newest => newest?.begun(epoch),
                },
                None => Manifest::blank(ours),
            };
            if looked.is_stale() {
                continue;
            }
            match self.store.create(&self.keys.manifest(ours), newest.encode()).await {
                Ok(()) => return Ok(settled(newest, log.pending())),
                // An attempt of ours whose reply was lost, and that looked before something else came.
                Err(objstore::Error::Exists { .. }) => {
                    let newest = self.stored_manifest(ours).await?;
                    return Ok(settled(newest, log.last_change()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(objstore::Error::Unavailable {
            message: "the generations of the machine's upper change too quickly".to_owned(),
        }
        .into())
    }

    /// The generations, once none is on its way that would be newer than what is here; after a while, as
    /// they are. With them when that was.
    async fn look(&self, here: Option<Epoch>) -> Result<(Looked, Log)> {
        let until = Instant::now() + PENDING_PATIENCE;
        loop {
            let looked = Looked::now();
            let log = self.log().await?;
            let waits = log.pending().is_some_and(|epoch| here.is_none_or(|here| here < epoch));
            if !waits || Instant::now() >= until {
                return Ok((looked, log));
            }
            tokio::time::sleep(PENDING_LOOK).await;
        }
    }
}

/// What is missing, for people.
fn behind(
    choice: Choice,
    was_awake: bool,
    newest: &Manifest,
    here: Option<Epoch>,
    changed: Option<Epoch>,
) -> Option<String> {
    let has = match choice {
        Choice::Keep => here.unwrap_or_default(),
        Choice::Fetch | Choice::Blank => newest.content,
    };
    let lost = changed.is_some_and(|epoch| epoch > has);
    let as_it_is = match choice {
        Choice::Keep => "it is as it was left on this host",
        Choice::Fetch => "it is as it was stored before",
        Choice::Blank => "it begins empty over the image",
    };
    let why = if lost {
        "its host went away before the last sleep's changes to it were stored"
    } else if was_awake {
        "its host was lost while the machine was awake"
    } else {
        return None;
    };
    Some(format!(
        "what is outside of /root (packages, /etc, /var) is not the newest: {why}; {as_it_is}"
    ))
}

/// Puts a new disk, of which all that `newest` names is missing, in the place of what is here; how it looks.
fn take_over(
    files: &Files,
    made: &Fetched,
    newest: &Manifest,
    state: &State,
    here: Option<Look>,
) -> Result<Option<Look>> {
    made.file().sync_all().map_err(Error::disk("sync a new upper"))?;
    clear(files, state, here)?;
    let stored = Look::at(made.path())?;
    State::change(files, |state| {
        // Of the disk that this wake has not yet gone on from more is not known.
        (state.content, state.stored_run, state.settled) =
            (newest.content, newest.content, Epoch::default());
        (state.stored, state.asleep) = (stored, None);
        state.lazy = !newest.chunks.is_empty();
    })?;
    if !newest.chunks.is_empty() {
        Note::write(&files.missing, newest, &Boot::this()?)?;
    }
    std::fs::rename(made.path(), &files.disk)
        .and_then(|()| file::sync_name(&files.disk))
        .map_err(Error::disk("put a new upper in its place"))?;
    Look::at(&files.disk)
}

/// Takes away what is here: aside, or for good where all of it is in the store.
fn clear(files: &Files, state: &State, here: Option<Look>) -> Result<()> {
    if here.is_some() && here != state.stored {
        let aside = aside(&files.disk, state.content)?;
        tracing::warn!(aside = %aside.display(), "an upper that was overtaken is kept aside");
        // First: without it nobody takes the disk for a whole one.
        match std::fs::rename(&files.missing, note_of(&aside)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::disk("set an older upper aside")(error));
            }
            _ => {}
        }
        std::fs::rename(&files.disk, aside).map_err(Error::disk("set an older upper aside"))?;
    }
    // With what is noted of the next one an older disk would be another one.
    for (path, doing) in [
        (&files.disk, "take an older upper away"),
        (&files.missing, "take away what was missing of an older upper"),
    ] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::disk(doing)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where lies what is missing of a disk that was set aside.
fn note_of(aside: &Path) -> PathBuf {
    let mut note = aside.to_owned();
    note.as_mut_os_string().push(".missing");
    note
}

/// A name that nothing has: a wake that was broken off may have set one aside already.
fn aside(disk: &Path, content: Epoch) -> Result<PathBuf> {
    let taken =
        || Error::disk("find a name to set an upper aside")(ErrorKind::AlreadyExists.into());
    (0..PARKED_MAX)
        .map(|n| match n {
            0 => disk.with_extension(format!("parked-{content}")),
            n => disk.with_extension(format!("parked-{content}-{n}")),
        })
        .find(|path| !path.exists())
        .ok_or_else(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_aside_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("upper.ext4");
        let first = aside(&disk, Epoch(7)).unwrap();
        assert_eq!(first, dir.path().join("upper.parked-7"));
        std::fs::write(&first, "the only copy").unwrap();
        assert_eq!(aside(&disk, Epoch(7)).unwrap(), dir.path().join("upper.parked-7-1"));
    }

    #[test]
    fn the_upper_of_the_latest_run_wins() {
        let choice =
            |here: Option<u64>, stored: Option<u64>| choose(here.map(Epoch), stored.map(Epoch));
        assert_eq!(choice(None, None), Choice::Blank);
        assert_eq!(choice(None, Some(0)), Choice::Blank);
        assert_eq!(choice(None, Some(3)), Choice::Fetch);
        assert_eq!(choice(Some(2), Some(3)), Choice::Fetch, "a stale one");
        assert_eq!(choice(Some(3), Some(3)), Choice::Keep);
        assert_eq!(choice(Some(4), Some(3)), Choice::Keep, "it slept unchanged, or was not stored");
        assert_eq!(choice(Some(0), Some(3)), Choice::Fetch, "nothing is known of it");
        assert_eq!(choice(Some(0), None), Choice::Keep, "nobody ever stored one");
    }
}
