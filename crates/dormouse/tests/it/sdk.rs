//! The official Python client, several dialects of it, unchanged but for its base URL.

use std::path::Path;
use std::process::Command;

use crate::support::{Options, Server};

#[test]
fn the_published_python_clients_work_unchanged() {
    let server = Server::start(Options::default());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api-v1/tests/sdk.py");
    // 0.2.0 sends If-Match, 0.4.0 has the broadest surface, 0.6.0 is the newest contract.
    for version in ["0.2.0", "0.4.0", "0.6.0"] {
        let python = environment(version);
        let output = Command::new(python)
            .arg(&script)
            .env("DEDALUS_BASE_URL", server.url())
            .env("DEDALUS_API_KEY", server.key())
            .output()
            .expect("run python");
        assert!(
            output.status.success(),
            "dedalus-sdk {version}:\n{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// A virtual environment with one version of the client, kept below `target/`.
fn environment(version: &str) -> std::path::PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dedalus-sdk-{version}"));
    let python = dir.join("bin/python");
    if !dir.join("complete").exists() {
        let run = |command: &mut Command| {
            let output = command.output().expect("run a command");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir));
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .arg(format!("dedalus-sdk=={version}")));
        std::fs::write(dir.join("complete"), "").expect("mark it complete");
    }
    python
}
