//! Who goes first, where two processes call the store at once.
//!
//! Each call of a racer waits until every other racer waits too, or has ended; then chance picks
//! whose oldest call is done next. So a seed decides the order of calls, and not the machine.
//!
//! # Failure
//! A racer that neither calls nor ends (it pauses before it tries again) holds nobody up for
//! longer than [`PATIENCE`]; from then on the order is the machine's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::chance::Chance;

const PATIENCE: Duration = Duration::from_millis(250);
/// As often it is patient with a turn that does not end.
const TURNS_MAX: u32 = 8;

/// The order of calls of some racers.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    chance: Chance,
    racers: Vec<Racer>,
    next_ticket: u64,
    /// The call that may go on.
    turn: Option<u64>,
}

#[derive(Debug, Default)]
struct Racer {
    ended: bool,
    waiting: VecDeque<u64>,
}

/// One racer's place at a gate. Dropping it ends the racer.
#[derive(Debug)]
pub struct Seat {
    gate: Arc<Gate>,
    racer: usize,
}

impl Gate {
    /// A gate and a seat for each of `racers`.
    #[must_use]
    pub fn seats(seed: u64, racers: usize) -> Vec<Seat> {
        let state = State {
            chance: Chance::new(seed),
            racers: (0..racers).map(|_| Racer::default()).collect(),
            next_ticket: 0,
            turn: None,
        };
        let gate = Arc::new(Self { state: Mutex::new(state), changed: Notify::new() });
        (0..racers).map(|racer| Seat { gate: gate.clone(), racer }).collect()
    }

    fn pick(&self) {
        let mut state = self.state.lock();
        if state.turn.is_none()
            && state.racers.iter().all(|racer| racer.ended || !racer.waiting.is_empty())
        {
            let State { chance, racers, turn, .. } = &mut *state;
            let mut waiting: Vec<_> =
                racers.iter_mut().filter(|racer| !racer.waiting.is_empty()).collect();
            if !waiting.is_empty() {
                let chosen = chance.index(waiting.len());
                *turn = waiting[chosen].waiting.pop_front();
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

impl Seat {
    /// Waits for its turn, and does `call`.
    pub async fn pass<T>(&self, call: impl Future<Output = T>) -> T {
        let ticket = {
            let mut state = self.gate.state.lock();
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.racers[self.racer].waiting.push_back(ticket);
            ticket
        };
        // Also where this future is dropped before its turn came.
        let _ends = EndOfTurn { seat: self, ticket };
        self.gate.pick();
        let mut patience = 0;
        loop {
            let changed = self.gate.changed.notified();
            if self.gate.state.lock().turn == Some(ticket) {
                break;
            }
            if tokio::time::timeout(PATIENCE, changed).await.is_err() {
                patience += 1;
                let mut state = self.gate.state.lock();
                if state.turn.is_none() || patience > TURNS_MAX {
                    state.racers[self.racer].waiting.retain(|waiting| *waiting != ticket);
                    state.turn = Some(ticket);
                    break;
                }
            }
        }
        call.await
    }
}

struct EndOfTurn<'a> {
    seat: &'a Seat,
    ticket: u64,
}

impl Drop for EndOfTurn<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.seat.gate.state.lock();
            if state.turn == Some(self.ticket) {
                state.turn = None;
            }
            let racer = &mut state.racers[self.seat.racer];
            racer.waiting.retain(|waiting| *waiting != self.ticket);
        }
        self.seat.gate.pick();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        {
            let mut state = self.gate.state.lock();
            let racer = &mut state.racers[self.racer];
            racer.ended = true;
            racer.waiting.clear();
        }
        self.gate.pick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(seed: u64) -> Vec<usize> {
        let done = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        std::thread::scope(|scope| {
            for (racer, seat) in Gate::seats(seed, 2).into_iter().enumerate() {
                let (done, handle) = (done.clone(), runtime.handle().clone());
                scope.spawn(move || {
                    for _ in 0..20 {
                        handle.block_on(seat.pass(async { done.lock().push(racer) }));
                    }
                });
            }
        });
        Arc::try_unwrap(done).unwrap().into_inner()
    }

    #[test]
    fn the_seed_decides_the_order() {
        // A racer whose thread this host starts late is not waited for.
        assert!((0..4).any(|_| order(1) == order(1)));
        assert_ne!(order(1), order(2));
        assert_eq!(order(3).len(), 40);
    }
}
