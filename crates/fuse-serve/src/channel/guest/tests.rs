use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_ring::{
    AREA_BYTES, BELL_UNIQUE, GuestMemory, OFFER_UNIQUE, Offer, Receiver, Region, Sender,
    bell_to_host,
};
use vfs::ROOT;

use crate::abi::{Opcode, linux};
use crate::testing::{Answer, init_body, memfs, message, names};
use crate::{Channel, Config, Session, Threads};

mod hostile;

const PATIENCE: Duration = Duration::from_secs(20);
const OFFER: Offer = Offer { to_host: 0, to_guest: AREA_BYTES as u64, token: 7 };

/// The guest's end.
struct Guest {
    port: UnixStream,
    memory: GuestMemory,
    requests: Sender,
    replies: Receiver,
}

fn memory(file: &File) -> GuestMemory {
    let bytes = 2 * AREA_BYTES as u64;
    GuestMemory::new(file.try_clone().unwrap(), vec![Region { address: 0, offset: 0, bytes }])
}

fn connect() -> (Channel, Guest) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * AREA_BYTES as u64).unwrap();
    let session = Arc::new(Session::new(memfs(), Config::default()));
    let (ours, port) = UnixStream::pair().unwrap();
    port.set_read_timeout(Some(PATIENCE)).unwrap();
    let channel = Channel::serve(session, ours, Some(memory(&file)), Threads::default()).unwrap();
    let memory = memory(&file);
    let area = |address| {
        let area = memory.area(address).unwrap();
        area.mark(OFFER.token);
        area
    };
    let requests = Sender::new(area(OFFER.to_host)).unwrap();
    let replies = Receiver::new(area(OFFER.to_guest)).unwrap();
    (channel, Guest { port, memory, requests, replies })
}

impl Guest {
    fn send_over_port(&mut self, message: &[u8]) {
        self.port.write_all(message).unwrap();
    }

    fn heard_over_port(&mut self) -> Answer {
        let mut message = vec![0; 16];
        self.port.read_exact(&mut message).unwrap();
        let len = u32::from_ne_bytes([message[0], message[1], message[2], message[3]]);
        message.resize(len as usize, 0);
        self.port.read_exact(&mut message[16..]).unwrap();
        Answer::of(&message)
    }

    fn offer(&mut self, offer: Offer) -> i32 {
        self.send_over_port(&offer.encode());
        let answer = self.heard_over_port();
        assert_eq!(answer.unique, OFFER_UNIQUE);
        answer.errno
    }

    fn send(&mut self, message: &[u8]) {
        if self.requests.send(&[message]).unwrap().expect("room") {
            self.send_over_port(&bell_to_host());
        }
    }

    fn heard(&mut self) -> Option<Answer> {
        let piece = self.replies.first().unwrap()?;
        let mut message = vec![0; piece.bytes()];
        piece.copy_to(&mut message);
        piece.take();
        Some(Answer::of(&message))
    }

    fn waits_for_answer(&mut self) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = self.heard() {
                return answer;
            }
            assert!(Instant::now() < deadline, "no answer");
            std::thread::yield_now();
        }
    }
}

fn lookup(unique: u64) -> Vec<u8> {
    message(Opcode::Lookup, unique, ROOT, &names(&["absent"]))
}

#[test]
fn requests_over_the_ring_are_answered_over_it() {
    let (channel, mut guest) = connect();
    guest.send_over_port(&message(Opcode::Init, 1, 0, &init_body(38, u32::MAX)));
    assert_eq!(guest.heard_over_port().unique, 1, "over the port until it is agreed");
    assert_eq!(guest.offer(OFFER), 0);
    for unique in 2..2000 {
        guest.send(&lookup(unique));
        assert_eq!(guest.waits_for_answer().unique, unique);
        if unique % 500 == 0 {
            // It goes to sleep meanwhile.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(!channel.is_closed());
}

#[test]
fn a_guest_that_sleeps_is_rung_for() {
    let (_channel, mut guest) = connect();
    assert_eq!(guest.offer(OFFER), 0);
    guest.send(&message(Opcode::Init, 1, 0, &init_body(38, u32::MAX)));
    guest.waits_for_answer();
    assert!(guest.replies.sleep().unwrap());
    guest.send(&lookup(2));
    assert_eq!(guest.heard_over_port().unique, BELL_UNIQUE);
    assert_eq!(guest.waits_for_answer().unique, 2);
}

#[test]
fn many_at_once_are_all_answered_and_a_freeze_stops_between_two() {
    let (channel, mut guest) = connect();
    assert_eq!(guest.offer(OFFER), 0);
    guest.send(&message(Opcode::Init, 1, 0, &init_body(38, u32::MAX)));
    guest.waits_for_answer();
    for round in 0..50 {
        for unique in 0..40 {
            guest.send(&lookup(10 + unique));
        }
        let mut answered: Vec<u64> = (0..40).map(|_| guest.waits_for_answer().unique).collect();
        answered.sort_unstable();
        assert_eq!(answered, (10..50).collect::<Vec<_>>(), "{round}");
    }
    channel.freeze(PATIENCE).unwrap();
    guest.send(&lookup(99));
    std::thread::sleep(Duration::from_millis(50));
    assert!(guest.heard().is_none(), "frozen");
    channel.thaw();
    assert_eq!(guest.waits_for_answer().unique, 99);
}

#[test]
fn the_next_host_goes_on_where_this_one_ended() {
    let (channel, mut guest) = connect();
    assert_eq!(guest.offer(OFFER), 0);
    guest.send(&message(Opcode::Init, 1, 0, &init_body(38, u32::MAX)));
    guest.waits_for_answer();
    assert_eq!(guest.offer(OFFER), 0, "a guest that went on after all asks again");
    assert_eq!(
        guest.offer(Offer { to_guest: 0, to_host: AREA_BYTES as u64, ..OFFER }),
        linux::EBUSY
    );
    drop(channel);

    let session = Arc::new(Session::new(memfs(), Config::default()));
    let (ours, port) = UnixStream::pair().unwrap();
    port.set_read_timeout(Some(PATIENCE)).unwrap();
    let file = guest.memory;
    guest = Guest { port, memory: file, ..guest };
    let again = std::mem::replace(
        &mut guest.memory,
        GuestMemory::new(tempfile::tempfile().unwrap(), Vec::new()),
    );
    let _channel = Channel::serve(session, ours, Some(again), Threads::default()).unwrap();
    assert_eq!(guest.offer(OFFER), 0);
    guest.send(&message(Opcode::Init, 3, 0, &init_body(38, u32::MAX)));
    assert_eq!(guest.waits_for_answer().unique, 3);
}

#[test]
fn an_offer_that_cannot_be_leaves_the_port() {
    let (channel, mut guest) = connect();
    let area = AREA_BYTES as u64;
    for (offer, errno) in [
        (Offer { to_host: 2 * area, ..OFFER }, linux::EINVAL),
        (Offer { to_guest: u64::MAX, ..OFFER }, linux::EINVAL),
        (Offer { to_guest: 4096, ..OFFER }, linux::EINVAL),
        (Offer { to_guest: 0, ..OFFER }, linux::EINVAL),
        (Offer { token: 8, ..OFFER }, linux::EINVAL),
    ] {
        assert_eq!(guest.offer(offer), errno, "{offer:?}");
    }
    guest.send_over_port(&message(Opcode::Init, 1, 0, &init_body(38, u32::MAX)));
    assert_eq!(guest.heard_over_port().unique, 1);
    assert!(!channel.is_closed());
}

#[test]
fn what_comes_right_behind_an_offer_or_a_bell_does_not_wait() {
    let (_channel, mut guest) = connect();
    let init = message(Opcode::Init, 1, 0, &init_body(38, u32::MAX));
    guest.send_over_port(&[&OFFER.encode()[..], &init].concat());
    assert_eq!(guest.heard_over_port().unique, OFFER_UNIQUE);
    let begun = Instant::now();
    assert_eq!(guest.waits_for_answer().unique, 1);
    for unique in 2..50 {
        std::thread::sleep(Duration::from_millis(2));
        guest.send_over_port(&[&bell_to_host()[..], &lookup(unique)].concat());
        assert_eq!(guest.waits_for_answer().unique, unique);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn half_a_message_over_the_port_keeps_no_freeze_waiting() {
    let (channel, mut guest) = connect();
    assert_eq!(guest.offer(OFFER), 0);
    guest.send(&message(Opcode::Init, 1, 0, &init_body(38, u32::MAX)));
    guest.waits_for_answer();
    for unique in 0..40 {
        guest.send(&lookup(10 + unique));
    }
    guest.send_over_port(&lookup(99)[..9]);
    let begun = Instant::now();
    // Whether it had begun to read that half is chance.
    let frozen = channel.freeze(Duration::from_millis(300));
    eprintln!("{frozen:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    drop(channel);
}

#[test]
fn a_ring_that_breaks_closes_the_channel() {
    let (channel, mut guest) = connect();
    assert_eq!(guest.offer(OFFER), 0);
    guest.send(&[0; 7]);
    assert!(channel.wait_closed(PATIENCE), "less than a header");
}

#[test]
fn a_guest_that_offers_what_is_none_is_not_listened_to_for_ever() {
    let (channel, mut guest) = connect();
    let none = Offer { token: OFFER.token + 1, ..OFFER };
    for _ in 0..super::OFFERS_REFUSED_MAX {
        assert_eq!(guest.offer(none), linux::EINVAL);
    }
    assert_eq!(guest.offer(OFFER), linux::EINVAL, "it has had its chances");
    guest.send_over_port(&message(Opcode::Init, 1, 0, &init_body(38, u32::MAX)));
    assert_eq!(guest.heard_over_port().unique, 1, "its port goes on");
    assert!(!channel.is_closed());
}
