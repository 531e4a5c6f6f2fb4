//! A host: a server's identity, a clock, a disk, and the processes on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock as _, ServerId};
use homefs::{Draft, HomeFs, HomeSettings, Snapshot};
use testkit::HandClock;

use super::World;
use crate::chance::{Chance, uuid};
use crate::store::Wire;
use crate::tree::Tree;

/// A host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) server: ServerId,
    pub(super) clock: Arc<HandClock>,
    pub(super) writers: BTreeMap<usize, Writer>,
    pub(super) drafts: BTreeMap<usize, Sketch>,
    pub(super) readers: BTreeMap<usize, Reader>,
    /// What the disk holds of homes that were written here, by home.
    pub(super) locals: BTreeMap<usize, Local>,
}

/// A process that has a home open for writing.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) fs: Arc<HomeFs>,
    pub(super) wire: Arc<Wire>,
    /// Which claim it made.
    pub(super) claim: u64,
    /// Changed since the last confirmed sync.
    pub(super) dirty: bool,
}

/// What a disk holds of a home.
#[derive(Debug, Clone)]
pub(super) struct Local {
    /// Every act that was acknowledged by the writer here.
    pub(super) tree: Tree,
    /// The claim of that writer.
    pub(super) claim: u64,
}

/// An unpublished draft; the process may be dead.
#[derive(Debug)]
pub(super) struct Sketch {
    pub(super) open: Option<(Draft, Arc<Wire>)>,
    pub(super) tree: Tree,
    /// What it began with.
    pub(super) base: Tree,
    /// Certain claims when it began, where the home rested then.
    pub(super) begun: Option<u64>,
    /// Certain claims when a publication came into doubt.
    pub(super) in_doubt: Option<u64>,
}

/// A process that reads the published state.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) fs: Snapshot,
    pub(super) wire: Arc<Wire>,
    pub(super) shows: Tree,
    /// When it last looked for a newer commit, by the host's monotonic clock.
    pub(super) at: Duration,
}

impl Host {
    pub(super) fn new(seed: u64, n: usize, steady: bool, chance: &mut Chance) -> Self {
        let server = format!("srv-{}", uuid(&[b"srv", &seed.to_le_bytes(), &n.to_le_bytes()]));
        let clock = HandClock::default();
        if !steady {
            // Up to an hour before or after the others.
            let shown = clock.now() + Duration::from_secs(chance.below(7_200));
            clock.jump_to(shown - Duration::from_secs(3_600));
        }
        Self {
            server: server.parse().expect("it is an id"),
            clock: Arc::new(clock),
            writers: BTreeMap::new(),
            drafts: BTreeMap::new(),
            readers: BTreeMap::new(),
            locals: BTreeMap::new(),
        }
    }
}

impl World {
    /// The directory of `what` of a home on a host.
    pub(super) fn place(&self, host: usize, home: usize, what: &str) -> PathBuf {
        self.dir.path().join(format!("host-{host}/home-{home}/{what}"))
    }

    pub(super) fn settings(&self, host: usize, home: usize, what: &str) -> HomeSettings {
        HomeSettings {
            bytes_max: 1 << 40,
            // Rounds happen where a step asks for them.
            replicate_after: Duration::from_secs(86_400),
            ..HomeSettings::new(
                self.homes[home].0.clone(),
                self.place(host, home, what),
                self.hosts[host].server.clone(),
            )
        }
    }
}
