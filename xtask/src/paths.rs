//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The images that `dormouse serve` uses on its defaults; shared by all checkouts of a user.
pub(crate) fn images() -> PathBuf {
    images::default_dir(
        env::var_os("XDG_CACHE_HOME").as_deref(),
        env::var_os("HOME").as_deref(),
    )
}

/// Downloads and half-finished work, beside the images.
pub(crate) fn cache() -> PathBuf {
    images().with_file_name("build")
}

/// The release binary.
pub(crate) fn dormouse() -> PathBuf {
    target().join("release/dormouse")
}
