//! Plain data of the trait.

use serde::{Deserialize, Serialize};

use crate::{Errno, FsError, Result};

/// The number of an inode: stable for its life, never used again after.
pub type Ino = u64;

/// The root directory of every tree.
pub const ROOT: Ino = 1;

/// The longest name in bytes (Linux `NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;

/// Nanoseconds since 1970, negative before.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Time(pub i64);

impl Time {
    /// From seconds and nanoseconds; saturates at the ends (years 1677 and 2262).
    #[must_use]
    pub fn from_parts(seconds: i64, nanos: u32) -> Self {
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(nanos)))
    }

    /// Whole seconds, rounded down.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Nanoseconds within the second, 0 to 999,999,999.
    #[must_use]
    pub fn nanos(self) -> u32 {
        u32::try_from(self.0.rem_euclid(1_000_000_000)).unwrap_or(0)
    }
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl Kind {
    /// The `S_IFMT` bits.
    #[must_use]
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDevice => 0o020_000,
            Self::Directory => 0o040_000,
            Self::BlockDevice => 0o060_000,
            Self::File => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }

    /// From a mode word; `None` for bits that name no kind.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o010_000 => Self::Fifo,
            0o020_000 => Self::CharDevice,
            0o040_000 => Self::Directory,
            0o060_000 => Self::BlockDevice,
            0o100_000 => Self::File,
            0o120_000 => Self::Symlink,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }
}

/// User and group of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky: `mode & 0o7777`.
    pub perm: u32,
    /// How many names it has.
    pub nlink: u32,
    /// Who owns it.
    pub owner: Owner,
    /// Device number, for devices.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Allocated space in 512-byte units; smaller than `size / 512` for sparse files.
    pub blocks: u64,
    /// Last access. May lag (docs/semantics.md, Times).
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of content or attributes.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
    /// Grows with every change of content, mode or owner; with `ino` it makes the `ETag`.
    pub version: u64,
}

/// A new time for `setattr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The file system's own now.
    Now,
    /// This very time.
    At(Time),
}

/// The attributes to change; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits, `0o7777` at most.
    pub perm: Option<u32>,
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// What it names.
    pub attr: Attr,
    /// Hand back to go on after this entry. Never 0, below 2^63.
    pub cookie: u64,
}

/// How `rename` treats what stands at the new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RenameFlags {
    /// Replace it.
    #[default]
    Replace,
    /// Fail with `EEXIST` (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swap the two (`RENAME_EXCHANGE`).
    Exchange,
}

/// Whether `setxattr` may create or replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XattrMode {
    /// Either.
    #[default]
    Any,
    /// `EEXIST` where it is set already.
    Create,
    /// `ENODATA` where it is not.
    Replace,
}

/// Where to seek from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekFrom {
    /// The first data at or after this offset.
    Data(u64),
    /// The first hole at or after this offset; the end of the file is one.
    Hole(u64),
}

/// Sizes of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatFs {
    /// Bytes that may be stored.
    pub bytes_max: u64,
    /// Bytes that are.
    pub bytes_used: u64,
    /// Inodes that exist.
    pub inodes_used: u64,
}

/// What must stand at a path for an operation to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expect {
    /// Anything or nothing.
    #[default]
    Any,
    /// Nothing; else `EEXIST`.
    Absent,
    /// Something (`If-Match: *`); else `ESTALE`.
    Present,
    /// This inode at this [`Attr::version`]; else `ESTALE`.
    Version(Ino, u64),
}

/// What an atomic change touched, for whoever caches names and attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    /// Names that changed their meaning.
    pub entries: Vec<(Ino, Vec<u8>)>,
    /// Inodes whose attributes or content changed.
    pub inodes: Vec<Ino>,
}

/// A whole regular file, for [`put_file`](crate::FileSystem::put_file).
#[derive(Debug, Clone, Copy)]
pub struct NewFile<'a> {
    /// All of its bytes.
    pub content: &'a [u8],
    /// Permission bits.
    pub perm: u32,
    /// Who owns it, and the directories that are made for it.
    pub owner: Owner,
}

/// The outcome of [`place`](crate::FileSystem::place).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// True where nothing stood there before.
    pub created: bool,
    /// The attributes after.
    pub attr: Attr,
    /// What changed.
    pub touched: Touched,
}

/// A path to take away in a [`graft`](crate::FileSystem::graft), with all below it.
pub type Removal = Vec<Vec<u8>>;

/// A merge of a detached tree into the visible one.
#[derive(Debug, Clone, Copy)]
pub struct Graft<'a> {
    /// The detached directory whose entries are merged.
    pub from: Ino,
    /// The directory that takes them.
    pub into: Ino,
    /// Paths below `into` that go first. Missing ones are no error.
    pub removals: &'a [Removal],
    /// Directories of the detached tree, maybe `from` itself, that only lead to others: where one
    /// exists already, it keeps its own attributes.
    pub implicit: &'a [Ino],
    /// An entry of `into` that must be this inode at this [`Attr::version`]; else `ESTALE`.
    pub expect: Option<(&'a [u8], Ino, u64)>,
}

/// Checks one name.
///
/// # Errors
/// `ENAMETOOLONG` past 255 bytes, `EINVAL` for an empty one, `.`, `..`, `/` or NUL inside.
pub fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(FsError::new(Errno::ENAMETOOLONG));
    }
    if name.is_empty()
        || name == b"."
        || name == b".."
        || name.iter().any(|b| matches!(b, b'/' | 0))
    {
        return Err(FsError::new(Errno::EINVAL));
    }
    Ok(())
}
