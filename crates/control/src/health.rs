//! Whether this server can do its work.
//!
//! The object store and the catalog are asked in the background; a question is answered from what the
//! last probe found, so a slow store does not make the question slow.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::control::Inner;
use crate::machines::record;

/// A store that takes longer to answer is not there.
const PROBE_MAX: Duration = Duration::from_secs(10);

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
    /// All checks; none before the first probe is through.
    pub checks: Vec<Check>,
    /// This program's version.
    pub version: String,
}

/// What the last probe found.
#[derive(Debug, Default)]
pub(crate) struct Prober {
    checks: Mutex<Vec<Check>>,
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
        let checks = self.inner.prober.checks.lock().clone();
        let ready = !checks.is_empty() && checks.iter().all(|check| check.ok);
        Readiness { ready, checks, version: self.version().to_owned() }
    }

    /// This program's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.inner.settings.version
    }
}

/// Probes until the server closes.
pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        probe(&inner).await;
        tokio::select! {
            () = inner.shutdown.cancelled() => return,
            () = tokio::time::sleep(inner.settings.timing.probe_every) => (),
        }
    }
}

async fn probe(inner: &Inner) {
    let listing = inner.parts.store.list(record::PREFIX, None, 1);
    let store = match tokio::time::timeout(PROBE_MAX, listing).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("the object store did not answer within {} s", PROBE_MAX.as_secs())),
    };
    let catalog = inner.db(|catalog| catalog.machines(None, 1)).await.err();
    let checks = vec![
        check("object_store", store),
        check("catalog", catalog.map(|error| error.to_string())),
    ];
    let mut last = inner.prober.checks.lock();
    if *last != checks {
        for check in checks.iter().filter(|check| !check.ok) {
            let message = check.message.as_deref().unwrap_or_default();
            tracing::warn!(check = check.name, message, "not ready");
        }
        *last = checks;
    }
}

fn check(name: &'static str, wrong: Option<String>) -> Check {
    Check { name, ok: wrong.is_none(), message: wrong }
}

#[cfg(test)]
mod tests {
    use crate::fakes::{World, eventually};

    #[tokio::test]
    async fn a_store_that_goes_away_and_comes_back_is_noticed() {
        let world = World::new();
        let control = world.open().await;
        eventually(|| control.health().readiness().ready).await;
        world.store.break_down(true);
        eventually(|| !control.health().readiness().ready).await;
        let readiness = control.health().readiness();
        let bad: Vec<&str> =
            readiness.checks.iter().filter(|check| !check.ok).map(|check| check.name).collect();
        assert_eq!(bad, ["object_store"]);
        world.store.break_down(false);
        eventually(|| control.health().readiness().ready).await;
    }
}
