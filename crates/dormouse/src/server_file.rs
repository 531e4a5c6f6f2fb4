//! How a client on the same host finds the server: two files in its data directory.
//!
//! `server.json` says where it listens and is removed at a clean end; `api-key` holds the key, readable
//! by its owner only.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base::{Entropy, ErrorKind, ServerId};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// The content of `server.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServerFile {
    /// Where it listens, as a URL.
    pub(crate) url: String,
    /// Its process.
    pub(crate) pid: u32,
}

impl ServerFile {
    pub(crate) fn read(data: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(data.join("server.json")).ok()?).ok()
    }

    pub(crate) fn write(&self, data: &Path) -> std::io::Result<()> {
        let temporary = data.join("server.json.tmp");
        std::fs::write(&temporary, serde_json::to_vec(self)?)?;
        std::fs::rename(temporary, data.join("server.json"))
    }

    pub(crate) fn remove(data: &Path) {
        std::fs::remove_file(data.join("server.json")).ok();
    }
}

/// The key that an earlier start left, or a new one.
pub(crate) fn ensure_key(data: &Path, entropy: &dyn Entropy) -> Result<String, Failure> {
    let path = data.join("api-key");
    if let Some(key) = read_key(data) {
        return Ok(key);
    }
    let mut bytes = [0; 32];
    entropy.fill(&mut bytes);
    let key: String = "dm_".chars().chain(bytes.iter().flat_map(|b| hex(*b))).collect();
    create_private(&path, format!("{key}\n").as_bytes())
        .map_err(|error| write_failed("api-key", &error))?;
    Ok(key)
}

/// The key in `api-key`, where there is one.
pub(crate) fn read_key(data: &Path) -> Option<String> {
    let key = std::fs::read_to_string(data.join("api-key")).ok()?;
    let key = key.trim();
    (!key.is_empty()).then(|| key.to_owned())
}

/// The name of this server, made at its first start.
pub(crate) fn ensure_server_id(data: &Path) -> Result<ServerId, Failure> {
    let path = data.join("server-id");
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|error| {
            Failure::new(
                ErrorKind::Corrupt,
                format!("{}: {error}; restore the file, machines that are awake are held under that name", path.display()),
            )
        }),
        Err(_) => {
            let id = ServerId::generate();
            create_private(&path, format!("{id}\n").as_bytes())
                .map_err(|error| write_failed("server-id", &error))?;
            Ok(id)
        }
    }
}

fn create_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}

fn write_failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(ErrorKind::Internal, format!("write {what} in the data directory: {error}"))
}

fn hex(byte: u8) -> [char; 2] {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    [digit(byte >> 4), digit(byte & 15)]
}
