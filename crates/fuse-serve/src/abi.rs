//! The numbers and layouts of the FUSE kernel protocol, 7.31 to 7.45.
//!
//! Every structure is read and written field by field in the machine's own byte order: guest and
//! host are the same architecture. Nothing is cast, so no layout of ours matters and no length is
//! trusted. Only fields that we use have names; the others are skipped by count.
//!
//! # Not here
//! Variable parts (names, data): `request` reads them, `reply` writes them.

/// Major version of the protocol.
pub(crate) const MAJOR: u32 = 7;
/// Newest minor version that we know.
pub(crate) const MINOR_MAX: u32 = 45;
/// Oldest minor version that we serve (Linux 5.4): has `MAX_PAGES` and `CACHE_SYMLINKS`.
pub(crate) const MINOR_MIN: u32 = 31;

/// Length of the header of a request.
pub(crate) const IN_HEADER_BYTES: usize = 40;
/// Length of the header of a reply or notification.
pub(crate) const OUT_HEADER_BYTES: usize = 16;

/// Flags of `INIT`, in both directions.
pub(crate) mod init_flag {
    pub(crate) const ASYNC_READ: u32 = 1 << 0;
    pub(crate) const ATOMIC_O_TRUNC: u32 = 1 << 3;
    pub(crate) const BIG_WRITES: u32 = 1 << 5;
    pub(crate) const DO_READDIRPLUS: u32 = 1 << 13;
    pub(crate) const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub(crate) const NO_OPEN_SUPPORT: u32 = 1 << 17;
    pub(crate) const PARALLEL_DIROPS: u32 = 1 << 18;
    pub(crate) const MAX_PAGES: u32 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u32 = 1 << 23;
    pub(crate) const NO_OPENDIR_SUPPORT: u32 = 1 << 24;
    pub(crate) const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
}

/// `fuse_setattr_in.valid`.
pub(crate) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// Flags in the reply to `OPEN`, `OPENDIR` and `CREATE`.
pub(crate) mod fopen {
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
    pub(crate) const CACHE_DIR: u32 = 1 << 3;
    pub(crate) const NOFLUSH: u32 = 1 << 5;
}

/// `fuse_open_in.open_flags`: the opener may not keep set-uid and set-gid.
pub(crate) const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `fuse_write_in.write_flags`: the writer may not keep set-uid and set-gid.
pub(crate) const WRITE_KILL_SUIDGID: u32 = 1 << 2;

/// Notification codes, in the place of the error.
pub(crate) mod notify_code {
    pub(crate) const INVAL_INODE: i32 = 2;
    pub(crate) const INVAL_ENTRY: i32 = 3;
}

/// `statx` mask: everything that `stat` has, and the birth time.
pub(crate) const STATX_BASIC_AND_BTIME: u32 = 0xfff;

/// Numbers that Linux's system calls use, the same on every architecture we run on.
pub(crate) mod linux {
    pub(crate) const O_TRUNC: u32 = 0o1000;
    pub(crate) const O_EXCL: u32 = 0o200;
    pub(crate) const RENAME_NOREPLACE: u32 = 1;
    pub(crate) const RENAME_EXCHANGE: u32 = 2;
    pub(crate) const XATTR_CREATE: u32 = 1;
    pub(crate) const XATTR_REPLACE: u32 = 2;
    pub(crate) const SEEK_DATA: u32 = 3;
    pub(crate) const SEEK_HOLE: u32 = 4;
    pub(crate) const S_ISUID: u32 = 0o4000;
    pub(crate) const S_ISGID: u32 = 0o2000;
    pub(crate) const S_IXGRP: u32 = 0o010;
    pub(crate) const EBUSY: i32 = 16;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const ENFILE: i32 = 23;
    pub(crate) const ENOSYS: i32 = 38;
    pub(crate) const ENOTTY: i32 = 25;
    pub(crate) const EPROTO: i32 = 71;
}

macro_rules! opcodes {
    ($($name:ident = $number:literal,)*) => {
        /// What a request asks for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Opcode { $($name = $number,)* }

        impl Opcode {
            /// `None` for a number that is none of ours.
            pub(crate) const fn from_number(number: u32) -> Option<Self> {
                Some(match number { $($number => Self::$name,)* _ => return None })
            }

            /// All of them.
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

opcodes! {
    Lookup = 1,
    Forget = 2,
    Getattr = 3,
    Setattr = 4,
    Readlink = 5,
    Symlink = 6,
    Mknod = 8,
    Mkdir = 9,
    Unlink = 10,
    Rmdir = 11,
    Rename = 12,
    Link = 13,
    Open = 14,
    Read = 15,
    Write = 16,
    Statfs = 17,
    Release = 18,
    Fsync = 20,
    Setxattr = 21,
    Getxattr = 22,
    Listxattr = 23,
    Removexattr = 24,
    Flush = 25,
    Init = 26,
    Opendir = 27,
    Readdir = 28,
    Releasedir = 29,
    Fsyncdir = 30,
    Getlk = 31,
    Setlk = 32,
    Setlkw = 33,
    Access = 34,
    Create = 35,
    Interrupt = 36,
    Bmap = 37,
    Destroy = 38,
    Ioctl = 39,
    Poll = 40,
    NotifyReply = 41,
    BatchForget = 42,
    Fallocate = 43,
    Readdirplus = 44,
    Rename2 = 45,
    Lseek = 46,
    CopyFileRange = 47,
    Syncfs = 50,
    Tmpfile = 51,
    Statx = 52,
    CopyFileRange64 = 53,
}

/// A request ended before its structure did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short;

/// Reads a message from its front; every read is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    #[cfg(test)]
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn skip(&mut self, len: usize) -> Result<(), Short> {
        self.take(len).map(|_| ())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_ne_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_ne_bytes)
    }

    /// Bytes up to a NUL, which is taken too.
    pub(crate) fn name(&mut self) -> Result<&'a [u8], Short> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or(Short)?;
        let name = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(name)
    }
}

/// Writes a message; the fields come in the order of the structure.
pub(crate) trait Writer {
    fn u16(&mut self, value: u16) -> &mut Self;
    fn u32(&mut self, value: u32) -> &mut Self;
    fn u64(&mut self, value: u64) -> &mut Self;
    fn i64(&mut self, value: i64) -> &mut Self;
    fn zeros(&mut self, len: usize) -> &mut Self;
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self;
}

impl Writer for Vec<u8> {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn zeros(&mut self, len: usize) -> &mut Self {
        self.resize(self.len() + len, 0);
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend_from_slice(bytes);
        self
    }
}
