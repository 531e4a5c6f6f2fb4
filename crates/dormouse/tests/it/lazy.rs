//! A machine runs on another host before all that was installed in it is there.

use std::path::PathBuf;
use std::time::Instant;

use crate::sleep::how;
use crate::support::{Api, BOOT, Options, S3Server, Server, adopted, eventually};

fn upper(api: &Api, machine: &str) -> String {
    let seen = api.get(&format!("/v1/machines/{machine}")).ok().json();
    seen["status"]["upper"].as_str().unwrap_or_default().to_owned()
}

fn until_upper(api: &Api, machine: &str, is: &str) {
    eventually(&format!("its upper is {is:?}"), BOOT, || upper(api, machine) == is);
}

/// What says which chunks are missing.
fn missing(server: &Server, machine: &str) -> PathBuf {
    server.data().join("machines").join(machine).join("upper.missing")
}

#[test]
fn a_command_runs_before_all_is_here_and_a_sleep_in_between_loses_nothing() {
    let s3 = S3Server::start();
    let options = Options { store: Some(s3.url()), env: s3.env(), ..Options::default() };
    let first = Server::start(options.clone());
    let api = first.api();
    let machine = api.create("mover");
    api.shell(
        &machine,
        "printf '#!/bin/sh\\necho it works\\n' >/usr/local/bin/tool && chmod 755 /usr/local/bin/tool
         head -c 120000000 /dev/urandom >/usr/local/large && cd / && sha256sum usr/local/large >/root/sum",
    );
    api.sleep(&machine);
    until_upper(&api, &machine, "stored");
    drop(first);
    let whole = "cd / && sha256sum -c --status /root/sum && tool";

    s3.latency("get", 300);
    let (_data, second) = adopted(&options);
    let there = second.api();
    let begun = Instant::now();
    there.wake(&machine);
    // The rest comes from now on, and later than all that is done before the second wake.
    s3.latency("get", 1_500);
    assert_eq!(there.shell(&machine, "tool"), "it works\n");
    println!("the first command after {} ms", begun.elapsed().as_millis());
    assert_eq!(upper(&there, &machine), "restoring", "not all can be here");
    there.shell(&machine, "echo kept >/etc/kept; nohup sleep 100000 >/dev/null 2>&1 &");
    // In the middle of it.
    there.sleep(&machine);
    assert!(missing(&second, &machine).exists());
    until_upper(&there, &machine, "stored");

    // It goes on here, with its memory.
    s3.latency("get", 300);
    there.wake(&machine);
    s3.latency("get", 1_500);
    assert_eq!(how(&there, &machine), ("resumed".to_owned(), String::new()));
    assert_eq!(upper(&there, &machine), "restoring");
    assert_eq!(
        there.shell(&machine, "cat /etc/kept && grep -lx sleep /proc/[0-9]*/comm | wc -l"),
        "kept\n1\n"
    );
    s3.latency("get", 0);
    until_upper(&there, &machine, "");
    println!("all of it after {} ms", begun.elapsed().as_millis());
    assert_eq!(there.shell(&machine, whole), "it works\n");
    assert!(!missing(&second, &machine).exists());
    // The memory that knew a disk over a connection goes on upon the file.
    there.sleep(&machine);
    there.wake(&machine);
    assert_eq!(how(&there, &machine).0, "resumed");
    there.shell(&machine, "sync; echo 3 >/proc/sys/vm/drop_caches");
    assert_eq!(there.shell(&machine, whole), "it works\n");
    assert_eq!(upper(&there, &machine), "");
    there.sleep(&machine);
    until_upper(&there, &machine, "stored");
    drop(second);

    // And further, where the store goes away while it is wanted.
    let (_data, third) = adopted(&options);
    let further = third.api();
    further.wake(&machine);
    assert_eq!(further.shell(&machine, "cat /etc/kept"), "kept\n");
    assert_eq!(further.shell(&machine, whole), "it works\n");
}

#[test]
fn a_keeper_that_is_killed_in_between_loses_nothing_that_was_synced() {
    let s3 = S3Server::start();
    let options = Options { store: Some(s3.url()), env: s3.env(), ..Options::default() };
    let first = Server::start(options.clone());
    let api = first.api();
    let machine = api.create("mover");
    api.shell(
        &machine,
        "head -c 60000000 /dev/urandom >/usr/local/large && cd / && sha256sum usr/local/large >/root/sum
         mkdir /var/kept && for i in $(seq 50); do echo old >/var/kept/$i; done",
    );
    api.sleep(&machine);
    until_upper(&api, &machine, "stored");
    drop(first);

    s3.latency("get", 200);
    let (_data, second) = adopted(&options);
    let there = second.api();
    for round in 0..3 {
        there.wake(&machine);
        let write = format!("for i in $(seq 50); do echo {round} >/var/kept/$i; done; sync");
        there.shell(&machine, &write);
        second.kill_keeper(&machine);
        there.until(&machine, "failed");
        there.wake(&machine);
        let kept = there.shell(&machine, "cat /var/kept/* | sort | uniq -c | tr -s ' '");
        assert_eq!(kept, format!(" 50 {round}\n"));
        s3.latency("get", if round == 1 { 0 } else { 200 });
        there.sleep(&machine);
    }
    there.wake(&machine);
    assert_eq!(
        there.shell(&machine, "cd / && sha256sum -c --status /root/sum && echo whole"),
        "whole\n"
    );
}
