use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar};
use std::time::Duration;

use super::*;
use crate::fuzz::{asked, option};
use crate::limits::{PAYLOAD_BYTES_MAX, WORKERS};

const DISK: usize = 9 << 20;

/// A disk in memory. Reads at [`SLOW`] wait until they are let go.
#[derive(Debug)]
struct Memory {
    bytes: std::sync::Mutex<Vec<u8>>,
    calls: std::sync::Mutex<Vec<String>>,
    waiting: (std::sync::Mutex<(usize, bool)>, Condvar),
}

const SLOW: u64 = 1 << 20;
const BAD: u64 = 2 << 20;
const FULL: u64 = 3 << 20;

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            bytes: vec![7; DISK].into(),
            calls: std::sync::Mutex::default(),
            waiting: (std::sync::Mutex::default(), Condvar::new()),
        })
    }

    fn called(&self, what: String) {
        self.calls.lock().unwrap().push(what);
    }

    fn until_waiting(&self, count: usize) {
        let waiting = self.waiting.0.lock().unwrap();
        drop(self.waiting.1.wait_while(waiting, |waiting| waiting.0 < count).unwrap());
    }

    fn let_go(&self) {
        self.waiting.0.lock().unwrap().1 = true;
        self.waiting.1.notify_all();
    }
}

impl Disk for Memory {
    fn bytes(&self) -> u64 {
        DISK as u64
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        match at {
            SLOW => {
                let mut waiting = self.waiting.0.lock().unwrap();
                waiting.0 += 1;
                self.waiting.1.notify_all();
                drop(self.waiting.1.wait_while(waiting, |waiting| !waiting.1).unwrap());
            }
            BAD => return Err(io::Error::other("a bad place")),
            FULL => return Err(io::ErrorKind::StorageFull.into()),
            _ => {}
        }
        into.copy_from_slice(&self.bytes.lock().unwrap()[at as usize..][..into.len()]);
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.bytes.lock().unwrap()[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&self, at: u64, len: u64, keep: bool) -> io::Result<()> {
        self.called(format!("zero {keep}"));
        self.bytes.lock().unwrap()[at as usize..][..len as usize].fill(0);
        Ok(())
    }

    fn trim(&self, at: u64, len: u64) -> io::Result<()> {
        self.called(format!("trim {at} {len}"));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.called("flush".to_owned());
        Ok(())
    }
}

/// A client, past the greeting.
struct Client(UnixStream);

impl Client {
    fn meet(disk: Arc<Memory>) -> (Self, Server) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = Server::start(theirs, disk).unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Self(ours);
        assert_eq!(client.read(18), [b"NBDMAGIC", b"IHAVEOPT", &[0, 3][..]].concat());
        client.send(&3_u32.to_be_bytes());
        (client, server)
    }

    /// One that has the disk.
    fn ready(disk: Arc<Memory>) -> (Self, Server) {
        let (mut client, server) = Self::meet(disk);
        client.send(&option(1, b""));
        assert_eq!(client.read(10), [&(DISK as u64).to_be_bytes()[..], &[0, 101]].concat());
        (client, server)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Kind and data of the reply to an option.
    fn answer(&mut self, of: u32) -> (u32, Vec<u8>) {
        let head = self.read(20);
        assert_eq!(head[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!(number(8), of);
        (number(12), self.read(number(16) as usize))
    }

    /// The error that a request is answered with.
    fn done(&mut self) -> u32 {
        let head = self.read(16);
        assert_eq!(head[..4], 0x6744_6698_u32.to_be_bytes());
        assert_eq!(head[8..], 7_u64.to_be_bytes());
        u32::from_be_bytes(head[4..8].try_into().unwrap())
    }

    fn ask(&mut self, kind: u16, at: u64, len: u32) -> u32 {
        self.send(&asked(0, kind, at, len));
        self.done()
    }

    fn is_hung_up(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]), Ok(0) | Err(_))
    }
}

#[test]
fn what_is_written_is_read_and_zeros_are_zeros() {
    let disk = Memory::new();
    let (mut client, _server) = Client::ready(disk.clone());
    client.send(&[asked(0, 1, 10, 5), b"hello".to_vec()].concat());
    assert_eq!(client.done(), 0);
    assert_eq!(client.ask(0, 8, 9), 0);
    assert_eq!(client.read(9), b"\x07\x07hello\x07\x07");
    client.send(&asked(2, 6, 12, 2));
    assert_eq!(client.done(), 0);
    assert_eq!(client.ask(6, 14, 1), 0);
    assert_eq!(client.ask(0, 10, 5), 0);
    assert_eq!(client.read(5), b"he\0\0\0");
    assert_eq!((client.ask(3, 0, 0), client.ask(4, 4096, 8192)), (0, 0));
    assert_eq!(*disk.calls.lock().unwrap(), ["zero true", "zero false", "flush", "trim 4096 8192"]);
}

#[test]
fn what_cannot_be_done_is_an_error_of_that_request_alone() {
    let (mut client, _server) = Client::ready(Memory::new());
    let end = DISK as u64;
    assert_eq!((client.ask(0, BAD, 512), client.ask(0, FULL, 512)), (5, 28));
    // Outside of the disk, of no length, too long, unknown, with flags that were not offered.
    assert_eq!((client.ask(0, end - 1, 2), client.ask(0, u64::MAX, 1)), (22, 22));
    assert_eq!((client.ask(4, end, 1), client.ask(6, end - 4, 8)), (22, 28));
    assert_eq!((client.ask(0, 0, 0), client.ask(0, 0, PAYLOAD_BYTES_MAX + 1)), (22, 22));
    assert_eq!((client.ask(5, 0, 512), client.ask(77, 0, 512)), (22, 22));
    client.send(&[asked(1, 1, 0, 3), b"fua".to_vec()].concat());
    assert_eq!(client.done(), 22);
    client.send(&[asked(0, 1, end - 1, 3), b"end".to_vec()].concat());
    assert_eq!(client.done(), 28);
    assert_eq!(client.ask(0, end - 2, 2), 0);
    assert_eq!(client.read(2), [7, 7], "nothing of it was written");
}

#[test]
fn a_request_that_waits_holds_up_no_other_until_there_are_too_many() {
    let disk = Memory::new();
    let (mut client, server) = Client::ready(disk.clone());
    for _ in 1..WORKERS {
        client.send(&asked(0, 0, SLOW, 512));
    }
    disk.until_waiting(WORKERS - 1);
    assert_eq!(client.ask(0, 0, 4), 0);
    assert_eq!(client.read(4), [7; 4]);
    // Nobody is left to read any more than this one.
    for _ in 0..4 {
        client.send(&asked(0, 0, SLOW, 512));
    }
    disk.until_waiting(WORKERS);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(disk.waiting.0.lock().unwrap().0, WORKERS);
    disk.let_go();
    for _ in 0..WORKERS + 3 {
        assert_eq!(client.done(), 0);
        client.read(512);
    }
    client.send(&asked(0, 2, 0, 0));
    assert!(client.is_hung_up());
    drop(server);
}

#[test]
fn a_client_that_says_what_cannot_be_is_hung_up_on() {
    let large = asked(0, 1, 0, PAYLOAD_BYTES_MAX + 1);
    for bad in [vec![0; 28], large] {
        let (mut client, _server) = Client::ready(Memory::new());
        client.send(&bad);
        assert!(client.is_hung_up());
    }
    let long = [b"IHAVEOPT", &[0, 0, 0, 9, 0, 1, 0, 0][..]].concat();
    let endless = option(9, b"").repeat(40);
    for bad in [vec![1; 16], long, option(1, b"another disk"), endless] {
        let (mut client, _server) = Client::meet(Memory::new());
        client.0.write_all(&bad).ok();
        let mut rest = Vec::new();
        // It hears what was said before, and the end.
        client.0.read_to_end(&mut rest).ok();
        assert!(!rest.ends_with(&[0, 101]));
    }
}

#[test]
fn options_are_answered_as_the_protocol_says() {
    let (mut client, _server) = Client::meet(Memory::new());
    for unknown in [5, 8, 10, 1_000] {
        client.send(&option(unknown, b"data"));
        assert_eq!(client.answer(unknown), (0x8000_0001, vec![]));
    }
    client.send(&option(3, b""));
    assert_eq!((client.answer(3), client.answer(3)), ((2, vec![0; 4]), (1, vec![])));
    client.send(&option(3, b"x"));
    assert_eq!(client.answer(3).0, 0x8000_0003);
    client.send(&option(7, b"\0\0\0\x03abc\0\0"));
    assert_eq!(client.answer(7).0, 0x8000_0006);
    for bad in [&b""[..], b"\0\0\0\x09abc\0\0", b"\0\0\0\0\0\x02\0\0", b"\0\0\0\0\0\0!"] {
        client.send(&option(7, bad));
        assert_eq!(client.answer(7).0, 0x8000_0003, "{bad:?}");
    }
    let export = [&[0, 0][..], &(DISK as u64).to_be_bytes(), &[0, 101]].concat();
    client.send(&option(6, b"\0\0\0\0\0\0"));
    assert_eq!((client.answer(6), client.answer(6)), ((3, export.clone()), (1, vec![])));
    client.send(&option(7, b"\0\0\0\0\0\x01\0\x03"));
    assert_eq!(client.answer(7), (3, export));
    let sizes = [&[0, 3][..], &[0, 0, 0, 1, 0, 0, 16, 0, 0, 64, 0, 0]].concat();
    assert_eq!((client.answer(7), client.answer(7)), ((3, sizes), (1, vec![])));
    assert_eq!(client.ask(3, 0, 0), 0, "it has the disk");
}

#[test]
fn a_client_that_wants_no_disk_and_one_that_goes_away_leave_nothing() {
    let disk = Memory::new();
    let (mut client, server) = Client::meet(disk.clone());
    client.send(&option(2, b""));
    assert_eq!(client.answer(2), (1, vec![]));
    drop(server);
    let (client, server) = Client::ready(disk.clone());
    drop((client, server));
    // In the middle of a request, and while nothing is said.
    let (mut client, server) = Client::ready(disk.clone());
    client.send(&asked(0, 1, 0, 4096)[..]);
    drop(server);
    let (_client, server) = Client::ready(disk.clone());
    drop(server);
    assert_eq!(Arc::strong_count(&disk), 1);
}
