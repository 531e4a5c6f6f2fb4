//! Machine images on local disk: kernel, initramfs, root file system.
//!
//! A directory of images holds one manifest per name and the files they point to, named by digest:
//!
//! ```text
//! IMAGES/base.json                      manifest: which kernel, initramfs and root belong together
//! IMAGES/blobs/<sha256>.vmlinux         uncompressed kernel
//! IMAGES/blobs/<sha256>.cpio            initramfs with the agent
//! IMAGES/blobs/<sha256>.erofs           root file system
//! ```
//!
//! # Invariants
//! - A blob never changes once it has its name, so a running machine keeps what it was started on
//!   while its image is built anew.
//! - A manifest is replaced by rename, after every blob it names is there.
//! - A root blob is never deleted here: the writable layer of a sleeping machine lies over one exact
//!   root ([`Images::root`]), and over another it would show a mixture.
//!
//! [`build`] makes images out of Debian packages; [`make_upper`] makes the writable layer. Everything
//! here blocks: call it from a blocking thread.
//!
//! Not here: where the directory is (the binary passes it; [`default_dir`] only computes the usual
//! place) and OCI images.

pub mod build;
mod command;
mod error;
mod limits;
mod manifest;
mod store;
mod upper;

pub use error::Error;
pub use limits::{UPPER_BYTES_MAX, UPPER_BYTES_MIN};
pub use manifest::{BlobRef, Manifest};
pub use store::{Image, Images, default_dir};
pub use upper::make_upper;

/// The image that `cargo xtask setup` builds, and the one a machine gets when it asks for none.
pub const BASE_IMAGE: &str = "base";
