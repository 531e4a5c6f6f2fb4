//! Pins that cannot be read: what their names say, for those who can go on with that.
//!
//! A pin that cannot be read keeps what it may keep. So whoever deletes objects of a home that lives
//! stops at one ([`Log::pins`]); a list of snapshots goes on and names it, and a home is deleted, but for
//! its objects where a fork may need them.

use base::{HomeId, SnapshotId};
use futures::{StreamExt, TryStreamExt};

use super::error::{Error, Result};
use super::limits::{PIN_LOOKS, PINS_AT_ONCE};
use super::log::Log;
use super::pinned::Pin;

/// For whom a pin is, as its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// For a snapshot.
    Snapshot(SnapshotId),
    /// For this home.
    Fork(HomeId),
    /// For unpublished writes.
    Draft,
    /// Nothing that this version knows.
    Unknown,
}

/// A pin that cannot be read.
#[derive(Debug)]
pub(crate) struct Unread {
    /// For whom it is.
    pub(crate) holder: Holder,
    /// What is wrong.
    pub(crate) error: Error,
}

impl Log {
    /// All pins of the home, in the order of their ids: those that can be read, and the others.
    pub(crate) async fn pins_as_found(&self) -> Result<(Vec<Pin>, Vec<Unread>)> {
        for _ in 0..PIN_LOOKS {
            let keys = self.pin_keys().await?;
            let pins = keys.into_iter().map(|key| async move {
                let found = self.read_pin(&key).await;
                self.read_or_not(&key, found)
            });
            let pins: Vec<_> =
                futures::stream::iter(pins).buffered(PINS_AT_ONCE).try_collect().await?;
            // Where one went since the names were read, its state may be kept for somebody else by now: a snapshot of
            // which a fork was made meanwhile.
            if pins.iter().all(Option::is_some) {
                let (mut read, mut unread) = (Vec::new(), Vec::new());
                for pin in pins.into_iter().flatten() {
                    match pin {
                        Found::Read(pin) => read.push(pin),
                        Found::Unread(other) => unread.push(other),
                    }
                }
                return Ok((read, unread));
            }
        }
        let message = "what is kept of the home changes too quickly".to_owned();
        Err(objstore::Error::Unavailable { message }.into())
    }

    /// For whom the pin with this key is.
    pub(super) fn holder(&self, key: &str) -> Holder {
        let Some(name) = key.strip_prefix(&self.keys().pins()) else { return Holder::Unknown };
        match (name.parse(), name.parse()) {
            (Ok(id), _) => Holder::Snapshot(id),
            (_, Ok(child)) => Holder::Fork(child),
            _ if name.starts_with("draft-") => Holder::Draft,
            _ => Holder::Unknown,
        }
    }

    fn read_or_not(&self, key: &str, found: Result<Option<Pin>>) -> Result<Option<Found>> {
        match found {
            Err(error) if error.is_damage() => {
                Ok(Some(Found::Unread(Unread { holder: self.holder(key), error })))
            }
            found => Ok(found?.map(Found::Read)),
        }
    }
}

enum Found {
    Read(Pin),
    Unread(Unread),
}
