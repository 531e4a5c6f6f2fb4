//! Making the server misbehave, and reading what it did.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use super::traffic::{Traffic, Verb, VerbTraffic};

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection closes, nothing done.
    LoseRequest,
    /// The work is done; the connection closes before a reply.
    LoseReply,
    /// 500 `InternalError`, nothing done.
    InternalError,
    /// 503 `SlowDown`, nothing done.
    SlowDown,
    /// 409 `ConditionalRequestConflict`, nothing done.
    Conflict,
    /// 403 `AccessDenied`, nothing done.
    AccessDenied,
}

/// Whether the server is there at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// It serves.
    None,
    /// Connections close at once, open ones included.
    Down,
    /// Connections are taken and nothing is ever answered.
    Silent,
}

/// Makes a server misbehave. Clones control the same server.
#[derive(Debug, Clone)]
pub struct Control {
    state: Arc<Mutex<State>>,
    outage: watch::Sender<Outage>,
}

#[derive(Debug)]
struct State {
    traffic: Traffic,
    latency: HashMap<Verb, Duration>,
    planned: HashMap<Verb, Vec<Fault>>,
    random: Option<Random>,
}

#[derive(Debug)]
struct Random {
    rng: StdRng,
    verbs: Vec<Verb>,
    fault: Fault,
    rate: f64,
}

impl Control {
    pub(super) fn new() -> Self {
        let state = State {
            traffic: Traffic::default(),
            latency: HashMap::new(),
            planned: HashMap::new(),
            random: None,
        };
        Self { state: Arc::new(Mutex::new(state)), outage: watch::Sender::new(Outage::None) }
    }

    /// Makes every request of `verb` take `latency` longer.
    pub fn set_latency(&self, verb: Verb, latency: Duration) {
        self.state.lock().latency.insert(verb, latency);
    }

    /// Makes every request take `latency` longer.
    pub fn set_latency_of_all(&self, latency: Duration) {
        let mut state = self.state.lock();
        state.latency.extend(Verb::ALL.map(|verb| (verb, latency)));
    }

    /// Does `fault` to the next `count` requests of `verb`, after those already planned.
    pub fn fail_next(&self, verb: Verb, count: usize, fault: Fault) {
        let mut state = self.state.lock();
        state.planned.entry(verb).or_default().extend(std::iter::repeat_n(fault, count));
    }

    /// Does `fault` to requests of `verbs` at `rate` (0 to 1), by chance from `seed`; replaces what
    /// was set before.
    pub fn fail_at_random(&self, seed: u64, verbs: &[Verb], rate: f64, fault: Fault) {
        let random =
            Random { rng: StdRng::seed_from_u64(seed), verbs: verbs.to_vec(), fault, rate };
        self.state.lock().random = Some(random);
    }

    /// Ends all planned and random faults and latencies.
    pub fn calm(&self) {
        let mut state = self.state.lock();
        state.latency.clear();
        state.planned.clear();
        state.random = None;
    }

    /// Takes the server away, or brings it back.
    pub fn set_outage(&self, outage: Outage) {
        self.outage.send_replace(outage);
    }

    /// What was asked so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.state.lock().traffic
    }

    pub(super) fn outages(&self) -> watch::Receiver<Outage> {
        self.outage.subscribe()
    }

    pub(super) fn close_connections(&self) {
        self.set_outage(Outage::Down);
    }

    /// Counts a request and says what happens to it: after which time, and which fault.
    pub(super) fn admit(&self, verb: Verb, bytes_in: u64) -> (Duration, Option<Fault>) {
        let mut state = self.state.lock();
        let counts: &mut VerbTraffic = &mut state.traffic[verb];
        counts.requests += 1;
        counts.bytes_in += bytes_in;
        let latency = state.latency.get(&verb).copied().unwrap_or_default();
        let planned = state.planned.get_mut(&verb).filter(|planned| !planned.is_empty());
        let fault = match planned {
            Some(planned) => Some(planned.remove(0)),
            None => state.random.as_mut().and_then(|random| random.draw(verb)),
        };
        (latency, fault)
    }

    pub(super) fn answered(&self, verb: Verb, bytes_out: u64) {
        self.state.lock().traffic[verb].bytes_out += bytes_out;
    }
}

impl Random {
    fn draw(&mut self, verb: Verb) -> Option<Fault> {
        let struck = self.verbs.contains(&verb) && self.rng.random::<f64>() < self.rate;
        struck.then_some(self.fault)
    }
}
