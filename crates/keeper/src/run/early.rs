//! Loads a guest's memory while its home is claimed: QEMU takes most of a wake to begin, and needs nothing of
//! the home for that.
//!
//! # Invariants
//! - The guest does not run. Whether it may is told by what the claim finds; given up, it leaves everything as
//!   it was, the memory too.
//! - Only memory that fits this host as far as can be told without the home is loaded, upon the upper and
//!   the root that are here. A claim that brings others makes it void.

use runtime::{Loaded, Memory, Spec};
use tokio::task::JoinHandle;

use super::Keeper;
use crate::asleep::SleepRecord;

/// See the module.
#[derive(Debug)]
pub(super) struct Early {
    spec: Spec,
    loading: Loading,
}

type Outcome = Result<Box<dyn Loaded>, runtime::Error>;

#[derive(Debug)]
enum Loading {
    UnderWay(JoinHandle<Outcome>),
    Finished(Outcome),
}

impl Keeper {
    /// Begins to load, where there is something that seems to fit.
    pub(super) fn load_early(&self, record: &SleepRecord) -> Option<Early> {
        if !self.can_load_early() {
            return None;
        }
        let root_image = self.root_here()?;
        let spec = Spec { root_image, ..self.spec.instance.clone() };
        if !record.ran_on(&self.parts.runtime.fingerprint(&spec)) {
            return None;
        }
        record.fits_files(&self.dir).ok()?;
        let saved = self.saved(&spec);
        Some(self.load(spec, saved))
    }

    /// Begins to load `saved`, for a guest that is to be `spec`.
    pub(super) fn load(&self, spec: Spec, saved: Spec) -> Early {
        let runtime = self.parts.runtime.clone();
        let loading = tokio::spawn(async move { runtime.load(&saved).await });
        Early { spec, loading: Loading::UnderWay(loading) }
    }

    /// The same with the memory that was saved.
    pub(super) fn saved(&self, spec: &Spec) -> Spec {
        let memory = Memory::Saved { file: self.dir.memory(), state: self.dir.devices() };
        Spec { memory, ..spec.clone() }
    }
}

impl Early {
    /// The guest, if it is still `spec` that is to run.
    ///
    /// # Errors
    /// Why it was not loaded.
    pub(super) async fn loaded(self, spec: &Spec) -> Result<Box<dyn Loaded>, runtime::Error> {
        if self.spec != *spec {
            self.give_up().await;
            return Err(runtime::Error::Resume("it was loaded upon another root".to_owned()));
        }
        self.finished().await
    }

    /// Takes down what was made so far.
    pub(super) async fn give_up(self) {
        if let Ok(loaded) = self.finished().await {
            // Waits until nothing of it is left.
            tokio::task::spawn_blocking(move || drop(loaded)).await.ok();
        }
    }

    /// Returns once its files are open: they may be moved then.
    pub(super) async fn ready(&mut self) {
        if let Loading::UnderWay(loading) = &mut self.loading {
            let outcome = loading.await;
            let outcome = outcome.map_err(|error| runtime::Error::Resume(error.to_string()));
            self.loading = Loading::Finished(outcome.flatten());
        }
    }

    async fn finished(mut self) -> Outcome {
        self.ready().await;
        match self.loading {
            Loading::Finished(outcome) => outcome,
            Loading::UnderWay(_) => Err(runtime::Error::Resume("it is not loaded".to_owned())),
        }
    }
}
