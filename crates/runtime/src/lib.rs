//! Starts, watches and stops one instance of a machine.
//!
//! A [`Runtime`] knows how to make a kernel run; it knows no home, no HTTP and no catalog. The caller
//! (the keeper) owns the [`Instance`]: when it is dropped, or its process dies, the guest dies.
//!
//! # Invariants
//! - The guest reaches nothing of the host but the channels and disks of its [`Spec`].
//! - `stop`, `suspend` and `Drop` leave no process, no namespace, no socket and no nftables table behind; `suspend_warm` leaves
//!   them to the runtime, and goes with it.

mod limits;
mod qemu;

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Egress, ErrorKind, Ipv4Range, MachineId};
use guest_ring::GuestMemory;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use limits::ROOM_MIN;
pub use qemu::{Accelerator, Qemu, QemuSettings, THREADS, hold_this_process};

/// What an instance is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Whose instance it is; names its process, its namespace and its logs.
    pub machine: MachineId,
    /// Virtual CPUs; fractions are a share of one.
    pub vcpu: f64,
    /// Memory of the guest in MiB.
    pub memory_mib: u64,
    /// Uncompressed kernel.
    pub kernel: PathBuf,
    /// Initramfs that holds the agent.
    pub initrd: PathBuf,
    /// Root file system image, given to the guest read-only as its first disk.
    pub root_image: PathBuf,
    /// The machine's writable layer: an ext4 file system, its second disk.
    pub upper_image: PathBuf,
    /// What serves it in place of that file, where the file alone is not the whole disk.
    #[serde(skip)]
    pub upper_server: Option<DiskServer>,
    /// Words for the agent, appended to the kernel command line as `dormouse.KEY=VALUE`. Those for
    /// the network (`ip`, `gw`, `dns`) the runtime adds itself; given here, they win.
    pub agent_args: Vec<(String, String)>,
    /// Where its memory lies, and what is in it at first.
    #[serde(default)]
    pub memory: Memory,
    /// How it reaches the network.
    pub network: Network,
    /// What of the network it may reach.
    #[serde(default)]
    pub egress: EgressPolicy,
    /// What it is started for.
    #[serde(default)]
    pub purpose: Purpose,
    /// Where the guest's console and the hypervisor's messages go; bounded by the runtime.
    pub log_dir: PathBuf,
}

/// Serves a disk over connections that speak the network block device protocol.
pub trait ServesDisk: Send + Sync + std::fmt::Debug {
    /// A new connection, of which this is the instance's end. Any before it is over: no two instances have one disk.
    ///
    /// # Errors
    /// Those of the system.
    fn connect(&self) -> std::io::Result<UnixStream>;
    /// Bytes of the file, at most, that came from elsewhere and that no guest has written.
    fn fetched_bytes(&self) -> u64 {
        0
    }
}

/// What serves a disk. The same is equal, and nothing else.
#[derive(Debug, Clone)]
pub struct DiskServer(pub Arc<dyn ServesDisk>);

impl PartialEq for DiskServer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Says how large something is, in bytes, whenever it is asked; at once.
#[derive(Clone)]
pub struct Measure(pub Arc<dyn Fn() -> u64 + Send + Sync>);

impl std::fmt::Debug for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", (self.0)())
    }
}

/// What an instance is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To be somebody's machine.
    #[default]
    Machine,
    /// To be saved as soon as it is up, and to become many machines. Its network leads nowhere, and it is
    /// given little time where the host is busy; the guest sees what a machine's would.
    Template,
}

/// Where the memory of a guest lies.
///
/// Memory goes with the disk and the home that it knew when it was saved, and with nothing else: whoever
/// brings it back must know that neither went on without it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// Nowhere: it ends with the instance.
    #[default]
    Anonymous,
    /// In this file, empty at first. The instance can be [suspended](Instance::suspend).
    File(PathBuf),
    /// In this file, as [`Instance::suspend`] left it: the guest goes on and does not boot. The rest of the
    /// [`Spec`] has to be the same. The files are changed by that, so it can be done once.
    Saved {
        /// The memory.
        file: PathBuf,
        /// The state of the devices.
        state: PathBuf,
    },
}

impl Memory {
    /// The file that it lies in.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Anonymous => None,
            Self::File(file) | Self::Saved { file, .. } => Some(file),
        }
    }
}

/// How an instance reaches the network. Inbound is always closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Its own namespace, public addresses only. Needs root.
    #[default]
    Isolated,
    /// User-mode networking without a namespace: the guest can reach services of the host.
    User,
    /// None at all.
    None,
}

/// What an instance whose network is [isolated](Network::Isolated) may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EgressPolicy {
    /// What its owner allows; can be changed while it runs.
    pub allowed: Egress,
    /// Private ranges that policies may name at all.
    pub private_ranges: Vec<Ipv4Range>,
}

/// A running instance.
#[derive(Debug)]
pub struct Started {
    /// Its handle.
    pub instance: Box<dyn Instance>,
    /// The control channel (`dormouse.ctl`), connected; non-blocking is up to the caller.
    pub control: UnixStream,
    /// The FUSE channel (`dormouse.fuse`), connected.
    pub fuse: UnixStream,
    /// The guest's memory, where it lies in a file: for a ring beside the FUSE channel.
    pub memory: Option<GuestMemory>,
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered off or rebooted.
    PoweredOff,
    /// It was [suspended](Instance::suspend), and goes on from its files.
    Suspended,
    /// The hypervisor died; what it said last.
    Crashed(String),
}

/// A saved guest that is loaded and does not run. When it is dropped it never will, nothing of it is left, and
/// its files are as they were.
#[async_trait]
pub trait Loaded: Send + Sync + std::fmt::Debug {
    /// False where it has ended since, and can be loaded again: it was there for some time before it was.
    fn is_there(&self) -> bool {
        true
    }
    /// Lets it run. Its memory is used up then.
    ///
    /// # Errors
    /// `Resume`, and whether it ran is not known; `Start`, and it did not.
    async fn go_on(self: Box<Self>) -> Result<Started, Error>;
}

/// One run of a machine.
#[async_trait]
pub trait Instance: Send + Sync + std::fmt::Debug {
    /// The hypervisor's process.
    fn pid(&self) -> u32;
    /// Returns once the instance has ended. May be called again.
    async fn wait(&self) -> Exit;
    /// Waits `grace` for the guest to power off by itself, then kills it. Idempotent.
    async fn stop(&self, grace: Duration) -> Exit;
    /// Stops the guest where it stands and writes what it takes to go on to its memory's file and, the
    /// devices, to a new file at `state`. When this returns, both are on the disk and the hypervisor
    /// is gone. The channels have to be quiet: what is on its way in them is lost.
    ///
    /// # Errors
    /// `NotSuspended`, and the guest goes on; `Suspend`, and it is gone, as in a loss of power. An
    /// instance whose memory is [anonymous](Memory::Anonymous) is never suspended.
    async fn suspend(&self, state: &Path) -> Result<(), Error>;
    /// The same, but where it can the hypervisor stays, for the [runtime](Runtime::warm) that started it to have it go
    /// on when the same is loaded again. True where it did: the instance has ended all the same, as one that was suspended.
    /// What serves its channels may leave, but not close them, and sends nothing more.
    ///
    /// # Errors
    /// As [`Instance::suspend`].
    async fn suspend_warm(&self, state: &Path) -> Result<bool, Error> {
        self.suspend(state).await.map(|()| false)
    }
    /// Has another egress policy in force when this returns, for connections that are open too. The guest goes on.
    ///
    /// # Errors
    /// `Egress`: the old policy is in force, or nothing is let out that either refuses. Can be repeated.
    async fn set_egress(&self, egress: &Egress) -> Result<(), Error>;
    /// Gives the guest another share of CPU time, in force when this returns; it goes on, with as many virtual CPUs as
    /// it booted with, which is the most that it can use. Can be repeated.
    ///
    /// # Errors
    /// `Shares`: it has the old share, or the smaller of both.
    async fn set_vcpu(&self, vcpu: f64) -> Result<(), Error>;
    /// Counts what of the machine grows beside its upper. The more that and the upper have grown since the guest began to run, the
    /// more has to be free on its host's disk for it to go on: others run on where one has filled the disk.
    fn count_beside(&self, _measure: Measure) {}
    /// Tells that it is going to be stopped, for which it has to run: it waits for no more room than one that has not grown.
    fn expect_stop(&self) {}
    /// Whether the guest does not run since the disk that it grows on has no room; changes are heard of. It goes on by
    /// itself, with all that it was doing, once there is some.
    fn waits_for_room(&self) -> watch::Receiver<bool> {
        watch::Sender::new(false).subscribe()
    }
    /// The last lines of the guest's console, for an error message.
    fn console_tail(&self) -> String;
}

/// A way to run machines.
#[async_trait]
pub trait Runtime: Send + Sync + std::fmt::Debug {
    /// Starts an instance.
    async fn start(&self, spec: &Spec) -> Result<Started, Error>;
    /// Does all of a start from [saved memory](Memory::Saved) but letting the guest run: most of the time
    /// that a start takes goes into this, and it can be spent before it is known whether the guest may.
    ///
    /// # Errors
    /// `Spec` where the memory is not a saved one; else as [`Runtime::start`].
    async fn load(&self, spec: &Spec) -> Result<Box<dyn Loaded>, Error>;
    /// Whether a [suspended](Instance::suspend_warm) guest is still loaded here.
    fn warm(&self) -> bool {
        false
    }
    /// Ends it, if there is one: it can be loaded from its files still. Blocks for some 50 ms.
    fn end_warm(&self) {}
    /// What is missing on this host; empty where everything is there.
    fn missing(&self) -> Vec<Missing>;
    /// What an instance of `spec` runs on, by name. Saved memory goes on only where all of it is the same.
    fn fingerprint(&self, spec: &Spec) -> BTreeMap<String, String>;
    /// The same in words that mean the same on every host; none where memory is this host's own. Blocks for 40 ms the
    /// first time, where the clock is measured.
    fn portable_fingerprint(&self, spec: &Spec) -> BTreeMap<String, String> {
        let _ = spec;
        BTreeMap::new()
    }
    /// What keeps memory that was saved on one from going on upon the other: a name of two such fingerprints.
    fn other(
        &self,
        one: &BTreeMap<String, String>,
        two: &BTreeMap<String, String>,
    ) -> Option<String> {
        one.keys().chain(two.keys()).find(|name| one.get(*name) != two.get(*name)).cloned()
    }
    /// What an instance of `spec` boots with beside the files that the spec names. What it reads of that it knows for
    /// as long as it goes on.
    fn boot_fingerprint(&self, spec: &Spec) -> String {
        let _ = spec;
        String::new()
    }
}

/// Something a runtime needs and does not find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What.
    pub what: String,
    /// The command or step that mends it.
    pub mend: String,
}

/// A failed start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program, file or right is missing.
    #[error("{what}; {mend}")]
    Missing {
        /// What is missing.
        what: String,
        /// What to do.
        mend: String,
    },
    /// A [`Spec`] that cannot run anywhere.
    #[error("not possible: {0}")]
    Spec(String),
    /// The hypervisor did not come up.
    #[error("start the hypervisor: {0}")]
    Start(String),
    /// What was [suspended](Instance::suspend) does not come back. A boot does.
    #[error("go on from saved memory: {0}")]
    Resume(String),
    /// It runs on.
    #[error("the guest was not suspended and runs on: {0}")]
    NotSuspended(String),
    /// Its egress policy is not the one that was asked for.
    #[error("change the egress policy: {0}")]
    Egress(String),
    /// It does not have the share of CPU time that was asked for.
    #[error("change the share of CPU time: {0}")]
    Shares(String),
    /// It has ended without being saved.
    #[error("suspend the guest: {0}")]
    Suspend(String),
}

impl Error {
    /// What a caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } => ErrorKind::Unavailable,
            Self::Spec(_) => ErrorKind::InvalidArgument,
            Self::Start(_) | Self::Resume(_) | Self::Suspend(_) => ErrorKind::Unreachable,
            Self::NotSuspended(_) | Self::Egress(_) | Self::Shares(_) => ErrorKind::Unavailable,
        }
    }
}
