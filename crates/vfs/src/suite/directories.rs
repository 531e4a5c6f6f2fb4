//! Names: making, finding, listing and removing them.

use super::Case;
use super::tree::{OWNER, Tree, fails, ok, same};
use crate::{Errno, Kind, Owner, ROOT, SetAttr};

pub(super) const CASES: &[Case] = &[
    ("the root is a directory without a name", root),
    ("what was made is found by its name", made_is_found),
    ("every kind can be made and keeps its kind", kinds),
    ("a name is taken once", taken_once),
    ("names that are none are refused", bad_names),
    ("names are any bytes, up to 255 of them", byte_names),
    ("a file is no directory", file_is_no_directory),
    ("an inode that never was is not found", unknown_inode),
    ("subdirectories count as links of their parent", directory_links),
    ("a set-gid directory hands on its group", set_gid),
    ("a symbolic link keeps its target", symlinks),
    ("a hard link is the same file", hard_links),
    ("a directory has no second name", no_directory_links),
    ("unlink takes one name away", unlink),
    ("unlink and rmdir each refuse the other's kind", wrong_removal),
    ("a directory with entries stays", rmdir_full),
    ("a removed directory takes nothing in", removed_directory),
    ("an unlinked file lives while it is pinned", orphan),
    ("pins are counted", counted_pins),
    ("numbers of inodes are never used again", numbers),
    ("a walk by cookies sees every entry once", walk),
    ("a walk goes on over removed and new entries", walk_while_changing),
    ("listing carries attributes", listing_attributes),
    ("a change of entries is a change of the directory", directory_times),
];

fn root(t: &Tree) {
    let root = t.attr(ROOT);
    same((root.ino, root.kind), (ROOT, Kind::Directory));
    same(t.names(ROOT), Vec::new());
    same(root.nlink, 2);
}

fn made_is_found(t: &Tree) {
    let made = ok(t.fs.mknod(ROOT, b"a", Kind::File, 0o640, OWNER, 0));
    let found = ok(t.look(ROOT, "a"));
    same(found, made);
    same((found.perm, found.owner, found.nlink, found.size), (0o640, OWNER, 1, 0));
    same(found.blocks, 0);
    t.gone(ROOT, "b");
    t.gone(ROOT, "A");
}

fn kinds(t: &Tree) {
    let kinds = [
        (Kind::File, "file"),
        (Kind::Directory, "dir"),
        (Kind::Fifo, "fifo"),
        (Kind::Socket, "socket"),
        (Kind::CharDevice, "char"),
        (Kind::BlockDevice, "block"),
    ];
    for (kind, name) in kinds {
        ok(t.fs.mknod(ROOT, name.as_bytes(), kind, 0o600, OWNER, 0x0103));
        let found = ok(t.look(ROOT, name));
        same(found.kind, kind);
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            same(found.rdev, 0x0103);
        }
    }
    fails(t.fs.mknod(ROOT, b"link", Kind::Symlink, 0o777, OWNER, 0), &[Errno::EINVAL]);
}

fn taken_once(t: &Tree) {
    t.file("a");
    for kind in [Kind::File, Kind::Directory, Kind::Fifo] {
        fails(t.fs.mknod(ROOT, b"a", kind, 0o644, OWNER, 0), &[Errno::EEXIST]);
    }
    fails(t.fs.symlink(ROOT, b"a", b"x", OWNER), &[Errno::EEXIST]);
    let other = t.file("b");
    fails(t.fs.link(other, ROOT, b"a"), &[Errno::EEXIST]);
    fails(t.fs.link(ROOT, ROOT, b"a"), &[Errno::EEXIST]);
    same(t.attr(other).nlink, 1);
}

fn bad_names(t: &Tree) {
    let file = t.file("file");
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        let wrong = &[Errno::EINVAL];
        fails(t.fs.lookup(ROOT, name), wrong);
        fails(t.fs.mknod(ROOT, name, Kind::File, 0o644, OWNER, 0), wrong);
        fails(t.fs.symlink(ROOT, name, b"x", OWNER), wrong);
        fails(t.fs.link(file, ROOT, name), wrong);
        fails(t.fs.unlink(ROOT, name), wrong);
        fails(t.fs.rmdir(ROOT, name), wrong);
        fails(t.fs.rename(ROOT, b"file", ROOT, name, Default::default()), wrong);
        fails(t.fs.rename(ROOT, name, ROOT, b"new", Default::default()), wrong);
    }
    let long = [b'n'; 256];
    fails(t.fs.lookup(ROOT, &long), &[Errno::ENAMETOOLONG]);
    fails(t.fs.mknod(ROOT, &long, Kind::File, 0o644, OWNER, 0), &[Errno::ENAMETOOLONG]);
    same(t.names(ROOT), vec!["file".to_owned()]);
}

fn byte_names(t: &Tree) {
    for name in [&[0xff, 0xfe, b'\n'][..], b" ", b"...", &[b'n'; 255], "\u{e9}".as_bytes()] {
        let made = ok(t.fs.mknod(ROOT, name, Kind::File, 0o644, OWNER, 0));
        same(ok(t.fs.lookup(ROOT, name)).ino, made.ino);
        let listed = ok(t.fs.readdir(ROOT, 0, 100));
        assert!(listed.iter().any(|entry| entry.name == name), "{name:?} is listed as it is");
        ok(t.fs.unlink(ROOT, name));
    }
}

fn file_is_no_directory(t: &Tree) {
    let file = t.file("file");
    let not = &[Errno::ENOTDIR];
    fails(t.look(file, "a"), not);
    fails(t.fs.mknod(file, b"a", Kind::File, 0o644, OWNER, 0), not);
    fails(t.fs.unlink(file, b"a"), not);
    fails(t.fs.rmdir(file, b"a"), not);
    fails(t.fs.readdir(file, 0, 10), not);
    fails(t.rename((ROOT, "file"), (file, "a"), Default::default()), not);
}

fn unknown_inode(t: &Tree) {
    let (unknown, not) = (u64::MAX >> 1, &[Errno::ENOENT, Errno::ESTALE]);
    fails(t.fs.getattr(unknown), not);
    fails(t.fs.read(unknown, 0, 1), not);
    fails(t.fs.write(unknown, 0, b"x"), not);
    fails(t.fs.setattr(unknown, &SetAttr { perm: Some(0), ..SetAttr::default() }), not);
    fails(t.look(unknown, "a"), not);
    fails(t.fs.mknod(unknown, b"a", Kind::File, 0o644, OWNER, 0), not);
    fails(t.fs.link(unknown, ROOT, b"a"), not);
    fails(t.fs.getxattr(unknown, b"user.a"), &[Errno::ENOENT, Errno::ESTALE, Errno::ENODATA]);
    t.fs.pin(unknown);
    t.fs.unpin(unknown);
}

fn directory_links(t: &Tree) {
    let a = t.dir("a");
    same((t.attr(a).nlink, t.attr(ROOT).nlink), (2, 3));
    let b = t.dir_in(a, "b");
    t.mknod(a, "file", Kind::File);
    same((t.attr(a).nlink, t.attr(b).nlink), (3, 2));
    ok(t.fs.rmdir(a, b"b"));
    same(t.attr(a).nlink, 2);
}

fn set_gid(t: &Tree) {
    let parent = t.dir("a");
    let set = SetAttr { perm: Some(0o2775), gid: Some(77), ..SetAttr::default() };
    ok(t.fs.setattr(parent, &set));
    let in_group = Owner { uid: OWNER.uid, gid: 77 };
    let dir = ok(t.fs.mknod(parent, b"dir", Kind::Directory, 0o755, OWNER, 0));
    same((dir.owner, dir.perm), (in_group, 0o2755));
    let file = ok(t.fs.mknod(parent, b"file", Kind::File, 0o644, OWNER, 0));
    same((file.owner, file.perm), (in_group, 0o644));
    same(ok(t.fs.symlink(parent, b"link", b"x", OWNER)).owner, in_group);
}

fn symlinks(t: &Tree) {
    let link = ok(t.fs.symlink(ROOT, b"link", b"../some/where", OWNER));
    same((link.kind, link.size, link.nlink), (Kind::Symlink, 13, 1));
    same(ok(t.fs.readlink(link.ino)), b"../some/where".to_vec());
    let longest = vec![b't'; 4095];
    let long = ok(t.fs.symlink(ROOT, b"long", &longest, OWNER));
    same(ok(t.fs.readlink(long.ino)), longest);
    let too_long = vec![b't'; 4096];
    fails(t.fs.symlink(ROOT, b"longer", &too_long, OWNER), &[Errno::ENAMETOOLONG]);
    fails(t.fs.symlink(ROOT, b"none", b"", OWNER), &[Errno::ENOENT]);
    fails(t.fs.symlink(ROOT, b"nul", b"a\0b", OWNER), &[Errno::EINVAL]);
    // The target comes before the name.
    fails(t.fs.symlink(ROOT, b"link", b"", OWNER), &[Errno::ENOENT]);
    fails(t.fs.symlink(ROOT, b"link", &too_long, OWNER), &[Errno::ENAMETOOLONG]);
    let (file, dir) = (t.file("file"), t.dir("dir"));
    fails(t.fs.readlink(file), &[Errno::EINVAL]);
    fails(t.fs.readlink(dir), &[Errno::EINVAL]);
}

fn hard_links(t: &Tree) {
    let file = t.file_with(ROOT, "a", b"one");
    let dir = t.dir("dir");
    let linked = ok(t.fs.link(file, dir, b"b"));
    same((linked.ino, linked.nlink), (file, 2));
    ok(t.fs.write(linked.ino, 3, b" two"));
    same(t.content(t.at("a")), b"one two".to_vec());
    ok(t.fs.unlink(ROOT, b"a"));
    same(t.attr(file).nlink, 1);
    same(t.content(t.at("dir/b")), b"one two".to_vec());
    let link = ok(t.fs.symlink(ROOT, b"link", b"x", OWNER));
    same(ok(t.fs.link(link.ino, ROOT, b"link2")).nlink, 2);
}

fn no_directory_links(t: &Tree) {
    let dir = t.dir("a");
    fails(t.fs.link(dir, ROOT, b"b"), &[Errno::EPERM]);
}

fn unlink(t: &Tree) {
    let file = t.file_with(ROOT, "a", b"x");
    ok(t.fs.unlink(ROOT, b"a"));
    t.gone(ROOT, "a");
    fails(t.fs.unlink(ROOT, b"a"), &[Errno::ENOENT]);
    fails(t.fs.getattr(file), &[Errno::ENOENT, Errno::ESTALE]);
    for kind in [Kind::Fifo, Kind::Socket] {
        t.mknod(ROOT, "special", kind);
        ok(t.fs.unlink(ROOT, b"special"));
    }
}

fn wrong_removal(t: &Tree) {
    t.file("file");
    t.dir("dir");
    fails(t.fs.rmdir(ROOT, b"file"), &[Errno::ENOTDIR]);
    fails(t.fs.unlink(ROOT, b"dir"), &[Errno::EISDIR]);
    fails(t.fs.rmdir(ROOT, b"none"), &[Errno::ENOENT]);
    same(t.names(ROOT), vec!["dir".to_owned(), "file".to_owned()]);
}

fn rmdir_full(t: &Tree) {
    let dir = t.dir("a");
    t.mknod(dir, "file", Kind::File);
    fails(t.fs.rmdir(ROOT, b"a"), &[Errno::ENOTEMPTY]);
    ok(t.fs.unlink(dir, b"file"));
    ok(t.fs.rmdir(ROOT, b"a"));
    t.gone(ROOT, "a");
}

fn removed_directory(t: &Tree) {
    let dir = t.dir("a");
    t.file("file");
    t.fs.pin(dir);
    ok(t.fs.rmdir(ROOT, b"a"));
    same(t.attr(dir).nlink, 0);
    same(ok(t.fs.readdir(dir, 0, 10)), Vec::new());
    t.gone(dir, "x");
    fails(t.fs.mknod(dir, b"x", Kind::File, 0o644, OWNER, 0), &[Errno::ENOENT]);
    fails(t.rename((ROOT, "file"), (dir, "x"), Default::default()), &[Errno::ENOENT]);
    t.fs.unpin(dir);
    fails(t.fs.getattr(dir), &[Errno::ENOENT, Errno::ESTALE]);
}

fn orphan(t: &Tree) {
    let file = t.file_with(ROOT, "a", b"before");
    t.fs.pin(file);
    ok(t.fs.unlink(ROOT, b"a"));
    same(t.attr(file).nlink, 0);
    same(t.content(file), b"before".to_vec());
    ok(t.fs.write(file, 6, &vec![7; 100_000]));
    same(t.attr(file).size, 100_006);
    // The name is free for another file meanwhile.
    let other = t.file_with(ROOT, "a", b"other");
    assert_ne!(other, file);
    t.fs.unpin(file);
    fails(t.fs.getattr(file), &[Errno::ENOENT, Errno::ESTALE]);
    same(t.content(other), b"other".to_vec());
}

fn counted_pins(t: &Tree) {
    let file = t.file_with(ROOT, "a", b"x");
    t.fs.pin(file);
    t.fs.pin(file);
    t.fs.unpin(file);
    ok(t.fs.unlink(ROOT, b"a"));
    same(t.content(file), b"x".to_vec());
    t.fs.unpin(file);
    fails(t.fs.getattr(file), &[Errno::ENOENT, Errno::ESTALE]);
    // A pin that comes and goes leaves a named file alone.
    let named = t.file("b");
    t.fs.pin(named);
    t.fs.unpin(named);
    same(t.attr(named).nlink, 1);
}

fn numbers(t: &Tree) {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        assert!(seen.insert(t.file("a")), "a number came twice");
        ok(t.fs.unlink(ROOT, b"a"));
    }
}

fn walk(t: &Tree) {
    let dir = t.dir("dir");
    let mut expected: Vec<String> = (0..257).map(|i| format!("name-{i}")).collect();
    for name in &expected {
        t.mknod(dir, name, Kind::File);
    }
    expected.sort();
    for step in [1, 7, 100, 1000] {
        let (mut cookie, mut seen) = (0, Vec::new());
        loop {
            let page = ok(t.fs.readdir(dir, cookie, step));
            assert!(page.len() <= step, "{} entries, {step} asked for", page.len());
            for entry in &page {
                assert!(entry.cookie > cookie, "cookies grow");
                assert!(entry.cookie < 1 << 63, "cookies fit into a signed offset");
                cookie = entry.cookie;
                seen.push(String::from_utf8_lossy(&entry.name).into_owned());
            }
            if page.is_empty() {
                break;
            }
        }
        seen.sort();
        same(&seen, &expected);
    }
}

fn walk_while_changing(t: &Tree) {
    let dir = t.dir("dir");
    for i in 0..20 {
        t.mknod(dir, &format!("keep-{i}"), Kind::File);
        t.mknod(dir, &format!("drop-{i}"), Kind::File);
    }
    let (mut cookie, mut seen, mut round) = (0, Vec::new(), 0);
    loop {
        let page = ok(t.fs.readdir(dir, cookie, 3));
        let Some(last) = page.last() else { break };
        cookie = last.cookie;
        seen.extend(
            page.into_iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()),
        );
        if round < 20 {
            ok(t.fs.unlink(dir, format!("drop-{round}").as_bytes()));
            t.mknod(dir, &format!("new-{round}"), Kind::File);
            // A name that is replaced exists all the time.
            t.mknod(ROOT, "fresh", Kind::File);
            let kept = format!("keep-{round}");
            ok(t.rename((ROOT, "fresh"), (dir, &kept), Default::default()));
        }
        round += 1;
        assert!(round < 200, "the walk ends");
    }
    let mut kept: Vec<_> = seen.iter().filter(|name| name.starts_with("keep")).collect();
    kept.sort();
    same(kept.len(), 20);
    kept.dedup();
    same(kept.len(), 20);
}

fn listing_attributes(t: &Tree) {
    t.file_with(ROOT, "a", b"12345");
    t.dir("b");
    for entry in ok(t.fs.readdir(ROOT, 0, 10)) {
        same(entry.attr, ok(t.fs.lookup(ROOT, &entry.name)));
    }
}

fn directory_times(t: &Tree) {
    let (dir, other) = (t.dir("dir"), t.dir("other"));
    let file = t.mknod(dir, "a", Kind::File);
    let changes: [(&str, &dyn Fn()); 6] = [
        ("mknod", &|| _ = t.mknod(dir, "b", Kind::File)),
        ("symlink", &|| _ = ok(t.fs.symlink(dir, b"l", b"x", OWNER))),
        ("link", &|| _ = ok(t.fs.link(file, dir, b"h"))),
        ("unlink", &|| ok(t.fs.unlink(dir, b"b"))),
        ("rename out", &|| ok(t.rename((dir, "l"), (other, "l"), Default::default()))),
        ("rename in", &|| ok(t.rename((other, "l"), (dir, "l"), Default::default()))),
    ];
    for (what, change) in changes {
        t.age(dir);
        change();
        assert!(t.is_fresh(dir), "{what} changes the directory's time");
    }
    t.age(dir);
    ok(t.fs.write(file, 0, b"x"));
    assert!(!t.is_fresh(dir), "a write to a file leaves its directory alone");
}
