//! From a connection to a client that has the disk.
//!
//! There is one export, whose name is empty.

use std::io::{self, Read, Write};

use crate::limits::{OPTION_BYTES_MAX, OPTIONS_MAX, PAYLOAD_BYTES_MAX};
use crate::protocol::{
    ABORT, ACK, EXPORT_FLAGS, EXPORT_NAME, FIXED, GO, GREETING, INFO, INFO_BLOCK_SIZE, INFO_EXPORT,
    INFO_REPLY, INVALID, LIST, NO_ZEROES, OPTION, OPTION_REPLY, Reader, SERVER, UNKNOWN,
    UNSUPPORTED, wanted,
};

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Shaken {
    /// The client has the disk.
    Ready,
    /// It wants no disk any more.
    Left,
}

/// The block size that costs least, as clients are told: a page of a guest.
const PREFERRED: u32 = 4096;
/// What follows an export where the client can take zeros.
const ZEROES: usize = 124;

/// Leads the handshake for a disk of `bytes`.
///
/// # Errors
/// Those of the connection; `InvalidData` for a client that says what cannot be.
pub(crate) fn shake<S: Read + Write>(peer: &mut S, bytes: u64) -> io::Result<Shaken> {
    let mut greeting = Vec::with_capacity(18);
    greeting.extend_from_slice(&GREETING.to_be_bytes());
    greeting.extend_from_slice(&OPTION.to_be_bytes());
    greeting.extend_from_slice(&((FIXED | NO_ZEROES) as u16).to_be_bytes());
    peer.write_all(&greeting)?;
    let flags = u32::from_be_bytes(read(peer)?);
    if flags & !(FIXED | NO_ZEROES) != 0 || flags & FIXED == 0 {
        return Err(cannot_be("flags of the handshake"));
    }
    for _ in 0..OPTIONS_MAX {
        let head: [u8; 16] = read(peer)?;
        let mut reader = Reader(&head);
        let (Some(OPTION), Some(option), Some(len)) = (reader.u64(), reader.u32(), reader.u32())
        else {
            return Err(cannot_be("an option"));
        };
        if len > OPTION_BYTES_MAX {
            return Err(cannot_be("the length of an option"));
        }
        let mut data = vec![0; len as usize];
        peer.read_exact(&mut data)?;
        let mut answer = |kind, data: &[u8]| peer.write_all(&answer(option, kind, data));
        match option {
            // It has no way to hear that there is no such export.
            EXPORT_NAME if !data.is_empty() => return Err(cannot_be("the name of an export")),
            EXPORT_NAME => {
                let mut export = export(bytes);
                if flags & NO_ZEROES == 0 {
                    export.resize(export.len() + ZEROES, 0);
                }
                peer.write_all(&export)?;
                return Ok(Shaken::Ready);
            }
            ABORT => {
                // It may not wait for it.
                answer(ACK, &[]).ok();
                return Ok(Shaken::Left);
            }
            LIST if data.is_empty() => {
                answer(SERVER, &0_u32.to_be_bytes())?;
                answer(ACK, &[])?;
            }
            INFO | GO => match wanted(&data) {
                Some((b"", sizes)) => {
                    let mut info = INFO_EXPORT.to_be_bytes().to_vec();
                    info.extend_from_slice(&export(bytes));
                    answer(INFO_REPLY, &info)?;
                    if sizes {
                        answer(INFO_REPLY, &block_sizes())?;
                    }
                    answer(ACK, &[])?;
                    if option == GO {
                        return Ok(Shaken::Ready);
                    }
                }
                Some(_) => answer(UNKNOWN, &[])?,
                None => answer(INVALID, &[])?,
            },
            LIST => answer(INVALID, &[])?,
            _ => answer(UNSUPPORTED, &[])?,
        }
    }
    Err(cannot_be("so many options"))
}

/// Length and abilities of the disk.
fn export(bytes: u64) -> Vec<u8> {
    [&bytes.to_be_bytes()[..], &EXPORT_FLAGS.to_be_bytes()].concat()
}

fn block_sizes() -> Vec<u8> {
    let sizes = [1, PREFERRED, PAYLOAD_BYTES_MAX].map(u32::to_be_bytes).concat();
    [&INFO_BLOCK_SIZE.to_be_bytes()[..], &sizes].concat()
}

fn answer(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let head = [option, kind, len].map(u32::to_be_bytes).concat();
    [&OPTION_REPLY.to_be_bytes()[..], &head, data].concat()
}

fn read<const N: usize>(peer: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    peer.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn cannot_be(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} that cannot be"))
}
