//! `draft.json`: what a draft is, across restarts.
//!
//! Replaced by rename and synced. A draft is there as long as the file is. One that is thrown away
//! is first renamed to `discarded.json`, so that whoever begins the next one still knows what the
//! store keeps for nobody.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use base::{Epoch, HomeId};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::layout::{HomeDir, temporary_of};
use crate::replica::descent::Origin;
use crate::replica::header::Nonce;

/// The largest number of the file's format.
pub(super) const FORMAT: u32 = 1;
const STATE_BYTES_MAX: u64 = 16 << 10;

/// What is noted of a draft.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) format: u32,
    pub(super) home: HomeId,
    /// The commit it began on.
    pub(super) seq: u64,
    /// The epoch of that commit.
    pub(super) epoch: Epoch,
    /// Of its publication.
    pub(super) nonce: Nonce,
    /// The commit may have been sent.
    pub(super) publishing: bool,
    /// It was published, as this commit and epoch.
    pub(super) published: Option<(u64, Epoch)>,
    /// What its home was forked from, newest first; without that nothing inherited is found. A
    /// version before this did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) origins: Option<Vec<Origin>>,
    /// What keeps the commit it began on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pin: Option<Pinned>,
}

/// The pin of a draft, noted before it is made.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Pinned {
    pub(super) id: Nonce,
    /// It was made in time.
    pub(super) holds: bool,
}

fn path(dir: &HomeDir) -> PathBuf {
    dir.root().join("draft.json")
}

fn discarded(dir: &HomeDir) -> PathBuf {
    dir.root().join("discarded.json")
}

/// The draft in `dir`, if there is one.
pub(super) fn load(dir: &HomeDir) -> Result<Option<State>> {
    read(path(dir))
}

fn read(path: PathBuf) -> Result<Option<State>> {
    let damaged = || Error::Damaged { what: "draft.json cannot be read; discard the draft".into() };
    match fs::metadata(&path) {
        Ok(found) if found.len() > STATE_BYTES_MAX => return Err(damaged()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::local("read")(error)),
    }
    let bytes = fs::read(path).map_err(Error::local("read"))?;
    let state: State = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
    if state.format == FORMAT { Ok(Some(state)) } else { Err(damaged()) }
}

/// Notes `state`.
pub(super) fn save(dir: &HomeDir, state: &State) -> Result<()> {
    let path = path(dir);
    let temporary = temporary_of(&path);
    let json = serde_json::to_vec_pretty(state).expect("a state is plain data");
    let write = || {
        fs::write(&temporary, json)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(dir.root())?.sync_all()
    };
    write().map_err(Error::local("note the draft in"))
}

/// From here on there is no draft in `dir`, only what is left of one.
pub(super) fn discard(dir: &HomeDir) -> Result<()> {
    match fs::rename(path(dir), discarded(dir)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        done => done.map_err(Error::local("clear"))?,
    }
    let sync = || fs::File::open(dir.root())?.sync_all();
    sync().map_err(Error::local("clear"))
}

/// The draft that was thrown away here and of which something may be left in the store.
pub(super) fn remains(dir: &HomeDir) -> Option<State> {
    read(discarded(dir)).ok().flatten()
}

/// Removes everything in `dir` that belongs to a draft; with `forget` the note of what is left too.
pub(super) fn clear(dir: &HomeDir, forget: bool) -> Result<()> {
    if forget {
        return fs::remove_dir_all(dir.root()).map_err(Error::local("clear"));
    }
    let keep = [dir.lock(), discarded(dir)];
    let clear = || {
        for entry in fs::read_dir(dir.root())? {
            let entry = entry?;
            if keep.contains(&entry.path()) {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    };
    clear().map_err(Error::local("clear"))
}

/// Forgets what was thrown away here.
pub(super) fn forget(dir: &HomeDir) -> Result<()> {
    match fs::remove_file(discarded(dir)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done.map_err(Error::local("clear")),
    }
}
