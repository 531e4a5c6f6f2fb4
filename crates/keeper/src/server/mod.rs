//! The keeper's socket: HTTP/1.1 on a Unix socket in the machine's directory.
//!
//! The directory is readable by its owner only, so whoever can connect may do everything; there is no
//! further authentication. Arguments travel as JSON in the `x-args` header, or in front of the body
//! where they can be long; bytes travel as bodies in both directions. Errors are a [`Failure`] as JSON.
//!
//! The wire is private to this version of the program, except while a new `serve` adopts keepers
//! of an older one: fields are only added.

mod door;
mod egress;
mod executions;
mod files;
mod reply;
mod sizes;
mod standing;
mod states;

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{get, post, put};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::executions::runner::Runner;
use crate::files::Files;
use crate::{Failure, Result, Status};

pub(crate) use door::Door;
pub(crate) use egress::Policy;
pub(crate) use reply::{ARGS_HEADER, INFO_HEADER, decode_header, encode_header};
pub(crate) use sizes::SizesInForce;
pub use states::Kept;

/// Argument types, shared with the client.
pub(crate) mod wire {
    pub(crate) use super::executions::{StartArgs, WaitArgs};
    pub(crate) use super::files::{
        DirArgs, GetArgs, GetInfo, ImportArgs, ListArgs, PathArgs, PutArgs, RemoveArgs,
    };
    pub(crate) use super::standing::{NextArgs, StopArgs};
    pub(crate) use super::states::{ForkArgs, SnapshotArgs};
}

/// What the routes work on. The home comes later than the socket: while the keeper starts, file calls
/// say so.
pub(crate) struct Shared {
    /// Calls that change the home or start something pass it.
    pub(crate) door: Door,
    pub(crate) files: std::sync::OnceLock<Files>,
    pub(crate) home: std::sync::OnceLock<Arc<homefs::HomeFs>>,
    pub(crate) runner: std::sync::OnceLock<Arc<Runner>>,
    /// Whether the guest waits for room on this host's disk.
    pub(crate) waits_for_room: std::sync::OnceLock<watch::Receiver<bool>>,
    pub(crate) egress: Arc<Policy>,
    pub(crate) sizes: Arc<SizesInForce>,
    pub(crate) status: Box<dyn Fn() -> Status + Send + Sync>,
    /// Heard when the keeper's stage changes.
    pub(crate) moved: watch::Receiver<()>,
    pub(crate) stop: CancellationToken,
    /// Nobody wants the guest's memory any more.
    pub(crate) forget: AtomicBool,
}

impl Shared {
    fn files(&self) -> Result<&Files> {
        self.files.get().ok_or_else(|| starting("its home"))
    }

    fn home(&self) -> Result<&Arc<homefs::HomeFs>> {
        self.home.get().ok_or_else(|| starting("its home"))
    }

    fn runner(&self) -> Result<&Arc<Runner>> {
        self.runner.get().ok_or_else(|| starting("its guest"))
    }
}

fn starting(what: &str) -> Failure {
    Failure::new(
        base::ErrorKind::Unavailable,
        format!("the machine is starting: {what} is not there yet"),
    )
}

type Ctx = State<Arc<Shared>>;

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/status", get(standing::status))
        .route("/status/next", get(standing::next))
        .route("/stop", post(standing::stop))
        .route("/egress", put(egress::set))
        .route("/sizes", put(sizes::set))
        .route("/files/stat", get(files::stat))
        .route("/files/content", get(files::get).merge(put(files::put)).delete(files::remove))
        .route("/files/list", get(files::list))
        .route("/files/tar", get(files::bundle).post(files::import))
        .route("/files/dir", post(files::make_dir))
        .route("/home/snapshots", post(states::snapshot))
        .route("/home/forks", post(states::hold_fork))
        .route("/executions", post(executions::create))
        .route("/executions/{id}/attach", post(executions::attach))
        .route("/executions/{id}/cancel", post(executions::cancel))
        .route("/executions/{id}/wait", get(executions::wait))
        .layer(DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn(linger::drain))
        .with_state(shared)
}

/// Answers until `end` is cancelled, then lets calls that are under way finish.
pub(crate) async fn serve(
    listener: UnixListener,
    shared: Arc<Shared>,
    end: CancellationToken,
) -> Result<()> {
    axum::serve(listener, router(shared))
        .with_graceful_shutdown(end.cancelled_owned())
        .await
        .map_err(|error| Failure::internal("serve the keeper's socket", error))
}

/// Binds `path`, however long it is: a socket address holds 107 bytes, so the socket is named
/// through its directory's descriptor.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    std::fs::remove_file(path).ok();
    let listener = through_directory(path, |short| std::os::unix::net::UnixListener::bind(short))
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        })
        .map_err(|error| Failure::internal("listen on the keeper's socket", error))?;
    Ok(listener)
}

/// Calls `with` with a short name for `path`.
pub(crate) fn through_directory<T>(
    path: &Path,
    with: impl FnOnce(&Path) -> std::io::Result<T>,
) -> std::io::Result<T> {
    let directory = std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    with(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}
