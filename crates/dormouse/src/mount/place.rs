//! Which home is meant, and where on this host its local directory is.
//!
//! A machine of this data directory, named by its name, its id or its home, is mounted from the
//! machine's own directory: what its last keeper did not upload is there, and the directory's lock
//! keeps keeper and mount apart. Any other home gets a directory below `mounts/`. A directory that
//! the user names stands in for neither: what is only in the usual one must not be overtaken.

use std::fs::{self, File};
use std::path::PathBuf;

use base::{ErrorKind, GIB, HomeId};
use catalog::{By, MachineRow};
use keeper::layout::MachineDir;

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
    /// Held by whoever mounts the home for writing, wherever its local directory is: the store
    /// would give it to every process of this server.
    lock: PathBuf,
}

impl Place {
    /// Makes sure that no other mount of this server writes the home, as long as the file is open.
    ///
    /// # Errors
    /// `Conflict` where one does; `InvalidArgument` for a directory beside one that has local files.
    pub(super) fn claim(&self) -> Result<File, Failure> {
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
        let failed = |error: std::io::Error| {
            Failure::new(ErrorKind::Internal, format!("lock {}: {error}", self.lock.display()))
        };
        if let Some(parent) = self.lock.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let file = File::options().create(true).truncate(false).write(true).open(&self.lock);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                Err(super::live::refused(&self.name, &homefs::Error::InUse))
            }
            Err(fs::TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// Finds the home that `args` mean.
pub(super) fn find(args: &MountArgs, config: &Config) -> Result<Place, Failure> {
    let Some(name) = args.what() else {
        let home = HomeId::generate();
        return Ok(place(args, config, home.to_string(), home, None));
    };
    let catalog = config.data.join("catalog.db");
    let look_up = |by| {
        catalog::look_up(&catalog, by)
            .map_err(|error| Failure::new(error.kind(), format!("look for {name}: {error}")))
    };
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
    let lock = mounts(config).join(format!("{home}.lock"));
    let usual = MachineDir::new(usual);
    Place { home, name, dir, bytes_max: gib.saturating_mul(GIB), usual, lock }
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
