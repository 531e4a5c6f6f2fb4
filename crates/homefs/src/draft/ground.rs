//! What a draft stands on: the commit it began on, and that the store keeps it.
//!
//! A draft holds what it changed, and of the rest only the metadata. While its home rests, nothing
//! of that commit is collected. But the home may be taken by another host and move on: then content
//! that a draft kept of a file (all of one that got another name or mode, the rest of one of which
//! a part was written) would go, and with it what was acknowledged. So the commit is pinned
//! before the first change whose result is made of stored content. Whole new files, which is what
//! most uploads are, need no pin and no request.
//!
//! # Order
//! A change is tried; where its result stands on the store ([`Ground::bears`]) and nothing is
//! known to be kept, it is broken off without a trace, the pin is made, and it is made again.
//! The id of a pin is noted before the pin is made, and that it was made in time after that.
//!
//! # Failure
//! - The home has moved on already, or a pin takes so long that it may be too late: the change
//!   fails, and the draft is as it was before.
//! - A collector lets go of a pin long after the home moved on ([`DRAFT_PATIENCE`]). No change is
//!   taken on one that is about to go, nor on one that is gone.
//! - What a draft did not change may be collected: reading it says then that the home moved on.
//!
//! # Not here
//! What a pin keeps (`replica::pinned`).

use std::sync::Arc;
use std::time::Duration;

use base::ErrorKind;
use parking_lot::Mutex;
use vfs::{Errno, FsError, Ino, Kind, Result};

use super::state::{self, Pinned, State};
use crate::error::{Error, to_fs};
use crate::layout::HomeDir;
use crate::meta::inode::Tier;
use crate::meta::rows::Rows as _;
use crate::meta::tx::Tx;
use crate::replica::error::Error as LogError;
use crate::replica::header::Nonce;
use crate::replica::horizon::Moment;
use crate::replica::limits::DRAFT_PATIENCE;
use crate::replica::log::{Head, Log};
use crate::replica::pinned::{Pin, PinKind};
use crate::settings::Parts;
use crate::snapshots::pin_found;

/// A pin that was seen is believed in for so long.
const SEEN_FOR: Duration = Duration::from_secs(3_600);
/// Changes are refused so long before a pin may go; for clocks that differ, and [`SEEN_FOR`].
const MARGIN: Duration = Duration::from_secs(86_400);

/// See the module.
#[derive(Debug)]
pub(crate) struct Ground {
    log: Log,
    parts: Parts,
    dir: HomeDir,
    state: Arc<Mutex<State>>,
    /// Inodes from here on are the draft's own, with all their content.
    first_own: Ino,
    /// When the pin was last known to be there.
    seen: Mutex<Option<Moment>>,
}

impl Ground {
    pub(super) fn new(
        log: Log,
        parts: Parts,
        dir: HomeDir,
        state: Arc<Mutex<State>>,
        first_own: Ino,
    ) -> Self {
        Self { log, parts, dir, state, first_own, seen: Mutex::default() }
    }

    /// True where the pin is there, as far as it is known.
    pub(crate) fn is_held(&self) -> bool {
        let now = || Moment::of(&*self.parts.clock);
        self.seen.lock().is_some_and(|seen| seen.at_most_until(&now()) < SEEN_FOR)
    }

    /// True where what `tx` changed is made of stored content.
    pub(crate) fn bears(&self, tx: &Tx<'_>) -> Result<bool> {
        let rows = &tx.changed.rows;
        let inherited = rows.inodes.iter().filter(|(ino, _)| **ino < self.first_own);
        for (ino, inode) in inherited {
            let Some(inode) = inode.as_ref().filter(|inode| inode.nlink > 0) else { continue };
            let may_bear = inode.kind == Kind::File && inode.tier != Tier::Inline;
            if may_bear && !tx.sealed(*ino, 0, inode.size)?.is_empty() {
                return Ok(true);
            }
        }
        // With a directory all below it gets another path.
        for entry in rows.entries.values().filter_map(|change| change.now) {
            if entry.ino < self.first_own
                && tx.find(entry.ino)?.is_some_and(|inode| inode.kind == Kind::Directory)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns when the store keeps what the draft stands on.
    ///
    /// # Errors
    /// `Conflict`: the home moved on before. `Unavailable`: it could not be done in time. Those of
    /// the store and of the disk. Nothing is kept then, or what was kept before.
    pub(crate) fn hold(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.publishing || state.published.is_some() || self.is_held() {
            // Of the first two the gate speaks.
            return Ok(());
        }
        let seen = Moment::of(&*self.parts.clock);
        self.parts.runtime.block_on(self.hold_for(&mut state)).map_err(|error| match error {
            Error::Fs(error) => error,
            Error::Log(error) => to_fs(error),
            other => FsError::of_kind(other.kind(), Errno::EIO, other.to_string()),
        })?;
        *self.seen.lock() = Some(seen);
        Ok(())
    }

    async fn hold_for(&self, state: &mut State) -> Result<(), Error> {
        match state.pin {
            Some(Pinned { id, holds: true }) => {
                if let Some(pin) = self.log.draft_pin(id).await? {
                    let moved = self.log.moved_for(&pin).await?;
                    return match moved.is_some_and(|moved| moved + MARGIN >= DRAFT_PATIENCE) {
                        true => Err(moved_on(state.seq).into()),
                        false => Ok(()),
                    };
                }
            }
            // It is not known whether that one was made, or made in time.
            Some(Pinned { id, holds: false }) => self.log.unpin(&kind(id)).await?,
            None => {}
        }
        let found = Moment::of(&*self.parts.clock);
        let head = self.log.head(Some(state.seq)).await?;
        let Some(head) = head.filter(|head| is_on(state, head)) else {
            return Err(moved_on(state.seq).into());
        };
        let id = Nonce(self.parts.entropy.nonce());
        state.pin = Some(Pinned { id, holds: false });
        state::save(&self.dir, state)?;
        let base = self.log.base_of(&head).await?;
        let pin = Pin::of(&head, base, kind(id), self.parts.clock.now());
        pin_found(&self.parts, &self.log, pin, &found).await?;
        state.pin = Some(Pinned { id, holds: true });
        state::save(&self.dir, state)
    }

    /// Why content of the draft cannot be read: damage, or that the home moved on.
    pub(crate) fn explain(&self, error: FsError) -> FsError {
        if error.kind() != ErrorKind::Corrupt {
            return error;
        }
        let (seq, pin) = {
            let state = self.state.lock();
            (state.seq, state.pin.filter(|pin| pin.holds))
        };
        let moved = self.parts.runtime.block_on(async {
            if let Some(pin) = pin
                && self.log.draft_pin(pin.id).await?.is_some()
            {
                return Ok(false);
            }
            Ok::<_, LogError>(
                self.log.newest(Some(seq)).await?.is_none_or(|newest| newest.header().seq != seq),
            )
        });
        match moved {
            Ok(true) => moved_on(seq),
            Ok(false) => error,
            Err(gone @ LogError::Deleted { .. }) => to_fs(gone),
            Err(_) => error,
        }
    }
}

/// True where the draft began on this commit.
fn is_on(state: &State, head: &Head) -> bool {
    (head.seq, head.epoch) == (state.seq, state.epoch)
}

fn moved_on(seq: u64) -> FsError {
    let why = format!(
        "the home has moved on from commit {seq}, on which this draft began, and what the draft did \
         not change is no longer kept for it; publish the draft, or discard it"
    );
    FsError::of_kind(ErrorKind::Conflict, Errno::EIO, why)
}

pub(super) fn kind(id: Nonce) -> PinKind {
    PinKind::Draft { draft: id }
}
