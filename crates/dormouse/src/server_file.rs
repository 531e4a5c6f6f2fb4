//! How a client on the same host finds the server: two files in its data directory. And two that say what belongs to
//! the directory.
//!
//! `server.json` says where it listens and is removed at a clean end; `api-key` holds the key, readable
//! by its owner only. `server-id` is the server's name, `store-url` the object store that it last used, for tools and for
//! the next start.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base::{Entropy, ErrorKind, ServerId};
use serde::{Deserialize, Serialize};

use crate::Failure;

const STORE_FILE: &str = "store-url";
const STORE_URL_BYTES_MAX: u64 = 4096;

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
    let mut bytes = [0; 32];
    entropy.fill(&mut bytes);
    let key: String = "dm_".chars().chain(bytes.iter().flat_map(|b| hex(*b))).collect();
    let kept =
        ensure(&data.join("api-key"), &key).map_err(|error| write_failed("api-key", &error))?;
    if kept.is_empty() {
        return Err(Failure::new(
            ErrorKind::Corrupt,
            "api-key in the data directory is empty; write a key into it, or remove it to get a new one",
        ));
    }
    Ok(kept)
}

/// The key in `api-key`, where there is one.
pub(crate) fn read_key(data: &Path) -> Option<String> {
    let key = std::fs::read_to_string(data.join("api-key")).ok()?;
    let key = key.trim();
    (!key.is_empty()).then(|| key.to_owned())
}

/// The URL of the store that the server of this directory last used. It carries no secret.
pub(crate) fn last_store(data: &Path) -> Option<String> {
    let file = std::fs::File::open(data.join(STORE_FILE)).ok()?;
    let mut url = String::new();
    file.take(STORE_URL_BYTES_MAX).read_to_string(&mut url).ok()?;
    let url = url.trim();
    (!url.is_empty()).then(|| url.to_owned())
}

/// Notes the URL of the store that the server of this directory uses.
pub(crate) fn remember_store(data: &Path, url: &str) -> Result<(), Failure> {
    if last_store(data).as_deref() == Some(url) {
        return Ok(());
    }
    let temporary = data.join(format!("{STORE_FILE}.tmp"));
    let written = || {
        let mut file = std::fs::File::create(&temporary)?;
        writeln!(file, "{url}")?;
        file.sync_all()?;
        std::fs::rename(&temporary, data.join(STORE_FILE))
    };
    written().map_err(|error| write_failed(STORE_FILE, &error))
}

/// The name of this server, made at its first start.
pub(crate) fn ensure_server_id(data: &Path) -> Result<ServerId, Failure> {
    let path = data.join("server-id");
    let text = ensure(&path, ServerId::generate().as_str())
        .map_err(|error| write_failed("server-id", &error))?;
    text.parse().map_err(|error| {
        Failure::new(
            ErrorKind::Corrupt,
            format!(
                "{}: {error}; restore the file, machines that are awake are held under that name",
                path.display()
            ),
        )
    })
}

/// The line in the file at `path`; where there is no such file, it is made with `fresh` in it, mode
/// 0600. Of several processes that make it at once, all get the same line.
fn ensure(path: &Path, fresh: &str) -> std::io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        found => return found.map(|text| text.trim().to_owned()),
    }
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)?;
    writeln!(file, "{fresh}")?;
    file.sync_all()?;
    // A link fails where the name is taken; a rename would replace it.
    let linked = std::fs::hard_link(&temporary, path);
    std::fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(std::fs::read_to_string(path)?.trim().to_owned()),
    }
}

fn write_failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(
        ErrorKind::Internal,
        format!("read or write {what} in the data directory: {error}"),
    )
}

fn hex(byte: u8) -> [char; 2] {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    [digit(byte >> 4), digit(byte & 15)]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use base::SystemEntropy;

    use super::*;

    #[test]
    fn key_and_name_are_made_once_and_are_nobody_elses_to_read() {
        let data = tempfile::tempdir().unwrap();
        let key = ensure_key(data.path(), &SystemEntropy).unwrap();
        let id = ensure_server_id(data.path()).unwrap();
        assert_eq!(ensure_key(data.path(), &SystemEntropy).unwrap(), key);
        assert_eq!(ensure_server_id(data.path()).unwrap(), id);
        assert_eq!(read_key(data.path()), Some(key));
        for name in ["api-key", "server-id"] {
            let meta = std::fs::metadata(data.path().join(name)).unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 2, "nothing is left over");
    }

    #[test]
    fn starts_at_the_same_moment_agree_on_one_name() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("server-id");
        std::fs::write(&path, "first\n").unwrap();
        assert_eq!(ensure(&path, "second").unwrap(), "first");
    }

    #[test]
    fn a_damaged_name_is_never_replaced() {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("server-id"), "nonsense\n").unwrap();
        assert_eq!(ensure_server_id(data.path()).unwrap_err().kind, ErrorKind::Corrupt);
        std::fs::write(data.path().join("server-id"), [0xff, 0xfe]).unwrap();
        assert!(ensure_server_id(data.path()).is_err());
        assert_eq!(std::fs::read(data.path().join("server-id")).unwrap(), [0xff, 0xfe]);
    }
}
