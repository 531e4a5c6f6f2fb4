//! Fetches Debian packages without installing them.
//!
//! apt runs on state of its own (lists, cache, sources) below one folder, so it needs no root, is
//! independent of the host's release, and leaves the host's package state alone. The host's
//! `apt.conf` still applies, proxies included.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::SOURCES;
use crate::Error;
use crate::command::{command, run};

/// Debian's archive keys; mmdebstrap uses the same.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The package that always depends on the newest cloud kernel of the release.
const KERNEL_METAPACKAGE: &str = "linux-image-cloud-amd64";

/// A private apt.
#[derive(Debug)]
pub struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// State in `dir`, made where it does not exist.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        for folder in ["lists/partial", "cache/archives/partial", "state"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path).map_err(Error::io("create", path))?;
        }
        let sources: String = SOURCES
            .iter()
            .map(|line| line.replacen("deb ", &format!("deb [signed-by={KEYRING}] "), 1) + "\n")
            .collect();
        for (name, content) in [("sources.list", sources.as_str()), ("state/status", "")] {
            let path = dir.join(name);
            fs::write(&path, content).map_err(Error::io("write", path))?;
        }
        Ok(Self { dir })
    }

    /// Fetches the package lists.
    ///
    /// # Errors
    /// [`Error::Program`] where the archive cannot be reached.
    pub fn update(&self) -> Result<(), Error> {
        // apt-get exits 0 where a list could not be fetched, unless told otherwise.
        let update = ["-o", "APT::Update::Error-Mode=any", "update"];
        run(self.command("apt-get").args(update), "apt").map(drop)
    }

    /// Name of the newest cloud kernel package, such as `linux-image-6.1.0-49-cloud-amd64`.
    ///
    /// # Errors
    /// [`Error::Kernel`] where the lists do not have it.
    pub fn newest_kernel(&self) -> Result<String, Error> {
        let show = ["show", "--no-all-versions", KERNEL_METAPACKAGE];
        let stanza = run(self.command("apt-cache").args(show), "apt")?;
        kernel_of_metapackage(&String::from_utf8_lossy(&stanza)).ok_or_else(|| {
            Error::Kernel(format!("{KERNEL_METAPACKAGE} depends on no cloud kernel"))
        })
    }

    /// Downloads `package` and returns the path of the `.deb`.
    ///
    /// # Errors
    /// [`Error::Program`].
    pub fn download(&self, package: &str) -> Result<PathBuf, Error> {
        let into = self.dir.join("cache");
        // A broken earlier download must not be taken for this one.
        for old in self.downloaded(&into, package)? {
            fs::remove_file(&old).map_err(Error::io("remove", old))?;
        }
        run(self.command("apt-get").current_dir(&into).args(["download", package]), "apt")?;
        self.downloaded(&into, package)?
            .pop()
            .ok_or_else(|| Error::Kernel(format!("apt-get download left no {package}_*.deb")))
    }

    fn downloaded(&self, dir: &Path, package: &str) -> Result<Vec<PathBuf>, Error> {
        let prefix = format!("{package}_");
        let entries = fs::read_dir(dir).map_err(Error::io("read", dir))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &self.dir))?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|n| n.starts_with(&prefix) && n.ends_with(".deb")) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command(program);
        let dir = self.dir.display();
        for option in [
            format!("Dir::Etc::SourceList={dir}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State={dir}/state"),
            format!("Dir::State::Lists={dir}/lists"),
            format!("Dir::State::Status={dir}/state/status"),
            format!("Dir::Cache={dir}/cache"),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
            // As root, apt would switch to a user who cannot enter a home directory.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command.arg("-q");
        command
    }
}

/// Unpacks `deb` into `into` without installing it.
///
/// # Errors
/// [`Error::Program`].
pub fn unpack(deb: &Path, into: &Path) -> Result<(), Error> {
    run(command("dpkg-deb").arg("-x").arg(deb).arg(into), "dpkg").map(drop)
}

fn kernel_of_metapackage(stanza: &str) -> Option<String> {
    let depends = stanza.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends
        .split(',')
        .filter_map(|dependency| dependency.split_whitespace().next())
        .find(|name| name.starts_with("linux-image-") && name.ends_with("-cloud-amd64"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_the_dependency_of_the_metapackage() {
        let stanza = "Package: linux-image-cloud-amd64\nVersion: 6.1.192-2\n\
            Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n";
        assert_eq!(
            kernel_of_metapackage(stanza).as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(kernel_of_metapackage("Package: x\nDepends: bash\n"), None);
    }
}
