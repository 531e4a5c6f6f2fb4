//! A store in a local directory: one file an object, at its key.
//!
//! # Order of a write
//! The body goes to a file in `.staged/`, which is fsynced; then it gets its name (`link` for
//! create, which fails where there is one; `rename` for put); then the directory is fsynced; then,
//! where this process has not seen to it yet, every directory above.
//!
//! # Invariants
//! - A name never refers to a part of an object.
//! - What `put` and `create` return `Ok` for survives a power failure, even where another process
//!   made the directories: a directory counts as durable by its identity (inode and birth), read
//!   after our file is in it and holds it in place.
//!
//! # Crash
//! A write that did not end leaves a file in `.staged/`, which no listing shows. `open` removes those
//! older than a day; it takes the age from the file system's own clock.
//!
//! # Not here
//! `object_store`'s local store: it lists a whole tree unsorted before it returns the first key.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::limits::{DIRECTORY_RACES_MAX, DURABLE_DIRECTORIES_MAX, LIST_MAX, STAGED_AGE_MAX};
use crate::{Error, ObjectMeta, ObjectStore, Result, file_walk, key};

/// Where bodies are before they have a name. No key begins with a dot.
const STAGED: &str = ".staged";

/// A store in a local directory.
#[derive(Debug, Clone)]
pub(crate) struct FileStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    durable: Mutex<HashMap<PathBuf, Identity>>,
}

/// Tells a directory from a later one of the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: u64,
    born: SystemTime,
}

/// How a staged file gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    Create,
    Replace,
}

impl FileStore {
    /// Opens the directory, making it where it is missing, and writes to it once.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let shared = Shared { root: root.to_owned(), durable: Mutex::default() };
        shared.prepare().map_err(|error| failed(&error))?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Opens a directory that another process of this host has opened and keeps: what that has made and synced
    /// is not synced once more, which costs a start of a machine several writes to the disk.
    pub(crate) fn reopen(root: &Path) -> Result<Self> {
        if !root.join(STAGED).is_dir() {
            return Self::open(root);
        }
        Ok(Self { shared: Arc::new(Shared { root: root.to_owned(), durable: Mutex::default() }) })
    }

    async fn run<T: Send + 'static>(
        &self,
        key: &str,
        call: impl FnOnce(&Shared, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (shared, key) = (Arc::clone(&self.shared), key.to_owned());
        let task = tokio::task::spawn_blocking(move || call(&shared, &key));
        task.await.map_err(|_| Error::unavailable("the process is shutting down"))?
    }
}

impl Shared {
    fn prepare(&self) -> io::Result<()> {
        let staged = self.root.join(STAGED);
        make_directories(&staged)?;
        let (path, file) = self.stage(b"")?;
        fs::remove_file(path)?;
        let now = file.metadata()?.modified()?;
        for entry in fs::read_dir(&staged)? {
            let entry = entry?;
            let Ok(written) = entry.metadata().and_then(|meta| meta.modified()) else { continue };
            if now.duration_since(written).is_ok_and(|age| age > STAGED_AGE_MAX) {
                // Another process may be cleaning up, too.
                fs::remove_file(entry.path()).ok();
            }
        }
        // The names of directories that were just made. Those further up are not ours to open,
        // perhaps, and were not made here then.
        for above in staged.ancestors().skip(1) {
            File::open(above).and_then(|directory| directory.sync_all()).ok();
        }
        Ok(())
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        key::check(key)?;
        Ok(self.root.join(key))
    }

    /// Writes `body` to a file without a key, durably.
    fn stage(&self, body: &[u8]) -> io::Result<(PathBuf, File)> {
        let path = self.root.join(STAGED).join(format!("{:032x}", rand::random::<u128>()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let written = file.write_all(body).and_then(|()| file.sync_all());
        match written {
            Ok(()) => Ok((path, file)),
            Err(error) => {
                // The write's own error is what counts; `open` removes what stays behind.
                fs::remove_file(&path).ok();
                Err(error)
            }
        }
    }

    fn store(&self, target: &Path, body: &[u8], naming: Naming) -> io::Result<()> {
        let (staged, _) = self.stage(body)?;
        let named = self.name(&staged, target, naming);
        if naming == Naming::Create || named.is_err() {
            fs::remove_file(&staged).ok();
        }
        named?;
        self.make_durable(target)
    }

    fn name(&self, staged: &Path, target: &Path, naming: Naming) -> io::Result<()> {
        let mut races = 0;
        loop {
            let named = match naming {
                Naming::Create => fs::hard_link(staged, target),
                Naming::Replace => fs::rename(staged, target),
            };
            match named {
                // A delete may take a directory away again before we use it.
                Err(error)
                    if error.kind() == ErrorKind::NotFound && races < DIRECTORY_RACES_MAX =>
                {
                    races += 1;
                    match make_directories(target.parent().unwrap_or(&self.root)) {
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        made => made?,
                    }
                }
                other => return other,
            }
        }
    }

    /// Makes the name `target` survive a power failure.
    fn make_durable(&self, target: &Path) -> io::Result<()> {
        match self.sync_directories(target) {
            // Only the deletion of our object lets go of its directories.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            synced => synced,
        }
    }

    fn sync_directories(&self, target: &Path) -> io::Result<()> {
        let Some(parent) = target.parent() else { return Ok(()) };
        let directory = File::open(parent)?;
        directory.sync_all()?;
        let identity = Identity::of(&directory)?;
        if identity.is_some() && self.durable.lock().get(parent) == identity.as_ref() {
            return Ok(());
        }
        for above in parent.ancestors().skip(1).take_while(|above| above.starts_with(&self.root)) {
            File::open(above)?.sync_all()?;
        }
        if let Some(identity) = identity {
            let mut durable = self.durable.lock();
            if durable.len() >= DURABLE_DIRECTORIES_MAX {
                durable.clear();
            }
            durable.insert(parent.to_owned(), identity);
        }
        Ok(())
    }

    /// Removes the directories above `target` that it leaves empty.
    fn prune(&self, target: &Path) {
        let inside = |path: &&Path| path.starts_with(&self.root) && *path != self.root;
        for directory in target.ancestors().skip(1).take_while(inside) {
            if fs::remove_dir(directory).is_err() {
                return; // Not empty, or gone already.
            }
        }
    }

    fn create(&self, key: &str, body: &[u8]) -> Result<()> {
        let target = self.path(key)?;
        for _ in 0..DIRECTORY_RACES_MAX {
            match self.store(&target, body, Naming::Create) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                other => return other.map_err(|error| failed(&error)),
            }
            match read(&target, None) {
                // An attempt of ours may have ended between the name and its fsync.
                Ok(stored) if stored == body => {
                    return self.make_durable(&target).map_err(|error| failed(&error));
                }
                Ok(_) => return Err(Error::exists(key)),
                Err(error) if is_missing(&error) && target.is_dir() => {
                    return Err(failed(&ErrorKind::IsADirectory.into()));
                }
                // Deleted between the two.
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Err(Error::unavailable("the object is created and deleted over and over"))
    }
}

impl Identity {
    /// `None` where the file system keeps no time of birth: inode numbers alone are used again.
    fn of(directory: &File) -> io::Result<Option<Self>> {
        let meta = directory.metadata()?;
        Ok(meta.created().ok().map(|born| Self { inode: meta.ino(), born }))
    }
}

#[async_trait]
impl ObjectStore for FileStore {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.run(key, move |shared, key| {
            let target = shared.path(key)?;
            shared.store(&target, &body, Naming::Replace).map_err(|error| failed(&error))
        })
        .await
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        self.run(key, move |shared, key| shared.create(key, &body)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.run(key, move |shared, key| {
            let body = read(&shared.path(key)?, range).map_err(|error| named(&error, key))?;
            Ok(body.into())
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.run(key, |shared, key| {
            let meta = fs::metadata(shared.path(key)?).map_err(|error| named(&error, key))?;
            match meta.is_file() {
                true => Ok(ObjectMeta { key: key.to_owned(), size: meta.len() }),
                false => Err(Error::not_found(key)),
            }
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.run(key, |shared, key| {
            let target = shared.path(key)?;
            match fs::remove_file(&target) {
                Ok(()) => shared.prune(&target),
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(failed(&error)),
            }
            Ok(())
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        key::check_prefix(prefix)?;
        after.map(key::check).transpose()?;
        let after = after.unwrap_or_default().to_owned();
        let max = max.min(LIST_MAX);
        self.run(prefix, move |shared, prefix| {
            file_walk::list(&shared.root, prefix, &after, max).map_err(|error| failed(&error))
        })
        .await
    }
}

fn make_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn read(path: &Path, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(ErrorKind::NotFound.into());
    }
    let range = range.unwrap_or(0..meta.len());
    let end = range.end.min(meta.len());
    let len =
        usize::try_from(end.saturating_sub(range.start)).map_err(|_| ErrorKind::OutOfMemory)?;
    let mut body = vec![0; len];
    file.read_exact_at(&mut body, range.start)?;
    Ok(body)
}

/// True where the error says that there is no such object.
fn is_missing(error: &io::Error) -> bool {
    use ErrorKind as K;
    matches!(error.kind(), K::NotFound | K::NotADirectory | K::IsADirectory)
}

fn named(error: &io::Error, key: &str) -> Error {
    if is_missing(error) { Error::not_found(key) } else { failed(error) }
}

fn failed(error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::PermissionDenied => Error::Denied {
            message: format!("{error}: the directory of the file store must be ours to write"),
        },
        ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::DirectoryNotEmpty => {
            Error::BadKey { reason: "a file store cannot hold a key and another one below it" }
        }
        ErrorKind::Unsupported => {
            Error::unusable("the file system of the file store has no hard links: use another one")
        }
        _ => Error::unavailable(format!("file store: {error}")),
    }
}
