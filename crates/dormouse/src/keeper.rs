//! `dormouse keeper`: the process that owns one awake machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, ErrorKind, SystemClock, SystemEntropy};
use clap::Args;
use keeper::layout::MachineDir;
use keeper::{Ended, Hold, KeeperSpec, LastWords, Parts, launch, warm};
use runtime::{Qemu, QemuSettings, Runtime as _, THREADS};
use tokio_util::sync::CancellationToken;

use crate::store::{self, KeySource};
use crate::{Failure, allocator, dirs, telemetry, tokio_runtime};

/// How long calls that are still under way have at the end.
const STRAGGLERS: Duration = Duration::from_millis(500);

/// A process begins anew after so many lives, whatever has come together in it: the next wake takes a little longer.
const LIVES_MAX: u32 = 64;

/// The thread that listens for signals.
const SIGNALS: &str = "signals";

/// Flags of `keeper`.
#[derive(Debug, Args)]
pub(crate) struct KeeperArgs {
    /// The machine's directory.
    #[arg(long)]
    dir: PathBuf,
}

pub(crate) fn main(args: &KeeperArgs) -> Result<u8, Failure> {
    allocator::of_keeper();
    // A session of our own: what ends the server's terminal or process group must not end us.
    // Fails only where we are a group leader already, which is as good.
    nix::unistd::setsid().ok();
    telemetry::init_logs();
    let dir = MachineDir::new(&args.dir);
    hold_to_share(&dir);
    let terminate = terminations()?;
    let mut process = Process { terminate, hypervisors: None, hold: None };
    for life in 1.. {
        let last = process.live(&dir)?;
        if !process.stays_warm(&dir, &last, life)? {
            return match last.error {
                None => Ok(0),
                Some((kind, message)) => Err(Failure::new(kind, message)),
            };
        }
    }
    Ok(0)
}

/// What goes on from one life as keeper to the next.
struct Process {
    /// Cancelled when the process is asked to end.
    terminate: CancellationToken,
    hypervisors: Option<(KeeperSpec, Arc<Qemu>)>,
    hold: Option<Hold>,
}

impl Process {
    /// One life as keeper.
    fn live(&mut self, dir: &MachineDir) -> Result<LastWords, Failure> {
        let clock = SystemClock::new();
        let begun = KeeperSpec::load(dir).and_then(|spec| {
            let keys = KeySource::from_env().map(Option::unwrap_or_default);
            let opened = tokio_runtime().and_then(|runtime| {
                let store = runtime.block_on(store::reopen(&spec.store_url, &keys?))?;
                Ok((store, runtime))
            });
            let (store, runtime) =
                opened.map_err(|failure| keeper::Failure::new(failure.kind, failure.message))?;
            Ok((spec, store, runtime))
        });
        let hold = self.hold.take();
        let (spec, store, runtime) = match begun {
            Ok(begun) => begun,
            Err(failure) => {
                // It is gone when anybody hears of that.
                if let Some((_, qemu)) = &self.hypervisors {
                    qemu.end_warm();
                }
                keeper::refuse(dir, hold, &failure, clock.now());
                return Err(Failure::new(failure.kind, failure.message));
            }
        };
        let qemu = self.qemu(&spec);
        let ended = runtime.block_on(async {
            let parts = Parts {
                store,
                runtime: qemu,
                clock: Arc::new(clock),
                entropy: Arc::new(SystemEntropy),
                terminate: self.terminate.child_token(),
            };
            Ok::<_, Failure>(keeper::run(dir.clone(), spec, parts, hold).await)
        });
        // A file call may still wait for a store that is away; the machine is not kept from its next keeper.
        runtime.shutdown_timeout(STRAGGLERS);
        let Ended { words, hold } = ended?;
        self.hold = hold;
        Ok(words)
    }

    /// What has a guest loaded goes on, where it is still what is wanted.
    fn qemu(&mut self, spec: &KeeperSpec) -> Arc<Qemu> {
        let kept = self.hypervisors.take().filter(|(was, _)| was.hypervisor == spec.hypervisor);
        let new = || Arc::new(Qemu::new(qemu_settings(spec.hypervisor.clone())));
        let qemu = kept.map_or_else(new, |(_, qemu)| qemu);
        self.hypervisors = Some((spec.clone(), qemu.clone()));
        qemu
    }

    /// Stays with a guest that is warm. True where the process is to be the machine's keeper again.
    fn stays_warm(
        &mut self,
        dir: &MachineDir,
        last: &LastWords,
        life: u32,
    ) -> Result<bool, Failure> {
        let Some(hold) = self.hold.take() else { return Ok(false) };
        let (spec, qemu) = match &self.hypervisors {
            Some((spec, qemu)) if qemu.warm() => (spec, qemu),
            _ => {
                hold.keep_for_life();
                return Ok(false);
            }
        };
        let identity = dirs::variable(launch::IDENTITY_VARIABLE).unwrap_or_default();
        let is_well = last.released && last.error.is_none() && !self.terminate.is_cancelled();
        let can = life < LIVES_MAX && hold.can_be_given_up() && !identity.is_empty();
        if !is_well || !can || !warm::is_over(&[&THREADS[..], &[SIGNALS]].concat()) {
            hold.keep_for_life();
            qemu.end_warm();
            return Ok(false);
        }
        let runtime = match tokio_runtime_small() {
            Ok(runtime) => runtime,
            Err(failure) => {
                qemu.end_warm();
                hold.keep_for_life();
                return Err(failure);
            }
        };
        let waits = warm::Waits {
            identity: &identity,
            patience: Duration::from_secs(spec.warm_seconds),
            terminate: &self.terminate,
        };
        let waiting = warm::wait(dir, hold, &waits, || qemu.warm());
        let roused = runtime.block_on(waiting);
        self.hold = roused.map_err(|failure| Failure::new(failure.kind, failure.message))?;
        if self.hold.is_none() {
            qemu.end_warm();
            warm::leave(dir);
        }
        Ok(self.hold.is_some())
    }
}

/// What a guest has us do takes nothing from other machines. Before any thread begins.
fn hold_to_share(dir: &MachineDir) {
    // Who cannot read it says so later.
    let Ok(KeeperSpec { instance, .. }) = KeeperSpec::load(dir) else { return };
    if let Err(error) = runtime::hold_this_process(&instance.machine, instance.vcpu) {
        tracing::warn!(%error, "no control groups: this process is held to no share of CPU time");
    }
}

/// Cancelled when the process is asked to end, at whatever time: a thread listens for it as long as the process lives.
fn terminations() -> Result<CancellationToken, Failure> {
    let failed = |error| Failure::new(ErrorKind::Internal, format!("watch for signals: {error}"));
    let runtime = tokio_runtime_small()?;
    let mut term = {
        let _context = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(failed)?
    };
    let token = CancellationToken::new();
    let signal = token.clone();
    let listen = move || {
        runtime.block_on(term.recv());
        signal.cancel();
    };
    std::thread::Builder::new().name(SIGNALS.to_owned()).spawn(listen).map_err(failed)?;
    Ok(token)
}

/// For a process that does nothing but wait.
fn tokio_runtime_small() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ErrorKind::Internal, format!("start the runtime: {error}")))
}

/// The hypervisor that was configured, or the one in `PATH`.
pub(crate) fn qemu_settings(program: Option<PathBuf>) -> QemuSettings {
    let defaults = QemuSettings::default();
    QemuSettings { program: program.unwrap_or(defaults.program), ..QemuSettings::default() }
}
