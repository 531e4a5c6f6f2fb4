//! What the tests stand on.

mod api;
mod s3;
pub mod server;
mod tree;

pub use api::Api;
pub use s3::S3Server;
pub use server::{Options, Server};
pub use tree::{Tree, snapshot};

use std::time::{Duration, Instant};

/// A guest boots in seconds, in tens of seconds when the cores are shared.
pub const BOOT: Duration = Duration::from_secs(180);

/// Waits until `what` holds.
#[track_caller]
pub fn eventually(doing: &str, patience: Duration, mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < patience, "{doing}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
