//! What another side may write into an area, at any moment, and where it may say that it has one.

use std::fs::File;
use std::os::unix::fs::FileExt;

use fuzz::{Target, outcome};

use crate::area::Word;
use crate::{
    AREA_BYTES, Area, ENTRIES, GuestMemory, OFFER_OPCODE, Offer, Receiver, Region, Sender,
};

/// The words that it writes between two looks.
const WORDS: [Word; 4] = [Word::Sent, Word::Taken, Word::Entry(0), Word::EntryLength(0)];

fn against(input: &[u8]) -> Vec<u64> {
    let area = Area::anonymous().unwrap();
    let mut sender = Sender::new(area.clone()).unwrap();
    let mut receiver = Receiver::new(area.clone()).unwrap();
    let mut made = Vec::new();
    for round in input.chunks(4 * WORDS.len()) {
        for (word, value) in WORDS.into_iter().zip(round.chunks_exact(4)) {
            area.set(word, u32::from_le_bytes([value[0], value[1], value[2], value[3]]));
        }
        made.push(outcome(("sent", sender.send(&[round]))));
        made.push(match receiver.first() {
            Err(error) => outcome(("not received", error)),
            Ok(None) => outcome("nothing"),
            Ok(Some(piece)) => {
                let copied = piece.copy_to(&mut [0; 64]);
                piece.take();
                outcome(("received", copied))
            }
        });
        made.push(outcome(("asleep", receiver.sleep())));
    }
    made
}

#[test]
fn a_side_that_writes_anything_is_an_error_at_worst() {
    let words = |words: [u32; 4]| words.map(u32::to_le_bytes).concat();
    let examples = [[0; 4], [1, 0, 0, 40], [1, 0, 1 << 21, 1], [65, 1, 0, 0]];
    let mut examples: Vec<Vec<u8>> = examples.map(words).into();
    examples.push(examples.concat());
    Target { name: "ring", examples, words: &[], bytes_max: 256, memory_max: 64 << 10 }
        .run(against);
}

const AREA: u64 = AREA_BYTES as u64;
/// A guest's memory ends where no area does.
const REST: u64 = 64 << 10;
/// What lies low, what lies behind a hole, and the last of all addresses.
const REGIONS: [Region; 3] = [
    Region { address: 0, offset: 0, bytes: 2 * AREA + REST },
    Region { address: 4 << 30, offset: 2 * AREA + REST, bytes: 2 * AREA },
    Region { address: AREA.wrapping_neg(), offset: 4 * AREA + REST, bytes: AREA },
];
const MEMORY_BYTES: u64 = 5 * AREA + REST;
/// Where an area has its mark: the layout in the crate.
const MARK_AT: u64 = 192;

/// Where in the file an area at this address lies whole, in numbers that do not overflow.
fn place(address: u64) -> Option<u64> {
    let wide = u128::from;
    let end = wide(address) + wide(AREA);
    let region = REGIONS
        .iter()
        .find(|of| of.address <= address && end <= wide(of.address) + wide(of.bytes))?;
    address.is_multiple_of(AREA).then(|| region.offset + (address - region.address))
}

/// An offer, and what its areas have for counts: messages sent and taken, to the host and to the guest.
fn take(memory: &GuestMemory, file: &File, message: &[u8], counts: &[u8]) -> u64 {
    let Some(offer) = Offer::decode(message) else {
        assert!(message.len() != 64 || message[4..8] != OFFER_OPCODE.to_ne_bytes());
        return outcome("no offer");
    };
    assert_eq!(offer.encode()[40..], message[40..]);
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(counts.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    let areas = [offer.to_host, offer.to_guest].map(|address| {
        let (area, place) = (memory.area(address).ok(), place(address));
        assert_eq!(area.is_some(), place.is_some(), "{address:#x}");
        // It is that piece of the guest's memory and no other.
        let (area, mut there) = (area?, [0; 8]);
        area.mark(!offer.token);
        area.mark(offer.token);
        file.read_exact_at(&mut there, place? + MARK_AT).unwrap();
        assert_eq!(there, offer.token.to_ne_bytes(), "{address:#x}");
        Some(area)
    });
    // No guest has more memory for what it says.
    assert_eq!(file.metadata().unwrap().len(), MEMORY_BYTES);
    let are = areas.each_ref().map(Option::is_some);
    let [Some(to_host), Some(to_guest)] = areas else { return outcome(are) };
    to_guest.mark(!offer.token);
    assert_eq!(to_host.is_marked(offer.token), offer.to_host != offer.to_guest);
    let [sent, taken, ..] = words;
    for (area, [sent, taken]) in [(&to_host, [sent, taken]), (&to_guest, [words[2], words[3]])] {
        area.set(Word::Sent, sent);
        area.set(Word::Taken, taken);
    }
    if offer.to_host == offer.to_guest {
        return outcome("one area");
    }
    let waiting = Receiver::new(to_host).and_then(|receiver| receiver.waiting());
    let sent = sent.wrapping_sub(taken);
    assert_eq!(waiting.ok(), (sent <= ENTRIES).then_some(sent));
    let begins = Sender::new(to_guest).is_ok();
    assert_eq!(begins, words[2] == words[3]);
    outcome((waiting.map(u32::checked_ilog2), begins))
}

#[test]
fn offers() {
    let offer = |to_host, to_guest, counts: [u32; 4]| {
        let message = Offer { to_host, to_guest, token: 7 }.encode();
        [&message[..], &counts.map(u32::to_le_bytes).concat()].concat()
    };
    let (low, high, last) = (0, 4 << 30, AREA.wrapping_neg());
    let mut examples = vec![
        offer(low, AREA, [0; 4]),
        offer(high, high + AREA, [3, 1, 9, 9]),
        offer(last, low, [ENTRIES + 1, 0, 1, 0]),
        // What is not whole, what is nowhere, and what is one area.
        offer(2 * AREA, 3 * AREA, [0; 4]),
        offer(high + 2 * AREA, u64::MAX, [0; 4]),
        offer(AREA, AREA, [0; 4]),
    ];
    examples.push(examples.concat());
    let file = tempfile::tempfile().unwrap();
    file.set_len(MEMORY_BYTES).unwrap();
    let memory = GuestMemory::new(file.try_clone().unwrap(), REGIONS.to_vec());
    let area = AREA.to_le_bytes();
    let words: &[&[u8]] =
        &[&area, &[0; 8], &[0xff; 8], &[0, 0, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff]];
    let target =
        Target { name: "offer", examples, words, bytes_max: 1 << 10, memory_max: 64 << 10 };
    target.run(|input| {
        let each = input.chunks(64 + 16).map(|of| of.split_at(of.len().min(64)));
        each.map(|(message, counts)| take(&memory, &file, message, counts)).collect()
    });
}
