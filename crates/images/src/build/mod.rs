//! Makes images out of Debian packages.
//!
//! The steps are separate, so that whoever drives them (`cargo xtask setup` today) can skip those
//! whose input has not changed and can show progress:
//!
//! 1. [`Apt::update`], [`Apt::newest_kernel`], [`Apt::download`], [`unpack`]: the kernel package,
//!    unpacked and not installed;
//! 2. [`extract_vmlinux`]: the uncompressed kernel, which boots faster than the packed one;
//! 3. [`write_initramfs`]: the agent as `/init` and the modules it loads;
//! 4. [`RootRecipe::build`]: the root file system;
//! 5. [`publish`]: names them as one image.

mod apt;
mod cpio;
mod initramfs;
mod kernel;
mod modules;
mod publish;
mod root;

pub use apt::{Apt, unpack};
pub use initramfs::{MODULE_LIST, MODULES, write_initramfs};
pub use kernel::{extract_vmlinux, write_vmlinux};
pub use modules::depmod;
pub use publish::{Parts, publish};
pub use root::RootRecipe;

/// The Debian release that images are made of, whatever the host runs.
pub const SUITE: &str = "bookworm";
/// Where its packages come from; also the `sources.list` of the guest.
pub const SOURCES: [&str; 3] = [
    "deb http://deb.debian.org/debian bookworm main",
    "deb http://deb.debian.org/debian bookworm-updates main",
    "deb http://deb.debian.org/debian-security bookworm-security main",
];
