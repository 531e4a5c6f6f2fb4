//! Uploads that nothing ever came to name: of a writer that crashed between storing an object and
//! the commit, of a draft that lost, of a state that a restore left behind.
//!
//! Only objects of earlier epochs are looked at. No row comes to name one of those any more, so what
//! no row, no grave and no pin knows now stays unknown.

use base::Epoch;
use rusqlite::{Connection, params};
use vfs::Result;

use super::keep::Kept;
use crate::meta::sql::{self, int};
use crate::replica::error::Result as LogResult;
use crate::replica::limits::LIST_PAGE;
use crate::replica::log::Log;

/// The most objects that one sweep takes along.
const SWEPT_MAX: usize = 10_000;

/// Packs and chunks of epochs before `epoch`, which began with commit `claim`, that no pin can know:
/// keys below the home's prefix, and sizes.
pub(crate) async fn candidates(
    log: &Log,
    kept: &Kept,
    epoch: Epoch,
    claim: u64,
) -> LogResult<Vec<(String, u64)>> {
    let keys = log.keys();
    let pinned_epoch = kept.newest_epoch().unwrap_or_default();
    let pinned_seq = kept.newest_seq();
    let old_pack = |key: &str| {
        keys.pack_id(key).is_some_and(|(found, _)| found < epoch && found > pinned_epoch)
    };
    let old_chunk = |key: &str| {
        keys.chunk_id(key).is_some_and(|(_, born)| {
            born <= claim && kept.is_own(born) && pinned_seq.is_none_or(|pinned| born > pinned)
        })
    };
    let mut found = Vec::new();
    list(log, &keys.packs(), old_pack, &mut found).await?;
    list(log, &keys.chunks(), old_chunk, &mut found).await?;
    Ok(found)
}

async fn list(
    log: &Log,
    prefix: &str,
    wanted: impl Fn(&str) -> bool,
    found: &mut Vec<(String, u64)>,
) -> LogResult<()> {
    let mut after = None::<String>;
    loop {
        let page = log.store().list(prefix, after.as_deref(), LIST_PAGE).await?;
        let matching = page.iter().filter(|object| wanted(&object.key));
        found.extend(matching.map(|object| (object.key.clone(), object.size)));
        match page.last() {
            Some(last) if page.len() == LIST_PAGE && found.len() < SWEPT_MAX => {
                after = Some(last.key.clone());
            }
            _ => return Ok(()),
        }
    }
}

/// Those that neither a row nor a grave of this database names.
pub(crate) fn unknown(
    conn: &Connection,
    keys: &crate::layout::HomeKeys,
    found: Vec<(String, u64)>,
) -> Result<Vec<(String, u64)>> {
    let mut unknown = Vec::new();
    for (key, bytes) in found {
        const GRAVE: &str = "SELECT 1 FROM grave WHERE key=?1";
        let named = match (keys.pack_id(&key), keys.chunk_id(&key)) {
            (Some((epoch, id)), _) => {
                const SQL: &str = "SELECT 1 FROM pack WHERE id=?1 AND epoch=?2";
                sql::first(conn, SQL, params![int(id), int(epoch.0)], |_| Ok(()))?
            }
            (None, Some((digest, born))) => {
                const SQL: &str = "SELECT 1 FROM chunk WHERE digest=?1 AND born=?2";
                sql::first(conn, SQL, params![digest.as_bytes(), int(born)], |_| Ok(()))?
            }
            (None, None) => continue,
        };
        let name = key.strip_prefix(&keys.prefix()).unwrap_or(&key);
        if named.is_none() && sql::first(conn, GRAVE, [name], |_| Ok(()))?.is_none() {
            unknown.push((key, bytes));
        }
    }
    Ok(unknown)
}
