//! Numbers and messages of the protocol. Pure.

use std::io;

use crate::limits::PAYLOAD_BYTES_MAX;

/// `NBDMAGIC`: a server greets.
pub(crate) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: it speaks the newstyle handshake; and a client has an option.
pub(crate) const OPTION: u64 = 0x4948_4156_454f_5054;
/// A reply to an option.
pub(crate) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;

/// Bytes of a request without its payload.
pub(crate) const REQUEST_BYTES: usize = 28;
/// Bytes of a reply without its payload.
pub(crate) const REPLY_BYTES: usize = 16;

/// Of the handshake, both sides: the handshake is the fixed one; no zeros after an export.
pub(crate) const FIXED: u32 = 1;
pub(crate) const NO_ZEROES: u32 = 2;

/// Options.
pub(crate) const EXPORT_NAME: u32 = 1;
pub(crate) const ABORT: u32 = 2;
pub(crate) const LIST: u32 = 3;
pub(crate) const INFO: u32 = 6;
pub(crate) const GO: u32 = 7;

/// Replies to them.
pub(crate) const ACK: u32 = 1;
pub(crate) const SERVER: u32 = 2;
pub(crate) const INFO_REPLY: u32 = 3;
pub(crate) const UNSUPPORTED: u32 = 0x8000_0001;
pub(crate) const INVALID: u32 = 0x8000_0003;
pub(crate) const UNKNOWN: u32 = 0x8000_0006;

/// What is told of an export.
pub(crate) const INFO_EXPORT: u16 = 0;
pub(crate) const INFO_BLOCK_SIZE: u16 = 3;

/// What the server can do: there are flags; flush; trim; write zeros.
pub(crate) const EXPORT_FLAGS: u16 = 1 | 4 | 32 | 64;

/// Of a request to write zeros: their room stays taken.
const NO_HOLE: u16 = 2;

/// Why a request came to nothing.
pub(crate) const EPERM: u32 = 1;
pub(crate) const EIO: u32 = 5;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const ENOSPC: u32 = 28;
pub(crate) const ENOTSUP: u32 = 95;

/// What a client asks for, once the disk is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// Comes back with the reply.
    pub(crate) cookie: u64,
    pub(crate) command: Command,
}

/// Ranges lie within the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Command {
    Read {
        at: u64,
        len: u32,
    },
    /// As many bytes follow the request.
    Write {
        at: u64,
        len: u32,
    },
    Zero {
        at: u64,
        len: u32,
        keep: bool,
    },
    Trim {
        at: u64,
        len: u32,
    },
    Flush,
    /// It is leaving; there is no reply.
    Disconnect,
    /// It cannot be done, and why; so many bytes follow.
    Refused {
        error: u32,
        payload: u32,
    },
}

/// Reads the head of a request for a disk of `bytes`. `None` where it is none, or is followed by more than is
/// taken: where the next one begins is not known then.
pub(crate) fn request(head: &[u8; REQUEST_BYTES], bytes: u64) -> Option<Request> {
    let mut reader = Reader(head);
    if reader.u32()? != REQUEST {
        return None;
    }
    let (flags, kind, cookie) = (reader.u16()?, reader.u16()?, reader.u64()?);
    let (at, len) = (reader.u64()?, reader.u32()?);
    let payload = if kind == 1 { len } else { 0 };
    if payload > PAYLOAD_BYTES_MAX {
        return None;
    }
    let refused = |error| Command::Refused { error, payload };
    let within = at.checked_add(u64::from(len)).is_some_and(|end| end <= bytes) && len > 0;
    let outside = if kind == 1 || kind == 6 { ENOSPC } else { EINVAL };
    let known_flags = if kind == 6 { NO_HOLE } else { 0 };
    let command = match kind {
        _ if flags & !known_flags != 0 => refused(EINVAL),
        2 => Command::Disconnect,
        3 => Command::Flush,
        0 | 1 | 4 | 6 if !within => refused(if len == 0 { EINVAL } else { outside }),
        0 if len > PAYLOAD_BYTES_MAX => refused(EINVAL),
        0 => Command::Read { at, len },
        1 => Command::Write { at, len },
        4 => Command::Trim { at, len },
        6 => Command::Zero { at, len, keep: flags & NO_HOLE != 0 },
        _ => refused(EINVAL),
    };
    Some(Request { cookie, command })
}

/// The head of a reply; `error` is 0 where there is none.
pub(crate) fn reply(cookie: u64, error: u32) -> [u8; REPLY_BYTES] {
    let mut head = [0; REPLY_BYTES];
    head[..4].copy_from_slice(&REPLY.to_be_bytes());
    head[4..8].copy_from_slice(&error.to_be_bytes());
    head[8..].copy_from_slice(&cookie.to_be_bytes());
    head
}

/// How the protocol says what went wrong.
pub(crate) fn errno(error: &io::Error) -> u32 {
    match error.kind() {
        io::ErrorKind::StorageFull => ENOSPC,
        io::ErrorKind::PermissionDenied => EPERM,
        io::ErrorKind::InvalidInput => EINVAL,
        io::ErrorKind::Unsupported => ENOTSUP,
        _ => EIO,
    }
}

/// The data of an option that asks for an export ([`INFO`], [`GO`]): the export's name, and whether block sizes
/// are asked for. `None` where it cannot be.
pub(crate) fn wanted(data: &[u8]) -> Option<(&[u8], bool)> {
    let mut reader = Reader(data);
    let len = usize::try_from(reader.u32()?).ok()?;
    let name = reader.bytes(len)?;
    let infos: Vec<u16> = (0..reader.u16()?).map(|_| reader.u16()).collect::<Option<_>>()?;
    reader.0.is_empty().then_some((name, infos.contains(&INFO_BLOCK_SIZE)))
}

/// Numbers from front to back, the largest byte first; never past the end.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}
