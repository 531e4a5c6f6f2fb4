//! Where the home goes: empty until the host has said whose guest this is.
//!
//! A guest may be saved before that and become many machines, so nothing of a home may be in it: the
//! port is not even open.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{Home, Ring};
use crate::Error;
use crate::console::say;

/// See the module.
#[derive(Debug)]
pub(crate) struct Place {
    home: OnceLock<Result<Arc<Home>, String>>,
    /// For the home that will be mounted.
    ring: Mutex<Option<Ring>>,
}

impl Place {
    /// One that a home can be mounted in, over `ring` where there is one.
    pub(crate) fn empty(ring: Option<Ring>) -> Self {
        Self { home: OnceLock::new(), ring: Mutex::new(ring) }
    }

    /// One that never has a home, and why.
    pub(crate) fn without(why: &str) -> Self {
        Self { home: OnceLock::from(Err(why.to_owned())), ring: Mutex::new(None) }
    }

    /// Mounts the home; only the first call does.
    pub(crate) fn mount(&self) -> Result<(), Error> {
        let home = self.home.get_or_init(|| {
            let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner).take();
            let mounted = Home::mount(ring).map(Arc::new).map_err(|error| error.to_string());
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
