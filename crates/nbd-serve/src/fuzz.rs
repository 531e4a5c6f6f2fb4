//! What a hypervisor that its guest has taken over may say.

use std::io::{self, Read, Write};

use fuzz::{Target, outcome};

use crate::handshake::shake;
use crate::protocol::{Command, REQUEST_BYTES, request};

const DISK: u64 = 10 << 20;

/// A client that has said all of it, and whose answers nobody reads.
struct Said<'a>(&'a [u8]);

impl Read for Said<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Said<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let head = [option, data.len() as u32].map(u32::to_be_bytes).concat();
    [b"IHAVEOPT", &head[..], data].concat()
}

pub(crate) fn asked(flags: u16, kind: u16, at: u64, len: u32) -> Vec<u8> {
    let mut head = 0x2560_9513_u32.to_be_bytes().to_vec();
    head.extend([flags, kind].map(u16::to_be_bytes).concat());
    head.extend([7, at].map(u64::to_be_bytes).concat());
    head.extend(len.to_be_bytes());
    head
}

#[test]
fn handshakes() {
    let flags = 3_u32.to_be_bytes();
    let go = [&0_u32.to_be_bytes()[..], &[0, 1, 0, 3]].concat();
    let named = [&3_u32.to_be_bytes()[..], b"abc", &[0, 0]].concat();
    let examples = vec![
        [&flags[..], &option(8, b""), &option(7, &go)].concat(),
        [&flags[..], &option(3, b""), &option(6, &named), &option(1, b"")].concat(),
        [&flags[..], &option(7, &named), &option(99, b"what"), &option(2, b"")].concat(),
    ];
    let words: &[&[u8]] = &[b"IHAVEOPT"];
    let target = Target {
        name: "nbd-handshake",
        examples,
        words,
        bytes_max: 8 << 10,
        memory_max: 256 << 10,
    };
    target.run(|input| vec![outcome(shake(&mut Said(input), DISK).map_err(|error| error.kind()))]);
}

#[test]
fn requests() {
    let all = |flags| (0..8).map(move |kind| asked(flags, kind, 4096, 8192));
    let examples: Vec<Vec<u8>> = all(0).chain(all(2)).collect();
    let target = Target {
        name: "nbd-request",
        examples,
        words: &[],
        bytes_max: 1 << 10,
        memory_max: 64 << 10,
    };
    target.run(|input| {
        let Some((head, _)) = input.split_first_chunk::<REQUEST_BYTES>() else { return vec![] };
        let decoded = request(head, DISK).map(|request| request.command);
        let range = match decoded {
            Some(Command::Read { at, len } | Command::Write { at, len }) => Some((at, len)),
            Some(Command::Zero { at, len, .. } | Command::Trim { at, len }) => Some((at, len)),
            _ => None,
        };
        let within = |(at, len): (u64, u32)| len > 0 && at < DISK && at + u64::from(len) <= DISK;
        assert!(range.is_none_or(within), "{decoded:?}");
        vec![outcome(decoded.map(|command| std::mem::discriminant(&command)))]
    });
}
