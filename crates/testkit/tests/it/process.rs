use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use objstore::{Backend, ObjectStore};

/// The server as a process, ended with the test.
struct Process {
    child: Child,
    variables: Vec<(String, String)>,
}

impl Process {
    fn start(dir: &std::path::Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_s3-server"))
            .arg("--dir")
            .arg(dir)
            .args([
                "--bucket",
                "my-bucket",
                "--access-key-id",
                "id",
                "--secret-access-key",
                "secret",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
        let variables = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { child, variables }
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn backend(&self) -> Backend {
        let url = self.variable("S3_URL").unwrap();
        Backend::open(&url, &|name| self.variable(name)).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn the_binary_says_how_to_reach_it_and_finds_its_objects_again() {
    let dir = tempfile::tempdir().unwrap();
    {
        let server = Process::start(dir.path());
        let store = server.backend();
        store.probe().await.unwrap();
        store.create("homes/1/log/1", "kept".into()).await.unwrap();
    }
    let server = Process::start(dir.path());
    assert_eq!(server.backend().get("homes/1/log/1", None).await.unwrap(), "kept");
}
