//! What lost its last name and is held: it can be used, and gets no name again.

use super::Case;
use super::tree::{OWNER, Tree, fails, ok, same};
use crate::{Errno, Expect, Graft, Ino, Kind, ROOT, Result, Touched};

pub(super) const CASES: &[Case] = &[
    ("a file that lost its last name gets none again", no_second_first_name),
    ("a detached file is one until it has a name", detached_once),
    ("a removed directory is no detached tree", removed_is_not_detached),
    ("a removed directory takes no tree", removed_takes_no_tree),
    ("what a detached tree holds goes with it, but for what is pinned", pinned_inside),
];

/// Without a name, with a pin.
fn orphan(t: &Tree, kind: Kind) -> Ino {
    let ino = t.mknod(ROOT, "orphan", kind);
    t.fs.pin(ino);
    match kind {
        Kind::Directory => ok(t.fs.rmdir(ROOT, b"orphan")),
        _ => ok(t.fs.unlink(ROOT, b"orphan")),
    }
    ino
}

fn merge(t: &Tree, from: Ino, into: Ino) -> Result<Touched> {
    t.fs.graft(&Graft { from, into, removals: &[], implicit: &[from], expect: None })
}

fn no_second_first_name(t: &Tree) {
    for kind in [Kind::File, Kind::Fifo] {
        let ino = orphan(t, kind);
        fails(t.fs.link(ino, ROOT, b"again"), &[Errno::ENOENT]);
        fails(t.fs.place(ino, ROOT, &[b"again"], Expect::Any), &[Errno::EINVAL]);
        // What is wrong with the name is said first.
        t.file("taken");
        fails(t.fs.link(ino, ROOT, b"taken"), &[Errno::EEXIST]);
        ok(t.fs.unlink(ROOT, b"taken"));
        same((t.attr(ino).nlink, t.names(ROOT)), (0, Vec::new()));
        t.fs.unpin(ino);
        fails(t.fs.getattr(ino), &[Errno::ENOENT, Errno::ESTALE]);
    }
}

fn detached_once(t: &Tree) {
    for place in [false, true] {
        let ino = ok(t.fs.create_detached(Kind::File, 0o640, OWNER)).ino;
        if place {
            ok(t.fs.place(ino, ROOT, &[b"a"], Expect::Absent));
        } else {
            ok(t.fs.link(ino, ROOT, b"a"));
        }
        fails(t.fs.place(ino, ROOT, &[b"b"], Expect::Any), &[Errno::EINVAL]);
        same(ok(t.fs.link(ino, ROOT, b"b")).nlink, 2);
        ok(t.fs.unlink(ROOT, b"a"));
        ok(t.fs.unlink(ROOT, b"b"));
        fails(t.fs.link(ino, ROOT, b"c"), &[Errno::ENOENT]);
        fails(t.fs.place(ino, ROOT, &[b"c"], Expect::Any), &[Errno::EINVAL]);
        t.fs.unpin(ino);
        fails(t.fs.getattr(ino), &[Errno::ENOENT, Errno::ESTALE]);
    }
}

fn removed_is_not_detached(t: &Tree) {
    let removed = orphan(t, Kind::Directory);
    fails(merge(t, removed, ROOT), &[Errno::EINVAL]);
    t.fs.unpin(removed);
    fails(t.fs.getattr(removed), &[Errno::ENOENT, Errno::ESTALE]);
}

fn removed_takes_no_tree(t: &Tree) {
    let before = ok(t.fs.statfs()).inodes_used;
    let removed = orphan(t, Kind::Directory);
    let from = ok(t.fs.create_detached(Kind::Directory, 0o755, OWNER)).ino;
    fails(merge(t, from, removed), &[Errno::ENOENT]);
    t.file_with(from, "file", b"x");
    fails(merge(t, from, removed), &[Errno::ENOENT]);
    same((t.names(removed), t.names(from)), (Vec::new(), vec!["file".to_owned()]));
    t.fs.unpin(removed);
    t.fs.unpin(from);
    same(ok(t.fs.statfs()).inodes_used, before);
}

fn pinned_inside(t: &Tree) {
    let before = ok(t.fs.statfs()).inodes_used;
    let from = ok(t.fs.create_detached(Kind::Directory, 0o755, OWNER)).ino;
    let sub = t.dir_in(from, "sub");
    let (held, gone) = (t.file_with(sub, "held", b"x"), t.file_with(sub, "gone", b"y"));
    t.fs.pin(sub);
    t.fs.pin(held);
    t.fs.unpin(from);
    for ino in [from, gone] {
        fails(t.fs.getattr(ino), &[Errno::ENOENT, Errno::ESTALE]);
    }
    same((t.attr(sub).nlink, t.names(sub)), (0, Vec::new()));
    same((t.attr(held).nlink, t.content(held)), (0, b"x".to_vec()));
    fails(t.fs.link(held, ROOT, b"held"), &[Errno::ENOENT]);
    t.fs.unpin(held);
    t.fs.unpin(sub);
    same(ok(t.fs.statfs()).inodes_used, before);
}
