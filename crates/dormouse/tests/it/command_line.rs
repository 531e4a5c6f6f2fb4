//! The command line against a real machine.

use std::io::Write;
use std::process::{Output, Stdio};

use crate::support::{Options, Server, snapshot};

fn run(server: &Server, args: &[&str]) -> Output {
    server.cli(args).output().expect("run the command line")
}

#[track_caller]
fn ok(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text")
}

/// What is said to people.
#[track_caller]
fn said(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    said
}

#[test]
fn the_command_line_drives_a_machine_through_its_life() {
    let server = Server::start(Options::default());
    let created = ok(
        &server,
        &["create", "hello", "--memory", "512", "--storage", "2", "--autosleep", "never"],
    );
    assert!(created.contains("hello") && created.contains("running"), "{created}");
    assert!(ok(&server, &["ls"]).contains("hello"));
    let listed: serde_json::Value = serde_json::from_str(&ok(&server, &["ls", "--json"])).unwrap();
    assert_eq!(listed[0]["name"], "hello");
    let shown: serde_json::Value =
        serde_json::from_str(&ok(&server, &["show", "hello", "--json"])).unwrap();
    assert_eq!(shown["memory_mib"], 512);

    exec(&server);
    copies(&server);

    ok(&server, &["sleep", "hello"]);
    assert!(ok(&server, &["show", "hello"]).contains("sleeping"));
    let mut cp = tempfile::NamedTempFile::new().unwrap();
    cp.write_all(b"from outside").unwrap();
    ok(&server, &["cp", cp.path().to_str().unwrap(), "hello:drafted.txt"]);
    assert_eq!(run(&server, &["cat", "hello:drafted.txt"]).status.code(), Some(3));
    assert!(ok(&server, &["show", "hello"]).contains("draft"));
    assert!(said(&server, &["publish", "hello"]).contains("published"));
    assert!(!ok(&server, &["show", "hello"]).contains("draft"));
    for nothing in ["publish", "discard"] {
        assert!(said(&server, &[nothing, "hello"]).contains("there was no draft"));
    }
    assert_eq!(ok(&server, &["cat", "hello:drafted.txt"]), "from outside");
    ok(&server, &["cp", cp.path().to_str().unwrap(), "hello:regretted.txt"]);
    assert!(said(&server, &["discard", "hello"]).contains("discarded"));
    assert!(said(&server, &["publish", "hello"]).contains("there was no draft"));
    assert_eq!(run(&server, &["cat", "hello:regretted.txt"]).status.code(), Some(3));

    assert!(!ok(&server, &["show", "hello"]).contains("wakes at"));
    ok(&server, &["wake", "hello", "--at", "+8h"]);
    assert!(ok(&server, &["show", "hello"]).contains("wakes at"));
    ok(&server, &["wake", "hello", "--at", "never"]);
    ok(&server, &["wake", "hello"]);
    ok(&server, &["watch", "hello"]);
    assert_eq!(ok(&server, &["exec", "hello", "--", "cat", "drafted.txt"]), "from outside");

    assert_eq!(run(&server, &["show", "nobody"]).status.code(), Some(3));
    assert_eq!(run(&server, &["create", "Bad Name"]).status.code(), Some(2));
    ok(&server, &["rm", "hello"]);
    assert_eq!(run(&server, &["show", "hello"]).status.code(), Some(3));
}

fn exec(server: &Server) {
    let output =
        run(server, &["exec", "hello", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(
        run(server, &["exec", "hello", "--", "sh", "-c", "kill -9 $$"]).status.code(),
        Some(137)
    );
    assert_eq!(run(server, &["exec", "hello", "--", "no-such-program"]).status.code(), Some(127));
    assert_eq!(
        ok(
            server,
            &["exec", "hello", "--env", "A=b c", "--cwd", "/tmp", "--", "sh", "-c", "echo $A $PWD"]
        ),
        "b c /tmp\n"
    );

    // More than pipes and windows hold, in both directions.
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let mut child = server
        .cli(&["exec", "hello", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feed = big.clone();
    let feeder = std::thread::spawn(move || stdin.write_all(&feed).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == big, "{} of {} bytes came back", output.stdout.len(), big.len());
}

fn copies(server: &Server) {
    let from = tempfile::tempdir().unwrap();
    std::fs::create_dir(from.path().join("tree")).unwrap();
    std::fs::create_dir(from.path().join("tree/sub")).unwrap();
    std::fs::write(from.path().join("tree/sub/a"), "a").unwrap();
    std::fs::write(from.path().join("tree/b"), vec![7; 100_000]).unwrap();
    std::os::unix::fs::symlink("sub/a", from.path().join("tree/link")).unwrap();
    let tree = from.path().join("tree");
    ok(server, &["cp", tree.to_str().unwrap(), "hello:"]);
    assert_eq!(ok(server, &["exec", "hello", "--", "cat", "tree/link"]), "a");
    let to = tempfile::tempdir().unwrap();
    ok(server, &["cp", "hello:tree", to.path().to_str().unwrap()]);
    let names = |dir| snapshot(dir).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&to.path().join("tree")), names(&tree));
    assert_eq!(std::fs::read(to.path().join("tree/b")).unwrap(), vec![7; 100_000]);
    ok(server, &["cp", "hello:tree/b", to.path().join("b2").to_str().unwrap()]);
    assert_eq!(std::fs::read(to.path().join("b2")).unwrap().len(), 100_000);
}
