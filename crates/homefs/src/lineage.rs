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
//! is moved aside, never deleted.

use std::fs;
use std::path::{Path, PathBuf};

use base::{Epoch, HomeId};
use rusqlite::Connection;

use crate::error::{Error, Result};
use crate::layout::{HomeDir, shm_of, wal_of};
use crate::meta::schema;
use crate::meta::sql::{self, int, uint};
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
            remove_log(&dir.database())?;
            wait(Box::pin(nearby::fetch(log, &previous, &dir.database(), Some(from))))?;
            (Recovery::FromStore { lost_local: false }, true)
        }
        local @ (Local::Absent | Local::Diverged(_)) => {
            let lost_local = matches!(local, Local::Diverged(_));
            if let Local::Diverged(epoch) = local {
                park(dir, epoch)?;
            }
            remove_log(&dir.database())?;
            wait(Box::pin(nearby::fetch(log, &previous, &dir.database(), None)))?;
            (Recovery::FromStore { lost_local }, true)
        }
    };
    let (home, holder) = (settings.home.clone(), settings.holder.clone());
    ReplicaState::new(home, holder, epoch, nonce, seq, false).save(&dir.replica_state())?;
    fs::remove_file(pending_path(dir)).map_err(Error::local("note the claim in"))?;
    Ok(Start { epoch, seq, nonce, recovery, clean })
}

fn decide(dir: &HomeDir, home: &HomeId, previous: &Head) -> Result<Local> {
    if !dir.database().exists() {
        return Ok(Local::Absent);
    }
    let state = match ReplicaState::load(&dir.replica_state()) {
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
    let sent = schema::open_writer(database).ok().and_then(|conn| {
        const SQL: &str = "SELECT value FROM kv WHERE name='store_seq'";
        sql::first(&conn, SQL, [], |r| uint(r, 0)).ok().flatten()
    });
    !previous.claim && sent.is_none_or(|sent| sent < previous.seq)
}

/// Packs that were to go with a commit that was never made are only here. The number that commit
/// would have had is that of our claim now.
fn unmark_riders(dir: &HomeDir, newest: u64) -> Result<()> {
    let conn: Connection = schema::open_writer(&dir.database())?;
    const SQL: &str = "UPDATE pack SET place=0, seq=0 WHERE place=2 AND seq>?1";
    sql::run(&conn, SQL, [int(newest)])?;
    drop(conn);
    fs::File::open(wal_of(&dir.database()))
        .and_then(|wal| wal.sync_data())
        .map_err(Error::local("sync"))
}

/// Moves everything of an overtaken directory to `<dir>.parked-<epoch>`, but for what this process
/// needs of it.
fn park(dir: &HomeDir, epoch: Epoch) -> Result<()> {
    let parked = free_name(dir.root(), epoch);
    fs::create_dir_all(&parked).map_err(Error::local("park"))?;
    let keep = [dir.lock(), pending_path(dir)];
    for entry in fs::read_dir(dir.root()).map_err(Error::local("read"))? {
        let entry = entry.map_err(Error::local("read"))?;
        if !keep.contains(&entry.path()) {
            fs::rename(entry.path(), parked.join(entry.file_name()))
                .map_err(Error::local("park"))?;
        }
    }
    tracing::warn!(parked = %parked.display(), "local changes of this home were overtaken by another writer");
    Ok(())
}

fn free_name(root: &Path, epoch: Epoch) -> PathBuf {
    let name = |suffix: &str| {
        let mut name = root.as_os_str().to_owned();
        name.push(format!(".parked-{epoch}{suffix}"));
        PathBuf::from(name)
    };
    (1..)
        .map(|n| if n == 1 { name("") } else { name(&format!("-{n}")) })
        .find(|path| !path.exists())
        .unwrap_or_else(|| name("-last"))
}

/// A log that lies beside no database, or beside one that is replaced, belongs to nothing.
pub(crate) fn remove_log(database: &Path) -> Result<()> {
    for path in [wal_of(database), shm_of(database)] {
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
