use std::sync::Arc;

use vfs::{FileSystem, Kind, Owner, ROOT, SetAttr, Touched, XattrMode};

use super::*;
use crate::abi::{Writer, fattr, linux};
use crate::testing::{Answer, init_body, memfs, message, names, session};

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;

/// A connected session, its file system, and requests by hand.
struct Kernel {
    fs: Arc<dyn FileSystem>,
    session: Session,
}

impl Kernel {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let fs = memfs();
        Self { session: session(Arc::clone(&fs), config), fs }
    }

    fn ask(&self, opcode: Opcode, node: u64, body: &[u8]) -> Answer {
        let reply = self.session.handle(&message(opcode, 77, node, body));
        let answer = Answer::of(&reply.expect("an answer"));
        assert_eq!(answer.unique, 77);
        answer
    }

    fn good(&self, opcode: Opcode, node: u64, body: &[u8]) -> Answer {
        let answer = self.ask(opcode, node, body);
        assert_eq!(answer.errno, 0, "{opcode:?}");
        answer
    }

    fn lookup(&self, parent: u64, name: &str) -> u64 {
        self.good(Opcode::Lookup, parent, &names(&[name])).u64_at(0)
    }

    fn create(&self, name: &str) -> u64 {
        let mut body = Vec::new();
        body.u32(2).u32(0o100_644).u32(0).u32(0).bytes(&names(&[name]));
        self.good(Opcode::Create, ROOT, &body).u64_at(0)
    }

    fn write(&self, node: u64, offset: u64, data: &[u8], flags: u32) -> Answer {
        let mut body = Vec::new();
        body.u64(0).u64(offset).u32(data.len() as u32).u32(flags).zeros(16).bytes(data);
        self.good(Opcode::Write, node, &body)
    }

    fn read(&self, node: u64, offset: u64, size: u32) -> Vec<u8> {
        let mut body = Vec::new();
        body.u64(0).u64(offset).u32(size).zeros(20);
        self.good(Opcode::Read, node, &body).body
    }

    fn forget(&self, node: u64, count: u64) {
        let body = count.to_ne_bytes();
        assert!(self.session.handle(&message(Opcode::Forget, 0, node, &body)).is_none());
    }

    fn names(&self, plus: bool, size: u32) -> (Vec<String>, usize) {
        let opcode = if plus { Opcode::Readdirplus } else { Opcode::Readdir };
        let (mut seen, mut offset, mut pages) = (Vec::new(), 0, 0);
        loop {
            let mut body = Vec::new();
            body.u64(0).u64(offset).u32(size).zeros(20);
            let page = self.good(opcode, ROOT, &body);
            assert!(page.body.len() <= size as usize);
            if page.body.is_empty() {
                return (seen, pages);
            }
            pages += 1;
            let mut at = 0;
            while at < page.body.len() {
                at += if plus { 128 } else { 0 };
                offset = page.u64_at(at + 8);
                let len = page.u32_at(at + 16) as usize;
                let name = &page.body[at + 24..at + 24 + len];
                seen.push(String::from_utf8_lossy(name).into_owned());
                at = (at + 24 + len).next_multiple_of(8);
            }
            assert_eq!(at, page.body.len(), "entries fill the page to its end");
        }
    }
}

#[test]
fn nothing_is_served_before_init() {
    let session = Session::new(memfs(), Config::default());
    let reply = session.handle(&message(Opcode::Getattr, 5, ROOT, &[0; 16]));
    assert_eq!(Answer::of(&reply.unwrap()).errno, EIO);
    assert!(!session.is_ready() && session.save().is_none());
}

#[test]
fn init_agrees_on_large_writes() {
    let session = Session::new(memfs(), Config::default());
    let reply = session.handle(&message(Opcode::Init, 5, 0, &init_body(38, u32::MAX)));
    let answer = Answer::of(&reply.unwrap());
    assert_eq!(answer.body.len(), 64);
    assert_eq!((answer.u32_at(0), answer.u32_at(4)), (7, 38));
    assert_eq!(answer.u32_at(20), 1 << 20);
    assert!(session.is_ready());
}

#[test]
fn a_created_file_belongs_to_whoever_asked() {
    let kernel = Kernel::new();
    let node = kernel.create("a");
    let attr = kernel.fs.getattr(node).unwrap();
    assert_eq!((attr.owner, attr.perm), (Owner { uid: 1000, gid: 1001 }, 0o644));
    assert_eq!(kernel.lookup(ROOT, "a"), node);
}

#[test]
fn what_is_not_there_is_remembered_as_that() {
    let kernel = Kernel::new();
    let answer = kernel.good(Opcode::Lookup, ROOT, &names(&["none"]));
    assert_eq!((answer.u64_at(0), answer.u64_at(16)), (0, 3600));
    let kernel = Kernel::with(Config { negative_ttl: Duration::ZERO, ..Config::default() });
    assert_eq!(kernel.ask(Opcode::Lookup, ROOT, &names(&["none"])).errno, ENOENT);
}

#[test]
fn what_was_written_is_read() {
    let kernel = Kernel::new();
    let node = kernel.create("a");
    assert_eq!(kernel.write(node, 3, b"data", 0).u32_at(0), 4);
    assert_eq!(kernel.read(node, 0, 100), b"\0\0\0data");
    // A size that no honest kernel asks for is answered with what there is.
    assert_eq!(kernel.read(node, 0, u32::MAX), b"\0\0\0data");
}

#[test]
fn an_unlinked_file_lives_until_it_is_forgotten() {
    let kernel = Kernel::new();
    let node = kernel.create("a");
    kernel.write(node, 0, b"still here", 0);
    assert_eq!(kernel.lookup(ROOT, "a"), node);
    kernel.good(Opcode::Unlink, ROOT, &names(&["a"]));
    kernel.forget(node, 1);
    assert_eq!(kernel.read(node, 0, 100), b"still here");
    kernel.forget(node, 1);
    assert!(kernel.fs.getattr(node).is_err());
}

#[test]
fn forgetting_too_much_harms_nobody() {
    let kernel = Kernel::new();
    let node = kernel.create("a");
    kernel.forget(node, u64::MAX);
    kernel.forget(node, 5);
    kernel.forget(ROOT, 5);
    kernel.forget(999, 5);
    assert_eq!(kernel.lookup(ROOT, "a"), node);
    kernel.good(Opcode::Unlink, ROOT, &names(&["a"]));
    assert!(kernel.fs.getattr(node).is_ok(), "still held by the second lookup");
}

#[test]
fn a_batch_forgets_all_it_names() {
    let kernel = Kernel::new();
    let nodes = [kernel.create("a"), kernel.create("b")];
    let mut body = Vec::new();
    body.u32(2).u32(0).u64(nodes[0]).u64(1).u64(nodes[1]).u64(1);
    assert!(kernel.session.handle(&message(Opcode::BatchForget, 0, 0, &body)).is_none());
    assert_eq!(kernel.session.save().unwrap().held, []);
}

#[test]
fn the_end_of_a_session_frees_what_it_held() {
    let kernel = Kernel::new();
    let node = kernel.create("a");
    kernel.good(Opcode::Unlink, ROOT, &names(&["a"]));
    kernel.good(Opcode::Destroy, 0, &[]);
    assert!(kernel.fs.getattr(node).is_err());
    assert!(!kernel.session.is_ready());
}

#[test]
fn a_saved_session_goes_on_without_init() {
    let kernel = Kernel::new();
    let node = kernel.create("a");
    kernel.write(node, 0, b"data", 0);
    let saved = kernel.session.save().unwrap();
    assert_eq!(saved.held, [(node, 1)]);
    let resumed = Session::resume(Arc::clone(&kernel.fs), Config::default(), &saved);
    assert_eq!(resumed.save().unwrap(), saved);
    drop(kernel.session);
    let kernel = Kernel { session: resumed, fs: kernel.fs };
    kernel.good(Opcode::Unlink, ROOT, &names(&["a"]));
    assert_eq!(kernel.read(node, 0, 10), b"data");
}

#[test]
fn too_many_inodes_are_refused() {
    let kernel = Kernel::with(Config { nodes_max: 2, ..Config::default() });
    for name in ["a", "b", "c"] {
        let owner = Owner::default();
        kernel.fs.mknod(ROOT, name.as_bytes(), Kind::File, 0o644, owner, 0).unwrap();
    }
    let first = kernel.lookup(ROOT, "a");
    kernel.lookup(ROOT, "b");
    kernel.lookup(ROOT, "a");
    let refused = kernel.ask(Opcode::Lookup, ROOT, &names(&["c"]));
    assert_eq!(refused.errno, linux::ENFILE);
    kernel.forget(first, 2);
    kernel.lookup(ROOT, "c");
}

#[test]
fn a_directory_is_listed_in_pages() {
    let kernel = Kernel::new();
    let mut expected = vec![".".to_owned(), "..".to_owned()];
    for i in 0..700 {
        let name = format!("file-{i:04}");
        kernel.fs.mknod(ROOT, name.as_bytes(), Kind::File, 0o644, Owner::default(), 0).unwrap();
        expected.push(name);
    }
    for (plus, size) in [(false, 4096), (true, 4096), (false, 1 << 20), (true, 200)] {
        let (mut names, pages) = kernel.names(plus, size);
        names.sort();
        assert_eq!(names, expected, "plus {plus}, {size} bytes a page");
        assert!(size > 4096 || pages > 1);
    }
    // READDIRPLUS counts as lookups, exactly one for each entry that was sent.
    let held = kernel.session.save().unwrap().held;
    assert_eq!(held.len(), 700);
    assert!(held.iter().all(|(_, count)| *count == 2));
}

#[test]
fn a_page_too_small_for_one_entry_is_empty() {
    let kernel = Kernel::new();
    kernel.create("a");
    assert_eq!(kernel.names(false, 10), (Vec::new(), 0));
}

#[test]
fn a_write_takes_set_uid_and_capabilities_when_told_so() {
    let kernel = Kernel::new();
    let node = kernel.create("a");
    let suid = SetAttr { perm: Some(0o6755), ..SetAttr::default() };
    kernel.fs.setattr(node, &suid).unwrap();
    // Set from outside, as the API does it, and reported.
    kernel.fs.setxattr(node, b"security.capability", b"cap", XattrMode::Any).unwrap();
    drop(kernel.session.invalidations(&Touched { entries: Vec::new(), inodes: vec![node] }));
    kernel.write(node, 0, b"by root", 0);
    assert_eq!(kernel.fs.getattr(node).unwrap().perm, 0o6755);
    assert!(kernel.fs.getxattr(node, b"security.capability").is_err());
    kernel.write(node, 0, b"by another", crate::abi::WRITE_KILL_SUIDGID);
    assert_eq!(kernel.fs.getattr(node).unwrap().perm, 0o755);
}

#[test]
fn a_capability_set_later_is_not_overlooked() {
    let kernel = Kernel::new();
    let node = kernel.create("a");
    kernel.write(node, 0, b"now it is known to have none", 0);
    let mut body = Vec::new();
    body.u32(3).u32(0).bytes(&names(&["security.capability"])).bytes(b"cap");
    kernel.good(Opcode::Setxattr, node, &body);
    kernel.write(node, 0, b"x", 0);
    assert!(kernel.fs.getxattr(node, b"security.capability").is_err());
    // Also one that was set from outside and reported.
    kernel.fs.setxattr(node, b"security.capability", b"cap", XattrMode::Any).unwrap();
    let touched = Touched { entries: Vec::new(), inodes: vec![node] };
    assert_eq!(kernel.session.invalidations(&touched).len(), 1);
    kernel.write(node, 0, b"x", 0);
    assert!(kernel.fs.getxattr(node, b"security.capability").is_err());
}

#[test]
fn a_change_of_owner_takes_set_uid() {
    let kernel = Kernel::new();
    let node = kernel.create("a");
    let suid = SetAttr { perm: Some(0o6755), ..SetAttr::default() };
    kernel.fs.setattr(node, &suid).unwrap();
    let mut body = Vec::new();
    body.u32(fattr::UID | fattr::KILL_SUIDGID).zeros(72).u32(5).zeros(8);
    kernel.good(Opcode::Setattr, node, &body);
    let attr = kernel.fs.getattr(node).unwrap();
    assert_eq!((attr.owner.uid, attr.perm), (5, 0o755));
}

#[test]
fn extended_attributes_are_sized_first() {
    let kernel = Kernel::new();
    let node = kernel.create("a");
    let get = |size: u32, name: &str| {
        let mut body = Vec::new();
        body.u32(size).u32(0).bytes(&names(&[name]));
        kernel.ask(Opcode::Getxattr, node, &body)
    };
    kernel.fs.setxattr(node, b"user.a", b"12345", XattrMode::Any).unwrap();
    assert_eq!(get(0, "user.a").u32_at(0), 5);
    assert_eq!(get(100, "user.a").body, b"12345");
    assert_eq!(get(4, "user.a").errno, 34);
    assert_eq!(get(100, "user.b").errno, 61);
    assert_eq!(get(100, "system.posix_acl_access").errno, 95);
    let list = kernel.good(Opcode::Listxattr, node, &[100, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(list.body, b"user.a\0");
}

#[test]
fn a_copy_is_bounded_and_never_onto_itself() {
    let kernel = Kernel::new();
    let (from, to) = (kernel.create("a"), kernel.create("b"));
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    kernel.fs.write(from, 0, &data).unwrap();
    let copy = |target: u64, to_offset: u64, len: u64| {
        let mut body = Vec::new();
        body.u64(0).u64(0).u64(target).u64(0).u64(to_offset).u64(len).u64(0);
        kernel.ask(Opcode::CopyFileRange, from, &body)
    };
    assert_eq!(copy(to, 10, u64::MAX - 10).u32_at(0), 3_000_000);
    assert_eq!(&kernel.fs.read(to, 10, 3_000_000).unwrap()[..], &data[..]);
    assert_eq!(copy(from, 5, 100).errno, EINVAL);
    assert_eq!(copy(to, u64::MAX, 100).errno, 27);
}

#[test]
fn a_file_that_the_api_made_meanwhile_is_opened() {
    let kernel = Kernel::new();
    let owner = Owner::default();
    let made = kernel.fs.mknod(ROOT, b"a", Kind::File, 0o600, owner, 0).unwrap().ino;
    kernel.fs.write(made, 0, b"theirs").unwrap();
    assert_eq!(kernel.create("a"), made);
    assert_eq!(kernel.read(made, 0, 10), b"theirs");
    let mut exclusive = Vec::new();
    exclusive.u32(linux::O_EXCL).u32(0o100_644).u32(0).u32(0).bytes(&names(&["a"]));
    assert_eq!(kernel.ask(Opcode::Create, ROOT, &exclusive).errno, 17);
    let mut truncating = Vec::new();
    truncating.u32(linux::O_TRUNC).u32(0o100_644).u32(0).u32(0).bytes(&names(&["a"]));
    kernel.good(Opcode::Create, ROOT, &truncating);
    assert_eq!(kernel.read(made, 0, 10), b"");
}

#[test]
fn a_nameless_file_can_be_named_later() {
    let kernel = Kernel::new();
    let mut body = Vec::new();
    body.u32(0).u32(0o100_600).u32(0).u32(0).bytes(&names(&["/"]));
    let node = kernel.good(Opcode::Tmpfile, ROOT, &body).u64_at(0);
    kernel.write(node, 0, b"data", 0);
    assert_eq!(kernel.fs.getattr(node).unwrap().nlink, 0);
    let mut link = Vec::new();
    link.u64(node).bytes(&names(&["named"]));
    kernel.good(Opcode::Link, ROOT, &link);
    kernel.forget(node, 2);
    assert_eq!(kernel.lookup(ROOT, "named"), node);
    // One that is never named goes with its last lookup.
    let lost = kernel.good(Opcode::Tmpfile, ROOT, &body).u64_at(0);
    kernel.forget(lost, 1);
    assert!(kernel.fs.getattr(lost).is_err());
}

#[test]
fn what_is_left_to_the_kernel_says_so() {
    let kernel = Kernel::new();
    for opcode in [Opcode::Open, Opcode::Opendir] {
        assert_eq!(kernel.ask(opcode, ROOT, &[0; 8]).errno, ENOSYS, "{opcode:?}");
    }
    for opcode in [Opcode::Flush, Opcode::Access, Opcode::Bmap, Opcode::Poll, Opcode::Setlk] {
        assert_eq!(kernel.ask(opcode, ROOT, &[0; 48]).errno, ENOSYS, "{opcode:?}");
    }
    assert_eq!(kernel.ask(Opcode::Ioctl, ROOT, &[0; 32]).errno, linux::ENOTTY);
    assert!(kernel.session.handle(&message(Opcode::Interrupt, 3, 0, &[0; 8])).is_none());
}

#[test]
fn opens_are_answered_for_a_kernel_that_wants_them() {
    let kernel = Kernel::with(Config { zero_message_open: false, ..Config::default() });
    let node = kernel.create("a");
    kernel.write(node, 0, b"data", 0);
    let mut body = Vec::new();
    body.u32(linux::O_TRUNC).u32(0);
    kernel.good(Opcode::Open, node, &body);
    assert_eq!(kernel.fs.getattr(node).unwrap().size, 0);
    kernel.good(Opcode::Release, node, &[0; 24]);
    kernel.good(Opcode::Opendir, ROOT, &[0; 8]);
}

#[test]
fn birth_times_are_told() {
    let kernel = Kernel::new();
    let node = kernel.create("a");
    let answer = kernel.good(Opcode::Statx, node, &[0; 24]);
    assert_eq!(answer.body.len(), 288);
    let btime = kernel.fs.getattr(node).unwrap().btime;
    // Behind 32 bytes of header: 64 bytes to the times, of which birth is the second.
    assert_eq!(answer.u64_at(32 + 64 + 16), btime.seconds().cast_unsigned());
    assert_eq!(answer.u32_at(32 + 64 + 24), btime.nanos());
}

/// A file system that panics when it is asked for its size.
#[derive(Debug)]
struct Broken;

macro_rules! broken {
    ($($name:ident($($arg:ty),*) -> $out:ty;)*) => {
        #[allow(unused_variables, reason = "nothing is done with them")]
        impl FileSystem for Broken {
            fn pin(&self, ino: Ino) {}
            fn unpin(&self, ino: Ino) {}
            $(fn $name(&self, $(_: $arg),*) -> vfs::Result<$out> { panic!("a defect") })*
        }
    };
}

broken! {
    lookup(Ino, &[u8]) -> vfs::Attr;
    getattr(Ino) -> vfs::Attr;
    setattr(Ino, &SetAttr) -> vfs::Attr;
    mknod(Ino, &[u8], Kind, u32, Owner, u32) -> vfs::Attr;
    symlink(Ino, &[u8], &[u8], Owner) -> vfs::Attr;
    readlink(Ino) -> Vec<u8>;
    link(Ino, Ino, &[u8]) -> vfs::Attr;
    unlink(Ino, &[u8]) -> ();
    rmdir(Ino, &[u8]) -> ();
    rename(Ino, &[u8], Ino, &[u8], vfs::RenameFlags) -> ();
    readdir(Ino, u64, usize) -> Vec<vfs::DirEntry>;
    read(Ino, u64, u32) -> bytes::Bytes;
    write(Ino, u64, &[u8]) -> ();
    fallocate(Ino, u32, u64, u64) -> ();
    seek(Ino, vfs::SeekFrom) -> u64;
    getxattr(Ino, &[u8]) -> Vec<u8>;
    setxattr(Ino, &[u8], &[u8], XattrMode) -> ();
    listxattr(Ino) -> Vec<Vec<u8>>;
    removexattr(Ino, &[u8]) -> ();
    statfs() -> vfs::StatFs;
    sync_local() -> ();
    sync(Option<Ino>) -> ();
    create_detached(Kind, u32, Owner) -> vfs::Attr;
    place(Ino, Ino, &[&[u8]], vfs::Expect) -> vfs::Placed;
    graft(&vfs::Graft<'_>) -> Touched;
}

#[test]
fn a_defect_of_the_file_system_is_an_error_and_not_a_hang() {
    let session = session(Arc::new(Broken), Config::default());
    let reply = session.handle(&message(Opcode::Statfs, 5, ROOT, &[]));
    assert_eq!(Answer::of(&reply.unwrap()).errno, EIO);
}
