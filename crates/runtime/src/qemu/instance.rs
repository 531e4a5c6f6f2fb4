//! A running QEMU, as its owner holds it: waits for it, saves it, changes what it is held to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base::Egress;
use tokio::sync::watch;

use super::hypervisor::Hypervisor;
use super::memory::{self, Stopped};
use super::qmp::{Line, Qmp};
use super::room::{Grows, Told, Watch};
use super::start_error;
use super::warm::{Ends, Warm};
use crate::{Error, Exit, Instance, Measure, Spec};

/// How long a QEMU whose guest is saved may take to end before it is killed.
const QUIT_GRACE: Duration = Duration::from_secs(5);

/// A running QEMU.
#[derive(Debug)]
pub(crate) struct QemuInstance {
    hypervisor: Hypervisor,
    /// Taken by the one attempt to suspend that there is.
    monitor: Mutex<Option<Monitor>>,
    /// The file of its memory.
    memory: Option<PathBuf>,
    /// Whether the guest waits for room on its host's disk.
    waits_for_room: watch::Receiver<bool>,
    /// What is told of how it grows.
    told: Arc<Told>,
    /// What it takes to have it stay warm, where it can.
    ends: Mutex<Option<Ends>>,
    warm: watch::Sender<bool>,
}

/// Who has the monitor.
#[derive(Debug)]
enum Monitor {
    /// Nobody yet.
    Idle(Line, watch::Sender<bool>),
    Watch(Watch),
}

impl Monitor {
    fn take(self) -> io::Result<Qmp> {
        match self {
            Self::Idle(line, _) => line.meet(),
            Self::Watch(watch) => watch.end(),
        }
    }
}

impl QemuInstance {
    /// One of `hypervisor`, whose monitor is at `monitor`; its memory is in the file `memory`, if in any. `ends`: what it
    /// takes to have it stay warm later, where it can.
    pub(crate) fn of(
        hypervisor: Hypervisor,
        monitor: Line,
        memory: Option<&Path>,
        ends: Option<Ends>,
    ) -> Self {
        let (waits, waits_for_room) = watch::channel(false);
        let monitor = Mutex::new(Some(Monitor::Idle(monitor, waits)));
        let (ends, warm) = (Mutex::new(ends), watch::Sender::new(false));
        let memory = memory.map(Path::to_owned);
        Self { hypervisor, monitor, memory, waits_for_room, told: Arc::default(), ends, warm }
    }

    /// The guest runs from here on: it is looked whether its host's disk has room for what of it grows.
    pub(crate) fn look_for_room(&self, grows: Grows) -> Result<(), Error> {
        let mut monitor = self.monitor.lock().unwrap_or_else(PoisonError::into_inner);
        match monitor.take() {
            Some(Monitor::Idle(line, waits)) => {
                let watch = Watch::begin(line, grows, self.told.clone(), waits);
                let watch = watch.map_err(start_error("look for room on the disk"))?;
                *monitor = Some(Monitor::Watch(watch));
            }
            other => *monitor = other,
        }
        Ok(())
    }

    /// What can be changed while it runs was changed, or it is not known what is in force: then it does not stay warm.
    fn changed(&self, done: bool, change: impl FnOnce(&mut Spec)) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        match ends.as_mut() {
            Some(ends) if done => ends.change(change),
            _ => *ends = None,
        }
    }

    /// Saves the guest; QEMU is still there.
    async fn save(&self, state: &Path) -> Result<(Stopped, PathBuf), Error> {
        let Some(memory) = self.memory.clone() else {
            return Err(Error::NotSuspended("its memory is in no file".to_owned()));
        };
        let monitor = self.monitor.lock().unwrap_or_else(PoisonError::into_inner).take();
        let monitor = monitor.ok_or_else(|| Error::NotSuspended("it was tried".to_owned()))?;
        let state = state.to_owned();
        let stopped = blocking(move || memory::save(monitor.take()?, &state))
            .await
            .map_err(|error| Error::NotSuspended(error.to_string()))?;
        self.hypervisor.is_suspended(true);
        Ok((stopped, memory))
    }

    /// Ends QEMU, whose guest is saved.
    async fn quit(&self, mut stopped: Stopped, memory: PathBuf) -> Result<(), Error> {
        let stopped = blocking(move || {
            stopped.quit();
            Ok(stopped)
        });
        let stopped = stopped.await.map_err(|error| Error::Suspend(error.to_string()))?;
        // It has nothing to do any more, so it is not waited for long.
        self.stop(QUIT_GRACE).await;
        blocking(move || stopped.sync(&memory)).await.map_err(not_on_the_disk)
    }
}

fn not_on_the_disk(error: io::Error) -> Error {
    Error::Suspend(format!("bring its memory to the disk: {error}"))
}

#[async_trait]
impl Instance for QemuInstance {
    fn pid(&self) -> u32 {
        self.hypervisor.pid()
    }

    async fn wait(&self) -> Exit {
        let mut warm = self.warm.subscribe();
        let warm = async { warm.wait_for(|is| *is).await.is_ok() };
        tokio::select! {
            _ = warm => Exit::Suspended,
            exit = self.hypervisor.ended() => exit,
        }
    }

    async fn stop(&self, grace: Duration) -> Exit {
        if let Ok(exit) = tokio::time::timeout(grace, self.wait()).await {
            return exit;
        }
        self.hypervisor.kill();
        self.wait().await
    }

    async fn suspend(&self, state: &Path) -> Result<(), Error> {
        let (stopped, memory) = self.save(state).await?;
        self.quit(stopped, memory).await
    }

    async fn suspend_warm(&self, state: &Path) -> Result<bool, Error> {
        let (stopped, memory) = self.save(state).await?;
        let Some(ends) = self.ends.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return self.quit(stopped, memory).await.map(|()| false);
        };
        let hypervisor = self.hypervisor.hand_on();
        let warm = blocking(move || {
            hypervisor.hold()?;
            stopped.sync(&memory)?;
            let (qmp, state) = stopped.into_parts();
            Warm::new(hypervisor, qmp, ends, state).put_away();
            Ok(())
        });
        warm.await.map_err(not_on_the_disk)?;
        self.warm.send_replace(true);
        Ok(true)
    }

    async fn set_egress(&self, egress: &Egress) -> Result<(), Error> {
        let (place, egress) = (self.hypervisor.place(), egress.clone());
        let place = place.ok_or_else(|| Error::Egress("the instance has ended".to_owned()))?;
        let allowed = egress.clone();
        let set = blocking(move || place.set_egress(&egress)).await;
        self.changed(set.is_ok(), |spec| spec.egress.allowed = allowed);
        set.map_err(|error| Error::Egress(error.to_string()))
    }

    async fn set_vcpu(&self, vcpu: f64) -> Result<(), Error> {
        let place = self.hypervisor.place();
        let place = place.ok_or_else(|| Error::Shares("the instance has ended".to_owned()))?;
        let set = blocking(move || place.set_vcpu(vcpu)).await;
        self.changed(set.is_ok(), |spec| spec.vcpu = vcpu);
        set.map_err(|error| Error::Shares(error.to_string()))
    }

    fn count_beside(&self, measure: Measure) {
        self.told.count_beside(measure);
    }

    fn expect_stop(&self) {
        self.told.expect_stop();
    }

    fn waits_for_room(&self) -> watch::Receiver<bool> {
        self.waits_for_room.clone()
    }

    fn console_tail(&self) -> String {
        self.hypervisor.console_tail()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
