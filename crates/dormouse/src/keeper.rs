//! `dormouse keeper`: the process that owns one awake machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, ErrorKind, SystemClock, SystemEntropy};
use clap::Args;
use keeper::layout::MachineDir;
use keeper::{KeeperSpec, Parts};
use runtime::{Qemu, QemuSettings};
use tokio_util::sync::CancellationToken;

use crate::store::{self, KeySource};
use crate::{Failure, telemetry, tokio_runtime};

/// How long calls that are still under way have at the end.
const STRAGGLERS: Duration = Duration::from_millis(500);

/// Flags of `keeper`.
#[derive(Debug, Args)]
pub(crate) struct KeeperArgs {
    /// The machine's directory.
    #[arg(long)]
    dir: PathBuf,
}

pub(crate) fn main(args: &KeeperArgs) -> Result<u8, Failure> {
    // A session of our own: what ends the server's terminal or process group must not end us.
    // Fails only where we are a group leader already, which is as good.
    nix::unistd::setsid().ok();
    telemetry::init_logs();
    let dir = MachineDir::new(&args.dir);
    let clock = SystemClock::new();
    let begun = KeeperSpec::load(&dir).and_then(|spec| {
        let keys = KeySource::from_env().map(Option::unwrap_or_default);
        let opened = tokio_runtime().and_then(|runtime| {
            let store = runtime.block_on(store::reopen(&spec.store_url, &keys?))?;
            Ok((store, runtime))
        });
        let (store, runtime) =
            opened.map_err(|failure| keeper::Failure::new(failure.kind, failure.message))?;
        Ok((spec, store, runtime))
    });
    let (spec, store, runtime) = begun.map_err(|failure| {
        keeper::refuse(&dir, &failure, clock.now());
        Failure::new(failure.kind, failure.message)
    })?;
    let last = runtime.block_on(async {
        let terminate = CancellationToken::new();
        let signal = terminate.clone();
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|error| {
                Failure::new(ErrorKind::Internal, format!("watch for signals: {error}"))
            })?;
        tokio::spawn(async move {
            term.recv().await;
            signal.cancel();
        });
        let parts = Parts {
            store,
            runtime: Arc::new(Qemu::new(qemu_settings(spec.hypervisor.clone()))),
            clock: Arc::new(clock),
            entropy: Arc::new(SystemEntropy),
            terminate,
        };
        Ok::<_, Failure>(keeper::run(dir, spec, parts).await)
    });
    // A file call may still wait for a store that is away; the machine is not kept from its next keeper.
    runtime.shutdown_timeout(STRAGGLERS);
    match last?.error {
        None => Ok(0),
        Some((kind, message)) => Err(Failure::new(kind, message)),
    }
}

/// The hypervisor that was configured, or the one in `PATH`.
pub(crate) fn qemu_settings(program: Option<PathBuf>) -> QemuSettings {
    let defaults = QemuSettings::default();
    QemuSettings { program: program.unwrap_or(defaults.program), ..QemuSettings::default() }
}
