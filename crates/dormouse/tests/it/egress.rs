//! What a machine may reach, from its creation to what a program in it hears.
//!
//! Server, keepers and guests live in a network namespace of their own, with an internet behind it that
//! is a thread of the test.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, BOOT, Options, Server, eventually};

/// Its name server, and what its names mean.
const INTERNET: [&str; 4] = ["203.0.113.1", "203.0.113.2", "198.51.100.7", "10.1.2.3"];
const NAMES: [(&str, &str); 3] = [
    ("example.com", "203.0.113.2"),
    ("www.example.org", "198.51.100.7"),
    ("inside.example.org", "10.1.2.3"),
];

/// Runs `test` where the internet is ours, if that can be.
fn in_a_world(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot run: needs root");
        eprintln!("skipped: needs root");
        return;
    }
    let outcome = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let mut names = tempfile::NamedTempFile::new().unwrap();
        writeln!(names, "nameserver {}", INTERNET[0]).unwrap();
        mount(Some(names.path()), "/etc/resolv.conf", none, MsFlags::MS_BIND, none).unwrap();
        internet();
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn internet() {
    let beyond = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        std::fs::File::open("/proc/thread-self/ns/net").unwrap()
    });
    let beyond = beyond.join().unwrap();
    let at = format!("/proc/{}/fd/{}", std::process::id(), beyond.as_raw_fd());
    ip(&format!(
        "link set lo up\nlink add up0 type veth peer name net0 netns {at}\n\
         addr add 203.0.113.254/24 dev up0\nlink set up0 up\nroute add default via {}\n",
        INTERNET[0]
    ));
    let started = thread::spawn(move || {
        setns(&beyond, CloneFlags::CLONE_NEWNET).unwrap();
        let addresses = INTERNET.map(|address| format!("addr add {address}/32 dev net0\n"));
        ip(&format!("link set net0 up\n{}route add 203.0.113.0/24 dev net0\n", addresses.concat()));
        let web = TcpListener::bind("0.0.0.0:80").unwrap();
        let names = UdpSocket::bind("0.0.0.0:53").unwrap();
        thread::spawn(move || {
            web.incoming().flatten().for_each(|guest| drop(thread::spawn(|| echo(guest))));
        });
        thread::spawn(move || answer(&names));
    });
    started.join().unwrap();
}

fn ip(batch: &str) {
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success(), "{batch}");
}

fn echo(mut guest: std::net::TcpStream) {
    let mut bytes = [0; 64];
    while let Ok(read @ 1..) = guest.read(&mut bytes) {
        guest.write_all(&bytes[..read]).ok();
    }
}

/// Answers questions for addresses: the question, and one record after it.
fn answer(socket: &UdpSocket) {
    let mut bytes = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
        let (question, mut name, mut at) = (&bytes[..length], Vec::new(), 12);
        while question[at] != 0 {
            let end = at + 1 + usize::from(question[at]);
            name.push(String::from_utf8_lossy(&question[at + 1..end]).to_lowercase());
            at = end;
        }
        let name = name.join(".");
        let known = NAMES.iter().find(|(known, _)| *known == name);
        // A records only; of others there are none.
        let address =
            known.filter(|_| question[at + 1..at + 3] == [0, 1]).map(|(_, address)| *address);
        let code = if known.is_some() { 0 } else { 3 };
        let mut reply = question[..2].to_vec();
        reply.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
        reply.extend(&question[12..at + 5]);
        if let Some(address) = address {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
            reply.extend(address.parse::<std::net::Ipv4Addr>().unwrap().octets());
        }
        socket.send_to(&reply, from).ok();
    }
}

/// Whether a program in the machine gets an answer from there.
fn reaches(api: &Api, machine: &str, host: &str) -> bool {
    let talk = format!("exec 3<>/dev/tcp/{host}/80 && echo ping >&3 && head -c 4 <&3");
    let script = format!("timeout 6 bash -c '{talk}' 2>/dev/null || echo no");
    api.shell(machine, &script).contains("ping")
}

/// Whether a program in the machine hears at once that it may not go there, and not after the minutes that a connection
/// may take to be made.
fn is_refused(api: &Api, machine: &str, host: &str) -> bool {
    let script = format!("timeout 20 bash -c 'exec 3<>/dev/tcp/{host}/80' 2>&1 || echo ended $?");
    let said = api.shell(machine, &script);
    said.contains("refused") && !said.contains("ended 124")
}

fn reached(api: &Api, machine: &str) -> Vec<&'static str> {
    let hosts =
        ["203.0.113.2", "example.com", "www.example.org", "198.51.100.7", "inside.example.org"];
    hosts.into_iter().filter(|host| reaches(api, machine, host)).collect()
}

fn change(api: &Api, machine: &str, egress: &Value) -> Value {
    let request = api.request(Method::PATCH, &format!("/v1/machines/{machine}"));
    api.send(request.json(&json!({ "egress": egress }))).ok().json()["egress"].clone()
}

#[test]
fn a_machine_reaches_what_its_policy_allows_and_the_policy_changes_while_it_runs() {
    in_a_world(|| {
        let config = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(config.path(), "egress_private_ranges = [\"10.1.0.0/16\"]\n").unwrap();
        let args = vec!["--config".to_owned(), config.path().to_str().unwrap().to_owned()];
        let server = Server::start(Options { args, ..Options::default() });
        let api = server.api();
        let listed = json!({ "policy": "allow", "allow": ["example.com", "*.example.org"] });
        let body =
            json!({ "name": "jailed", "memory_mib": 512, "autosleep": "never", "egress": listed });
        let created = api.post_json("/v1/machines", &body).ok().json();
        assert_eq!(
            created["egress"],
            json!({ "policy": "allow", "allow": ["example.com", "*.example.org"] })
        );
        let machine = created["machine_id"].as_str().unwrap().to_owned();
        api.until(&machine, "running");

        // By its address only once its name was asked for; the name of a private address opens nothing.
        assert!(is_refused(&api, &machine, "203.0.113.2"));
        assert_eq!(reached(&api, &machine), ["example.com", "www.example.org", "198.51.100.7"]);
        let unknown = "getent hosts example.net || echo nobody";
        assert_eq!(api.shell(&machine, unknown).trim(), "nobody");

        // A connection that is open when the policy changes.
        api.shell(
            &machine,
            "cat >/root/talk <<'END'
exec 3<>/dev/tcp/example.com/80
while echo ping >&3 && read -t 5 -u 3 line; do date +%s%N >/root/heard; sleep 0.1; done
echo >/root/ended
END
nohup bash /root/talk >/dev/null 2>&1 & while [ ! -s /root/heard ]; do sleep 0.05; done",
        );
        let heard = |api: &Api| api.shell(&machine, "sleep 0.7; cat /root/heard");
        change(&api, &machine, &json!({ "allow": ["example.com"] }));
        let before = heard(&api);
        eventually("its name is allowed still", BOOT, || before != heard(&api));
        assert_eq!(
            change(&api, &machine, &json!({ "policy": "none" })),
            json!({ "policy": "none" })
        );
        eventually("it is cut", BOOT, || {
            !api.shell(&machine, "cat /root/ended || true").is_empty()
        });
        assert!(reached(&api, &machine).is_empty());
        assert!(is_refused(&api, &machine, "198.51.100.7"));

        // Asleep it is noted, and holds when it wakes: with its memory, and for the server after this one.
        api.sleep(&machine);
        change(&api, &machine, &json!({ "allow": ["198.51.100.0/24", "10.1.2.3"] }));
        api.wake(&machine);
        assert_eq!(reached(&api, &machine), ["198.51.100.7"]);
        assert!(reaches(&api, &machine, "10.1.2.3"), "the server permits it");

        let refused = |egress: Value| {
            let request = api.request(Method::PATCH, &format!("/v1/machines/{machine}"));
            api.send(request.json(&json!({ "egress": egress }))).expect(400).json()
        };
        for bad in [
            json!({ "allow": ["10.2.0.0/16"] }),
            json!({ "allow": ["169.254.169.254"] }),
            json!({ "policy": "all" }),
        ] {
            assert_eq!(refused(bad)["details"]["field"], "egress");
        }
        assert_eq!(reached(&api, &machine), ["198.51.100.7"], "what is refused changes nothing");

        let set = server.cli(&["set", "jailed", "--egress", "open"]).output().unwrap();
        assert!(set.status.success(), "{set:?}");
        assert_eq!(reached(&api, &machine).len(), 4);
        let shown = server.cli(&["show", "jailed"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(
            shown.lines().any(|line| line.split_whitespace().eq(["egress", "open"])),
            "{shown}"
        );
    });
}
