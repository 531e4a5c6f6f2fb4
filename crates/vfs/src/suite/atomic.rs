//! What is made aside and shown in one step: `place` and `graft`.

use super::Case;
use super::tree::{OWNER, Tree, fails, ok, same};
use crate::{
    Errno, Expect, Graft, Ino, Kind, Placed, ROOT, Removal, SetAttr, SetTime, Time, Touched,
    XattrMode,
};

pub(super) const CASES: &[Case] = &[
    ("a detached inode is nowhere and has no link", detached),
    ("a detached inode goes with its pin", detached_goes),
    ("a detached file can be linked", detached_linked),
    ("place names a detached file", place),
    ("place makes the directories that are missing", place_parents),
    ("place replaces a file and keeps others' hands on it", place_replaces),
    ("place holds to what was expected", place_expect),
    ("a refused place changes nothing", place_refused),
    ("only a detached file is placed", place_wrong),
    ("place says what it touched", place_touched),
    ("graft merges a tree", graft),
    ("graft replaces files and merges directories", graft_replaces),
    ("merged directories take the new attributes", graft_attributes),
    ("graft leaves nothing behind", graft_leaves_nothing),
    ("graft removes first", graft_removals),
    ("graft removes what it then puts back", graft_same_name),
    ("a refused graft changes nothing", graft_refused),
    ("hard links in a grafted tree stay together", graft_links),
    ("graft takes the attributes of its root where asked to", graft_root),
    ("graft says what it touched", graft_touched),
    ("graft holds to what was expected", graft_expect),
    ("a detached tree goes with its pin", detached_tree),
];

fn staged(t: &Tree, content: &[u8]) -> Ino {
    let ino = ok(t.fs.create_detached(Kind::File, 0o640, OWNER)).ino;
    ok(t.fs.write(ino, 0, content));
    ino
}

fn put(t: &Tree, path: &[&[u8]], content: &[u8], expect: Expect) -> crate::Result<Placed> {
    let ino = staged(t, content);
    let placed = t.fs.place(ino, ROOT, path, expect);
    t.fs.unpin(ino);
    placed
}

fn staged_dir(t: &Tree) -> Ino {
    ok(t.fs.create_detached(Kind::Directory, 0o755, OWNER)).ino
}

fn merge(t: &Tree, from: Ino, into: Ino, removals: &[Removal]) -> crate::Result<Touched> {
    let done = t.fs.graft(&Graft { from, into, removals, implicit: &[from], expect: None });
    t.fs.unpin(from);
    done
}

fn path(text: &str) -> Removal {
    text.split('/').map(|name| name.as_bytes().to_vec()).collect()
}

fn detached(t: &Tree) {
    let attr = ok(t.fs.create_detached(Kind::File, 0o640, OWNER));
    same((attr.kind, attr.perm, attr.owner, attr.nlink), (Kind::File, 0o640, OWNER, 0));
    for kind in [Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice] {
        fails(t.fs.create_detached(kind, 0o640, OWNER), &[Errno::EINVAL]);
    }
    same(t.names(ROOT), Vec::new());
    ok(t.fs.write(attr.ino, 0, b"x"));
    same(t.content(attr.ino), b"x".to_vec());
    t.fs.unpin(attr.ino);
}

fn detached_goes(t: &Tree) {
    let before = ok(t.fs.statfs()).inodes_used;
    let ino = staged(t, &[1; 100_000]);
    t.fs.unpin(ino);
    fails(t.fs.getattr(ino), &[Errno::ENOENT, Errno::ESTALE]);
    same(ok(t.fs.statfs()).inodes_used, before);
}

fn detached_linked(t: &Tree) {
    let ino = staged(t, b"x");
    same(ok(t.fs.link(ino, ROOT, b"a")).nlink, 1);
    t.fs.unpin(ino);
    same(t.content(t.at("a")), b"x".to_vec());
}

fn place(t: &Tree) {
    let ino = staged(t, b"content");
    let placed = ok(t.fs.place(ino, ROOT, &[b"a"], Expect::Any));
    t.fs.unpin(ino);
    assert!(placed.created);
    same((placed.attr.ino, placed.attr.nlink, placed.attr.size), (ino, 1, 7));
    same(placed.attr, ok(t.look(ROOT, "a")));
    same(t.content(ino), b"content".to_vec());
}

fn place_parents(t: &Tree) {
    let made = t.dir("made");
    ok(put(t, &[b"made", b"x", b"y", b"file"], b"1", Expect::Absent));
    same(t.content(t.at("made/x/y/file")), b"1".to_vec());
    same(t.attr(t.at("made/x")).perm, 0o755);
    same((t.attr(made).nlink, t.attr(t.at("made/x")).nlink), (3, 3));
    same(t.attr(t.at("made/x/y")).kind, Kind::Directory);
}

fn place_replaces(t: &Tree) {
    let old = t.file_with(ROOT, "a", b"old");
    t.fs.pin(old);
    ok(t.fs.link(old, ROOT, b"other"));
    let placed = ok(put(t, &[b"a"], b"new", Expect::Any));
    assert!(!placed.created);
    same(t.content(t.at("a")), b"new".to_vec());
    same((t.at("other"), t.attr(old).nlink), (old, 1));
    ok(t.fs.unlink(ROOT, b"other"));
    same(t.content(old), b"old".to_vec());
    t.fs.unpin(old);
    fails(t.fs.getattr(old), &[Errno::ENOENT, Errno::ESTALE]);
    // A link is replaced, not followed.
    ok(t.fs.symlink(ROOT, b"link", b"a", OWNER));
    ok(put(t, &[b"link"], b"third", Expect::Any));
    same(t.content(t.at("a")), b"new".to_vec());
    same(t.attr(t.at("link")).kind, Kind::File);
}

fn place_expect(t: &Tree) {
    fails(put(t, &[b"a"], b"1", Expect::Present), &[Errno::ESTALE]);
    fails(put(t, &[b"a"], b"1", Expect::Version(ROOT, 1)), &[Errno::ESTALE]);
    let first = ok(put(t, &[b"a"], b"1", Expect::Absent)).attr;
    fails(put(t, &[b"a"], b"2", Expect::Absent), &[Errno::EEXIST]);
    let stale = Expect::Version(first.ino, first.version + 1_000_000);
    fails(put(t, &[b"a"], b"2", stale), &[Errno::ESTALE]);
    let second = ok(put(t, &[b"a"], b"2", Expect::Version(first.ino, first.version))).attr;
    // The very inode and version are gone with it.
    let again = Expect::Version(first.ino, first.version);
    fails(put(t, &[b"a"], b"3", again), &[Errno::ESTALE]);
    ok(t.fs.write(second.ino, 0, b"!"));
    let before_write = Expect::Version(second.ino, second.version);
    fails(put(t, &[b"a"], b"3", before_write), &[Errno::ESTALE]);
    ok(put(t, &[b"a"], b"4", Expect::Present));
    same(t.content(t.at("a")), b"4".to_vec());
}

fn place_refused(t: &Tree) {
    t.file_with(ROOT, "file", b"x");
    let dir = t.dir("dir");
    ok(t.fs.symlink(ROOT, b"link", b"dir", OWNER));
    let not_a_dir = &[Errno::ENOTDIR, Errno::ELOOP];
    fails(put(t, &[b"file", b"a"], b"1", Expect::Any), not_a_dir);
    fails(put(t, &[b"link", b"a"], b"1", Expect::Any), not_a_dir);
    fails(put(t, &[b"dir"], b"1", Expect::Any), &[Errno::EISDIR, Errno::EEXIST]);
    fails(put(t, &[b"dir", b"new", b".."], b"1", Expect::Any), &[Errno::EINVAL]);
    fails(put(t, &[b"dir", b"new", b"a"], b"1", Expect::Present), &[Errno::ESTALE]);
    let long = [b'n'; 256];
    fails(put(t, &[b"dir", b"new", &long], b"1", Expect::Any), &[Errno::ENAMETOOLONG]);
    fails(put(t, &[], b"1", Expect::Any), &[Errno::EINVAL]);
    same(t.names(dir), Vec::new());
    same(t.names(ROOT), vec!["dir".to_owned(), "file".to_owned(), "link".to_owned()]);
}

fn place_wrong(t: &Tree) {
    let named = t.file("named");
    fails(t.fs.place(named, ROOT, &[b"b"], Expect::Any), &[Errno::EINVAL, Errno::EEXIST]);
    let dir = staged_dir(t);
    fails(t.fs.place(dir, ROOT, &[b"b"], Expect::Any), &[Errno::EINVAL, Errno::EISDIR]);
    t.fs.unpin(dir);
    same(t.attr(named).nlink, 1);
    t.gone(ROOT, "b");
}

fn place_touched(t: &Tree) {
    let dir = t.dir("dir");
    let old = t.mknod(dir, "old", Kind::File);
    let touched = ok(put(t, &[b"dir", b"old"], b"1", Expect::Any)).touched;
    assert!(touched.entries.contains(&(dir, b"old".to_vec())), "{touched:?}");
    assert!(touched.inodes.contains(&dir) && touched.inodes.contains(&old), "{touched:?}");
    let touched = ok(put(t, &[b"dir", b"new", b"a"], b"1", Expect::Any)).touched;
    assert!(touched.entries.contains(&(dir, b"new".to_vec())), "{touched:?}");
}

fn graft(t: &Tree) {
    let into = t.dir("into");
    let kept = t.file_with(into, "kept", b"kept");
    let from = staged_dir(t);
    let sub = t.dir_in(from, "sub");
    let file = t.file_with(sub, "file", b"new");
    ok(t.fs.symlink(from, b"link", b"sub/file", OWNER));
    ok(merge(t, from, into, &[]));
    same(t.names(into), vec!["kept".to_owned(), "link".to_owned(), "sub".to_owned()]);
    same((t.at("into/kept"), t.at("into/sub"), t.at("into/sub/file")), (kept, sub, file));
    same((t.content(file), t.attr(into).nlink), (b"new".to_vec(), 3));
    fails(t.fs.getattr(from), &[Errno::ENOENT, Errno::ESTALE]);
    // What came in is as alive as what was there.
    ok(t.rename((into, "sub"), (ROOT, "sub"), Default::default()));
    same(t.at("sub/file"), file);
}

fn graft_replaces(t: &Tree) {
    let old = t.file_with(ROOT, "file", b"old");
    let (dir, empty) = (t.dir("dir"), t.dir("empty"));
    let inside = t.file_with(dir, "inside", b"inside");
    let from = staged_dir(t);
    t.file_with(from, "file", b"new");
    t.file_with(from, "empty", b"file over an empty directory");
    let new_dir = t.dir_in(from, "dir");
    let new_inside = t.file_with(new_dir, "new", b"new inside");
    ok(merge(t, from, ROOT, &[]));
    same(t.content(t.at("file")), b"new".to_vec());
    fails(t.fs.getattr(old), &[Errno::ENOENT, Errno::ESTALE]);
    fails(t.fs.getattr(empty), &[Errno::ENOENT, Errno::ESTALE]);
    same(t.attr(t.at("empty")).kind, Kind::File);
    same((t.at("dir"), t.at("dir/inside"), t.at("dir/new")), (dir, inside, new_inside));
    same((t.attr(ROOT).nlink, t.attr(dir).nlink), (3, 2));
}

fn graft_leaves_nothing(t: &Tree) {
    let deep = |top| t.dir_in(t.dir_in(top, "dir"), "deep");
    let into = t.dir("into");
    t.file_with(deep(into), "old", b"old");
    let from = staged_dir(t);
    let below = deep(from);
    let (file, held) = (t.file_with(below, "new", b"new"), t.dir_in(from, "into"));
    t.dir_in(into, "into");
    t.fs.pin(held);
    let before = ok(t.fs.statfs()).inodes_used;
    ok(t.fs.graft(&Graft { from, into, removals: &[], implicit: &[], expect: None }));
    same((t.names(from), t.attr(from).nlink), (Vec::new(), 2));
    fails(t.fs.getattr(below), &[Errno::ENOENT, Errno::ESTALE]);
    // Those that were merged are gone, but for the one that is held.
    same(ok(t.fs.statfs()).inodes_used, before - 2);
    same((t.attr(held).nlink, t.at("into/dir/deep/new")), (0, file));
    fails(t.fs.mknod(held, b"x", Kind::File, 0o644, OWNER, 0), &[Errno::ENOENT]);
    // So a second time merges nothing.
    let mtime = t.attr(t.at("into/dir")).mtime;
    ok(t.fs.graft(&Graft { from, into, removals: &[], implicit: &[from], expect: None }));
    same(t.attr(t.at("into/dir")).mtime, mtime);
    t.fs.unpin(held);
    t.fs.unpin(from);
    same(ok(t.fs.statfs()).inodes_used, before - 4);
}

fn graft_attributes(t: &Tree) {
    let dir = t.dir("dir");
    ok(t.fs.setxattr(dir, b"user.old", b"1", XattrMode::Any));
    let from = staged_dir(t);
    let new = t.dir_in(from, "dir");
    t.mknod(new, "file", Kind::File);
    let set = SetAttr {
        perm: Some(0o2711),
        uid: Some(4),
        gid: Some(5),
        mtime: Some(SetTime::At(Time(123_456_789))),
        ..SetAttr::default()
    };
    ok(t.fs.setattr(new, &set));
    ok(t.fs.setxattr(new, b"user.new", b"2", XattrMode::Any));
    ok(merge(t, from, ROOT, &[]));
    let attr = t.attr(dir);
    same(t.at("dir"), dir);
    same((attr.perm, attr.owner.uid, attr.owner.gid), (0o2711, 4, 5));
    same(attr.mtime, Time(123_456_789));
    same(ok(t.fs.getxattr(dir, b"user.new")), b"2".to_vec());
    // In place of what it had, as when a file replaces another.
    same(ok(t.fs.listxattr(dir)), vec![b"user.new".to_vec()]);
}

fn graft_removals(t: &Tree) {
    let dir = t.dir("dir");
    let deep = t.dir_in(dir, "deep");
    let file = t.file_with(deep, "file", b"x");
    t.file_with(ROOT, "a", b"x");
    t.file_with(ROOT, "b", b"x");
    let from = staged_dir(t);
    t.file_with(from, "c", b"x");
    let removals = [path("dir"), path("a"), path("none"), path("none/x"), path("b/x")];
    ok(merge(t, from, ROOT, &removals));
    same(t.names(ROOT), vec!["b".to_owned(), "c".to_owned()]);
    for ino in [dir, deep, file] {
        fails(t.fs.getattr(ino), &[Errno::ENOENT, Errno::ESTALE]);
    }
    same(t.attr(ROOT).nlink, 2);
}

fn graft_same_name(t: &Tree) {
    let dir = t.dir("dir");
    t.file_with(dir, "old", b"x");
    let from = staged_dir(t);
    t.file_with(from, "dir", b"now a file");
    // Without the removal this would be a file over a directory that has entries.
    ok(merge(t, from, ROOT, &[path("dir")]));
    same(t.content(t.at("dir")), b"now a file".to_vec());
}

fn graft_refused(t: &Tree) {
    let dir = t.dir("dir");
    let inside = t.file_with(dir, "inside", b"x");
    let file = t.file_with(ROOT, "file", b"x");
    for clash in ["dir", "file"] {
        let from = staged_dir(t);
        t.file_with(from, "aaa", b"comes first");
        if clash == "dir" {
            t.file_with(from, "dir", b"over a directory with entries");
        } else {
            t.dir_in(from, "file");
        }
        t.file_with(from, "zzz", b"comes last");
        fails(merge(t, from, ROOT, &[path("gone"), path("dir/none")]), &[Errno::EEXIST]);
        same(t.names(ROOT), vec!["dir".to_owned(), "file".to_owned()]);
    }
    // Also what would have been removed stays.
    let from = staged_dir(t);
    t.dir_in(from, "file");
    fails(merge(t, from, ROOT, &[path("dir")]), &[Errno::EEXIST]);
    same((t.at("dir/inside"), t.at("file")), (inside, file));
    // A tree that is visible is no detached one.
    let graft = Graft { from: dir, into: ROOT, removals: &[], implicit: &[dir], expect: None };
    fails(t.fs.graft(&graft), &[Errno::EINVAL]);
    let from = staged_dir(t);
    fails(merge(t, from, file, &[]), &[Errno::ENOTDIR]);
}

fn graft_links(t: &Tree) {
    let from = staged_dir(t);
    let sub = t.dir_in(from, "sub");
    let file = t.file_with(from, "a", b"x");
    ok(t.fs.link(file, sub, b"b"));
    t.dir("sub");
    ok(merge(t, from, ROOT, &[]));
    same((t.at("a"), t.at("sub/b"), t.attr(file).nlink), (file, file, 2));
}

fn graft_expect(t: &Tree) {
    let file = t.file_with(ROOT, "file", b"old");
    let was = t.attr(file);
    ok(t.fs.write(file, 0, b"new"));
    let guarded = |version| {
        let from = staged_dir(t);
        let removals = [path("file")];
        let expect = Some((&b"file"[..], file, version));
        t.fs.graft(&Graft { from, into: ROOT, removals: &removals, implicit: &[from], expect })
    };
    fails(guarded(was.version), &[Errno::ESTALE]);
    same(t.at("file"), file);
    ok(guarded(t.attr(file).version));
    same(t.names(ROOT), Vec::<String>::new());
}

fn graft_root(t: &Tree) {
    let into = t.dir("into");
    let from = staged_dir(t);
    t.mknod(from, "file", Kind::File);
    let mtime = Some(SetTime::At(Time(42)));
    ok(t.fs.setattr(from, &SetAttr { perm: Some(0o700), mtime, ..SetAttr::default() }));
    ok(t.fs.graft(&Graft { from, into, removals: &[], implicit: &[], expect: None }));
    t.fs.unpin(from);
    same((t.attr(into).perm, t.attr(into).mtime), (0o700, Time(42)));
    same(t.at("into"), into);
}

fn graft_touched(t: &Tree) {
    let dir = t.dir("dir");
    let old = t.file_with(dir, "old", b"x");
    let removed = t.file_with(ROOT, "removed", b"x");
    let from = staged_dir(t);
    let new = t.dir_in(from, "dir");
    t.file_with(new, "old", b"y");
    t.file_with(new, "new", b"y");
    let touched = ok(merge(t, from, ROOT, &[path("removed")]));
    for entry in [(dir, "old"), (dir, "new"), (ROOT, "removed")] {
        let entry = (entry.0, entry.1.as_bytes().to_vec());
        assert!(touched.entries.contains(&entry), "{entry:?} in {touched:?}");
    }
    for ino in [dir, old, removed] {
        assert!(touched.inodes.contains(&ino), "{ino} in {touched:?}");
    }
}

fn detached_tree(t: &Tree) {
    let before = ok(t.fs.statfs()).inodes_used;
    let from = staged_dir(t);
    let sub = t.dir_in(from, "sub");
    let file = t.file_with(sub, "file", b"x");
    t.fs.unpin(from);
    for ino in [from, sub, file] {
        fails(t.fs.getattr(ino), &[Errno::ENOENT, Errno::ESTALE]);
    }
    same(ok(t.fs.statfs()).inodes_used, before);
}
