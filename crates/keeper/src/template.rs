//! A guest that was booted before it was anybody's, to begin a new machine with.
//!
//! Memory, devices and upper were saved together and are good together only. A copy of them lies in the
//! machine's directory when its first keeper starts (`template/`); the keeper moves it to where a
//! machine's own files are. Who makes templates and copies is the server's business.
//!
//! # Invariants
//! - The note is written last, when all else is on the disk; without it there is no template.
//! - It is used for a machine that has no upper yet, and where what it was made of is what the machine
//!   would boot with ([`kind`]). In any other case it is thrown away, and the machine boots.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base::Digest;
use runtime::Runtime;
use serde::{Deserialize, Serialize};

use crate::KeeperSpec;
use crate::layout::MachineDir;

/// Raised when an older template is no template any more.
const FORMAT: u32 = 1;
/// Most bytes of a note.
const NOTE_BYTES_MAX: u64 = 64 << 10;
/// Of which boot of the host it is.
const HOST: &str = "host";
/// Digits of a name: two kinds do not share one.
const NAME_CHARS: usize = 32;
/// The host's kernel has another one after each boot.
const HOST_BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// What a template is made of, by name. Two machines of one kind can begin with the same template.
pub type Kind = BTreeMap<String, String>;

/// The kind of machine that `spec` tells of.
///
/// Beside what saved memory runs on: what only a boot reads, and this boot of the host. Another boot may be
/// on another processor, whose clock has another pace; a template is quickly made anew.
#[must_use]
pub fn kind(runtime: &dyn Runtime, spec: &KeeperSpec) -> Kind {
    let instance = &spec.instance;
    let mut kind = runtime.fingerprint(instance);
    kind.extend(
        [
            ("kernel", instance.kernel.display().to_string()),
            ("agent", instance.initrd.display().to_string()),
            ("command line", runtime.boot_fingerprint(instance)),
            ("upper", format!("{} bytes", spec.upper.bytes)),
            (HOST, host()),
        ]
        .map(|(what, is)| (what.to_owned(), is)),
    );
    kind
}

/// A name for machines of this kind, fit for a file.
#[must_use]
pub fn name(kind: &Kind) -> String {
    let text: String = kind.iter().map(|(what, is)| format!("{what}\t{is}\n")).collect();
    Digest::of(text.as_bytes()).to_string().chars().take(NAME_CHARS).collect()
}

/// This boot of the host.
fn host() -> String {
    std::fs::read_to_string(HOST_BOOT).unwrap_or_default().trim().to_owned()
}

/// Files of a template, or of a copy of one, all in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateDir(PathBuf);

impl TemplateDir {
    /// The template in `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> PathBuf {
        self.0.join("memory")
    }

    /// The state of its devices.
    #[must_use]
    pub fn devices(&self) -> PathBuf {
        self.0.join("devices")
    }

    /// Its writable layer, as the guest's kernel knows it.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.0.join("upper.ext4")
    }

    /// What it is.
    #[must_use]
    pub fn note(&self) -> PathBuf {
        self.0.join("template.json")
    }

    /// Its files besides the note.
    #[must_use]
    pub fn files(&self) -> [(&'static str, PathBuf); 3] {
        [("memory", self.memory()), ("devices", self.devices()), ("upper", self.upper())]
    }

    fn lengths(&self) -> io::Result<BTreeMap<String, u64>> {
        let length =
            |(name, path): (&str, PathBuf)| Ok((name.to_owned(), std::fs::metadata(path)?.len()));
        self.files().into_iter().map(length).collect()
    }

    /// Takes it away, whatever of it is there.
    pub fn remove(&self) {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "remove a template");
            }
            _ => {}
        }
    }
}

/// What a template is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    format: u32,
    kind: Kind,
    /// Of its files, by name.
    lengths: BTreeMap<String, u64>,
}

impl Note {
    /// The note of the files in `dir`, which nobody writes to any more.
    ///
    /// # Errors
    /// Where one is missing.
    pub fn of(dir: &TemplateDir, kind: Kind) -> io::Result<Self> {
        Ok(Self { format: FORMAT, kind, lengths: dir.lengths()? })
    }

    /// Writes it. It is on the disk when this returns.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write(&self, dir: &TemplateDir) -> io::Result<()> {
        upper::file::replace(&dir.note(), &serde_json::to_vec(self)?)
    }

    /// Reads the one in `dir`; `None` where there is none.
    fn read(dir: &TemplateDir) -> Result<Option<Self>, String> {
        let read = std::fs::metadata(dir.note()).and_then(|meta| {
            if meta.len() > NOTE_BYTES_MAX {
                return Err(io::Error::other(format!("{} bytes", meta.len())));
            }
            Ok(serde_json::from_slice(&std::fs::read(dir.note())?)?)
        });
        match read {
            Ok(note) => Ok(Some(note)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("its note cannot be read: {error}")),
        }
    }
}

/// Whether a template lies in `dir` that some machine could begin with, here and now.
#[must_use]
pub fn is_current(dir: &TemplateDir) -> bool {
    let host = host();
    let note = Note::read(dir).ok().flatten();
    note.is_some_and(|note| note.format == FORMAT && note.kind.get(HOST) == Some(&host))
}

/// Whether a template lies in `dir` that machines of this kind can begin with.
///
/// # Errors
/// Why the one that is there cannot be used, for people.
pub fn fits(dir: &TemplateDir, kind: &Kind) -> Result<bool, String> {
    let Some(note) = Note::read(dir)? else { return Ok(false) };
    if note.format != FORMAT {
        return Err("another version of this program made it".to_owned());
    }
    let mut names = kind.keys().chain(note.kind.keys());
    if let Some(name) = names.find(|name| note.kind.get(*name) != kind.get(*name)) {
        return Err(format!("its {name} is another one"));
    }
    let lengths = dir.lengths().map_err(|error| format!("a file of it is missing: {error}"))?;
    match note.lengths.iter().find(|(name, is)| lengths.get(*name) != Some(is)) {
        Some((name, _)) => Err(format!("its {name} is damaged")),
        None => Ok(true),
    }
}

/// Moves memory and devices of the copy beside a new machine to where the machine's own are, so that the guest
/// can be loaded. The upper follows with [`place`], once it is known that the machine has none. False where
/// there is no copy that is whole.
///
/// # Errors
/// Why the one that is there is not used, for people; it is gone.
pub(crate) fn stage(machine: &MachineDir, kind: &Kind) -> Result<bool, String> {
    let dir = machine.template();
    let staged = fits(&dir, kind).and_then(|there| {
        if there {
            std::fs::rename(dir.memory(), machine.memory())
                .and_then(|()| std::fs::rename(dir.devices(), machine.devices()))
                .map_err(|error| format!("its files cannot be moved: {error}"))?;
        }
        Ok(there)
    });
    if staged != Ok(true) {
        dir.remove();
    }
    staged
}

/// Moves the upper of the staged copy to where the machine's own is; with it there is a machine.
///
/// # Errors
/// Those of the disk.
pub(crate) fn place(machine: &MachineDir) -> io::Result<()> {
    let dir = machine.template();
    std::fs::rename(dir.upper(), machine.upper())?;
    dir.remove();
    Ok(())
}

/// Removes a copy that is staged and not placed.
pub(crate) fn unstage(machine: &MachineDir) {
    for file in [machine.memory(), machine.devices()] {
        std::fs::remove_file(file).ok();
    }
    machine.template().remove();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(size: &str) -> Kind {
        [("size", size), ("kernel", "k")].map(|(a, b)| (a.to_owned(), b.to_owned())).into()
    }

    fn template(machine: &MachineDir) -> TemplateDir {
        let dir = machine.template();
        std::fs::create_dir_all(dir.path()).unwrap();
        for (name, path) in dir.files() {
            std::fs::write(path, name).unwrap();
        }
        dir
    }

    fn noted(machine: &MachineDir) -> TemplateDir {
        let dir = template(machine);
        Note::of(&dir, kind_of("small")).unwrap().write(&dir).unwrap();
        dir
    }

    #[test]
    fn a_copy_becomes_the_machines_own_files() {
        let path = tempfile::tempdir().unwrap();
        let machine = MachineDir::new(path.path());
        assert_eq!(stage(&machine, &kind_of("small")), Ok(false), "there is none");
        noted(&machine);
        assert_eq!(stage(&machine, &kind_of("small")), Ok(true));
        assert!(!machine.upper().exists(), "there is no machine yet");
        place(&machine).unwrap();
        for (name, path) in [
            ("memory", machine.memory()),
            ("devices", machine.devices()),
            ("upper", machine.upper()),
        ] {
            assert_eq!(std::fs::read_to_string(path).unwrap(), name);
        }
        assert!(!machine.template().path().exists());
    }

    #[test]
    fn kinds_have_names_of_their_own_and_one_of_another_boot_is_over() {
        let path = tempfile::tempdir().unwrap();
        let machine = MachineDir::new(path.path());
        let here = Kind::from([(HOST.to_owned(), host())]);
        assert_ne!(name(&here), name(&kind_of("small")));
        assert_eq!((name(&here).len(), name(&here)), (NAME_CHARS, name(&here.clone())));
        let dir = template(&machine);
        assert!(!is_current(&dir));
        Note::of(&dir, here).unwrap().write(&dir).unwrap();
        assert!(is_current(&dir));
        Note::of(&dir, Kind::from([(HOST.to_owned(), "before".to_owned())]))
            .unwrap()
            .write(&dir)
            .unwrap();
        assert!(!is_current(&dir));
    }

    #[test]
    fn without_its_note_it_is_none() {
        let path = tempfile::tempdir().unwrap();
        let machine = MachineDir::new(path.path());
        template(&machine);
        assert_eq!(stage(&machine, &kind_of("small")), Ok(false));
        assert!(!machine.memory().exists() && !machine.template().path().exists());
        // Nor one of which a keeper that was killed had taken a part.
        noted(&machine);
        stage(&machine, &kind_of("small")).unwrap();
        let why = stage(&machine, &kind_of("small")).unwrap_err();
        assert!(why.contains("is missing"), "{why}");
        // One that turns out not to be needed leaves nothing.
        noted(&machine);
        stage(&machine, &kind_of("small")).unwrap();
        unstage(&machine);
        assert_eq!(std::fs::read_dir(machine.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_does_not_fit_is_thrown_away_and_says_why() {
        let path = tempfile::tempdir().unwrap();
        let machine = MachineDir::new(path.path());
        type Damage = fn(&TemplateDir);
        let damages: [(&str, &str, Damage); 5] = [
            ("large", "its size is another one", |_| ()),
            ("small", "its memory is damaged", |dir| std::fs::write(dir.memory(), "m").unwrap()),
            ("small", "is missing", |dir| std::fs::remove_file(dir.upper()).unwrap()),
            ("small", "cannot be read", |dir| std::fs::write(dir.note(), "{").unwrap()),
            ("small", "another version", |dir| {
                let note = Note { format: FORMAT + 1, ..Note::read(dir).unwrap().unwrap() };
                note.write(dir).unwrap();
            }),
        ];
        for (size, expected, damage) in damages {
            damage(&noted(&machine));
            let why = stage(&machine, &kind_of(size)).unwrap_err();
            assert!(why.contains(expected), "{why}");
            for gone in [machine.template().path(), &machine.upper(), &machine.memory()] {
                assert!(!gone.exists(), "{} after: {why}", gone.display());
            }
        }
    }
}
