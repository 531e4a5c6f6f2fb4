//! `put_file`: the same as the three calls that it stands for, or nothing at all.

use super::Case;
use super::tree::{OWNER, Tree, fails, ok, same};
use crate::{Errno, Expect, Kind, NewFile, Placed, ROOT, Result, put_in_steps};

pub(super) const CASES: &[Case] = &[
    ("put makes what the three calls make", same_as_steps),
    ("put takes a file of any size", sizes),
    ("put replaces a file and keeps others' hands on it", replaces),
    ("put holds to what was expected", expected),
    ("a refused put changes nothing", refused),
    ("put says what it touched", touched),
];

fn file(content: &[u8]) -> NewFile<'_> {
    NewFile { content, perm: 0o640, owner: OWNER }
}

fn put(t: &Tree, path: &[&[u8]], content: &[u8], expect: Expect) -> Result<Placed> {
    t.fs.put_file(ROOT, path, &file(content), expect)
}

fn same_as_steps(t: &Tree) {
    let (one, steps) = (t.dir("one"), t.dir("steps"));
    for (path, content) in [
        (&[b"plain" as &[u8]][..], b"content" as &[u8]),
        (&[b"empty"], b""),
        (&[b"x", b"y", b"deep"], b"1"),
        (&[b"plain"], b"replaced"),
    ] {
        let new = file(content);
        let before = ok(t.fs.statfs());
        let a = ok(t.fs.put_file(one, path, &new, Expect::Any));
        let between = ok(t.fs.statfs());
        let b = ok(put_in_steps(&*t.fs, steps, path, &new, Expect::Any));
        let after = ok(t.fs.statfs());
        let of = |placed: &Placed| {
            let attr = placed.attr;
            let kept = (attr.kind, attr.perm, attr.nlink, attr.owner, attr.size, attr.blocks);
            (placed.created, kept, placed.touched.entries.len(), placed.touched.inodes.len())
        };
        same(of(&a), of(&b));
        same(a.attr, t.attr(a.attr.ino));
        same(t.content(a.attr.ino), t.content(b.attr.ino));
        same(
            (between.inodes_used - before.inodes_used, between.bytes_used - before.bytes_used),
            (after.inodes_used - between.inodes_used, after.bytes_used - between.bytes_used),
        );
    }
    same(t.attr(t.at("one/x")).owner, t.attr(t.at("steps/x")).owner);
    same(t.attr(t.at("one/x")).perm, 0o755);
    same((t.attr(one).nlink, t.attr(steps).nlink), (3, 3));
    same(t.names(one), t.names(steps));
}

fn sizes(t: &Tree) {
    for size in [0, 1, 4096, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 1 << 20, 3 << 20] {
        let content: Vec<u8> = (0..size).map(|n: usize| (n % 251) as u8).collect();
        let placed = ok(put(t, &[b"file"], &content, Expect::Any));
        same((placed.attr.size, placed.attr.kind), (size as u64, Kind::File));
        assert!(t.content(t.at("file")) == content, "{size} bytes came back as others");
    }
}

fn replaces(t: &Tree) {
    let old = t.file_with(ROOT, "a", b"old");
    t.fs.pin(old);
    let placed = ok(put(t, &[b"a"], b"new", Expect::Any));
    assert!(!placed.created && placed.attr.ino != old);
    same((t.content(t.at("a")), t.content(old)), (b"new".to_vec(), b"old".to_vec()));
    t.fs.unpin(old);
    fails(t.fs.getattr(old), &[Errno::ENOENT, Errno::ESTALE]);
    // What was put is a file like any other: it can be written, linked and removed.
    let new = placed.attr.ino;
    ok(t.fs.write(new, 3, b"er"));
    ok(t.fs.link(new, ROOT, b"b"));
    ok(t.fs.unlink(ROOT, b"a"));
    same(t.content(t.at("b")), b"newer".to_vec());
    ok(t.fs.unlink(ROOT, b"b"));
    fails(t.fs.getattr(new), &[Errno::ENOENT, Errno::ESTALE]);
}

fn expected(t: &Tree) {
    fails(put(t, &[b"a"], b"1", Expect::Present), &[Errno::ESTALE]);
    let first = ok(put(t, &[b"a"], b"1", Expect::Absent)).attr;
    fails(put(t, &[b"a"], b"2", Expect::Absent), &[Errno::EEXIST]);
    let stale = Expect::Version(first.ino, first.version + 1_000_000);
    fails(put(t, &[b"a"], b"2", stale), &[Errno::ESTALE]);
    same(t.content(t.at("a")), b"1".to_vec());
    let second = ok(put(t, &[b"a"], b"2", Expect::Version(first.ino, first.version))).attr;
    assert!((second.ino, second.version) != (first.ino, first.version));
    let again = Expect::Version(first.ino, first.version);
    fails(put(t, &[b"a"], b"3", again), &[Errno::ESTALE]);
    same(t.content(t.at("a")), b"2".to_vec());
}

fn refused(t: &Tree) {
    t.file_with(ROOT, "file", b"x");
    let dir = t.dir("dir");
    ok(t.fs.symlink(ROOT, b"link", b"dir", OWNER));
    let before = ok(t.fs.statfs());
    let root = t.attr(ROOT);
    let not_a_dir = &[Errno::ENOTDIR, Errno::ELOOP];
    for content in [&[1; 100][..], &[2; 100_000]] {
        fails(put(t, &[b"file", b"a"], content, Expect::Any), not_a_dir);
        fails(put(t, &[b"link", b"a"], content, Expect::Any), not_a_dir);
        fails(put(t, &[b"dir"], content, Expect::Any), &[Errno::EISDIR, Errno::EEXIST]);
        fails(put(t, &[b"dir", b"new", b".."], content, Expect::Any), &[Errno::EINVAL]);
        fails(put(t, &[b"dir", b"new", b"a"], content, Expect::Present), &[Errno::ESTALE]);
        let long = [b'n'; 256];
        fails(put(t, &[b"dir", b"new", &long], content, Expect::Any), &[Errno::ENAMETOOLONG]);
        fails(put(t, &[], content, Expect::Any), &[Errno::EINVAL]);
        fails(put(t, &[b"file"], content, Expect::Absent), &[Errno::EEXIST]);
    }
    same(t.names(dir), Vec::new());
    same(t.names(ROOT), vec!["dir".to_owned(), "file".to_owned(), "link".to_owned()]);
    same((t.attr(ROOT), ok(t.fs.statfs())), (root, before));
    // Nothing that was refused is in the way of what comes next.
    ok(put(t, &[b"dir", b"new", b"a"], b"1", Expect::Absent));
    same(t.content(t.at("dir/new/a")), b"1".to_vec());
}

fn touched(t: &Tree) {
    let dir = t.dir("dir");
    let old = t.mknod(dir, "old", Kind::File);
    let placed = ok(put(t, &[b"dir", b"old"], b"1", Expect::Any));
    let touched = placed.touched;
    assert!(touched.entries.contains(&(dir, b"old".to_vec())), "{touched:?}");
    for ino in [dir, old, placed.attr.ino] {
        assert!(touched.inodes.contains(&ino), "{ino} in {touched:?}");
    }
    let touched = ok(put(t, &[b"dir", b"new", b"a"], b"1", Expect::Any)).touched;
    assert!(touched.entries.contains(&(dir, b"new".to_vec())), "{touched:?}");
}
