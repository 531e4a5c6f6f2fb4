//! Two servers, one store, one machine.

use std::time::Duration;

use crate::support::{Options, Server, adopt, adopted, eventually};

#[test]
fn of_two_servers_one_wakes_the_machine_and_the_other_is_fenced() {
    let store = tempfile::tempdir().expect("make a directory");
    let options = Options::with_store(store.path());
    let first = Server::start(options.clone());
    let one = first.api();
    let machine = one.create("contested");
    one.put(&format!("/v1/machines/{machine}/fs/who"), "first").expect(201);
    one.sleep(&machine);

    let (_data, second) = adopted(&options);
    let two = second.api();

    one.wake(&machine);
    // The other server is refused, and says why; the machine of the first goes on.
    let refused = two.post(&format!("/v1/machines/{machine}/wake"), "").expect(409).json();
    assert_eq!(refused["error_code"], "FENCED", "{refused}");
    let seen = two.get(&format!("/v1/machines/{machine}")).ok().json();
    assert_eq!(seen["status"]["reason"], "fenced", "{seen}");
    // Nor is a state of it kept, forked or brought back there; the holder is named.
    let machine_at = |what: &str| format!("/v1/machines/{machine}/{what}");
    for what in ["snapshots", "fork"] {
        let refused = two.post(&machine_at(what), "{}").expect(409).json();
        assert_eq!(refused["error_code"], "FENCED", "{refused}");
        let told = refused["message"].as_str().unwrap_or_default();
        assert!(told.contains("awake on server") && told.contains("to sleep there"), "{refused}");
    }
    // A write through the loser cannot be published either.
    two.put(&format!("/v1/machines/{machine}/fs/who"), "second").expect(200);
    let publish = two.post(&format!("/v1/machines/{machine}/fs/publish"), "");
    assert_eq!(publish.status.as_u16(), 409, "{}", publish.text());
    assert_eq!(publish.json()["error_code"], "FENCED", "{}", publish.text());
    assert_eq!(one.shell(&machine, "cat who"), "first");

    // Once the first lets go, the second may have it.
    one.put(&format!("/v1/machines/{machine}/fs/who"), "first again").expect(200);
    one.sleep(&machine);
    two.wake(&machine);
    assert_eq!(two.shell(&machine, "cat who"), "first again");
}

#[test]
fn a_machine_whose_home_is_taken_while_it_runs_is_ended_and_says_so() {
    let store = tempfile::tempdir().expect("make a directory");
    let options = Options::with_store(store.path());
    let first = Server::start(options.clone());
    let one = first.api();
    let machine = one.create("contested");
    let path = format!("/v1/machines/{machine}");
    one.shell(&machine, "echo first >who; sync who");
    let data = tempfile::tempdir().expect("make a directory");
    adopt(data.path(), &options, &["--take-over"]);
    let second = Server::start_in(data.path(), options.clone());
    let two = second.api();
    two.wake(&machine);
    // It finds out with the next that it has to store.
    one.put(&format!("{path}/fs/who"), "too late").expect(200);
    eventually("it is ended", Duration::from_secs(60), || {
        one.get(&path).ok().json()["status"]["phase"] != "running"
    });
    let seen = one.get(&path).ok().json();
    let status = &seen["status"];
    assert_eq!(
        (&status["phase"], &status["reason"]),
        (&"failed".into(), &"fenced".into()),
        "{seen}"
    );
    let told = status["last_error"].as_str().unwrap_or_default();
    assert!(told.contains("another server"), "{seen}");
    assert_eq!(two.shell(&machine, "cat who"), "first\n");
}

#[test]
fn a_machine_that_another_server_deleted_does_not_wake_and_says_so() {
    let store = tempfile::tempdir().expect("make a directory");
    let options = Options::with_store(store.path());
    let first = Server::start(options.clone());
    let one = first.api();
    let machine = one.create("contested");
    one.sleep(&machine);
    let (_data, second) = adopted(&options);
    let two = second.api();
    one.delete(&format!("/v1/machines/{machine}")).ok();
    eventually("the machine is deleted", Duration::from_secs(20), || {
        one.get(&format!("/v1/machines/{machine}")).status.as_u16() == 404
    });
    let seen = two.post(&format!("/v1/machines/{machine}/wake"), "").ok().json();
    assert_eq!(seen["phase"], "failed", "{seen}");
    let seen = two.get(&format!("/v1/machines/{machine}")).ok().json();
    assert_eq!(seen["status"]["reason"], "home_gone", "{seen}");
    let told = seen["status"]["last_error"].as_str().unwrap_or_default();
    assert!(told.contains("has been deleted") && told.contains("delete it here"), "{seen}");
    two.delete(&format!("/v1/machines/{machine}")).ok();
}
