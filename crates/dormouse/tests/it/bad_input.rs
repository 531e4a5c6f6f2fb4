//! What cannot be right is refused with a 4xx that names it, and leaves everything as it was.

use reqwest::Method;
use serde_json::json;

use crate::support::{Api, Options, Server};

#[test]
fn bad_requests_are_refused_and_change_nothing_awake_and_asleep() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("tidy");
    let fs = format!("/v1/machines/{machine}/fs");
    api.put(&format!("{fs}/dir/file"), "content").expect(201);
    bad_paths(&api, &fs);
    bad_tars(&api, &fs);
    large_bodies(&api, &machine);
    bad_machines(&api, &machine);
    cut_off_uploads(&api, &fs);
    preconditions(&api, &fs);
    api.sleep(&machine);
    bad_paths(&api, &fs);
    bad_tars(&api, &fs);
    large_bodies(&api, &machine);
    let listed = api.get(&format!("{fs}?list=true")).ok().text();
    assert!(!listed.contains("evil") && !listed.contains("half"), "{listed}");
    // Refused writes leave no draft that could be published.
    assert_eq!(api.get(&format!("{fs}/dir/file?draft=true")).expect(200).text(), "content");
}

fn bad_paths(api: &Api, fs: &str) {
    let long = "x".repeat(256);
    for (path, names) in [
        ("/dir/%2e%2e/escape".to_owned(), ".."),
        ("/dir/../../../escape".to_owned(), ".."),
        ("/nul%00byte".to_owned(), "NUL"),
        (format!("/{long}"), "255"),
        ("/dir//file".to_owned(), "empty"),
        ("/dir%2Ffile".to_owned(), ""),
        ("/./dot".to_owned(), "."),
    ] {
        // By hand: client libraries tidy such paths up before they send them.
        let (status, body) = api.raw("PUT", &format!("{fs}{path}"), b"evil");
        assert_eq!(status, 400, "{path}: {body}");
        assert!(body.contains(names), "{path}: {body}");
    }
    let through = api.put(&format!("{fs}/dir/file/below"), "evil").expect(409);
    assert!(through.text().contains("file"), "{}", through.text());
    api.put(&format!("{fs}/dir"), "evil").expect(409);
    let directory = api.get(&format!("{fs}/dir")).expect(409);
    assert!(directory.text().contains("dir"), "{}", directory.text());
    api.get(&format!("{fs}/missing")).expect(404);
    api.delete(&format!("{fs}/missing")).expect(404);
    let full = api.delete(&format!("{fs}/dir")).expect(409);
    assert!(full.text().contains("recursive=true"), "{}", full.text());
    api.put(&format!("{fs}/dir/mode?mode=99999"), "evil").expect(400);
    assert_eq!(api.get(&format!("{fs}/dir/file")).expect(200).text(), "content");
}

fn bad_tars(api: &Api, fs: &str) {
    let good = ("half.txt", tar::EntryType::Regular, "");
    for (what, bad) in [
        ("absolute", ("/etc/evil", tar::EntryType::Regular, "")),
        ("climbing", ("a/../../evil", tar::EntryType::Regular, "")),
        ("outside link", ("evil-link", tar::EntryType::Symlink, "/etc/passwd")),
        ("climbing link", ("d/evil-link", tar::EntryType::Symlink, "../../x")),
        ("hard link outside", ("evil-hard", tar::EntryType::Link, "../x")),
        ("hard link to nothing", ("evil-hard", tar::EntryType::Link, "nothing")),
        ("device", ("evil-device", tar::EntryType::Char, "")),
    ] {
        let body = archive(&[good, bad]);
        let reply = api.post(&format!("{fs}?import=tar"), body).expect(400);
        let name = bad.0.trim_start_matches('/');
        assert!(reply.text().contains(name), "{what}: {}", reply.text());
        api.get(&format!("{fs}/half.txt")).expect(404);
    }
    let mut cut = archive(&[good, ("half2.txt", tar::EntryType::Regular, "")]);
    cut.truncate(1200);
    let reply = api.post(&format!("{fs}?import=tar"), cut).expect(400);
    assert!(reply.text().contains("ends early"), "{}", reply.text());
    api.get(&format!("{fs}/half.txt")).expect(404);

    let mut lying = archive(&[good]);
    lying[124..135].copy_from_slice(b"00000777777");
    let reply = api.post(&format!("{fs}?import=tar"), lying).expect(400);
    assert!(reply.text().contains("checksum"), "{}", reply.text());
    api.post(&format!("{fs}?import=tar"), "this is no archive at all".repeat(100)).expect(400);
    let onto_file = api.post(&format!("{fs}/dir/file?import=tar"), archive(&[good]));
    assert!(onto_file.status.is_client_error(), "{}", onto_file.text());
    let over_dir = archive(&[("dir", tar::EntryType::Regular, "")]);
    api.post(&format!("{fs}?import=tar"), over_dir).expect(409);
    assert_eq!(api.get(&format!("{fs}/dir/file")).expect(200).text(), "content");
}

/// Made by hand, since a library refuses to write such names.
fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, link) in entries {
        let content: &[u8] = if *kind == tar::EntryType::Regular { b"half" } else { b"" };
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn bad_machines(api: &Api, machine: &str) {
    api.get("/v1/machines/dm-00000000-0000-7000-8000-000000000000").expect(404);
    api.get("/v1/machines/no-such-name").expect(404);
    for bad in [
        json!({"vcpu": 0, "memory_mib": 512, "storage_gib": 1}),
        json!({"vcpu": 1, "memory_mib": 1, "storage_gib": 1}),
        json!({"vcpu": 1, "memory_mib": 512, "storage_gib": 0}),
        json!({"name": "Not A Name"}),
        json!({"name": "x".repeat(64)}),
        json!({"autosleep": "soon"}),
        json!({"vcpu": "many"}),
        json!({"name": "no-image", "image": "../../etc"}),
        json!({"name": "no-image", "image": "bsae"}),
    ] {
        let reply = api.post_json("/v1/machines", &bad);
        assert!(
            matches!(reply.status.as_u16(), 400 | 422),
            "{bad}: {} {}",
            reply.status,
            reply.text()
        );
    }
    api.get("/v1/machines/no-image").expect(404);
    api.post_json("/v1/machines", &json!({"name": "tidy"})).expect(409);
    let path = format!("/v1/machines/{machine}");
    let shrink = api.send(api.request(Method::PATCH, &path).json(&json!({"storage_gib": 1})));
    assert!(shrink.status.is_client_error(), "{}", shrink.text());
    let stale =
        api.request(Method::PATCH, &path).header("if-match", "0").json(&json!({"autosleep": "9m"}));
    let stale = api.send(stale).expect(409);
    assert_eq!(stale.json()["error_code"], "REVISION_MISMATCH");
    assert_eq!(stale.header("x-should-retry"), "false");
    for bad in [
        json!({}),
        json!({"command": []}),
        json!({"command": ["a\u{0}b"]}),
        json!({"command": "ls"}),
    ] {
        let reply = api.post_json(&format!("{path}/executions"), &bad);
        assert!(matches!(reply.status.as_u16(), 400 | 422), "{bad}: {}", reply.text());
    }
    api.get(&format!("{path}/executions/exec-00000000-0000-7000-8000-000000000000")).expect(404);
}

/// A client that is still sending gets to read why it was refused, where a connection that is closed
/// on it would leave it with a broken pipe. Many times, since it is a race.
fn large_bodies(api: &Api, machine: &str) {
    let big = "x".repeat(8 << 20);
    let path = format!("/v1/machines/{machine}");
    let command = format!("{{\"command\":[\"{big}\"]}}");
    for _ in 0..10 {
        api.post(&format!("{path}/executions"), command.clone()).expect(413);
        let onto = api.put(&format!("{path}/fs/dir"), big.clone()).expect(409);
        assert!(onto.text().contains("dir"), "{}", onto.text());
        api.post(&format!("{path}/fs?import=tar"), big.clone()).expect(400);
        let nobody = api.anonymous(Method::PUT, &format!("{path}/fs/half-file"));
        api.send(nobody.body(big.clone())).expect(401);
    }
}

/// A body that stops before its stated end changes nothing.
fn cut_off_uploads(api: &Api, fs: &str) {
    for (method, target) in
        [("PUT", format!("{fs}/half-file")), ("POST", format!("{fs}?import=tar"))]
    {
        api.cut_off(method, &target);
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    api.get(&format!("{fs}/half-file")).expect(404);
}

fn preconditions(api: &Api, fs: &str) {
    let path = format!("{fs}/guarded");
    let put = |header: &str, value: &str, body: &str| {
        api.send(api.request(Method::PUT, &path).header(header, value).body(body.to_owned()))
    };
    put("if-match", "\"nothing\"", "evil").expect(412);
    put("if-none-match", "*", "one").expect(201);
    put("if-none-match", "*", "evil").expect(412);
    let etag = api.head(&path).expect(200).header("etag").to_owned();
    put("if-match", &etag, "two").expect(200);
    put("if-match", &etag, "evil").expect(412);
    let now = api.get(&path).expect(200);
    assert_eq!(now.text(), "two");
    let again = api.request(Method::GET, &path).header("if-none-match", now.header("etag"));
    assert_eq!(api.send(again).expect(304).body.len(), 0);
    let part = api.send(api.request(Method::GET, &path).header("range", "bytes=1-1")).expect(206);
    assert_eq!((part.text().as_str(), part.header("content-range")), ("w", "bytes 1-1/3"));
    api.send(api.request(Method::GET, &path).header("range", "bytes=9-")).expect(416);
    let head = api.head(&path).expect(200);
    assert_eq!(
        (head.header("x-fs-type"), head.header("x-fs-mode"), head.header("x-fs-size")),
        ("file", "0644", "3")
    );
    assert_eq!(api.head(&format!("{fs}/dir")).expect(200).header("x-fs-type"), "directory");
    api.put(&format!("{path}?mode=0755"), "three").expect(200);
    assert_eq!(api.head(&path).expect(200).header("x-fs-mode"), "0755");
}
