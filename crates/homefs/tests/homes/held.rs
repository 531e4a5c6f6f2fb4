//! A home under a kernel that sleeps with its memory: what it holds stays, and whether anything changed
//! meanwhile is known.

use homefs::{HomeFs, HomeSettings, Published};
use vfs::{Errno, FileSystem as _, Ino, ROOT};

use crate::support::{World, content, noise, put, upload};

fn open_held(world: &World, host: &str, held: &[Ino]) -> (HomeFs, homefs::Opened) {
    let settings = HomeSettings { held: held.to_vec(), ..world.settings(&world.dir(host, "home")) };
    HomeFs::open_writer(settings, world.parts()).unwrap()
}

#[test]
fn files_that_are_open_and_have_no_name_live_over_a_sleep() {
    let world = World::new();
    let (home, _) = world.open("a");
    let sizes = [0, 100, 20_000, 900_000, 9_000_000];
    let files: Vec<(Ino, Vec<u8>)> = sizes
        .iter()
        .map(|size| {
            let (name, data) = (size.to_string(), noise(*size, *size as u64));
            let ino = put(&home, &name, &data);
            home.pin(ino);
            home.unlink(ROOT, name.as_bytes()).unwrap();
            (ino, data)
        })
        .collect();
    let held: Vec<Ino> = files.iter().map(|(ino, _)| *ino).collect();
    home.release().unwrap();
    drop(home);

    for round in 0..3 {
        let (home, _) = open_held(&world, "a", &held);
        for (ino, data) in &files {
            assert_eq!(&content(&home, *ino), data, "round {round}, {} bytes", data.len());
        }
        home.release().unwrap();
    }
    // Whoever brings the kernel back lets go of what it lets go of.
    let (home, _) = open_held(&world, "a", &held);
    let used = home.status().inodes_used;
    for ino in &held {
        home.unpin(*ino);
        assert_eq!(home.getattr(*ino).unwrap_err().errno(), Errno::ENOENT);
    }
    assert_eq!(home.status().inodes_used, used - held.len() as u64);
    home.release().unwrap();
}

#[test]
fn what_has_no_name_is_kept_for_one_who_learns_later_what_is_held() {
    let world = World::new();
    let (home, _) = world.open("a");
    let unnamed = |name: &str, data: &[u8]| {
        let ino = put(&home, name, data);
        home.pin(ino);
        home.unlink(ROOT, name.as_bytes()).unwrap();
        ino
    };
    let (small, sealed) = (noise(3_000, 1), noise(40_000, 2));
    let (held, other) = (unnamed("held", &small), unnamed("other", &noise(100, 3)));
    let stored = put(&home, "stored", &sealed);
    home.sync(Some(stored)).unwrap();
    home.pin(stored);
    home.unlink(ROOT, b"stored").unwrap();
    home.release().unwrap();
    drop(home);
    // Another host, which knows it from the store alone.
    let settings = HomeSettings { keep_unnamed: true, ..world.settings(&world.dir("b", "home")) };
    let (home, opened) = HomeFs::open_writer(settings, world.parts()).unwrap();
    assert_eq!(opened.files_reverted, 0);
    home.pin(held);
    home.pin(stored);
    home.let_go_of_unnamed();
    assert_eq!(content(&home, held), small);
    assert_eq!(content(&home, stored), sealed);
    assert_eq!(home.getattr(other).unwrap_err().errno(), Errno::ENOENT);
    home.unpin(held);
    assert_eq!(home.getattr(held).unwrap_err().errno(), Errno::ENOENT);
    home.let_go_of_unnamed();
    assert_eq!(content(&home, stored), sealed);
    home.release().unwrap();
}

#[test]
fn what_nobody_holds_any_more_is_freed_when_the_home_is_opened() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = put(&home, "file", &noise(50_000, 1));
    home.pin(ino);
    home.unlink(ROOT, b"file").unwrap();
    home.release().unwrap();
    drop(home);
    let (home, _) = world.open("a");
    assert_eq!(home.getattr(ino).unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(home.status().bytes_used, 0);
    // An inode that never was does no harm.
    home.release().unwrap();
    drop(home);
    let (home, _) = open_held(&world, "a", &[ino, 1 << 40]);
    put(&home, "other", b"x");
    home.release().unwrap();
}

#[test]
fn a_version_tells_whether_anything_changed_while_nobody_looked() {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "file", b"content");
    upload(&home, "large", &noise(300_000, 2));
    home.release().unwrap();
    let version = home.version();
    drop(home);

    world
        .block_on(homefs::collect(&world.parts(), &world.home, &world.dir("a", "collect")))
        .unwrap();
    for host in ["a", "b", "a"] {
        // Another host knows it from the store alone.
        let (home, opened) = world.open(host);
        if host == "a" && opened.version == version {
            assert!(home.version() > version, "a writer begins numbers of its own");
        }
        home.release().unwrap();
        drop(home);
    }

    let (home, _) = world.open("a");
    home.release().unwrap();
    let version = home.version();
    drop(home);
    let (home, opened) = world.open("b");
    assert_eq!(opened.version, version, "nothing was changed");
    home.release().unwrap();
    let version = home.version();
    drop(home);

    let draft = world.draft("a");
    put(&draft, "file", b"changed");
    assert!(matches!(draft.publish().unwrap(), Published::Committed { .. }));
    drop(draft);
    let (home, opened) = world.open("b");
    assert_ne!(opened.version, version, "a draft was published");
    put(&home, "file", b"changed again");
    home.sync_local().unwrap();
    let version = home.version();
    drop(home);
    let (_home, opened) = world.open("b");
    assert_eq!(opened.version, version, "a crash is no change");
}
