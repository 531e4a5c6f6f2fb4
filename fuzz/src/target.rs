//! One target: its examples, its bounds, and the loop.

use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::memory::most_held;
use crate::mutate::mutate;

/// The longest that one input may take; far beyond what a decoder needs on a busy host.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long a target runs in a test.
const TIME_IN_TESTS: Duration = Duration::from_millis(1_500);
/// At most so many inputs, where they are quick.
const INPUTS_IN_TESTS: u64 = 20_000;
/// Inputs that showed something new and are kept; past this many the oldest of them go.
const KEPT_MAX: usize = 4_096;
/// Attempts to make an input smaller that shows a fault.
const SMALLER_MAX: usize = 2_000;

/// One thing that a decoder made of an input, as a number: equal for what is equal in kind.
#[must_use]
pub fn outcome(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// A decoder to be fed.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    /// Its name, as a folder may have it.
    pub name: &'a str,
    /// Valid input.
    pub examples: Vec<Vec<u8>>,
    /// Pieces that its format knows; may be empty.
    pub words: &'a [&'a [u8]],
    /// The longest input to try.
    pub bytes_max: usize,
    /// How many bytes the decoder may hold at once, whatever the input says.
    pub memory_max: usize,
}

/// Why an input is a fault.
type Fault = String;

impl Target<'_> {
    /// Feeds `decode`, which says what it made of each input: an [`outcome`] for each message, say.
    ///
    /// # Panics
    /// Where an input shows a fault; the message names input and seed.
    pub fn run(&self, mut decode: impl FnMut(&[u8]) -> Vec<u64>) {
        hear_panics();
        if let Some(path) = asked("DORMOUSE_FUZZ_INPUT") {
            let input = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            match self.judge(&input, &mut decode) {
                Ok(_) => return,
                Err(fault) => panic!("{}: {path}: {fault}", self.name),
            }
        }
        let seed = asked("DORMOUSE_FUZZ_SEED").and_then(|seed| seed.parse().ok()).unwrap_or(1);
        let time = asked("DORMOUSE_FUZZ_SECONDS").and_then(|seconds| seconds.parse().ok());
        let (time, inputs) = match time {
            Some(seconds) => (Duration::from_secs(seconds), u64::MAX),
            None => (TIME_IN_TESTS, INPUTS_IN_TESTS),
        };
        let begun = Instant::now();
        let mut row = Row::new(seed, self.examples.clone());
        for example in &self.examples {
            self.take(&mut row, example, &mut decode);
        }
        while row.count < inputs && begun.elapsed() < time {
            let input = row.next(self);
            if self.take(&mut row, &input, &mut decode) {
                row.keep(input);
            }
        }
        eprintln!(
            "{}: {} inputs, {} outcomes, seed {seed}, at most {} KiB held",
            self.name,
            row.count,
            row.seen.len(),
            row.most >> 10
        );
    }

    /// True where the input showed something new.
    fn take(
        &self,
        row: &mut Row,
        input: &[u8],
        decode: &mut impl FnMut(&[u8]) -> Vec<u64>,
    ) -> bool {
        row.count += 1;
        match self.judge(input, decode) {
            Ok((made, held)) => {
                row.most = row.most.max(held);
                let before = row.seen.len();
                row.seen.extend(made);
                row.seen.len() > before
            }
            Err(fault) => self.tell(row.seed, input, &fault, decode),
        }
    }

    fn judge(
        &self,
        input: &[u8],
        decode: &mut impl FnMut(&[u8]) -> Vec<u64>,
    ) -> Result<(Vec<u64>, usize), Fault> {
        HEARD.set(Some(String::new()));
        let begun = Instant::now();
        let (done, held) = most_held(|| catch_unwind(AssertUnwindSafe(|| decode(input))));
        let took = begun.elapsed();
        let panicked = HEARD.take().unwrap_or_default();
        match done {
            _ if !panicked.is_empty() => Err(panicked),
            Err(_) => Err("it unwound without a word".to_owned()),
            Ok(_) if held > self.memory_max => {
                Err(format!("it held {held} bytes; {} are allowed", self.memory_max))
            }
            Ok(_) if took > PATIENCE => Err(format!("it took {took:?}")),
            Ok(made) => Ok((made, held)),
        }
    }

    /// Makes the input smaller, writes it down and fails.
    fn tell(
        &self,
        seed: u64,
        input: &[u8],
        fault: &str,
        decode: &mut impl FnMut(&[u8]) -> Vec<u64>,
    ) -> ! {
        let small = self.smaller(input.to_vec(), decode);
        let folder = self.folder();
        let path = folder.join(format!("{:016x}", outcome(&small)));
        let kept = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, &small));
        let shown: String = small.iter().take(200).map(|byte| format!("{byte:02x}")).collect();
        panic!(
            "{}: {fault}\nseed {seed}; input of {} bytes{}: {shown}{}",
            self.name,
            small.len(),
            kept.map(|()| format!(" in {}", path.display())).unwrap_or_default(),
            if small.len() > 200 { "…" } else { "" },
        );
    }

    /// The input without what it does not need to show a fault.
    fn smaller(&self, mut input: Vec<u8>, decode: &mut impl FnMut(&[u8]) -> Vec<u64>) -> Vec<u8> {
        let (mut piece, mut tries) = (input.len().div_ceil(2), 0);
        while piece > 0 && tries < SMALLER_MAX {
            let mut place = 0;
            while place < input.len() && tries < SMALLER_MAX {
                let mut without = input.clone();
                drop(without.drain(place..(place + piece).min(input.len())));
                tries += 1;
                if self.judge(&without, decode).is_err() { input = without } else { place += piece }
            }
            piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
        }
        input
    }

    fn folder(&self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let target = asked("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        target.join("fuzz").join(self.name)
    }
}

/// The inputs of one run, one after the other.
struct Row {
    seed: u64,
    rng: StdRng,
    examples: Vec<Vec<u8>>,
    kept: Vec<Vec<u8>>,
    seen: HashSet<u64>,
    count: u64,
    most: usize,
}

impl Row {
    fn new(seed: u64, examples: Vec<Vec<u8>>) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { seed, rng, examples, kept: Vec::new(), seen: HashSet::new(), count: 0, most: 0 }
    }

    fn next(&mut self, target: &Target<'_>) -> Vec<u8> {
        let from_kept = !self.kept.is_empty() && self.rng.random_bool(0.5);
        let pool = if from_kept { &self.kept } else { &self.examples };
        let mut input = match pool.len() {
            0 => Vec::new(),
            len => pool[self.rng.random_range(0..len)].clone(),
        };
        mutate(&mut input, &self.examples, target.words, target.bytes_max, &mut self.rng);
        input
    }

    fn keep(&mut self, input: Vec<u8>) {
        if self.kept.len() == KEPT_MAX {
            self.kept.remove(0);
        }
        self.kept.push(input);
    }
}

thread_local! {
    /// What the first panic of this thread said since an input is judged; `None` while none is.
    static HEARD: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Has panics noted while an input is judged, also those that something catches on their way.
fn hear_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let judged = HEARD.try_with(|heard| {
                let mut heard = heard.borrow_mut();
                if let Some(heard) = heard.as_mut().filter(|heard| heard.is_empty()) {
                    *heard = info.to_string();
                }
                heard.is_some()
            });
            if judged != Ok(true) {
                usual(info);
            }
        }));
    });
}

fn asked(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(examples: &[&[u8]]) -> Target<'static> {
        let examples = examples.iter().map(|example| example.to_vec()).collect();
        Target { name: "itself", examples, words: &[], bytes_max: 64, memory_max: 1 << 20 }
    }

    fn fault(target: &Target<'_>, decode: impl FnMut(&[u8]) -> Vec<u64>) -> String {
        let found = catch_unwind(AssertUnwindSafe(|| target.run(decode)));
        found.unwrap_err().downcast_ref::<String>().expect("it says what it found").clone()
    }

    #[test]
    fn a_panic_behind_a_check_is_found_and_made_small() {
        let found = fault(&target(&[b"head 12345678"]), |input| {
            let Some(rest) = input.strip_prefix(b"head ") else { return vec![0] };
            assert!(rest.len() < 3 || rest[0] != 0xff, "rest");
            vec![1]
        });
        assert!(found.contains("input of 8 bytes") && found.contains("6865616420ff"), "{found}");
    }

    #[test]
    fn a_panic_that_is_caught_on_its_way_is_one() {
        let found = fault(&target(&[b"abc"]), |input| {
            vec![u64::from(catch_unwind(|| assert!(input != b"abc", "caught")).is_ok())]
        });
        assert!(found.contains("caught") && found.contains("seed 1"), "{found}");
    }

    #[test]
    fn memory_by_a_length_field_is_a_fault() {
        let found = fault(&target(&[&[0, 0, 0, 1]]), |input| {
            let Some(length) = input.first_chunk::<4>() else { return vec![0] };
            let made = Vec::<u8>::with_capacity(u32::from_be_bytes(*length) as usize >> 4);
            vec![u64::from(std::hint::black_box(made).capacity() > 0)]
        });
        assert!(found.contains("bytes; 1048576 are allowed"), "{found}");
    }

    #[test]
    fn what_is_new_is_changed_further() {
        // Four bytes in a row, each of which shows itself: noise would not get there.
        let mut furthest = 0;
        target(&[b"xxxx"]).run(|input| {
            let made = input.iter().zip(b"deep").take_while(|(a, b)| a == b).count();
            furthest = furthest.max(made);
            vec![made as u64]
        });
        assert_eq!(furthest, 4);
    }
}
