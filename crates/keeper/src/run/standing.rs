//! What a keeper says of itself at any time.

use std::sync::Arc;

use base::Timestamp;
use homefs::HomeFs;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::room;
use crate::executions::runner::Runner;
use crate::server::{Policy, SizesInForce};
use crate::{KeeperState, Status};

/// What `GET /status` is made from.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) state: KeeperState,
    pub(super) since: Timestamp,
    pub(super) opened: String,
    pub(super) woken: String,
    pub(super) upper_behind: Option<String>,
    pub(super) keeps_memory: bool,
    /// The home, until it is open.
    pub(super) opening: homefs::Opening,
    pub(super) restoring: ::upper::Progress,
    /// Chunks of the upper, which come while the guest runs.
    pub(super) coming: ::upper::Progress,
    /// The upper, where chunks of it are missing.
    pub(super) disk: Option<::upper::LazyDisk>,
    /// What the guest said before it was put to sleep.
    pub(super) wake_at: Option<Timestamp>,
    /// How long the guest was paused to be saved, once it was.
    pub(super) paused_ms: Option<u64>,
    pub(super) egress: Arc<Policy>,
    pub(super) sizes: Arc<SizesInForce>,
    pub(super) home: Option<Arc<HomeFs>>,
    pub(super) runner: Option<Arc<Runner>>,
    /// Whether the guest waits for room on this host's disk, once there is one.
    pub(super) waits_for_room: Option<watch::Receiver<bool>>,
}

/// Asked for each `GET /status`.
pub(super) fn status_of(standing: Arc<Mutex<Standing>>) -> Box<dyn Fn() -> Status + Send + Sync> {
    Box::new(move || {
        let standing = standing.lock();
        let home = standing.home.as_ref().map(|home| home.status());
        let is_opening = home.is_none() && standing.state == KeeperState::Starting;
        Status {
            state: standing.state,
            pid: std::process::id(),
            since: standing.since,
            epoch: home.as_ref().map(|home| home.epoch).unwrap_or_default(),
            opened: standing.opened.clone(),
            woken: standing.woken.clone(),
            upper_behind: standing.upper_behind.clone(),
            opening_home: is_opening.then(|| standing.opening.done()),
            restoring: standing.restoring.bytes(),
            upper_coming: standing.coming.bytes(),
            waits_for_room: standing.waits_for_room.as_ref().is_some_and(room::says_so),
            keeps_memory: standing.keeps_memory && standing.sizes.guest_fits(),
            upper_trouble: standing.disk.as_ref().and_then(::upper::LazyDisk::trouble),
            egress: standing.egress.in_force(),
            sizes: Some(standing.sizes.in_force()),
            home_seq: home.as_ref().map_or(0, |home| home.seq),
            unreplicated_bytes: home.as_ref().map_or(0, |home| home.unreplicated_bytes),
            unreplicated_ops: home.as_ref().map_or(0, |home| home.unreplicated_ops),
            back_pressure: back_pressure(home.as_ref()).to_owned(),
            rounds: home.as_ref().map_or(0, |home| home.rounds),
            rounds_failed: home.as_ref().map_or(0, |home| home.rounds_failed),
            journal_bytes: home.as_ref().map_or(0, |home| home.journal_bytes),
            replication_error: home.and_then(|home| home.replication_error),
            executions_live: standing.runner.as_ref().map_or(0, |runner| runner.live_count()),
            last_activity: standing.runner.as_ref().and_then(|runner| runner.last_ended()),
        }
    })
}

fn back_pressure(home: Option<&homefs::HomeStatus>) -> &'static str {
    match home.map(|home| home.back_pressure).unwrap_or_default() {
        homefs::BackPressure::None => "none",
        homefs::BackPressure::Slowed => "slowed",
        homefs::BackPressure::Waiting => "waiting",
    }
}
