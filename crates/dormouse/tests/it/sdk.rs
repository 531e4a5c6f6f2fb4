//! The official Python client, several dialects of it, unchanged but for its base URL.

use std::path::Path;
use std::process::Command;

use crate::support::{Options, Server};

#[test]
fn the_published_python_clients_work_unchanged() {
    let server = Server::start(Options::default());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api-v1/tests/sdk.py");
    // 0.2.0 sends If-Match, 0.4.0 has the broadest surface, 0.6.0 is the newest contract.
    let output = Command::new("python3")
        .arg(&script)
        .args(["--url", server.url(), "--key", &server.key()])
        .arg("--venvs")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdk"))
        .args(["--versions", "0.2.0", "0.4.0", "0.6.0"])
        .output()
        .expect("run python");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert_eq!(said.matches(": ok").count(), 3, "{said}");
}
