use proptest::prelude::*;

use super::*;
use crate::abi::Writer;
use crate::testing::{init_body, memfs, message, names, raw, session};
use crate::{Config, Session};

fn decode(message: &[u8]) -> Result<Request<'_>, Malformed> {
    Request::decode(&Header::decode(message).unwrap(), message)
}

#[test]
fn a_header_that_lies_about_the_length_is_none() {
    let good = message(Opcode::Getattr, 9, 3, &[0; 16]);
    let header = Header::decode(&good).unwrap();
    assert_eq!((header.unique, header.node, header.uid, header.gid), (9, 3, 1000, 1001));
    for cut in 0..good.len() {
        assert_eq!(Header::decode(&good[..cut]), None);
    }
    let mut long = good;
    long.push(0);
    assert_eq!(Header::decode(&long), None);
}

#[test]
fn a_name_without_its_end_is_malformed() {
    assert_eq!(decode(&message(Opcode::Lookup, 1, 1, b"name")), Err(Malformed::Short));
    assert_eq!(
        decode(&message(Opcode::Lookup, 1, 1, b"name\0")),
        Ok(Request::Lookup { name: b"name" })
    );
}

#[test]
fn a_write_that_promises_more_than_it_brings_is_malformed() {
    let mut body = Vec::new();
    body.u64(0).u64(10).u32(5).u32(0).zeros(16).bytes(b"1234");
    assert_eq!(decode(&message(Opcode::Write, 1, 2, &body)), Err(Malformed::Short));
    body.push(b'5');
    let whole = message(Opcode::Write, 1, 2, &body);
    assert_eq!(decode(&whole), Ok(Request::Write { offset: 10, data: b"12345", write_flags: 0 }));
}

#[test]
fn a_batch_of_forgets_cannot_claim_more_pairs_than_it_has() {
    let mut body = Vec::new();
    body.u32(u32::MAX).u32(0).u64(5).u64(1);
    assert_eq!(decode(&message(Opcode::BatchForget, 1, 0, &body)), Err(Malformed::Short));
    body[..4].copy_from_slice(&1_u32.to_ne_bytes());
    let whole = message(Opcode::BatchForget, 1, 0, &body);
    let Ok(Request::BatchForget(forgets)) = decode(&whole) else { panic!("decodes") };
    assert_eq!(forgets.iter().collect::<Vec<_>>(), [(5, 1)]);
}

#[test]
fn extensions_are_cut_off_and_cannot_reach_past_the_message() {
    let mut with = message(Opcode::Lookup, 1, 1, &names(&["name", "extend"]));
    with.extend_from_slice(&[0; 4]);
    let len = with.len() as u32;
    with[..4].copy_from_slice(&len.to_ne_bytes());
    with[36..38].copy_from_slice(&1_u16.to_ne_bytes());
    assert_eq!(decode(&with), Ok(Request::Lookup { name: b"name" }));
    with[36..38].copy_from_slice(&u16::MAX.to_ne_bytes());
    assert_eq!(decode(&with), Err(Malformed::Short));
}

#[test]
fn of_a_sync_that_waits_its_header_is_kept() {
    for opcode in [Opcode::Fsync, Opcode::Fsyncdir, Opcode::Syncfs] {
        let mut long = message(opcode, 9, 3, &[7; 70_000]);
        long[36..40].copy_from_slice(&[1, 0, 2, 3]);
        let alone = Header::alone(&long).unwrap();
        let (header, short) = (Header::decode(&long).unwrap(), Header::decode(&alone).unwrap());
        assert_eq!(short, Header { extension_bytes: 0, ..header });
        assert_eq!(decode(&alone), decode(&long));
    }
    assert_eq!(Header::alone(&[0; 39]), None);
}

#[test]
fn unknown_numbers_are_told_from_malformed_ones() {
    assert_eq!(decode(&raw(4096, 1, 1, b"")), Err(Malformed::UnknownOpcode));
    assert_eq!(decode(&raw(54, 1, 1, b"")), Err(Malformed::UnknownOpcode));
    assert_eq!(decode(&message(Opcode::Setattr, 1, 1, b"")), Err(Malformed::Short));
}

#[test]
fn times_before_1970_keep_their_sign() {
    let mut body = Vec::new();
    body.u32(fattr::MTIME | fattr::ATIME_NOW).zeros(28);
    body.u64(7).i64(-2).u64(0).u32(0).u32(999_999_999).u32(0).zeros(20);
    let whole = message(Opcode::Setattr, 1, 1, &body);
    let Ok(Request::Setattr { set, .. }) = decode(&whole) else { panic!("decodes") };
    assert_eq!(set.mtime, Some(SetTime::At(Time(-1_000_000_001))));
    assert_eq!(set.atime, Some(SetTime::Now));
    assert_eq!((set.size, set.perm, set.uid), (None, None, None));
}

fn any_opcode() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => prop::sample::select(Opcode::ALL).prop_map(|opcode| opcode as u32),
        1 => any::<u32>(),
    ]
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    // Small numbers and names make requests that get further than noise does.
    let word = prop_oneof![
        (0_u64..8).prop_map(|n| n.to_ne_bytes().to_vec()),
        any::<u64>().prop_map(|n| n.to_ne_bytes().to_vec()),
        (0_u32..100).prop_map(|n| n.to_ne_bytes().to_vec()),
        "[a-c./]{0,4}\0".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(word, 0..12).prop_map(|words| words.concat())
}

fn connected() -> Session {
    session(memfs(), Config { nodes_max: 64, ..Config::default() })
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(header) = Header::decode(&bytes) {
            _ = Request::decode(&header, &bytes);
        }
        // Not a panic, and no answer without a header.
        prop_assert!(connected().handle(&bytes).is_none() || Header::decode(&bytes).is_some());
    }

    #[test]
    fn any_requests_are_answered_with_their_own_number(
        requests in prop::collection::vec((any_opcode(), 0_u64..6, any_body()), 1..40),
    ) {
        let session = connected();
        for (index, (opcode, node, body)) in requests.iter().enumerate() {
            let unique = index as u64 + 10;
            if let Some(reply) = session.handle(&raw(*opcode, unique, *node, body)) {
                let answer = crate::testing::Answer::of(&reply);
                prop_assert_eq!(answer.unique, unique);
                prop_assert!((0..4096).contains(&answer.errno));
                prop_assert!(answer.errno == 0 || answer.body.is_empty());
                prop_assert!(reply.len() <= (1 << 20) + 16);
            }
        }
        prop_assert!(session.save().is_none_or(|saved| saved.held.len() <= 64));
    }
}

#[test]
fn the_longest_offer_of_init_is_read() {
    let whole = message(Opcode::Init, 1, 0, &init_body(45, 5));
    let offer = InitIn { major: 7, minor: 45, max_readahead: 131_072, flags: 5 };
    assert_eq!(decode(&whole), Ok(Request::Init(offer)));
}
