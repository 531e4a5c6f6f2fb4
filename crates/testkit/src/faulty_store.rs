//! An object store that fails as told.
//!
//! # Order of a call
//! Dead? Then it fails. An injection for this call? Then that is what happens. Else chance decides,
//! from the seed, in this order: a delay, failing before anything is done, losing the reply after
//! all is done.
//!
//! # Invariants
//! Every failure is `Unavailable`, which says nothing of what happened: what a lost reply did is in
//! the store behind. The same seed and the same order of calls give the same faults.
//!
//! # Not here
//! Faults below HTTP, which the retries of `objstore` see: `s3_server`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use objstore::{Error, ObjectMeta, ObjectStore, Result};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A call of [`ObjectStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// [`ObjectStore::put`].
    Put,
    /// [`ObjectStore::create`].
    Create,
    /// [`ObjectStore::get`].
    Get,
    /// [`ObjectStore::head`].
    Head,
    /// [`ObjectStore::delete`].
    Delete,
    /// [`ObjectStore::list`].
    List,
}

/// What happens to one chosen call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injection {
    /// It fails, nothing done.
    Before,
    /// It is done, and fails.
    After,
    /// The store is dead from here, nothing done.
    KillBefore,
    /// It is done; the store is dead from here, and the caller sees a failure.
    KillAfter,
}

/// How often chance strikes, each from 0 (never) to 1 (always).
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultRates {
    /// Calls that fail with nothing done.
    pub unavailable: f64,
    /// Calls that are done and fail.
    pub lost_reply: f64,
    /// Calls that wait first, for up to [`FaultRates::delay_max`].
    pub delay: f64,
    /// The longest wait.
    pub delay_max: Duration,
}

/// An object store that fails as told. Clones are the same store.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    store: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    rates: FaultRates,
    hooks: Vec<Hook>,
    dead: bool,
    calls: u64,
}

#[derive(Debug)]
struct Hook {
    verb: Option<Verb>,
    prefix: String,
    remaining: u64,
    injection: Injection,
}

/// What was decided of one call.
#[derive(Debug)]
struct Verdict {
    delay: Duration,
    injection: Option<Injection>,
}

impl FaultyStore {
    /// A store that works until told otherwise.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self::seeded(store, 0, FaultRates::default())
    }

    /// A store with chance from `seed`.
    pub fn seeded(store: Arc<dyn ObjectStore>, seed: u64, rates: FaultRates) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        let state = State { rng, rates, hooks: Vec::new(), dead: false, calls: 0 };
        Self { store, state: Arc::new(Mutex::new(state)) }
    }

    /// Changes how often chance strikes from here on.
    pub fn set_rates(&self, rates: FaultRates) {
        self.state.lock().rates = rates;
    }

    /// Does `injection` to the `nth` call (from 1) whose key, or listed prefix, begins with `prefix`,
    /// counted from here; of all verbs where `verb` is `None`. Once.
    pub fn inject(
        &self,
        verb: impl Into<Option<Verb>>,
        prefix: &str,
        nth: u64,
        injection: Injection,
    ) {
        let hook =
            Hook { verb: verb.into(), prefix: prefix.to_owned(), remaining: nth.max(1), injection };
        self.state.lock().hooks.push(hook);
    }

    /// Fails every call from here on, as if the store or the host were gone.
    pub fn kill(&self) {
        self.state.lock().dead = true;
    }

    /// Undoes [`FaultyStore::kill`].
    pub fn revive(&self) {
        self.state.lock().dead = false;
    }

    /// True after [`FaultyStore::kill`] or an injection that kills.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Calls made so far, failed ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// The store behind, which never fails.
    #[must_use]
    pub fn inner(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    async fn call<T>(
        &self,
        verb: Verb,
        key: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let verdict = self.state.lock().decide(verb, key)?;
        if !verdict.delay.is_zero() {
            tokio::time::sleep(verdict.delay).await;
        }
        match verdict.injection {
            None => {
                let outcome = work.await;
                // Killed while this was under way: the reply has nobody to come from.
                if self.is_dead() { Err(unavailable("killed")) } else { outcome }
            }
            Some(Injection::Before) => Err(unavailable("injected, nothing done")),
            Some(Injection::After) => {
                work.await?;
                Err(unavailable("injected, reply lost"))
            }
            Some(Injection::KillBefore) => {
                self.kill();
                Err(unavailable("killed"))
            }
            Some(Injection::KillAfter) => {
                let outcome = work.await;
                self.kill();
                outcome.and(Err(unavailable("killed")))
            }
        }
    }
}

impl State {
    fn decide(&mut self, verb: Verb, key: &str) -> Result<Verdict> {
        self.calls += 1;
        if self.dead {
            return Err(unavailable("killed"));
        }
        for hook in &mut self.hooks {
            if hook.verb.is_none_or(|wanted| wanted == verb) && key.starts_with(&hook.prefix) {
                hook.remaining = hook.remaining.saturating_sub(1);
            }
        }
        if let Some(due) = self.hooks.iter().position(|hook| hook.remaining == 0) {
            let injection = Some(self.hooks.swap_remove(due).injection);
            return Ok(Verdict { delay: Duration::ZERO, injection });
        }
        // Always three draws, so that one rate does not shift the luck of the others.
        let (late, part, luck) =
            (self.rng.random::<f64>(), self.rng.random::<f64>(), self.rng.random::<f64>());
        let rates = self.rates;
        let delay = if late < rates.delay { rates.delay_max.mul_f64(part) } else { Duration::ZERO };
        let injection = if luck < rates.unavailable {
            Some(Injection::Before)
        } else if luck < rates.unavailable + rates.lost_reply {
            Some(Injection::After)
        } else {
            None
        };
        Ok(Verdict { delay, injection })
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.call(Verb::Put, key, self.store.put(key, body)).await
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        self.call(Verb::Create, key, self.store.create(key, body)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.call(Verb::Get, key, self.store.get(key, range)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.call(Verb::Head, key, self.store.head(key)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.call(Verb::Delete, key, self.store.delete(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        self.call(Verb::List, prefix, self.store.list(prefix, after, max)).await
    }
}

fn unavailable(what: &str) -> Error {
    Error::Unavailable { message: format!("a fault of the test: {what}") }
}

#[cfg(test)]
mod tests {
    use objstore::MemoryStore;

    use super::*;

    fn faulty() -> FaultyStore {
        FaultyStore::new(Arc::new(MemoryStore::new()))
    }

    #[tokio::test]
    async fn a_store_without_faults_passes_the_suite() {
        objstore::suite::run(Arc::new(faulty())).await;
    }

    #[tokio::test]
    async fn a_lost_reply_leaves_the_object_and_the_retry_finds_it() {
        let store = faulty();
        store.inject(Verb::Create, "log/", 2, Injection::After);
        store.create("log/1", "a".into()).await.unwrap();
        store.create("packs/1", "a".into()).await.unwrap();
        assert!(matches!(store.create("log/2", "b".into()).await, Err(Error::Unavailable { .. })));
        store.create("log/2", "b".into()).await.unwrap();
        assert_eq!(store.get("log/2", None).await.unwrap(), "b");
    }

    #[tokio::test]
    async fn a_killed_store_answers_nothing_until_revived() {
        let store = faulty();
        store.inject(None, "", 2, Injection::KillAfter);
        store.put("a", "1".into()).await.unwrap();
        store.put("b", "2".into()).await.unwrap_err();
        assert!(store.is_dead());
        store.get("a", None).await.unwrap_err();
        store.list("", None, 10).await.unwrap_err();
        assert_eq!(store.inner().get("b", None).await.unwrap(), "2");
        store.revive();
        assert_eq!(store.get("b", None).await.unwrap(), "2");
        assert_eq!(store.calls(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_seed_repeats_its_faults() {
        let rates = FaultRates {
            unavailable: 0.2,
            lost_reply: 0.2,
            delay: 0.5,
            delay_max: Duration::from_secs(1),
        };
        let mut runs = Vec::new();
        for seed in [7, 7, 8] {
            let store = FaultyStore::seeded(Arc::new(MemoryStore::new()), seed, rates);
            let mut outcomes = Vec::new();
            for n in 0..50 {
                outcomes.push(store.put(&format!("k{n}"), Bytes::new()).await.is_ok());
            }
            runs.push(outcomes);
        }
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
        assert!(runs[0].contains(&true) && runs[0].contains(&false));
    }
}
