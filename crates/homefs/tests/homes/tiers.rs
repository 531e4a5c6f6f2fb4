//! Where content lives, by size.

use vfs::{FileSystem as _, ROOT, SeekFrom, SetAttr};

use crate::support::{World, content, get, make, noise, put, upload};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

#[test]
fn small_files_make_no_object_of_their_own() {
    let world = World::new();
    let (home, _) = world.open("a");
    for n in 0..50 {
        put(&home, &format!("f{n}"), &noise(16 * KIB, n));
    }
    home.sync(None).unwrap();
    assert_eq!(world.keys("packs/").len(), 0);
    assert_eq!(world.keys("chunks/").len(), 0);
}

#[test]
fn one_byte_more_than_inline_goes_to_a_pack() {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "edge", &noise(16 * KIB + 1, 1));
    put(&home, "big", &noise(4 * MIB, 2));
    home.sync(None).unwrap();
    assert_eq!(world.keys("packs/").len(), 1);
    assert_eq!(world.keys("chunks/").len(), 0);
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "edge"), noise(16 * KIB + 1, 1));
    assert_eq!(get(&home, "big"), noise(4 * MIB, 2));
}

#[test]
fn one_byte_more_than_a_pack_takes_is_chunked() {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "large", &noise(4 * MIB + 1, 3));
    home.sync(None).unwrap();
    assert_eq!(world.keys("chunks/").len(), 1, "the tail of one byte rides with the commit");
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "large"), noise(4 * MIB + 1, 3));
}

#[test]
fn equal_chunks_are_stored_once() {
    let world = World::new();
    let (home, _) = world.open("a");
    upload(&home, "one", &noise(8 * MIB, 4));
    upload(&home, "two", &noise(8 * MIB, 4));
    home.sync(None).unwrap();
    assert_eq!(world.keys("chunks/").len(), 2);
}

#[test]
fn a_file_never_moves_down_a_tier() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = put(&home, "f", &noise(MIB, 5));
    home.sync(None).unwrap();
    home.setattr(ino, &SetAttr { size: Some(0), ..SetAttr::default() }).unwrap();
    assert_eq!(home.statfs().unwrap().bytes_used, 0);
    home.write(ino, 0, b"tiny").unwrap();
    home.sync(None).unwrap();
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "f"), b"tiny");
    assert_eq!(home.statfs().unwrap().bytes_used, 4);
}

#[test]
fn a_small_write_to_a_large_file_uploads_no_chunk_again() {
    let world = World::new();
    let (home, _) = world.open("a");
    let mut data = noise(12 * MIB, 6);
    let ino = put(&home, "f", &data);
    home.sync(None).unwrap();
    world.store.take_stored();
    home.write(ino, 5 * MIB as u64 + 7, &[9; 4_096]).unwrap();
    data[5 * MIB + 7..5 * MIB + 7 + 4_096].fill(9);
    home.sync(Some(ino)).unwrap();
    assert_eq!(world.store.take_stored(), 1, "one commit carries it all");
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "f"), data);
}

#[test]
fn an_append_loop_does_not_rewrite_the_file() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = make(&home, "log");
    let mut whole = Vec::new();
    for n in 0..200 {
        let line = noise(1_000, n);
        home.write(ino, whole.len() as u64, &line).unwrap();
        whole.extend_from_slice(&line);
        home.sync(Some(ino)).unwrap();
    }
    assert_eq!(content(&home, ino), whole);
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "log"), whole);
    let stored: u64 = world.keys("log/").iter().map(|object| object.size).sum();
    let data = whole.len() as u64;
    // Rewriting it each time would be a hundred times its size; pages of metadata are a few KiB.
    assert!(stored < 20 * data, "{stored} bytes stored for {data} written");
}

#[test]
fn holes_take_no_space_and_read_as_zeros() {
    let world = World::new();
    let (home, _) = world.open("a");
    let ino = make(&home, "sparse");
    let far = homefs::limits::FILE_BYTES_MAX - 4_096;
    home.write(ino, far, &[7; 4_096]).unwrap();
    home.write(ino, 1 << 30, b"middle").unwrap();
    assert_eq!(home.getattr(ino).unwrap().size, far + 4_096);
    assert_eq!(home.statfs().unwrap().bytes_used, 4_102);
    home.sync(None).unwrap();
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(home.statfs().unwrap().bytes_used, 4_102);
    let ino = home.lookup(ROOT, b"sparse").unwrap().ino;
    assert_eq!(&home.read(ino, (1 << 30) - 2, 10).unwrap()[..], b"\0\0middle\0\0");
    assert_eq!(home.read(ino, far, 8_192).unwrap().len(), 4_096);
    assert_eq!(home.seek(ino, SeekFrom::Data(0)).unwrap(), 1 << 30);
    assert_eq!(home.seek(ino, SeekFrom::Hole(1 << 30)).unwrap(), (1 << 30) + 6);
    assert_eq!(home.seek(ino, SeekFrom::Data((1 << 30) + 6)).unwrap(), far);
}

#[test]
fn writes_while_a_file_is_sealed_are_kept() {
    let world = World::new();
    let (home, _) = world.open("a");
    let home = std::sync::Arc::new(home);
    let ino = put(home.as_ref(), "f", &vec![0; 3 * MIB]);
    let writer = {
        let home = home.clone();
        std::thread::spawn(move || {
            for n in 0..400_u64 {
                home.write(ino, (n * 7_919) % (3 * MIB as u64), &n.to_le_bytes()).unwrap();
            }
        })
    };
    for _ in 0..20 {
        home.sync(Some(ino)).unwrap();
    }
    writer.join().unwrap();
    let mut expected = vec![0; 3 * MIB];
    for n in 0..400_usize {
        let at = (n * 7_919) % (3 * MIB);
        if expected.len() < at + 8 {
            expected.resize(at + 8, 0);
        }
        expected[at..at + 8].copy_from_slice(&(n as u64).to_le_bytes());
    }
    assert_eq!(content(home.as_ref(), ino), expected);
    home.sync(None).unwrap();
    drop(home);
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "f"), expected);
}
