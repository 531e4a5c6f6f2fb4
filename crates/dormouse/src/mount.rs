//! `dormouse mount`: a home as a directory of this host, served by this process.
//!
//! # Order
//! Find the home; take away a mount that a killed process left; open the home (read-only: its
//! published state; `--read-write`: claimed, as a keeper does it); mount; say so in one line on
//! stdout. At SIGTERM, Ctrl-C or an unmount from elsewhere: unmount, then give the home up (seal,
//! store, last commit), telling how far it is on stderr.
//!
//! # Crash
//! Killed at any point, nothing acknowledged is lost: the home stays held in this server's name,
//! and the next mount or wake from the same directory goes on. The directory shows `ENOTCONN` until
//! then.
//!
//! # Not here
//! The server need not run. It must not be asked either: the object store and the lock on the local
//! directory say who may write.

mod live;
mod place;
mod published;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Entropy, ErrorKind, ServerId, SystemClock, SystemEntropy};
use clap::{Args, ValueEnum};
use fuse_serve::{Mount, MountOptions, Notifier, Session, Threads};
use tokio::signal::unix::{Signal, SignalKind, signal};
use vfs::nullfs::NullFs;

use crate::config::{Config, HostArgs, PlaceArgs};
use crate::serve::make_data_dir;
use crate::{Failure, server_file, store, telemetry, tokio_runtime};
use place::Place;

/// How often the mount is looked at: whether it is still there, and whether the home is still ours.
const LOOK: Duration = Duration::from_millis(500);
/// How long writing back what programs changed in memory may take where the mount is in use.
const WRITE_BACK: Duration = Duration::from_secs(60);

/// Flags of `mount`.
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// The machine or home (name or id), and the directory to mount it on.
    #[arg(required = true, num_args = 1..=2, value_names = ["MACHINE-OR-HOME", "DIR"])]
    operands: Vec<PathBuf>,
    /// Write too: claim the home as its one writer until the unmount. Refused while it is awake.
    #[arg(long, short = 'w')]
    read_write: bool,
    /// What `fsync` waits for: the object store, or this host's disk.
    #[arg(long, value_enum, default_value_t = Fsync::Store)]
    fsync: Fsync,
    /// Most content in GiB [default: the machine's own, else that of new machines].
    #[arg(long, value_name = "N")]
    storage_gib: Option<u64>,
    /// Where the home's local files are [default: the machine's directory, else DATA/mounts/HOME].
    #[arg(long, value_name = "DIR")]
    local_dir: Option<PathBuf>,
    /// Take a home that another server never released. Only when that server is lost.
    #[arg(long)]
    take_over: bool,
    /// Make the home first, where it does not exist, and mount it for writing: the home of that id,
    /// or of a fresh one where only the directory is named.
    #[arg(long, hide = true)]
    new: bool,
    /// Serve no home but a file system that keeps no content, to see what the mount itself costs;
    /// name only the directory.
    #[arg(long, hide = true)]
    null: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

/// What `fsync` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fsync {
    /// The object store.
    Store,
    /// This host's disk.
    Local,
}

impl MountArgs {
    /// The machine or home; `None` where only a directory is named.
    fn what(&self) -> Option<&str> {
        match &*self.operands {
            [what, _] => what.to_str(),
            _ => None,
        }
    }

    fn target(&self) -> Result<&Path, Failure> {
        match &*self.operands {
            [target] if self.new || self.null => Ok(target),
            [_, target] if !self.null => Ok(target),
            _ => Err(Failure::new(
                ErrorKind::InvalidArgument,
                "name the machine or home, and the directory to mount it on: dormouse mount NAME DIR",
            )),
        }
    }
}

pub(crate) fn main(args: &MountArgs) -> Result<u8, Failure> {
    let target = args.target()?;
    let config = Config::beside(&args.place, &HostArgs::default())?;
    telemetry::init_logs();
    if Mount::clear_stale(target).map_err(failed)? {
        say(&format!("{}: took away the mount of a process that is gone", target.display()));
    }
    let runtime = tokio_runtime()?;
    let mounted = runtime.block_on(async {
        if args.null {
            return null(target).await;
        }
        let place = place::find(args, &config)?;
        let writes = args.read_write || args.new;
        if writes && !args.new {
            store::refuse_unused(&config.store).await?;
        }
        let here = Here::open(&config, writes).await?;
        if args.new {
            homefs::create_home(&here.parts, &place.home, &here.server).await.map_err(of_home)?;
        }
        if writes {
            return live::mount(args, place, target, here).await;
        }
        match published::mount(place, target, here).await {
            Err(failure) => Err(store::explain(&config.store, &config.keys, failure).await),
            Ok(()) => Ok(()),
        }
    });
    // A call may still wait for a store that is away; nothing depends on it any more.
    runtime.shutdown_timeout(Duration::from_millis(500));
    mounted.map(|()| 0)
}

/// Serves what keeps no content, until a signal or an unmount.
async fn null(target: &Path) -> Result<(), Failure> {
    let mut ends = Ends::watch()?;
    let session = Session::new(Arc::new(NullFs::default()), fuse_serve::Config::default());
    let served = Served::begin(session, target, false, "nothing").await?;
    while !served.is_gone() {
        tokio::select! {
            () = ends.wait() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    served.end().await
}

/// What both ways of mounting need.
struct Here {
    server: ServerId,
    parts: homefs::Parts,
    ends: Ends,
}

impl Here {
    async fn open(config: &Config, writes: bool) -> Result<Self, Failure> {
        // First of all: from here on a signal ends us in order.
        let ends = Ends::watch()?;
        make_data_dir(&config.data)?;
        let server = server_file::ensure_server_id(&config.data)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let store = if writes {
            store::open(&config.store, &config.keys).await?
        } else {
            store::open_to_read(&config.store, &config.keys).await?
        };
        let runtime = tokio::runtime::Handle::current();
        Ok(Self { server, parts: homefs::Parts { store, clock, entropy, runtime }, ends })
    }
}

/// A mount, and what is done about it while it lasts.
struct Served {
    mount: Mount,
    session: Arc<Session>,
    target: PathBuf,
}

impl Served {
    /// Mounts, and says so.
    async fn begin(
        session: Session,
        target: &Path,
        read_only: bool,
        home: &str,
    ) -> Result<Self, Failure> {
        let options = MountOptions { read_only, threads: Threads::default() };
        let (session, at) = (Arc::new(session), target.to_owned());
        let served = session.clone();
        let mount = blocking(move || Mount::new(served, &at, &options).map_err(failed)).await?;
        announce(home, target, read_only);
        Ok(Self { mount, session, target: target.to_owned() })
    }

    fn notifier(&self) -> Notifier {
        self.mount.notifier()
    }

    fn is_gone(&self) -> bool {
        self.mount.is_closed()
    }

    /// Unmounts; where somebody uses it, writes back first what the kernel has and takes it away
    /// under them.
    async fn end(mut self) -> Result<(), Failure> {
        blocking(move || {
            if !self.mount.is_closed()
                && let Err(error) = self.mount.unmount()
            {
                say(&format!("{error}; it is taken away under them"));
                self.write_back();
            }
            tracing::debug!(requests = ?self.session.requests_by_kind(), "unmounted");
            drop(self.mount);
            Ok(())
        })
        .await
    }

    fn write_back(&self) {
        let (done, waited) = std::sync::mpsc::channel();
        let target = self.target.clone();
        std::thread::spawn(move || {
            // Nobody listens any more where it took too long.
            done.send(Mount::write_back(&target)).ok();
        });
        match waited.recv_timeout(WRITE_BACK) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => say(&format!("write back what programs changed in memory: {error}")),
            Err(_) => say("what programs changed in memory could not be written back in time"),
        }
    }
}

/// What ends a mount.
struct Ends {
    signals: [Signal; 3],
}

impl Ends {
    fn watch() -> Result<Self, Failure> {
        let of = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(ErrorKind::Internal, format!("watch for signals: {error}"))
            })
        };
        let [term, int, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(of);
        Ok(Self { signals: [term?, int?, hangup?] })
    }

    async fn wait(&mut self) {
        let [term, int, hangup] = &mut self.signals;
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// The one line that a program waits for.
#[allow(clippy::print_stdout, reason = "stdout is data: this line is the contract")]
fn announce(home: &str, target: &Path, read_only: bool) {
    let how = if read_only { "read-only" } else { "read-write" };
    println!("dormouse mounted {home} on {} {how}", target.display());
}

fn say(text: &str) {
    eprintln!("dormouse: {text}");
}

/// Runs work on a home or a mount where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Failure::new(ErrorKind::Internal, format!("work on a home ended early: {error}")))
    })
}

fn failed(error: fuse_serve::Error) -> Failure {
    Failure::new(error.kind(), error.to_string())
}

fn of_home(error: homefs::Error) -> Failure {
    Failure::new(error.kind(), error.to_string())
}
