//! `rename`, with its three ways of treating what stands at the new name.

use super::Case;
use super::tree::{OWNER, Tree, fails, ok, same};
use crate::RenameFlags::{Exchange, NoReplace, Replace};
use crate::{Errno, Kind, ROOT};

pub(super) const CASES: &[Case] = &[
    ("a rename moves the name and keeps the inode", moves),
    ("a rename replaces a file at once", replaces),
    ("a replaced file that is pinned lives on", replaces_pinned),
    ("a rename onto another name of the same inode does nothing", same_inode),
    ("a rename onto itself does nothing", onto_itself),
    ("a rename of what is not there fails", missing),
    ("only like replaces like", kinds),
    ("only an empty directory is replaced", full_directory),
    ("a directory does not go below itself", below_itself),
    ("a moved directory counts in its new parent", parents),
    ("no-replace refuses what stands there", no_replace),
    ("exchange swaps two names", exchange),
    ("exchange swaps a directory with a file", exchange_kinds),
    ("exchange needs both", exchange_missing),
    ("exchange does not put a directory below itself", exchange_below),
];

fn moves(t: &Tree) {
    let (file, dir) = (t.file_with(ROOT, "a", b"x"), t.dir("dir"));
    ok(t.rename((ROOT, "a"), (dir, "b"), Replace));
    t.gone(ROOT, "a");
    same(t.at("dir/b"), file);
    same((t.content(file), t.attr(file).nlink), (b"x".to_vec(), 1));
    ok(t.rename((dir, "b"), (dir, "c"), NoReplace));
    same(t.at("dir/c"), file);
    same(t.names(dir), vec!["c".to_owned()]);
}

fn replaces(t: &Tree) {
    let (new, old) = (t.file_with(ROOT, "new", b"new"), t.file_with(ROOT, "old", b"old"));
    ok(t.rename((ROOT, "new"), (ROOT, "old"), Replace));
    same(t.names(ROOT), vec!["old".to_owned()]);
    same((t.at("old"), t.content(new)), (new, b"new".to_vec()));
    fails(t.fs.getattr(old), &[Errno::ENOENT, Errno::ESTALE]);
    // With another name the replaced file stays, with one link less.
    let linked = t.file("linked");
    ok(t.fs.link(linked, ROOT, b"other"));
    ok(t.rename((ROOT, "old"), (ROOT, "linked"), Replace));
    same((t.at("other"), t.attr(linked).nlink), (linked, 1));
}

fn replaces_pinned(t: &Tree) {
    let old = t.file_with(ROOT, "old", b"old");
    t.file("new");
    t.fs.pin(old);
    ok(t.rename((ROOT, "new"), (ROOT, "old"), Replace));
    same((t.content(old), t.attr(old).nlink), (b"old".to_vec(), 0));
    t.fs.unpin(old);
    fails(t.fs.getattr(old), &[Errno::ENOENT, Errno::ESTALE]);
}

fn same_inode(t: &Tree) {
    let file = t.file("a");
    ok(t.fs.link(file, ROOT, b"b"));
    ok(t.rename((ROOT, "a"), (ROOT, "b"), Replace));
    same(t.names(ROOT), vec!["a".to_owned(), "b".to_owned()]);
    same(t.attr(file).nlink, 2);
}

fn onto_itself(t: &Tree) {
    let (file, dir) = (t.file("a"), t.dir("d"));
    ok(t.rename((ROOT, "a"), (ROOT, "a"), Replace));
    ok(t.rename((ROOT, "d"), (ROOT, "d"), Replace));
    same((t.at("a"), t.attr(file).nlink), (file, 1));
    same((t.at("d"), t.attr(dir).nlink), (dir, 2));
    fails(t.rename((ROOT, "a"), (ROOT, "a"), NoReplace), &[Errno::EEXIST]);
}

fn missing(t: &Tree) {
    let file = t.file("a");
    for flags in [Replace, NoReplace] {
        fails(t.rename((ROOT, "none"), (ROOT, "b"), flags), &[Errno::ENOENT]);
    }
    fails(t.rename((ROOT, "none"), (ROOT, "a"), Replace), &[Errno::ENOENT]);
    fails(t.rename((file, "x"), (ROOT, "b"), Replace), &[Errno::ENOTDIR]);
    same(t.at("a"), file);
}

fn kinds(t: &Tree) {
    t.file("file");
    t.dir("dir");
    ok(t.fs.symlink(ROOT, b"link", b"x", OWNER));
    fails(t.rename((ROOT, "file"), (ROOT, "dir"), Replace), &[Errno::EISDIR]);
    fails(t.rename((ROOT, "dir"), (ROOT, "file"), Replace), &[Errno::ENOTDIR]);
    fails(t.rename((ROOT, "link"), (ROOT, "dir"), Replace), &[Errno::EISDIR]);
    ok(t.rename((ROOT, "link"), (ROOT, "file"), Replace));
    same(t.names(ROOT), vec!["dir".to_owned(), "file".to_owned()]);
}

fn full_directory(t: &Tree) {
    let (empty, full, moved) = (t.dir("empty"), t.dir("full"), t.dir("moved"));
    t.mknod(full, "x", Kind::File);
    fails(t.rename((ROOT, "moved"), (ROOT, "full"), Replace), &[Errno::ENOTEMPTY, Errno::EEXIST]);
    ok(t.rename((ROOT, "moved"), (ROOT, "empty"), Replace));
    same(t.at("empty"), moved);
    fails(t.fs.getattr(empty), &[Errno::ENOENT, Errno::ESTALE]);
    same(t.attr(ROOT).nlink, 4);
}

fn below_itself(t: &Tree) {
    let a = t.dir("a");
    let b = t.dir_in(a, "b");
    let c = t.dir_in(b, "c");
    fails(t.rename((ROOT, "a"), (a, "x"), Replace), &[Errno::EINVAL]);
    fails(t.rename((ROOT, "a"), (c, "x"), Replace), &[Errno::EINVAL]);
    fails(t.rename((a, "b"), (c, "x"), NoReplace), &[Errno::EINVAL]);
    // Onto one's own ancestor: it is not empty.
    fails(t.rename((b, "c"), (ROOT, "a"), Replace), &[Errno::ENOTEMPTY, Errno::EEXIST]);
    same(t.at("a/b/c"), c);
}

fn parents(t: &Tree) {
    let (a, b) = (t.dir("a"), t.dir("b"));
    let moved = t.dir_in(a, "moved");
    let inner = t.dir_in(moved, "inner");
    ok(t.rename((a, "moved"), (b, "moved"), Replace));
    same((t.attr(a).nlink, t.attr(b).nlink, t.attr(moved).nlink), (2, 3, 3));
    // Now that it is elsewhere, its old parent may go below it.
    ok(t.rename((ROOT, "a"), (inner, "a"), Replace));
    same(t.at("b/moved/inner/a"), a);
}

fn no_replace(t: &Tree) {
    let (a, b) = (t.file("a"), t.file("b"));
    fails(t.rename((ROOT, "a"), (ROOT, "b"), NoReplace), &[Errno::EEXIST]);
    same((t.at("a"), t.at("b")), (a, b));
    ok(t.rename((ROOT, "a"), (ROOT, "c"), NoReplace));
    same(t.at("c"), a);
}

fn exchange(t: &Tree) {
    let (a, dir) = (t.file("a"), t.dir("dir"));
    let b = t.mknod(dir, "b", Kind::File);
    ok(t.rename((ROOT, "a"), (dir, "b"), Exchange));
    same((t.at("a"), t.at("dir/b")), (b, a));
    same((t.attr(a).nlink, t.attr(b).nlink), (1, 1));
    ok(t.rename((ROOT, "a"), (ROOT, "a"), Exchange));
    same(t.at("a"), b);
}

fn exchange_kinds(t: &Tree) {
    let (file, outer, dir) = (t.file("file"), t.dir("outer"), t.dir("dir"));
    let inside = t.mknod(dir, "inside", Kind::File);
    let low = t.mknod(outer, "low", Kind::File);
    ok(t.rename((ROOT, "file"), (ROOT, "dir"), Exchange));
    same((t.at("dir"), t.at("file"), t.at("file/inside")), (file, dir, inside));
    ok(t.rename((ROOT, "file"), (outer, "low"), Exchange));
    same((t.at("outer/low"), t.at("file")), (dir, low));
    same((t.attr(ROOT).nlink, t.attr(outer).nlink), (3, 3));
}

fn exchange_missing(t: &Tree) {
    let file = t.file("a");
    fails(t.rename((ROOT, "a"), (ROOT, "none"), Exchange), &[Errno::ENOENT]);
    fails(t.rename((ROOT, "none"), (ROOT, "a"), Exchange), &[Errno::ENOENT]);
    same(t.names(ROOT), vec!["a".to_owned()]);
    same(t.at("a"), file);
}

fn exchange_below(t: &Tree) {
    let a = t.dir("a");
    let b = t.dir_in(a, "b");
    let c = t.dir_in(b, "c");
    fails(t.rename((ROOT, "a"), (b, "c"), Exchange), &[Errno::EINVAL]);
    fails(t.rename((b, "c"), (ROOT, "a"), Exchange), &[Errno::EINVAL]);
    same(t.at("a/b/c"), c);
}
