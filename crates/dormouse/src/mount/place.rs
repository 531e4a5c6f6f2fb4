//! Which home is meant, and where on this host its local directory is.
//!
//! A machine of this data directory, named by its name, its id or its home, is mounted from the
//! machine's own directory: what its last keeper did not upload is there, and the directory's lock
//! keeps keeper and mount apart. Any other home gets a directory below `mounts/`. A directory that
//! the user names stands in for neither: what is only in the usual one must not be overtaken.

use std::path::{Path, PathBuf};

use base::{ErrorKind, GIB, HomeId};
use catalog::{By, Desired, MachineRow, Phase};
use keeper::layout::MachineDir;
use keeper::mounted::MountLock;

use super::MountArgs;
use crate::Failure;
use crate::config::Config;

/// A home to be mounted.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) home: HomeId,
    /// What the user called it.
    pub(super) name: String,
    /// Laid out as a machine's directory.
    pub(super) dir: MachineDir,
    pub(super) bytes_max: u64,
    /// Where the directory would be if the user had not named one.
    usual: MachineDir,
    /// Below it is the lock that is held by whoever mounts the home for writing, wherever its local
    /// directory is: the store would give it to every process of this server.
    data: PathBuf,
}

impl Place {
    /// Makes sure that no other mount of this server writes the home, and that no server deletes it, as long as
    /// the lock is held.
    ///
    /// # Errors
    /// `Conflict` where one does; `InvalidArgument` for a directory beside one that has local files.
    pub(super) fn claim(&self) -> Result<MountLock, Failure> {
        if self.usual != self.dir && self.usual.home().exists() {
            return Err(Failure::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{} has local files in {}; leave --local-dir away",
                    self.name,
                    self.usual.home().display()
                ),
            ));
        }
        let taken = MountLock::take(&self.data, &self.home).map_err(|error| {
            Failure::new(ErrorKind::Internal, format!("lock {} for a mount: {error}", self.name))
        })?;
        let lock = taken.ok_or_else(|| super::live::refused(&self.name, &homefs::Error::InUse))?;
        // A server writes down that it deletes the machine, then looks at the lock: one of the two sees the other.
        let machine = look_up(&self.data, By::Home(self.home.as_str()), &self.name)?;
        let refused = machine.and_then(|machine| refused(machine.desired, machine.observed.phase));
        if let Some(why) = refused {
            return Err(Failure::new(ErrorKind::Conflict, format!("{} {why}", self.name)));
        }
        Ok(lock)
    }
}

/// Why a machine's home cannot be had for writing, by what its server wrote down; who has it now is told by its lock.
fn refused(desired: Desired, phase: Phase) -> Option<&'static str> {
    match (desired, phase) {
        (Desired::Destroyed, _) => Some("is being deleted"),
        (Desired::Sleeping, _) | (Desired::Running, Phase::Running | Phase::Failed) => None,
        // Also where it sleeps, for a moment, so that a snapshot or a fork of all that it has can be made.
        (Desired::Running, _) => Some("is about to be awake; put it to sleep, then mount it"),
    }
}

/// Finds the home that `args` mean.
pub(super) fn find(args: &MountArgs, config: &Config) -> Result<Place, Failure> {
    let Some(name) = args.what() else {
        let home = HomeId::generate();
        return Ok(place(args, config, home.to_string(), home, None));
    };
    let look_up = |by| look_up(&config.data, by, name);
    if let Ok(home) = name.parse::<HomeId>() {
        let machine = look_up(By::Home(home.as_str()))?;
        return Ok(place(args, config, name.to_owned(), home, machine));
    }
    let machine = match look_up(By::Name(name))? {
        Some(machine) => machine,
        None => look_up(By::Id(name))?.ok_or_else(|| unknown(name, config))?,
    };
    let home = machine.home.clone();
    Ok(place(args, config, name.to_owned(), home, Some(machine)))
}

fn place(
    args: &MountArgs,
    config: &Config,
    name: String,
    home: HomeId,
    machine: Option<MachineRow>,
) -> Place {
    let usual = match &machine {
        Some(machine) => config.data.join("machines").join(machine.id.as_str()),
        None => mounts(config).join(home.as_str()),
    };
    let dir = MachineDir::new(args.local_dir.clone().unwrap_or_else(|| usual.clone()));
    let gib = args
        .storage_gib
        .or(machine.map(|machine| machine.spec.storage_gib))
        .unwrap_or(config.defaults.storage_gib);
    let (usual, data) = (MachineDir::new(usual), config.data.clone());
    Place { home, name, dir, bytes_max: gib.saturating_mul(GIB), usual, data }
}

fn look_up(data: &Path, by: By<'_>, name: &str) -> Result<Option<MachineRow>, Failure> {
    catalog::look_up(&data.join("catalog.db"), by)
        .map_err(|error| Failure::new(error.kind(), format!("look for {name}: {error}")))
}

fn mounts(config: &Config) -> PathBuf {
    config.data.join("mounts")
}

fn unknown(name: &str, config: &Config) -> Failure {
    Failure::new(
        ErrorKind::NotFound,
        format!(
            "no machine {name} in data directory {}; --data names another, and a home can be named by its id (home-…)",
            config.data.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_to_be_awake_at_once_or_gone_is_not_mounted_for_writing() {
        for phase in Phase::ALL {
            assert!(refused(Desired::Destroyed, *phase).is_some(), "{phase}");
            assert_eq!(refused(Desired::Sleeping, *phase), None, "{phase}");
            let rests = matches!(phase, Phase::Running | Phase::Failed);
            assert_eq!(refused(Desired::Running, *phase).is_none(), rests, "{phase}");
        }
    }
}
