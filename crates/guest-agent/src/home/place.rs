//! Where the home goes: empty until the host has said whose guest this is.
//!
//! A guest may be saved before that and become many machines, so nothing of a home may be in it: the
//! port is not even open. What is mounted by then at the most ([`Place::prepare`]) has heard of no home.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Home, Ring, Stage};
use crate::Error;
use crate::console::say;

/// See the module.
#[derive(Debug)]
pub(crate) struct Place {
    home: OnceLock<Result<Arc<Home>, String>>,
    /// For the home that will be mounted.
    ring: Mutex<Option<Ring>>,
    /// Where it will be.
    stage: Mutex<Option<Stage>>,
}

impl Place {
    /// One that a home can be mounted in, over `ring` where there is one.
    pub(crate) fn empty(ring: Option<Ring>) -> Self {
        Self { home: OnceLock::new(), ring: Mutex::new(ring), stage: Mutex::default() }
    }

    /// One that never has a home, and why.
    pub(crate) fn without(why: &str) -> Self {
        let (ring, stage) = Default::default();
        Self { home: OnceLock::from(Err(why.to_owned())), ring, stage }
    }

    /// Does what of mounting needs no home.
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        let mut stage = lock(&self.stage);
        if stage.is_none() && self.is_empty() {
            *stage = Some(Stage::set()?);
        }
        Ok(())
    }

    /// Mounts the home; only the first call does.
    pub(crate) fn mount(&self) -> Result<(), Error> {
        let home = self.home.get_or_init(|| {
            let (ring, stage) = (lock(&self.ring).take(), lock(&self.stage).take());
            let mounted = stage.map_or_else(Stage::set, Ok).and_then(|stage| Home::on(stage, ring));
            let mounted = mounted.map(Arc::new).map_err(|error| error.to_string());
            match &mounted {
                Ok(_) => say("home: mounted"),
                Err(why) => say(&format!("home: not mounted: {why}")),
            }
            mounted
        });
        home.as_ref().map(drop).map_err(|why| Error::Invalid(why.clone()))
    }

    /// True until one was mounted, or could not be.
    pub(crate) fn is_empty(&self) -> bool {
        self.home.get().is_none()
    }

    /// The home.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn home(&self) -> Result<&Arc<Home>, String> {
        match self.home.get() {
            Some(home) => home.as_ref().map_err(Clone::clone),
            None => Err("it is not mounted yet".to_owned()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_home_until_it_is_mounted_and_none_ever_elsewhere() {
        let place = Place::empty(None);
        assert!(place.is_empty());
        assert!(place.home().unwrap_err().contains("not mounted yet"));
        let place = Place::without("not in a guest");
        assert!(!place.is_empty());
        assert_eq!(place.home().unwrap_err(), "not in a guest");
        assert!(place.mount().unwrap_err().to_string().contains("not in a guest"));
    }
}
