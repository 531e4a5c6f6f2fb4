//! Encryption keys from a file or a command, and `dormouse keygen`, which makes them.
//!
//! # Failure
//! Messages name the file or the command and never what came out of it. A command that takes longer than
//! half a minute is ended with everything it started.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use base::{ErrorKind, SystemEntropy};
use clap::Args;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use objstore::{KEY_TEXT_BYTES_MAX, KeyRing};
use zeroize::Zeroizing;

use crate::Failure;
use crate::store::KeySource;

/// How long a command may take to print the keys.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Flags of `keygen`.
#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// The key file. A new one is made; to one that exists, a new key is added as the newest.
    file: PathBuf,
}

/// Makes a key, in a file of its own or as the newest of a file.
pub(crate) fn keygen(args: &KeygenArgs) -> Result<u8, Failure> {
    let id = add(&args.file)?;
    eprintln!(
        "key {id} is in {}: keep a copy of this file apart from the object store; without it nothing that \
         is stored with it can be read again",
        args.file.display()
    );
    Ok(0)
}

/// The keys; `None` where nothing is encrypted.
pub(crate) fn load(source: &KeySource) -> Result<Option<KeyRing>, Failure> {
    let (text, from) = match source {
        KeySource::None => return Ok(None),
        KeySource::File(path) => (read(path)?, format!("{}", path.display())),
        KeySource::Command(command) => {
            (run(command, COMMAND_TIMEOUT)?, "the output of the encryption key command".to_owned())
        }
    };
    let keys = KeyRing::parse(&text)
        .map_err(|error| Failure::new(ErrorKind::InvalidArgument, format!("{from}: {error}")))?;
    Ok(Some(keys))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let of = failed(path);
    let file = File::open(path).map_err(&of)?;
    if file.metadata().map_err(&of)?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %path.display(), "other users may read the encryption keys: chmod 600");
    }
    bounded(file).map_err(&of)
}

/// At most one byte more than keys may have, which `KeyRing::parse` refuses.
fn bounded(mut from: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // Never grown, so that no copy is left behind.
    let mut text = Zeroizing::new(vec![0; KEY_TEXT_BYTES_MAX + 1]);
    let mut len = 0;
    while len < text.len() {
        match from.read(&mut text[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(len);
    Ok(text)
}

/// What `command` prints.
fn run(command: &str, timeout: Duration) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let bad = |what: String| {
        Failure::new(ErrorKind::InvalidArgument, format!("the encryption key command {what}"))
    };
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // A group of its own, to end it with all that it started.
        .process_group(0)
        .spawn()
        .map_err(|error| bad(format!("cannot be started: {error}")))?;
    let stdout = child.stdout.take();
    let (done, read) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody listens any more where it took too long.
        done.send(stdout.map(bounded)).ok();
    });
    let text = match read.recv_timeout(timeout) {
        Ok(Some(Ok(text))) => text,
        Ok(Some(Err(error))) => {
            end(&mut child);
            return Err(bad(format!("cannot be read from: {error}")));
        }
        Ok(None) | Err(RecvTimeoutError::Disconnected) => {
            end(&mut child);
            return Err(bad("cannot be read from".to_owned()));
        }
        Err(RecvTimeoutError::Timeout) => {
            end(&mut child);
            return Err(bad(format!("did not end within {} s", timeout.as_secs())));
        }
    };
    if text.len() > KEY_TEXT_BYTES_MAX {
        end(&mut child);
        return Err(bad(format!("prints more than {KEY_TEXT_BYTES_MAX} bytes")));
    }
    // Its output has ended; it may linger, but not for ever.
    let ended = wait(&mut child, timeout);
    match ended {
        Some(status) if status.success() => Ok(text),
        Some(status) => Err(bad(format!("failed ({status}); its own words are above"))),
        None => Err(bad(format!("did not end within {} s", timeout.as_secs()))),
    }
}

fn wait(child: &mut Child, timeout: Duration) -> Option<std::process::ExitStatus> {
    const POLL: Duration = Duration::from_millis(10);
    let start = std::time::Instant::now();
    while start.elapsed() < timeout {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => std::thread::sleep(POLL),
            Err(_) => break,
        }
    }
    end(child);
    None
}

fn end(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        killpg(Pid::from_raw(group), Signal::SIGKILL).ok();
    }
    child.wait().ok();
}

/// Adds a new key to the file, which is replaced whole: no crash leaves half of it.
fn add(path: &Path) -> Result<u8, Failure> {
    let of = failed(path);
    let old = match File::open(path) {
        Ok(file) => bounded(file).map_err(&of)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Zeroizing::default(),
        Err(error) => return Err(of(error)),
    };
    let (id, line) = KeyRing::new_line(&old, &SystemEntropy).map_err(|error| {
        Failure::new(ErrorKind::InvalidArgument, format!("{}: {error}", path.display()))
    })?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&old)?;
        if old.last().is_some_and(|last| *last != b'\n') {
            file.write_all(b"\n")?;
        }
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        match old.is_empty() {
            // Of two that make one at once, the second must not replace the first one's key.
            true => std::fs::hard_link(&new, path).and_then(|()| std::fs::remove_file(&new))?,
            false => std::fs::rename(&new, path)?,
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    match write() {
        Ok(()) => Ok(id),
        Err(error) => {
            if error.kind() != std::io::ErrorKind::AlreadyExists || old.is_empty() {
                std::fs::remove_file(&new).ok();
            }
            Err(of(error))
        }
    }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    move |error| {
        Failure::new(
            ErrorKind::InvalidArgument,
            format!("encryption key file {}: {error}", path.display()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_private_and_grows_by_the_newest_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        assert_eq!(add(&path).unwrap(), 1);
        let first = std::fs::read_to_string(&path).unwrap();
        assert_eq!(add(&path).unwrap(), 2);
        let both = std::fs::read_to_string(&path).unwrap();
        assert!(both.starts_with(&first) && both.lines().count() == 2);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
        let ring = load(&KeySource::File(path.clone())).unwrap().unwrap();
        assert_eq!(ring.ids().collect::<Vec<_>>(), [1, 2]);
        let by_command = load(&KeySource::Command(format!("cat '{}'", path.display())));
        assert_eq!(by_command.unwrap().unwrap().ids().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_damaged_key_file_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, "1:c0ffee").unwrap();
        let said = add(&path).unwrap_err().to_string();
        assert!(said.contains("line 1") && !said.contains("c0ffee"), "{said}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1:c0ffee");
    }

    #[test]
    fn a_command_is_bounded_in_time_and_size_and_its_failure_is_told() {
        let short = Duration::from_millis(300);
        let said = |command, timeout| run(command, timeout).unwrap_err().to_string();
        assert!(said("exit 3", COMMAND_TIMEOUT).contains("exit status: 3"));
        assert!(said("yes", COMMAND_TIMEOUT).contains("65536 bytes"));
        let begun = std::time::Instant::now();
        assert!(said("sleep 600", short).contains("did not end"));
        assert!(said("sleep 600 & sleep 600", short).contains("did not end"));
        assert!(said("exec >&-; sleep 600", short).contains("did not end"));
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
