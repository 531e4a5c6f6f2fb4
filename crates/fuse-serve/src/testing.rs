//! Requests made by hand, as a kernel would send them, and a file system to send them to.

use std::sync::Arc;

use parking_lot::Mutex;
use vfs::memfs::MemFs;
use vfs::{Attr, FileSystem, Ino, Kind, Owner};

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

/// A tree in which some calls wait as long as a test holds their lock.
#[derive(Debug)]
pub(crate) struct Gated {
    inner: Arc<dyn FileSystem>,
    /// Syncs wait for this one,
    pub(crate) syncs: Mutex<()>,
    /// and lookups of [`GATED`] for this one.
    pub(crate) lookups: Mutex<()>,
}

/// The name whose lookup waits. It does not exist.
pub(crate) const GATED: &str = "gated";

impl Gated {
    pub(crate) fn new(inner: Arc<dyn FileSystem>) -> Self {
        Self { inner, syncs: Mutex::default(), lookups: Mutex::default() }
    }
}

macro_rules! pass_on {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        impl FileSystem for Gated {
            $(fn $name(&self, $($arg: $ty),*) -> $out { self.inner.$name($($arg),*) })*
            fn lookup(&self, parent: Ino, name: &[u8]) -> vfs::Result<Attr> {
                if name == GATED.as_bytes() {
                    drop(self.lookups.lock());
                }
                self.inner.lookup(parent, name)
            }
            fn sync(&self, ino: Option<Ino>) -> vfs::Result<()> {
                drop(self.syncs.lock());
                self.inner.sync(ino)
            }
        }
    };
}

pass_on! {
    getattr(i: Ino) -> vfs::Result<Attr>;
    setattr(i: Ino, s: &vfs::SetAttr) -> vfs::Result<Attr>;
    pin(i: Ino) -> ();
    unpin(i: Ino) -> ();
    mknod(p: Ino, n: &[u8], k: Kind, m: u32, o: Owner, r: u32) -> vfs::Result<Attr>;
    symlink(p: Ino, n: &[u8], t: &[u8], o: Owner) -> vfs::Result<Attr>;
    readlink(i: Ino) -> vfs::Result<Vec<u8>>;
    link(i: Ino, p: Ino, n: &[u8]) -> vfs::Result<Attr>;
    unlink(p: Ino, n: &[u8]) -> vfs::Result<()>;
    rmdir(p: Ino, n: &[u8]) -> vfs::Result<()>;
    rename(p: Ino, n: &[u8], q: Ino, m: &[u8], f: vfs::RenameFlags) -> vfs::Result<()>;
    readdir(i: Ino, c: u64, m: usize) -> vfs::Result<Vec<vfs::DirEntry>>;
    read(i: Ino, o: u64, l: u32) -> vfs::Result<bytes::Bytes>;
    write(i: Ino, o: u64, d: &[u8]) -> vfs::Result<()>;
    fallocate(i: Ino, m: u32, o: u64, l: u64) -> vfs::Result<()>;
    seek(i: Ino, f: vfs::SeekFrom) -> vfs::Result<u64>;
    getxattr(i: Ino, n: &[u8]) -> vfs::Result<Vec<u8>>;
    setxattr(i: Ino, n: &[u8], v: &[u8], m: vfs::XattrMode) -> vfs::Result<()>;
    listxattr(i: Ino) -> vfs::Result<Vec<Vec<u8>>>;
    removexattr(i: Ino, n: &[u8]) -> vfs::Result<()>;
    statfs() -> vfs::Result<vfs::StatFs>;
    sync_local() -> vfs::Result<()>;
    create_detached(k: Kind, m: u32, o: Owner) -> vfs::Result<Attr>;
    place(i: Ino, b: Ino, p: &[&[u8]], e: vfs::Expect) -> vfs::Result<vfs::Placed>;
    graft(g: &vfs::Graft<'_>) -> vfs::Result<vfs::Touched>;
}
