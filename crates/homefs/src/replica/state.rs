//! `replica.json`: what the local directory remembers of the log.
//!
//! Who writes: the home's writer, after it claimed and before the first local change; then after
//! commits, as often as it likes: an older `seq` is a hint that costs a few requests. `clean` is
//! said only of a database file that holds exactly commit `seq`, and taken back before it changes.
//!
//! Crash: the file is replaced by rename, so it is old or new. A damaged one is an error; whoever
//! finds it must take the local directory as one that crashed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use base::{Epoch, HomeId, ServerId};
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::header::Nonce;
use super::limits::SMALL_JSON_MAX;
use super::pages::corrupt_local;
use super::restore::sync_directory;
use crate::layout::temporary_of;

const FORMAT: u32 = 1;

/// What the local directory remembers of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplicaState {
    format: u32,
    /// Whose directory this is.
    pub(crate) home: HomeId,
    /// The server that wrote it.
    pub(crate) holder: ServerId,
    /// The epoch of the writer here; of a draft or a snapshot, that of the commit it is at.
    pub(crate) epoch: Epoch,
    /// The nonce of the writer here.
    pub(crate) nonce: Nonce,
    /// A commit that the directory has, at least.
    pub(crate) seq: u64,
    /// The database file holds exactly commit `seq`, and nothing waits to be sealed or uploaded.
    pub(crate) clean: bool,
}

impl ReplicaState {
    /// The state of a writer, or of a reader, at commit `seq`.
    pub(crate) fn new(
        home: HomeId,
        holder: ServerId,
        epoch: Epoch,
        nonce: [u8; 16],
        seq: u64,
        clean: bool,
    ) -> Self {
        Self { format: FORMAT, home, holder, epoch, nonce: Nonce(nonce), seq, clean }
    }

    /// Reads it; `None` where there is none.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>> {
        let size = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::local("look at", path)(error)),
        };
        if size > SMALL_JSON_MAX {
            return Err(corrupt_local(path, "it is too long"));
        }
        let bytes = fs::read(path).map_err(Error::local("read", path))?;
        let state: Self = serde_json::from_slice(&bytes)
            .map_err(|error| corrupt_local(path, &format!("it cannot be read: {error}")))?;
        if state.format != FORMAT {
            return Err(corrupt_local(path, &format!("format {} is not known", state.format)));
        }
        Ok(Some(state))
    }

    /// Replaces it, durably.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).expect("a state is plain data");
        let temporary = temporary_of(path);
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&json)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().map_err(Error::local("write", path))?;
        sync_directory(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replica.json");
        assert_eq!(ReplicaState::load(&path).unwrap(), None);
        let (home, holder) = (HomeId::generate(), ServerId::generate());
        let state = ReplicaState::new(home, holder, Epoch(3), [9; 16], 17, false);
        state.save(&path).unwrap();
        let newer = ReplicaState { seq: 18, clean: true, ..state };
        newer.save(&path).unwrap();
        assert_eq!(ReplicaState::load(&path).unwrap(), Some(newer));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_state_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replica.json");
        for bytes in [&b""[..], b"{}", b"\0\0\0\0", &[b' '; 20_000]] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(ReplicaState::load(&path).unwrap_err().kind(), base::ErrorKind::Corrupt);
        }
    }
}
