//! The database of a home as a local file, as of some commit.
//!
//! Order: from the commit back to the newest base (or to the commit that the file has), newest
//! first. A page is written where it is met first; an older state of it is never fetched. The walk
//! ends early when no page is missing.
//!
//! Invariants:
//! - Memory is bounded: the beginnings of a few commits, a few pieces of one, one bit for each page.
//! - A page that a later commit cut off is zeros where the database grew again, as if the commits
//!   had been applied one after the other.
//! - The new file is built beside the old one and renamed over it when it is whole and on disk.
//!   After a crash the old one stands, or the new one.
//!
//! Who calls: waking without (good) local state, a draft, a snapshot. Nobody may have the file open
//! for writing meanwhile; a reader that has the old one open keeps reading that.
//!
//! Not here: file content.

mod builder;

pub(super) use self::builder::sync_directory;

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;

use self::builder::Builder;
use super::collect::blocking;
use super::error::{Error, Result};
use super::fetch::Stored;
use super::limits::{COMMITS_ABOVE_BASE, FETCH_AHEAD};
use super::log::{Head, Log};

/// Makes the file `into` the database as of commit `upto` (of the head, for `None`), and says which
/// commit that is. `from` says that the file is there, without a WAL, and holds exactly commit
/// `from`; it is then brought forward with what was committed since. Else whatever is at `into`,
/// and SQLite's files beside it, are replaced. A home whose database has no pages yet gives an
/// empty file. `None` of a home that nobody claimed; no file is made.
///
/// # Errors
/// [`Error::Corrupt`] names the object that is damaged or missing; [`Error::CorruptLocal`] a file
/// that cannot be commit `from`. The file is then what it was before.
pub(crate) async fn materialise(
    log: &Log,
    upto: Option<u64>,
    into: &Path,
    from: Option<u64>,
) -> Result<Option<Head>> {
    let Some(target) = target(log, upto, from).await? else { return Ok(None) };
    if from == Some(target.seq) {
        return Ok(Some(target));
    }
    let plan = Plan::of(log, &target, from).await?;
    let (path, state, advance) = (into.to_owned(), target.clone(), plan.from.is_some());
    let mut builder = blocking(move || {
        if advance { Builder::advance(&path, &state) } else { Builder::from_nothing(&path, &state) }
    })
    .await?;

    let mut epoch = target.epoch;
    let commits = (plan.oldest..=target.seq).rev();
    let mut commits =
        futures::stream::iter(commits.map(|seq| commit(log, seq))).buffered(FETCH_AHEAD);
    while !builder.is_complete() {
        let Some(stored) = commits.next().await.transpose()? else { break };
        if stored.header().epoch > epoch {
            return Err(Error::corrupt(stored.key, "its epoch is above that of a later commit"));
        }
        epoch = stored.header().epoch;
        builder = apply(log, stored, builder).await?;
    }
    drop(commits);
    if let (Some(base), false) = (plan.base, builder.is_complete()) {
        builder = apply(log, log.read_base(base).await?, builder).await?;
    }
    blocking(move || builder.finish()).await?;
    Ok(Some(target))
}

/// What has to be read besides the target's header.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// The first commit to apply.
    oldest: u64,
    /// The base below it.
    base: Option<u64>,
    /// The commit of the file that is brought forward.
    from: Option<u64>,
}

impl Plan {
    async fn of(log: &Log, target: &Head, from: Option<u64>) -> Result<Self> {
        if let Some(from) = from.filter(|from| *from < target.seq) {
            // A long way is worth it only where no base makes it shorter.
            let far = target.seq - from > 2 * COMMITS_ABOVE_BASE;
            // Commits up to the boundary may be gone, or not be what they were.
            let whole = log.boundary().await?.is_none_or(|boundary| boundary.seq <= from);
            if whole && (!far || target.base_seq <= from) {
                return Ok(Self { oldest: from + 1, base: None, from: Some(from) });
            }
        }
        let base = log.newest_base(target.base_seq, target.seq).await?;
        Ok(Self { oldest: base + 1, base: (base > 0).then_some(base), from: None })
    }
}

async fn target(log: &Log, upto: Option<u64>, from: Option<u64>) -> Result<Option<Head>> {
    let Some(seq) = upto else { return log.head(from).await };
    if log.boundary().await?.is_some_and(|boundary| boundary.seq >= seq) {
        return Err(Error::corrupt(log.keys().log(seq), "it is no longer kept"));
    }
    Ok(Some(commit(log, seq).await?.header().into()))
}

async fn commit(log: &Log, seq: u64) -> Result<Stored> {
    let missing = || Error::corrupt(log.keys().log(seq), "it is missing");
    log.read(seq).await?.ok_or_else(missing)
}

/// Writes the pages of one commit or base that are still missing.
async fn apply(log: &Log, stored: Stored, mut builder: Builder) -> Result<Builder> {
    builder.begin(stored.header()).map_err(|damage| damage.of(&stored.key))?;
    let stored = Arc::new(stored);
    let pieces = stored.pieces(|group| builder.wants(group));
    let fetch = |piece| {
        let stored = &stored;
        async move { Ok::<_, Error>((log.piece(stored, &piece).await?, piece)) }
    };
    let mut fetched = futures::stream::iter(pieces.into_iter().map(fetch)).buffered(FETCH_AHEAD);
    while let Some((bytes, piece)) = fetched.next().await.transpose()? {
        let stored = stored.clone();
        builder = blocking(move || {
            let section = &stored.header().sections[piece.section];
            let key = section.object.as_ref().unwrap_or(&stored.key);
            builder.write(key, &section.groups[piece.groups], &bytes)?;
            Ok(builder)
        })
        .await?;
    }
    Ok(builder)
}

#[cfg(test)]
mod tests;
