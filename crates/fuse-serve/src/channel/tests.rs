use std::io::{Read, Write};
use std::time::Instant;

use vfs::{FileSystem, ROOT, Touched};

use super::*;
use crate::Config;
use crate::abi::{Opcode, Writer};
use crate::testing::{Answer, GATED, Gated, init_body, memfs, message, names};

const PATIENCE: Duration = Duration::from_secs(10);

/// The guest's end of a channel.
struct Guest {
    stream: UnixStream,
}

impl Guest {
    fn send(&mut self, message: &[u8]) {
        self.stream.write_all(message).unwrap();
    }

    fn receive(&mut self) -> Answer {
        let mut message = vec![0; 4];
        self.stream.read_exact(&mut message).unwrap();
        let len = u32::from_ne_bytes([message[0], message[1], message[2], message[3]]);
        message.resize(len as usize, 0);
        self.stream.read_exact(&mut message[4..]).unwrap();
        Answer::of(&message)
    }

    fn is_silent(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let silent = self.stream.read(&mut [0]).is_err();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }
}

fn connect(threads: Threads) -> (Arc<dyn FileSystem>, Channel, Guest) {
    let fs = memfs();
    let session = Arc::new(Session::new(Arc::clone(&fs), Config::default()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let channel = Channel::serve(session, ours, None, threads).unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut guest = Guest { stream: theirs };
    guest.send(&message(Opcode::Init, 1, 0, &init_body(38, u32::MAX)));
    assert_eq!(guest.receive().unique, 1);
    (fs, channel, guest)
}

fn create(guest: &mut Guest, name: &str) -> u64 {
    let mut body = Vec::new();
    body.u32(2).u32(0o100_644).u32(0).u32(0).bytes(&names(&[name]));
    guest.send(&message(Opcode::Create, 2, ROOT, &body));
    guest.receive().u64_at(0)
}

fn write(node: u64, unique: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.u64(0).u64(offset).u32(data.len() as u32).u32(0).zeros(16).bytes(data);
    message(Opcode::Write, unique, node, &body)
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let (fs, channel, mut guest) = connect(Threads::default());
    let node = create(&mut guest, "a");
    let batch: Vec<u8> =
        (0..500_u64).flat_map(|i| write(node, 1000 + i, i * 10, b"0123456789")).collect();
    let mut sender = guest.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || sender.write_all(&batch).unwrap());
    let mut answered: Vec<u64> = (0..500).map(|_| guest.receive().unique).collect();
    sending.join().unwrap();
    answered.sort_unstable();
    assert_eq!(answered, (1000..1500).collect::<Vec<_>>());
    assert_eq!(fs.getattr(node).unwrap().size, 5000);
    assert!(!channel.is_closed());
}

#[test]
fn a_message_may_come_in_pieces_and_be_large() {
    let (fs, _channel, mut guest) = connect(Threads { kept: 1, max: 2 });
    let node = create(&mut guest, "a");
    let data: Vec<u8> = (0..1_u32 << 20).map(|i| (i % 253) as u8).collect();
    let large = write(node, 9, 0, &data);
    for piece in large.chunks(100_001) {
        guest.send(piece);
    }
    assert_eq!(guest.receive().unique, 9);
    assert_eq!(&fs.read(node, 0, 1 << 20).unwrap()[..], &data[..]);
    for byte in message(Opcode::Getattr, 10, node, &[0; 16]) {
        guest.send(&[byte]);
    }
    assert_eq!(guest.receive().unique, 10);
}

#[test]
fn a_length_that_cannot_be_closes_the_channel() {
    for len in [0_u32, 39, u32::MAX] {
        let (_fs, channel, mut guest) = connect(Threads::default());
        guest.send(&len.to_ne_bytes());
        guest.send(&[0; 60]);
        assert!(channel.wait_closed(PATIENCE), "{len}");
    }
}

#[test]
fn the_channel_ends_with_its_peer() {
    let (fs, channel, mut guest) = connect(Threads::default());
    let node = create(&mut guest, "a");
    fs.unlink(ROOT, b"a").unwrap();
    drop(guest);
    assert!(channel.wait_closed(PATIENCE));
    assert!(fs.getattr(node).is_ok(), "held until the session is let go");
    let notifier = channel.notifier();
    drop(channel);
    assert!(matches!(notifier.flush(PATIENCE), Err(Error::Closed)));
    drop(notifier);
    assert!(fs.getattr(node).is_err());
}

#[test]
fn half_a_message_at_the_end_is_no_panic() {
    let (_fs, channel, mut guest) = connect(Threads::default());
    guest.send(&message(Opcode::Getattr, 3, ROOT, &[0; 16])[..30]);
    drop(guest);
    assert!(channel.wait_closed(PATIENCE));
}

#[test]
fn a_dropped_channel_ends_under_a_guest_that_is_silent() {
    let (_fs, channel, mut guest) = connect(Threads::default());
    guest.send(&[100]);
    let before = Instant::now();
    drop(channel);
    assert!(before.elapsed() < PATIENCE);
    // An end, or a reset because part of a message was never read.
    assert!(matches!(guest.stream.read(&mut [0; 10]), Ok(0) | Err(_)));
}

#[test]
fn a_frozen_channel_answers_what_it_took_and_no_more() {
    let (_fs, channel, mut guest) = connect(Threads::default());
    for round in 0..20_u64 {
        for i in 0..50 {
            guest.send(&message(Opcode::Getattr, round * 100 + i, ROOT, &[0; 16]));
        }
        channel.freeze(PATIENCE).unwrap();
        guest.send(&message(Opcode::Getattr, round * 100 + 50, ROOT, &[0; 16]));
        if round == 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        channel.thaw();
        let mut answered: Vec<_> = (0..51).map(|_| guest.receive().unique).collect();
        answered.sort_unstable();
        assert_eq!(answered, (round * 100..=round * 100 + 50).collect::<Vec<_>>());
    }
    channel.freeze(PATIENCE).unwrap();
    guest.send(&message(Opcode::Getattr, 7, ROOT, &[0; 16]));
    assert!(guest.is_silent());
    channel.freeze(PATIENCE).unwrap();
    channel.thaw();
    assert_eq!(guest.receive().unique, 7);
}

#[test]
fn lookups_go_on_while_many_syncs_wait() {
    let fs = Arc::new(Gated::new(memfs()));
    let session = Arc::new(Session::new(fs.clone(), Config::default()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let channel = Channel::serve(session, ours, None, Threads { kept: 1, max: 6 }).unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut guest = Guest { stream: theirs };
    guest.send(&message(Opcode::Init, 1, 0, &init_body(38, u32::MAX)));
    guest.receive();
    let gate = fs.syncs.lock();
    for i in 0..40 {
        guest.send(&message(Opcode::Fsync, 100 + i, ROOT, &[0; 16]));
    }
    for i in 0..40 {
        guest.send(&message(Opcode::Getattr, 500 + i, ROOT, &[0; 16]));
    }
    for _ in 0..40 {
        assert!(guest.receive().unique >= 500, "only lookups are answered");
    }
    let busy = channel.freeze(Duration::from_millis(100));
    assert!(matches!(busy, Err(Error::Busy { outstanding: 40, .. })), "{busy:?}");
    drop(gate);
    let mut answered: Vec<_> = (0..40).map(|_| guest.receive().unique).collect();
    answered.sort_unstable();
    assert_eq!(answered, (100..140).collect::<Vec<_>>());
    channel.freeze(PATIENCE).unwrap();
}

#[test]
fn a_lookup_that_waits_holds_up_no_other_request() {
    let fs = Arc::new(Gated::new(memfs()));
    let session = Arc::new(Session::new(fs.clone(), Config::default()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let channel = Channel::serve(session, ours, None, Threads { kept: 1, max: 4 }).unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut guest = Guest { stream: theirs };
    guest.send(&message(Opcode::Init, 1, 0, &init_body(38, u32::MAX)));
    guest.receive();
    let gate = fs.lookups.lock();
    for i in 0..3 {
        guest.send(&message(Opcode::Lookup, 100 + i, ROOT, &names(&[GATED])));
        // In one piece with the lookup, most likely: read ahead by who handles that.
        guest.send(&message(Opcode::Getattr, 200 + i, ROOT, &[0; 16]));
        assert_eq!(guest.receive().unique, 200 + i);
    }
    drop(gate);
    let mut answered: Vec<_> = (0..3).map(|_| guest.receive().unique).collect();
    answered.sort_unstable();
    assert_eq!(answered, [100, 101, 102]);
    channel.freeze(PATIENCE).unwrap();
}

#[test]
fn changes_made_elsewhere_are_sent_and_counted() {
    let (_fs, channel, mut guest) = connect(Threads::default());
    let node = create(&mut guest, "a");
    let notifier = channel.notifier();
    assert_eq!(notifier.sent(), 0);
    notifier.send(&Touched { entries: vec![(ROOT, b"new".to_vec())], inodes: vec![node, 4711] });
    assert_eq!(notifier.flush(PATIENCE).unwrap(), 3);
    let codes: Vec<_> = (0..3)
        .map(|_| {
            let notification = guest.receive();
            assert_eq!(notification.unique, 0);
            (-notification.errno, notification.u64_at(0))
        })
        .collect();
    // The name in the root, then the root and the file; the third inode is none of this kernel's.
    assert_eq!(codes, [(3, ROOT), (2, ROOT), (2, node)]);
    assert_eq!(notifier.sent(), 3);
}

#[test]
fn a_frozen_channel_keeps_changes_for_later() {
    let (_fs, channel, mut guest) = connect(Threads::default());
    let notifier = channel.notifier();
    channel.freeze(PATIENCE).unwrap();
    for _ in 0..10 {
        notifier.send(&Touched { entries: Vec::new(), inodes: vec![ROOT] });
    }
    assert!(guest.is_silent());
    channel.thaw();
    assert_eq!(notifier.flush(PATIENCE).unwrap(), 1);
    assert_eq!(guest.receive().unique, 0);
}

#[test]
fn a_mark_is_answered_once_all_before_it_was_taken() {
    // What `agent-proto` calls a mark: no opcode of FUSE, and a number that no kernel gets to.
    let mark = |number| crate::testing::raw(0xd0_4d_4f_53, (1 << 63) + number, 0, b"");
    let is_refused = |answer: Answer, number| {
        assert_eq!((answer.errno, answer.unique), (38, (1 << 63) + number), "ENOSYS");
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let session = Arc::new(Session::new(memfs(), Config::default()));
    let _channel = Channel::serve(session, ours, None, Threads::default()).unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut guest = Guest { stream: theirs };
    guest.send(&mark(1));
    is_refused(guest.receive(), 1);

    let (_fs, channel, mut guest) = connect(Threads { kept: 1, max: 4 });
    for round in 2..50_u64 {
        let node = create(&mut guest, &format!("file {round}"));
        for _ in 0..50 {
            let mut body = Vec::new();
            body.u64(0).u64(0).u64(0);
            guest.send(&message(Opcode::Interrupt, 3, node, &body));
        }
        guest.send(&message(Opcode::Forget, 4, node, &1_u64.to_ne_bytes()));
        guest.send(&mark(round));
        is_refused(guest.receive(), round);
        // Taken is not done: that is for the freeze.
        channel.freeze(PATIENCE).unwrap();
        assert_eq!(channel.server.session.save().unwrap().held, [], "round {round}");
        channel.thaw();
    }
}
