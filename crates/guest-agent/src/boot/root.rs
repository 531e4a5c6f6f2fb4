//! The machine's root: the image below, the upper above, and the way back at shutdown.
//!
//! # Order
//! Up: image on `/l`, upper on `/u`, overlay on `/newroot`, kernel file systems moved into it, the
//! overlay moved over `/`. Down: back into the initramfs by the descriptor kept from before, the
//! overlay taken off, then `/u` unmounted, which leaves a clean ext4.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir};

use super::disks::Disks;
use crate::console::say;
use crate::identity::Places;
use crate::limits::{POLL_INTERVAL, UNMOUNT_UPPER_TIMEOUT};
use crate::{Error, wake_at};

/// How the upper is mounted. It begins as a file without content: inode tables are zero already, and what maps
/// free blocks lies in an object store, maybe, where nobody is to look ahead. Both would run in every clone.
const UPPER_OPTIONS: &str = "noinit_itable,no_prefetch_block_bitmaps";

/// The initramfs below the machine's root, kept to get back to.
#[derive(Debug)]
pub(crate) struct OldRoot(OwnedFd);

/// Mounts what the kernel itself offers, into the initramfs.
pub(super) fn mount_kernel_file_systems() -> Result<(), Error> {
    let strict = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at("proc", "/proc", "proc", strict, "")?;
    mount_at("sysfs", "/sys", "sysfs", strict, "")?;
    mount_at("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755")
}

/// Makes the overlay and moves into it.
pub(super) fn switch_to(disks: &Disks) -> Result<OldRoot, Error> {
    mount_at(&disks.image.to_string_lossy(), "/l", "erofs", MsFlags::MS_RDONLY, "")?;
    let upper = disks.upper.to_string_lossy();
    mount_at(&upper, "/u", "ext4", MsFlags::MS_NOATIME, UPPER_OPTIONS)?;
    for dir in ["/u/upper", "/u/work"] {
        make_dir(dir, 0o755)?;
    }
    // redirect_dir: a directory of the image can be renamed as any other.
    let options = "lowerdir=/l,upperdir=/u/upper,workdir=/u/work,redirect_dir=on";
    mount_at("overlay", "/newroot", "overlay", MsFlags::empty(), options)?;
    for (from, to) in
        [("/proc", "/newroot/proc"), ("/sys", "/newroot/sys"), ("/dev", "/newroot/dev")]
    {
        make_dir(to, 0o755)?;
        mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(Error::sys(format!("move {from} to {to}")))?;
    }
    let old = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(Error::sys("keep the old root"))?;
    chdir("/newroot").map_err(Error::sys("enter the new root"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .map_err(Error::sys("switch to the new root"))?;
    Ok(OldRoot(old))
}

/// What programs expect besides the image. Each is worth a line on the console but not the boot.
pub(super) fn mount_the_rest() {
    let strict = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let quiet = strict | MsFlags::MS_NOEXEC;
    let pts = "gid=5,mode=0620,ptmxmode=0666";
    let results = [
        make_dir("/dev/pts", 0o755)
            .and_then(|()| mount_at("devpts", "/dev/pts", "devpts", MsFlags::MS_NOSUID, pts)),
        make_dir("/dev/shm", 0o1777)
            .and_then(|()| mount_at("tmpfs", "/dev/shm", "tmpfs", strict, "mode=1777")),
        make_dir("/run", 0o755)
            .and_then(|()| mount_at("tmpfs", "/run", "tmpfs", strict, "mode=0755,size=20%"))
            .and_then(|()| offer_program()),
        make_dir("/run/lock", 0o1777),
        make_dir("/tmp", 0o1777),
        make_dir("/root", 0o700),
        mount_at("cgroup2", "/sys/fs/cgroup", "cgroup2", quiet, ""),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        say(&error.to_string());
    }
    let links =
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")];
    for (name, target) in links {
        // They are there after a warm start of devtmpfs.
        drop(symlink(target, Path::new("/dev").join(name)));
    }
}

/// Gives the user the agent's own program, for [`wake_at`]. It is the file of the initramfs, in memory
/// already, at a second place: no byte is copied. `/run` must be a tmpfs, or this were on the upper.
fn offer_program() -> Result<(), Error> {
    make_dir(wake_at::DIR, 0o755)?;
    make_dir(&format!("{}/bin", wake_at::DIR), 0o755)?;
    let program = format!("{}/bin/dormouse-agent", wake_at::DIR);
    File::create(&program).map_err(Error::io(format!("make {program}")))?;
    let bind = MsFlags::MS_BIND;
    // Below the root that we have moved away from; no other path leads there.
    let what = "/proc/self/exe";
    let read_only =
        bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(what), &*program, None::<&str>, bind, None::<&str>)
        .and_then(|()| mount(None::<&str>, &*program, None::<&str>, read_only, None::<&str>))
        .map_err(Error::sys(format!("bind {what} to {program}")))
}

impl OldRoot {
    /// Where the parts of the machine's root can be looked at one by one.
    pub(crate) fn places(&self) -> Places {
        let below = PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        Places { root: "/".into(), image: below.join("l"), mark: below.join("u/identity") }
    }

    /// Leaves the machine's root and unmounts it. No process but ours may be left.
    ///
    /// # Errors
    /// Where the upper can be neither unmounted nor made read-only; it then needs a journal
    /// replay at the next boot.
    pub(crate) fn unmount_root(&self) -> Result<(), Error> {
        let leave = fchdir(&self.0).and_then(|()| chroot("."));
        leave.map_err(Error::sys("go back to the initramfs"))?;
        // From below its mount point, ".." of the root is the root of what is mounted over it.
        if let Err(errno) = umount2("/..", MntFlags::MNT_DETACH) {
            say(&format!("unmount the overlay: {}", errno.desc()));
        }
        let deadline = Instant::now() + UNMOUNT_UPPER_TIMEOUT;
        loop {
            match umount2("/u", MntFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(Errno::EBUSY) if Instant::now() < deadline => sleep(POLL_INTERVAL),
                Err(errno) => {
                    say(&format!("unmount the upper: {}", errno.desc()));
                    break;
                }
            }
        }
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, "/u", None::<&str>, read_only, None::<&str>)
            .map_err(Error::sys("make the upper read-only"))
    }
}

fn mount_at(what: &str, at: &str, kind: &str, flags: MsFlags, options: &str) -> Result<(), Error> {
    mount(Some(what), at, Some(kind), flags, Some(options))
        .map_err(Error::sys(format!("mount {kind} {what} on {at}")))
}

/// The mode is set also where the directory is there already.
fn make_dir(path: &str, mode: u32) -> Result<(), Error> {
    let made = match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
    };
    made.map_err(Error::io(format!("make {path}")))
}
