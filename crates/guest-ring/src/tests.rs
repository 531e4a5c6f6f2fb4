//! Both sides of an area, and each against one that lies.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;

use crate::area::Word;
use crate::{
    AREA_BYTES, Area, Broken, ENTRIES, GuestMemory, MESSAGE_BYTES_MAX, Receiver, Region, Sender,
};

fn both() -> (Area, Sender, Receiver) {
    let area = Area::anonymous().unwrap();
    (area.clone(), Sender::new(area.clone()).unwrap(), Receiver::new(area).unwrap())
}

fn taken(receiver: &mut Receiver) -> Option<Vec<u8>> {
    let piece = receiver.first().unwrap()?;
    let mut bytes = vec![0; piece.bytes()];
    assert_eq!(piece.copy_to(&mut bytes), bytes.len());
    piece.take();
    Some(bytes)
}

#[test]
fn a_message_arrives_as_it_was_sent_whatever_its_parts() {
    let (_, mut sender, mut receiver) = both();
    assert_eq!(taken(&mut receiver), None);
    sender.send(&[b"one", b"", b" and more"]).unwrap();
    sender.send(&[]).unwrap();
    sender.send(&[&[7; MESSAGE_BYTES_MAX / 2]]).unwrap();
    assert!(!sender.is_taken().unwrap());
    assert_eq!(taken(&mut receiver).unwrap(), b"one and more");
    assert_eq!(taken(&mut receiver).unwrap(), b"");
    assert_eq!(taken(&mut receiver).unwrap(), vec![7; MESSAGE_BYTES_MAX / 2]);
    assert_eq!(taken(&mut receiver), None);
    assert!(sender.is_taken().unwrap());
}

#[test]
fn an_area_has_bounds() {
    let (_, mut sender, mut receiver) = both();
    assert!(sender.send(&[&vec![1; MESSAGE_BYTES_MAX]]).unwrap().is_some(), "all of it");
    assert!(sender.send(&[b"x"]).unwrap().is_none(), "full");
    assert!(sender.send(&[&vec![1; MESSAGE_BYTES_MAX + 1]]).is_err(), "never");
    taken(&mut receiver).unwrap();
    for _ in 0..ENTRIES {
        assert!(sender.send(&[b"x"]).unwrap().is_some());
    }
    assert!(sender.send(&[b"x"]).unwrap().is_none(), "no entry");
    taken(&mut receiver).unwrap();
    assert!(sender.send(&[b"x"]).unwrap().is_some());
}

#[test]
fn whoever_comes_later_goes_on() {
    let (area, mut sender, mut receiver) = both();
    for _ in 0..100 {
        sender.send(&[b"before"]).unwrap();
        taken(&mut receiver).unwrap();
    }
    let (mut sender, mut receiver) =
        (Sender::new(area.clone()).unwrap(), Receiver::new(area.clone()).unwrap());
    sender.send(&[b"after"]).unwrap();
    assert!(Sender::new(area.clone()).is_err(), "a message is under way");
    assert_eq!(taken(&mut receiver).unwrap(), b"after");
    sender.send(&[b"unseen"]).unwrap();
    let mut receiver = Receiver::new(area).unwrap();
    assert_eq!(taken(&mut receiver).unwrap(), b"unseen", "what was not taken waits");
}

#[test]
fn a_receiver_that_sleeps_is_rung_for_and_never_misses_a_message() {
    const MESSAGES: u32 = 200_000;
    let (_, mut sender, mut receiver) = both();
    let (bell, rung) = mpsc::channel();
    let slept = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let bell = bell;
            for number in 0..MESSAGES {
                loop {
                    match sender.send(&[&number.to_ne_bytes()]).unwrap() {
                        None => std::thread::yield_now(),
                        Some(asleep) => {
                            if asleep {
                                bell.send(()).unwrap();
                            }
                            break;
                        }
                    }
                }
                if number % 1000 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut next = 0_u32;
        while next < MESSAGES {
            while let Some(message) = taken(&mut receiver) {
                assert_eq!(message, next.to_ne_bytes());
                next += 1;
            }
            if next < MESSAGES && receiver.sleep().unwrap() {
                slept.store(true, Ordering::Relaxed);
                rung.recv_timeout(Duration::from_secs(60)).expect("somebody rings");
                receiver.wake();
            }
        }
    });
    assert!(slept.into_inner());
}

#[test]
fn counts_that_cannot_be_are_an_error_for_either_side() {
    let (area, mut sender, mut receiver) = both();
    area.set(Word::Taken, 1);
    assert_eq!(sender.is_taken(), Err(Broken("more was taken than sent")));
    assert!(sender.send(&[b"x"]).is_err());
    assert!(Receiver::new(area.clone()).is_err());
    area.set(Word::Sent, ENTRIES + 1);
    assert!(receiver.first().is_err());
    assert!(receiver.sleep().is_err());
    area.set(Word::Sent, 1);
    for (offset, bytes) in
        [(u32::MAX, 1), (0, u32::MAX), (1, MESSAGE_BYTES_MAX as u32), (u32::MAX, u32::MAX)]
    {
        area.set(Word::Entry(0), offset);
        area.set(Word::EntryLength(0), bytes);
        assert!(receiver.first().is_err(), "{offset} {bytes}");
    }
}

#[test]
fn both_sides_of_a_file_are_one_area() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(3 * AREA_BYTES as u64).unwrap();
    let region = Region { address: 0, offset: AREA_BYTES as u64, bytes: 2 * AREA_BYTES as u64 };
    let memory = GuestMemory::new(file, vec![region]);
    let mut sender = Sender::new(memory.area(AREA_BYTES as u64).unwrap()).unwrap();
    let mut receiver = Receiver::new(memory.area(AREA_BYTES as u64).unwrap()).unwrap();
    sender.send(&[b"through a file"]).unwrap();
    assert_eq!(taken(&mut receiver).unwrap(), b"through a file");
    assert!(memory.area(2 * AREA_BYTES as u64).is_err());
}

proptest! {
    /// However messages and their taking are mixed, none is changed by a later one.
    #[test]
    fn no_message_overwrites_another(steps in prop::collection::vec((0_usize..700_000, any::<bool>()), 1..60)) {
        let (_, mut sender, mut receiver) = both();
        let mut under_way = VecDeque::new();
        for (number, (bytes, take)) in steps.into_iter().enumerate() {
            let fill = number as u8;
            if sender.send(&[&vec![fill; bytes]]).unwrap().is_some() {
                under_way.push_back((fill, bytes));
            } else {
                prop_assert!(!under_way.is_empty(), "an empty area has room");
            }
            if take && let Some((fill, bytes)) = under_way.pop_front() {
                let message = taken(&mut receiver).unwrap();
                prop_assert!(message.len() == bytes && message.iter().all(|byte| *byte == fill));
            }
        }
        for (fill, bytes) in under_way {
            let message = taken(&mut receiver).unwrap();
            prop_assert!(message.len() == bytes && message.iter().all(|byte| *byte == fill));
        }
    }
}
