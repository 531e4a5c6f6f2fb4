//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The images that `dormouse serve` uses on its defaults; shared by all checkouts of a user.
pub(crate) fn images() -> PathBuf {
    let usual = || {
        images::default_dir(
            env::var_os("XDG_CACHE_HOME").as_deref(),
            env::var_os("HOME").as_deref(),
        )
    };
    env::var_os("DORMOUSE_IMAGES").filter(|dir| !dir.is_empty()).map_or_else(usual, PathBuf::from)
}

/// Downloads and half-finished work, beside the images.
pub(crate) fn cache() -> PathBuf {
    images().with_file_name("build")
}

/// `path` as a person in this folder would write it.
pub(crate) fn short(path: &Path) -> PathBuf {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).to_owned()
}

/// Where a server started on `arguments` keeps its data, if they say so.
pub(crate) fn data_of(arguments: &[String]) -> Option<String> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--data" {
            return arguments.next().cloned();
        }
        if let Some(data) = argument.strip_prefix("--data=") {
            return Some(data.to_owned());
        }
    }
    None
}

/// The release binary.
pub(crate) fn dormouse() -> PathBuf {
    target().join("release/dormouse")
}

/// The S3 server for tests and benchmarks, as a release binary.
pub(crate) fn s3_server() -> PathBuf {
    target().join("release/s3-server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_is_found_in_either_spelling() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(data_of(&words("--listen x --data /d")).as_deref(), Some("/d"));
        assert_eq!(data_of(&words("--data=/d")).as_deref(), Some("/d"));
        assert_eq!(data_of(&words("--listen x")), None);
    }
}
