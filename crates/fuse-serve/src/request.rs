//! Bytes to requests.
//!
//! The bytes come from a guest that may be hostile. Decoding allocates nothing, borrows names and
//! data from the message, and never reads past it; a structure that does not fit is
//! [`Malformed`], which the caller answers with `EINVAL`. Values are not judged here: a name may be
//! `..`, an offset may be anything.
//!
//! # Not here
//! What the requests mean (`dispatch`).

use vfs::{SetAttr, SetTime, Time};

use crate::abi::{IN_HEADER_BYTES, Opcode, Reader, Short, fattr};

/// A header as it came.
pub(crate) type HeaderBytes = [u8; IN_HEADER_BYTES];

/// Where a header says how much stands behind the body; what follows is not used.
const EXTENSION_AT: usize = 36;

/// What every request begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) node: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    extension_bytes: usize,
}

impl Header {
    /// The header of `message`; `None` where there is none, or where its length is a lie.
    pub(crate) fn decode(message: &[u8]) -> Option<Self> {
        Self::read(message).ok()
    }

    /// `message` without what is behind its header, of which a sync needs nothing: so a guest cannot have
    /// megabytes kept for each that waits.
    pub(crate) fn alone(message: &[u8]) -> Option<HeaderBytes> {
        let mut header = *message.first_chunk::<IN_HEADER_BYTES>()?;
        header[..4].copy_from_slice(&(IN_HEADER_BYTES as u32).to_ne_bytes());
        header[EXTENSION_AT..].fill(0);
        Some(header)
    }

    fn read(message: &[u8]) -> Result<Self, Short> {
        let mut reader = Reader::new(message);
        let len = reader.u32()?;
        let opcode = reader.u32()?;
        let unique = reader.u64()?;
        let node = reader.u64()?;
        let uid = reader.u32()?;
        let gid = reader.u32()?;
        let _pid = reader.u32()?;
        let extension_bytes = usize::from(reader.u16()?) * 8;
        if usize::try_from(len).map_err(|_| Short)? != message.len() {
            return Err(Short);
        }
        reader.skip(2)?;
        Ok(Self { opcode, unique, node, uid, gid, extension_bytes })
    }
}

/// What `INIT` says about the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InitIn {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
}

/// A copy between two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) from_offset: u64,
    pub(crate) to: u64,
    pub(crate) to_offset: u64,
    pub(crate) len: u64,
    pub(crate) flags: u64,
}

/// The body of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Request<'a> {
    Init(InitIn),
    Destroy,
    /// Nothing to do and nothing to answer.
    Ignored,
    /// Nothing to do, and the kernel waits for the word.
    Nothing,
    /// What we leave to the kernel, with the errno that tells it so.
    Refused(i32),
    Lookup {
        name: &'a [u8],
    },
    Forget {
        count: u64,
    },
    BatchForget(Forgets<'a>),
    Getattr,
    Statx,
    Setattr {
        set: SetAttr,
        kill_suidgid: bool,
    },
    Readlink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    Mknod {
        name: &'a [u8],
        mode: u32,
        rdev: u32,
    },
    Mkdir {
        name: &'a [u8],
        mode: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    Rmdir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    Link {
        name: &'a [u8],
        old: u64,
    },
    Open {
        flags: u32,
        open_flags: u32,
    },
    Create {
        name: &'a [u8],
        flags: u32,
        mode: u32,
        open_flags: u32,
    },
    Tmpfile {
        mode: u32,
    },
    Read {
        offset: u64,
        size: u32,
    },
    Write {
        offset: u64,
        data: &'a [u8],
        write_flags: u32,
    },
    Statfs,
    /// `FSYNC` and `FSYNCDIR`.
    Fsync,
    Syncfs,
    Setxattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: u32,
    },
    Getxattr {
        name: &'a [u8],
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    Removexattr {
        name: &'a [u8],
    },
    Flush,
    Opendir,
    Readdir {
        offset: u64,
        size: u32,
        plus: bool,
    },
    Fallocate {
        mode: u32,
        offset: u64,
        len: u64,
    },
    Lseek {
        offset: u64,
        whence: u32,
    },
    CopyFileRange {
        copy: Copy,
        wide: bool,
    },
}

/// The pairs of a `BATCH_FORGET`, decoded as they are walked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forgets<'a>(&'a [u8]);

impl Forgets<'_> {
    /// Inode and count of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.chunks_exact(16).filter_map(|pair| {
            let mut reader = Reader::new(pair);
            Some((reader.u64().ok()?, reader.u64().ok()?))
        })
    }
}

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// No such request.
    UnknownOpcode,
    /// The structure does not fit into the message.
    Short,
}

impl From<Short> for Malformed {
    fn from(Short: Short) -> Self {
        Self::Short
    }
}

impl<'a> Request<'a> {
    /// The body of `message`, whose header is `header`.
    pub(crate) fn decode(header: &Header, message: &'a [u8]) -> Result<Self, Malformed> {
        let opcode = Opcode::from_number(header.opcode).ok_or(Malformed::UnknownOpcode)?;
        let body = message.get(IN_HEADER_BYTES..).ok_or(Short)?;
        // Extensions stand at the end. We negotiate none, so they are only cut off.
        let body_len = body.len().checked_sub(header.extension_bytes).ok_or(Short)?;
        let mut reader = Reader::new(&body[..body_len]);
        Ok(Self::body(opcode, &mut reader)?)
    }

    fn body(opcode: Opcode, r: &mut Reader<'a>) -> Result<Self, Short> {
        const ENOSYS: i32 = vfs::Errno::ENOSYS.number();
        Ok(match opcode {
            Opcode::Init => init(r)?,
            Opcode::Destroy => Self::Destroy,
            Opcode::Interrupt | Opcode::NotifyReply => Self::Ignored,
            Opcode::Release | Opcode::Releasedir => Self::Nothing,
            Opcode::Ioctl => Self::Refused(crate::abi::linux::ENOTTY),
            Opcode::Getlk | Opcode::Setlk | Opcode::Setlkw => Self::Refused(ENOSYS),
            Opcode::Access | Opcode::Bmap | Opcode::Poll => Self::Refused(ENOSYS),
            Opcode::Lookup => Self::Lookup { name: r.name()? },
            Opcode::Forget => Self::Forget { count: r.u64()? },
            Opcode::BatchForget => batch_forget(r)?,
            Opcode::Getattr => Self::Getattr,
            Opcode::Statx => Self::Statx,
            Opcode::Setattr => setattr(r)?,
            Opcode::Readlink => Self::Readlink,
            Opcode::Symlink => Self::Symlink { name: r.name()?, target: r.name()? },
            Opcode::Mknod => mknod(r)?,
            Opcode::Mkdir => {
                let mode = r.u32()?;
                r.skip(4)?;
                Self::Mkdir { mode, name: r.name()? }
            }
            Opcode::Unlink => Self::Unlink { name: r.name()? },
            Opcode::Rmdir => Self::Rmdir { name: r.name()? },
            Opcode::Rename => {
                let new_parent = r.u64()?;
                Self::Rename { new_parent, flags: 0, name: r.name()?, new_name: r.name()? }
            }
            Opcode::Rename2 => {
                let (new_parent, flags) = (r.u64()?, r.u32()?);
                r.skip(4)?;
                Self::Rename { new_parent, flags, name: r.name()?, new_name: r.name()? }
            }
            Opcode::Link => Self::Link { old: r.u64()?, name: r.name()? },
            Opcode::Open => Self::Open { flags: r.u32()?, open_flags: r.u32()? },
            Opcode::Opendir => Self::Opendir,
            Opcode::Create => {
                let (flags, mode) = (r.u32()?, r.u32()?);
                r.skip(4)?;
                Self::Create { flags, mode, open_flags: r.u32()?, name: r.name()? }
            }
            Opcode::Tmpfile => {
                r.skip(4)?;
                Self::Tmpfile { mode: r.u32()? }
            }
            Opcode::Read => {
                let (offset, size) = offset_and_size(r)?;
                Self::Read { offset, size }
            }
            Opcode::Readdir => {
                let (offset, size) = offset_and_size(r)?;
                Self::Readdir { offset, size, plus: false }
            }
            Opcode::Readdirplus => {
                let (offset, size) = offset_and_size(r)?;
                Self::Readdir { offset, size, plus: true }
            }
            Opcode::Write => write(r)?,
            Opcode::Statfs => Self::Statfs,
            Opcode::Fsync | Opcode::Fsyncdir => Self::Fsync,
            Opcode::Syncfs => Self::Syncfs,
            Opcode::Setxattr => setxattr(r)?,
            Opcode::Getxattr => {
                let size = r.u32()?;
                r.skip(4)?;
                Self::Getxattr { size, name: r.name()? }
            }
            Opcode::Listxattr => Self::Listxattr { size: r.u32()? },
            Opcode::Removexattr => Self::Removexattr { name: r.name()? },
            Opcode::Flush => Self::Flush,
            Opcode::Fallocate => {
                r.skip(8)?;
                Self::Fallocate { offset: r.u64()?, len: r.u64()?, mode: r.u32()? }
            }
            Opcode::Lseek => {
                r.skip(8)?;
                Self::Lseek { offset: r.u64()?, whence: r.u32()? }
            }
            Opcode::CopyFileRange => Self::CopyFileRange { copy: copy(r)?, wide: false },
            Opcode::CopyFileRange64 => Self::CopyFileRange { copy: copy(r)?, wide: true },
        })
    }
}

fn init<'a>(r: &mut Reader<'a>) -> Result<Request<'a>, Short> {
    let (major, minor) = (r.u32()?, r.u32()?);
    Ok(Request::Init(InitIn { major, minor, max_readahead: r.u32()?, flags: r.u32()? }))
}

fn batch_forget<'a>(r: &mut Reader<'a>) -> Result<Request<'a>, Short> {
    let count = usize::try_from(r.u32()?).map_err(|_| Short)?;
    r.skip(4)?;
    let pairs = r.take(count.checked_mul(16).ok_or(Short)?)?;
    Ok(Request::BatchForget(Forgets(pairs)))
}

fn setattr<'a>(r: &mut Reader<'a>) -> Result<Request<'a>, Short> {
    let valid = r.u32()?;
    r.skip(4 + 8)?;
    let size = r.u64()?;
    r.skip(8)?;
    let (atime, mtime, _ctime) = (r.u64()?, r.u64()?, r.u64()?);
    let (atime_nanos, mtime_nanos, _ctime_nanos) = (r.u32()?, r.u32()?, r.u32()?);
    let mode = r.u32()?;
    r.skip(4)?;
    let (uid, gid) = (r.u32()?, r.u32()?);
    let has = |bit: u32| valid & bit != 0;
    let time = |set: u32, now: u32, seconds: u64, nanos: u32| {
        if has(now) {
            Some(SetTime::Now)
        } else {
            // The kernel sends seconds before 1970 as two's complement.
            has(set).then(|| SetTime::At(Time::from_parts(seconds.cast_signed(), nanos)))
        }
    };
    let set = SetAttr {
        perm: has(fattr::MODE).then_some(mode & 0o7777),
        uid: has(fattr::UID).then_some(uid),
        gid: has(fattr::GID).then_some(gid),
        size: has(fattr::SIZE).then_some(size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, atime, atime_nanos),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, mtime, mtime_nanos),
    };
    Ok(Request::Setattr { set, kill_suidgid: has(fattr::KILL_SUIDGID) })
}

fn mknod<'a>(r: &mut Reader<'a>) -> Result<Request<'a>, Short> {
    let (mode, rdev) = (r.u32()?, r.u32()?);
    r.skip(8)?;
    Ok(Request::Mknod { mode, rdev, name: r.name()? })
}

/// `fuse_read_in` as far as it matters: handles carry no state here.
fn offset_and_size(r: &mut Reader<'_>) -> Result<(u64, u32), Short> {
    r.skip(8)?;
    Ok((r.u64()?, r.u32()?))
}

fn write<'a>(r: &mut Reader<'a>) -> Result<Request<'a>, Short> {
    r.skip(8)?;
    let (offset, size, write_flags) = (r.u64()?, r.u32()?, r.u32()?);
    r.skip(16)?;
    let data = r.take(usize::try_from(size).map_err(|_| Short)?)?;
    Ok(Request::Write { offset, data, write_flags })
}

fn setxattr<'a>(r: &mut Reader<'a>) -> Result<Request<'a>, Short> {
    let (size, flags) = (r.u32()?, r.u32()?);
    let name = r.name()?;
    let value = r.take(usize::try_from(size).map_err(|_| Short)?)?;
    Ok(Request::Setxattr { name, value, flags })
}

fn copy(r: &mut Reader<'_>) -> Result<Copy, Short> {
    r.skip(8)?;
    let (from_offset, to) = (r.u64()?, r.u64()?);
    r.skip(8)?;
    Ok(Copy { from_offset, to, to_offset: r.u64()?, len: r.u64()?, flags: r.u64()? })
}

#[cfg(test)]
mod tests;
