//! kill -9, in the middle of things.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Options, Server, eventually};

#[test]
fn every_acknowledged_put_survives_the_keeper() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("victim");
    let acknowledged = Mutex::new(Vec::new());
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= 2000 {
                        return;
                    }
                    let path = format!("/v1/machines/{machine}/fs/puts/{n}");
                    let request = api.request(reqwest::Method::PUT, &path).body(content(n));
                    match request.send() {
                        Ok(reply) if reply.status().is_success() => {
                            acknowledged.lock().expect("no thread panicked").push(n);
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        // The keeper is gone; so are we, soon.
                        _ => return,
                    }
                }
            });
        }
        scope.spawn(|| {
            eventually("puts are under way", Duration::from_secs(120), || {
                done.load(Ordering::Relaxed) > 700
            });
            server.kill_keeper(&machine);
        });
    });
    let acknowledged = acknowledged.into_inner().expect("no thread panicked");
    assert!(acknowledged.len() > 700 && acknowledged.len() < 2000, "{}", acknowledged.len());
    eventually("the server notices", Duration::from_secs(60), || {
        api.get(&format!("/v1/machines/{machine}")).ok().json()["status"]["phase"] == "failed"
    });
    api.wake(&machine);
    for n in acknowledged {
        let got = api.get(&format!("/v1/machines/{machine}/fs/puts/{n}")).expect(200);
        assert_eq!(got.body, content(n).into_bytes(), "put {n} was acknowledged");
    }
    api.shell(&machine, "test $(ls puts | wc -l) -gt 700");
}

/// Of a size that goes through all three tiers now and then.
fn content(n: usize) -> String {
    let times = match n % 100 {
        0 => 600_000,
        1..10 => 3_000,
        _ => 20,
    };
    format!("{n:07} ").repeat(times)
}

#[test]
fn machines_outlive_the_server_and_the_next_one_adopts_them() {
    let mut server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("survivor");
    let count = "for i in $(seq 1 60); do echo line $i; sleep 0.25; done";
    let execution = api.start(&machine, &["/bin/bash", "-c", count]);
    let boot = api.shell(&machine, "cat /proc/sys/kernel/random/boot_id");
    let keeper = server.keeper(&machine);
    server.kill();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(server.keeper(&machine), keeper, "the keeper went with the server");
    server.restart();
    let api = server.api();
    api.until(&machine, "running");
    assert_eq!(
        api.shell(&machine, "cat /proc/sys/kernel/random/boot_id"),
        boot,
        "it was booted again"
    );
    let done = api.ended(&machine, &execution);
    assert_eq!(done["status"], "succeeded", "{done}");
    let path = format!("/v1/machines/{machine}/executions/{execution}/output");
    let output = api.get(&path).ok().json();
    let lines: Vec<String> = (1..=60).map(|i| format!("line {i}\n")).collect();
    assert_eq!(output["stdout"].as_str(), Some(lines.concat().as_str()));

    // SIGTERM leaves them running, too.
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(server.keeper(&machine), keeper);
    server.restart();
    let api = server.api();
    api.sleep(&machine);
    assert_eq!(server.keeper(&machine), None);
}
