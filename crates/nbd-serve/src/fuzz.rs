//! What a hypervisor that its guest has taken over may say.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use fuzz::{Target, outcome};

use crate::Disk;
use crate::handshake::shake;
use crate::limits::{KEPT_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::protocol::{Command, EIO, REPLY_BYTES, REQUEST_BYTES, reply, request};
use crate::serve::Connection;

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

/// A disk that has no room and only says what it was told. It cannot do what begins at [`BAD`] or behind it.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<u64>>);

const BAD: u64 = 8 << 20;

impl Told {
    fn tell(&self, at: u64, len: u64, what: u64) -> io::Result<()> {
        assert!(len > 0 && at < DISK && len <= DISK - at, "{len} bytes at {at}");
        self.0.lock().unwrap().push(what);
        if at < BAD { Ok(()) } else { Err(io::Error::other("a bad place")) }
    }
}

impl Disk for Told {
    fn bytes(&self) -> u64 {
        DISK
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        assert!(into.len() <= PAYLOAD_BYTES_MAX as usize);
        into.fill(content(at));
        self.tell(at, into.len() as u64, outcome(("read", at, into.len())))
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.tell(at, bytes.len() as u64, outcome(("write", at, bytes)))
    }

    fn zero(&self, at: u64, len: u64, keep: bool) -> io::Result<()> {
        self.tell(at, len, outcome(("zero", at, len, keep)))
    }

    fn trim(&self, at: u64, len: u64) -> io::Result<()> {
        self.tell(at, len, outcome(("trim", at, len)))
    }

    fn flush(&self) -> io::Result<()> {
        self.tell(0, 1, outcome("flush"))
    }
}

/// What is read from there on.
fn content(at: u64) -> u8 {
    (at >> 9) as u8 | 1
}

/// A reply, and what follows it: so many bytes, all of them this one.
type Reply = ([u8; REPLY_BYTES], usize, u8);

/// What becomes of these requests, each of which begins right behind the one before: what the disk is told, and the
/// replies, in this order where one worker does it all. And what kinds they were.
fn becomes(mut input: &[u8]) -> (Vec<u64>, Vec<Reply>, Vec<u64>) {
    let (mut told, mut replies, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    while let Some((head, rest)) = input.split_first_chunk::<REQUEST_BYTES>() {
        let Some(request) = request(head, DISK) else { break };
        let payload = match request.command {
            Command::Disconnect => break,
            Command::Write { len, .. } | Command::Refused { payload: len, .. } => len as usize,
            _ => 0,
        };
        let Some((payload, next)) = rest.split_at_checked(payload) else { break };
        input = next;
        let (what, at) = match request.command {
            Command::Read { at, len } => (outcome(("read", at, len as usize)), at),
            Command::Write { at, .. } => (outcome(("write", at, payload)), at),
            Command::Zero { at, len, keep } => (outcome(("zero", at, u64::from(len), keep)), at),
            Command::Trim { at, len } => (outcome(("trim", at, u64::from(len))), at),
            _ => (outcome("flush"), 0),
        };
        let refused = match request.command {
            Command::Refused { error, .. } => Some(error),
            _ => None,
        };
        told.extend(refused.is_none().then_some(what));
        let error = refused.unwrap_or(if at < BAD { 0 } else { EIO });
        let read = match request.command {
            Command::Read { len, .. } if error == 0 => len as usize,
            _ => 0,
        };
        replies.push((reply(request.cookie, error), read, content(at)));
        let length = (payload.len() + read).checked_ilog2();
        kinds.push(outcome((std::mem::discriminant(&request.command), error, length)));
    }
    (told, replies, kinds)
}

/// What a client hears that expects these replies: those that come as they should, and how many bytes behind them.
fn heard(mut socket: UnixStream, replies: &[Reply]) -> (usize, usize) {
    let (mut piece, expected) = (vec![0; 64 << 10], |byte| vec![byte; 64 << 10]);
    let mut is_heard = |bytes: &[u8]| {
        socket.read_exact(&mut piece[..bytes.len()]).is_ok() && piece[..bytes.len()] == *bytes
    };
    let right = replies.iter().take_while(|(head, len, byte)| {
        let (mut left, expected) = (*len, expected(*byte));
        let mut right = is_heard(head);
        while right && left > 0 {
            let now = left.min(expected.len());
            right = is_heard(&expected[..now]);
            left -= now;
        }
        right
    });
    let right = right.count();
    let mut rest = Vec::new();
    // One that is hung up on may hear that, too.
    socket.take(1 << 10).read_to_end(&mut rest).ok();
    (right, rest.len())
}

#[test]
fn connections() {
    let written = |at, bytes: &[u8]| [asked(0, 1, at, bytes.len() as u32), bytes.to_vec()].concat();
    let reads = [(0, 16), (BAD, 512), (DISK, 1), (512, 100_000)];
    let reads = reads.map(|(at, len)| asked(0, 0, at, len)).concat();
    let refused = [asked(1, 1, 0, 3), b"fua".to_vec(), written(DISK - 1, b"beyond")].concat();
    let others = [(6, 4096), (4, BAD), (3, 0), (77, 0)];
    let others = others.map(|(kind, at)| asked(0, kind, at, 8192)).concat();
    let examples = vec![
        [&written(0, b"one"), &written(512, &[7; 600]), &reads[..], &refused].concat(),
        [&others, &refused[..], &written(BAD, b"two"), &asked(0, 2, 0, 0), &others].concat(),
        // What was announced does not come.
        [&others[..], &asked(0, 1, 0, 300_000), b"and the end"].concat(),
        [&written(0, &[1; 64]), &asked(0, 1, 0, 2 * PAYLOAD_BYTES_MAX)[..], &others].concat(),
    ];
    let target = Target {
        name: "nbd-connection",
        examples,
        words: &[b"\x25\x60\x95\x13\0\0\0\x01", b"\x25\x60\x95\x13\0\0\0\0"],
        bytes_max: 2 << 10,
        memory_max: PAYLOAD_BYTES_MAX as usize + KEPT_BYTES_MAX,
    };
    target.run(|input| {
        let (told, replies, kinds) = becomes(input);
        let disk = Arc::new(Told::default());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(input).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let connection = Connection::new(ours, disk.clone()).unwrap();
        let (right, more) = std::thread::scope(|scope| {
            // More is said than a socket holds.
            let client = scope.spawn(|| heard(theirs, &replies));
            connection.work();
            drop(connection);
            client.join().unwrap()
        });
        assert!(*disk.0.lock().unwrap() == told, "the disk is told something else");
        assert_eq!((right, more), (replies.len(), 0));
        kinds
    });
}
