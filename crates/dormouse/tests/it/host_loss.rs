//! The host is gone, the store is there.

use crate::support::{Options, Server, adopt, adopted};

#[test]
fn a_sleeping_machine_is_adopted_and_wakes_on_another_host() {
    let store = tempfile::tempdir().expect("make a directory");
    let options = Options::with_store(store.path());
    let machine;
    {
        let lost = Server::start(options.clone());
        let api = lost.api();
        machine = api.create("traveller");
        api.shell(&machine, "mkdir -p notes && echo remember > notes/a && head -c 5000000 /dev/urandom > big && sha256sum big > big.sum");
        api.sleep(&machine);
        // Dropping it deletes the data directory.
    }
    let data = tempfile::tempdir().expect("make a directory");
    let said = adopt(data.path(), &options, &[]);
    assert!(said.contains("traveller"), "{said}");

    let found = Server::start_in(data.path(), options);
    let api = found.api();
    api.until(&machine, "sleeping");
    assert_eq!(
        api.get(&format!("/v1/machines/{machine}/fs/notes/a")).expect(200).text(),
        "remember\n"
    );
    api.wake("traveller");
    assert_eq!(api.shell(&machine, "cat notes/a"), "remember\n");
    api.shell(&machine, "sha256sum -c big.sum");
}

#[test]
fn what_an_awake_machine_fsynced_survives_the_loss_of_its_host() {
    let store = tempfile::tempdir().expect("make a directory");
    let options = Options::with_store(store.path());
    let machine;
    {
        let lost = Server::start(options.clone());
        let api = lost.api();
        machine = api.create("unlucky");
        api.shell(
            &machine,
            "python3 -c \"import os
f = open('ledger', 'w'); f.write('paid'); f.flush(); os.fsync(f.fileno())\"",
        );
    }
    let data = tempfile::tempdir().expect("make a directory");
    // Without a word of ours the home stays with the server that never released it.
    adopt(data.path(), &options, &[]);
    {
        let timid = Server::start_in(data.path(), options.clone());
        let api = timid.api();
        api.post(&format!("/v1/machines/{machine}/wake"), "");
        let seen = wait_failed(&api, &machine);
        assert!(seen.contains("take-over"), "{seen}");
    }
    adopt(data.path(), &options, &["--take-over"]);
    let bold = Server::start_in(data.path(), options.clone());
    let api = bold.api();
    api.wake(&machine);
    assert_eq!(api.shell(&machine, "cat ledger"), "paid");
}

fn wait_failed(api: &crate::support::Api, machine: &str) -> String {
    let mut last = String::new();
    crate::support::eventually("the wake is refused", crate::support::BOOT, || {
        let seen = api.get(&format!("/v1/machines/{machine}")).ok().json();
        last = seen["status"].to_string();
        seen["status"]["phase"] == "failed"
    });
    last
}

/// Waits until all that a sleeping machine has outside of its home is in the store.
fn until_upper_stored(api: &crate::support::Api, machine: &str) {
    crate::support::eventually("its upper is stored", crate::support::BOOT, || {
        let seen = api.get(&format!("/v1/machines/{machine}")).ok().json();
        seen["status"]["upper"] == "stored"
    });
}

#[test]
fn what_was_installed_comes_back_on_another_host_and_goes_back_again() {
    let store = tempfile::tempdir().expect("make a directory");
    let options = Options::with_store(store.path());
    let first = Server::start(options.clone());
    let api = first.api();
    let machine = api.create("installer");
    // As apt-get would: programs, configuration, a database, something removed.
    api.shell(
        &machine,
        "printf '#!/bin/sh\\necho it works\\n' >/usr/local/bin/tool && chmod 755 /usr/local/bin/tool
         echo setting >/etc/tool.conf; ln -s tool /usr/local/bin/also
         head -c 9000000 /dev/urandom >/var/lib/tool.db; rm /etc/motd
         cd / && sha256sum var/lib/tool.db >/root/sum",
    );
    let began = std::time::Instant::now();
    api.sleep(&machine);
    println!("asleep after {} ms", began.elapsed().as_millis());
    until_upper_stored(&api, &machine);
    println!("stored after {} ms", began.elapsed().as_millis());
    let check = "test \"$(tool) $(also)\" = 'it works it works' && cd / && sha256sum -c --status /root/sum \
                 && test ! -e /etc/motd && cat /etc/tool.conf";

    let (_data, second) = adopted(&options);
    let there = second.api();
    there.wake(&machine);
    let seen = there.get(&format!("/v1/machines/{machine}")).ok().json();
    // It has not slept for long enough.
    assert_eq!(seen["status"]["reason"], "booted_without_memory", "{seen}");
    let why = seen["status"]["last_error"].as_str().unwrap_or_default();
    assert!(why.contains("it is not in the store"), "{seen}");
    assert_eq!(there.shell(&machine, check), "setting\n");
    there.shell(&machine, "echo changed >/etc/tool.conf");
    there.sleep(&machine);
    until_upper_stored(&there, &machine);
    drop(second);

    // The first host has an upper, and the memory beside it: both are older.
    api.wake(&machine);
    assert_eq!(api.shell(&machine, check), "changed\n");
    let seen = api.get(&format!("/v1/machines/{machine}")).ok().json();
    assert_eq!(seen["status"]["reason"], "booted_without_memory", "{seen}");
    // Deleted, it leaves nothing there.
    api.delete(&format!("/v1/machines/{machine}")).ok();
    let left = || std::fs::read_dir(store.path().join("uppers").join(&machine));
    crate::support::eventually("nothing is left", crate::support::BOOT, || left().is_err());
}
