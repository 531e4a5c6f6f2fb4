use std::sync::Arc;

use super::*;
use crate::memfs::MemFs;

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

fn put(fs: &dyn FileSystem, at: &str, content: &str) -> Result<Placed> {
    let mut put = Put::begin(fs)?;
    put.write(content.as_bytes())?;
    put.finish(&path(at), Expect::Any, None)
}

fn read(fs: &dyn FileSystem, at: &str) -> Result<String> {
    let attr = stat(fs, &path(at), Last::Follow)?;
    Ok(String::from_utf8(fs.read(attr.ino, 0, 1 << 20)?.to_vec()).unwrap())
}

fn link(fs: &dyn FileSystem, dir: Ino, name: &str, target: &str) {
    fs.symlink(dir, name.as_bytes(), target.as_bytes(), Owner::default()).unwrap();
}

fn tree() -> Arc<MemFs> {
    let fs = mem();
    put(&*fs, "a/b/file", "content").unwrap();
    fs
}

#[test]
fn a_put_makes_its_parents_and_says_whether_it_created() {
    let fs = tree();
    assert!(put(&*fs, "new/deep/file", "1").unwrap().created);
    assert!(!put(&*fs, "new/deep/file", "2").unwrap().created);
    assert_eq!(read(&*fs, "new/deep/file").unwrap(), "2");
}

#[test]
fn a_put_that_is_dropped_was_never_there() {
    let fs = tree();
    let before = fs.statfs().unwrap();
    let mut put = Put::begin(&*fs).unwrap();
    put.write(b"half").unwrap();
    drop(put);
    assert_eq!(fs.statfs().unwrap(), before);
}

#[test]
fn a_replaced_file_leaves_its_mode_to_the_new_one() {
    let fs = tree();
    let attr = stat(&*fs, &path("a/b/file"), Last::Keep).unwrap();
    fs.setattr(attr.ino, &SetAttr { perm: Some(0o751), ..SetAttr::default() }).unwrap();
    assert_eq!(put(&*fs, "a/b/file", "x").unwrap().attr.perm, 0o751);
    let explicit = Put::begin(&*fs).unwrap();
    let placed = explicit.finish(&path("a/b/file"), Expect::Any, Some(0o600)).unwrap();
    assert_eq!(placed.attr.perm, 0o600);
}

#[test]
fn a_path_through_a_file_names_the_file() {
    let fs = tree();
    let error = put(&*fs, "a/b/file/below", "x").unwrap_err();
    assert_eq!(error.errno(), Errno::ENOTDIR);
    assert!(error.to_string().contains("file"), "{error}");
    assert_eq!(put(&*fs, "a/b", "x").unwrap_err().errno(), Errno::EISDIR);
    assert_eq!(put(&*fs, "", "x").unwrap_err().errno(), Errno::EISDIR);
}

#[test]
fn links_are_followed_inside_and_refused_outside() {
    let fs = tree();
    let a = stat(&*fs, &path("a"), Last::Keep).unwrap().ino;
    link(&*fs, a, "relative", "b/file");
    link(&*fs, a, "absolute", "/root/a/b/file");
    link(&*fs, a, "up", "../a/b");
    link(&*fs, a, "out", "../../etc");
    link(&*fs, a, "etc", "/etc/passwd");
    link(&*fs, a, "loop", "loop");
    link(&*fs, a, "home", "/root");
    for good in ["a/relative", "a/absolute", "a/up/file", "a/home/a/b/file", "a/up/../x"] {
        if TreePath::parse(good.as_bytes()).is_ok() {
            assert_eq!(read(&*fs, good).unwrap(), "content", "{good}");
        }
    }
    assert_eq!(stat(&*fs, &path("a/home"), Last::Follow).unwrap().ino, ROOT);
    for bad in ["a/out/passwd", "a/out", "a/etc"] {
        assert_eq!(read(&*fs, bad).unwrap_err().errno(), Errno::EXDEV, "{bad}");
        assert_eq!(put(&*fs, bad, "x").unwrap_err().errno(), Errno::EXDEV, "{bad}");
    }
    assert_eq!(read(&*fs, "a/loop").unwrap_err().errno(), Errno::ELOOP);
    assert_eq!(stat(&*fs, &path("a/etc"), Last::Keep).unwrap().kind, Kind::Symlink);
}

#[test]
fn a_put_through_a_link_writes_what_it_points_at() {
    let fs = tree();
    link(&*fs, ROOT, "link", "a/b/file");
    link(&*fs, ROOT, "dangling", "a/not-yet");
    put(&*fs, "link", "through").unwrap();
    assert_eq!(read(&*fs, "a/b/file").unwrap(), "through");
    put(&*fs, "dangling", "made").unwrap();
    assert_eq!(read(&*fs, "a/not-yet").unwrap(), "made");
    assert_eq!(stat(&*fs, &path("link"), Last::Keep).unwrap().kind, Kind::Symlink);
}

#[test]
fn removing_asks_for_recursive_and_takes_links_as_links() {
    let fs = tree();
    link(&*fs, ROOT, "link", "a");
    remove(&*fs, &path("link"), true, Expect::Any).unwrap();
    assert_eq!(read(&*fs, "a/b/file").unwrap(), "content");
    let error = remove(&*fs, &path("a"), false, Expect::Any).unwrap_err();
    assert_eq!(error.errno(), Errno::ENOTEMPTY);
    assert!(error.to_string().contains("recursive=true"));
    remove(&*fs, &path("a"), true, Expect::Any).unwrap();
    assert_eq!(stat(&*fs, &path("a"), Last::Keep).unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(remove(&*fs, &path(""), true, Expect::Any).unwrap_err().errno(), Errno::EBUSY);
}

#[test]
fn a_guarded_removal_takes_only_what_it_was_shown() {
    let fs = tree();
    let was = stat(&*fs, &path("a/b/file"), Last::Keep).unwrap();
    let dir = stat(&*fs, &path("a/b"), Last::Keep).unwrap();
    put(&*fs, "a/b/file", "newer").unwrap();
    // As a racing writer would find it: looked at before, removed after.
    let stale = Some((&b"file"[..], was.ino, was.version));
    let error = graft_removal(&*fs, dir.ino, b"file", stale).unwrap_err();
    assert_eq!(error.errno(), Errno::ESTALE);
    assert_eq!(read(&*fs, "a/b/file").unwrap(), "newer");
    let now = stat(&*fs, &path("a/b/file"), Last::Keep).unwrap();
    remove(&*fs, &path("a/b/file"), false, Expect::Version(now.ino, now.version)).unwrap();
    assert_eq!(read(&*fs, "a/b/file").unwrap_err().errno(), Errno::ENOENT);
}

#[test]
fn a_version_that_moved_on_is_not_replaced() {
    let fs = tree();
    let was = stat(&*fs, &path("a/b/file"), Last::Keep).unwrap();
    put(&*fs, "a/b/file", "newer").unwrap();
    let late = Put::begin(&*fs).unwrap();
    let error = late.finish(&path("a/b/file"), Expect::Version(was.ino, was.version), None);
    assert_eq!(error.unwrap_err().errno(), Errno::ESTALE);
    assert_eq!(read(&*fs, "a/b/file").unwrap(), "newer");
}

fn mem() -> Arc<MemFs> {
    Arc::new(MemFs::new(Arc::new(base::SystemClock::new()), 1 << 30))
}
