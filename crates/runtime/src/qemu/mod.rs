//! QEMU as a runtime: the `microvm` machine, virtio over MMIO, KVM where it works and TCG elsewhere.
//!
//! Starting an instance ([`start`]), in order: check the spec; measure the TSC beside everything else; claim a
//! slot on this host ([`slot`]: a number that gives user id, address and interface name); make the
//! network namespace ([`place`]); open the files; spawn QEMU from a thread of its own ([`supervise`]),
//! which then keeps its logs, waits for its end and takes down what was made for it. The namespace is
//! connected to the world meanwhile. A guest that was suspended goes on once both are done ([`memory`]),
//! and its owner wants it to.
//! Whatever fails on the way, dropping what was made so far undoes it.
//!
//! # Who can do what
//! - As root, QEMU runs as a user id of its own, without capabilities, in its seccomp sandbox, held to its
//!   share of CPU time, memory and threads ([`cgroup`]), in a file system that holds its program and nothing of
//!   ours ([`jail`]). It opens no path that belongs to the machine: disks and channels are descriptors it inherits.
//! - Without root it runs as our user, and [`Network::Isolated`] means no network.
//! - It dies with the process that started it (`PR_SET_PDEATHSIG`); its namespace, held by nobody
//!   else, goes with it. What then remains (slot, nftables table) the next start sweeps.
//!
//! # Limits of this version
//! The guest sees whole CPUs, a fraction rounded up, and gets its share of their time; under TCG every
//! instance has exactly one, since on few host CPUs a second slows the home down several times.

mod accel;
mod cgroup;
mod command_line;
mod fingerprint;
#[cfg(test)]
mod fuzz;
mod hypervisor;
mod instance;
mod jail;
mod log;
mod memory;
mod network;
mod place;
mod qmp;
mod room;
mod slot;
mod spawn;
mod start;
mod supervise;
mod tsc;
mod warm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

pub use self::accel::Accelerator;
pub use self::cgroup::serving::hold_this_process;
use self::slot::Registry;
use self::warm::Shelf;
use crate::{Error, Loaded, Memory, Missing, Runtime, Spec, Started};

/// Debian's command for what this runtime runs.
const INSTALL: &str = "apt-get install --no-install-recommends qemu-system-x86 iproute2 nftables";

/// Where programs are looked for.
const PROGRAM_DIRS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What threads are called that an instance has for as long as its hypervisor lives.
pub const THREADS: [&str; 2] = [SUPERVISOR, EGRESS];

const SUPERVISOR: &str = "qemu";
const EGRESS: &str = "egress";

/// How to run QEMU.
#[derive(Debug, Clone)]
pub struct QemuSettings {
    /// The program; looked up in the usual folders where it is a plain name.
    pub program: PathBuf,
    /// What runs the guest's instructions; `None` finds out.
    pub accelerator: Option<Accelerator>,
}

impl Default for QemuSettings {
    fn default() -> Self {
        Self { program: "qemu-system-x86_64".into(), accelerator: None }
    }
}

/// Runs machines under QEMU.
#[derive(Debug)]
pub struct Qemu {
    settings: QemuSettings,
    shelf: Shelf,
}

impl Qemu {
    /// A runtime; touches nothing yet.
    #[must_use]
    pub fn new(settings: QemuSettings) -> Self {
        Self { settings, shelf: Shelf::default() }
    }

    /// What runs the guest's instructions on this host.
    #[must_use]
    pub fn accelerator(&self) -> Accelerator {
        self.settings.accelerator.unwrap_or_else(accel::detect)
    }

    /// Whether machines are held to their shares of CPU and memory on this host.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn holds_to_shares(&self) -> Result<(), String> {
        if is_root() {
            cgroup::probe().map_err(|error| format!("no control groups: {error}"))
        } else {
            Err("control groups need root".to_owned())
        }
    }

    /// Whether hypervisors see none of this host's files but what they run from.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn jails(&self) -> Result<(), String> {
        if is_root() { jail::possible() } else { Err("namespaces need root".to_owned()) }
    }

    /// Whether hypervisors run each as a user of its own.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn has_own_users(&self) -> Result<(), String> {
        match (is_root(), slot::has_own_users()) {
            (true, true) => Ok(()),
            (true, false) => Err("the user namespace has no ids for them".to_owned()),
            (false, _) => Err("to change the user needs root".to_owned()),
        }
    }

    /// Takes down what killed keepers left on this host. Every start does so too; this is for whoever
    /// has just killed one, or looks after a host where nothing starts. Blocks for some 50 ms; up to 200 ms
    /// more while a killed one's processes are still ending, without keeping others from starting.
    ///
    /// # Errors
    /// [`Error::Start`], with nothing lost: the next start tries again.
    pub fn sweep(&self) -> Result<(), Error> {
        if is_root() && find_program("nft".as_ref()).is_some() {
            Registry::host()?.clean()
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Runtime for Qemu {
    async fn start(&self, spec: &Spec) -> Result<Started, Error> {
        let (spec, settings, accelerator) =
            (spec.clone(), self.settings.clone(), self.accelerator());
        let shelf = self.shelf.clone();
        blocking(move || {
            drop(shelf.take());
            start::begin(&spec, &settings, accelerator, &shelf)?.go_on()
        })
        .await
    }

    async fn load(&self, spec: &Spec) -> Result<Box<dyn Loaded>, Error> {
        if !matches!(spec.memory, Memory::Saved { .. }) {
            return Err(Error::Spec("only saved memory can be loaded".to_owned()));
        }
        let (spec, settings, accelerator) =
            (spec.clone(), self.settings.clone(), self.accelerator());
        let shelf = self.shelf.clone();
        blocking(move || {
            if let Some(mut warm) = shelf.take() {
                match warm.ready(&spec) {
                    Ok(()) => return Ok(Box::new(warm) as Box<dyn Loaded>),
                    Err(why) => tracing::info!(why, "the guest that stayed warm is not used"),
                }
            }
            let begun = start::begin(&spec, &settings, accelerator, &shelf)?;
            Ok(Box::new(begun) as Box<dyn Loaded>)
        })
        .await
    }

    fn warm(&self) -> bool {
        self.shelf.is_taken()
    }

    fn end_warm(&self) {
        drop(self.shelf.take());
    }

    fn missing(&self) -> Vec<Missing> {
        let programs = [self.settings.program.as_path(), Path::new("ip"), Path::new("nft")];
        let needed = if is_root() { &programs[..] } else { &programs[..1] };
        needed
            .iter()
            .filter(|program| find_program(program).is_none())
            .map(|program| Missing {
                what: format!("the program {}", program.display()),
                mend: INSTALL.to_owned(),
            })
            .collect()
    }

    fn fingerprint(&self, spec: &Spec) -> BTreeMap<String, String> {
        let program = find_program(&self.settings.program);
        fingerprint::of(spec, program.as_deref(), self.accelerator())
    }

    fn portable_fingerprint(&self, spec: &Spec) -> BTreeMap<String, String> {
        let program = find_program(&self.settings.program);
        fingerprint::portable(spec, program.as_deref(), self.accelerator(), tsc::khz())
    }

    fn other(
        &self,
        one: &BTreeMap<String, String>,
        two: &BTreeMap<String, String>,
    ) -> Option<String> {
        fingerprint::other(one, two)
    }

    fn boot_fingerprint(&self, spec: &Spec) -> String {
        fingerprint::of_boot(spec, self.accelerator())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Start(error.to_string()))?
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Where `program` is. Not by `PATH`: that belongs to whoever started us, and we may be root.
fn find_program(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    PROGRAM_DIRS.iter().map(|dir| Path::new(dir).join(program)).find(|found| found.is_file())
}

/// An [`Error::Start`] that says what was being done.
fn start_error(doing: &str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Start(format!("{doing}: {error}"))
}
