//! The file-system trait, and what can be built on it alone.
//!
//! [`FileSystem`] is inode-based and synchronous, in the shape that a kernel asks for it. Two kinds
//! of caller use it: `fuse-serve`, for guests and host mounts, and the path operations here
//! ([`path_ops`], [`tar`]), for HTTP. Neither knows which file system it serves.
//!
//! # Invariants
//! - Names are bytes without `/` and NUL, 1 to 255 of them, never `.` or `..` ([`check_name`]).
//! - A call that returns `Ok` is visible to every later call. Durability is a separate question:
//!   [`FileSystem::sync_local`] and [`FileSystem::sync`].
//! - Nothing here touches a path of the host.
//!
//! # Not here
//! Permission checks: a kernel does them (`default_permissions`), and the HTTP faces act as root.

mod error;
mod held;
mod in_steps;
pub mod memfs;
pub mod nullfs;
pub mod path;
pub mod path_ops;
pub mod suite;
pub mod tar;
mod types;

pub use error::{Errno, FsError, Result};
pub use in_steps::put_in_steps;
pub use types::{
    Attr, DirEntry, Expect, Graft, Ino, Kind, NAME_BYTES_MAX, NewFile, Owner, Placed, ROOT,
    Removal, RenameFlags, SeekFrom, SetAttr, SetTime, StatFs, Time, Touched, XattrMode, check_name,
};

use bytes::Bytes;

/// A POSIX tree of inodes.
///
/// Every method may block. Errors carry an errno, because most callers are kernels.
pub trait FileSystem: Send + Sync + std::fmt::Debug + 'static {
    /// The inode that `name` names in `parent`.
    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr>;
    /// Attributes of `ino`, also of one that no directory names any more but that is pinned.
    fn getattr(&self, ino: Ino) -> Result<Attr>;
    /// Changes attributes; a size change truncates or extends with zeros.
    fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr>;

    /// Keeps `ino` alive while nothing names it. Counted; survives unlink, not a restart.
    fn pin(&self, ino: Ino);
    /// Takes one [`pin`](Self::pin) back. The last one frees an inode that nothing names.
    fn unpin(&self, ino: Ino);

    /// Makes a file, directory, fifo, socket or device. `rdev` counts for devices only.
    fn mknod(
        &self,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        perm: u32,
        owner: Owner,
        rdev: u32,
    ) -> Result<Attr>;
    /// Makes a symbolic link. `target` is any bytes without NUL, 1 to 4,095 of them (`ENOENT` for
    /// none, as of Linux), and looked at before anything else.
    fn symlink(&self, parent: Ino, name: &[u8], target: &[u8], owner: Owner) -> Result<Attr>;
    /// What a symbolic link points at.
    fn readlink(&self, ino: Ino) -> Result<Vec<u8>>;
    /// Another name for `ino`, which must not be a directory (`EPERM`). One that lost its last name
    /// gets none again, however long it is pinned (`ENOENT`); a detached one gets its first. As of
    /// Linux, the new name is looked at before what is to get it.
    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr>;
    /// Removes a name that is not a directory.
    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()>;
    /// Removes an empty directory.
    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()>;
    /// Moves a name, atomically replacing or exchanging as `flags` say.
    fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()>;
    /// Up to `max` entries after `cookie` (0 starts), ordered by cookie, without `.` and `..`.
    /// An entry that exists during the whole walk is seen exactly once.
    fn readdir(&self, ino: Ino, cookie: u64, max: usize) -> Result<Vec<DirEntry>>;

    /// Up to `len` bytes at `offset`; fewer only at the end of the file.
    fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes>;
    /// Writes all of `data` at `offset`, extending the file with zeros where needed.
    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<()>;
    /// `fallocate(2)`; `mode` is the Linux flag word. Unknown modes: `EOPNOTSUPP`.
    fn fallocate(&self, ino: Ino, mode: u32, offset: u64, len: u64) -> Result<()>;
    /// `SEEK_DATA` and `SEEK_HOLE`.
    fn seek(&self, ino: Ino, from: SeekFrom) -> Result<u64>;

    /// The value of an extended attribute.
    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>>;
    /// Sets an extended attribute.
    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()>;
    /// The names of all extended attributes.
    fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>>;
    /// Removes an extended attribute.
    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()>;

    /// Sizes and counts of the whole tree.
    fn statfs(&self) -> Result<StatFs>;

    /// Returns when everything acknowledged so far survives power loss on this host.
    fn sync_local(&self) -> Result<()>;
    /// Returns when `ino` (or, with `None`, everything) survives the loss of this host.
    fn sync(&self, ino: Option<Ino>) -> Result<()>;

    /// An inode that no directory names: invisible, gone at restart unless it is placed. The
    /// caller owns one pin on it and gives it back with [`unpin`](Self::unpin), placed or not.
    /// A file or a directory; any other kind is `EINVAL`.
    fn create_detached(&self, kind: Kind, perm: u32, owner: Owner) -> Result<Attr>;
    /// Gives a detached non-directory, one that never had a name, its first, in one step: makes the missing directories of
    /// `path` below `base` (mode 0755), checks `expect` against what stands there, and replaces
    /// it unless it is a directory. `path` is not empty; symbolic links in it are not followed.
    fn place(&self, ino: Ino, base: Ino, path: &[&[u8]], expect: Expect) -> Result<Placed>;
    /// [`create_detached`](Self::create_detached), [`write`](Self::write) and [`place`](Self::place) of a
    /// regular file, for callers that have all of its bytes. Where it fails, nothing has changed.
    fn put_file(
        &self,
        base: Ino,
        path: &[&[u8]],
        file: &NewFile<'_>,
        expect: Expect,
    ) -> Result<Placed> {
        put_in_steps(self, base, path, file, expect)
    }
    /// Merges a detached tree into the directory `into`, after removing what `removals` name, all
    /// in one step: a reader sees the old tree or the new one. A removed directory takes nothing
    /// (`ENOENT`), and is no detached one (`EINVAL`). Directories merge and take the attributes of
    /// the detached one unless it is `implicit`, extended ones too, in place of those they had;
    /// anything else replaces. Nothing is left in the detached tree. A non-directory over a directory that has entries, or a directory
    /// over a non-directory: `EEXIST`, and nothing is changed.
    fn graft(&self, graft: &Graft<'_>) -> Result<Touched>;
}
