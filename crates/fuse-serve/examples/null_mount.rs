//! Mounts a file system that holds nothing: what the protocol alone costs.
//!
//! `cargo run --release -p fuse-serve --example null_mount DIR`, as root, until Enter is pressed.
//! Then it prints how many requests of each kind came.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example that measures")]

use std::path::PathBuf;
use std::sync::Arc;

use fuse_serve::{Config, Mount, MountOptions, Session};
use vfs::nullfs::NullFs;

fn main() {
    let target = PathBuf::from(std::env::args_os().nth(1).unwrap());
    let session = Arc::new(Session::new(Arc::new(NullFs::default()), Config::default()));
    let mount = Mount::new(session.clone(), &target, &MountOptions::default()).unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
    for (kind, count) in session.requests_by_kind() {
        println!("{kind:<16} {count:>9}");
    }
    drop(mount);
}
