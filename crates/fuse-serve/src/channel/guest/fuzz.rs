//! What a guest may say over its port before it has a ring, while it offers one, and after that.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use ::fuzz::{Target, outcome};
use guest_ring::{AREA_BYTES, Region, bell_to_host};
use vfs::ROOT;

use super::*;
use crate::abi::Opcode;
use crate::limits::READ_BUFFER_BYTES;
use crate::testing::{init_body, message, names};

const AREA: u64 = AREA_BYTES as u64;
/// The only one that can be: both areas have this mark, and in the other order there are messages under way.
const OFFER: Offer = Offer { to_host: 0, to_guest: AREA, token: 7 };
/// A third area has no mark.
const MEMORY_BYTES: u64 = 3 * AREA;
/// So little that all answers fit into the buffers of a socket, and nobody has to read meanwhile.
const STREAM_BYTES_MAX: usize = 4 << 10;

/// What comes of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Made {
    messages: Vec<Vec<u8>>,
    /// Of offers.
    answers: Vec<u8>,
    end: Option<ErrorKind>,
}

fn lookup(unique: u64) -> Vec<u8> {
    message(Opcode::Lookup, unique, ROOT, &names(&["absent"]))
}

/// Waits in the ring until it is agreed on. An offer and a bell mean nothing there.
fn in_ring() -> [Vec<u8>; 4] {
    [lookup(1000), OFFER.encode().to_vec(), bell_to_host().to_vec(), lookup(1001)]
}

/// What has to come of this.
fn comes(mut stream: &[u8]) -> Made {
    let (mut made, mut agreed, mut refused) = (Made::default(), false, 0);
    while !stream.is_empty() {
        let len = stream.first_chunk().map(|len| u32::from_ne_bytes(*len) as usize);
        if len.is_some_and(|len| !(IN_HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&len)) {
            made.end = Some(ErrorKind::InvalidData);
            break;
        }
        let Some((message, rest)) = len.and_then(|len| stream.split_at_checked(len)) else {
            made.end = Some(ErrorKind::UnexpectedEof);
            break;
        };
        stream = rest;
        if message[4..8] == BELL_OPCODE.to_ne_bytes() {
            continue;
        }
        if message[4..8] != OFFER_OPCODE.to_ne_bytes() {
            made.messages.push(message.to_vec());
            continue;
        }
        let offers = message.len() == OFFER.encode().len();
        let is_it = offers && message[IN_HEADER_BYTES..] == OFFER.encode()[IN_HEADER_BYTES..];
        let errno = match agreed {
            _ if !offers => linux::EINVAL,
            true if is_it => 0,
            true => linux::EBUSY,
            false if is_it && refused < OFFERS_REFUSED_MAX => {
                agreed = true;
                made.messages.extend(in_ring());
                0
            }
            false => {
                refused += 1;
                linux::EINVAL
            }
        };
        made.answers.extend(Offer::answer(errno));
    }
    made
}

fn memory(file: &File) -> GuestMemory {
    let region = Region { address: 0, offset: 0, bytes: MEMORY_BYTES };
    GuestMemory::new(file.try_clone().unwrap(), vec![region])
}

/// What a link over this memory makes of it.
fn receive(file: &File, stream: &[u8]) -> Made {
    let areas = [OFFER.to_host, OFFER.to_guest].map(|address| {
        // What the last one left there.
        file.write_all_at(&[0; 4096], address).unwrap();
        let area = memory(file).area(address).unwrap();
        area.mark(OFFER.token);
        area
    });
    let [to_host, _] = areas;
    let mut requests = Sender::new(to_host).unwrap();
    for request in in_ring() {
        requests.send(&[&request]).unwrap().expect("room");
    }
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(stream).unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    let link = GuestLink::new(ours, Some(memory(file))).unwrap();
    let (mut message, mut made) = (Message::default(), Made::default());
    loop {
        match link.receive(&mut message) {
            Ok(Received::Message) => made.messages.push(message.bytes().to_vec()),
            // A bell, or an offer; what has no end yet is waited for.
            Ok(Received::Nothing) => {}
            Ok(Received::End) => break,
            Err(error) => {
                made.end = Some(error.kind());
                break;
            }
        }
    }
    drop(link);
    // One that is hung up on may hear that, too.
    theirs.read_to_end(&mut made.answers).ok();
    made
}

#[test]
fn offers_bells_and_requests() {
    let init = message(Opcode::Init, 1, 0, &init_body(38, u32::MAX));
    let (offer, bell) = (OFFER.encode(), bell_to_host());
    let other = |to_host, to_guest, token| Offer { to_host, to_guest, token }.encode().to_vec();
    let none = [
        other(AREA, 0, 7),
        other(0, 0, 7),
        other(0, 2 * AREA, 7),
        other(0, AREA, 8),
        other(0, u64::MAX, 7),
        other(AREA.wrapping_neg(), 3 * AREA, 7),
        other(4096, AREA, 7),
    ]
    .concat();
    let mut short = bell;
    short[4..8].copy_from_slice(&OFFER_OPCODE.to_ne_bytes());
    let examples = vec![
        [&init[..], &offer, &bell, &lookup(2), &offer, &other(AREA, 0, 7)].concat(),
        [&none[..], &lookup(3), &short, &offer, &bell, &lookup(4), &none].concat(),
        [&none[..], &none, &offer, &init].concat(),
        [&offer[..], &lookup(5)[..9]].concat(),
    ];
    let file = tempfile::tempfile().unwrap();
    file.set_len(MEMORY_BYTES).unwrap();
    let target = Target {
        name: "guest-port",
        examples,
        words: &[&offer, &bell, &short, &AREA.to_le_bytes()],
        bytes_max: STREAM_BYTES_MAX,
        memory_max: MESSAGE_BYTES_MAX + READ_BUFFER_BYTES + (64 << 10),
    };
    target.run(|input| {
        let made = receive(&file, input);
        assert_eq!(made, comes(input));
        assert_eq!(file.metadata().unwrap().len(), MEMORY_BYTES);
        let (few, answers) = (made.messages.len().min(8), made.answers.chunks(16));
        let mut seen: Vec<u64> = answers.map(outcome).collect();
        seen.push(outcome((few, made.end.map(|kind| kind == ErrorKind::InvalidData))));
        seen
    });
}
