//! Messages that a hostile kernel may send, from the stream that they come on to the file system and back.
//!
//! The examples are what a Linux kernel sent while programs worked in a mount (`fuzz/kernel-requests`), and
//! each kind of request made by hand.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use fuzz::{Target, outcome};
use vfs::memfs::MemFs;
use vfs::nullfs::NullFs;
use vfs::{FileSystem, ROOT};

use crate::abi::{IN_HEADER_BYTES, OUT_HEADER_BYTES, Opcode, Writer};
use crate::channel::stream::StreamLink;
use crate::limits::{MESSAGE_BYTES_MAX, WRITE_BYTES_MAX};
use crate::link::{Link, Message, Received};
use crate::request::Header;
use crate::testing::{init_body, message, names, raw};
use crate::{Config, Session};

/// What a file system in memory may hold here.
const FS_BYTES_MAX: u64 = 8 << 20;
/// How many inodes a kernel may hold here.
const NODES_MAX: usize = 200;
/// Fits into the buffers of a socket, so that nobody has to read meanwhile.
const STREAM_BYTES_MAX: usize = 64 << 10;
/// What a request may hold: itself, a piece of a copy, an answer.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// Recorded at `/dev/fuse`; a message begins with its length.
const KERNEL_REQUESTS: &[u8] = include_bytes!("fuzz/kernel-requests");

fn recorded() -> Vec<Vec<u8>> {
    let (mut rest, mut messages) = (KERNEL_REQUESTS, Vec::new());
    while let Some(len) = rest.first_chunk::<4>() {
        let (message, after) = rest.split_at(u32::from_ne_bytes(*len) as usize);
        messages.push(message.to_vec());
        rest = after;
    }
    messages
}

/// A conversation: `INIT`, then these.
fn begun(messages: &[Vec<u8>]) -> Vec<u8> {
    let init = message(Opcode::Init, 1, 0, &init_body(38, u32::MAX));
    [init].iter().chain(messages).flatten().copied().collect()
}

/// A body of eight-byte numbers and names.
fn body(numbers: &[u64], of: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for number in numbers {
        body.u64(*number);
    }
    body.bytes(&names(of));
    body
}

/// A file `a` (2), a directory `d` (3), and something done to each.
fn by_hand() -> Vec<Vec<u8>> {
    let create = body(&[0o100_644 << 32 | 2, 0], &["a"]);
    let made = [
        message(Opcode::Create, 2, ROOT, &create),
        message(Opcode::Mkdir, 3, ROOT, &body(&[0o755], &["d"])),
    ];
    let mut write = body(&[0, 0, 5, 0, 0], &[]);
    write.bytes(b"hello");
    let mut xattr = body(&[3], &["user.x"]);
    xattr.bytes(b"abc");
    let forgets = body(&[2, 2, 1, 3, 1], &[]);
    // Mode, size and time of change.
    let setattr = [0b10_1001, 0, 1 << 20, 0, 0, 9, 0, 0, 0o600 << 32, 0, 0];
    let each = [
        message(Opcode::Write, 4, 2, &write),
        message(Opcode::Read, 5, 2, &body(&[0, 0, 4096, 0, 0], &[])),
        message(Opcode::Setxattr, 6, 2, &xattr),
        message(Opcode::Getxattr, 7, 2, &body(&[64], &["user.x"])),
        message(Opcode::Listxattr, 8, 2, &body(&[64], &[])),
        message(Opcode::Removexattr, 9, 2, &body(&[], &["user.x"])),
        message(Opcode::Readdirplus, 10, ROOT, &body(&[0, 0, 4096, 0, 0], &[])),
        message(Opcode::Rename2, 11, ROOT, &body(&[3, 0], &["a", "b"])),
        message(Opcode::Link, 12, 3, &body(&[2], &["c"])),
        message(Opcode::Symlink, 13, ROOT, &body(&[], &["s", "d/b"])),
        message(Opcode::CopyFileRange, 14, 2, &body(&[0, 0, 2, 0, 100, 50, 0], &[])),
        message(Opcode::Fallocate, 15, 2, &body(&[0, 10, 9000, 0], &[])),
        message(Opcode::Lseek, 16, 2, &body(&[0, 1, 3], &[])),
        message(Opcode::Setattr, 17, 2, &body(&setattr, &[])),
        message(Opcode::Mknod, 18, ROOT, &body(&[0o010_644, 0], &["p"])),
        message(Opcode::Tmpfile, 19, ROOT, &body(&[0o600 << 32], &[])),
        message(Opcode::Statx, 20, 2, &body(&[0, 0, 0], &[])),
        message(Opcode::BatchForget, 21, 0, &forgets),
        message(Opcode::Unlink, 22, ROOT, &body(&[], &["s"])),
        message(Opcode::Syncfs, 23, ROOT, &body(&[0], &[])),
        message(Opcode::Destroy, 24, 0, &[]),
        raw(4711, 25, ROOT, b"no such request"),
    ];
    each.into_iter().map(|one| begun(&[&made[..], &[one]].concat())).collect()
}

fn examples() -> Vec<Vec<u8>> {
    let recorded = recorded();
    let together = recorded.chunks(12).map(begun);
    by_hand().into_iter().chain(together).filter(|of| of.len() <= STREAM_BYTES_MAX).collect()
}

/// Feeds a session over `fs` with the stream, as a channel does.
fn serve(fs: Arc<dyn FileSystem>, input: &[u8]) -> Vec<u64> {
    let config = Config { nodes_max: NODES_MAX, ..Config::default() };
    let session = Session::new(fs, config);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(input).unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    let link = StreamLink::new(ours).unwrap();
    let (mut message, mut made) = (Message::default(), Vec::new());
    loop {
        match link.receive(&mut message) {
            Ok(Received::Message) => made.push(answer(&session, message.bytes())),
            Ok(_) => break,
            Err(error) => {
                made.push(outcome(format!("{:?}", error.kind())));
                break;
            }
        }
    }
    assert!(session.held_count() <= NODES_MAX);
    made
}

/// Checks an answer as a kernel does, which takes a bad one for a broken server.
fn answer(session: &Session, message: &[u8]) -> u64 {
    let header = Header::decode(message);
    let Some(reply) = session.handle(message) else { return outcome(header.map(|of| of.opcode)) };
    let header = header.expect("what has no header has no answer");
    let (head, body) = reply.split_first_chunk::<OUT_HEADER_BYTES>().expect("it has a header");
    let number =
        |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    assert_eq!(number(0) as usize, reply.len());
    assert_eq!(head[8..], header.unique.to_ne_bytes());
    assert!(body.len() <= WRITE_BYTES_MAX as usize);
    let errno = number(4).cast_signed();
    assert!((-4095..=0).contains(&errno) && (errno == 0 || body.is_empty()), "{errno}");
    outcome((
        Opcode::from_number(header.opcode).map(|of| of as u32),
        errno,
        body.len().checked_ilog2(),
    ))
}

fn target(name: &str, memory_max: usize) -> Target<'_> {
    Target {
        name,
        examples: examples(),
        words: &[b"user.x\0", b"..\0", b"/\0", b".\0", b"a\0", b"d\0", b"\0"],
        bytes_max: STREAM_BYTES_MAX,
        memory_max,
    }
}

#[test]
fn requests_to_a_tree_in_memory() {
    let holds = 2 * FS_BYTES_MAX as usize;
    target("fuse-memfs", holds + MESSAGE_BYTES_MAX + REQUEST_BYTES_MAX).run(|input| {
        serve(Arc::new(MemFs::new(Arc::new(base::SystemClock::new()), FS_BYTES_MAX)), input)
    });
}

/// Which keeps no content: what is held is the protocol's.
#[test]
fn requests_to_no_tree() {
    target("fuse-nullfs", MESSAGE_BYTES_MAX + REQUEST_BYTES_MAX)
        .run(|input| serve(Arc::new(NullFs::default()), input));
}

#[test]
fn the_recording_is_of_requests_that_are_understood() {
    let recorded = recorded();
    assert!(recorded.iter().all(|message| message.len() >= IN_HEADER_BYTES));
    let mut kinds: Vec<u32> =
        recorded.iter().map(|message| Header::decode(message).unwrap().opcode).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert!(kinds.len() >= 15, "{kinds:?}");
}
