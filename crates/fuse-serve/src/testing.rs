//! Requests made by hand, as a kernel would send them, and a file system to send them to.

use std::sync::Arc;

use vfs::FileSystem;
use vfs::memfs::MemFs;

use crate::abi::{IN_HEADER_BYTES, Opcode, Reader, Writer};
use crate::{Config, Session};

/// A request whose body is `body`, from user 1000 and group 1001.
pub(crate) fn message(opcode: Opcode, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    raw(opcode as u32, unique, node, body)
}

/// The same for any number.
pub(crate) fn raw(opcode: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message.u32((IN_HEADER_BYTES + body.len()) as u32).u32(opcode).u64(unique).u64(node);
    message.u32(1000).u32(1001).u32(4242).u16(0).u16(0).bytes(body);
    message
}

/// Names with their NULs.
pub(crate) fn names(names: &[&str]) -> Vec<u8> {
    names.iter().flat_map(|name| name.bytes().chain([0])).collect()
}

/// The body of an `INIT` of this minor version that offers `flags`.
pub(crate) fn init_body(minor: u32, flags: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.u32(7).u32(minor).u32(131_072).u32(flags).zeros(48);
    body
}

/// An empty file system in memory.
pub(crate) fn memfs() -> Arc<dyn FileSystem> {
    Arc::new(MemFs::new(Arc::new(base::SystemClock::new()), 1 << 30))
}

/// A session that a kernel has connected to.
pub(crate) fn session(fs: Arc<dyn FileSystem>, config: Config) -> Session {
    let session = Session::new(fs, config);
    let reply = session.handle(&message(Opcode::Init, 1, 0, &init_body(38, u32::MAX)));
    assert_eq!(Answer::of(&reply.expect("INIT is answered")).errno, 0);
    session
}

/// A reply, taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) errno: i32,
    pub(crate) unique: u64,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn of(reply: &[u8]) -> Self {
        let mut reader = Reader::new(reply);
        let len = reader.u32().unwrap();
        assert_eq!(len as usize, reply.len(), "the header tells the length");
        let errno = -(reader.u32().unwrap().cast_signed());
        let unique = reader.u64().unwrap();
        Self { errno, unique, body: reader.rest().to_vec() }
    }

    /// The number at this offset of the body.
    pub(crate) fn u64_at(&self, offset: usize) -> u64 {
        Reader::new(&self.body[offset..]).u64().unwrap()
    }

    pub(crate) fn u32_at(&self, offset: usize) -> u32 {
        Reader::new(&self.body[offset..]).u32().unwrap()
    }
}
