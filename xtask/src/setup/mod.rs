//! Makes this machine ready: Debian packages, agent, kernel, base image.
//!
//! Order: packages first, since the rest runs their programs; then the agent, the kernel and the root
//! file system; then the initramfs, and the name `base` for all of it. Each step leaves a stamp that
//! names its input and is skipped while the input is the same, so a second run does nothing.
//!
//! Downloads and images lie in the user's cache folder and are shared by all checkouts; the agent is
//! built in `target/agent`. One setup runs at a time: others wait for the lock.

mod agent;
mod image;
mod packages;
mod stamp;

use std::fs::{self, File};

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};

use crate::paths;

/// How to set up.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Build kernel and root file system anew, from the newest packages.
    #[arg(long)]
    pub(crate) rebuild: bool,
}

/// Installs what `cargo xtask bench homefs` compares with.
pub(crate) fn compared() -> anyhow::Result<()> {
    packages::ensure_compared()
}

/// Does what is missing.
pub(crate) fn run(options: &Options) -> anyhow::Result<images::Image> {
    packages::ensure()?;
    let cache = paths::cache();
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let lock = File::create(cache.join("lock")).context("create the lock of the cache folder")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context("wait for another setup")?;
    let agent = agent::build()?;
    image::build(&cache, &agent, options.rebuild)
}
