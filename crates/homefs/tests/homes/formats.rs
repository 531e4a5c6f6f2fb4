//! Homes that older versions wrote.
//!
//! `format-1.zst` is every object of a small home as it was stored before format 2 of the database:
//! for each a length of key and body (u32, little-endian), then both. It was released, has a base,
//! and something of each kind: content inline, in a commit, in packs (one of them dead) and in
//! chunks, an overwritten range, a hole, names of all sorts.

use objstore::ObjectStore as _;
use vfs::{FileSystem as _, ROOT};

use crate::support::{World, get, noise, put};

/// A world with the home of the fixture in it.
fn world() -> World {
    let stored = zstd::decode_all(&include_bytes!("format-1.zst")[..]).unwrap();
    let mut rest = &stored[..];
    let mut take = |len: usize| {
        let (head, tail) = rest.split_at(len);
        rest = tail;
        head.to_vec()
    };
    let mut world = World::new();
    let mut left = stored.len();
    while left > 0 {
        let len = |bytes: Vec<u8>| u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
        let (key, body) = (len(take(4)), len(take(4)));
        left -= 8 + key + body;
        let (key, body) = (String::from_utf8(take(key)).unwrap(), take(body));
        world.home = key.split('/').nth(1).unwrap().parse().unwrap();
        let stored = world.store.clone();
        world.block_on(async { stored.put(&key, body.into()).await }).unwrap();
    }
    world
}

fn packed() -> Vec<u8> {
    (0..300_000_u32).flat_map(|n| (n / 700).to_le_bytes()).collect()
}

fn chunked() -> Vec<u8> {
    (0..1_500_000_u32).flat_map(|n| (n / 4_000).to_le_bytes()).collect()
}

/// All that the home had when it was made.
fn check(fs: &dyn vfs::FileSystem) {
    assert_eq!(get(fs, "inline"), b"hello");
    assert_eq!(get(fs, "deep/rider"), noise(40_000, 1));
    assert_eq!(get(fs, "deep/packed"), packed());
    assert_eq!(get(fs, "twin"), chunked());
    let mut changed = chunked();
    changed[5_000_000..5_000_021].copy_from_slice(b"changed in the middle");
    assert_eq!(get(fs, "chunked"), changed);
    let ino = fs.lookup(ROOT, b"chunked").unwrap().ino;
    assert_eq!(fs.lookup(ROOT, b"second name").unwrap().ino, ino);
    assert_eq!(fs.getxattr(ino, b"user.a").unwrap(), b"value");
    let link = fs.lookup(ROOT, b"link").unwrap().ino;
    assert_eq!(fs.readlink(link).unwrap(), b"deep/packed");
    let sparse = get(fs, "sparse");
    assert!(sparse.len() == 9_000_000 && sparse[8_000_000..8_000_003] == *b"end");
    for n in 0..70 {
        assert_eq!(get(fs, &format!("f{n}")), n.to_string().as_bytes());
    }
    assert!(fs.lookup(ROOT, b"gone").is_err());
}

#[test]
fn format_1_is_read_where_it_lies() {
    let world = world();
    let before = world.keys("").len();
    check(&world.snapshot("a"));
    assert_eq!(world.keys("").len(), before, "reading writes nothing");
}

#[test]
fn format_1_is_written_on_and_read_elsewhere() {
    let world = world();
    let (home, _) = world.open("a");
    check(&home);
    put(&home, "new", &noise(3_000_000, 7));
    home.unlink(ROOT, b"twin").unwrap();
    home.sync(None).unwrap();
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "new"), noise(3_000_000, 7));
    home.unlink(ROOT, b"new").unwrap();
    put(&home, "twin", &chunked());
    check(&home);
    home.release().unwrap();
    drop(home);
    check(&world.snapshot("c"));
    let (home, _) = world.open("b");
    check(&home);
}

#[test]
fn a_writer_of_format_1_that_was_killed_goes_on() {
    let world = world();
    let (home, _) = world.open("a");
    put(&home, "new", b"more");
    drop(home);
    let (home, _) = world.open("a");
    check(&home);
    assert_eq!(get(&home, "new"), b"more");
}

#[test]
fn a_draft_on_format_1_is_published() {
    let world = world();
    let draft = world.draft("a");
    check(&draft);
    put(&draft, "new", &noise(100_000, 3));
    assert_eq!(draft.changes().unwrap().len(), 1);
    draft.publish().unwrap();
    drop(draft);
    let (home, _) = world.open("b");
    check(&home);
    assert_eq!(get(&home, "new"), noise(100_000, 3));
}
