//! What the kernel remembers, and how it is made to forget.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use vfs::{Expect, Kind, Owner, ROOT, Touched};

use crate::mounted::Mounted;

const PATIENCE: Duration = Duration::from_secs(10);

/// A file put in place as the API does it, and reported.
fn put(m: &Mounted, path: &[&[u8]], content: &[u8]) {
    let ino = m.fs.create_detached(Kind::File, 0o644, Owner::default()).unwrap().ino;
    m.fs.write(ino, 0, content).unwrap();
    let placed = m.fs.place(ino, ROOT, path, Expect::Any).unwrap();
    m.fs.unpin(ino);
    m.notifier().send(&placed.touched);
    m.notifier().flush(PATIENCE).unwrap();
}

#[test]
fn what_is_known_costs_no_request() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    fs::create_dir(m.path("dir")).unwrap();
    fs::write(m.path("dir/a"), vec![1; 100_000]).unwrap();
    let use_it = || {
        fs::metadata(m.path("dir/a")).unwrap();
        assert!(!m.path("dir/none").exists());
        assert_eq!(fs::read(m.path("dir/a")).unwrap().len(), 100_000);
        fs::read_dir(m.path("dir")).unwrap().for_each(drop);
    };
    use_it();
    use_it();
    let before = m.session.requests();
    for _ in 0..100 {
        use_it();
    }
    let asked = m.session.requests() - before;
    assert!(asked <= 5, "{asked} requests for what the kernel knows");
}

#[test]
fn a_file_put_by_the_api_is_seen_at_once() {
    Mounted::both_ways(|m| {
        fs::create_dir(m.path("dir")).unwrap();
        for round in 0..20 {
            let name = format!("file-{round}");
            let path = m.path("dir").join(&name);
            // The kernel knows that it is not there, and what is.
            assert!(!path.exists());
            assert_eq!(fs::read_dir(m.path("dir")).unwrap().count(), round);
            put(m, &[b"dir", name.as_bytes()], b"first");
            assert_eq!(fs::read_dir(m.path("dir")).unwrap().count(), round + 1);
            assert_eq!(fs::read(&path).unwrap(), b"first");
            put(m, &[b"dir", name.as_bytes()], b"the second, longer");
            assert_eq!(fs::metadata(&path).unwrap().len(), 18);
            assert_eq!(fs::read(&path).unwrap(), b"the second, longer");
        }
        assert!(m.notifier().sent() >= 40);
    });
}

#[test]
fn a_name_that_was_never_asked_for_shows_in_a_cached_listing() {
    Mounted::both_ways(|m| {
        let count = || fs::read_dir(m.root()).unwrap().count();
        assert_eq!((count(), count()), (0, 0));
        put(m, &[b"new"], b"x");
        assert_eq!(count(), 1);
        put(m, &[b"deep", b"er", b"file"], b"x");
        assert_eq!(count(), 2);
        assert_eq!(fs::read(m.path("deep/er/file")).unwrap(), b"x");
    });
}

#[test]
fn a_write_behind_an_open_file_is_seen() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    fs::write(m.path("a"), b"0123456789").unwrap();
    let file = File::options().read(true).append(true).open(m.path("a")).unwrap();
    let mut read = [0; 10];
    file.read_exact_at(&mut read, 0).unwrap();
    let ino = m.fs.lookup(ROOT, b"a").unwrap().ino;
    m.fs.write(ino, 5, b"XXXXXYYYYY").unwrap();
    m.notifier().send(&Touched { entries: Vec::new(), inodes: vec![ino] });
    m.notifier().flush(PATIENCE).unwrap();
    let mut read = [0; 15];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"01234XXXXXYYYYY");
    // An append goes behind what was written meanwhile.
    std::io::Write::write_all(&mut &file, b"end").unwrap();
    assert_eq!(m.fs.getattr(ino).unwrap().size, 18);
    assert_eq!(fs::read(m.path("a")).unwrap(), b"01234XXXXXYYYYYend");
}

#[test]
fn a_removal_by_the_api_is_seen() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    fs::create_dir_all(m.path("dir/sub")).unwrap();
    fs::write(m.path("dir/sub/file"), b"x").unwrap();
    let open = File::open(m.path("dir/sub/file")).unwrap();
    let from = m.fs.create_detached(Kind::Directory, 0o755, Owner::default()).unwrap().ino;
    let removals = [vec![b"dir".to_vec()]];
    let graft =
        vfs::Graft { from, into: ROOT, removals: &removals, implicit: &[from], expect: None };
    let touched = m.fs.graft(&graft).unwrap();
    m.fs.unpin(from);
    m.notifier().send(&touched);
    m.notifier().flush(PATIENCE).unwrap();
    assert!(!m.path("dir").exists() && !m.path("dir/sub/file").exists());
    assert_eq!(fs::read_dir(m.root()).unwrap().count(), 0);
    let mut read = [0; 1];
    open.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"x");
}

#[test]
fn changes_and_uses_at_once_do_not_stand_still() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    fs::create_dir(m.path("dir")).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for round in 0..300 {
                    // It may be there or not: what matters is that there is an answer.
                    drop(fs::read(m.path(&format!("dir/file-{}", round % 7))));
                    fs::read_dir(m.path("dir")).unwrap().for_each(drop);
                    drop(fs::write(m.path(&format!("dir/own-{}", round % 5)), b"x"));
                    drop(fs::remove_file(m.path(&format!("dir/own-{}", round % 5))));
                }
            });
        }
        for round in 0..300 {
            let name = format!("file-{}", round % 7);
            put(&m, &[b"dir", name.as_bytes()], format!("{round}").as_bytes());
            assert_eq!(
                fs::read_to_string(m.path("dir").join(&name)).unwrap(),
                format!("{round}"),
                "what was put is read"
            );
        }
    });
}

#[test]
fn a_mount_ends_under_its_users() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    fs::write(m.path("a"), b"x").unwrap();
    let open = File::open(m.path("a")).unwrap();
    let (fs, root) = (m.fs.clone(), m.root().to_owned());
    let (mut mount, dir) = m.into_mount();
    let error = mount.unmount().unwrap_err();
    assert!(error.to_string().contains("unmount"), "{error}");
    drop(mount);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(root.to_str().unwrap()));
    assert!(open.metadata().is_err(), "what still uses it gets an error, not a hang");
    assert_eq!(fs.statfs().unwrap().inodes_used, 2);
    dir.close().unwrap();
}

#[test]
fn an_unused_mount_is_unmounted_in_order() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    fs::write(m.path("a"), b"x").unwrap();
    let session = m.session.clone();
    let (mut mount, dir) = m.into_mount();
    mount.unmount().unwrap();
    assert!(mount.wait_closed(PATIENCE));
    drop(mount);
    assert!(!session.is_ready(), "what the kernel held is let go");
    dir.close().unwrap();
}
