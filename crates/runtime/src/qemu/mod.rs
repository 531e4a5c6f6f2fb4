//! QEMU as a runtime: the `microvm` machine, virtio over MMIO, KVM where it works and TCG elsewhere.
//!
//! Starting an instance, in order: check the spec; measure the TSC beside everything else; claim a
//! slot on this host ([`slot`]: a number that gives user id, address and interface name); make the
//! network namespace ([`place`]); open the files; spawn QEMU from a thread of its own ([`supervise`]),
//! which then keeps its logs, waits for its end and takes down what was made for it. The namespace is
//! connected to the world meanwhile. A guest that was suspended goes on once both are done ([`memory`]).
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
mod jail;
mod log;
mod memory;
mod network;
mod place;
mod qmp;
mod slot;
mod spawn;
mod supervise;
mod tsc;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

pub use self::accel::Accelerator;
use self::cgroup::Shares;
use self::command_line::{Descriptors, arguments};
use self::jail::Jail;
use self::place::Place;
use self::slot::Registry;
use self::spawn::Confinement;
use self::supervise::{Process, QemuInstance};
use crate::limits::{MEMORY_MIB_MAX, MEMORY_MIB_MIN, VCPU_MAX};
use crate::{Error, Memory, Missing, Network, Runtime, Spec, Started};

/// Debian's command for what this runtime runs.
const INSTALL: &str = "apt-get install --no-install-recommends qemu-system-x86 iproute2 nftables";

/// Where programs are looked for.
const PROGRAM_DIRS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

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
}

impl Qemu {
    /// A runtime; touches nothing yet.
    #[must_use]
    pub fn new(settings: QemuSettings) -> Self {
        Self { settings }
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
        tokio::task::spawn_blocking(move || start(&spec, &settings, accelerator))
            .await
            .map_err(|error| Error::Start(error.to_string()))?
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
}

/// Everything of a start that blocks. The network is connected (`ip` and `nft`, some 50 ms) while QEMU
/// begins: its namespace is there before it, and leads nowhere until the rules are in place.
fn start(spec: &Spec, settings: &QemuSettings, accelerator: Accelerator) -> Result<Started, Error> {
    check(spec)?;
    let program = find_program(&settings.program).ok_or_else(|| Error::Missing {
        what: format!("{} is not installed", settings.program.display()),
        mend: INSTALL.to_owned(),
    })?;
    // Where the kernel finds it, and it its firmware, whatever links lead there.
    let program = fs::canonicalize(program).map_err(start_error("find the hypervisor"))?;
    fs::create_dir_all(&spec.log_dir).map_err(start_error("create the log folder"))?;
    let saved = matches!(spec.memory, Memory::Saved { .. });
    let tsc = (!saved).then(|| std::thread::spawn(tsc::khz));

    let place = Arc::new(Place::claim(spec, &Shares::of(spec, accelerator))?);
    let user = place.user_id();
    let user_network = place.link.is_some() || spec.network == Network::User;
    let files = Files::open(spec, user)?;
    let tsc_khz = tsc.map(std::thread::JoinHandle::join).transpose();
    let tsc_khz = tsc_khz.map_err(|_| Error::Start("measure the TSC".to_owned()))?;
    let arguments =
        arguments(spec, accelerator, user_network, tsc_khz, &files.inherited.numbers())?;
    let doors = place.doors()?;
    let jail = match jail::possible() {
        Ok(()) if user.is_some() => Some(
            Jail::of(&program, &accelerator.devices()).map_err(start_error("prepare its jail"))?,
        ),
        possible => {
            let why = possible.err().unwrap_or_default();
            tracing::warn!(machine = %spec.machine, why, "the hypervisor is not jailed");
            None
        }
    };
    let confinement = Confinement {
        user,
        groups: accelerator.groups(),
        keep_open: files.inherited.all(),
        enter: doors.iter().map(AsRawFd::as_raw_fd).collect(),
        jail,
    };
    tracing::debug!(machine = %spec.machine, ?accelerator, tsc_khz, ?arguments, "start qemu");
    let Files { inherited, control, fuse, console, monitor, incoming } = files;
    let suspending = monitor.zip(spec.memory.file().map(Path::to_owned));
    let process = Process { program, arguments, confinement, place: place.clone() };
    let (instance, connected) = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| place.connect());
        let instance = QemuInstance::spawn(process, console, &spec.log_dir, suspending);
        // Only now: QEMU has its own copies.
        drop((inherited, doors));
        let loaded = instance.and_then(|instance| {
            let waiting =
                incoming.map(|(monitor, state)| memory::load(monitor, &state)).transpose()?;
            Ok((instance, waiting))
        });
        (loaded, connecting.join())
    });
    let (instance, waiting) = instance?;
    connected.map_err(|_| Error::Start("connect the network".to_owned()))??;
    if let Some(waiting) = waiting {
        waiting.go_on()?;
    }
    Ok(Started { instance: Box::new(instance), control, fuse })
}

/// Refuses what cannot run, before anything is made.
fn check(spec: &Spec) -> Result<(), Error> {
    if !(MEMORY_MIB_MIN..=MEMORY_MIB_MAX).contains(&spec.memory_mib) {
        return Err(Error::Spec(format!(
            "{} MiB of memory; between {MEMORY_MIB_MIN} and {MEMORY_MIB_MAX} are possible",
            spec.memory_mib
        )));
    }
    if !(spec.vcpu > 0.0 && spec.vcpu <= VCPU_MAX) {
        return Err(Error::Spec(format!("{} CPUs; up to {VCPU_MAX} are possible", spec.vcpu)));
    }
    for (what, path) in [
        ("the kernel", &spec.kernel),
        ("the initramfs", &spec.initrd),
        ("the root image", &spec.root_image),
    ] {
        if !path.is_file() {
            let what = format!("{what} {} is not there", path.display());
            let mend = "run `cargo xtask setup`, or `dormouse doctor` to see more".to_owned();
            return Err(Error::Missing { what, mend });
        }
    }
    Ok(())
}

/// Files and channels of an instance: QEMU's ends, and ours.
#[derive(Debug)]
struct Files {
    inherited: Inherited,
    control: UnixStream,
    fuse: UnixStream,
    console: UnixStream,
    /// Where the memory is in a file.
    monitor: Option<UnixStream>,
    /// Where it is a saved one, with the device state.
    incoming: Option<(UnixStream, File)>,
}

/// What QEMU inherits.
#[derive(Debug)]
struct Inherited {
    kernel: OwnedFd,
    initrd: OwnedFd,
    root: OwnedFd,
    upper: OwnedFd,
    control: OwnedFd,
    fuse: OwnedFd,
    console: OwnedFd,
    memory: Option<OwnedFd>,
    monitor: Option<OwnedFd>,
    incoming: Option<OwnedFd>,
}

impl Files {
    fn open(spec: &Spec, user: Option<u32>) -> Result<Self, Error> {
        let read = |path: &Path| {
            File::open(path).map(OwnedFd::from).map_err(start_error(&format!("open {path:?}")))
        };
        let upper = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&spec.upper_image)
            .map_err(start_error(&format!("open {:?}", spec.upper_image)))?;
        let pair = || UnixStream::pair().map_err(start_error("create a channel"));
        let ((control, control_end), (fuse, fuse_end), (console, console_end)) =
            (pair()?, pair()?, pair()?);
        let state = memory::open_state(&spec.memory)?;
        let memory = memory::open(&spec.memory, spec.memory_mib, user)?;
        let (monitor, monitor_end) = memory.as_ref().map(|_| pair()).transpose()?.unzip();
        let (incoming, incoming_end) = state.as_ref().map(|_| pair()).transpose()?.unzip();
        let inherited = Inherited {
            kernel: read(&spec.kernel)?,
            initrd: read(&spec.initrd)?,
            root: read(&spec.root_image)?,
            upper: upper.into(),
            control: control_end.into(),
            fuse: fuse_end.into(),
            console: console_end.into(),
            memory: memory.map(OwnedFd::from),
            monitor: monitor_end.map(OwnedFd::from),
            incoming: incoming_end.map(OwnedFd::from),
        };
        let incoming = incoming.zip(state);
        Ok(Self { inherited, control, fuse, console, monitor, incoming })
    }
}

impl Inherited {
    fn numbers(&self) -> Descriptors {
        Descriptors {
            kernel: self.kernel.as_raw_fd(),
            initrd: self.initrd.as_raw_fd(),
            root: self.root.as_raw_fd(),
            upper: self.upper.as_raw_fd(),
            control: self.control.as_raw_fd(),
            fuse: self.fuse.as_raw_fd(),
            console: self.console.as_raw_fd(),
            memory: self.memory.as_ref().map(AsRawFd::as_raw_fd),
            monitor: self.monitor.as_ref().map(AsRawFd::as_raw_fd),
            incoming: self.incoming.as_ref().map(AsRawFd::as_raw_fd),
        }
    }

    fn all(&self) -> Vec<i32> {
        let n = self.numbers();
        let always = [n.kernel, n.initrd, n.root, n.upper, n.control, n.fuse, n.console];
        always.into_iter().chain(n.memory).chain(n.monitor).chain(n.incoming).collect()
    }
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
