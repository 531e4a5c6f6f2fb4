//! A guest whose other processors write into the ring while its host reads and answers.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use guest_ring::MESSAGE_BYTES_MAX as AREA_MESSAGE_BYTES_MAX;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use vfs::memfs::MemFs;

use super::*;
use crate::abi::Writer;

/// Enough for some dozens of rounds.
const LASTS: Duration = Duration::from_secs(6);
const ROUND: Duration = Duration::from_millis(60);
/// As long is looked at a host that has nothing to do, and so much CPU time may it use then.
const REST: Duration = Duration::from_millis(200);
const CPU_AT_REST: Duration = Duration::from_millis(50);
/// What the test may have resident: the areas, what the file system may hold, buffers of all threads.
const RESIDENT_MAX: u64 = 160 << 20;
const FS_BYTES_MAX: u64 = 8 << 20;
const NODES_MAX: usize = 200;

/// Where the areas lie; before, between and behind them lies memory that a host may not touch.
const TO_HOST: u64 = AREA_BYTES as u64;
const TO_GUEST: u64 = 3 * AREA_BYTES as u64;
const ALL: u64 = 5 * AREA_BYTES as u64;
const UNTOUCHED: u8 = 0xa5;
/// Where an area has its words and its messages: the layout in `guest_ring`.
const SENT: u64 = 0;
const TAKEN: u64 = 64;
const ASLEEP: u64 = 128;
const ENTRIES: u64 = 256;
const MESSAGES: u64 = 4096;

static PANICS: AtomicU32 = AtomicU32::new(0);

/// What is written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Requests while they are copied, and whether to ring: no ring breaks of that.
    Requests,
    /// Where messages lie, and how long they are.
    Entries,
    /// How many there are and were taken.
    Counts,
    /// Everything, of both directions.
    All,
}

/// Numbers without order, and the same again.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Often one at which something ends.
    fn number(&mut self) -> u32 {
        let odd = [0, 1, 39, 40, 64, 65, 4096, 1 << 20, AREA_MESSAGE_BYTES_MAX as u32, 1 << 21];
        match self.below(4) {
            0 => self.next() as u32,
            1 => self.below(64) as u32,
            2 => u32::MAX - self.below(3) as u32,
            _ => odd[self.below(odd.len() as u64) as usize],
        }
    }
}

/// The guest's memory, as its root writes it.
struct Memory(File);

impl Memory {
    fn new() -> Self {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![UNTOUCHED; ALL as usize], 0).unwrap();
        for area in [TO_HOST, TO_GUEST] {
            file.write_all_at(&vec![0; AREA_BYTES], area).unwrap();
        }
        Self(file)
    }

    fn regions(&self) -> GuestMemory {
        let region = Region { address: 0, offset: 0, bytes: ALL };
        GuestMemory::new(self.0.try_clone().unwrap(), vec![region])
    }

    fn get(&self, at: u64) -> u32 {
        let mut word = [0; 4];
        self.0.read_exact_at(&mut word, at).unwrap();
        u32::from_ne_bytes(word)
    }

    fn set(&self, at: u64, word: u32) {
        self.0.write_all_at(&word.to_ne_bytes(), at).unwrap();
    }

    fn scribble(&self, over: Over, noise: &mut Noise) {
        let area = if over == Over::All && noise.below(2) == 0 { TO_GUEST } else { TO_HOST };
        match over {
            Over::Requests => {
                // Headers are written over the most.
                let at = MESSAGES + noise.below(40) * if noise.below(2) == 0 { 1 } else { 64 };
                self.set(area + at, noise.number());
                self.set(area + ASLEEP, noise.below(2) as u32);
                self.set(TO_GUEST + ASLEEP, 0);
            }
            Over::Entries => self.set(area + ENTRIES + 4 * noise.below(128), noise.number()),
            Over::Counts => {
                let at = area + if noise.below(2) == 0 { SENT } else { TAKEN };
                let near = self.get(at).wrapping_add(noise.below(6) as u32).wrapping_sub(1);
                self.set(at, if noise.below(8) == 0 { noise.number() } else { near });
            }
            Over::All => {
                let words = [256, AREA_BYTES as u64 / 4][noise.below(2) as usize];
                let at = noise.below(words);
                self.set(area + 4 * at, noise.number());
            }
        }
    }

    /// Answers are not read, and there is always room for more.
    fn forget_answers(&self) {
        self.set(TO_GUEST + TAKEN, self.get(TO_GUEST + SENT));
    }

    fn is_untouched_outside(&self) -> bool {
        let mut bytes = vec![0; AREA_BYTES];
        [0, TO_HOST + AREA_BYTES as u64, TO_GUEST + AREA_BYTES as u64].into_iter().all(|at| {
            self.0.read_exact_at(&mut bytes, at).unwrap();
            bytes.iter().all(|byte| *byte == UNTOUCHED)
        })
    }
}

/// What a kernel could ask for, and may be read as anything else.
fn requests() -> Vec<Vec<u8>> {
    let (mut create, mut write, mut read) = (Vec::new(), Vec::new(), Vec::new());
    create.u32(2).u32(0o100_644).u32(0).u32(0).bytes(&names(&["a"]));
    write.u64(0).u64(0).u32(3000).u32(0).zeros(16).bytes(&[7; 3000]);
    read.u64(0).u64(0).u32(u32::MAX).zeros(20);
    vec![
        message(Opcode::Create, 1, ROOT, &create),
        message(Opcode::Write, 2, 2, &write),
        message(Opcode::Read, 3, 2, &read),
        message(Opcode::Fsync, 4, 2, &[0; 60_000]),
        message(Opcode::Getattr, 5, 2, &[0; 16]),
        message(Opcode::Readdirplus, 6, ROOT, &read),
        message(Opcode::BatchForget, 7, 0, &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1]),
        lookup(8),
    ]
}

/// Serves a guest that does this for a round; whether it was shut out, and how many requests were handled.
fn round(over: Over, seed: u64) -> (bool, u64) {
    let memory = Memory::new();
    let fs = MemFs::new(Arc::new(base::SystemClock::new()), FS_BYTES_MAX);
    let config = Config { nodes_max: NODES_MAX, ..Config::default() };
    let session = Arc::new(Session::new(Arc::new(fs), config));
    let (ours, mut port) = UnixStream::pair().unwrap();
    port.set_read_timeout(Some(PATIENCE)).unwrap();
    let channel =
        Channel::serve(Arc::clone(&session), ours, Some(memory.regions()), Threads::default())
            .unwrap();
    let offer = Offer { to_host: TO_HOST, to_guest: TO_GUEST, token: 7 };
    let area = |address| {
        let area = memory.regions().area(address).unwrap();
        area.mark(offer.token);
        area
    };
    let (to_host, _to_guest) = (area(TO_HOST), area(TO_GUEST));
    let mut requests_sent = Sender::new(to_host).unwrap();
    port.write_all(&offer.encode()).unwrap();
    let mut answer = [0; 16];
    port.read_exact(&mut answer).unwrap();
    assert_eq!(answer, Offer::answer(0));
    port.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // Bells are heard by nobody.
    let mut deaf = port.try_clone().unwrap();
    let deaf = std::thread::spawn(move || while matches!(deaf.read(&mut [0; 4096]), Ok(1..)) {});

    let over_now = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (memory, over_now) = (&memory, &over_now);
        scope.spawn(move || {
            let mut noise = Noise(seed);
            // What breaks the ring does so in the middle of everything.
            let breaks = over != Over::Requests;
            std::thread::sleep(Duration::from_millis(if breaks { noise.below(20) } else { 0 }));
            while !over_now.load(Ordering::Relaxed) {
                memory.scribble(over, &mut noise);
                if breaks {
                    std::thread::sleep(Duration::from_micros(noise.below(300)));
                }
            }
        });
        let requests = requests();
        let init = message(Opcode::Init, 1, 0, &init_body(38, u32::MAX));
        let begun = Instant::now();
        for request in std::iter::once(&init).chain(requests.iter().cycle()) {
            if begun.elapsed() > ROUND {
                break;
            }
            // What this side does not understand any more is counted all the same.
            if requests_sent.send(&[request]).is_err() {
                memory.set(TO_HOST + SENT, memory.get(TO_HOST + SENT).wrapping_add(1));
            }
            // Where nobody serves any more, nobody reads bells either.
            if memory.get(TO_HOST + ASLEEP) != 0 && port.write_all(&bell_to_host()).is_err() {
                break;
            }
            memory.forget_answers();
        }
        over_now.store(true, Ordering::Relaxed);
    });
    assert!(session.held_count() <= NODES_MAX);
    if over == Over::Requests {
        memory.forget_answers();
        assert!(!channel.is_closed(), "of what is in requests no ring breaks");
    }
    is_at_rest(&memory);
    assert!(memory.is_untouched_outside(), "{over:?} {seed}");
    let (closed, begun) = (channel.is_closed(), Instant::now());
    drop(channel);
    assert!(begun.elapsed() < PATIENCE, "it does not end: {over:?} {seed}");
    deaf.join().unwrap();
    (closed, session.requests())
}

/// A host whose guest does nothing any more does nothing either, whatever the words say now.
fn is_at_rest(memory: &Memory) {
    // Only where no other test runs in this process.
    if std::env::var_os("NEXTEST").is_none() {
        return;
    }
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let micros = (usage.user_time() + usage.system_time()).num_microseconds();
        Duration::from_micros(micros.unsigned_abs())
    };
    // What was sent before may take its time.
    for _ in 0..50 {
        memory.forget_answers();
        let before = used();
        std::thread::sleep(REST);
        if used() - before < CPU_AT_REST {
            return;
        }
    }
    panic!("it is busy though nobody asks");
}

fn most_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn a_guest_that_writes_over_the_ring_meanwhile_is_answered_or_shut_out_and_nothing_else_is_touched()
{
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        before(panic);
    }));
    let (begun, mut rounds, mut shut_out, mut handled) = (Instant::now(), 0, 0, [0; 2]);
    while begun.elapsed() < LASTS || rounds < 4 {
        for over in [Over::Requests, Over::Entries, Over::Counts, Over::All] {
            let (closed, requests) = round(over, rounds);
            shut_out += u32::from(closed);
            handled[usize::from(over != Over::Requests)] += requests;
            rounds += 1;
        }
    }
    eprintln!(
        "{shut_out} of {rounds} shut out, {handled:?} handled, {} KiB",
        most_resident() >> 10
    );
    assert!(shut_out > 0 && handled.iter().all(|requests| *requests > 20));
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
    assert!(most_resident() < RESIDENT_MAX, "{}", most_resident());
}
