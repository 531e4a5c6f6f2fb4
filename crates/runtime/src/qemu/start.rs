//! The way of an instance from its [`Spec`] to a guest that runs.
//!
//! # Order
//! Check; claim a place on this host; open files and channels; spawn QEMU. The network is connected (`ip` and
//! `nft`, some 50 ms) while QEMU begins: its namespace is there before it, and leads nowhere until the rules
//! are in place. Meanwhile, too, its virtual CPUs are moved to the group that holds the guest to its share.
//! A guest that boots runs as soon as QEMU does; one that was saved is loaded and waits for all of this.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use base::Egress;
use guest_ring::GuestMemory;

use super::cgroup::Shares;
use super::command_line::{Descriptors, arguments, vcpus};
use super::hypervisor::Hypervisor;
use super::instance::QemuInstance;
use super::jail::{self, Jail};
use super::network::Link;
use super::place::Place;
use super::qmp::Line;
use super::room::Grows;
use super::spawn::Confinement;
use super::supervise::Process;
use super::warm::{Ends, Shelf};
use super::{Accelerator, INSTALL, QemuSettings, blocking, find_program, memory, start_error, tsc};
use crate::limits::{MEMORY_MIB_MAX, MEMORY_MIB_MIN, VCPU_MAX};
use crate::{Error, Loaded, Memory, Network, Spec, Started};

/// An instance whose QEMU is there. In the order in which it is taken down where it is given up.
#[derive(Debug)]
pub(super) struct Begun {
    /// What lets a saved guest run; one that boots runs already.
    waiting: Option<memory::Loaded>,
    instance: QemuInstance,
    control: UnixStream,
    fuse: UnixStream,
    memory: Option<GuestMemory>,
    connecting: Beside,
    /// Ends with the instance at the latest, which is why it comes after it.
    holding: Beside,
    grows: Grows,
}

/// Something that is done while QEMU begins. It holds the instance's place, which is free again once this is
/// over.
#[derive(Debug)]
struct Beside {
    what: &'static str,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Beside {
    fn begin(
        what: &'static str,
        place: Arc<Place>,
        work: impl FnOnce(&Place) -> Result<(), Error> + Send + 'static,
    ) -> Self {
        Self { what, thread: Some(std::thread::spawn(move || work(&place))) }
    }

    fn wait(&mut self) -> Result<(), Error> {
        let done = self.thread.take().map_or(Ok(Ok(())), JoinHandle::join);
        done.map_err(|_| Error::Start(self.what.to_owned()))?
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Err(error) = self.wait() {
            tracing::warn!(what = self.what, %error, "an instance that was given up");
        }
    }
}

impl Begun {
    /// Blocks until the network is there and the guest is held to its share.
    pub(super) fn go_on(mut self) -> Result<Started, Error> {
        self.connecting.wait()?;
        self.holding.wait()?;
        let Self { waiting, instance, control, fuse, memory, grows, .. } = self;
        if let Some(waiting) = waiting {
            waiting.go_on()?;
        }
        // Not before: it has guests that found no room go on.
        instance.look_for_room(grows)?;
        Ok(Started { instance: Box::new(instance), control, fuse, memory })
    }
}

#[async_trait]
impl Loaded for Begun {
    async fn go_on(self: Box<Self>) -> Result<Started, Error> {
        blocking(|| Self::go_on(*self)).await
    }
}

/// Everything of a start that blocks, but for the last of it.
pub(super) fn begin(
    spec: &Spec,
    settings: &QemuSettings,
    accelerator: Accelerator,
    shelf: &Shelf,
) -> Result<Begun, Error> {
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
    let tsc_khz = tsc.map(JoinHandle::join).transpose();
    let tsc_khz = tsc_khz.map_err(|_| Error::Start("measure the TSC".to_owned()))?;
    let arguments =
        arguments(spec, accelerator, user_network, tsc_khz, &files.inherited.numbers())?;
    let doors = place.doors()?;
    let jail = match jail::possible() {
        Ok(()) if user.is_some() => {
            let resolv_conf = place.link.as_ref().map(Link::resolv_conf);
            let jail = Jail::of(&program, &accelerator.devices(), resolv_conf);
            Some(jail.map_err(start_error("prepare its jail"))?)
        }
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
        // What the guest has is in a file. What is not, it may want in huge pages.
        small_pages: files.memory.is_some(),
    };
    tracing::debug!(machine = %spec.machine, ?accelerator, tsc_khz, ?arguments, "start qemu");
    let Files { inherited, memory, control, fuse, console, monitor, incoming } = files;
    let upper = File::open(&spec.upper_image).map_err(start_error("open the upper"))?;
    let growing = memory.as_ref().map(File::try_clone).transpose();
    let growing = growing.map_err(start_error("share the guest's memory"))?;
    let served = spec.upper_server.as_ref().map(|server| Arc::downgrade(&server.0));
    let grows = Grows { upper, served, memory: growing };
    let process = Process { program, arguments, confinement, place: place.clone() };
    let connecting = Beside::begin("connect the network", place.clone(), Place::connect);
    let hypervisor = Hypervisor::spawn(process, console, &spec.log_dir);
    // Only now: QEMU has its own copies.
    drop((inherited, doors));
    let hypervisor = hypervisor?;
    let ends =
        Ends::of(spec, (&control, &fuse), memory.as_ref(), &grows.upper, (accelerator, shelf));
    let ends = ends.map_err(start_error("keep its channels"))?;
    let instance = QemuInstance::of(hypervisor, Line::New(monitor), spec.memory.file(), ends);
    let memory = memory.map(|file| GuestMemory::new(file, memory::arrangement(spec.memory_mib)));
    let count = vcpus(spec.vcpu, accelerator);
    let hold = move |place: &Place| place.hold_vcpus(count);
    let holding = Beside::begin("hold the guest to its share", place, hold);
    let waiting = None;
    let mut begun = Begun { waiting, instance, control, fuse, memory, connecting, holding, grows };
    begun.waiting = incoming.map(|(monitor, state)| memory::load(monitor, &state)).transpose()?;
    Ok(begun)
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
    if spec.network == Network::User && spec.egress.allowed != Egress::Open {
        return Err(Error::Spec(
            "an egress policy with user-mode networking, where nothing could enforce it".to_owned(),
        ));
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
    /// The guest's memory, where it is in a file.
    memory: Option<File>,
    control: UnixStream,
    fuse: UnixStream,
    console: UnixStream,
    monitor: UnixStream,
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
    upper_served: bool,
    control: OwnedFd,
    fuse: OwnedFd,
    console: OwnedFd,
    memory: Option<OwnedFd>,
    monitor: OwnedFd,
    incoming: Option<OwnedFd>,
}

impl Files {
    fn open(spec: &Spec, user: Option<u32>) -> Result<Self, Error> {
        let read = |path: &Path| {
            File::open(path).map(OwnedFd::from).map_err(start_error(&format!("open {path:?}")))
        };
        let upper = match &spec.upper_server {
            Some(server) => server.0.connect().map(OwnedFd::from),
            None => {
                OpenOptions::new().read(true).write(true).open(&spec.upper_image).map(OwnedFd::from)
            }
        };
        let upper = upper.map_err(start_error(&format!("open {:?}", spec.upper_image)))?;
        let pair = || UnixStream::pair().map_err(start_error("create a channel"));
        let ((control, control_end), (fuse, fuse_end), (console, console_end)) =
            (pair()?, pair()?, pair()?);
        let (monitor, monitor_end) = pair()?;
        let state = memory::open_state(&spec.memory)?;
        let memory = memory::open(&spec.memory, spec.memory_mib, user)?;
        let ours = memory.as_ref().map(File::try_clone).transpose();
        let ours = ours.map_err(start_error("share the guest's memory"))?;
        let (incoming, incoming_end) = state.as_ref().map(|_| pair()).transpose()?.unzip();
        let inherited = Inherited {
            kernel: read(&spec.kernel)?,
            initrd: read(&spec.initrd)?,
            root: read(&spec.root_image)?,
            upper,
            upper_served: spec.upper_server.is_some(),
            control: control_end.into(),
            fuse: fuse_end.into(),
            console: console_end.into(),
            memory: memory.map(OwnedFd::from),
            monitor: monitor_end.into(),
            incoming: incoming_end.map(OwnedFd::from),
        };
        let incoming = incoming.zip(state);
        Ok(Self { inherited, memory: ours, control, fuse, console, monitor, incoming })
    }
}

impl Inherited {
    fn numbers(&self) -> Descriptors {
        Descriptors {
            kernel: self.kernel.as_raw_fd(),
            initrd: self.initrd.as_raw_fd(),
            root: self.root.as_raw_fd(),
            upper: self.upper.as_raw_fd(),
            upper_served: self.upper_served,
            control: self.control.as_raw_fd(),
            fuse: self.fuse.as_raw_fd(),
            console: self.console.as_raw_fd(),
            memory: self.memory.as_ref().map(AsRawFd::as_raw_fd),
            monitor: Some(self.monitor.as_raw_fd()),
            incoming: self.incoming.as_ref().map(AsRawFd::as_raw_fd),
        }
    }

    fn all(&self) -> Vec<i32> {
        let n = self.numbers();
        let always = [n.kernel, n.initrd, n.root, n.upper, n.control, n.fuse, n.console];
        always.into_iter().chain(n.memory).chain(n.monitor).chain(n.incoming).collect()
    }
}
