//! What the binary decides.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Entropy, Ipv4Range, ServerId};
use objstore::ObjectStore;

use crate::homes::Homes;
use crate::host::Host;

/// What a machine gets where its creator names nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// Virtual CPUs, in quarter steps.
    pub vcpu: f64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size of the home in GiB.
    pub storage_gib: u64,
    /// Seconds of idleness before sleep; 0 never.
    pub autosleep_seconds: u64,
    /// Image name.
    pub image: String,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            vcpu: 1.0,
            memory_mib: 1024,
            storage_gib: 10,
            autosleep_seconds: 300,
            image: "base".to_owned(),
        }
    }
}

/// What is granted at most.
#[derive(Debug, Clone, PartialEq)]
pub struct SizeLimits {
    /// Virtual CPUs.
    pub vcpu_max: f64,
    /// Memory in MiB.
    pub memory_mib_max: u64,
    /// Size of a home in GiB.
    pub storage_gib_max: u64,
    /// Machines of this server.
    pub machines_max: u64,
    /// Private ranges that egress policies may name.
    pub private_ranges: Vec<Ipv4Range>,
    /// False where machines share a network that no policy can be enforced on.
    pub egress_enforced: bool,
}

impl Default for SizeLimits {
    fn default() -> Self {
        Self {
            vcpu_max: 32.0,
            memory_mib_max: 129_024,
            storage_gib_max: 16_384,
            machines_max: 200_000,
            private_ranges: Vec::new(),
            egress_enforced: true,
        }
    }
}

/// How often and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// A keeper that is not ready after this long has failed.
    pub start_max: Duration,
    /// A keeper that has not stopped after this long has failed to sleep.
    pub stop_max: Duration,
    /// First wait after a failed step that may work later; doubles up to [`Self::backoff_max`].
    pub backoff_min: Duration,
    /// Longest wait between two tries.
    pub backoff_max: Duration,
    /// Tries of one step before the machine is `failed`.
    pub tries_max: u32,
    /// How often idle machines are looked for.
    pub idle_every: Duration,
    /// How long a machine that is in use may take to come to be idle, to be kept whole.
    pub idle_wait: Duration,
    /// How often the object store is asked whether it is there.
    pub probe_every: Duration,
    /// How often sleeping homes are looked at for garbage.
    pub housekeep_every: Duration,
    /// How long a state of an upper is the newest in the store before what it does not need is deleted, and how long
    /// after something that was kept of it was let go of.
    /// Not less than a quarter of an hour: another host may have begun to read the one before.
    pub collect_upper_after: Duration,
    /// How long a machine has slept before its memory is stored; `None`: it never is. Some tens of MiB for each
    /// sleep, which one that wakes every minute is spared.
    pub store_memory_after: Option<Duration>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            start_max: Duration::from_secs(180),
            stop_max: Duration::from_secs(300),
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(15),
            tries_max: 5,
            idle_every: Duration::from_secs(2),
            idle_wait: Duration::from_secs(3),
            probe_every: Duration::from_secs(5),
            housekeep_every: Duration::from_secs(900),
            collect_upper_after: Duration::from_secs(900),
            store_memory_after: Some(Duration::from_secs(60)),
        }
    }
}

/// What the binary decides.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data directory; locked for the life of the [`Control`](crate::Control).
    pub data_dir: PathBuf,
    /// Which server this is.
    pub server_id: ServerId,
    /// This program's version, for the health report.
    pub version: String,
    /// Sizes where the caller names none.
    pub defaults: Defaults,
    /// Sizes at most.
    pub limits: SizeLimits,
    /// How often and how long.
    pub timing: Timing,
}

impl Settings {
    /// Defaults for everything but the place and the name.
    #[must_use]
    pub fn new(data_dir: PathBuf, server_id: ServerId) -> Self {
        Self {
            data_dir,
            server_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            defaults: Defaults::default(),
            limits: SizeLimits::default(),
            timing: Timing::default(),
        }
    }
}

/// What the application layer stands on.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where homes and machine records live.
    pub store: Arc<dyn ObjectStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// What runs machines.
    pub host: Arc<dyn Host>,
    /// What opens sleeping homes.
    pub homes: Arc<dyn Homes>,
}
