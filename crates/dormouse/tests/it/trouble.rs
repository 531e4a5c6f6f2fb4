//! What is missing, away or silent: the machine says so, and can always be deleted.

use std::time::Duration;

use serde_json::json;

use crate::support::{Api, BOOT, Options, S3Server, Server, eventually};

#[test]
fn a_missing_image_fails_the_machine_with_what_to_do() {
    let options =
        Options { args: vec!["--images".into(), "/nonexistent".into()], ..Options::default() };
    let server = Server::start(options);
    let api = server.api();
    let error = failed(&api, "imageless");
    assert!(error.contains("cargo xtask setup") || error.contains("dormouse doctor"), "{error}");
    delete(&api, "imageless");
}

#[test]
fn a_machine_that_failed_before_is_changed_without_a_failure() {
    let options =
        Options { args: vec!["--images".into(), "/nonexistent".into()], ..Options::default() };
    let server = Server::start(options);
    failed(&server.api(), "imageless");
    let set = server.cli(&["set", "imageless", "--rename", "other", "--memory", "512"]).output();
    let set = set.expect("run the command line");
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    let said = String::from_utf8_lossy(&set.stdout).into_owned();
    assert!(["other", "failed", "512 MiB"].iter().all(|what| said.contains(what)), "{said}");
}

#[test]
fn a_missing_hypervisor_fails_the_machine_with_what_to_do() {
    let config = Config::new("qemu = \"/nonexistent/qemu\"\n");
    let server = Server::start(config.options());
    let api = server.api();
    let error = failed(&api, "qemuless");
    assert!(error.contains("apt-get install"), "{error}");
    delete(&api, "qemuless");
}

#[test]
fn a_guest_that_never_answers_fails_the_machine_and_can_be_deleted() {
    // Nobody boots in this time.
    let config = Config::new("boot_timeout_seconds = 1\n");
    let server = Server::start(config.options());
    let api = server.api();
    let error = failed(&api, "silent");
    assert!(error.contains("did not answer"), "{error}");
    let machine = api.get("/v1/machines/silent").ok().json();
    let id = machine["machine_id"].as_str().expect("it has an id");
    assert_eq!(server.keeper(id), None, "its keeper is still there");
    delete(&api, "silent");
}

/// A configuration file.
struct Config(tempfile::NamedTempFile);

impl Config {
    fn new(text: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("make a file");
        std::fs::write(file.path(), text).expect("write it");
        Self(file)
    }

    fn options(&self) -> Options {
        let path = self.0.path().to_string_lossy().into_owned();
        Options { args: vec!["--config".into(), path], ..Options::default() }
    }
}

fn failed(api: &Api, name: &str) -> String {
    let body = json!({"name": name, "vcpu": 1, "memory_mib": 256, "storage_gib": 1});
    api.post_json("/v1/machines", &body).ok();
    let mut last = json!(null);
    eventually("the machine fails", BOOT, || {
        last = api.get(&format!("/v1/machines/{name}")).ok().json();
        last["status"]["phase"] == "failed"
    });
    last["status"]["last_error"].as_str().unwrap_or_default().to_owned()
}

fn delete(api: &Api, name: &str) {
    api.delete(&format!("/v1/machines/{name}")).ok();
    eventually("it is gone", Duration::from_secs(60), || {
        let seen = api.get(&format!("/v1/machines/{name}"));
        seen.status == 404 || seen.json()["status"]["phase"] == "destroyed"
    });
}

#[test]
fn a_store_that_goes_away_stops_nobody_and_is_caught_up_with() {
    let s3 = S3Server::start();
    let options = Options { store: Some(s3.url()), env: s3.env(), ..Options::default() };
    let server = Server::start(options);
    let api = server.api();
    let machine = api.create("patient");
    s3.pause();
    let ready = || api.send(api.anonymous(reqwest::Method::GET, "/readyz"));
    eventually("readiness says so", Duration::from_secs(90), || ready().status == 503);
    assert!(ready().text().contains("object_store"), "{}", ready().text());
    // Local work goes on: writes are acknowledged, commands run.
    api.put(&format!("/v1/machines/{machine}/fs/meanwhile"), "written without a store").expect(201);
    assert_eq!(api.shell(&machine, "cat meanwhile; echo more > more"), "written without a store");
    s3.resume();
    eventually("readiness returns", Duration::from_secs(90), || ready().status == 200);
    api.sleep(&machine);
    let path = format!("/v1/machines/{machine}/fs/more");
    assert_eq!(api.get(&path).expect(200).text(), "more\n");
}
