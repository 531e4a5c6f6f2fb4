//! Replies to bytes.
//!
//! A [`Reply`] is built behind room for its header, so that the message is one allocation and one
//! write; content of files goes out from where it is. Its length is set at the end; no field of it comes from the guest but `unique`.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use vfs::{Attr, Errno, FsError, Kind, StatFs, Time};

use crate::abi::{MAJOR, MINOR_MAX, OUT_HEADER_BYTES, STATX_BASIC_AND_BTIME, Writer};
use crate::link::Link;

/// Granularity of `blocks` in `statfs`, and the preferred I/O size.
const BLOCK_BYTES: u32 = 4096;
/// Size of `fuse_entry_out`.
const ENTRY_BYTES: usize = 128;
/// Size of `fuse_dirent` before its name.
const DIRENT_BYTES: usize = 24;

/// An errno for the kernel, in place of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed(pub(crate) i32);

impl From<FsError> for Failed {
    fn from(error: FsError) -> Self {
        Self(error.errno().number())
    }
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Self {
        Self(errno.number())
    }
}

/// How long the kernel may believe what a reply says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ttl {
    pub(crate) entry: Duration,
    pub(crate) attr: Duration,
}

/// The body of a successful reply.
#[derive(Debug)]
pub(crate) struct Reply {
    message: Vec<u8>,
    content: Bytes,
}

/// A reply as it is sent. Content of a file is not copied once more to stand behind its header.
#[derive(Debug)]
pub(crate) struct Outgoing {
    message: Vec<u8>,
    content: Bytes,
}

impl Outgoing {
    /// Writes it.
    pub(crate) fn send(&self, link: &dyn Link) -> io::Result<()> {
        match &self.content[..] {
            [] => link.send(&[&self.message]),
            content => link.send(&[&self.message, content]),
        }
    }

    /// The same in one piece.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.message.extend_from_slice(&self.content);
        self.message
    }
}

impl Reply {
    /// An empty body.
    pub(crate) fn new() -> Self {
        Self::with_capacity(0)
    }

    /// An empty body with room for `body_bytes`.
    pub(crate) fn with_capacity(body_bytes: usize) -> Self {
        let mut message = Vec::with_capacity(OUT_HEADER_BYTES + body_bytes);
        message.zeros(OUT_HEADER_BYTES);
        Self { message, content: Bytes::new() }
    }

    /// A body of this content.
    pub(crate) fn of_content(content: Bytes) -> Self {
        let mut reply = Self::new();
        reply.content = content;
        reply
    }

    /// A body of these bytes.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let mut reply = Self::with_capacity(bytes.len());
        reply.message.bytes(bytes);
        reply
    }

    /// Bytes in the body so far.
    pub(crate) fn len(&self) -> usize {
        self.message.len() - OUT_HEADER_BYTES
    }

    /// The message for the request `unique`.
    pub(crate) fn finish(self, unique: u64) -> Outgoing {
        let Self { mut message, content } = self;
        let len = u32::try_from(message.len() + content.len()).unwrap_or(u32::MAX);
        message[..4].copy_from_slice(&len.to_ne_bytes());
        message[8..16].copy_from_slice(&unique.to_ne_bytes());
        Outgoing { message, content }
    }

    /// `fuse_entry_out`.
    pub(crate) fn entry(mut self, attr: &Attr, ttl: Ttl) -> Self {
        self.push_entry(attr, ttl);
        self
    }

    /// An entry that names nothing, to be remembered for `ttl`.
    pub(crate) fn negative_entry(mut self, ttl: Duration) -> Self {
        self.message.zeros(16).u64(ttl.as_secs()).zeros(8).u32(ttl.subsec_nanos());
        self.message.zeros(ENTRY_BYTES - 36);
        self
    }

    /// `fuse_attr_out`.
    pub(crate) fn attr(mut self, attr: &Attr, ttl: Ttl) -> Self {
        self.message.u64(ttl.attr.as_secs()).u32(ttl.attr.subsec_nanos()).u32(0);
        push_attr(&mut self.message, attr);
        self
    }

    /// `fuse_statx_out`.
    pub(crate) fn statx(mut self, attr: &Attr, ttl: Ttl) -> Self {
        let m = &mut self.message;
        m.u64(ttl.attr.as_secs()).u32(ttl.attr.subsec_nanos()).u32(0).zeros(16);
        m.u32(STATX_BASIC_AND_BTIME).u32(BLOCK_BYTES).u64(0);
        m.u32(attr.nlink).u32(attr.owner.uid).u32(attr.owner.gid);
        // File type and permissions fit into 16 bits by their masks.
        m.u16((attr.kind.mode_bits() | (attr.perm & 0o7777)) as u16).u16(0);
        m.u64(attr.ino).u64(attr.size).u64(attr.blocks).u64(0);
        for time in [attr.atime, attr.btime, attr.ctime, attr.mtime] {
            m.i64(time.seconds()).u32(time.nanos()).u32(0);
        }
        let (major, minor) = split_device(attr.rdev);
        m.u32(major).u32(minor).zeros(8).zeros(14 * 8);
        self
    }

    /// `fuse_open_out`. Handles carry no state, so that they survive a restart of ours.
    pub(crate) fn open(mut self, flags: u32) -> Self {
        self.message.u64(0).u32(flags).u32(0);
        self
    }

    /// `fuse_write_out`.
    pub(crate) fn written(mut self, len: u32) -> Self {
        self.message.u32(len).u32(0);
        self
    }

    /// A structure that is one `u64`.
    pub(crate) fn number(mut self, value: u64) -> Self {
        self.message.u64(value);
        self
    }

    /// `fuse_getxattr_out`: the size that a buffer must have.
    pub(crate) fn size(mut self, size: usize) -> Self {
        self.message.u32(u32::try_from(size).unwrap_or(u32::MAX)).u32(0);
        self
    }

    /// `fuse_statfs_out`.
    pub(crate) fn statfs(mut self, stat: &StatFs) -> Self {
        let block = u64::from(BLOCK_BYTES);
        let free = stat.bytes_max.saturating_sub(stat.bytes_used) / block;
        // Inodes have no bound of their own; 2^32 less what is used is what tools can print.
        let inodes = u64::from(u32::MAX).max(stat.inodes_used);
        let m = &mut self.message;
        m.u64(stat.bytes_max / block).u64(free).u64(free);
        m.u64(inodes).u64(inodes - stat.inodes_used);
        m.u32(BLOCK_BYTES).u32(vfs::NAME_BYTES_MAX as u32).u32(BLOCK_BYTES).zeros(28);
        self
    }

    /// `fuse_init_out`.
    pub(crate) fn init(mut self, out: &InitOut) -> Self {
        let m = &mut self.message;
        m.u32(MAJOR).u32(out.minor.min(MINOR_MAX)).u32(out.max_readahead).u32(out.flags);
        m.u16(out.max_background).u16(out.congestion_threshold).u32(out.max_write);
        m.u32(1).u16(out.max_pages).u16(0).u32(0).zeros(28);
        self
    }

    /// Adds a directory entry; the caller has looked for room ([`dirent_bytes`]).
    pub(crate) fn push_dirent(&mut self, dirent: &Dirent<'_>) {
        let end = self.message.len() + dirent_bytes(dirent.name, dirent.plus.is_some());
        match dirent.plus {
            Some(Some((attr, ttl))) => self.push_entry(attr, ttl),
            Some(None) => _ = self.message.zeros(ENTRY_BYTES),
            None => {}
        }
        let name_len = u32::try_from(dirent.name.len()).unwrap_or(u32::MAX);
        self.message.u64(dirent.ino).u64(dirent.offset).u32(name_len);
        self.message.u32(dirent.kind.mode_bits() >> 12).bytes(dirent.name);
        self.message.resize(end, 0);
    }

    fn push_entry(&mut self, attr: &Attr, ttl: Ttl) {
        // Numbers of inodes are never used again, so the generation is always 0.
        self.message.u64(attr.ino).u64(0);
        self.message.u64(ttl.entry.as_secs()).u64(ttl.attr.as_secs());
        self.message.u32(ttl.entry.subsec_nanos()).u32(ttl.attr.subsec_nanos());
        push_attr(&mut self.message, attr);
    }
}

/// What we answer to `INIT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InitOut {
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
    pub(crate) max_background: u16,
    pub(crate) congestion_threshold: u16,
    pub(crate) max_write: u32,
    pub(crate) max_pages: u16,
}

/// One entry of a directory, on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dirent<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) ino: u64,
    pub(crate) kind: Kind,
    /// Where the next read goes on.
    pub(crate) offset: u64,
    /// `None` for `READDIR`; for `READDIRPLUS` the attributes, or none for `.` and `..`.
    pub(crate) plus: Option<Option<(&'a Attr, Ttl)>>,
}

/// What an entry takes in a reply to `READDIR`, or with `plus` to `READDIRPLUS`.
pub(crate) fn dirent_bytes(name: &[u8], plus: bool) -> usize {
    let entry = if plus { ENTRY_BYTES } else { 0 };
    (entry + DIRENT_BYTES + name.len()).next_multiple_of(8)
}

/// The message that says that request `unique` failed.
pub(crate) fn failure(unique: u64, Failed(errno): Failed) -> Outgoing {
    let mut message = Vec::with_capacity(OUT_HEADER_BYTES);
    message.u32(OUT_HEADER_BYTES as u32).bytes(&(-errno).to_ne_bytes()).u64(unique);
    Outgoing { message, content: Bytes::new() }
}

fn push_attr(m: &mut Vec<u8>, attr: &Attr) {
    m.u64(attr.ino).u64(attr.size).u64(attr.blocks);
    let times: [Time; 3] = [attr.atime, attr.mtime, attr.ctime];
    for time in times {
        m.i64(time.seconds());
    }
    for time in times {
        m.u32(time.nanos());
    }
    m.u32(attr.kind.mode_bits() | (attr.perm & 0o7777)).u32(attr.nlink);
    m.u32(attr.owner.uid).u32(attr.owner.gid).u32(attr.rdev).u32(BLOCK_BYTES).u32(0);
}

/// Major and minor of the 32-bit device number that the kernel uses in FUSE.
fn split_device(rdev: u32) -> (u32, u32) {
    ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}
