//! Manifests that nobody of ours wrote, with a sum that fits, and pins.

use base::{Digest, Epoch};
use fuzz::{Target, outcome};
use sha2::{Digest as _, Sha256};

use crate::keys::{Generation, Kind, TemplateId};
use crate::limits::CHUNK_BYTES;
use crate::manifest::{Chunk, Manifest};
use crate::memory::{Image, Pack, Piece};
use crate::origins::Origins;

/// Of a fork of a fork.
fn origins() -> Origins {
    let one = Origins::default().forked(base::MachineId::generate(), Epoch(3));
    let two = one.and_then(|one| one.forked(base::MachineId::generate(), Epoch(6)));
    two.expect("a chain of two")
}

fn manifest(chunks: u32) -> Manifest {
    let generation = Generation { epoch: Epoch(9), kind: Kind::Stored };
    let chunk = |index: u32| Chunk {
        digest: Digest::of(&index.to_le_bytes()),
        born: Epoch(u64::from(index % 9)),
        stored: 1_000 + index,
    };
    Manifest {
        parent: Some(Generation { epoch: Epoch(7), kind: Kind::Begun }),
        content: Epoch(9),
        root: Digest::of(b"root"),
        disk_bytes: 50 * CHUNK_BYTES as u64 + 17,
        chunks: (0..chunks).map(|index| (2 * index, chunk(index))).collect(),
        ..Manifest::blank(generation)
    }
}

#[test]
fn manifests() {
    let body = |manifest: &Manifest| {
        let bytes = manifest.encode();
        bytes[..bytes.len() - 32].to_vec()
    };
    let blank = Manifest::blank(manifest(0).generation);
    let forked = Manifest { origins: origins(), ..manifest(5) };
    let target = Target {
        name: "upper-manifest",
        examples: vec![body(&manifest(3)), body(&manifest(20)), body(&blank), body(&forked)],
        words: &[b"DMUPPER\0", b"dm-"],
        bytes_max: 64 << 10,
        memory_max: 1 << 20,
    };
    target.run(|input| {
        let whole = [input, Sha256::digest(input).as_slice()].concat();
        let decoded = Manifest::decode("key", manifest(0).generation, &whole);
        if let Ok(manifest) = &decoded {
            assert!(manifest.encode() == whole, "it has one spelling");
        }
        vec![outcome(decoded.map(|of| of.chunks.len()).map_err(|error| error.to_string()))]
    });
}

fn image(pieces: u32) -> Image {
    let digest = |n: u32| Digest::of(&n.to_le_bytes());
    let pack = |n: u32| Pack { digest: digest(n), born: Epoch(u64::from(n % 9)), len: 10_000 };
    let piece = |n: u32| Piece {
        digest: digest(n),
        pack: n / 7,
        at: n % 7 * 1_000,
        stored: 1_000,
        over: false,
    };
    Image {
        epoch: Epoch(9),
        upper: Generation { epoch: Epoch(7), kind: Kind::Stored },
        file_bytes: 1 << 30,
        state_bytes: 300_000,
        about: b"{\"format\":1}".to_vec(),
        origins: Origins::default(),
        template: None,
        packs: (0..pieces.div_ceil(7)).map(pack).collect(),
        pieces: (0..pieces).map(|n| (3 * n, piece(n))).collect(),
    }
}

#[test]
fn memories() {
    let body = |image: &Image| {
        let bytes = image.encode();
        bytes[..bytes.len() - 32].to_vec()
    };
    let forked = Image { origins: origins(), ..image(5) };
    let template = Some(TemplateId(Digest::of(b"template")));
    let mut over = Image { template, ..image(5) };
    over.pieces.values_mut().for_each(|piece| piece.over = true);
    let target = Target {
        name: "upper-memory",
        examples: vec![
            body(&image(0)),
            body(&image(3)),
            body(&image(40)),
            body(&forked),
            body(&over),
        ],
        words: &[b"DMMEMORY", b"dm-"],
        bytes_max: 64 << 10,
        memory_max: 1 << 20,
    };
    target.run(|input| {
        let whole = [input, Sha256::digest(input).as_slice()].concat();
        let decoded = Image::decode("key", Epoch(9), &whole);
        if let Ok(image) = &decoded {
            assert!(image.encode() == whole, "it has one spelling");
        }
        vec![outcome(decoded.map(|of| of.pieces.len()).map_err(|error| error.to_string()))]
    });
}

#[test]
fn pins() {
    let pin =
        br#"{"format":1,"generation":"00000000000000000007-stored","home_epoch":8,"memory":true}"#;
    let target = Target {
        name: "upper-pin",
        examples: vec![pin.to_vec()],
        words: &[b"begun", b"stored", b"format", b"home_epoch", b"null", b"18446744073709551615"],
        bytes_max: 64 << 10,
        memory_max: 1 << 20,
    };
    target.run(|input| {
        let decoded = crate::pins::Pin::parse(input);
        if let Ok(pin) = &decoded {
            let again = serde_json::to_vec(pin).expect("it is plain data");
            assert!(crate::pins::Pin::parse(&again).expect("ours") == *pin);
        }
        vec![outcome(decoded.map(|pin| pin.generation.to_string()).map_err(|e| e.to_string()))]
    });
}

#[test]
fn notes_of_what_is_missing() {
    let note = |chunks: u32| {
        let manifest = manifest(chunks).encode();
        let head = [&b"DMLAZY\0\0"[..], &[1, 0, 0, 0], &[7; 32]].concat();
        let len = (manifest.len() as u32).to_le_bytes();
        [&head[..], &len, &manifest, &vec![1; chunks as usize]].concat()
    };
    let target = Target {
        name: "upper-missing",
        examples: vec![note(0), note(3), note(20)],
        words: &[b"DMLAZY\0\0", b"DMUPPER\0"],
        bytes_max: 64 << 10,
        memory_max: 1 << 20,
    };
    target.run(|input| {
        // The sum stands between what it is of and the marks.
        let at = input.get(44..48).and_then(<[u8]>::first_chunk::<4>);
        let at = at.map_or(0, |len| 48_usize.saturating_add(u32::from_le_bytes(*len) as usize));
        let (framed, marks) = input.split_at(at.min(input.len()));
        let whole = [framed, Sha256::digest(framed).as_slice(), marks].concat();
        vec![outcome(crate::lazy::marks_in(&whole).map_err(|error| error.to_string()))]
    });
}
