use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, channel};

use vfs::ROOT;

use super::*;
use crate::Config;
use crate::abi::Opcode;
use crate::link::{Message, Received};
use crate::testing::{Answer, GATED, Gated, init_body, memfs, message, names};

const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for a watcher to come to rest.
const REST: Duration = Duration::from_millis(300);

/// A device in memory: messages out, replies in.
#[derive(Debug)]
struct Device {
    messages: Mutex<VecDeque<Vec<u8>>>,
    /// Counts them.
    readable: EventFd,
    replies: Mutex<Sender<Vec<u8>>>,
    /// How often somebody tried to receive.
    tries: AtomicU64,
    gone: AtomicBool,
}

impl Device {
    fn send_request(&self, message: Vec<u8>) {
        let mut messages = self.messages.lock();
        messages.push_back(message);
        self.readable.write(1).unwrap();
    }

    fn pull_out(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.readable.write(1).unwrap();
    }
}

impl Link for Device {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }

    fn has_buffered(&self) -> bool {
        false
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn receive(&self, message: &mut Message) -> io::Result<Received> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        if self.gone.load(Ordering::SeqCst) {
            return Ok(Received::End);
        }
        // Under one lock with what `send_request` does: else there is something to read for ever.
        let mut messages = self.messages.lock();
        let Some(next) = messages.pop_front() else { return Ok(Received::Nothing) };
        _ = self.readable.read();
        drop(messages);
        message.set(&next);
        Ok(Received::Message)
    }

    fn send(&self, parts: &[&[u8]]) -> io::Result<()> {
        self.replies.lock().send(parts.concat()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn shut_down(&self) {}
}

/// A pool, what it serves, and the kernel's side of it.
struct Served {
    fs: Arc<Gated>,
    device: Arc<Device>,
    pool: Pool,
    replies: Receiver<Vec<u8>>,
}

impl Served {
    fn new(threads: Threads) -> Self {
        let fs = Arc::new(Gated::new(memfs()));
        let session = Arc::new(Session::new(fs.clone(), Config::default()));
        let (sender, replies) = channel();
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE;
        let device = Arc::new(Device {
            messages: Mutex::default(),
            readable: EventFd::from_flags(flags).unwrap(),
            replies: Mutex::new(sender),
            tries: AtomicU64::new(0),
            gone: AtomicBool::new(false),
        });
        let pool = Pool::start(session, device.clone(), threads).unwrap();
        let served = Self { fs, device, pool, replies };
        served.device.send_request(message(Opcode::Init, 1, 0, &init_body(38, u32::MAX)));
        assert_eq!(served.answer().unique, 1);
        served
    }

    fn ask(&self, unique: u64) {
        self.device.send_request(message(Opcode::Getattr, unique, ROOT, &[0; 16]));
    }

    /// Asks what is not answered as long as `fs.lookups` is held.
    fn ask_gated(&self, unique: u64) {
        self.device.send_request(message(Opcode::Lookup, unique, ROOT, &names(&[GATED])));
    }

    fn answer(&self) -> Answer {
        Answer::of(&self.replies.recv_timeout(PATIENCE).expect("an answer"))
    }

    fn answers(&self, count: u64) -> Vec<u64> {
        let mut uniques: Vec<_> = (0..count).map(|_| self.answer().unique).collect();
        uniques.sort_unstable();
        uniques
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.pool.stop();
    }
}

#[test]
fn a_request_that_never_ends_holds_up_no_other() {
    let served = Served::new(Threads { kept: 2, max: 16 });
    let gate = served.fs.lookups.lock();
    for round in 0..20 {
        if round < 10 {
            served.ask_gated(1000 + round);
        }
        for i in 0..50 {
            served.ask(round * 50 + i + 2);
        }
        let expected: Vec<_> = (round * 50 + 2..round * 50 + 52).collect();
        assert_eq!(served.answers(50), expected);
    }
    let busy = served.pool.freeze(Duration::from_millis(50));
    assert!(matches!(busy, Err(Error::Busy { outstanding: 10, .. })), "{busy:?}");
    drop(gate);
    assert_eq!(served.answers(10), (1000..1010).collect::<Vec<_>>());
    served.pool.freeze(PATIENCE).unwrap();
}

#[test]
fn past_the_last_thread_requests_wait_and_are_not_lost() {
    let served = Served::new(Threads { kept: 1, max: 3 });
    let gate = served.fs.lookups.lock();
    for i in 0..9 {
        served.ask_gated(100 + i);
    }
    served.ask(5);
    assert!(served.replies.recv_timeout(REST).is_err(), "nobody is free");
    drop(gate);
    assert_eq!(served.answers(10), [vec![5], (100..109).collect()].concat());
}

#[test]
fn syncs_and_waiting_lookups_leave_room_for_others() {
    let served = Served::new(Threads { kept: 1, max: 8 });
    let (lookups, syncs) = (served.fs.lookups.lock(), served.fs.syncs.lock());
    for i in 0..30 {
        // Some carry more than a kernel would send.
        let body = vec![0; if i % 2 == 0 { 16 } else { 100_000 }];
        served.device.send_request(message(Opcode::Fsync, 100 + i, ROOT, &body));
    }
    for i in 0..3 {
        served.ask_gated(200 + i);
    }
    served.ask(7);
    assert_eq!(served.answer().unique, 7);
    drop(syncs);
    assert_eq!(served.answers(30), (100..130).collect::<Vec<_>>());
    drop(lookups);
    assert_eq!(served.answers(3), [200, 201, 202]);
}

#[test]
fn many_clients_are_all_answered_while_leaders_change_and_stand_still() {
    const CLIENTS: u64 = 8;
    const EACH: u64 = 1000;
    let served = Served::new(Threads::default());
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let served = &served.device;
            scope.spawn(move || {
                for i in 0..EACH {
                    let unique = 2 + client * EACH + i;
                    let ask = message(Opcode::Getattr, unique, ROOT, &[0; 16]);
                    let wait = message(Opcode::Lookup, unique, ROOT, &names(&[GATED]));
                    served.send_request(if i % 97 == 0 { wait } else { ask });
                }
            });
        }
        let (fs, pool) = (&served.fs, &served.pool);
        scope.spawn(move || {
            for _ in 0..10 {
                let gate = fs.lookups.lock();
                std::thread::sleep(5 * TICK);
                drop(gate);
                pool.freeze(PATIENCE).unwrap();
                pool.thaw();
            }
        });
        assert_eq!(served.answers(CLIENTS * EACH), (2..2 + CLIENTS * EACH).collect::<Vec<_>>());
    });
    assert!(served.replies.try_recv().is_err(), "each is answered once");
    served.pool.freeze(PATIENCE).unwrap();
}

#[test]
fn a_pool_without_work_does_nothing() {
    let served = Served::new(Threads::default());
    for i in 0..500 {
        served.ask(i + 2);
        served.answer();
    }
    let deadline = Instant::now() + PATIENCE;
    let tries = || served.device.tries.load(Ordering::SeqCst);
    loop {
        let before = tries();
        std::thread::sleep(REST);
        // Nobody looks for a message, and nobody after who does.
        if tries() == before && served.pool.shared.unwatched.load(Ordering::SeqCst) {
            break;
        }
        assert!(Instant::now() < deadline, "it does not come to rest");
    }
    // And is there at once when work comes.
    served.ask(1);
    assert_eq!(served.answer().unique, 1);
}

#[test]
fn a_frozen_pool_takes_nothing() {
    let served = Served::new(Threads::default());
    served.pool.freeze(PATIENCE).unwrap();
    served.ask(5);
    assert!(served.replies.recv_timeout(REST).is_err());
    served.pool.thaw();
    assert_eq!(served.answer().unique, 5);
}

#[test]
fn a_pool_stops_when_what_is_under_way_is_done() {
    let served = Served::new(Threads { kept: 2, max: 4 });
    let gate = served.fs.lookups.lock();
    served.ask_gated(8);
    served.ask(9);
    assert_eq!(served.answer().unique, 9);
    let pool = served.pool.clone();
    let stopping = std::thread::spawn(move || pool.stop());
    assert!(served.pool.wait_closed(PATIENCE));
    std::thread::sleep(20 * TICK);
    assert!(!stopping.is_finished(), "a request under way is waited for");
    drop(gate);
    stopping.join().unwrap();
    assert_eq!(served.answer().unique, 8);
}

#[test]
fn a_device_that_is_gone_closes_the_pool() {
    for busy in [false, true] {
        let served = Served::new(Threads::default());
        let gate = busy.then(|| served.fs.lookups.lock());
        if busy {
            served.ask_gated(3);
        }
        served.device.pull_out();
        assert!(served.pool.wait_closed(PATIENCE));
        drop(gate);
    }
}
