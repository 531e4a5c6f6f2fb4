//! The main job, end to end: a tree goes in, a guest works on it, the machine sleeps, files are read
//! and written meanwhile, the machine wakes and everything is there.

use std::process::{Command, Stdio};

use crate::support::{Api, Options, S3Server, Server, Tree, snapshot};

/// One file per tier: 1 KiB is inline, 1 MiB goes into a pack, 9 MiB becomes chunks.
const MAKE_TIERS: &str = r#"
import random
for name, size in (("inline", 1 << 10), ("pack", 1 << 20), ("chunked", (9 << 20) + 5)):
    with open("/root/tiers/" + name, "wb") as f:
        f.write(random.Random(name).randbytes(size))
"#;

#[test]
fn a_home_survives_sleep_and_wake_on_a_local_store() {
    let server = Server::start(Options::default());
    round_trip(&server);
}

#[test]
fn a_home_survives_sleep_and_wake_on_s3() {
    let s3 = S3Server::start();
    round_trip(&on(&s3));
}

#[test]
fn a_home_survives_sleep_and_wake_on_an_independent_s3() {
    let s3 = S3Server::independent();
    round_trip(&on(&s3));
}

fn on(s3: &S3Server) -> Server {
    Server::start(Options { store: Some(s3.url()), env: s3.env(), ..Options::default() })
}

#[test]
fn a_published_etag_guards_a_write_to_a_sleeping_machine() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("guarded");
    let path = format!("/v1/machines/{machine}/fs/file");
    api.put(&path, "one").expect(201);
    api.sleep(&machine);
    let etag = api.head(&path).expect(200).header("etag").to_owned();
    let put = |etag: &str, body: &'static str| {
        api.send(api.request(reqwest::Method::PUT, &path).header("if-match", etag).body(body))
    };
    put(&etag, "two").expect(200);
    put(&etag, "evil").expect(412);
    let draft = api.get(&format!("{path}?draft=true")).expect(200);
    assert_eq!(draft.text(), "two");
    assert_ne!(draft.header("etag"), etag);
    // The machine wakes on the published state; the draft stays parked and is applied when asked.
    api.wake(&machine);
    assert_eq!(api.shell(&machine, "cat file; echo three > file"), "one");
    let report = api.post(&format!("/v1/machines/{machine}/fs/publish"), "").ok().json();
    assert_eq!(report["conflicts"][0], "file", "{report}");
    assert_eq!(api.shell(&machine, "cat file"), "two");
}

fn round_trip(server: &Server) {
    let api = server.api();
    let tree = Tree::make();
    let machine = api.create("worker");
    let fs = format!("/v1/machines/{machine}/fs");

    let imported = api.post(&format!("{fs}/project?import=tar"), tree.tar()).ok().json();
    assert!(imported["entries"].as_u64().is_some_and(|entries| entries > 2000), "{imported}");

    let status = api.shell(&machine, "cd project && git status --porcelain");
    assert_eq!(status, "", "git sees changes that nobody made");
    api.shell(&machine, "cd project && git fsck --full 2>&1");

    api.shell(&machine, "mkdir tiers");
    api.put(&format!("{fs}/tiers/make.py"), MAKE_TIERS).expect(201);
    api.shell(&machine, "python3 tiers/make.py");
    let sums = api.shell(&machine, "cd tiers && sha256sum inline pack chunked");

    api.sleep(&machine);
    let asleep = sums_over_http(&api, &fs, &["inline", "pack", "chunked"]);
    assert_eq!(asleep, sums, "what the guest wrote is not what is read asleep");

    publish_a_fourth_file(&api, &fs);

    api.wake(&machine);
    let four = api.shell(&machine, "cd tiers && sha256sum inline pack chunked");
    assert_eq!(four, sums);
    assert_eq!(api.shell(&machine, "cat tiers/fourth"), "written asleep");
    assert_eq!(api.shell(&machine, "cd project && git status --porcelain"), "");

    let exported = api.get(&format!("{fs}/project?bundle=tar")).ok();
    assert_same_tree(&tree, &exported.body);
    api.sleep(&machine);
    let exported = api.get(&format!("{fs}/project?bundle=tar")).ok();
    assert_same_tree(&tree, &exported.body);
}

/// A write to a sleeping home is private until it is published.
fn publish_a_fourth_file(api: &Api, fs: &str) {
    api.put(&format!("{fs}/tiers/fourth"), "written asleep").expect(201);
    api.get(&format!("{fs}/tiers/fourth")).expect(404);
    let draft = api.get(&format!("{fs}/tiers/fourth?draft=true")).expect(200);
    assert_eq!(draft.text(), "written asleep");
    api.post(&format!("{fs}/publish"), "").ok();
    assert_eq!(api.get(&format!("{fs}/tiers/fourth")).expect(200).text(), "written asleep");
}

fn sums_over_http(api: &Api, fs: &str, names: &[&str]) -> String {
    names
        .iter()
        .map(|name| {
            let body = api.get(&format!("{fs}/tiers/{name}")).expect(200).body;
            format!("{}  {name}\n", base::Digest::of(&body))
        })
        .collect()
}

/// Unpacks with GNU tar, so that our own reader cannot hide what our writer does wrong.
fn assert_same_tree(tree: &Tree, tar: &[u8]) {
    let out = tempfile::tempdir().expect("make a directory");
    let mut child = Command::new("tar")
        .args(["-xpf", "-", "-C"])
        .arg(out.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("run tar");
    std::io::Write::write_all(&mut child.stdin.take().expect("it is piped"), tar)
        .expect("feed tar");
    assert!(child.wait().expect("wait for tar").success());
    let (mut want, mut got) = (snapshot(tree.dir()), snapshot(out.path()));
    // Git in the guest refreshes its index, which is its right.
    for tree in [&mut want, &mut got] {
        tree.remove(".git/index");
        tree.remove(".git");
    }
    for (path, what) in &want {
        assert_eq!(got.get(path), Some(what), "{path} changed on its way");
    }
    assert_eq!(got.len(), want.len(), "paths came from nowhere");
}
