//! The database of a home as of some commit: from a clean directory on this host if there is one,
//! else from the store.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{Error, Result};
use crate::layout::{HomeDir, temporary_of};
use crate::meta::schema;
use crate::opening::Opening;
use crate::replica::log::{Head, Log};
use crate::replica::restore::materialise;
use crate::replica::state::ReplicaState;

/// The directory of the home that lies beside a draft or a snapshot.
pub(crate) fn home_beside(dir: &Path) -> HomeDir {
    HomeDir::new(dir.parent().unwrap_or(dir).join("home"))
}

/// Makes `into` the database as of `head`. `from`: the commit whose database `into` is said to hold
/// already. `opening` grows with what is fetched.
pub(crate) async fn fetch(
    log: &Log,
    head: &Head,
    into: &Path,
    from: Option<u64>,
    opening: &Opening,
) -> Result<()> {
    let from = from.filter(|from| may_be(into, *from));
    if from == Some(head.seq) {
        return Ok(());
    }
    if let Some(parent) = into.parent() {
        let beside = home_beside(parent);
        if beside.database() != into && copy_clean(&beside, log, head, into) {
            return Ok(());
        }
    }
    materialise(log, Some(head.seq), into, from, opening).await?;
    Ok(())
}

/// False of a database that is not that of commit `seq`, whatever was noted: who brought it forward was
/// killed before that was noted too. A restore may have left behind since what it has.
pub(crate) fn may_be(database: &Path, seq: u64) -> bool {
    let sent = schema::open_immutable(database).and_then(|conn| schema::store_seq(&conn));
    sent.is_ok_and(|sent| sent.is_some_and(|sent| sent <= seq))
}

/// True where the directory held exactly `head`, and `into` is a copy of it.
pub(crate) fn copy_clean(dir: &HomeDir, log: &Log, head: &Head, into: &Path) -> bool {
    let is_clean = || {
        ReplicaState::load(&dir.replica_state()).ok().flatten().is_some_and(|state| {
            let same = state.home == *log.keys().home() && state.seq == head.seq;
            same && state.clean && state.epoch == head.epoch
        })
    };
    if !is_clean() {
        return false;
    }
    let copied = copy(&dir.database(), into);
    // A writer that opened it meanwhile has said so before it changed anything.
    copied.is_ok() && is_clean()
}

/// Copies a file, whole or not at all, and to disk.
pub(crate) fn copy(from: &Path, into: &Path) -> Result<()> {
    let temporary = temporary_of(into);
    let copy = || {
        fs::copy(from, &temporary)?;
        File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, into)
    };
    copy().map_err(Error::local("copy a database into"))
}
