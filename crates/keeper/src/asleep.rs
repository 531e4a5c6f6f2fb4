//! What a machine that sleeps with its memory leaves beside it: all that a wake has to know.
//!
//! # Invariants
//! - The record lies there only while no guest has run since the memory was saved. It is written last
//!   at sleep, after memory and devices are on the disk, and is gone from the disk before a guest runs.
//! - Memory goes on only upon what it knew: the same home, in the same version or in one that it can be
//!   told the difference to ([`crate::meanwhile`]), on the same kind of hypervisor, and beside the very
//!   files that it was saved with: a disk that something else wrote to is another one.
//!
//! # Crash
//! Before the record: the machine boots from disk and home, as after a loss of power. After it: the
//! machine goes on from its memory, also where the keeper did not come to give the home up.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;

use base::HomeId;
use fuse_serve::Saved;
use serde::{Deserialize, Serialize};
use vfs::{Ino, Touched};

use crate::layout::MachineDir;
use crate::meanwhile;

/// The format that this program writes, and the only one that it reads.
const FORMAT: u32 = 1;
/// Longest record that is read, in bytes: a kernel holds at most some million inodes.
const RECORD_BYTES_MAX: u64 = 64 << 20;
/// How many inodes a kernel may hold and sleep with its memory.
pub(crate) const HELD_MAX: usize = 1_000_000;

/// What a guest runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RanOn {
    /// As this host tells it from others that it could become.
    pub(crate) here: BTreeMap<String, String>,
    /// As all hosts tell it. Empty where it is not known.
    pub(crate) anywhere: BTreeMap<String, String>,
}

/// The content of `asleep.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SleepRecord {
    format: u32,
    /// The home that the guest has mounted.
    home: HomeId,
    /// Its version when the guest last saw it.
    version: u64,
    /// What the guest ran on, as the host that it ran on tells it.
    ran_on: BTreeMap<String, String>,
    /// The same as all hosts tell it.
    #[serde(default)]
    ran_on_anywhere: BTreeMap<String, String>,
    /// What the home's server agreed with the guest's kernel.
    no_open: bool,
    no_opendir: bool,
    /// Inodes that the kernel holds, with their lookup counts.
    held: Vec<(Ino, u64)>,
    /// How many notifications the guest has had since it was booted.
    notified: u64,
    /// Length and time of change of disk, memory and devices, once they were on the disk.
    files: BTreeMap<String, String>,
    /// It is another machine's, whose fork is to go on from it. Never on a disk.
    #[serde(skip)]
    was_anothers: bool,
}

impl SleepRecord {
    /// The record of a guest that was saved.
    pub(crate) fn new(
        home: HomeId,
        version: u64,
        ran_on: RanOn,
        session: Saved,
        notified: u64,
    ) -> Self {
        let RanOn { here: ran_on, anywhere: ran_on_anywhere } = ran_on;
        let Saved { no_open, no_opendir, held } = session;
        Self {
            format: FORMAT,
            home,
            version,
            ran_on,
            ran_on_anywhere,
            no_open,
            no_opendir,
            held,
            notified,
            files: BTreeMap::new(),
            was_anothers: false,
        }
    }

    /// The record in `dir`. One that cannot be read is none: the machine boots.
    pub(crate) fn read(dir: &MachineDir) -> Option<Self> {
        let path = dir.asleep();
        let read = std::fs::metadata(&path).and_then(|meta| {
            if meta.len() > RECORD_BYTES_MAX {
                return Err(io::Error::other(format!("{} bytes", meta.len())));
            }
            Ok(serde_json::from_slice(&std::fs::read(&path)?)?)
        });
        match read {
            Ok(record) => Some(record),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, "the record of a sleep cannot be read; the machine boots");
                None
            }
        }
    }

    /// The same for a home that has this version now, and is as it was.
    pub(crate) fn at_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    /// The same beside the files in `dir`, which nobody writes to any more.
    pub(crate) fn with_files(self, dir: &MachineDir) -> io::Result<Self> {
        Ok(Self { files: files(dir)?, ..self })
    }

    /// The same without what holds on this host only.
    pub(crate) fn without_host(self) -> Self {
        Self { ran_on: BTreeMap::new(), files: BTreeMap::new(), ..self }
    }

    /// The same on a host of which this is known.
    pub(crate) fn on(
        self,
        here: BTreeMap<String, String>,
        anywhere: BTreeMap<String, String>,
    ) -> Self {
        Self { ran_on: here, ran_on_anywhere: anywhere, ..self }
    }

    /// The same for a fork of the machine, which has this home, as it was.
    pub(crate) fn of_fork(self, home: HomeId) -> Self {
        Self { home, was_anothers: true, ..self }
    }

    /// Whether the guest has yet to hear which machine it is.
    pub(crate) fn was_anothers(&self) -> bool {
        self.was_anothers
    }

    /// Writes it. On the disk when this returns.
    pub(crate) fn write(&self, dir: &MachineDir) -> io::Result<()> {
        meanwhile::forget(dir);
        upper::file::replace(&dir.asleep(), &serde_json::to_vec(self)?)
    }

    /// Takes the record in `dir` away; it is gone from the disk when this returns.
    pub(crate) fn remove(dir: &MachineDir) -> io::Result<()> {
        meanwhile::forget(dir);
        match std::fs::remove_file(dir.asleep()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // Also where it is gone already: that may not be on the disk yet.
            _ => upper::file::sync_name(&dir.asleep()),
        }
    }

    /// Whether the files in `dir` are those that the memory was saved with.
    ///
    /// # Errors
    /// Which is not, for people.
    pub(crate) fn fits_files(&self, dir: &MachineDir) -> Result<(), String> {
        let now = files(dir).map_err(|error| format!("its files cannot be looked at: {error}"))?;
        match now.iter().find(|(name, is)| self.files.get(*name) != Some(is)) {
            Some((name, _)) => Err(format!("its {name} was changed by something else")),
            None => Ok(()),
        }
    }

    /// Whether the memory can go on upon `home`, found in `version` in `dir`, and what a guest would run
    /// on; and what its kernel has to forget before any process goes on.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) fn fits(
        &self,
        dir: &MachineDir,
        home: &HomeId,
        version: u64,
        runs_on: &BTreeMap<String, String>,
    ) -> Result<Touched, String> {
        if self.format != FORMAT {
            return Err("another version of this program saved its memory".to_owned());
        }
        if self.home != *home {
            return Err("it has another home now".to_owned());
        }
        let Some(touched) = meanwhile::between(dir, self.version, version) else {
            return Err("its home was changed while it slept".to_owned());
        };
        match self.differs_from(runs_on) {
            Some(name) => Err(format!("its {name} is another one now")),
            None => Ok(touched),
        }
    }

    /// Whether a guest would run on what this one ran on.
    pub(crate) fn ran_on(&self, runs_on: &BTreeMap<String, String>) -> bool {
        self.format == FORMAT && self.differs_from(runs_on).is_none()
    }

    fn differs_from<'a>(&'a self, runs_on: &'a BTreeMap<String, String>) -> Option<&'a str> {
        let names = runs_on.keys().chain(self.ran_on.keys());
        let mut names = names.filter(|name| self.ran_on.get(*name) != runs_on.get(*name));
        names.next().map(String::as_str)
    }

    /// The home that the guest has mounted.
    pub(crate) fn home(&self) -> &HomeId {
        &self.home
    }

    /// What the guest ran on.
    pub(crate) fn what_it_ran_on(&self) -> RanOn {
        RanOn { here: self.ran_on.clone(), anywhere: self.ran_on_anywhere.clone() }
    }

    /// The home's version that the guest saw last.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Inodes that the kernel holds.
    pub(crate) fn held(&self) -> Vec<Ino> {
        self.held.iter().map(|(ino, _)| *ino).collect()
    }

    /// What the home's server needs to go on.
    pub(crate) fn session(&self) -> Saved {
        let Self { no_open, no_opendir, .. } = *self;
        Saved { no_open, no_opendir, held: self.held.clone() }
    }

    /// How many notifications the guest has had.
    pub(crate) fn notified(&self) -> u64 {
        self.notified
    }
}

fn files(dir: &MachineDir) -> io::Result<BTreeMap<String, String>> {
    let seen = [("disk", dir.upper()), ("memory", dir.memory()), ("devices", dir.devices())];
    let told = seen.map(|(name, path)| {
        let meta = std::fs::metadata(path)?;
        let told = format!("{} {}.{:09}", meta.len(), meta.mtime(), meta.mtime_nsec());
        Ok((name.to_owned(), told))
    });
    told.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs_on(size: &str) -> BTreeMap<String, String> {
        [("hypervisor", "q"), ("size", size)].map(|(a, b)| (a.to_owned(), b.to_owned())).into()
    }

    fn record(home: &HomeId) -> SleepRecord {
        let session = Saved { no_open: true, no_opendir: false, held: vec![(7, 2), (9, 1)] };
        let ran_on = RanOn { here: runs_on("small"), anywhere: runs_on("anywhere") };
        SleepRecord::new(home.clone(), 41, ran_on, session, 3)
    }

    #[test]
    fn it_comes_back_as_it_was_written_and_goes() {
        let path = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(path.path());
        assert_eq!(SleepRecord::read(&dir), None);
        let home = HomeId::generate();
        let record = record(&home);
        record.write(&dir).unwrap();
        let read = SleepRecord::read(&dir).unwrap();
        assert_eq!(read, record);
        assert_eq!((read.held(), read.notified()), (vec![7, 9], 3));
        assert_eq!(read.session().held, [(7, 2), (9, 1)]);
        assert_eq!(read.fits(&dir, &home, 41, &runs_on("small")), Ok(Touched::default()));
        SleepRecord::remove(&dir).unwrap();
        SleepRecord::remove(&dir).unwrap();
        assert_eq!(SleepRecord::read(&dir), None);
    }

    #[test]
    fn memory_goes_on_upon_nothing_but_what_it_knew() {
        let path = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(path.path());
        let home = HomeId::generate();
        let record = record(&home);
        let why = |home: &HomeId, version, on| record.fits(&dir, home, version, &on).unwrap_err();
        assert!(why(&HomeId::generate(), 41, runs_on("small")).contains("another home"));
        assert!(why(&home, 42, runs_on("small")).contains("changed while it slept"));
        assert!(why(&home, 41, runs_on("large")).contains("its size"));
        assert!(why(&home, 41, BTreeMap::new()).contains("hypervisor"));
        let newer = SleepRecord { format: FORMAT + 1, ..record.clone() };
        assert!(newer.fits(&dir, &home, 41, &runs_on("small")).is_err());
    }

    #[test]
    fn memory_goes_on_beside_the_files_that_it_was_saved_with() {
        let path = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(path.path());
        let record = record(&HomeId::generate());
        record.clone().with_files(&dir).unwrap_err();
        for file in [dir.upper(), dir.memory(), dir.devices()] {
            std::fs::write(file, "as saved").unwrap();
        }
        let record = record.with_files(&dir).unwrap();
        record.fits_files(&dir).unwrap();
        std::fs::write(dir.upper(), "mended by hand").unwrap();
        assert!(record.fits_files(&dir).unwrap_err().contains("its disk"));
        std::fs::remove_file(dir.upper()).unwrap();
        record.fits_files(&dir).unwrap_err();
    }

    #[test]
    fn a_damaged_record_is_none() {
        let path = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(path.path());
        for damaged in ["", "{", "[]", "{\"format\": \"x\"}"] {
            std::fs::write(dir.asleep(), damaged).unwrap();
            assert_eq!(SleepRecord::read(&dir), None, "{damaged}");
        }
    }
}
