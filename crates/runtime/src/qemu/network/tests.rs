//! What can be reached from a real namespace. Needs root; says so and passes without.

mod egress;
mod world;

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use base::MachineId;

use super::*;

const TIMEOUT: Duration = Duration::from_millis(600);

fn attached() -> Option<(Link, Slot)> {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot run: needs root");
        eprintln!("skipped: needs root");
        return None;
    }
    let slot = Registry::host().unwrap().claim(&MachineId::generate()).unwrap();
    let link = Link::new(&slot, EgressPolicy::default()).unwrap();
    link.connect().unwrap();
    Some((link, slot))
}

fn connects(link: &Link, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    link.inside(|| TcpStream::connect_timeout(&to, TIMEOUT)).is_ok()
}

#[test]
fn a_guest_reaches_neither_the_host_nor_its_loopback() {
    let Some((link, _slot)) = attached() else { return };
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The address that the host has towards the world, found without sending anything.
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    probe.connect("192.0.2.200:9").unwrap();
    let host = probe.local_addr().unwrap().ip();
    assert!(TcpStream::connect((host, port)).is_ok(), "the host itself does reach it");

    let gateway = link.inside(|| run("ip", &["-4", "-json", "route"], "")).unwrap();
    let gateway: serde_json::Value = serde_json::from_slice(&gateway).unwrap();
    let gateway = gateway[0]["gateway"].as_str().unwrap();
    for address in ["127.0.0.1", &host.to_string(), gateway] {
        assert!(!connects(&link, &format!("{address}:{port}")), "{address} answered");
    }
}

#[test]
fn private_and_metadata_addresses_are_dropped() {
    let Some((link, _slot)) = attached() else { return };
    // A dropped packet has no answer at all; where a rule was missing, some router would refuse.
    for address in ["169.254.169.254:80", "10.0.0.1:80", "100.100.100.200:80", "192.168.0.1:80"] {
        let to: SocketAddr = address.parse().unwrap();
        let error = link.inside(|| TcpStream::connect_timeout(&to, TIMEOUT)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{address}: {error}");
    }
}

#[test]
fn two_instances_do_not_see_each_other() {
    let (Some((one, _a)), Some((two, _b))) = (attached(), attached()) else { return };
    let listener = two.inside(|| TcpListener::bind("0.0.0.0:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    let addresses = two.inside(|| run("ip", &["-4", "-json", "addr", "show", "eth0"], "")).unwrap();
    let addresses: serde_json::Value = serde_json::from_slice(&addresses).unwrap();
    let address = addresses[0]["addr_info"][0]["local"].as_str().unwrap();
    assert!(!connects(&one, &format!("{address}:{port}")), "through the host");
    let to: SocketAddr = format!("{address}:{port}").parse().unwrap();
    assert!(TcpStream::connect_timeout(&to, TIMEOUT).is_err(), "nor does the host come in");
}

#[test]
fn nothing_is_left_when_a_link_is_dropped() {
    let Some((link, slot)) = attached() else { return };
    let path = format!("/sys/class/net/{}", link.name);
    assert!(fs::exists(&path).unwrap());
    drop(link);
    assert!(!fs::exists(&path).unwrap());
    let number = slot.number();
    drop(slot);
    assert!(!fs::exists(format!("/run/dormouse/instances/{number:04x}")).unwrap());
}

#[test]
fn the_names_of_public_hosts_can_be_asked_for() {
    let Some((link, _slot)) = attached() else { return };
    let Some(resolver) = resolvers::of_host().first().copied() else {
        eprintln!("skipped: this host has no name server");
        return;
    };
    // A question for the A record of deb.debian.org.
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03deb\x06debian\x03org\0\0\x01\0\x01";
    let ask = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        socket.send_to(question, (resolver, 53))?;
        let mut answer = [0; 512];
        socket.recv(&mut answer).map(|_| answer)
    };
    if let Err(error) = ask() {
        eprintln!("skipped: the host itself gets no answer: {error}");
        return;
    }
    // A datagram may be lost, here as anywhere.
    let answer = (0..4).find_map(|_| link.inside(ask).ok());
    assert_eq!(answer.expect("it is answered")[..2], question[..2]);
}
