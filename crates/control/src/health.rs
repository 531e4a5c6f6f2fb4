//! Whether this server can do its work.

use std::sync::Arc;

use serde::Serialize;

use crate::control::Inner;

/// One thing that must work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What: `catalog`, `object_store`.
    pub name: &'static str,
    /// Whether it works.
    pub ok: bool,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether this server can do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// True where every check is.
    pub ready: bool,
    /// All checks.
    pub checks: Vec<Check>,
    /// This program's version.
    pub version: String,
}

/// Whether this server can do its work.
#[derive(Debug, Clone)]
pub struct Health {
    pub(crate) inner: Arc<Inner>,
}

impl Health {
    /// What the last probe found; answers at once.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        Readiness { ready: false, checks: Vec::new(), version: self.version().to_owned() }
    }
    /// This program's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.inner.settings.version
    }
}
