//! What another side may write into an area, at any moment.

use fuzz::{Target, outcome};

use crate::area::Word;
use crate::{Area, Receiver, Sender};

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
