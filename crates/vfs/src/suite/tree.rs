//! The tree under test, and short words for what the cases do with it.

use std::panic::Location;
use std::sync::Arc;

use crate::{
    Attr, Errno, FileSystem, Ino, Kind, Owner, ROOT, RenameFlags, Result, SetAttr, SetTime, Time,
};

/// Whoever makes things in the suite.
pub(super) const OWNER: Owner = Owner { uid: 1000, gid: 1001 };

/// A file system, with helpers that fail at the place of their caller.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) fs: Arc<dyn FileSystem>,
}

/// The value of `result`, or a failure of the case.
#[track_caller]
pub(super) fn ok<T>(result: Result<T>) -> T {
    let at = Location::caller();
    match result {
        Ok(value) => value,
        Err(error) => panic!("{at}: failed with {:?} ({error})", error.errno()),
    }
}

/// Fails unless `result` is an error with one of these numbers.
#[track_caller]
pub(super) fn fails<T>(result: Result<T>, with: &[Errno]) {
    let at = Location::caller();
    match result {
        Ok(_) => panic!("{at}: succeeded, {with:?} expected"),
        Err(error) => {
            assert!(with.contains(&error.errno()), "{at}: {:?}, {with:?} expected", error.errno());
        }
    }
}

/// Fails unless both are the same.
#[track_caller]
pub(super) fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T) {
    let at = Location::caller();
    assert!(found == expected, "{at}: found {found:?}, expected {expected:?}");
}

impl Tree {
    pub(super) fn new(fs: Arc<dyn FileSystem>) -> Self {
        Self { fs }
    }

    #[track_caller]
    pub(super) fn mknod(&self, parent: Ino, name: &str, kind: Kind) -> Ino {
        ok(self.fs.mknod(parent, name.as_bytes(), kind, 0o644, OWNER, 0)).ino
    }

    #[track_caller]
    pub(super) fn file(&self, name: &str) -> Ino {
        self.mknod(ROOT, name, Kind::File)
    }

    #[track_caller]
    pub(super) fn file_with(&self, parent: Ino, name: &str, content: &[u8]) -> Ino {
        let ino = self.mknod(parent, name, Kind::File);
        ok(self.fs.write(ino, 0, content));
        ino
    }

    #[track_caller]
    pub(super) fn dir(&self, name: &str) -> Ino {
        self.dir_in(ROOT, name)
    }

    #[track_caller]
    pub(super) fn dir_in(&self, parent: Ino, name: &str) -> Ino {
        ok(self.fs.mknod(parent, name.as_bytes(), Kind::Directory, 0o755, OWNER, 0)).ino
    }

    pub(super) fn look(&self, parent: Ino, name: &str) -> Result<Attr> {
        self.fs.lookup(parent, name.as_bytes())
    }

    /// The inode at a path from the root.
    #[track_caller]
    pub(super) fn at(&self, path: &str) -> Ino {
        path.split('/').fold(ROOT, |parent, name| ok(self.look(parent, name)).ino)
    }

    #[track_caller]
    pub(super) fn gone(&self, parent: Ino, name: &str) {
        fails(self.look(parent, name), &[Errno::ENOENT]);
    }

    #[track_caller]
    pub(super) fn attr(&self, ino: Ino) -> Attr {
        ok(self.fs.getattr(ino))
    }

    #[track_caller]
    pub(super) fn content(&self, ino: Ino) -> Vec<u8> {
        let len = u32::try_from(self.attr(ino).size).unwrap_or(u32::MAX);
        ok(self.fs.read(ino, 0, len)).to_vec()
    }

    pub(super) fn rename(
        &self,
        from: (Ino, &str),
        to: (Ino, &str),
        flags: RenameFlags,
    ) -> Result<()> {
        self.fs.rename(from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), flags)
    }

    #[track_caller]
    pub(super) fn resize(&self, ino: Ino, size: u64) {
        same(
            ok(self.fs.setattr(ino, &SetAttr { size: Some(size), ..SetAttr::default() })).size,
            size,
        );
    }

    /// Puts both times back to 1970, so that a change of either shows even on a slow clock.
    #[track_caller]
    pub(super) fn age(&self, ino: Ino) {
        let old = Some(SetTime::At(Time(1_000_000_007)));
        ok(self.fs.setattr(ino, &SetAttr { atime: old, mtime: old, ..SetAttr::default() }));
    }

    /// True where the content's time moved since [`age`](Self::age).
    #[track_caller]
    pub(super) fn is_fresh(&self, ino: Ino) -> bool {
        self.attr(ino).mtime != Time(1_000_000_007)
    }

    /// Names in `ino`, sorted.
    #[track_caller]
    pub(super) fn names(&self, ino: Ino) -> Vec<String> {
        let entries = ok(self.fs.readdir(ino, 0, 10_000));
        let mut names: Vec<_> =
            entries.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect();
        names.sort();
        names
    }
}
