//! Snapshots, restores, forks and checks of a machine that sleeps all the time, so no guest is needed:
//! the machine is taken up from a record in the store, as after the loss of a host.

use std::path::Path;
use std::sync::Arc;

use base::{HomeId, MachineId, ServerId, SystemClock, SystemEntropy};
use serde_json::{Value, json};

use crate::support::{Api, Options, Server, server};

/// A store with one sleeping machine in it.
struct Place {
    store: tempfile::TempDir,
    data: tempfile::TempDir,
    machine: MachineId,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            store: tempfile::tempdir().unwrap(),
            data: tempfile::tempdir().unwrap(),
            machine: MachineId::generate(),
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let home = HomeId::generate();
        let record = json!({
            "format": 1, "machine_id": place.machine, "name": "one", "home_id": home,
            "created_at": "2026-01-01T00:00:00Z",
            "spec": { "vcpu": 1.0, "memory_mib": 512, "storage_gib": 4, "autosleep_seconds": 0,
                      "image": "base" },
        });
        runtime.block_on(async {
            let store = objstore::Backend::open(&place.url(), &|_| None).unwrap();
            let store: Arc<dyn objstore::ObjectStore> = Arc::new(store);
            let parts = homefs::Parts {
                store: store.clone(),
                clock: Arc::new(SystemClock::new()),
                entropy: Arc::new(SystemEntropy),
                runtime: tokio::runtime::Handle::current(),
            };
            homefs::create_home(&parts, &home, &ServerId::generate()).await.unwrap();
            let key = format!("machines/{}.json", place.machine);
            store.put(&key, record.to_string().into()).await.unwrap();
        });
        let adopted = place.run(&["adopt"]);
        assert_eq!(adopted.0, 0, "{}", adopted.1);
        place
    }

    fn url(&self) -> String {
        format!("file://{}", self.store.path().display())
    }

    fn serve(&self) -> Server {
        let options = Options { store: Some(self.url()), ..Options::default() };
        Server::start_in(self.data.path(), options)
    }

    /// A command that needs no server; its exit code and what it said.
    fn run(&self, args: &[&str]) -> (i32, String) {
        let output = std::process::Command::new(server::program())
            .args(args)
            .arg("--data")
            .arg(self.data.path())
            .args(["--store", &self.url()])
            .env("XDG_CONFIG_HOME", self.data.path().join("no-config"))
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }
}

/// The command line against a server; what it printed, as JSON.
fn cli(server: &Server, args: &[&str]) -> Value {
    let output = server.cli(args).arg("--json").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Content of a size that goes into a tier of its own.
fn content(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) | 0x1234_5600;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    (0..len).map(next).collect()
}

const FILES: [(&str, usize); 3] = [("inline", 900), ("pack", 200_000), ("chunked", 9 << 20)];

fn write(api: &Api, machine: &str, seed: u8) {
    for (name, len) in FILES {
        api.put(&format!("/v1/machines/{machine}/fs/dir/{name}"), content(seed, len)).ok();
    }
    api.post(&format!("/v1/machines/{machine}/publish"), "").expect(200);
}

#[track_caller]
fn has(api: &Api, machine: &str, seed: u8) {
    for (name, len) in FILES {
        let got = api.get(&format!("/v1/machines/{machine}/fs/dir/{name}")).expect(200);
        assert!(got.body == content(seed, len), "{name} of {machine} is not that of {seed}");
    }
}

#[test]
fn a_sleeping_machine_is_kept_forked_taken_back_and_checked_over_kills_of_the_server() {
    let place = Place::new();
    let mut server = place.serve();
    let api = server.api();
    write(&api, "one", 1);
    let made = cli(&server, &["snapshot", "one", "--name", "first"]);
    assert_eq!((&made["name"], &made["machine_id"]), (&"first".into(), &json!(place.machine)));
    write(&api, "one", 2);
    server.kill();
    // A check needs no server.
    for args in [&["fsck", "one"][..], &["fsck", "one", "--deep", "--at", "first"]] {
        let (code, said) = place.run(args);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("clean"), "{said}");
    }

    server.restart();
    let api = server.api();
    let listed = cli(&server, &["snapshots", "one"]);
    assert_eq!(listed, json!([made]));
    let forked = cli(&server, &["fork", "one", "two", "--at", "first"]);
    assert_eq!(forked["phase"], "sleeping");
    cli(&server, &["fork", "one", "three"]);
    server.kill();
    server.restart();
    let api_again = server.api();
    has(&api_again, "two", 1);
    has(&api_again, "three", 2);
    drop(api);
    let api = api_again;

    // A draft stands in the way of a restore, and says so.
    api.put("/v1/machines/one/fs/drafted", "x").ok();
    let output = server.cli(&["restore", "one", "first"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("unpublished writes"), "{said}");
    api.delete("/v1/machines/one/draft").expect(200);
    cli(&server, &["restore", "one", "first"]);
    has(&api, "one", 1);
    server.kill();
    server.restart();
    let api = server.api();
    has(&api, "one", 1);
    write(&api, "one", 3);
    write(&api, "two", 4);
    for (machine, seed) in [("one", 3), ("two", 4), ("three", 2)] {
        has(&api, machine, seed);
        let (code, said) = place.run(&["fsck", machine, "--deep"]);
        assert_eq!(code, 0, "{said}");
    }

    // The parent goes, its forks stay; the last of them takes along what was kept of it.
    api.delete("/v1/machines/one").expect(200);
    has(&api, "two", 4);
    has(&api, "three", 2);
    let (code, said) = place.run(&["fsck", "three", "--deep"]);
    assert_eq!(code, 0, "{said}");
    for machine in ["two", "three"] {
        api.delete(&format!("/v1/machines/{machine}")).expect(200);
    }
    assert_eq!(place.run(&["fsck", "three"]).0, 3);
    let left = objects(place.store.path());
    let marks = left.iter().filter(|path| path.ends_with("/boundary")).count();
    let homes = left.iter().filter(|path| path.contains("/homes/")).count();
    // Of each the mark, and the commit that fences its last writer.
    assert_eq!((marks, homes), (3, 6), "{left:?}");
}

#[test]
fn a_check_tells_which_files_a_missing_object_takes_along() {
    let place = Place::new();
    let server = place.serve();
    write(&server.api(), "one", 1);
    drop(server);
    let chunk = objects(place.store.path()).into_iter().find(|path| path.contains("/chunks/"));
    std::fs::remove_file(chunk.unwrap()).unwrap();
    let (code, said) = place.run(&["fsck", "one"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("content is lost") && said.contains("/dir/chunked"), "{said}");
    let (code, said) = place.run(&["fsck", "one", "--json"]);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &report["lost"]["total"]), (1, &1.into()));
    assert_eq!(report["lost"]["items"][0]["paths"], json!(["/dir/chunked"]));
    assert_eq!(place.run(&["fsck", "nobody"]).0, 3);
    assert_eq!(place.run(&["fsck", "one", "--at", "never"]).0, 3);
}

/// Every file below a directory.
fn objects(dir: &Path) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path.display().to_string()),
            }
        }
    }
    found
}
