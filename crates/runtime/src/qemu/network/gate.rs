//! Keeps the [filter](super::filter) of one namespace: its policy, and the ways that name servers' answers opened.
//!
//! One thread, inside of the namespace, owns both; who wants a change asks it and waits. Answers that come
//! while it is busy are granted together, so a flood of questions runs one `nft` at a time.
//!
//! # Invariants
//! - What the kernel lets out is never more than the policy that was last asked for allows: a policy is
//!   looked at again when its grant is made, and a change that fails leaves the old one whole.
//! - An address is granted only where it is public, whatever a name was made to resolve to.
//!
//! # Failure
//! Where the kernel takes a grant not (its set is full, say), the whole table is loaded anew with what is
//! known here; where that fails too, the answer is not passed on.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base::{Egress, is_public};
use tokio::sync::oneshot;

use super::super::EGRESS;
use super::filter::{self, Grant, Surroundings, Ways};
use super::run;
use crate::limits::{GRANT_GRACE, GRANT_MAX, GRANTS_MAX, GRANTS_WAITING_MAX, NAMES_OF_ADDRESS_MAX};

/// What is asked of the thread.
#[derive(Debug)]
enum Order {
    Policy(Egress, oneshot::Sender<io::Result<()>>),
    Grant(Resolved, oneshot::Sender<bool>),
}

/// What a name was resolved to, each address with the seconds that it lives.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) name: String,
    pub(crate) addresses: Vec<(Ipv4Addr, u32)>,
}

/// A handle to the thread; it ends with the last one.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    orders: SyncSender<Order>,
    policy: Arc<Mutex<Arc<Egress>>>,
}

impl Gate {
    /// Begins with `egress`: when this returns, nothing else gets out. `enter` moves the calling thread into
    /// the namespace.
    pub(crate) fn begin(
        egress: Egress,
        around: Surroundings,
        enter: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, asked) = sync_channel(GRANTS_WAITING_MAX);
        let policy = Arc::new(Mutex::new(Arc::new(egress)));
        let (ready, begun) = sync_channel(1);
        let shared = policy.clone();
        thread::Builder::new().name(EGRESS.to_owned()).spawn(move || {
            let egress = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut filter = Filter { egress, around, generation: 0, held: HashMap::new(), shared };
            let loaded = enter().and_then(|()| filter.load(filter.egress.clone()));
            let good = loaded.is_ok();
            if ready.send(loaded).is_ok() && good {
                filter.serve(&asked);
            }
        })?;
        match begun.recv() {
            Ok(Ok(())) => Ok(Self { orders, policy }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the thread of a filter ended")),
        }
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> Arc<Egress> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has another policy in force when this returns. Blocks.
    pub(crate) fn set(&self, egress: Egress) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        let gone = || io::Error::other("the thread of a filter ended");
        self.orders.send(Order::Policy(egress, done)).map_err(|_| gone())?;
        wait.blocking_recv().map_err(|_| gone())?
    }

    /// Lets the guest reach what a name was resolved to, as far as its policy allows it; false where that could
    /// not be done.
    pub(crate) async fn grant(&self, resolved: Resolved) -> bool {
        let (done, wait) = oneshot::channel();
        match self.orders.try_send(Order::Grant(resolved, done)) {
            Ok(()) => wait.await.unwrap_or(false),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

/// A way that is open until then, or was: whoever still uses it when another policy comes that allows its name
/// goes on.
#[derive(Debug)]
struct Held {
    until: Instant,
    names: Vec<String>,
}

impl Held {
    /// Whether `egress` allows a name that it was resolved from.
    fn is_of(&self, egress: &Egress) -> bool {
        self.names.iter().any(|name| egress.allows_name(name))
    }
}

#[derive(Debug)]
struct Filter {
    egress: Arc<Egress>,
    around: Surroundings,
    generation: u32,
    held: HashMap<Ipv4Addr, Held>,
    shared: Arc<Mutex<Arc<Egress>>>,
}

impl Filter {
    fn serve(&mut self, asked: &Receiver<Order>) {
        while let Ok(first) = asked.recv() {
            let mut waiting = Vec::new();
            let mut fresh: HashMap<Ipv4Addr, Grant> = HashMap::new();
            for order in std::iter::once(first).chain(asked.try_iter()) {
                match order {
                    Order::Grant(resolved, done) => {
                        fresh.extend(self.hold(resolved).map(|grant| (grant.address, grant)));
                        waiting.push(done);
                    }
                    Order::Policy(egress, done) => {
                        // What was held so far comes with it.
                        let loaded = self.load(Arc::new(egress));
                        fresh.retain(|address, _| {
                            self.held.contains_key(address) && loaded.is_err()
                        });
                        // Whoever asked may have given up.
                        drop(done.send(loaded));
                    }
                }
            }
            let fresh: Vec<Grant> = fresh.into_values().collect();
            let granted = fresh.is_empty() || self.open(&fresh);
            for done in waiting {
                done.send(granted).ok();
            }
        }
    }

    /// Puts another policy in force, or leaves the old one.
    fn load(&mut self, egress: Arc<Egress>) -> io::Result<()> {
        let ways = self.ways(&egress, Instant::now());
        let generation = self.generation.wrapping_add(1).max(1);
        let table = filter::table(&egress, &self.around, generation, &ways);
        run("nft", &["-f", "-"], &table)?;
        self.generation = generation;
        self.held.retain(|_, held| held.is_of(&egress));
        self.egress = egress.clone();
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = egress;
        Ok(())
    }

    /// What was resolved so far is open under `egress` for as long as it lives still; what had begun by then goes on
    /// after that.
    fn ways(&self, egress: &Egress, now: Instant) -> Ways {
        if !matches!(egress, Egress::Allow(_)) {
            return Ways::default();
        }
        let kept = || self.held.iter().filter(|(_, held)| held.is_of(egress));
        let granted = kept().filter(|(_, held)| held.until > now);
        let granted =
            granted.map(|(address, held)| Grant { address: *address, lasts: held.until - now });
        let begun = kept().map(|(address, _)| *address);
        Ways { granted: granted.collect(), begun: begun.collect() }
    }

    /// Notes what a name was resolved to; what the kernel does not know yet comes back.
    fn hold(&mut self, resolved: Resolved) -> impl Iterator<Item = Grant> + use<> {
        let now = Instant::now();
        let allowed =
            matches!(*self.egress, Egress::Allow(_)) && self.egress.allows_name(&resolved.name);
        let mut fresh = Vec::new();
        let addresses = resolved.addresses.into_iter().filter(|(address, _)| is_public(*address));
        for (address, seconds) in addresses.filter(|_| allowed) {
            let lives = Duration::from_secs(seconds.into()).min(GRANT_MAX);
            if !self.held.contains_key(&address) {
                self.make_room();
            }
            let held = self.held.entry(address).or_insert(Held { until: now, names: Vec::new() });
            if !held.names.contains(&resolved.name) {
                held.names.truncate(NAMES_OF_ADDRESS_MAX - 1);
                held.names.insert(0, resolved.name.clone());
            }
            if held.until < now + lives || held.until <= now {
                // Longer than the answer lives: who asked connects a little later, and asks again.
                let lasts = lives + GRANT_GRACE;
                held.until = now + lasts;
                fresh.push(Grant { address, lasts });
            }
        }
        fresh.into_iter()
    }

    /// Forgets the address that ends first where there are too many.
    fn make_room(&mut self) {
        while self.held.len() >= GRANTS_MAX {
            let first =
                self.held.iter().min_by_key(|(_, held)| held.until).map(|(address, _)| *address);
            let Some(first) = first else { return };
            self.held.remove(&first);
        }
    }

    fn open(&mut self, fresh: &[Grant]) -> bool {
        let Err(error) = run("nft", &["-f", "-"], &filter::grant(fresh)) else { return true };
        tracing::debug!(%error, "load the filter anew");
        let loaded = self.load(self.egress.clone());
        loaded
            .inspect_err(|error| tracing::warn!(%error, "what a name was resolved to stays closed"))
            .is_ok()
    }
}

#[cfg(test)]
mod tests;
