//! An encrypted store, end to end: what is in it, who can open it, and that a machine does not notice.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Options, Server, server};

const CONTENT: &str = "the quick brown dormouse jumps over the lazy hypervisor";
const NAME: &str = "unmistakable-file-name.txt";
const MACHINE: &str = "unmistakable-machine";

fn keygen(file: &Path) {
    let status = Command::new(server::program()).arg("keygen").arg(file).status().unwrap();
    assert!(status.success());
}

fn with_file(file: &Path) -> Options {
    let file = file.to_str().unwrap().to_owned();
    Options { args: vec!["--encryption-key-file".into(), file], ..Options::default() }
}

/// Sockets and pipes have no content, and who reads from a pipe waits for it.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            files.extend(files_below(&entry));
        } else if entry.is_file() {
            files.push(entry);
        }
    }
    files
}

/// Files that contain `text`, in their bytes or their names.
fn holding(files: &[PathBuf], text: &str) -> Vec<PathBuf> {
    let has = |path: &&PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        let name = path.to_string_lossy().contains(text);
        name || bytes.windows(text.len()).any(|part| part == text.as_bytes())
    };
    files.iter().filter(has).cloned().collect()
}

#[test]
fn an_encrypted_store_holds_nothing_plain_and_opens_with_its_key_only() {
    let root = tempfile::tempdir().unwrap();
    let (data, key_file) = (root.path().join("data"), root.path().join("keys"));
    keygen(&key_file);
    let key = std::fs::read_to_string(&key_file).unwrap();
    let digits = key.trim().split_once(':').unwrap().1.to_owned();

    let mut server = Server::start_in(&data, with_file(&key_file));
    let api = server.api();
    let machine = api.create(MACHINE);
    let fs = format!("/v1/machines/{machine}/fs");
    api.shell(
        &machine,
        &format!("echo '{CONTENT} awake' > {NAME}; yes '{CONTENT}' | head -c 6000000 > large"),
    );
    // Neither arguments nor files of the machine hold the key; the keeper found it by itself.
    let keeper = server.keeper(&machine).expect("it has a keeper");
    let cmdline = std::fs::read_to_string(format!("/proc/{keeper}/cmdline")).unwrap();
    let environment = std::fs::read_to_string(format!("/proc/{keeper}/environ")).unwrap();
    assert!(!cmdline.contains(&digits) && !environment.contains(&digits));
    let written: Vec<_> =
        files_below(&data).into_iter().filter(|path| !path.ends_with("upper.ext4")).collect();
    assert_eq!(holding(&written, &digits), Vec::<PathBuf>::new());
    assert!(!server.log().contains(&digits));
    api.sleep(&machine);
    api.put(&format!("{fs}/asleep-{NAME}"), format!("{CONTENT} asleep")).expect(201);
    api.post(&format!("{fs}/publish"), "").ok();
    assert_eq!(server.terminate(), Some(0));

    let stored = files_below(&data.join("store"));
    assert!(stored.len() > 3, "{stored:?}");
    for text in [CONTENT, NAME, MACHINE, "SQLite format", &digits] {
        assert_eq!(holding(&stored, text), Vec::<PathBuf>::new(), "{text}");
    }
    let mark = std::fs::read_to_string(data.join("store/dormouse-store.json")).unwrap();
    assert!(mark.contains("xchacha20-poly1305"), "{mark}");

    refused(&data, Options::default(), "--encryption-key-file");
    let wrong = root.path().join("wrong");
    keygen(&wrong);
    refused(&data, with_file(&wrong), "key 1 is not the one");

    // A newer key, and from a command; what was stored with the older one is still read.
    keygen(&key_file);
    let command = format!("cat '{}'", key_file.display());
    let by_command = Options {
        env: vec![("DORMOUSE_ENCRYPTION_KEY_COMMAND".to_owned(), command)],
        ..Options::default()
    };
    let server = Server::start_in(&data, by_command);
    let api = server.api();
    let read = |path: String| api.get(&path).expect(200).text();
    assert_eq!(read(format!("{fs}/{NAME}")), format!("{CONTENT} awake\n"));
    assert_eq!(read(format!("{fs}/asleep-{NAME}")), format!("{CONTENT} asleep"));
    api.wake(&machine);
    assert_eq!(api.shell(&machine, &format!("cat asleep-{NAME}")), format!("{CONTENT} asleep"));
    assert_eq!(api.shell(&machine, "wc -c < large; sync").trim(), "6000000");
    drop(server);
    // From here on the store may hold objects of the newer key.
    std::fs::write(&key_file, key).unwrap();
    refused(&data, with_file(&key_file), "ids 2");
}

#[test]
fn a_plain_store_is_not_opened_with_a_key() {
    let root = tempfile::tempdir().unwrap();
    let (data, key_file) = (root.path().join("data"), root.path().join("keys"));
    let mut server = Server::start_in(&data, Options::default());
    assert_eq!(server.terminate(), Some(0));
    keygen(&key_file);
    refused(&data, with_file(&key_file), "not encrypted");
}

#[track_caller]
fn refused(data: &Path, options: Options, told: &str) {
    let (code, said) = Server::refused(data, options);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains(told), "{said}");
}
