//! Content in the store is compressed and checked, and nobody notices but the bill.

use std::path::Path;

use base::ErrorKind;
use bytes::Bytes;
use homefs::Depth;
use objstore::ObjectStore as _;
use vfs::{FileSystem as _, ROOT};

use crate::support::{World, block_on, get, noise, put, try_read, upload};

const MIB: usize = 1 << 20;

/// Words in an order that differs by `seed`, as source code has them.
fn text(len: usize, seed: u64) -> Vec<u8> {
    const WORDS: &[&str] = &[
        "fn ", "let ", "self.", "return ", "if ", "else ", "None", "Some(", ")", ";\n", "    ",
        "error", "value", "index", "length", "buffer", "->", "u64", "&mut ", "match ", " => ",
        "{\n", "}\n", "// ", "the ", "of ", "is ", "state", "node", "key", ".map(", "(0)", " = ",
    ];
    let random = noise(len, seed);
    let mut text = Vec::with_capacity(len + 16);
    for byte in random {
        if text.len() >= len {
            break;
        }
        text.extend_from_slice(WORDS[byte as usize % WORDS.len()].as_bytes());
    }
    text.truncate(len);
    text
}

fn stored_below(world: &World, prefix: &str) -> u64 {
    world.keys(prefix).iter().map(|object| object.size).sum()
}

/// A sleeping home with a compressible file of each tier above inline.
fn asleep() -> World {
    let world = World::new();
    let (home, _) = world.open("a");
    upload(&home, "packed", &text(3 * MIB, 1));
    upload(&home, "chunked", &text(9 * MIB + 77, 2));
    upload(&home, "dull", &noise(2 * MIB, 3));
    home.sync(None).unwrap();
    upload(&home, "riding", &text(200_000, 4));
    home.release().unwrap();
    world
}

#[test]
fn text_takes_a_fraction_and_noise_hardly_more_than_itself() {
    let world = asleep();
    let packed = stored_below(&world, "packs/");
    assert!((2 * MIB as u64..3 * MIB as u64).contains(&packed), "{packed}");
    let chunks = stored_below(&world, "chunks/");
    assert!(chunks * 2 < 9 * MIB as u64, "{chunks}");
}

#[test]
fn another_host_reads_what_was_written_from_any_offset() {
    let world = asleep();
    let (home, _) = world.open("b");
    assert_eq!(get(&home, "packed"), text(3 * MIB, 1));
    assert_eq!(get(&home, "chunked"), text(9 * MIB + 77, 2));
    assert_eq!(get(&home, "dull"), noise(2 * MIB, 3));
    assert_eq!(get(&home, "riding"), text(200_000, 4));
    drop(home);
    let snapshot = world.snapshot("c");
    let (chunked, riding) = (text(9 * MIB + 77, 2), text(200_000, 4));
    for (name, content) in [("chunked", &chunked), ("riding", &riding)] {
        let ino = snapshot.lookup(ROOT, name.as_bytes()).unwrap().ino;
        for n in 0..200_usize {
            let offset = n.wrapping_mul(7_919_333) % content.len();
            let len = (1 + n * 1_013).min(content.len() - offset);
            let part = snapshot.read(ino, offset as u64, len as u32).unwrap();
            assert_eq!(part, content[offset..offset + part.len()], "{name}: {len} at {offset}");
            assert!(!part.is_empty());
        }
    }
}

#[test]
fn a_page_of_a_sleeping_file_is_one_small_request_and_its_neighbours_none() {
    let world = asleep();
    let snapshot = world.snapshot("c");
    let ino = snapshot.lookup(ROOT, b"chunked").unwrap().ino;
    world.store.take_got();
    snapshot.read(ino, 5_000_000, 4_096).unwrap();
    let (gets, bytes) = world.store.take_got();
    assert_eq!(gets, 1);
    assert!(bytes < 128 << 10, "{bytes}");
    snapshot.read(ino, 5_004_096, 4_096).unwrap();
    assert_eq!(world.store.take_got(), (0, 0));
    // Blocks next to each other come together.
    snapshot.read(ino, 0, 1 << 20).unwrap();
    assert_eq!(world.store.take_got().0, 1);
}

#[test]
fn a_damaged_block_is_an_error_that_names_the_object_and_never_other_bytes() {
    for (prefix, name, content) in
        [("packs/", "packed", text(3 * MIB, 1)), ("chunks/", "chunked", text(9 * MIB + 77, 2))]
    {
        let world = asleep();
        let damaged: Vec<_> = world.keys(prefix).into_iter().map(|object| object.key).collect();
        for key in &damaged {
            let mut body = block_on(world.store.get(key, None)).unwrap().to_vec();
            let early = body.len() / 8;
            body[early] ^= 1;
            block_on(world.store.put(key, body.into())).unwrap();
        }
        let snapshot = world.snapshot("c");
        let ino = snapshot.lookup(ROOT, name.as_bytes()).unwrap().ino;
        let mut errors = 0;
        for offset in (0..content.len()).step_by(100_000) {
            match try_read(&snapshot, ino, offset as u64, 50_000) {
                Ok(part) => assert_eq!(part, content[offset..offset + part.len()]),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    assert!(damaged.iter().any(|key| error.to_string().contains(key)), "{error}");
                    errors += 1;
                }
            }
        }
        assert!((1..20).contains(&errors), "{name}: {errors}");
        let scratch = world.dir("fsck", "scratch");
        std::fs::create_dir_all(&scratch).unwrap();
        let report =
            homefs::fsck(&world.parts(), &world.home, None, Depth::Deep, &scratch, &mut |_| ())
                .unwrap();
        assert!(report.lost.total > 0, "{report:?}");
    }
}

#[test]
fn an_object_that_was_cut_off_or_extended_is_found_without_reading_it() {
    for change in [
        |body: Bytes| body.slice(..body.len() - 1),
        |body: Bytes| [&body[..], b"x"].concat().into(),
    ] {
        let world = asleep();
        for object in world.keys("packs/") {
            let body = block_on(world.store.get(&object.key, None)).unwrap();
            block_on(world.store.put(&object.key, change(body))).unwrap();
        }
        let scratch = world.dir("fsck", "scratch");
        std::fs::create_dir_all(&scratch).unwrap();
        let report =
            homefs::fsck(&world.parts(), &world.home, None, Depth::Quick, &scratch, &mut |_| ())
                .unwrap();
        assert_eq!(report.lost.total, 1, "{report:?}");
    }
}

#[test]
fn content_that_an_earlier_attempt_stored_in_another_form_is_taken_as_it_is() {
    let world = World::new();
    let (home, _) = world.open("a");
    let content = text(4 * MIB, 9);
    // The attempt: stored as it is, as earlier versions did, under the name that comes next.
    let seq = home.status().seq + 1;
    let digest = base::Digest::of(&content).to_string();
    let key = format!("homes/{}/chunks/{}/{digest}-{seq}", world.home, &digest[..2]);
    block_on(world.store.create(&key, content.clone().into())).unwrap();
    put(&home, "f", &[&content[..], b"tail"].concat());
    home.sync(None).unwrap();
    assert!(world.keys("chunks/").iter().any(|object| object.key == key), "the name was guessed");
    assert_eq!(block_on(world.store.get(&key, None)).unwrap(), content);
    home.release().unwrap();
    drop(home);
    assert_eq!(get(&world.snapshot("c"), "f"), [&content[..], b"tail"].concat());
}

/// How much smaller a tree of this host gets. Prints numbers for whoever asks with `--nocapture`.
#[test]
fn source_code_takes_less_than_a_third_and_a_half_of_its_bytes() {
    let Some(files) = source_files() else {
        eprintln!(
            "skipped: this host has no tree of text of 8 MiB in /usr/include or /usr/lib/python3"
        );
        return;
    };
    let world = World::new();
    let (home, _) = world.open("a");
    let mut plain = 0;
    for (n, body) in files.iter().enumerate() {
        upload(&home, &format!("f{n}"), body);
        plain += body.len() as u64;
    }
    home.sync(None).unwrap();
    let stored: u64 = world.keys("").iter().map(|object| object.size).sum();
    eprintln!("{} files: {plain} bytes, stored as {stored}", files.len());
    assert!(stored * 7 < plain * 2, "{plain} bytes are stored as {stored}");
}

fn source_files() -> Option<Vec<Vec<u8>>> {
    const ENOUGH: usize = 16 * MIB;
    const LEAST: usize = 8 * MIB;
    let (mut files, mut bytes) = (Vec::new(), 0);
    let mut dirs =
        ["/usr/include", "/usr/lib/python3", "/usr/lib/python3.11", "/usr/lib/python3.13"]
            .map(|dir| Path::new(dir).to_owned())
            .to_vec();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file()
                && path.extension().is_some_and(|end| end == "h" || end == "py" || end == "hpp")
                && let Ok(body) = std::fs::read(&path)
            {
                bytes += body.len();
                files.push(body);
                if bytes >= ENOUGH {
                    return Some(files);
                }
            }
        }
    }
    (bytes >= LEAST).then_some(files)
}
