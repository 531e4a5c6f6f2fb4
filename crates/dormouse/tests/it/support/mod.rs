//! What the tests stand on.

mod api;
mod mounts;
mod rounds;
mod s3;
pub(crate) mod server;
mod tree;

pub(crate) use api::Api;
pub(crate) use mounts::Place;
pub(crate) use rounds::{Chance, Rounds, shown};
pub(crate) use s3::S3Server;
pub(crate) use server::{Options, Server, Storing, adopt, adopted, until_stored};
pub(crate) use tree::{Tree, snapshot};

use std::time::{Duration, Instant};

/// A guest boots in seconds, in tens of seconds when the cores are shared.
pub(crate) const BOOT: Duration = Duration::from_secs(180);

/// Waits until `what` holds.
#[track_caller]
pub(crate) fn eventually(doing: &str, patience: Duration, mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < patience, "{doing}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
