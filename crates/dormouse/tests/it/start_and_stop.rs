//! The server as a process: its one line, its key, its end.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use reqwest::Method;

use crate::support::{Options, Server, server};

#[test]
fn a_start_makes_a_private_key_and_a_stop_is_clean_and_quick() {
    let mut server = Server::start(Options::default());
    let api = server.api();
    let mode = std::fs::metadata(server.data().join("api-key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    for open in ["/healthz", "/readyz", "/openapi.json"] {
        api.send(api.anonymous(Method::GET, open)).expect(200);
    }
    let refused = api.send(api.anonymous(Method::GET, "/v1/machines")).expect(401);
    assert_eq!(refused.json()["error_code"], "AUTH_REQUIRED");
    let wrong = api.anonymous(Method::GET, "/v1/machines").bearer_auth("wrong");
    assert_eq!(api.send(wrong).expect(401).json()["error_code"], "AUTH_INVALID");
    let by_header = api.anonymous(Method::GET, "/v1/machines").header("x-api-key", server.key());
    api.send(by_header).expect(200);
    let metrics = api.get("/metrics").expect(200).text();
    assert!(metrics.contains("dormouse_http_requests_total"), "{metrics}");

    let begin = std::time::Instant::now();
    assert_eq!(server.terminate(), Some(0));
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    assert!(!server.log().contains(&server.key()), "the key is in the log");
}

#[test]
fn a_key_from_the_environment_is_used_and_not_written_down() {
    let options = Options {
        env: vec![("DORMOUSE_API_KEY".to_owned(), "k-from-environment".to_owned())],
        ..Options::default()
    };
    let server = Server::start(options);
    assert!(!server.data().join("api-key").exists());
    let api = crate::support::Api::new(server.url(), "k-from-environment");
    api.get("/v1/machines").expect(200);
}

#[test]
fn a_data_directory_has_one_server() {
    let server = Server::start(Options::default());
    let (code, said) = Server::refused(server.data(), Options::default());
    assert_ne!(code, Some(0));
    assert!(said.contains("another") && said.contains("server"), "{said}");
    server.api().get("/v1/machines").expect(200);
}

#[test]
fn a_store_that_cannot_be_reached_is_said_at_the_start() {
    let data = tempfile::tempdir().unwrap();
    let env = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "very-secret-value"),
        ("AWS_REGION", "us-east-1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let options = Options {
        store: Some("s3://nowhere/prefix".to_owned()),
        env: env.to_vec(),
        ..Options::default()
    };
    let (code, said) = Server::refused(data.path(), options);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("object store"), "{said}");
    assert!(!said.contains("very-secret-value"), "{said}");
}

#[test]
fn doctor_says_what_it_found() {
    let data = tempfile::tempdir().unwrap();
    let output = Command::new(server::program())
        .args(["doctor", "--json", "--data"])
        .arg(data.path())
        .output()
        .unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{found:#}");
    assert!(found.as_array().unwrap().iter().any(|finding| finding["what"] == "image"));

    let output = Command::new(server::program())
        .args(["doctor", "--json", "--images", "/nonexistent", "--data"])
        .arg(data.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cargo xtask setup"), "{said}");
}

#[test]
fn tools_look_where_the_server_of_the_directory_keeps_its_things() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("elsewhere");
    let mut server = Server::start(Options::with_store(&store));
    let data = server.data().display().to_string();
    let tool = |args: &[&str]| {
        let mut command = Command::new(server::program());
        command.args(args).args(["--data", &data]).env("XDG_CONFIG_HOME", dir.path());
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    for running in [true, false] {
        if !running {
            assert_eq!(server.terminate(), Some(0));
        }
        let (code, said) = tool(&["doctor", "--network", "none"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&store.display().to_string()), "{said}");
    }
    assert!(!server.data().join("store").exists(), "a tool made a store");

    let (code, said) = Server::refused(server.data(), Options::default());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&format!("--store file://{}", store.display())), "{said}");
}

#[test]
fn a_store_that_was_named_by_mistake_is_said_and_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let (data, typo, empty) =
        (dir.path().join("data"), dir.path().join("typo"), dir.path().join("empty"));
    std::fs::create_dir(&empty).unwrap();
    let home = "home-00000000-0000-7000-8000-000000000000";
    let place = dir.path().display().to_string();
    for args in [
        vec!["adopt"],
        vec!["fsck", home],
        vec!["mount", home, &place],
        vec!["mount", "-w", home, &place],
    ] {
        for store in [&typo, &empty] {
            let output = Command::new(server::program())
                .args(&args)
                .arg("--data")
                .arg(&data)
                .args(["--store", &format!("file://{}", store.display())])
                .env("XDG_CONFIG_HOME", dir.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{args:?}: {said}");
            assert!(said.contains(&store.display().to_string()), "{args:?}: {said}");
        }
        assert!(!typo.exists(), "{args:?} made a store");
    }
}

#[test]
fn down_puts_every_machine_to_sleep_and_stops_the_server() {
    let mut server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("tired");
    api.put(&format!("/v1/machines/{machine}/fs/kept"), "kept").expect(201);
    let down = server.cli(&["down", "--data"]).arg(server.data()).output().unwrap();
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert_eq!(server.ended(), Some(0));
    assert_eq!(server.keeper(&machine), None);
    server.restart();
    let api = server.api();
    api.until(&machine, "sleeping");
    assert_eq!(api.get(&format!("/v1/machines/{machine}/fs/kept")).expect(200).text(), "kept");
}

#[test]
fn shutdown_machines_puts_them_to_sleep_at_the_end() {
    let args = vec!["--shutdown-machines".to_owned()];
    let mut server = Server::start(Options { args, ..Options::default() });
    let machine = server.api().create("tired");
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(server.keeper(&machine), None);
    server.restart();
    server.api().until(&machine, "sleeping");
}
