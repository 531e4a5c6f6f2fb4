//! Modes, owners, times, extended attributes, sizes of the whole.

use super::Case;
use super::tree::{OWNER, Tree, fails, ok, same};
use crate::{Errno, Kind, Owner, ROOT, SetAttr, SetTime, Time, XattrMode};

pub(super) const CASES: &[Case] = &[
    ("setattr changes what it names and nothing else", setattr),
    ("times are kept to the nanosecond, also before 1970", nanoseconds),
    ("setting a time to now is later than 1970", now),
    ("every kind takes a mode, an owner and times", every_kind),
    ("a new file has four equal or ordered times", creation_times),
    ("a change of mode or owner raises the version", versions),
    ("a link and an unlink change the file's ctime", link_times),
    ("extended attributes come back as bytes", xattrs),
    ("creating and replacing extended attributes", xattr_modes),
    ("extended attributes are of the inode", xattrs_of_inode),
    ("large extended attributes", large_xattrs),
    ("statfs counts", statfs),
    ("syncs succeed", syncs),
];

fn setattr(t: &Tree) {
    let file = t.file_with(ROOT, "a", b"data");
    t.age(file);
    let before = t.attr(file);
    let after = ok(t.fs.setattr(file, &SetAttr { perm: Some(0o4751), ..SetAttr::default() }));
    same((after.perm, after.owner, after.size), (0o4751, before.owner, 4));
    same((after.mtime, after.atime), (before.mtime, before.atime));
    same(t.attr(file), after);
    let after = ok(t.fs.setattr(file, &SetAttr { uid: Some(5), ..SetAttr::default() }));
    same((after.owner, after.perm), (Owner { uid: 5, gid: OWNER.gid }, 0o4751));
    let after = ok(t.fs.setattr(file, &SetAttr { gid: Some(6), ..SetAttr::default() }));
    same(after.owner, Owner { uid: 5, gid: 6 });
    let all = SetAttr {
        perm: Some(0o600),
        uid: Some(1),
        gid: Some(2),
        size: Some(2),
        atime: Some(SetTime::At(Time(11))),
        mtime: Some(SetTime::At(Time(22))),
    };
    let after = ok(t.fs.setattr(file, &all));
    same((after.perm, after.owner, after.size), (0o600, Owner { uid: 1, gid: 2 }, 2));
    same((after.atime, after.mtime), (Time(11), Time(22)));
    same(after.kind, Kind::File);
}

fn nanoseconds(t: &Tree) {
    let file = t.file("a");
    for nanos in [1, -1, 1_700_000_000_123_456_789, -1_000_000_001, 0] {
        let (at, mt) = (SetTime::At(Time(nanos)), SetTime::At(Time(nanos + 1)));
        let set = SetAttr { atime: Some(at), mtime: Some(mt), ..SetAttr::default() };
        let attr = ok(t.fs.setattr(file, &set));
        same((attr.atime, attr.mtime), (Time(nanos), Time(nanos + 1)));
    }
}

fn now(t: &Tree) {
    let file = t.file("a");
    t.age(file);
    let now = Some(SetTime::Now);
    let attr = ok(t.fs.setattr(file, &SetAttr { atime: now, mtime: now, ..SetAttr::default() }));
    assert!(attr.mtime != Time(1_000_000_007) && attr.atime != Time(1_000_000_007));
}

fn every_kind(t: &Tree) {
    let link = ok(t.fs.symlink(ROOT, b"link", b"x", OWNER)).ino;
    for ino in [t.dir("dir"), t.mknod(ROOT, "fifo", Kind::Fifo), link] {
        let set = SetAttr {
            uid: Some(9),
            gid: Some(8),
            mtime: Some(SetTime::At(Time(77))),
            ..SetAttr::default()
        };
        let attr = ok(t.fs.setattr(ino, &set));
        same((attr.owner, attr.mtime), (Owner { uid: 9, gid: 8 }, Time(77)));
    }
    let dir = t.at("dir");
    same(ok(t.fs.setattr(dir, &SetAttr { perm: Some(0o1777), ..SetAttr::default() })).perm, 0o1777);
}

fn creation_times(t: &Tree) {
    let attr = t.attr(t.file("a"));
    assert!(attr.btime <= attr.mtime && attr.btime <= attr.ctime && attr.btime <= attr.atime);
}

fn versions(t: &Tree) {
    let file = t.file("a");
    let mut before = t.attr(file).version;
    for set in [
        SetAttr { perm: Some(0o600), ..SetAttr::default() },
        SetAttr { uid: Some(3), ..SetAttr::default() },
        SetAttr { size: Some(10), ..SetAttr::default() },
    ] {
        let after = ok(t.fs.setattr(file, &set)).version;
        assert!(after > before, "{set:?}: version {after} after {before}");
        before = after;
    }
}

fn link_times(t: &Tree) {
    let file = t.file("a");
    let before = t.attr(file).ctime;
    let linked = ok(t.fs.link(file, ROOT, b"b")).ctime;
    assert!(linked >= before, "ctime does not go back");
    ok(t.fs.unlink(ROOT, b"a"));
    assert!(t.attr(file).ctime >= linked, "ctime does not go back");
    same(t.attr(file).nlink, 1);
}

fn xattrs(t: &Tree) {
    let (file, dir) = (t.file("a"), t.dir("d"));
    for ino in [file, dir] {
        same(ok(t.fs.listxattr(ino)), Vec::new());
        fails(t.fs.getxattr(ino, b"user.a"), &[Errno::ENODATA]);
        ok(t.fs.setxattr(ino, b"user.a", b"\0\xff value", XattrMode::Any));
        ok(t.fs.setxattr(ino, b"user.empty", b"", XattrMode::Any));
        same(ok(t.fs.getxattr(ino, b"user.a")), b"\0\xff value".to_vec());
        same(ok(t.fs.getxattr(ino, b"user.empty")), Vec::new());
        let mut names = ok(t.fs.listxattr(ino));
        names.sort();
        same(names, vec![b"user.a".to_vec(), b"user.empty".to_vec()]);
        ok(t.fs.removexattr(ino, b"user.a"));
        fails(t.fs.getxattr(ino, b"user.a"), &[Errno::ENODATA]);
        fails(t.fs.removexattr(ino, b"user.a"), &[Errno::ENODATA]);
    }
}

fn xattr_modes(t: &Tree) {
    let file = t.file("a");
    fails(t.fs.setxattr(file, b"user.a", b"1", XattrMode::Replace), &[Errno::ENODATA]);
    ok(t.fs.setxattr(file, b"user.a", b"1", XattrMode::Create));
    fails(t.fs.setxattr(file, b"user.a", b"2", XattrMode::Create), &[Errno::EEXIST]);
    same(ok(t.fs.getxattr(file, b"user.a")), b"1".to_vec());
    ok(t.fs.setxattr(file, b"user.a", b"3", XattrMode::Replace));
    same(ok(t.fs.getxattr(file, b"user.a")), b"3".to_vec());
}

fn xattrs_of_inode(t: &Tree) {
    let file = t.file("a");
    ok(t.fs.setxattr(file, b"user.a", b"1", XattrMode::Any));
    ok(t.fs.link(file, ROOT, b"b"));
    ok(t.rename((ROOT, "a"), (ROOT, "c"), Default::default()));
    same(ok(t.fs.getxattr(t.at("b"), b"user.a")), b"1".to_vec());
    let other = t.file("a");
    fails(t.fs.getxattr(other, b"user.a"), &[Errno::ENODATA]);
}

fn large_xattrs(t: &Tree) {
    let file = t.file("a");
    let large = vec![5; 60_000];
    ok(t.fs.setxattr(file, b"user.large", &large, XattrMode::Any));
    assert!(ok(t.fs.getxattr(file, b"user.large")) == large, "60,000 bytes come back");
    let mut name = b"user.".to_vec();
    name.resize(255, b'n');
    ok(t.fs.setxattr(file, &name, b"1", XattrMode::Any));
    name.push(b'n');
    let long = &[Errno::ERANGE, Errno::ENAMETOOLONG, Errno::EINVAL];
    fails(t.fs.setxattr(file, &name, b"1", XattrMode::Any), long);
}

fn statfs(t: &Tree) {
    let before = ok(t.fs.statfs());
    let file = t.file_with(ROOT, "a", &vec![1; 1 << 20]);
    let after = ok(t.fs.statfs());
    same(after.inodes_used, before.inodes_used + 1);
    assert!(after.bytes_used >= before.bytes_used + (1 << 20), "{after:?} after {before:?}");
    assert!(after.bytes_max >= after.bytes_used, "{after:?}");
    ok(t.fs.unlink(ROOT, b"a"));
    fails(t.fs.getattr(file), &[Errno::ENOENT, Errno::ESTALE]);
    same(ok(t.fs.statfs()).inodes_used, before.inodes_used);
}

fn syncs(t: &Tree) {
    let file = t.file_with(ROOT, "a", b"x");
    ok(t.fs.sync_local());
    ok(t.fs.sync(Some(file)));
    ok(t.fs.sync(None));
    same(t.content(file), b"x".to_vec());
}
