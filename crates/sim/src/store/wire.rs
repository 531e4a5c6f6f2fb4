//! One process's way to the object store, with faults.
//!
//! # Order of a call
//! Dead? Then it fails. Its turn, where others race (`gate`). A few turns of the executor, so that
//! calls made at once end in another order. Then the fault that its identity draws.
//!
//! # Invariants
//! What happens to a call depends on the seed, on the process, on verb and key, and on how often this
//! process made this very call: not on time, and not on what other threads do meanwhile. Only
//! [`Wire::die_at`] counts calls in the order in which they come.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use objstore::{Error, MemoryStore, ObjectMeta, ObjectStore, Result};
use parking_lot::Mutex;
use testkit::Verb;

use super::gate::Seat;
use crate::chance::mix;

/// How often things go wrong, in thousandths of all calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// Fails, nothing done (503, or no connection).
    pub unavailable: u64,
    /// A write that is done and fails (the reply was lost).
    pub lost_reply: u64,
    /// A create that is refused for now (409), nothing done.
    pub busy: u64,
    /// Calls that end later than others made at the same time.
    pub late: u64,
    /// A write that is acknowledged and not done. No store may do this: it is for testing the tests.
    pub dropped: u64,
}

/// The store, for one process.
#[derive(Debug)]
pub struct Wire {
    truth: Arc<MemoryStore>,
    seed: u64,
    rates: Mutex<Rates>,
    seat: Mutex<Option<Arc<Seat>>>,
    nth: Mutex<HashMap<(u8, String), u64>>,
    calls: AtomicU64,
    /// The call at which the process dies, and whether that one is still done.
    die_at: AtomicU64,
    die_after: AtomicBool,
    dead: AtomicBool,
}

impl Wire {
    /// A way to `truth` whose faults `seed` decides.
    #[must_use]
    pub fn new(truth: Arc<MemoryStore>, seed: u64, rates: Rates) -> Self {
        Self {
            truth,
            seed,
            rates: Mutex::new(rates),
            seat: Mutex::default(),
            nth: Mutex::default(),
            calls: AtomicU64::new(0),
            die_at: AtomicU64::new(u64::MAX),
            die_after: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        }
    }

    /// Lets the process die at the `nth` call (from 1) from here; `after`: once that was done.
    pub fn die_at(&self, nth: u64, after: bool) {
        self.die_after.store(after, Ordering::SeqCst);
        self.die_at.store(self.calls.load(Ordering::SeqCst) + nth.max(1), Ordering::SeqCst);
    }

    /// Takes [`Wire::die_at`] back.
    pub fn live_on(&self) {
        self.die_at.store(u64::MAX, Ordering::SeqCst);
    }

    /// Ends the process here: no call is answered any more.
    pub fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// True once the process is dead.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Other chances from here on; the ones before.
    pub fn set_rates(&self, rates: Rates) -> Rates {
        std::mem::replace(&mut self.rates.lock(), rates)
    }

    /// Makes calls wait for their turn, or no longer.
    pub fn race(&self, seat: Option<Seat>) {
        *self.seat.lock() = seat.map(Arc::new);
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    async fn call<T>(
        &self,
        verb: Verb,
        key: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let seat = self.seat.lock().clone();
        match seat {
            Some(seat) => seat.pass(self.faulty(verb, key, work)).await,
            None => self.faulty(verb, key, work).await,
        }
    }

    async fn faulty<T>(
        &self,
        verb: Verb,
        key: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if self.is_dead() {
            return Err(away("the process is dead"));
        }
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if number >= self.die_at.load(Ordering::SeqCst) {
            if self.die_after.load(Ordering::SeqCst) {
                work.await.ok();
            }
            self.die();
            return Err(away("the process died here"));
        }
        let (late, luck) = self.draw(verb, key);
        let rates = *self.rates.lock();
        if late % 1_000 < rates.late {
            for _ in 0..1 + late / 1_000 % 4 {
                tokio::task::yield_now().await;
            }
        }
        let writes = matches!(verb, Verb::Put | Verb::Create | Verb::Delete);
        let Rates { unavailable, lost_reply, busy, .. } = rates;
        if luck < unavailable {
            return Err(away("503"));
        }
        if writes && luck < unavailable + lost_reply {
            work.await?;
            return Err(away("the reply was lost"));
        }
        if verb == Verb::Create && luck < unavailable + lost_reply + busy {
            return Err(away("409, nothing done"));
        }
        let out = work.await;
        // Killed meanwhile: whatever was done, nobody hears of it.
        if self.is_dead() { Err(away("the process is dead")) } else { out }
    }

    async fn unless_dropped(
        &self,
        key: &str,
        work: impl Future<Output = Result<()>> + Send,
    ) -> Result<()> {
        let luck = mix(&[b"dropped", &self.seed.to_le_bytes(), key.as_bytes()]) % 1_000;
        if luck < self.rates.lock().dropped { Ok(()) } else { work.await }
    }

    /// Two numbers that belong to this call; the second is below 1,000.
    fn draw(&self, verb: Verb, key: &str) -> (u64, u64) {
        let nth = {
            let mut nth = self.nth.lock();
            let count = nth.entry((verb as u8, key.to_owned())).or_default();
            *count += 1;
            *count
        };
        let drawn =
            mix(&[&self.seed.to_le_bytes(), &[verb as u8], key.as_bytes(), &nth.to_le_bytes()]);
        (drawn >> 32, drawn % 1_000)
    }
}

fn away(what: &str) -> Error {
    Error::Unavailable { message: format!("simulated: {what}") }
}

#[async_trait]
impl ObjectStore for Wire {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.call(Verb::Put, key, self.unless_dropped(key, self.truth.put(key, body))).await
    }
    async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        self.call(Verb::Create, key, self.unless_dropped(key, self.truth.create(key, body))).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.call(Verb::Get, key, self.truth.get(key, range)).await
    }
    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.call(Verb::Head, key, self.truth.head(key)).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.call(Verb::Delete, key, self.truth.delete(key)).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        self.call(Verb::List, prefix, self.truth.list(prefix, after, max)).await
    }
}
