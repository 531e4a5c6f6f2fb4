//! The door to everything: opened once, cloned cheaply.

use std::sync::Arc;

use crate::executions::Executions;
use crate::files::Files;
use crate::health::Health;
use crate::idempotency::Idempotency;
use crate::machines::Machines;
use crate::settings::{Parts, Settings};
use crate::{Error, Result};

/// The application layer.
#[derive(Debug, Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) parts: Parts,
}

impl Control {
    /// Locks the data directory, opens the catalog, adopts running keepers and starts the drivers.
    pub async fn open(settings: Settings, parts: Parts) -> Result<Self> {
        let inner = Arc::new(Inner { settings, parts });
        let _ = &inner.parts;
        let _ = Self { inner };
        Err(Error::internal("not written yet"))
    }
    /// Machines.
    #[must_use]
    pub fn machines(&self) -> Machines {
        Machines { inner: self.inner.clone() }
    }
    /// Commands run in machines.
    #[must_use]
    pub fn executions(&self) -> Executions {
        Executions { inner: self.inner.clone() }
    }
    /// Files of homes.
    #[must_use]
    pub fn files(&self) -> Files {
        Files { inner: self.inner.clone() }
    }
    /// Replays of mutating calls.
    #[must_use]
    pub fn idempotency(&self) -> Idempotency {
        Idempotency { inner: self.inner.clone() }
    }
    /// Whether this server can do its work.
    #[must_use]
    pub fn health(&self) -> Health {
        Health { inner: self.inner.clone() }
    }
    /// What the binary decided.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }
    /// Stops drivers and tickers; leaves awake machines to their keepers.
    pub async fn close(&self) {}
}
