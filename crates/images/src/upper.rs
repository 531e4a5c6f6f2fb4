//! A machine's writable layer.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::Error;
use crate::command::{command, run};
use crate::limits::{UPPER_BYTES_MAX, UPPER_BYTES_MIN};

/// Makes an empty ext4 file system of `bytes` at `path`, sparse and readable by its owner only.
///
/// Takes some 20 ms whatever the size: tables are zeroed by the guest's kernel when it first needs
/// them, which costs nothing in a sparse file. Appears at `path` whole or not at all.
///
/// # Errors
/// [`Error::UpperSize`]; [`Error::Io`] of kind `AlreadyExists` where `path` exists, since
/// overwriting would lose a machine's files; [`Error::ProgramMissing`] without e2fsprogs.
pub fn make_upper(path: &Path, bytes: u64) -> Result<(), Error> {
    if !(UPPER_BYTES_MIN..=UPPER_BYTES_MAX).contains(&bytes) {
        return Err(Error::UpperSize { bytes, min: UPPER_BYTES_MIN, max: UPPER_BYTES_MAX });
    }
    let partial = path.with_extension("partial");
    let made = format(&partial, bytes).and_then(|()| {
        // A link fails where the name is taken; a rename would replace it.
        fs::hard_link(&partial, path).map_err(Error::io("create", path))
    });
    match fs::remove_file(&partial) {
        Err(error) if made.is_ok() => Err(Error::io("remove", partial)(error)),
        _ => made,
    }
}

fn format(partial: &Path, bytes: u64) -> Result<(), Error> {
    let create = || -> std::io::Result<File> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(partial)?;
        file.set_len(bytes)?;
        Ok(file)
    };
    let file = create().map_err(Error::io("create", partial))?;
    run(
        command("mkfs.ext4")
            .args(["-q", "-F", "-L", "upper", "-m", "0", "-O", "^metadata_csum_seed"])
            // The file is zero already: nothing to discard, nothing to zero.
            .args([
                "-E",
                "lazy_itable_init=1,lazy_journal_init=1,nodiscard,assume_storage_prezeroed=1",
            ])
            .arg(partial),
        "e2fsprogs",
    )?;
    file.sync_all().map_err(Error::io("sync", partial))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use base::{ErrorKind, GIB, MIB};

    use super::*;

    #[test]
    fn an_upper_is_ext4_and_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upper.ext4");
        make_upper(&path, 10 * GIB).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.len(), 10 * GIB);
        assert!(found.blocks() * 512 < 8 * MIB, "{} bytes allocated", found.blocks() * 512);
        assert_eq!(found.mode() & 0o777, 0o600);
        run(command("e2fsck").args(["-fn"]).arg(&path), "e2fsprogs").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn an_existing_upper_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upper.ext4");
        fs::write(&path, "precious").unwrap();
        assert!(make_upper(&path, GIB).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn an_impossible_size_is_refused() {
        for bytes in [0, 1, UPPER_BYTES_MIN - 1, UPPER_BYTES_MAX + 1, u64::MAX] {
            let error = make_upper(Path::new("/nonexistent/upper"), bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }
}
