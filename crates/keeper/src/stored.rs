//! The memory of a sleeping machine, on its way to the store, and back on another host.
//!
//! What is stored beside the memory itself: the state of the devices, the record of the sleep without what holds on
//! this host only, and, to be read before all that, an *offer*: the home and its version, and what a host has
//! to be like.
//!
//! # Invariants
//! - Stored is what a wake here would go on from: the record is there, and its files are those it was written for.
//! - What comes from the store is checked before it is believed, and what it says of this host is what this host
//!   found out itself.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;

use base::HomeId;
use serde::{Deserialize, Serialize};

use crate::asleep::{HELD_MAX, SleepRecord};
use crate::layout::MachineDir;

/// The format that this program writes, and the only one that it reads.
const FORMAT: u32 = 1;

/// What is told of a memory before it is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    format: u32,
    home: HomeId,
    version: u64,
    ran_on: BTreeMap<String, String>,
    /// The home that the kernel knows it as, of a fork that nobody has woken yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forked_from: Option<HomeId>,
}

/// Whether the machine sleeps here with memory that a wake elsewhere could go on from.
#[must_use]
pub fn is_there(dir: &MachineDir) -> bool {
    // What was published since is known to this host alone.
    dir.asleep().exists() && !dir.meanwhile().exists()
}

/// Bytes that the memory takes on this disk.
///
/// # Errors
/// Those of the disk.
pub fn allocated_bytes(dir: &MachineDir) -> io::Result<u64> {
    Ok(std::fs::metadata(dir.memory())?.blocks() * 512)
}

/// The memory that the machine sleeps with, without its template, which this knows nothing of; `None` where there is none that another host could use.
///
/// # Errors
/// Those of the disk.
pub fn to_store(dir: &MachineDir) -> io::Result<Option<upper::Memory>> {
    if !is_there(dir) {
        return Ok(None);
    }
    let Some(record) = SleepRecord::read(dir) else { return Ok(None) };
    if record.fits_files(dir).is_err() || record.what_it_ran_on().anywhere.is_empty() {
        return Ok(None);
    }
    let offer = Offer {
        format: FORMAT,
        home: record.home().clone(),
        version: record.version(),
        ran_on: record.what_it_ran_on().anywhere.clone(),
        forked_from: None,
    };
    let devices = std::fs::read(dir.devices())?;
    let mut state = (devices.len() as u64).to_le_bytes().to_vec();
    state.extend_from_slice(&devices);
    state.extend_from_slice(&serde_json::to_vec(&record.without_host())?);
    let about = serde_json::to_vec(&offer)?;
    Ok(Some(upper::Memory { file: dir.memory(), state, about, template: None }))
}

/// What is to be told of a memory to a fork whose home is `home`, of what was told of it; `None` where that cannot be
/// read.
#[must_use]
pub fn for_fork(about: &[u8], home: &HomeId) -> Option<Vec<u8>> {
    let offer = Offer::of(about).ok()?;
    // A fork of a fork that nobody has woken has the memory of the first one.
    let forked_from = offer.forked_from.clone().or_else(|| Some(offer.home.clone()));
    serde_json::to_vec(&Offer { home: home.clone(), forked_from, ..offer }).ok()
}

impl Offer {
    /// What the store says about a memory.
    ///
    /// # Errors
    /// Why it cannot be used, for people.
    pub(crate) fn of(about: &[u8]) -> Result<Self, String> {
        let offer: Self = serde_json::from_slice(about)
            .map_err(|_| "what is stored of it cannot be read".to_owned())?;
        if offer.format == FORMAT {
            Ok(offer)
        } else {
            Err("another version of this program stored it".to_owned())
        }
    }

    /// Whether it goes with this home, as it was found. `other` tells what a host has to have and this one has not.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) fn fits(
        &self,
        home: &HomeId,
        version: u64,
        other: impl FnOnce(&BTreeMap<String, String>) -> Option<String>,
    ) -> Result<(), String> {
        if self.home != *home {
            return Err("it has another home now".to_owned());
        }
        if self.version != version {
            return Err("its home was changed while it slept".to_owned());
        }
        match other(&self.ran_on) {
            Some(name) => Err(format!("its {name} is another one on this host")),
            None => Ok(()),
        }
    }

    /// Devices and record from the state that was fetched with it. `runs_on` is what a guest would run on here.
    ///
    /// # Errors
    /// Why they cannot be used, for people.
    pub(crate) fn take(
        &self,
        state: &[u8],
        runs_on: BTreeMap<String, String>,
    ) -> Result<(Vec<u8>, SleepRecord), String> {
        let bad = || "what is stored of it cannot be read".to_owned();
        let (len, rest) = state.split_first_chunk::<8>().ok_or_else(bad)?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| bad())?;
        let (devices, record) = rest.split_at_checked(len).ok_or_else(bad)?;
        let record: SleepRecord = serde_json::from_slice(record).map_err(|_| bad())?;
        let home = self.forked_from.as_ref().unwrap_or(&self.home);
        let same = record.home() == home && record.version() == self.version;
        if !same || record.held().len() > HELD_MAX {
            return Err(bad());
        }
        let record = match self.forked_from {
            Some(_) => record.of_fork(self.home.clone()),
            None => record,
        };
        Ok((devices.to_vec(), record.on(runs_on, self.ran_on.clone())))
    }
}

#[cfg(test)]
mod tests {
    use fuse_serve::Saved;

    use super::*;
    use crate::asleep::RanOn;

    fn words(text: &str) -> BTreeMap<String, String> {
        [("size".to_owned(), text.to_owned())].into()
    }

    fn asleep(dir: &MachineDir, home: &HomeId, anywhere: BTreeMap<String, String>) -> SleepRecord {
        for (file, content) in
            [(dir.upper(), "upper"), (dir.memory(), "memory"), (dir.devices(), "devices")]
        {
            std::fs::write(file, content).unwrap();
        }
        let session = Saved { no_open: true, no_opendir: true, held: vec![(7, 2)] };
        let ran_on = RanOn { here: words("/path/of/this/host"), anywhere };
        let record = SleepRecord::new(home.clone(), 41, ran_on, session, 3);
        let record = record.with_files(dir).unwrap();
        record.write(dir).unwrap();
        record
    }

    #[test]
    fn what_was_stored_here_is_a_record_there() {
        let path = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(path.path());
        let home = HomeId::generate();
        assert_eq!(to_store(&dir).unwrap(), None);
        let slept = asleep(&dir, &home, words("small"));
        let stored = to_store(&dir).unwrap().unwrap();
        assert_eq!((&stored.file, is_there(&dir)), (&dir.memory(), true));
        let said = String::from_utf8_lossy(&stored.state).into_owned()
            + &String::from_utf8_lossy(&stored.about);
        assert!(!said.contains("/path/of"), "{said}");
        let offer = Offer::of(&stored.about).unwrap();
        offer.fits(&home, 41, |there| (there != &words("small")).then(String::new)).unwrap();
        let (devices, record) = offer.take(&stored.state, words("/path/there")).unwrap();
        assert_eq!(devices, b"devices");
        assert_eq!(record.session(), slept.session());
        assert_eq!((record.notified(), record.version()), (3, 41));
        assert_eq!(record.what_it_ran_on().here, words("/path/there"));
        let record = record.with_files(&dir).unwrap();
        record.fits(&dir, &home, 41, &words("/path/there")).unwrap();
        record.fits_files(&dir).unwrap();
    }

    #[test]
    fn what_another_host_could_not_use_is_not_stored() {
        let path = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(path.path());
        let home = HomeId::generate();
        asleep(&dir, &home, BTreeMap::new());
        assert_eq!(to_store(&dir).unwrap(), None, "nobody knows what it ran on");
        asleep(&dir, &home, words("small"));
        std::fs::write(dir.meanwhile(), "{}").unwrap();
        assert_eq!(to_store(&dir).unwrap(), None, "something was published");
        std::fs::remove_file(dir.meanwhile()).unwrap();
        std::fs::write(dir.memory(), "written to").unwrap();
        assert_eq!(to_store(&dir).unwrap(), None, "it is another memory");
    }

    #[test]
    fn a_fork_goes_on_from_it_upon_its_own_home_and_is_told_who_it_is() {
        let path = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(path.path());
        let (home, child, grandchild) =
            (HomeId::generate(), HomeId::generate(), HomeId::generate());
        asleep(&dir, &home, words("small"));
        let stored = to_store(&dir).unwrap().unwrap();
        let told = for_fork(&stored.about, &child).unwrap();
        for (about, of) in
            [(told.clone(), &child), (for_fork(&told, &grandchild).unwrap(), &grandchild)]
        {
            let offer = Offer::of(&about).unwrap();
            offer.fits(of, 41, |_| None).unwrap();
            offer.fits(&home, 41, |_| None).unwrap_err();
            let (_, record) = offer.take(&stored.state, words("there")).unwrap();
            assert_eq!((record.home(), record.was_anothers()), (of, true));
            record.fits(&dir, of, 41, &words("there")).unwrap();
            record.fits(&dir, &home, 41, &words("there")).unwrap_err();
        }
        let (_, own) = Offer::of(&stored.about).unwrap().take(&stored.state, words("h")).unwrap();
        assert!(!own.was_anothers());
        // Of another machine than it says.
        let offer = Offer::of(&told).unwrap();
        let other = Offer { forked_from: Some(HomeId::generate()), ..offer };
        other.take(&stored.state, words("there")).unwrap_err();
        assert_eq!(for_fork(b"{}", &child), None);
    }

    #[test]
    fn memory_goes_on_upon_nothing_else_there_either() {
        let path = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(path.path());
        let home = HomeId::generate();
        asleep(&dir, &home, words("small"));
        let stored = to_store(&dir).unwrap().unwrap();
        let offer = Offer::of(&stored.about).unwrap();
        let why = |home: &HomeId, version, other: Option<&str>| {
            offer.fits(home, version, |_| other.map(str::to_owned)).unwrap_err()
        };
        assert!(why(&HomeId::generate(), 41, None).contains("another home"));
        assert!(why(&home, 42, None).contains("changed while it slept"));
        assert!(why(&home, 41, Some("clock")).contains("its clock"));
        let other = Offer { format: FORMAT + 1, ..offer.clone() };
        assert!(Offer::of(&serde_json::to_vec(&other).unwrap()).is_err());
        for bad in [&b""[..], b"{", b"[]", b"\xff"] {
            Offer::of(bad).unwrap_err();
            offer.take(bad, BTreeMap::new()).unwrap_err();
        }
        for cut in [0, 7, 8, 20, stored.state.len() - 1] {
            offer.take(&stored.state[..cut], BTreeMap::new()).unwrap_err();
        }
        let mut long = stored.state.clone();
        long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        offer.take(&long, BTreeMap::new()).unwrap_err();
        // A record of something else.
        let other = Offer { version: 43, ..offer };
        other.take(&stored.state, BTreeMap::new()).unwrap_err();
    }
}
