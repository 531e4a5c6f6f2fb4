//! A world for tests of networks: a host's namespace, with an internet behind it that the tests are.
//!
//! Needs root; no packet leaves the two namespaces.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base::MachineId;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use nix::sched::{CloneFlags, setns, unshare};

use super::super::names::Upstream;
use super::super::{Link, current_namespace, in_thread, new_namespace, run};
use crate::EgressPolicy;
use crate::qemu::slot::{Registry, Slot};

/// Where the internet's name server is; the host's gateway too.
pub(super) const RESOLVER: &str = "203.0.113.1";
/// Addresses of the internet, the first of them public, that answer on port 80.
pub(super) const SERVERS: [&str; 7] = [
    "203.0.113.1",
    "203.0.113.2",
    "203.0.113.3",
    "198.51.100.7",
    "10.1.2.3",
    "100.100.100.200",
    "169.254.169.254",
];
/// A first packet can be lost, as links come up with a delay of the kernel's; the next comes after a second.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// To this a server answers half of [`TIMEOUT`] later.
pub(super) const SPEAK_LATER: &[u8; 4] = b"wait";
/// How often a guest asks for a name until it is told.
const TRIES: usize = 4;

/// See the module.
pub(super) struct World {
    /// Names that its server was asked for.
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    /// Slots of this world's own: a sweep that happens here sees its links only.
    slots: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

/// A machine's way out.
pub(super) struct Machine {
    pub(super) link: Link,
    _slot: Slot,
}

/// Runs `test` in a world of its own, if there can be one.
pub(super) fn within(test: impl FnOnce(&World) + Send) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot run: needs root");
        eprintln!("skipped: needs root");
        return;
    }
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        test(&World::make()?);
        Ok(())
    })
    .unwrap();
}

impl World {
    fn make() -> io::Result<Self> {
        let internet = new_namespace()?;
        let at = format!("/proc/{}/fd/{}", std::process::id(), internet.as_raw_fd());
        let here = format!(
            "link set lo up\nlink add up0 type veth peer name net0 netns {at}\n\
             addr add 203.0.113.254/24 dev up0\nlink set up0 up\nroute add default via {RESOLVER}\n"
        );
        let servers = SERVERS.map(|address| format!("addr add {address}/32 dev net0\n"));
        let there = format!(
            "link set lo up\nlink set net0 up\n{}route add 203.0.113.0/24 dev net0\n",
            servers.concat()
        );
        run("ip", &["-batch", "-"], &here)?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        in_thread(|| {
            setns(&internet, CloneFlags::CLONE_NEWNET)?;
            run("ip", &["-batch", "-"], &there)?;
            let web = TcpListener::bind("0.0.0.0:80")?;
            thread::spawn(move || {
                web.incoming().flatten().for_each(|guest| drop(thread::spawn(|| echo(guest))));
            });
            let (udp, tcp) = (UdpSocket::bind("0.0.0.0:53")?, TcpListener::bind("0.0.0.0:53")?);
            let (by_udp, by_tcp) = (asked.clone(), asked.clone());
            thread::spawn(move || answer_udp(&udp, &by_udp));
            thread::spawn(move || answer_tcp(&tcp, &by_tcp));
            Ok(())
        })?;
        let here: OwnedFd = current_namespace()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(move || setns(&here, CloneFlags::CLONE_NEWNET).unwrap())
            .build()?;
        let slots = tempfile::tempdir()?;
        std::fs::create_dir(slots.path().join("slots"))?;
        Ok(Self { asked, slots, runtime })
    }

    /// A machine with this policy, on a host that permits these private ranges.
    pub(super) fn machine(&self, egress: &str, private: &[&str]) -> Machine {
        let _context = self.runtime.enter();
        let slots = Registry::at(&self.slots.path().join("slots"));
        let slot = slots.claim(&MachineId::generate()).unwrap();
        let private_ranges = private.iter().map(|range| range.parse().unwrap()).collect();
        let policy = EgressPolicy { allowed: egress.parse().unwrap(), private_ranges };
        let mut link = Link::new(&slot, policy).unwrap();
        link.upstream =
            Arc::new(Upstream::Fixed(vec![SocketAddr::new(RESOLVER.parse().unwrap(), 53)]));
        link.connect().unwrap();
        Machine { link, _slot: slot }
    }

    pub(super) fn was_asked_for(&self, name: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked == name)
    }
}

impl Machine {
    /// Whether a program in the guest gets an answer from there.
    pub(super) fn reaches(&self, address: &str) -> bool {
        self.open(address).is_ok_and(|mut stream| talks(&mut stream))
    }

    pub(super) fn open(&self, address: &str) -> io::Result<TcpStream> {
        let to = SocketAddr::new(address.parse().unwrap(), 80);
        self.link.inside(|| TcpStream::connect_timeout(&to, TIMEOUT))
    }

    pub(super) fn change(&self, egress: &str) {
        self.link.set_egress(&egress.parse().unwrap()).unwrap();
    }

    /// What its name server says of a name.
    pub(super) fn resolve(&self, name: &str) -> (ResponseCode, Vec<Ipv4Addr>) {
        let mut said = (0..TRIES).map(|_| self.ask("127.0.0.1:53", &question(name)));
        addresses(&said.find_map(Result::ok).expect("an answer"))
    }

    /// What a name server answers to these bytes.
    pub(super) fn ask(&self, server: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
        self.link.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            socket.connect(server)?;
            socket.send(bytes)?;
            let mut answer = vec![0; 65_536];
            let length = socket.recv(&mut answer)?;
            answer.truncate(length);
            Ok(answer)
        })
    }

    /// The same by a connection.
    pub(super) fn ask_by_tcp(&self, server: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let server: SocketAddr = server.parse().unwrap();
        self.link.inside(|| {
            let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], bytes].concat())?;
            read_framed(&mut stream)
        })
    }
}

/// Whether the other end still answers.
pub(super) fn talks(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut answer = [0; 4];
    stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut answer)).is_ok()
}

pub(super) fn question(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

pub(super) fn addresses(answer: &[u8]) -> (ResponseCode, Vec<Ipv4Addr>) {
    let answer = Message::from_vec(answer).unwrap();
    let addresses = answer.answers.iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    });
    (answer.metadata.response_code, addresses.collect())
}

fn echo(mut guest: TcpStream) {
    let mut bytes = [0; 64];
    while let Ok(read @ 1..) = guest.read(&mut bytes) {
        if bytes[..read] == *SPEAK_LATER {
            thread::sleep(TIMEOUT / 2);
        }
        if guest.write_all(&bytes[..read]).is_err() {
            return;
        }
    }
}

fn answer_udp(socket: &UdpSocket, asked: &Mutex<Vec<String>>) {
    let mut bytes = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
        if let Some(answer) = answer(&bytes[..length], asked) {
            socket.send_to(&answer, from).ok();
        }
    }
}

fn answer_tcp(listener: &TcpListener, asked: &Mutex<Vec<String>>) {
    for mut guest in listener.incoming().flatten() {
        if let Some(answer) = read_framed(&mut guest).ok().and_then(|bytes| answer(&bytes, asked)) {
            let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
            guest.write_all(&[&length[..], &answer].concat()).ok();
        }
    }
}

fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The internet's names.
fn answer(bytes: &[u8], asked: &Mutex<Vec<String>>) -> Option<Vec<u8>> {
    let question = Message::from_vec(bytes).ok()?;
    let query = question.queries.first()?.clone();
    let name = query.name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
    asked.lock().unwrap().push(name.clone());
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    let to = |name: &Name, address: &str| {
        Record::from_rdata(name.clone(), 5, RData::A(A(address.parse().unwrap())))
    };
    match name.as_str() {
        "example.com" | "www.example.org" => drop(reply.add_answer(to(&query.name, "203.0.113.2"))),
        "other.example.com" => drop(reply.add_answer(to(&query.name, "198.51.100.7"))),
        "alias.example.com" => {
            let target = Name::from_ascii("cdn.example.net.").unwrap();
            reply.add_answer(Record::from_rdata(
                query.name.clone(),
                5,
                RData::CNAME(CNAME(target.clone())),
            ));
            reply.add_answer(to(&target, "203.0.113.3"));
            // Nobody asked for this one.
            reply.add_answer(to(&Name::from_ascii("unrelated.example.").unwrap(), "198.51.100.7"));
        }
        "rebind.example.com" => {
            for address in
                ["127.0.0.1", "169.254.169.254", "10.1.2.3", "100.100.100.200", "0.0.0.0"]
            {
                reply.add_answer(to(&query.name, address));
            }
        }
        "silent.example.com" => return None,
        // An answer to what nobody asked.
        "liar.example.com" => {
            let other = Name::from_ascii("example.com.").unwrap();
            reply.add_answer(to(&other, "198.51.100.7"));
            reply.add_query(Query::query(other, RecordType::A));
            return reply.to_vec().ok();
        }
        "broken.example.com" => {
            let mut bytes = question.metadata.id.to_be_bytes().to_vec();
            bytes.extend([0x81, 0x80, 0, 1, 0xff, 0xff, 0, 0, 0, 0, 0xc0, 0x0c, 0xc0]);
            return Some(bytes);
        }
        _ => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    reply.add_query(query);
    reply.to_vec().ok()
}
