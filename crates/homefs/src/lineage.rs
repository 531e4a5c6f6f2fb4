//! Becoming the writer of a home, and deciding whether the local directory may go on.
//!
//! # Order
//! Note the nonce of the claim in the directory; claim; decide by what the head was before the
//! claim; bring the database to that state; note the claim as done. A crash at any point repeats
//! the same claim with the same nonce, and decides the same.
//!
//! # Deciding
//! The local directory goes on where the head before our claim was made by the writer that it
//! remembers: all commits of one writer come from one directory, and every one of them was on
//! this disk first. Where it was released and holds exactly that commit, nothing is to be sent
//! again. Where another writer came after and ours had been released, it is only old, and is
//! brought up to date. Where ours had not been released, it holds changes that were overtaken: it
//! is moved aside, never deleted. So is what is left where the disk lost the database, or the end of it.

use std::fs;
use std::path::{Path, PathBuf};

use base::{Epoch, HomeId};
use rusqlite::Connection;

use crate::error::{Error, Result};
use crate::garbage::graves;
use crate::layout::{HomeDir, changed_of, shm_of, wal_of};
use crate::meta::schema;
use crate::meta::sql::{self, int};
use crate::nearby;
use crate::replica::claim::Claimed;
use crate::replica::log::{Head, Log};
use crate::replica::state::ReplicaState;
use crate::settings::{HomeSettings, Parts, Recovery};

/// A claimed home whose database is in the directory.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) epoch: Epoch,
    pub(crate) seq: u64,
    pub(crate) nonce: [u8; 16],
    pub(crate) recovery: Recovery,
    /// The store has everything that the database has.
    pub(crate) clean: bool,
    /// The writer before ended without giving the home up.
    pub(crate) crashed: bool,
}

/// What is to be done with the local directory.
#[derive(Debug, PartialEq, Eq)]
enum Local {
    /// Nothing is there.
    Absent,
    /// It holds exactly the head.
    Clean,
    /// It is ahead of the head.
    Ahead,
    /// It holds exactly this older commit.
    Old(u64),
    /// It was overtaken.
    Diverged(Epoch),
}

/// Claims the home and brings its database into `dir`.
pub(crate) fn begin(
    dir: &HomeDir,
    log: &mut Log,
    settings: &HomeSettings,
    parts: &Parts,
) -> Result<Start> {
    let wait = |future| parts.runtime.block_on(future);
    let head = parts.runtime.block_on(log.head(None))?;
    if head.is_none_or(|head| head.page_count == 0) {
        return Err(Error::NoSuchHome { home: settings.home.clone() });
    }
    let nonce = pending_nonce(dir, parts)?;
    let claim = log.claim(settings.holder.clone(), settings.take_over, nonce);
    let Claimed { epoch, seq, previous } = parts.runtime.block_on(claim)?;
    let previous = previous.ok_or(Error::NoSuchHome { home: settings.home.clone() })?;

    let (recovery, clean) = match decide(dir, &settings.home, &previous)? {
        Local::Clean => (Recovery::Clean, true),
        Local::Ahead => {
            unmark_riders(dir, previous.seq)?;
            (Recovery::LocalContinued, false)
        }
        Local::Old(from) => {
            remove_log(dir)?;
            wait(Box::pin(nearby::fetch(
                log,
                &previous,
                &dir.database(),
                Some(from),
                &settings.opening,
            )))?;
            (Recovery::FromStore { lost_local: false }, true)
        }
        local @ (Local::Absent | Local::Diverged(_)) => {
            let lost_local = matches!(local, Local::Diverged(_));
            if let Local::Diverged(epoch) = local {
                park(dir, epoch)?;
            }
            remove_log(dir)?;
            wait(Box::pin(nearby::fetch(
                log,
                &previous,
                &dir.database(),
                None,
                &settings.opening,
            )))?;
            (Recovery::FromStore { lost_local }, true)
        }
    };
    let (home, holder) = (settings.home.clone(), settings.holder.clone());
    ReplicaState::new(home, holder, epoch, nonce, seq, false).save(&dir.replica_state())?;
    fs::remove_file(pending_path(dir)).map_err(Error::local("note the claim in"))?;
    Ok(Start { epoch, seq, nonce, recovery, clean, crashed: !previous.released })
}

fn decide(dir: &HomeDir, home: &HomeId, previous: &Head) -> Result<Local> {
    let state = ReplicaState::load(&dir.replica_state());
    if !dir.database().exists() {
        return Ok(match state {
            Ok(None) => Local::Absent,
            Ok(Some(state)) if state.clean => Local::Absent,
            // It was there, and what lies beside it may be all that is left of it.
            Ok(Some(state)) => Local::Diverged(state.epoch),
            Err(_) => Local::Diverged(Epoch::default()),
        });
    }
    let state = match state {
        Ok(Some(state)) if state.home == *home => state,
        // Whatever this is, it is not known to be an ancestor of anything.
        Ok(_) | Err(_) => return Ok(Local::Diverged(Epoch::default())),
    };
    let ours = state.epoch == previous.epoch && state.nonce == previous.nonce;
    Ok(match (ours, state.clean) {
        (true, true) if state.seq == previous.seq => Local::Clean,
        (true, true) => Local::Old(state.seq),
        // The disk lost power and with it more than it should have: the store is ahead.
        (true, false) if is_behind(&dir.database(), previous) => Local::Diverged(state.epoch),
        (true, false) => Local::Ahead,
        (false, true) => Local::Old(state.seq),
        (false, false) => Local::Diverged(state.epoch),
    })
}

/// True of a database that does not know of the commit it was sent with.
fn is_behind(database: &Path, previous: &Head) -> bool {
    let sent = schema::open_writer(database).and_then(|conn| schema::store_seq(&conn));
    let sent = sent.ok().flatten();
    !previous.claim && sent.is_none_or(|sent| sent < previous.seq)
}

/// Packs that were to go with a commit that was never made are only here, and what was to die with
/// it dies later. The number that commit
/// would have had is that of our claim now.
fn unmark_riders(dir: &HomeDir, newest: u64) -> Result<()> {
    let conn: Connection = schema::open_writer(&dir.database())?;
    const SQL: &str = "UPDATE pack SET place=0, seq=0 WHERE place=2 AND seq>?1";
    sql::run(&conn, SQL, [int(newest)])?;
    if schema::has_graves(&conn)? {
        graves::postpone(&conn, newest)?;
    }
    drop(conn);
    fs::File::open(wal_of(&dir.database()))
        .and_then(|wal| wal.sync_data())
        .map_err(Error::local("sync"))
}

/// Moves everything of an overtaken directory to `<dir>.parked-<epoch>`, but for what this process
/// needs of it. The database goes last: as long as it is here, so is what belongs to it, or it is where
/// the next one who tries puts the rest.
fn park(dir: &HomeDir, epoch: Epoch) -> Result<()> {
    let parked = parking_place(dir.root(), epoch);
    fs::create_dir_all(&parked).map_err(Error::local("park"))?;
    let mut found = Vec::new();
    for entry in fs::read_dir(dir.root()).map_err(Error::local("read"))? {
        found.push(entry.map_err(Error::local("read"))?.path());
    }
    let last = [dir.replica_state(), dir.database()];
    found.retain(|path| ![dir.lock(), pending_path(dir)].contains(path) && !last.contains(path));
    for path in found.iter().chain(last.iter().filter(|path| path.exists())) {
        let into = parked.join(path.file_name().unwrap_or_default());
        fs::rename(path, into).map_err(Error::local("park"))?;
    }
    tracing::warn!(parked = %parked.display(),
        "what this host had of the home does not go with the store: another writer overtook it, or it is damaged; it is set aside");
    Ok(())
}

/// A directory that is not there yet, or in which somebody who was killed began to park. One that has
/// what goes last is done, also where there was no database to park.
fn parking_place(root: &Path, epoch: Epoch) -> PathBuf {
    let name = |suffix: &str| {
        let mut name = root.as_os_str().to_owned();
        name.push(format!(".parked-{epoch}{suffix}"));
        HomeDir::new(name)
    };
    (1..)
        .map(|n| if n == 1 { name("") } else { name(&format!("-{n}")) })
        .find(|dir| !dir.database().exists() && !dir.replica_state().exists())
        .unwrap_or_else(|| name("-last"))
        .root()
        .to_owned()
}

/// Logs that lie beside no database, or beside one that is replaced, belong to nothing: SQLite's, the
/// journal, and the note of what the store lacks.
pub(crate) fn remove_log(dir: &HomeDir) -> Result<()> {
    let database = &dir.database();
    match fs::remove_dir_all(dir.journal_dir()) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::local("clear")(error)),
    }
    for path in [wal_of(database), shm_of(database), changed_of(database)] {
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::local("clear")(error)),
        }
    }
    Ok(())
}

fn pending_path(dir: &HomeDir) -> PathBuf {
    dir.root().join("claim")
}

/// The nonce of a claim that was begun here and not noted as done in `replica.json`, or a new one.
fn pending_nonce(dir: &HomeDir, parts: &Parts) -> Result<[u8; 16]> {
    let path = pending_path(dir);
    let mut nonce = [0; 16];
    let done = ReplicaState::load(&dir.replica_state()).ok().flatten().map(|state| state.nonce.0);
    if let Ok(text) = fs::read_to_string(&path)
        && hex::decode_to_slice(text.trim(), &mut nonce).is_ok()
        && done != Some(nonce)
    {
        return Ok(nonce);
    }
    let nonce = parts.entropy.nonce();
    let write = || {
        fs::write(&path, hex::encode(nonce))?;
        fs::File::open(&path)?.sync_all()?;
        fs::File::open(dir.root())?.sync_all()
    };
    write().map_err(Error::local("note a claim in"))?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parking_that_is_broken_off_loses_nothing_and_goes_on_where_it_was() {
        let disk = tempfile::tempdir().unwrap();
        let dir = HomeDir::new(disk.path().join("home"));
        let parked = disk.path().join("home.parked-7");
        fs::create_dir_all(dir.journal_dir()).unwrap();
        fs::create_dir_all(dir.spool_dir()).unwrap();
        let files = [dir.database(), wal_of(&dir.database()), dir.replica_state(), dir.lock()];
        files.iter().for_each(|file| fs::write(file, "x").unwrap());
        // The spool cannot be moved: somebody else has the name.
        fs::create_dir_all(&parked).unwrap();
        fs::write(parked.join("spool"), "in the way").unwrap();
        park(&dir, Epoch(7)).unwrap_err();
        assert!(dir.database().exists() && dir.replica_state().exists());
        fs::remove_file(parked.join("spool")).unwrap();
        park(&dir, Epoch(7)).unwrap();
        for name in ["home.db", "home.db-wal", "replica.json", "journal", "spool"] {
            assert!(parked.join(name).exists() && !dir.root().join(name).exists(), "{name}");
        }
        assert!(dir.lock().exists());
        fs::write(dir.database(), "newer").unwrap();
        park(&dir, Epoch(7)).unwrap();
        assert_eq!(fs::read(parked.join("home.db")).unwrap(), b"x");
        assert!(disk.path().join("home.parked-7-2/home.db").exists());
    }
}
