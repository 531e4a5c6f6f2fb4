//! `dormouse serve`: wiring, start and end.
//!
//! # Order
//! Configuration; data directory; server name and key; object store, probed; control, which takes the
//! directory's lock and adopts keepers that are running; the listener; then the one line on stdout. At
//! SIGTERM: stop taking requests, let open ones end, leave awake machines to their keepers.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Digest, Entropy, ErrorKind, ServerId, SystemClock, SystemEntropy};
use clap::Args;
use control::{Control, Settings, SizeLimits};
use keeper::launch;
use local_host::{LocalHomes, LocalHomesSettings, LocalHost, LocalHostSettings};
use objstore::ObjectStore;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, HostArgs, PlaceArgs, ServeArgs};
use crate::server_file::{self, ServerFile};
use crate::{Failure, allocator, dirs, store, telemetry, tokio_runtime};

/// How long open requests have at the end; the process is gone within five seconds.
const DRAIN: Duration = Duration::from_secs(3);
/// How long machines may take to fall asleep with `--shutdown-machines`.
const MACHINES_ASLEEP: Duration = Duration::from_secs(600);

/// What a keeper has to be ready, beside the time that its guest has to boot.
const BESIDE_BOOT: Duration = Duration::from_secs(60);
/// A keeper gives its guest no longer, whatever it is told.
const BOOT_TIMEOUT_SECONDS_MAX: u64 = 3_600;

/// Flags of `adopt`.
#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Also take homes that their last server never released. Only when that server is lost: if it
    /// lives, its copies of these machines are stopped.
    #[arg(long)]
    take_over: bool,
}

pub(crate) fn main(args: &ServeArgs) -> Result<u8, Failure> {
    allocator::of_server();
    let config = Config::load(args)?;
    let _logs = telemetry::init_many_logs();
    let runtime = tokio_runtime()?;
    let done = runtime.block_on(serve(config));
    // Blocking file calls may still be waiting for a store that is away.
    runtime.shutdown_timeout(Duration::from_millis(500));
    done.map(|()| 0)
}

pub(crate) fn adopt(args: &AdoptArgs) -> Result<u8, Failure> {
    let config = Config::beside(&args.place, &HostArgs::default())?;
    telemetry::init_logs();
    let runtime = tokio_runtime()?;
    let adopted = runtime.block_on(async {
        store::refuse_unused(&config.store).await?;
        let control = open(&config).await?;
        let adopted = control.machines().adopt(args.take_over).await;
        control.close().await;
        Ok::<_, Failure>(adopted?)
    });
    runtime.shutdown_timeout(Duration::from_millis(500));
    let adopted = adopted?;
    for machine in &adopted {
        eprintln!("adopted {} ({})", machine.name, machine.machine_id);
    }
    eprintln!("{} machines adopted, asleep; start the server and wake them", adopted.len());
    Ok(0)
}

async fn serve(config: Config) -> Result<(), Failure> {
    let mut ends = Ends::watch()?;
    let exporter = http_kit::Exporter::install()
        .map_err(|error| Failure::new(ErrorKind::Internal, error.to_string()))?;
    tokio::spawn(exporter.clone().keep_up());
    let control = open(&config).await?;
    let key = match dirs::variable("DORMOUSE_API_KEY") {
        Some(key) => key,
        None => server_file::ensure_key(&config.data, &SystemEntropy)?,
    };
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        Failure::new(
            ErrorKind::Unavailable,
            format!("listen on {}: {error}; --listen 127.0.0.1:0 picks a free port", config.listen),
        )
    })?;
    let address = listener
        .local_addr()
        .map_err(|error| Failure::new(ErrorKind::Internal, format!("listen: {error}")))?;
    let url = format!("http://{address}");
    let keys = http_kit::Keys::single(&key);
    let app = api_v1::router(control.clone(), keys, exporter);
    let file = ServerFile { url: url.clone(), pid: std::process::id() };
    file.write(&config.data).map_err(|error| {
        Failure::new(ErrorKind::Internal, format!("write server.json: {error}"))
    })?;
    announce(&url);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(http_kit::serve(listener, app, stop.clone(), DRAIN));
    ends.wait().await;
    tracing::info!("stopping");
    if config.shutdown_machines {
        sleep_all(&control).await;
    }
    stop.cancel();
    serving.await.ok();
    control.close().await;
    // Where nobody serves a machine, nothing of one that sleeps is left.
    let machines = local_host::machines_dir(&config.data);
    tokio::task::spawn_blocking(move || keeper::warm::end_all(&machines)).await.ok();
    ServerFile::remove(&config.data);
    Ok(())
}

/// The one line that a program waits for.
#[allow(clippy::print_stdout, reason = "stdout is data: this line is the contract")]
fn announce(url: &str) {
    println!("dormouse listening on {url}");
}

/// Opens everything below the faces.
async fn open(config: &Config) -> Result<Control, Failure> {
    make_data_dir(&config.data)?;
    let server = server_file::ensure_server_id(&config.data)?;
    let store = store::open(&config.store, &config.keys).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let settings = settings(config, server.clone());
    let host = Arc::new(host(config, &server, store.clone())?);
    let sweeper = host.clone();
    let parts = control::Parts {
        host,
        homes: Arc::new(LocalHomes::new(LocalHomesSettings {
            server,
            store: store.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
        })),
        store,
        clock,
        entropy,
    };
    let control = Control::open(settings, parts).await?;
    // The directory is locked: what another server of it uses is not written over.
    server_file::remember_store(&config.data, &config.store)?;
    // Beside everything else: nobody waits for it.
    tokio::spawn(async move { sweeper.sweep().await });
    Ok(control)
}

fn settings(config: &Config, server: ServerId) -> Settings {
    let mut settings = Settings {
        defaults: config.defaults.clone(),
        limits: SizeLimits {
            private_ranges: config.private_ranges.clone(),
            egress_enforced: config.network != runtime::Network::User,
            ..SizeLimits::default()
        },
        ..Settings::new(config.data.clone(), server)
    };
    settings.timing.store_memory_after = config.store_memory_after;
    // Whoever ends a keeper for its guest's silence waits longer than the keeper does, who knows more of it.
    let boot = Duration::from_secs(config.boot_timeout_seconds.min(BOOT_TIMEOUT_SECONDS_MAX));
    settings.timing.start_max = settings.timing.start_max.max(boot + BESIDE_BOOT);
    settings
}

fn host(
    config: &Config,
    server: &ServerId,
    store: Arc<dyn ObjectStore>,
) -> Result<LocalHost, Failure> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::new(ErrorKind::Internal, format!("find this program: {error}"))
    })?;
    Ok(LocalHost::new(LocalHostSettings {
        data_dir: config.data.clone(),
        server: server.clone(),
        store_url: config.store.clone(),
        store,
        stored_memory_bytes_max: config.stored_memory_bytes_max,
        images_dir: config.images.clone(),
        keeper: keeper_program(program, config),
        warm_seconds: config.warm_seconds,
        network: config.network,
        private_ranges: config.private_ranges.clone(),
        hypervisor: config.qemu.clone(),
        boot_timeout_seconds: config.boot_timeout_seconds,
        entropy: Arc::new(SystemEntropy),
        templates: config.templates,
    }))
}

/// Variables that a service manager sets anew each time, by how their names begin. They mean nothing to keepers.
const OF_EACH_START: [&str; 6] =
    ["INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_", "SYSTEMD_"];

/// What keepers are started as. Those of one program in one environment are just like one another.
fn keeper_program(path: PathBuf, config: &Config) -> launch::Program {
    let env = config.keys.keeper_env();
    let mut told = format!(
        "{path:?} {:?}\n",
        std::fs::metadata(&path)
            .map(|meta| { (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()) })
    );
    let of_this_start = |name: &OsStr| {
        OF_EACH_START.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
    };
    let mut variables: Vec<_> =
        std::env::vars_os().filter(|(name, _)| !of_this_start(name)).collect();
    variables.sort();
    for variable in &variables {
        told.push_str(&format!("{variable:?}\n"));
    }
    told.push_str(&format!("{env:?}"));
    // A digest, since secrets may be among them.
    let identity = Digest::of(told.as_bytes()).to_string();
    launch::Program { path, env, identity }
}

pub(crate) fn make_data_dir(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        Failure::new(
            ErrorKind::InvalidArgument,
            format!("data directory {}: {error}; --data names another", path.display()),
        )
    })
}

/// Puts every machine to sleep, as long as it takes, within a bound.
async fn sleep_all(control: &Control) {
    match control.machines().sleep_all(MACHINES_ASLEEP).await {
        Ok(machines) => tracing::info!(machines = machines.len(), "machines were put to sleep"),
        Err(error) => tracing::error!(%error, "not every machine could be put to sleep"),
    }
}

/// What ends the server.
struct Ends {
    term: Signal,
    int: Signal,
}

impl Ends {
    fn watch() -> Result<Self, Failure> {
        let of = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(ErrorKind::Internal, format!("watch for signals: {error}"))
            })
        };
        Ok(Self { term: of(SignalKind::terminate())?, int: of(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_may_take_long_to_boot_is_not_ended_sooner() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let start_max = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let place = PlaceArgs {
                config: Some(file.clone()),
                data: Some(folder.path().to_owned()),
                store: Some("file:///nowhere".to_owned()),
                ..PlaceArgs::default()
            };
            let config = Config::beside(&place, &HostArgs::default()).unwrap();
            settings(&config, ServerId::generate()).timing.start_max.as_secs()
        };
        assert_eq!(start_max(""), 180);
        assert_eq!(start_max("boot_timeout_seconds = 600"), 660);
        // What a keeper does before its guest boots takes its time on any host.
        assert_eq!(start_max("boot_timeout_seconds = 5"), 180);
        assert_eq!(start_max("boot_timeout_seconds = 18446744073709551615"), 3_660);
    }
}
