//! The home: claimed before a guest runs, watched while it does, released after it.

use std::sync::Arc;
use std::time::Duration;

use base::ErrorKind;
use homefs::{HomeFs, HomeSettings, Opened, Recovery, SyncMode, TakeOver};

use super::Keeper;
use crate::asleep::SleepRecord;
use crate::{Failure, Result};

/// How often the home is asked whether it is still ours.
const FENCE_POLL: Duration = Duration::from_millis(500);

impl Keeper {
    pub(super) async fn open_home(
        &self,
        asleep: Option<&SleepRecord>,
    ) -> Result<(Arc<HomeFs>, Opened)> {
        let settings = HomeSettings {
            home: self.spec.home.clone(),
            dir: self.dir.home(),
            holder: self.spec.holder.clone(),
            bytes_max: self.spec.storage_bytes_max,
            sync: if self.spec.fsync_local { SyncMode::Local } else { SyncMode::Store },
            replicate_after: homefs::REPLICATE_AFTER,
            unreplicated_bytes_max: homefs::UNREPLICATED_BYTES_MAX,
            sync_patience: homefs::SYNC_PATIENCE,
            release_patience: homefs::RELEASE_PATIENCE,
            inodes_cached: homefs::INODES_CACHED,
            take_over: self.spec.take_over_from.map_or(TakeOver::Never, TakeOver::From),
            held: asleep.map(SleepRecord::held).unwrap_or_default(),
            // Memory of the store may hold them.
            keep_unnamed: true,
            opening: self.standing.lock().opening.clone(),
        };
        let parts = homefs::Parts {
            store: self.parts.store.clone(),
            clock: self.parts.clock.clone(),
            entropy: self.parts.entropy.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        let (home, opened) = crate::files::blocking(move || {
            HomeFs::open_writer(settings, parts).map_err(|error| not_opened(&error))
        })
        .await?;
        self.note_opened(&opened);
        Ok((Arc::new(home), opened))
    }

    fn note_opened(&self, opened: &Opened) {
        tracing::info!(epoch = %opened.epoch, seq = opened.seq, recovery = ?opened.recovery, "home opened");
        let how = match opened.recovery {
            Recovery::Clean => "clean",
            Recovery::LocalContinued => "local_continued",
            Recovery::FromStore { lost_local: false } => "from_store",
            Recovery::FromStore { lost_local: true } => "from_store_local_parked",
        };
        how.clone_into(&mut self.standing.lock().opened);
    }

    pub(super) async fn release(&self, home: &Arc<HomeFs>) -> Result<u64> {
        let home = home.clone();
        crate::files::blocking(move || {
            home.release()
                .map(|released| released.seq)
                .map_err(|error| Failure::new(error.kind(), format!("store the home: {error}")))
        })
        .await
        .inspect_err(
            |error| tracing::error!(%error, "the home was not released; it is whole on this disk"),
        )
    }
}

/// Returns once the home is another server's, with what to say then.
pub(super) async fn until_fenced(home: &HomeFs) -> String {
    while !home.status().fenced {
        tokio::time::sleep(FENCE_POLL).await;
    }
    "another server took this machine's home; this copy was stopped. Look for the machine there"
        .to_owned()
}

fn not_opened(error: &homefs::Error) -> Failure {
    let message = match error {
        homefs::Error::NoSuchHome { home } => format!(
            "there is no home {home} in the object store: is it the store that the machine was made in?"
        ),
        _ if error.kind() == ErrorKind::NotFound => format!(
            "{error}, so the machine was deleted by another server that has it too; delete it here as well \
             (dormouse rm)"
        ),
        _ => error.to_string(),
    };
    Failure::new(error.kind(), message)
}
