//! What a machine reaches by its policy, in a [world](super::world) of namespaces.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use super::world::{
    Machine, RESOLVER, SERVERS, SPEAK_LATER, TIMEOUT, addresses, question, talks, within,
};

const PUBLIC: [&str; 4] = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "198.51.100.7"];

fn reached(machine: &Machine) -> Vec<&'static str> {
    SERVERS.into_iter().filter(|address| machine.reaches(address)).collect()
}

#[test]
fn an_open_machine_reaches_public_addresses_only_and_resolves_names() {
    within(|world| {
        let machine = world.machine("open", &["10.0.0.0/8"]);
        assert_eq!(reached(&machine), PUBLIC, "permitted ranges are for those that name them");
        assert_eq!(machine.resolve("example.com").1.len(), 1);
        assert_eq!(machine.resolve("nobody.example.net").0, ResponseCode::NXDomain);
        assert!(machine.ask(&format!("{RESOLVER}:53"), &question("example.com")).is_ok());
    });
}

#[test]
fn a_closed_machine_reaches_nothing_and_resolves_nothing() {
    within(|world| {
        let machine = world.machine("none", &["10.0.0.0/8"]);
        assert!(reached(&machine).is_empty());
        assert_eq!(machine.resolve("example.com").0, ResponseCode::Refused);
        assert!(machine.ask(&format!("{RESOLVER}:53"), &question("example.com")).is_err());
        assert!(world.asked.lock().unwrap().is_empty(), "a name went out");
        let refused = machine.open("203.0.113.2").unwrap_err();
        assert_ne!(refused.kind(), ErrorKind::TimedOut, "it is refused at once");
    });
}

#[test]
fn names_of_the_list_open_the_way_to_what_they_resolve_to() {
    within(|world| {
        let machine = world.machine("allow=example.com,*.example.org,alias.example.com", &[]);
        assert!(reached(&machine).is_empty(), "before anything was resolved");
        assert_eq!(
            machine.resolve("EXAMPLE.com"),
            (ResponseCode::NoError, vec!["203.0.113.2".parse().unwrap()])
        );
        assert_eq!(reached(&machine), ["203.0.113.2"]);

        for refused in ["other.example.com", "example.org", "com", "x.example.com"] {
            assert_eq!(machine.resolve(refused).0, ResponseCode::Refused, "{refused}");
            assert!(!world.was_asked_for(refused), "{refused} went out");
        }
        // Through an alias, and not what else the answer holds.
        assert_eq!(machine.resolve("alias.example.com").0, ResponseCode::NoError);
        assert_eq!(reached(&machine), ["203.0.113.2", "203.0.113.3"]);

        let by_tcp = machine.ask_by_tcp("127.0.0.1:53", &question("www.example.org")).unwrap();
        assert_eq!(addresses(&by_tcp).1.len(), 1);
        assert!(machine.ask_by_tcp(&format!("{RESOLVER}:53"), &question("example.com")).is_err());

        let set = machine
            .link
            .inside(|| super::run("nft", &["list", "set", "inet", "egress", "names"], ""));
        let set = String::from_utf8(set.unwrap()).unwrap();
        assert!(set.contains("203.0.113.2 timeout 1m5s"), "an answer of 5 s, and a minute: {set}");
    });
}

#[test]
fn a_name_that_is_made_to_mean_an_inner_address_opens_nothing() {
    within(|world| {
        let machine =
            world.machine("allow=*.example.com", &["10.0.0.0/8", "169.254.0.0/16", "0.0.0.0/0"]);
        assert_eq!(machine.resolve("rebind.example.com").1.len(), 5, "it may know");
        assert!(reached(&machine).is_empty());
        for odd in ["liar.example.com", "broken.example.com"] {
            assert_eq!(machine.resolve(odd).0, ResponseCode::ServFail, "{odd}");
        }
        assert!(reached(&machine).is_empty());
    });
}

#[test]
fn ranges_are_reached_and_private_ones_where_the_server_permits() {
    within(|world| {
        let list = "allow=198.51.100.0/24,10.1.0.0/16,169.254.0.0/16,100.64.0.0/10";
        let permitted = world.machine(list, &["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16"]);
        assert_eq!(reached(&permitted), ["198.51.100.7", "10.1.2.3"], "metadata never");
        // Others that start leave it as it is.
        let refused = world.machine(list, &[]);
        assert_eq!(reached(&refused), ["198.51.100.7"]);
        assert_eq!(reached(&permitted), ["198.51.100.7", "10.1.2.3"]);
        let all = world.machine("allow=0.0.0.0/0", &["0.0.0.0/0"]);
        assert_eq!(reached(&all), PUBLIC, "private ranges are named as such");
        // A name server there is not asked, though its address is allowed.
        assert!(all.ask(&format!("{RESOLVER}:53"), &question("example.com")).is_err());
        permitted.change("open");
        assert_eq!(reached(&permitted), PUBLIC);
        permitted.change(list);
        assert_eq!(reached(&permitted), ["198.51.100.7", "10.1.2.3"]);
    });
}

#[test]
fn machines_and_their_host_are_out_of_reach_whatever_is_allowed() {
    within(|world| {
        let ranges = ["10.0.0.0/8", "100.64.0.0/10", "203.0.113.0/24"];
        let list = format!("allow={}", ranges.join(","));
        let (one, other) = (world.machine(&list, &ranges), world.machine(&list, &ranges));
        let listener = other.link.inside(|| std::net::TcpListener::bind("0.0.0.0:80")).unwrap();
        let shown =
            other.link.inside(|| super::run("ip", &["-4", "-json", "addr", "show", "eth0"], ""));
        let shown: serde_json::Value = serde_json::from_slice(&shown.unwrap()).unwrap();
        let address = shown[0]["addr_info"][0]["local"].as_str().unwrap().to_owned();
        assert!(one.open(&address).is_err(), "another machine at {address}");
        let host = std::net::TcpListener::bind("0.0.0.0:80").unwrap();
        let gateway = one.link.inside(|| super::run("ip", &["-4", "-json", "route"], "")).unwrap();
        let gateway: serde_json::Value = serde_json::from_slice(&gateway).unwrap();
        for address in [gateway[0]["gateway"].as_str().unwrap(), "203.0.113.254", "127.0.0.1"] {
            assert!(one.open(address).is_err(), "the host at {address}");
        }
        drop((listener, host));
    });
}

#[test]
fn a_policy_changes_for_what_is_open_too() {
    within(|world| {
        let machine = world.machine("allow=example.com,198.51.100.7", &[]);
        machine.resolve("example.com");
        let mut named: TcpStream = machine.open("203.0.113.2").unwrap();
        let mut ranged: TcpStream = machine.open("198.51.100.7").unwrap();
        assert!(talks(&mut named) && talks(&mut ranged));

        // One of both stays, with what is open.
        machine.change("allow=example.com,*.example.org");
        assert!(talks(&mut named), "its name is allowed still");
        assert!(!talks(&mut ranged), "what is open is cut");
        assert_eq!(reached(&machine), ["203.0.113.2"]);

        machine.change("allow=*.example.org");
        assert!(!talks(&mut named));
        assert!(reached(&machine).is_empty());
        assert_eq!(machine.resolve("example.com").0, ResponseCode::Refused);

        machine.change("open");
        assert_eq!(reached(&machine), PUBLIC);
        let mut open = machine.open("198.51.100.7").unwrap();
        assert!(talks(&mut open));
        machine.change("none");
        assert!(!talks(&mut open) && reached(&machine).is_empty());
        machine.change("allow=example.com");
        assert!(reached(&machine).is_empty());
        machine.resolve("example.com");
        assert_eq!(reached(&machine), ["203.0.113.2"]);
    });
}

#[test]
fn an_open_machine_keeps_within_its_bounds_where_the_hosts_rules_are_flushed() {
    within(|world| {
        let machine = world.machine("open", &["10.0.0.0/8"]);
        let host = std::net::TcpListener::bind("0.0.0.0:80").unwrap();
        let masquerade = "flush ruleset
            table inet other {
              chain postrouting {
                type nat hook postrouting priority srcnat; policy accept;
                oifname up0 masquerade
              }
            }";
        super::run("nft", &["-f", "-"], masquerade).unwrap();
        assert_eq!(reached(&machine), PUBLIC);
        let gateway =
            machine.link.inside(|| super::run("ip", &["-4", "-json", "route"], "")).unwrap();
        let gateway: serde_json::Value = serde_json::from_slice(&gateway).unwrap();
        for address in [gateway[0]["gateway"].as_str().unwrap(), "203.0.113.254"] {
            assert!(machine.open(address).is_err(), "the host at {address}");
        }
        // A policy that names all of them has no more.
        machine.change("allow=0.0.0.0/0,10.0.0.0/8,203.0.113.254");
        assert!(machine.open("203.0.113.254").is_err());
        drop(host);
    });
}

#[test]
fn whoever_speaks_next_a_connection_goes_on_under_a_policy_that_allows_it() {
    within(|world| {
        for (from, to) in [
            ("open", "allow=198.51.100.0/24"),
            ("allow=198.51.100.7", "open"),
            ("allow=198.51.100.7", "allow=198.51.100.0/24"),
        ] {
            let machine = world.machine(from, &[]);
            let mut stream = machine.open("198.51.100.7").unwrap();
            stream.write_all(SPEAK_LATER).unwrap();
            machine.change(to);
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).unwrap_or_else(|error| panic!("{from}, {to}: {error}"));
            assert_eq!(answer, *SPEAK_LATER);
        }
    });
}

#[test]
fn a_quiet_connection_outlives_the_answer_to_its_name_under_another_policy_too() {
    within(|world| {
        let machine = world.machine("allow=example.com", &[]);
        machine.resolve("example.com");
        let mut stream = machine.open("203.0.113.2").unwrap();
        assert!(talks(&mut stream));
        for list in ["allow=example.com,192.0.2.0/24", "allow=example.com"] {
            machine.change(list);
            assert_eq!(reached(&machine), ["203.0.113.2"], "what is resolved stays open");
            // As time does.
            let over = "flush set inet egress names";
            machine.link.inside(|| super::run("nft", &[over], "")).unwrap();
            assert!(reached(&machine).is_empty(), "nothing new begins");
            if list == "allow=example.com" {
                assert!(talks(&mut stream), "after two policies without a word");
            }
        }
        machine.change("allow=other.example.com");
        assert!(!talks(&mut stream));
    });
}

#[test]
fn garbage_and_floods_are_answered_or_dropped_and_the_next_question_is_answered() {
    within(|world| {
        let machine = world.machine("allow=example.com,*.example.com", &[]);
        let good = question("example.com");
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        machine
            .link
            .inside(|| {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
                socket.connect("127.0.0.1:53")?;
                for round in 0..300_u64 {
                    let mut bytes = good.clone();
                    match round % 3 {
                        0 => {
                            bytes =
                                (0..random() % 600).map(|_| random().to_le_bytes()[0]).collect();
                        }
                        1 => {
                            let at = usize::try_from(random()).unwrap() % bytes.len();
                            bytes[at] = random().to_le_bytes()[0];
                        }
                        _ => bytes.truncate(usize::try_from(random()).unwrap() % bytes.len()),
                    }
                    socket.send(&bytes)?;
                }
                // Questions that nobody answers, more than may wait.
                for _ in 0..200 {
                    socket.send(&question("silent.example.com"))?;
                }
                let server: SocketAddr = "127.0.0.1:53".parse().unwrap();
                let mut hanging: Vec<TcpStream> =
                    (0..40).flat_map(|_| TcpStream::connect_timeout(&server, TIMEOUT)).collect();
                for stream in &mut hanging {
                    // One that was hung up on.
                    stream.write_all(&[0xff, 0xff, 1, 2, 3]).ok();
                }
                Ok(())
            })
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match machine.ask("127.0.0.1:53", &good) {
                Ok(answer) if addresses(&answer).0 == ResponseCode::NoError => break,
                Ok(_) => std::thread::sleep(Duration::from_millis(100)),
                Err(error) => {
                    assert!(
                        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                        "{error}"
                    );
                }
            }
            assert!(Instant::now() < deadline, "it answers no more");
        }
        assert_eq!(reached(&machine), ["203.0.113.2"]);
        // An answer is no question: nobody talks to itself for ever.
        let mut answer = good.clone();
        answer[2] |= 0x80;
        assert!(machine.ask("127.0.0.1:53", &answer).is_err());
    });
}
