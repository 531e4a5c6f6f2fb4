//! Which memory the guest goes on from: the one here, one of the store, or none.
//!
//! # Order
//! The home is claimed, the upper is here. Where the upper came from the store, or is the very one that is stored, so
//! does the memory, unless the one here fits: what is told of it has to fit, then it is fetched. What the sleeping kernel holds is pinned; what has no name and is held by nobody
//! goes.
//!
//! # Invariants
//! - Memory of the store is there for the claim that follows directly on its run, and for no later one (crate
//!   `upper`). So it is void for everybody else since this home was claimed, whatever becomes of it here.
//! - No record of it is written: a keeper that ends before the guest runs has used it up.
//!
//! # Failure
//! Whatever is wrong with it, the machine boots and says why.

use std::sync::Arc;

use ::upper::StoredMemory;
use base::ErrorKind;
use homefs::{HomeFs, Opened, Recovery};
use vfs::{FileSystem as _, Ino};

use super::clone::Beginning;
use super::{Found, Keeper, give_up};
use crate::asleep::SleepRecord;
use crate::stored::Offer;
use crate::{Failure, Result};

impl Keeper {
    /// Decides, and fetches what is not here. `found` has the memory here, `stored` is what was found where the upper
    /// was.
    pub(super) async fn find_memory(
        &self,
        home: &Arc<HomeFs>,
        found: Found,
        stored: Option<Result<StoredMemory, String>>,
    ) -> Result<Found> {
        let Found { asleep, beginning, early, opened, .. } = found;
        let goes_on = || asleep.as_ref().is_some_and(|record| self.goes_on(record, &opened));
        let stored = match stored {
            Some(stored) if beginning != Beginning::Clone && !goes_on() => stored,
            _ => {
                settle_pins(home, Vec::new(), Vec::new()).await?;
                return Ok(Found { asleep, beginning, early, without: None, opened });
            }
        };
        // The one here is of another upper than the one that was fetched, or of another home.
        give_up(early).await;
        let not_held = asleep.as_ref().map(SleepRecord::held).unwrap_or_default();
        let fetched = self.fetch_memory(stored, &opened).await?;
        // What its kernel held goes now.
        SleepRecord::remove(&self.dir)
            .map_err(|error| Failure::internal("take the sleep record away", error))?;
        let held = fetched.as_ref().map(SleepRecord::held).unwrap_or_default();
        settle_pins(home, held, not_held).await?;
        let (asleep, without) = match fetched {
            Ok(record) => (Some(record), None),
            Err(why) => (None, why),
        };
        Ok(Found { asleep, beginning, early: None, without, opened })
    }

    /// Whether the memory here can be gone on from.
    fn goes_on(&self, record: &SleepRecord, opened: &Opened) -> bool {
        if may_have_run_elsewhere(opened) {
            return false;
        }
        let here = self.parts.runtime.fingerprint(&self.spec.instance);
        let fits = record.fits(&self.dir, &self.spec.home, opened.version, &here);
        fits.is_ok() && record.fits_files(&self.dir).is_ok()
    }

    /// An inner `Err` says why the guest boots; nothing where it was asked for.
    async fn fetch_memory(
        &self,
        stored: Result<StoredMemory, String>,
        opened: &Opened,
    ) -> Result<Result<SleepRecord, Option<String>>> {
        if self.dir.cold().exists() || !self.spec.keep_memory {
            return Ok(Err(None));
        }
        let work = async {
            let stored = stored?;
            self.fetch_what_fits(&stored, opened).await
        };
        let fetched = tokio::select! {
            fetched = work => fetched,
            () = self.stop.cancelled() => {
                return Err(Failure::new(ErrorKind::Unavailable, "put to sleep before the guest was up"));
            }
        };
        Ok(fetched.map_err(|why| {
            tracing::warn!(%why, "the guest does not go on from memory of the store");
            Some(why)
        }))
    }

    async fn fetch_what_fits(
        &self,
        stored: &StoredMemory,
        opened: &Opened,
    ) -> Result<SleepRecord, String> {
        let (runtime, spec) = (self.parts.runtime.clone(), self.spec.instance.clone());
        let fingerprints =
            move || Ok((runtime.fingerprint(&spec), runtime.portable_fingerprint(&spec)));
        let (here, anywhere) =
            crate::files::blocking(fingerprints).await.map_err(|error| error.message)?;
        let offer = Offer::of(stored.about())?;
        let other = |ran_on: &_| self.parts.runtime.other(ran_on, &anywhere);
        offer.fits(&self.spec.home, opened.version, other)?;
        if stored.file_bytes() != self.spec.instance.memory_mib << 20 {
            return Err("its size is another one now".to_owned());
        }
        if opened.files_reverted > 0 {
            return Err("a process had written to a file without a name, which only its host had"
                .to_owned());
        }
        if !self.has_room_for_memory() {
            return Err("this host's disk has too little room for it".to_owned());
        }
        let upper = self.upper();
        let progress = self.standing.lock().restoring.clone();
        let fetched = upper.fetch_memory(stored, &progress).await;
        let fetched = fetched.map_err(|error| error.to_string())?;
        let dir = self.dir.clone();
        let placed = crate::files::blocking(move || {
            let failed = |error: std::io::Error| Failure::internal("place the memory", error);
            // It is of the memory that this one takes the place of.
            SleepRecord::remove(&dir).map_err(failed)?;
            let state = fetched.place(&dir.memory())?;
            let (devices, record) =
                offer.take(&state, here).map_err(|why| Failure::new(ErrorKind::Corrupt, why))?;
            ::upper::file::replace_soon(&dir.devices(), &devices).map_err(failed)?;
            record.with_files(&dir).map_err(failed)
        });
        let record = placed.await.map_err(|error| error.message)?;
        if let Err(error) = upper.note_memory_used(stored).await {
            tracing::warn!(%error, "all of the next memory will be stored anew");
        }
        Ok(record)
    }
}

/// True where another host claimed the home and ended without giving it up: it may have gone on from the same
/// memory, stored by this host, and have been lost before it stored anything. The version does not tell that.
pub(super) fn may_have_run_elsewhere(opened: &Opened) -> bool {
    opened.crashed && matches!(opened.recovery, Recovery::FromStore { .. })
}

/// From here on it is known what the kernel that goes on holds.
async fn settle_pins(home: &Arc<HomeFs>, held: Vec<Ino>, not_held: Vec<Ino>) -> Result<()> {
    let home = home.clone();
    crate::files::blocking(move || {
        held.into_iter().for_each(|ino| home.pin(ino));
        not_held.into_iter().for_each(|ino| home.unpin(ino));
        home.let_go_of_unnamed();
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use base::Epoch;

    use super::*;

    #[test]
    fn memory_here_is_void_where_another_host_was_lost_with_it() {
        let opened = |crashed, recovery| Opened {
            epoch: Epoch(7),
            seq: 9,
            recovery,
            crashed,
            files_reverted: 0,
            version: 41,
        };
        let from_store = Recovery::FromStore { lost_local: false };
        assert!(may_have_run_elsewhere(&opened(true, from_store)));
        // A draft was published, which was given up; and our own keeper was killed.
        assert!(!may_have_run_elsewhere(&opened(false, from_store)));
        assert!(!may_have_run_elsewhere(&opened(true, Recovery::LocalContinued)));
        assert!(!may_have_run_elsewhere(&opened(false, Recovery::Clean)));
    }
}
