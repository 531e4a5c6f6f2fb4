//! What a guest writes to its console, and what a hypervisor that it took over says on its monitor.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use fuzz::{Target, outcome};
use serde_json::json;

use super::log::{RingLog, Tail};
use super::qmp::Qmp;
use crate::limits::{
    LINE_CHARS_MAX, LOG_BYTES_MAX, QMP_LINE_BYTES_MAX, TAIL_BYTES_MAX, TAIL_LINES_MAX,
};

const PANIC: &str = "Kernel panic - not syncing";

#[test]
fn consoles() {
    let boot = "[    1.204391] dormouse-agent: up\r\n[    1.3] EXT4-fs (vdb): mounted\r\n";
    let panic = format!("[    2.0] {PANIC}: Attempted to kill init! exitcode=0x00000009\r\n");
    let screen = "\x1b[2J\x1b]0;title\x07\x1b[31mred\x1b[0m \u{9b}31m \u{202e}txet\r\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console.log");
    let target = Target {
        name: "console",
        examples: [boot, &panic, screen, "ä\u{fffd}\0\r\r\n\n"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec(),
        words: &[PANIC.as_bytes(), b"\r\n", b"\x1b[", b"\xc2", b"\xff\xfe", b"\x7f"],
        bytes_max: 32 << 10,
        // Some copies of the tail as text, in which a byte may become three.
        memory_max: 32 * TAIL_BYTES_MAX,
    };
    target.run(|input| {
        let mut log = RingLog::open(&path).unwrap();
        let mut tail = Tail::default();
        // As it comes out of a pipe.
        for piece in input.chunks(input.first().map_or(1, |byte| 16 * usize::from(*byte) + 1)) {
            log.write(piece);
            tail.push(piece);
        }
        let (text, found) = (tail.text(), tail.find(PANIC));
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.lines().count() <= TAIL_LINES_MAX);
        for line in text.lines().chain(found.as_deref()) {
            assert!(line.chars().count() <= LINE_CHARS_MAX, "{line:?}");
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= LOG_BYTES_MAX + (32 << 10));
        vec![outcome((text.lines().count(), found.is_some(), text.contains('\u{fffd}')))]
    });
}

#[test]
fn monitors() {
    let hello = "{\"QMP\": {\"version\": {}}}\n{\"return\": {}, \"id\": 1}\n";
    let answers = [
        "{\"return\": {\"status\": \"completed\"}, \"id\": 2}\n",
        "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1}}\n{\"return\": {}, \"id\": 2}\n",
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}, \"id\": 2}\n",
    ];
    let target = Target {
        name: "monitor",
        examples: answers.map(|answer| format!("{hello}{answer}").into_bytes()).to_vec(),
        words: &[b"\n", b"{\"return\":", b"{\"event\": 1}\n", b"[[[[[[[[[[", b"\\ud800"],
        bytes_max: QMP_LINE_BYTES_MAX + 1024,
        memory_max: 40 * QMP_LINE_BYTES_MAX,
    };
    target.run(|input| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(input).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let said = Qmp::negotiate(ours).and_then(|mut qmp| qmp.execute("stop", json!({})));
        vec![outcome(said.map(|value| value.is_object()).map_err(|error| error.kind()))]
    });
}
