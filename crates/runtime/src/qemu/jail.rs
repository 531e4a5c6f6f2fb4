//! A file system of its own for a hypervisor, which holds nothing but what it takes to run.
//!
//! A mount namespace whose root is an empty, read-only `tmpfs` with read-only views of: the program, the
//! folders of shared libraries, its firmware, `resolv.conf`, `/dev/null`, `/dev/kvm` where it is used, and a `/proc` that
//! shows itself only. Whatever belongs to the machine it gets as descriptors, so no folder of the host's data
//! is there. Namespaces of process ids, System V objects and host names go with it.
//!
//! # Order
//! [`Jail::of`] looks at the host and writes down what to mount. After the fork, as root still:
//! new namespaces; nothing mounted from here on shows outside; the tree; `pivot_root`; the old root is let go.
//! The new process id namespace is entered by being born in it, so it belongs to the caller of the fork
//! ([`OwnPids`]).
//!
//! # Failure
//! Where it cannot be had at all ([`possible`]) machines run without, and that is said. Where it can, a
//! step that fails fails the start.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, mkdir, pivot_root, symlinkat};

/// Where the new root is put together; only the child sees it there. Made by whoever claims a slot.
const STAGE: &CStr = c"/run/dormouse/instances";
/// What the root may hold: some directories, links and places to mount on.
const ROOT_OPTIONS: &CStr = c"mode=0755,size=64k,nr_inodes=64";
/// Folders of shared libraries, on any distribution.
const LIBRARIES: [&str; 7] =
    ["/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/lib", "/lib32", "/lib64"];
/// Below the prefix that the program is installed in: modules, firmware.
const OF_PREFIX: [&str; 4] = ["lib", "lib64", "share/qemu", "share/seabios"];
/// How things of the host are shown.
const FIXED: MsFlags = MsFlags::MS_RDONLY.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV);
/// Bit of `CAP_SYS_ADMIN` in a mask of capabilities.
const CAP_SYS_ADMIN: u32 = 21;

/// What to mount, made before the fork: nothing may be allocated after it.
#[derive(Debug, Clone)]
pub(crate) struct Jail {
    steps: Vec<Step>,
}

/// Places are relative to the new root.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Directory(CString),
    /// An empty file, to mount another on.
    File(CString),
    Link {
        to: CString,
        at: CString,
    },
    /// A view of something of the host, not of what is mounted below it.
    View {
        of: CString,
        at: CString,
        flags: MsFlags,
    },
}

/// Whether this process may jail its hypervisors.
///
/// # Errors
/// Why not, for people.
pub(crate) fn possible() -> Result<(), String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    check(&read("/proc/self/status")?, &read("/proc/self/uid_map")?, &read("/proc/self/mountinfo")?)
        .map_err(str::to_owned)
}

fn check(status: &str, uid_map: &str, mounts: &str) -> Result<(), &'static str> {
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if capabilities.unwrap_or_default() & (1 << CAP_SYS_ADMIN) == 0 {
        return Err("namespaces need CAP_SYS_ADMIN");
    }
    if !uid_map.split_whitespace().eq(["0", "0", "4294967295"]) {
        return Err("this is the root of a user namespace, who may not mount what it takes");
    }
    if !mounts.lines().any(|line| line.split(' ').nth(4) == Some("/")) {
        return Err("the root of a chroot is no mount point");
    }
    Ok(())
}

impl Jail {
    /// A jail for `program`, an absolute path without links, and those of `devices` that are there. In the place
    /// of the host's, it has `resolv_conf`.
    pub(crate) fn of(
        program: &Path,
        devices: &[&Path],
        resolv_conf: Option<&Path>,
    ) -> io::Result<Self> {
        let mut jail = Self { steps: Vec::new() };
        for dir in LIBRARIES.map(Path::new) {
            match fs::symlink_metadata(dir) {
                Ok(meta) if meta.is_dir() => jail.view(dir, true)?,
                Ok(meta) if meta.is_symlink() => jail.link(dir, &fs::read_link(dir)?)?,
                _ => {}
            }
        }
        // Of `/opt/qemu/bin/qemu-system-x86_64` that is `/opt/qemu`.
        let prefix = program.ancestors().nth(2).unwrap_or(Path::new("/"));
        for below in OF_PREFIX {
            jail.view_if_there(&prefix.join(below), true)?;
        }
        jail.view_if_there(Path::new("/etc/ld.so.cache"), false)?;
        let names = Path::new("/etc/resolv.conf");
        match resolv_conf {
            Some(other) => jail.view_of(other, names, false, FIXED)?,
            None => jail.view_if_there(names, false)?,
        }
        jail.view(program, false)?;
        for device in devices {
            jail.device(device)?;
        }
        jail.directories(Path::new("/proc/self"))?;
        Ok(jail)
    }

    fn view_if_there(&mut self, path: &Path, is_dir: bool) -> io::Result<()> {
        let there = fs::metadata(path).is_ok_and(|meta| meta.is_dir() == is_dir);
        if there { self.view(path, is_dir) } else { Ok(()) }
    }

    /// Shows `path` at the same place.
    fn view(&mut self, path: &Path, is_dir: bool) -> io::Result<()> {
        self.view_of(path, path, is_dir, FIXED)
    }

    fn device(&mut self, path: &Path) -> io::Result<()> {
        if !fs::exists(path)? {
            return Ok(());
        }
        self.view_of(path, path, false, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)
    }

    /// Shows `of` at `path`.
    fn view_of(&mut self, of: &Path, path: &Path, is_dir: bool, flags: MsFlags) -> io::Result<()> {
        if self.shows(path) {
            return Ok(());
        }
        let (of, at) = (c_string(of)?, inside(path)?);
        self.directories(path)?;
        self.push(if is_dir { Step::Directory(at.clone()) } else { Step::File(at.clone()) });
        self.steps.push(Step::View { of, at, flags });
        Ok(())
    }

    fn shows(&self, path: &Path) -> bool {
        let views = self.steps.iter().filter_map(|step| match step {
            Step::View { at, .. } => Some(Path::new(OsStr::from_bytes(at.as_bytes()))),
            _ => None,
        });
        let path = path.strip_prefix("/").unwrap_or(path);
        views.into_iter().any(|view| path.starts_with(view))
    }

    fn link(&mut self, path: &Path, to: &Path) -> io::Result<()> {
        self.directories(path)?;
        self.push(Step::Link { to: c_string(to)?, at: inside(path)? });
        Ok(())
    }

    /// The directories that lead to `path`.
    fn directories(&mut self, path: &Path) -> io::Result<()> {
        let parents: Vec<&Path> = path.ancestors().skip(1).collect();
        for parent in parents.into_iter().rev().filter(|parent| parent.parent().is_some()) {
            self.push(Step::Directory(inside(parent)?));
        }
        Ok(())
    }

    fn push(&mut self, step: Step) {
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
    }

    /// Moves the calling process, a child that has just been forked, into the jail. Makes system calls only.
    pub(crate) fn enter(&self) -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?;
        let none = None::<&CStr>;
        mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let bare = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(c"tmpfs"), STAGE, Some(c"tmpfs"), bare, Some(ROOT_OPTIONS))?;
        chdir(STAGE)?;
        let mask = umask(Mode::empty());
        self.steps.iter().try_for_each(Step::take)?;
        umask(mask);
        let options = Some(c"subset=pid");
        let fixed = bare | MsFlags::MS_RDONLY;
        mount(Some(c"proc"), c"proc", Some(c"proc"), fixed, options)?;
        mount(none, c".", none, fixed | MsFlags::MS_REMOUNT, Some(ROOT_OPTIONS))?;
        // The old root comes to lie on top of the new one, and is let go with all that is mounted in it.
        pivot_root(c".", c".")?;
        umount2(c".", MntFlags::MNT_DETACH)?;
        chdir(c"/")
    }
}

impl Step {
    fn take(&self) -> nix::Result<()> {
        let none = None::<&CStr>;
        match self {
            Self::Directory(at) => match mkdir(at.as_c_str(), Mode::from_bits_retain(0o755)) {
                Err(Errno::EEXIST) => Ok(()),
                made => made,
            },
            Self::File(at) => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                open(at.as_c_str(), flags, Mode::from_bits_retain(0o444)).map(drop)
            }
            Self::Link { to, at } => symlinkat(to.as_c_str(), AT_FDCWD, at.as_c_str()),
            Self::View { of, at, flags } => {
                mount(Some(of.as_c_str()), at.as_c_str(), none, MsFlags::MS_BIND, none)?;
                let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | *flags;
                mount(none, at.as_c_str(), none, again, none)
            }
        }
    }
}

/// While this is there, children of the calling thread are born into a process id namespace of their own,
/// the first one as its init. The thread can start no threads meanwhile.
#[derive(Debug)]
pub(crate) struct OwnPids {
    outside: OwnedFd,
}

impl OwnPids {
    pub(crate) fn begin() -> io::Result<Self> {
        let outside = OwnedFd::from(fs::File::open("/proc/self/ns/pid")?);
        unshare(CloneFlags::CLONE_NEWPID)?;
        Ok(Self { outside })
    }
}

impl Drop for OwnPids {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.outside, CloneFlags::CLONE_NEWPID) {
            tracing::error!(%error, "leave a process id namespace; the next one is refused");
        }
    }
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// The place of `path` below the new root.
fn inside(path: &Path) -> io::Result<CString> {
    let odd = |c: Component<'_>| !matches!(c, Component::RootDir | Component::Normal(_));
    match path.strip_prefix("/") {
        Ok(below) if !path.components().any(odd) => c_string(below),
        _ => Err(io::Error::other(format!("{} is no place for a jail", path.display()))),
    }
}

#[cfg(test)]
mod tests;
