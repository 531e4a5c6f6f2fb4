//! Loads the kernel modules that the initramfs lists, in its order: dependencies first.

use std::fs::{self, File};

use nix::errno::Errno;

use crate::console::say;
use crate::{Error, sys};

const LIST: &str = "/modules.list";

/// Loads all of them; returns how many. One that does not load is said and skipped: what needs it
/// fails later with a better message. Their files are deleted, because they take up memory.
pub(super) fn load() -> Result<usize, Error> {
    let list = match fs::read_to_string(LIST) {
        Ok(list) => list,
        // A kernel with everything built in.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(Error::io(format!("read {LIST}"))(error)),
    };
    let mut loaded = 0;
    for path in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let file = File::open(path).map_err(Error::io(format!("open {path}")));
        let result = file.and_then(|file| match sys::load_module(file) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(Error::sys(format!("load {path}"))(errno)),
        });
        match result {
            Ok(()) => loaded += 1,
            Err(error) => say(&error.to_string()),
        }
        drop(fs::remove_file(path));
    }
    Ok(loaded)
}
