//! What tells this machine from others that are made of the same image, or of the same saved guest:
//! its machine id, and the host keys of an SSH server.
//!
//! The upper says whose it is, in a file beside the machine's layer: as long as that is this machine,
//! nothing is touched, and what its user changes stays. Host name, addresses, clock and entropy are told
//! anew at each boot ([`crate::configure`]).
//!
//! # Order
//! Before anything runs for the user, and after the kernel's generator has had the host's entropy. The
//! mark is written last: one that a loss of power took is made up for at the next boot.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::Error;
use crate::configure::replace;

/// Digits of a machine id.
pub(crate) const MACHINE_ID_DIGITS: usize = 32;
/// The id of a guest that is prepared to become somebody's. No machine keeps it: it stands where one is to be
/// written over it.
const NOBODYS: &str = "00000000000000000000000000000000";
/// What makes host keys where there are none.
pub(crate) const MAKE_HOST_KEYS: [&str; 2] = ["ssh-keygen", "-A"];

const MACHINE_ID: &str = "etc/machine-id";
/// A copy that older programs have, where it is no link to the other.
const DBUS_MACHINE_ID: &str = "var/lib/dbus/machine-id";
const SSH: &str = "etc/ssh";

/// Where to look.
#[derive(Debug)]
pub(crate) struct Places {
    /// The machine's root.
    pub(crate) root: PathBuf,
    /// The image below it.
    pub(crate) image: PathBuf,
    /// The file that says whose upper it is.
    pub(crate) mark: PathBuf,
}

impl Places {
    /// A file that is there while host keys are to be made: a guest that is lost meanwhile has none.
    fn owed_keys(&self) -> PathBuf {
        self.mark.with_extension("keys")
    }
}

/// Makes what is in `places` the machine's whose id is given. True where host keys are to be made.
pub(crate) fn settle(places: &Places, machine_id: &str) -> Result<bool, Error> {
    let before = fs::read_to_string(&places.mark).ok();
    let is_half = || read_machine_id(&places.root).trim_end() == NOBODYS;
    if before.as_deref().map(str::trim_end) == Some(machine_id) && !is_half() {
        // A guest that ended while they were made has none.
        let has_none = host_keys(&places.root)?.is_empty() && !host_keys(&places.image)?.is_empty();
        return Ok(has_none || places.owed_keys().exists());
    }
    // Else it has none, and may be older than the mark: only what it shares with its image is replaced.
    let was_anothers = before.is_some();
    settle_machine_id(places, machine_id, was_anothers)?;
    // Before they go. On a disk that is full it is not written: then only this boot makes them.
    drop(File::create(places.owed_keys()));
    let makes_keys = take_host_keys(places, was_anothers)?;
    if !makes_keys {
        made_host_keys(places);
    }
    put(&places.mark, machine_id)?;
    Ok(makes_keys)
}

fn settle_machine_id(places: &Places, machine_id: &str, was_anothers: bool) -> Result<(), Error> {
    let path = places.root.join(MACHINE_ID);
    let (text, in_image) = (read_machine_id(&places.root), read_machine_id(&places.image));
    let is_one = is_machine_id(text.trim_end()) && text.trim_end() != NOBODYS;
    if !was_anothers && is_one && text != in_image {
        return Ok(());
    }
    put(&path, machine_id)?;
    let copy = places.root.join(DBUS_MACHINE_ID);
    if is_file(&copy) {
        put(&copy, machine_id)?;
    }
    Ok(())
}

/// Writes an id: where there is no room for a new file, over the one that is there.
fn put(path: &Path, machine_id: &str) -> Result<(), Error> {
    let text = format!("{machine_id}\n");
    match replace(path, &text) {
        Err(error) if matches!(error.errno(), Errno::ENOSPC | Errno::EDQUOT) => {
            let doing = || Error::io(format!("write {}", path.display()));
            let file = File::options().write(true).open(path).map_err(doing())?;
            file.write_all_at(text.as_bytes(), 0).map_err(doing())?;
            file.set_len(text.len() as u64).map_err(doing())
        }
        replaced => replaced,
    }
}

/// The host keys that were to be made are there.
pub(crate) fn made_host_keys(places: &Places) {
    drop(fs::remove_file(places.owed_keys()));
}

/// Removes what a maker of host keys leaves that was ended.
pub(crate) fn remove_half_made_keys(places: &Places) {
    let Ok(entries) = fs::read_dir(places.root.join(SSH)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // `ssh_host_rsa_key.XXXX`, and `.pub`, which is made anew with the other.
        if name.starts_with("ssh_host_") && name.contains("_key.") {
            drop(fs::remove_file(entry.path()));
        }
    }
}

fn read_machine_id(root: &Path) -> String {
    fs::read_to_string(root.join(MACHINE_ID)).unwrap_or_default()
}

/// A guest that is nobody's, and in which all is done but to write down whose it is.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// All have [`NOBODYS`] id in them. The mark is the last.
    files: Vec<File>,
    makes_keys: bool,
}

/// Does what [`settle`] does, for nobody yet.
pub(crate) fn prepare(places: &Places) -> Result<Prepared, Error> {
    let makes_keys = settle(places, NOBODYS)?;
    let mut paths = vec![places.root.join(MACHINE_ID)];
    let copy = places.root.join(DBUS_MACHINE_ID);
    paths.extend(Some(copy).filter(|copy| is_file(copy)));
    paths.push(places.mark.clone());
    let open = |path: &PathBuf| {
        let opened = File::options().write(true).open(path);
        opened.map_err(Error::io(format!("open {}", path.display())))
    };
    Ok(Prepared { files: paths.iter().map(open).collect::<Result<_, _>>()?, makes_keys })
}

impl Prepared {
    /// What is left of [`settle`]. In place, which under emulation is a fraction of what making new files
    /// costs: nobody reads them yet. After a loss of power the mark may be there and an id not; then the
    /// next boot finds nobody's.
    pub(crate) fn settle(&self, machine_id: &str) -> Result<bool, Error> {
        if !is_machine_id(machine_id) {
            return Err(Error::Invalid("a guest that was prepared needs a machine id".to_owned()));
        }
        for file in &self.files {
            file.write_all_at(machine_id.as_bytes(), 0).map_err(Error::io("write the identity"))?;
        }
        Ok(self.makes_keys)
    }
}

/// Removes host keys that others have, too. True where the machine has to have some and has none.
fn take_host_keys(places: &Places, was_anothers: bool) -> Result<bool, Error> {
    let of_image = host_keys(&places.image)?;
    let (mut removed, mut kept) = (false, false);
    for name in host_keys(&places.root)? {
        let path = places.root.join(SSH).join(&name);
        let content = |path: &Path| fs::read(path).ok();
        let shared = content(&path) == content(&places.image.join(SSH).join(&name));
        if !was_anothers && !shared {
            kept = true;
            continue;
        }
        fs::remove_file(&path).map_err(Error::io(format!("remove {}", path.display())))?;
        // It is made anew with the other.
        drop(fs::remove_file(path.with_extension("pub")));
        removed = true;
    }
    Ok(removed || (!of_image.is_empty() && !kept))
}

/// Names of the private keys of an SSH server below `root`.
fn host_keys(root: &Path) -> Result<Vec<String>, Error> {
    let path = root.join(SSH);
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(format!("read {}", path.display())))?,
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.starts_with("ssh_host_") && name.ends_with("_key")).collect())
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

/// True for the form that programs expect.
pub(crate) fn is_machine_id(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == MACHINE_ID_DIGITS && text.bytes().all(digit)
}

/// Refuses what is no machine id; empty is none.
pub(crate) fn check(machine_id: &str) -> Result<(), Error> {
    if machine_id.is_empty() || is_machine_id(machine_id) {
        return Ok(());
    }
    Err(Error::Sys { doing: format!("take {machine_id:?} for a machine id"), errno: Errno::EINVAL })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0123456789abcdef0123456789abcdef";
    const TWO: &str = "fedcba9876543210fedcba9876543210";

    struct Machine {
        places: Places,
        _dir: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let places = Places {
                root: dir.path().join("root"),
                image: dir.path().join("image"),
                mark: dir.path().join("mark"),
            };
            for root in [&places.root, &places.image] {
                fs::create_dir_all(root.join(SSH)).unwrap();
                fs::create_dir_all(root.join("var/lib/dbus")).unwrap();
                fs::write(root.join(MACHINE_ID), "").unwrap();
            }
            Self { places, _dir: dir }
        }

        /// In the image, and so in the machine.
        fn image_has(&self, name: &str, content: &str) {
            fs::write(self.places.image.join(name), content).unwrap();
            self.has(name, content);
        }

        fn has(&self, name: &str, content: &str) {
            fs::write(self.places.root.join(name), content).unwrap();
        }

        fn read(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.places.root.join(name)).ok()
        }

        fn machine_id(&self) -> String {
            self.read(MACHINE_ID).unwrap().trim_end().to_owned()
        }
    }

    #[test]
    fn a_machine_gets_an_id_once_and_keeps_what_its_user_made_of_it() {
        let machine = Machine::new();
        assert!(!settle(&machine.places, ONE).unwrap(), "no host keys where the image has none");
        assert_eq!(machine.machine_id(), ONE);
        assert_eq!(machine.read(DBUS_MACHINE_ID), None, "nothing is made that was not there");
        machine.has(MACHINE_ID, TWO);
        machine.has("etc/ssh/ssh_host_rsa_key", "its user's");
        assert!(!settle(&machine.places, ONE).unwrap());
        assert_eq!(machine.machine_id(), TWO);
        assert_eq!(machine.read("etc/ssh/ssh_host_rsa_key").unwrap(), "its user's");
    }

    #[test]
    fn what_the_image_holds_is_nobodys_own() {
        let machine = Machine::new();
        machine.image_has(MACHINE_ID, TWO);
        machine.image_has(DBUS_MACHINE_ID, TWO);
        machine.image_has("etc/ssh/ssh_host_rsa_key", "everybody's");
        machine.image_has("etc/ssh/ssh_host_rsa_key.pub", "everybody's");
        machine.image_has("etc/ssh/ssh_config", "kept");
        assert!(settle(&machine.places, ONE).unwrap(), "keys are to be made");
        assert_eq!(machine.machine_id(), ONE);
        assert_eq!(machine.read(DBUS_MACHINE_ID).unwrap().trim_end(), ONE);
        for name in ["etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub"] {
            assert_eq!(machine.read(name), None);
        }
        assert_eq!(machine.read("etc/ssh/ssh_config").unwrap(), "kept");
        // Ended in between: the keys are gone and not made yet, with the mark or without.
        assert!(settle(&machine.places, ONE).unwrap());
        fs::remove_file(&machine.places.mark).unwrap();
        assert!(settle(&machine.places, ONE).unwrap());
        machine.has("etc/ssh/ssh_host_rsa_key", "its own");
        assert!(settle(&machine.places, ONE).unwrap(), "whoever makes them was not heard of yet");
        made_host_keys(&machine.places);
        assert!(!settle(&machine.places, ONE).unwrap());
        assert_eq!(machine.read("etc/ssh/ssh_host_rsa_key").unwrap(), "its own");
    }

    #[test]
    fn a_machine_from_before_the_mark_keeps_its_own() {
        let machine = Machine::new();
        machine.image_has("etc/ssh/ssh_host_rsa_key", "everybody's");
        machine.has("etc/ssh/ssh_host_rsa_key", "its own");
        machine.has(MACHINE_ID, TWO);
        assert!(!settle(&machine.places, ONE).unwrap());
        assert_eq!(machine.machine_id(), TWO);
        assert_eq!(machine.read("etc/ssh/ssh_host_rsa_key").unwrap(), "its own");
    }

    #[test]
    fn an_upper_that_was_another_machines_becomes_this_ones() {
        let machine = Machine::new();
        settle(&machine.places, ONE).unwrap();
        machine.has("etc/ssh/ssh_host_ed25519_key", "the other's");
        assert!(settle(&machine.places, TWO).unwrap());
        assert_eq!(machine.machine_id(), TWO);
        assert_eq!(machine.read("etc/ssh/ssh_host_ed25519_key"), None);
    }

    #[test]
    fn what_was_prepared_for_nobody_becomes_somebodys() {
        let machine = Machine::new();
        machine.image_has(MACHINE_ID, TWO);
        machine.image_has(DBUS_MACHINE_ID, TWO);
        machine.image_has("etc/ssh/ssh_host_rsa_key", "everybody's");
        let prepared = prepare(&machine.places).unwrap();
        assert_eq!(machine.machine_id(), NOBODYS);
        assert_eq!(machine.read("etc/ssh/ssh_host_rsa_key"), None);
        assert!(prepared.settle("").is_err(), "it has to be somebody's");
        assert!(prepared.settle(ONE).unwrap(), "keys are to be made");
        assert_eq!(machine.machine_id(), ONE);
        assert_eq!(machine.read(DBUS_MACHINE_ID).unwrap().trim_end(), ONE);
        machine.has("etc/ssh/ssh_host_rsa_key", "its own");
        made_host_keys(&machine.places);
        assert!(!settle(&machine.places, ONE).unwrap(), "a later boot finds all done");
        assert_eq!(machine.read("etc/ssh/ssh_host_rsa_key").unwrap(), "its own");
    }

    #[test]
    fn keys_that_were_to_be_made_are_owed_until_they_are() {
        let machine = Machine::new();
        settle(&machine.places, ONE).unwrap();
        // Its user installed a server; the image has none.
        machine.has("etc/ssh/ssh_host_rsa_key", "the other's");
        assert!(settle(&machine.places, TWO).unwrap());
        assert!(settle(&machine.places, TWO).unwrap(), "the guest was lost before they were there");
        machine.has("etc/ssh/ssh_host_rsa_key", "its own");
        machine.has("etc/ssh/ssh_host_ed25519_key.x7Yz", "half of one");
        remove_half_made_keys(&machine.places);
        made_host_keys(&machine.places);
        assert!(!settle(&machine.places, TWO).unwrap());
        assert_eq!(machine.read("etc/ssh/ssh_host_rsa_key").unwrap(), "its own");
        assert_eq!(machine.read("etc/ssh/ssh_host_ed25519_key.x7Yz"), None);
    }

    #[test]
    fn nobodys_id_is_no_machines_own() {
        let machine = Machine::new();
        machine.has(MACHINE_ID, &format!("{NOBODYS}\n"));
        settle(&machine.places, ONE).unwrap();
        assert_eq!(machine.machine_id(), ONE);
    }

    #[test]
    fn an_identity_that_was_half_written_is_written_anew() {
        let machine = Machine::new();
        settle(&machine.places, ONE).unwrap();
        machine.has(MACHINE_ID, &format!("{NOBODYS}\n"));
        settle(&machine.places, ONE).unwrap();
        assert_eq!(machine.machine_id(), ONE);
    }

    #[test]
    fn a_machine_id_has_one_form() {
        for good in ["", ONE] {
            check(good).unwrap();
        }
        for wrong in ["0", &ONE.to_uppercase(), &format!("{ONE}0"), &ONE.replace('0', "\n")] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
