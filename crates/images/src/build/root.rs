//! Builds the root file system: a minimal Debian as one compressed, read-only erofs image.
//!
//! mmdebstrap does the work, as root or (where the host allows it) in a user namespace. The image is
//! made by a hook inside it, since only there owners are what they will be in the guest.
//!
//! # Reproducibility
//! What would differ from one build to the next is fixed or removed: times later than the archive's
//! own date, password dates, logs, caches, the machine id, the image's UUID. So the same packages
//! give the same digest.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::{fs, io};

use super::{SOURCES, SUITE};
use crate::Error;
use crate::command::{command, run};

/// UUID of every root image: fixed, so that the same tree gives the same bytes.
const UUID: &str = "646f726d-6f75-4365-8000-000000000001";
/// Where the hook leaves the image inside the tree; not part of the image.
const IMAGE_IN_TREE: &str = "dormouse-root.erofs";

/// What is in a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootRecipe {
    /// Debian packages on top of the required ones.
    pub packages: Vec<String>,
}

impl Default for RootRecipe {
    fn default() -> Self {
        let packages = ["ca-certificates", "curl", "git", "openssh-client", "python3", "tmux"];
        Self { packages: packages.map(str::to_owned).to_vec() }
    }
}

impl RootRecipe {
    /// A text that changes when the same archive would give another image.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("{}\n{}\n{}\n{}", self.packages.join(","), SOURCES.join("\n"), SUITE, hook())
    }

    /// Builds the image into the file `to`. Takes about half a minute and needs the archive.
    ///
    /// # Errors
    /// [`Error::ProgramMissing`] without mmdebstrap or erofs-utils; [`Error::Program`].
    pub fn build(&self, to: &Path) -> Result<(), Error> {
        // Asked for first: inside the hook its absence would be a riddle.
        run(command("mkfs.erofs").arg("--help"), "erofs-utils")?;
        // A file of its own: mmdebstrap repeats the command of a hook that fails.
        let hook_file = write_hook().map_err(Error::io("write", "hook.sh"))?;
        run(
            command("mmdebstrap")
                .args(["--quiet", "--variant=minbase", "--format=null", "--architectures=amd64"])
                .arg(format!("--include={}", self.packages.join(",")))
                .arg(format!("--customize-hook={}", hook_file.path().join("hook.sh").display()))
                .arg(format!("--customize-hook=download /{IMAGE_IN_TREE} {}", quoted(to)))
                .args([SUITE, "/dev/null"])
                .args(SOURCES),
            "mmdebstrap",
        )
        .map(drop)
    }
}

/// The hook as an executable file, in a folder that goes away with the result.
fn write_hook() -> io::Result<tempfile::TempDir> {
    // Root inside a user namespace is somebody else outside.
    let readable = fs::Permissions::from_mode(0o755);
    let dir = tempfile::Builder::new().permissions(readable.clone()).tempdir()?;
    let path = dir.path().join("hook.sh");
    fs::write(&path, hook())?;
    fs::set_permissions(&path, readable)?;
    Ok(dir)
}

/// Shell, run with the tree as `$1`.
///
/// The image is made of a bind mount, which shows what lies under `/proc`, `/sys` and `/dev`.
fn hook() -> String {
    format!(
        r#"#!/bin/sh
set -eu
PATH=$PATH:/usr/sbin:/sbin
root=$1
epoch=$(for list in "$root"/var/lib/apt/lists/*_InRelease; do
  date -u -d "$(sed -n 's/^Date: //p' "$list" | head -n 1)" +%s; done | sort -n | tail -n 1)
rm -rf "$root"/var/lib/apt/lists "$root"/var/cache/apt "$root"/var/cache/ldconfig "$root"/var/cache/debconf/*-old
mkdir -p "$root"/var/lib/apt/lists/partial "$root"/var/cache/apt/archives/partial
find "$root"/var/log "$root"/tmp "$root"/var/tmp -mindepth 1 -type f -delete
rm -f "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/passwd- "$root"/etc/group- "$root"/etc/shadow- "$root"/etc/gshadow- "$root"/var/lib/dpkg/*-old
sed -i -E 's/^([^:]*:[^:]*):[0-9]+:/\1:19000:/' "$root"/etc/shadow
: > "$root"/etc/machine-id
echo dormouse > "$root"/etc/hostname
echo 'nameserver 10.0.2.3' > "$root"/etc/resolv.conf
view=$(mktemp -d)
trap 'umount "$view" && rmdir "$view"' EXIT
mount --bind "$root" "$view"
export SOURCE_DATE_EPOCH=$epoch
mkfs.erofs -zlz4hc -U {UUID} --quiet --exclude-path={IMAGE_IN_TREE} "$root"/{IMAGE_IN_TREE} "$view"
"#
    )
}

/// `path` as one word of the shell that mmdebstrap gives special hooks to.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_package_is_another_fingerprint() {
        let plain = RootRecipe::default();
        let mut more = plain.clone();
        more.packages.push("jq".to_owned());
        assert_ne!(plain.fingerprint(), more.fingerprint());
    }

    #[test]
    fn a_path_is_one_word_of_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
