//! The database of a home as a local file, as of some commit.
//!
//! Order: find out where every page lies (`merged`), from the commit back to the newest full state
//! or to the commit that the file has; then fetch the groups, neighbours together, and write them.
//! An older state of a page is never fetched.
//!
//! Invariants:
//! - Memory is bounded: where the pages lie (some ten bytes for each), a few pieces.
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

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;

use self::builder::Builder;
use super::collect::blocking;
use super::error::{Error, Result};
use super::fetch::{Stored, pieces};
use super::limits::{COMMITS_ABOVE_BASE, FETCH_AHEAD};
use super::log::{Head, Log};
use super::merged::Merged;
use crate::opening::Opening;

/// Makes the file `into` the database as of commit `upto` (of the head, for `None`), and says which
/// commit that is. `from` says that the file is there, without a WAL, and holds exactly commit
/// `from`; it is then brought forward with what was committed since. Else whatever is at `into`,
/// and SQLite's files beside it, are replaced. A home whose database has no pages yet gives an
/// empty file. `None` of a home that nobody claimed; no file is made. `opening` grows meanwhile.
///
/// # Errors
/// [`Error::Corrupt`] names the object that is damaged or missing; [`Error::CorruptLocal`] a file
/// that cannot be commit `from`. The file is then what it was before.
pub(crate) async fn materialise(
    log: &Log,
    upto: Option<u64>,
    into: &Path,
    from: Option<u64>,
    opening: &Opening,
) -> Result<Option<Head>> {
    let Some(target) = target(log, upto, from).await? else { return Ok(None) };
    materialise_state(log, &target, into, from, opening).await?;
    Ok(Some(target))
}

/// The same for a commit whose header is at hand: also one that is kept although the boundary is
/// above it.
pub(crate) async fn materialise_state(
    log: &Log,
    target: &Head,
    into: &Path,
    from: Option<u64>,
    opening: &Opening,
) -> Result<()> {
    if from == Some(target.seq) {
        return Ok(());
    }
    let stored = commit(log, target.seq).await?;
    let index = log.index(&stored).await?;
    let from = if is_worth_it(log, target, from).await? { from } else { None };
    let mut merged = log.merged(target, (&stored, &index), from).await?;
    drop((stored, index));
    // A full state tells nothing of what changed in it; what it has where `from` had it did not.
    let before = match from.filter(|_| merged.kept_upto.is_none()) {
        Some(from) => log.merged_at(from).await?,
        None => None,
    };
    let same = before.map_or_else(Vec::new, |before| keep_only_new(&mut merged, &before));
    let (path, state, advance) = (into.to_owned(), target.clone(), from.is_some());
    let getting_on = opening.clone();
    let mut builder = blocking(move || {
        if advance {
            Builder::advance(&path, &state, &getting_on)
        } else {
            Builder::from_nothing(&path, &state)
        }
    })
    .await?;
    let merged = Arc::new(merged);
    let pieces = pieces(&merged.groups, |_| true).into_iter().map(|piece| {
        let merged = &merged;
        async move {
            let number = merged.groups[piece.groups.start].object;
            let bytes = match merged.near(number, &piece.range) {
                Some(bytes) => bytes,
                None => log.part_of(&merged.places[number as usize], &piece.range).await?,
            };
            Ok::<_, Error>((piece, bytes))
        }
    });
    let mut fetched = futures::stream::iter(pieces).buffered(FETCH_AHEAD);
    while let Some((piece, bytes)) = fetched.next().await.transpose()? {
        let (merged, fetched) = (merged.clone(), bytes.len() as u64);
        let key = log.place_key(&merged.places[merged.groups[piece.groups.start].object as usize]);
        builder = blocking(move || {
            builder.write(&key, &merged.groups[piece.groups.clone()], &piece, &bytes)?;
            Ok(builder)
        })
        .await?;
        opening.did(fetched);
    }
    let kept = merged.kept_upto;
    blocking(move || {
        builder.keep(&same);
        builder.finish(kept.unwrap_or(0))
    })
    .await
}

/// True where bringing a file forward from commit `from` is right, and better than beginning anew.
async fn is_worth_it(log: &Log, target: &Head, from: Option<u64>) -> Result<bool> {
    let within = |from: &u64| *from < target.seq && target.descent.includes(*from);
    let Some(from) = from.filter(within) else { return Ok(false) };
    // A long way is worth it only where no base makes it shorter.
    let far = target.seq - from > 2 * COMMITS_ABOVE_BASE;
    // Commits up to the boundary may be gone, or not be what they were.
    let whole = log.boundary().await?.is_none_or(|boundary| boundary.seq <= from);
    Ok(whole && (!far || target.base_seq <= from))
}

/// Takes out of `merged` the pages that lie where they lay `before`; returns them.
fn keep_only_new(merged: &mut Merged, before: &Merged) -> Vec<u32> {
    let mut places = HashMap::new();
    for group in &before.groups {
        for (slot, page) in group.pages.iter().enumerate().filter(|(_, page)| **page != 0) {
            let place = &before.places[group.object as usize];
            places.insert((place, group.offset, slot), *page);
        }
    }
    let mut same = Vec::new();
    for group in &mut merged.groups {
        let place = &merged.places[group.object as usize];
        for (slot, page) in group.pages.iter_mut().enumerate().filter(|(_, page)| **page != 0) {
            if places.get(&(place, group.offset, slot)) == Some(page) {
                same.push(std::mem::take(page));
            }
        }
    }
    merged.groups.retain(|group| group.live().next().is_some());
    same
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

#[cfg(test)]
mod tests;
