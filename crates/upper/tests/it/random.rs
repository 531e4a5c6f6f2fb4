//! Hosts that come and go, a store that fails, in any order.
//!
//! What must hold, whatever happens: a guest runs upon an upper exactly as some run left it; upon the one of
//! the very last run where that was on this host or was stored in time; and never upon an older one
//! than a wake has had before, unless it is said.

use std::collections::HashMap;

use base::Epoch;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::FaultRates;
use upper::{Found, Saved, Standing, Upper};

use crate::support::{CHUNK, Host, World, noise};

/// Where guests write, and how much.
const PLACES: u64 = 6;
const MARK: usize = 64;

struct Run {
    host: usize,
    marks: Vec<u8>,
    /// Stored before anybody else began.
    stored: bool,
    ended: bool,
    /// The store was told that something is to come.
    announced: bool,
    /// Somebody began since, and got no further.
    void: bool,
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_a_guest_runs_upon_what_the_last_run_left_or_it_is_said() {
    for seed in 0..12 {
        one(seed).await;
    }
}

async fn one(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new();
    let mut hosts: Vec<Host> = (0..3).map(|_| world.host()).collect();
    let mut last: Option<Run> = None;
    let mut left: HashMap<Vec<u8>, Epoch> = HashMap::new();
    for step in 0..40 {
        let at = rng.random_range(0..hosts.len());
        let rates = FaultRates {
            unavailable: if rng.random_bool(0.3) { 0.2 } else { 0.0 },
            lost_reply: if rng.random_bool(0.3) { 0.2 } else { 0.0 },
            ..FaultRates::default()
        };
        hosts[at].store.set_rates(rates);
        match rng.random_range(0..10) {
            0..=4 => wake(&mut rng, &world, &hosts, at, &mut last, &mut left, (seed, step)).await,
            5..=7 => {
                let saved = hosts[at].save(&world).await;
                if let (Ok(Saved::Stored { .. } | Saved::Nothing), Some(last)) = (saved, &mut last)
                {
                    last.stored |= last.host == at && last.ended && !last.void;
                }
            }
            8 => {
                if let Standing::Stored { uncollected: Some(since) } =
                    Upper::standing(&hosts[at].files)
                {
                    hosts[at].upper.collect(since).await.ok();
                }
            }
            _ => {
                if let Some(last) = &mut last
                    && last.host == at
                {
                    last.host = usize::MAX;
                }
                hosts[at] = world.host();
            }
        }
    }
}

async fn wake(
    rng: &mut StdRng,
    world: &World,
    hosts: &[Host],
    at: usize,
    last: &mut Option<Run>,
    left: &mut HashMap<Vec<u8>, Epoch>,
    when: (u64, u32),
) {
    let host = &hosts[at];
    let epoch = world.claim();
    let Ok(begun) = host.begin(epoch).await else {
        last.iter_mut().for_each(|last| last.void = true);
        return;
    };
    let marks = marks(host);
    if begun.found != Found::Nowhere {
        assert!(left.contains_key(&marks), "{when:?}: nobody left this");
    }
    if let Some(last) = last {
        if last.host == at || last.stored {
            assert_eq!(marks, last.marks, "{when:?}: {begun:?}");
        }
        if marks != last.marks && last.announced {
            assert!(begun.behind.is_some(), "{when:?}: nothing is said of what is missing");
        }
    }
    if rng.random_bool(0.7) {
        let place = rng.random_range(0..PLACES) * CHUNK;
        host.write(place, &noise(rng.random(), MARK));
    }
    let marks = self::marks(host);
    left.insert(marks.clone(), epoch);
    let ended = rng.random_bool(0.8);
    let told = if ended { host.upper.leave(epoch).await.ok() } else { None };
    // What did not change is where it was.
    let same = last.as_ref().is_some_and(|last| last.stored && last.marks == marks);
    let stored = told == Some(false) && same;
    let announced = told == Some(true);
    *last = Some(Run { host: at, marks, stored, ended, announced, void: false });
}

/// What guests have written.
fn marks(host: &Host) -> Vec<u8> {
    (0..PLACES).flat_map(|place| host.read(place * CHUNK, MARK)).collect()
}
