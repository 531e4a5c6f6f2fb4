//! The host is gone, the store is there.

use crate::support::{Options, Server, server};

#[test]
fn a_sleeping_machine_is_adopted_and_wakes_on_another_host() {
    let store = tempfile::tempdir().expect("make a directory");
    let options =
        Options { store: Some(format!("file://{}", store.path().display())), ..Options::default() };
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
    let adopted = std::process::Command::new(server::program())
        .args(["adopt", "--data"])
        .arg(data.path())
        .args(["--store", options.store.as_deref().expect("it is set")])
        .output()
        .expect("run adopt");
    assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stderr));
    assert!(String::from_utf8_lossy(&adopted.stderr).contains("traveller"));

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
    let options =
        Options { store: Some(format!("file://{}", store.path().display())), ..Options::default() };
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
    let adopt = |extra: &[&str]| {
        std::process::Command::new(server::program())
            .args(["adopt", "--data"])
            .arg(data.path())
            .args(["--store", options.store.as_deref().expect("it is set")])
            .args(extra)
            .status()
            .expect("run adopt")
    };
    // Without a word of ours the home stays with the server that never released it.
    assert!(adopt(&[]).success());
    {
        let timid = Server::start_in(data.path(), options.clone());
        let api = timid.api();
        api.post(&format!("/v1/machines/{machine}/wake"), "");
        let seen = wait_failed(&api, &machine);
        assert!(seen.contains("take-over"), "{seen}");
    }
    assert!(adopt(&["--take-over"]).success());
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
