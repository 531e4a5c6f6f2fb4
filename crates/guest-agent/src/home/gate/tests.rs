use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{read, write};

use super::*;
use crate::home::line::Line;
use crate::home::notify::Notifications;
use crate::home::relay::{self, Inbox};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;

fn request(opcode: u32, unique: u64) -> Vec<u8> {
    let mut message = 40_u32.to_ne_bytes().to_vec();
    message.extend(opcode.to_ne_bytes());
    message.extend(unique.to_ne_bytes());
    message.extend([0; 24]);
    message
}

fn reply(unique: u64) -> Vec<u8> {
    let mut message = 16_u32.to_ne_bytes().to_vec();
    message.extend((-38_i32).to_ne_bytes());
    message.extend(unique.to_ne_bytes());
    message
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("nothing happened")
}

/// Whether it comes at once.
async fn at_once(future: impl Future<Output = Result<(), Errno>>) -> bool {
    let pause = Duration::from_millis(50);
    tokio::time::timeout(pause, future).await.is_ok_and(|result| result == Ok(()))
}

#[tokio::test]
async fn a_request_is_under_way_until_its_own_reply() {
    let gate = Gate::default();
    for unique in [2, 4] {
        drop(gate.pass(&request(LOOKUP, unique)));
    }
    gate.close();
    for unasked in [6, 0, 4, 4] {
        gate.answered(unasked);
        assert!(!at_once(gate.drained()).await, "{unasked}");
    }
    assert!(gate.under_way().contains("answered (1,"), "{}", gate.under_way());
    gate.answered(2);
    soon(gate.drained()).await.unwrap();
}

#[tokio::test]
async fn what_has_no_reply_is_not_waited_for() {
    let gate = Gate::default();
    for (unique, opcode) in (2..).step_by(2).zip(WITHOUT_REPLY) {
        drop(gate.pass(&request(opcode, unique)));
    }
    gate.close();
    soon(gate.drained()).await.unwrap();
}

#[tokio::test]
async fn what_is_being_written_is_waited_for() {
    let gate = Gate::default();
    let passing = gate.pass(&request(FORGET, 2));
    gate.close();
    assert!(!at_once(gate.drained()).await);
    drop(passing);
    soon(gate.drained()).await.unwrap();
}

#[tokio::test]
async fn only_the_newest_mark_counts() {
    let gate = Gate::default();
    gate.close();
    let unique = |mark: [u8; 40]| u64::from_ne_bytes(*mark[8..].first_chunk().unwrap());
    let (older, newer) = (unique(gate.mark()), unique(gate.mark()));
    assert!(gate.takes(older));
    assert!(!at_once(gate.mark_answered()).await);
    assert!(!gate.takes(newer >> 1), "the kernel gets its own");
    assert!(gate.takes(newer));
    soon(gate.mark_answered()).await.unwrap();
}

#[tokio::test]
async fn a_relay_that_has_ended_keeps_nobody_waiting() {
    let gate = Arc::new(Gate::default());
    drop(gate.pass(&request(LOOKUP, 2)));
    gate.close();
    let passing = Arc::clone(&gate);
    let kept = thread::spawn(move || drop(passing.pass(&request(LOOKUP, 4))));
    let ending = Arc::clone(&gate);
    let (drained, ()) = tokio::join!(soon(gate.drained()), async move { ending.end() });
    assert_eq!(drained, Err(Errno::ENODEV));
    assert_eq!(soon(gate.mark_answered()).await, Err(Errno::ENODEV));
    kept.join().unwrap();
}

/// The relay between a kernel and a host that are played here.
struct Relayed {
    gate: Arc<Gate>,
    kernel: Arc<OwnedFd>,
    host: UnixStream,
    /// The relay's own end.
    line: Arc<Line>,
    replies: Receiver<u64>,
}

/// `/dev/fuse` gives and takes whole messages, as this socket does.
fn relayed() -> Relayed {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty());
    let (device, kernel) = pair.unwrap();
    let (port, host) = UnixStream::pair().unwrap();
    host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (device, kernel) = (Arc::new(device), Arc::new(kernel));
    let line = Arc::new(Line::new(port.into(), None));
    let gate = Arc::new(Gate::default());
    let (notifications, _) = Notifications::start(Arc::clone(&device)).unwrap();
    let inbox = Arc::new(Inbox { device, gate: Arc::clone(&gate), notifications });
    thread::spawn({
        let (line, inbox) = (Arc::clone(&line), Arc::clone(&inbox));
        move || relay::requests(&line, &inbox)
    });
    thread::spawn({
        let line = Arc::clone(&line);
        move || relay::replies(&line, &inbox)
    });
    let (sender, replies) = channel();
    let reading = Arc::clone(&kernel);
    thread::spawn(move || {
        let mut message = [0; 100];
        while read(&*reading, &mut message).is_ok() {
            let unique = u64::from_ne_bytes(*message[8..].first_chunk().unwrap());
            if sender.send(unique).is_err() {
                return;
            }
        }
    });
    Relayed { gate, kernel, host, line, replies }
}

impl Relayed {
    fn ask(&self, opcode: u32, unique: u64) {
        write(&*self.kernel, &request(opcode, unique)).unwrap();
    }

    /// The next message at the host: opcode and unique.
    fn heard(&mut self) -> (u32, u64) {
        let mut message = [0; 40];
        self.host.read_exact(&mut message).unwrap();
        let opcode = u32::from_ne_bytes(*message[4..].first_chunk().unwrap());
        (opcode, u64::from_ne_bytes(*message[8..].first_chunk().unwrap()))
    }

    fn hears_nothing(&mut self) -> bool {
        self.host.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let nothing = self.host.read(&mut [0]).is_err();
        self.host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        nothing
    }

    fn answer(&mut self, unique: u64) {
        self.host.write_all(&reply(unique)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_gate_keeps_requests_and_forwards_them_when_it_opens() {
    let mut relayed = relayed();
    relayed.ask(LOOKUP, 2);
    assert_eq!(relayed.heard(), (LOOKUP, 2));
    relayed.gate.close();
    relayed.ask(FORGET, 4);
    relayed.ask(LOOKUP, 6);
    assert!(!at_once(relayed.gate.drained()).await, "2 is not answered");
    relayed.answer(2);
    soon(relayed.gate.drained()).await.unwrap();
    assert_eq!(relayed.replies.recv_timeout(Duration::from_secs(20)), Ok(2));
    assert!(relayed.hears_nothing());

    assert!(relayed.line.is_clear().unwrap());
    relayed.line.send_over_port(&relayed.gate.mark()).unwrap();
    let (opcode, unique) = relayed.heard();
    assert_eq!(opcode, MARK_OPCODE);
    relayed.answer(unique);
    soon(relayed.gate.mark_answered()).await.unwrap();

    relayed.gate.open();
    assert_eq!((relayed.heard(), relayed.heard()), ((FORGET, 4), (LOOKUP, 6)));
    relayed.answer(6);
    assert_eq!(relayed.replies.recv_timeout(Duration::from_secs(20)), Ok(6), "no mark before it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_the_kernel_refuses_is_a_reply() {
    let refusing = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (port, mut host) = UnixStream::pair().unwrap();
    let gate = Arc::new(Gate::default());
    let (notifications, _) = Notifications::start(Arc::new(refusing.into())).unwrap();
    let device: OwnedFd = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into();
    let inbox = Inbox { device: Arc::new(device), gate: Arc::clone(&gate), notifications };
    thread::spawn(move || relay::replies(&Line::new(port.into(), None), &inbox));
    drop(gate.pass(&request(LOOKUP, 2)));
    gate.close();
    host.write_all(&reply(2)).unwrap();
    soon(gate.drained()).await.unwrap();
}
