//! Where templates lie: `DATA/templates`.
//!
//! ```text
//! templates/<kind>/       a template (see `keeper::template`)
//! templates/<kind>.<n>/   a copy of it that a new machine can have by rename
//! templates/new-<n>/      something that is being made, or taken away
//! ```
//!
//! # Invariants
//! - A template or a copy gets its name when it is whole.
//! - Everything is given, put and taken away by one rename: whoever comes second finds nothing.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use keeper::template::{self, Kind, TemplateDir};

use super::copy::copy;
use super::policy::{SPARES, Shelved};

const NEW: &str = "new-";

/// See the module.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    made: AtomicU64,
}

impl Shelf {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, made: AtomicU64::new(0) }
    }

    /// Where it is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn template(&self, name: &str) -> TemplateDir {
        TemplateDir::new(self.dir.join(name))
    }

    fn spares(&self, name: &str) -> impl Iterator<Item = TemplateDir> {
        (0..SPARES).map(move |n| TemplateDir::new(self.dir.join(format!("{name}.{n}"))))
    }

    /// A name for something that is not whole.
    fn unnamed(&self) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{NEW}{number}"))
    }

    /// An empty directory to make one in.
    pub(super) fn begin(&self) -> io::Result<TemplateDir> {
        let dir = self.unnamed();
        let make = |path: &Path| fs::DirBuilder::new().mode(0o700).recursive(true).create(path);
        make(&self.dir)?;
        // Left by a server that was killed.
        TemplateDir::new(&dir).remove();
        make(&dir)?;
        Ok(TemplateDir::new(dir))
    }

    /// Takes away what is not whole, and templates that no machine can begin with any more.
    pub(super) fn tidy(&self) {
        for name in self.entries() {
            let dir = self.template(&name);
            if name.starts_with(NEW) || !template::is_current(&dir) {
                dir.remove();
            }
        }
    }

    /// Whether there is a template that fits.
    ///
    /// # Errors
    /// Why the one that is there does not.
    pub(super) fn has(&self, name: &str, kind: &Kind) -> Result<bool, String> {
        template::fits(&self.template(name), kind)
    }

    /// Puts one that was made in its place.
    pub(super) fn put(&self, made: &TemplateDir, name: &str) -> io::Result<()> {
        self.remove(name);
        fs::rename(made.path(), self.template(name).path())
    }

    /// Gives a copy: one that lies ready, or else a new one.
    pub(super) fn give(&self, name: &str, to: &TemplateDir) -> io::Result<()> {
        for spare in self.spares(name) {
            match fs::rename(spare.path(), to.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                given => return given,
            }
        }
        self.copy_to(name, to.path())
    }

    /// Makes copies until all lie ready.
    pub(super) fn refill(&self, name: &str) -> io::Result<()> {
        for spare in self.spares(name) {
            if !spare.path().exists() && self.template(name).path().exists() {
                self.copy_to(name, spare.path())?;
            }
        }
        Ok(())
    }

    fn copy_to(&self, name: &str, to: &Path) -> io::Result<()> {
        let (from, new) = (self.template(name), self.begin()?);
        let copied = || {
            let before = identity(&from.note())?;
            copy(&from.memory(), &new.memory())?;
            copy(&from.devices(), &new.devices())?;
            // The machine keeps it beyond the loss of this host's power, which the others are not to outlive.
            copy(&from.upper(), &new.upper())?.sync_all()?;
            copy(&from.note(), &new.note())?;
            // Files of two guests would be neither.
            if identity(&from.note())? != before {
                return Err(io::Error::other("it was replaced while it was copied"));
            }
            fs::rename(new.path(), to)
        };
        copied().inspect_err(|_| new.remove())
    }

    /// Memory of its guest; 0 where there is none.
    pub(super) fn memory_mib(&self, name: &str) -> u64 {
        fs::metadata(self.template(name).memory()).map_or(0, |meta| meta.len() >> 20)
    }

    /// Notes that it was used.
    pub(super) fn touch(&self, name: &str) {
        let note = fs::File::options().write(true).open(self.template(name).note());
        if let Err(error) = note.and_then(|note| note.set_modified(SystemTime::now())) {
            tracing::debug!(%error, name, "note the use of a template");
        }
    }

    /// Takes a template away, and its copies.
    pub(super) fn remove(&self, name: &str) {
        // First, so that nobody copies from what is half gone.
        let dirs = std::iter::once(self.template(name)).chain(self.spares(name));
        for dir in dirs {
            let gone = self.unnamed();
            if fs::rename(dir.path(), &gone).is_ok() {
                TemplateDir::new(gone).remove();
            }
        }
    }

    /// All templates.
    pub(super) fn list(&self) -> Vec<Shelved> {
        let names = self.entries();
        let templates = names.iter().filter(|name| !name.contains('.') && !name.starts_with(NEW));
        let shelved = templates.map(|name| Shelved {
            bytes: std::iter::once(self.template(name))
                .chain(self.spares(name))
                .map(bytes_of)
                .sum(),
            used: used(&self.template(name)),
            name: name.clone(),
        });
        shelved.collect()
    }

    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// Which file it is, whatever its times are: those of a template that is used change.
fn identity(path: &Path) -> io::Result<(u64, SystemTime)> {
    let meta = fs::metadata(path)?;
    Ok((meta.ino(), meta.created().unwrap_or(UNIX_EPOCH)))
}

fn bytes_of(dir: TemplateDir) -> u64 {
    let allocated = |path: PathBuf| fs::metadata(path).map_or(0, |meta| meta.blocks() * 512);
    dir.files().into_iter().map(|(_, path)| allocated(path)).sum()
}

fn used(dir: &TemplateDir) -> i64 {
    let modified = fs::metadata(dir.note()).and_then(|meta| meta.modified()).ok();
    let since = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use keeper::template::Note;

    use super::*;

    fn kind() -> Kind {
        let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        Kind::from([("host".to_owned(), host.trim().to_owned())])
    }

    fn put(shelf: &Shelf, name: &str) {
        let made = shelf.begin().unwrap();
        for (content, path) in made.files() {
            fs::write(path, content).unwrap();
        }
        Note::of(&made, kind()).unwrap().write(&made).unwrap();
        shelf.put(&made, name).unwrap();
    }

    fn names(shelf: &Shelf) -> Vec<String> {
        let mut names = shelf.entries();
        names.sort();
        names
    }

    #[test]
    fn a_machine_is_given_what_lies_ready_or_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path().join("templates"));
        assert_eq!(shelf.has("a", &kind()), Ok(false));
        put(&shelf, "a");
        assert_eq!(shelf.has("a", &kind()), Ok(true));
        shelf.refill("a").unwrap();
        assert_eq!(names(&shelf), ["a", "a.0", "a.1"]);
        let of_all = shelf.list();
        assert_eq!((of_all.len(), &*of_all[0].name), (1, "a"));
        assert!(of_all[0].used > 1_600_000_000 && of_all[0].bytes > 0);
        for n in 0..4 {
            let to = TemplateDir::new(dir.path().join(n.to_string()));
            shelf.give("a", &to).unwrap();
            assert_eq!(template::fits(&to, &kind()), Ok(true), "copy {n}");
        }
        assert_eq!(names(&shelf), ["a"]);
        shelf.refill("a").unwrap();
        shelf.remove("a");
        assert_eq!(names(&shelf), [""; 0]);
        assert!(shelf.give("a", &TemplateDir::new(dir.path().join("none"))).is_err());
        assert_eq!(names(&shelf), [""; 0], "nothing half made is left");
        shelf.refill("a").unwrap();
    }

    #[test]
    fn what_is_not_whole_or_of_no_use_any_more_goes_when_the_server_starts() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path().join("templates"));
        shelf.tidy();
        put(&shelf, "good");
        shelf.refill("good").unwrap();
        shelf.begin().unwrap();
        put(&shelf, "old");
        let old = shelf.template("old");
        let elsewhere = Kind::from([("host".to_owned(), "another boot".to_owned())]);
        Note::of(&old, elsewhere).unwrap().write(&old).unwrap();
        put(&shelf, "without-note");
        fs::remove_file(shelf.template("without-note").note()).unwrap();
        shelf.tidy();
        assert_eq!(names(&shelf), ["good", "good.0", "good.1"]);
    }
}
