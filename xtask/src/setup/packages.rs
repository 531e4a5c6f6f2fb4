//! The Debian packages that building and running need.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::cargo::run_quietly;
use crate::progress::step;

/// A file that tells whether a package is there, and the package. Looking is quicker than asking
/// dpkg, and it accepts what was installed by other means.
type Needed = [(&'static [&'static str], &'static str)];

/// For building, running and testing.
const NEEDED: &Needed = &[
    (&["/usr/bin/qemu-system-x86_64"], "qemu-system-x86"),
    (&["/usr/bin/mmdebstrap"], "mmdebstrap"),
    (&["/usr/bin/mkfs.erofs", "/usr/sbin/mkfs.erofs"], "erofs-utils"),
    (&["/usr/sbin/nft", "/sbin/nft"], "nftables"),
    (&["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"], "iproute2"),
    (&["/usr/sbin/depmod", "/sbin/depmod"], "kmod"),
    (&["/usr/bin/cpio", "/bin/cpio"], "cpio"),
    (&["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"], "e2fsprogs"),
    (&["/usr/bin/fusermount3", "/bin/fusermount3"], "fuse3"),
    (&["/usr/share/keyrings/debian-archive-keyring.gpg"], "debian-archive-keyring"),
    (&["/etc/ssl/certs/ca-certificates.crt"], "ca-certificates"),
    (&["/usr/bin/git"], "git"),
    (&["/usr/bin/cc"], "build-essential"),
];

/// What homes are compared with, and searched with, in `cargo xtask bench homefs`.
const COMPARED: &Needed = &[
    (&["/usr/bin/rclone"], "rclone"),
    (&["/usr/bin/s3fs"], "s3fs"),
    (&["/usr/bin/rg"], "ripgrep"),
];

/// Installs what is missing; without root, says how to.
pub(crate) fn ensure() -> anyhow::Result<()> {
    install(NEEDED)
}

/// Installs what only benchmarks need.
pub(crate) fn ensure_compared() -> anyhow::Result<()> {
    install(COMPARED)
}

fn install(needed: &Needed) -> anyhow::Result<()> {
    let missing = missing(needed, |path| Path::new(path).exists());
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install --yes --no-install-recommends {}", missing.join(" "));
    if !nix::unistd::geteuid().is_root() {
        bail!("Debian packages are missing; install them, then start again:\n  sudo {install}");
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("install what Debian calls {}, then start again", missing.join(" "));
    }
    step(&format!("install {}", missing.join(" ")), || {
        let apt = |arguments: &[&str]| {
            run_quietly(
                Command::new("apt-get")
                    .env("DEBIAN_FRONTEND", "noninteractive")
                    .args(["-q", "--yes", "-o", "DPkg::Lock::Timeout=300"])
                    .args(arguments),
            )
        };
        apt(&["update"]).context("fetch the package lists")?;
        apt(&[&["install", "--no-install-recommends"], missing.as_slice()].concat()).map(drop)
    })
}

fn missing(needed: &Needed, exists: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let absent = |files: &[&str]| !files.iter().any(|file| exists(file));
    needed.iter().filter(|(files, _)| absent(files)).map(|(_, package)| *package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_installed() {
        assert!(missing(NEEDED, |_| true).is_empty());
        assert_eq!(missing(NEEDED, |path| !path.ends_with("/nft")), ["nftables"]);
        assert_eq!(missing(NEEDED, |_| false).len(), NEEDED.len());
    }
}
