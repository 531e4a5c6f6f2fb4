use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

fn encode(content: &[u8]) -> Encoded {
    let mut encoder = Encoder::new(content.len()).unwrap();
    for block in content.chunks(BLOCK_BYTES as usize) {
        encoder.add(block).unwrap();
    }
    encoder.end()
}

fn decode(encoded: &Encoded, len: usize) -> Result<Vec<u8>, &'static str> {
    let blocks = Blocks::parse(&encoded.table, len as u64).ok_or("the table")?;
    assert_eq!(blocks.stored_len(), encoded.body.len() as u64);
    let mut content = Vec::new();
    for number in 0..blocks.count() {
        let range = blocks.stored(&(number..number + 1));
        let stored = encoded.body.slice(range.start as usize..range.end as usize);
        content.extend_from_slice(&blocks.decode(number, &stored)?);
    }
    Ok(content)
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| byte()).collect()
}

fn mixed() -> Vec<u8> {
    let block = BLOCK_BYTES as usize;
    [vec![7; block], noise(block), b"text ".repeat(40_000)[..block].to_vec(), noise(100)].concat()
}

fn found(stored: &[u8], content: &[u8]) -> Option<Found> {
    let mut blocks = content.chunks(BLOCK_BYTES as usize);
    let next = || Ok::<_, Infallible>(blocks.next().map(<[u8]>::to_vec));
    let Ok(found) = recognise(stored, next);
    found
}

#[test]
fn each_block_is_stored_in_the_shorter_way() {
    let content = mixed();
    let encoded = encode(&content);
    assert!(encoded.body.len() < BLOCK_BYTES as usize + 2_000);
    assert_eq!(encoded.table.len(), 4 * ENTRY);
    assert_eq!(decode(&encoded, content.len()).unwrap(), content);
    let noise = noise(300_000);
    assert_eq!(encode(&noise).body, noise);
    assert_eq!(encode(b""), Encoded { body: Bytes::new(), table: Vec::new() });
}

#[test]
fn a_table_that_cannot_be_is_refused() {
    let table = encode(&mixed()).table;
    let len = mixed().len() as u64;
    assert!(Blocks::parse(&table, len).is_some());
    assert!(Blocks::parse(&table, len + BLOCK_BYTES).is_none());
    assert!(Blocks::parse(&table, u64::MAX).is_none());
    assert!(Blocks::parse(&table[1..], len).is_none());
    assert!(Blocks::parse(&[0; ENTRY], 100).is_none(), "an empty block");
    assert!(Blocks::parse(&[101, 0, 0, 0, 0, 0, 0], 100).is_none(), "longer than its content");
}

#[test]
fn a_frame_that_unpacks_to_more_is_damage() {
    let bomb = zstd::bulk::compress(&vec![0; 8 << 20], 1).unwrap();
    let mut table = (bomb.len() as u32).to_le_bytes()[..3].to_vec();
    table.extend_from_slice(&sum_of(&bomb));
    let blocks = Blocks::parse(&table, BLOCK_BYTES).unwrap();
    assert!(blocks.decode(0, &bomb.into()).is_err());
}

#[test]
fn what_an_earlier_attempt_stored_is_recognised_however_it_was_compressed() {
    let content = mixed();
    let ours = encode(&content);
    assert_eq!(found(&ours.body, &content), Some(Found::Blocks(ours.table)));
    assert_eq!(found(&content, &content), Some(Found::Raw));
    let other: Vec<u8> = content
        .chunks(BLOCK_BYTES as usize)
        .flat_map(|block| match zstd::bulk::compress(block, 9).unwrap() {
            packed if packed.len() < block.len() => packed,
            _ => block.to_vec(),
        })
        .collect();
    let Some(Found::Blocks(table)) = found(&other, &content) else { panic!("not recognised") };
    let other = Encoded { body: other.into(), table };
    assert_eq!(decode(&other, content.len()).unwrap(), content);
    let mut wrong = content.clone();
    wrong[5] ^= 1;
    assert_eq!(found(&other.body, &wrong), None);
    assert_eq!(found(&content[1..], &content), None);
    assert_eq!(found(&[&content[..], b"x"].concat(), &content), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_flipped_bit_is_always_damage(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let content = mixed();
        let mut encoded = encode(&content);
        let mut body = encoded.body.to_vec();
        let at = at.index(body.len());
        body[at] ^= 1_u8 << bit;
        encoded.body = body.into();
        prop_assert!(decode(&encoded, content.len()).is_err());
    }

    #[test]
    fn random_tables_do_no_harm(
        table in proptest::collection::vec(any::<u8>(), 0..60),
        len in 0..2_000_000_u64,
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Some(blocks) = Blocks::parse(&table, len) {
            let body = Bytes::from(body);
            for number in 0..=blocks.count() {
                prop_assert!(blocks.decode(number, &body).is_err());
            }
        }
    }
}
