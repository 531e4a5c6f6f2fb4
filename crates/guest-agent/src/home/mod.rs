//! The machine's home: mounted on `/root`, served by the host, relayed by three threads.
//!
//! # Threads
//! `fuse-requests` reads `/dev/fuse` and sends to the host, and looks for the answer for a moment where there is
//! a ring; `fuse-replies` reads the port, where it is rung for too, and writes `/dev/fuse`; `fuse-notify` hands notifications to the kernel, which may keep it waiting until
//! an earlier *reply* arrives, so it must not be the thread that delivers replies.
//!
//! # Failure
//! A host that is gone leaves requests waiting: the machine ends with its host anyway. A host that
//! sends what is no FUSE message has lost the framing; the connection is aborted, so that programs
//! get errors instead of hanging, and `Hello` says why.

mod gate;
mod line;
mod notify;
mod place;
mod relay;
mod ring;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use tokio::sync::watch;

use crate::Error;
use crate::console::say;
use crate::limits::{BARRIER_TIMEOUT, FREEZE_POLL_INTERVAL};
use crate::port;
use crate::worker::Worker;
use gate::Gate;
use line::Line;
use notify::Notifications;
pub(crate) use place::Place;
use relay::Inbox;
pub(crate) use ring::Ring;

/// Where the home is mounted.
pub(crate) const HOME: &str = "/root";

/// A mounted home.
#[derive(Debug)]
pub(crate) struct Home {
    trouble: Arc<Trouble>,
    /// How many notifications the kernel has taken.
    taken: watch::Receiver<u64>,
    gate: Arc<Gate>,
    line: Arc<Line>,
}

/// Why the home no longer works, once it does not.
#[derive(Debug, Default)]
struct Trouble(Mutex<Option<String>>);

impl Trouble {
    fn set(&self, text: String) {
        say(&format!("home: {text}"));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A mount that nobody serves yet: the kernel keeps programs waiting.
#[derive(Debug)]
pub(crate) struct Stage {
    device: Arc<OwnedFd>,
    /// The port that its home will come through; closed.
    port: PathBuf,
    requests: Worker,
    replies: Worker,
    notifications: Notifications,
    taken: watch::Receiver<u64>,
}

impl Stage {
    /// Mounts it, and makes the threads of its relay.
    pub(crate) fn set() -> Result<Self, Error> {
        let port = port::find(agent_proto::FUSE_PORT)?;
        let device = open("/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(Error::sys("open /dev/fuse"))?;
        let device = Arc::new(device);
        let (notifications, taken) = Notifications::start(Arc::clone(&device))?;
        let (requests, replies) = (Worker::start("fuse-requests")?, Worker::start("fuse-replies")?);
        // Last: nobody would take away one that stays without a relay.
        mount_device(&device)?;
        Ok(Self { device, port, requests, replies, notifications, taken })
    }
}

impl Home {
    /// Has the relay begin.
    ///
    /// Returns before the host has answered anything: the kernel keeps programs waiting until it has.
    pub(crate) fn on(stage: Stage, ring: Option<Ring>) -> Result<Self, Error> {
        let Stage { device, port, requests, replies, notifications, taken } = stage;
        let line = Arc::new(Line::new(port::open_blocking(&port)?, ring));
        line.offer().map_err(Error::sys("offer the host a ring"))?;
        let (trouble, gate) = (Arc::new(Trouble::default()), Arc::new(Gate::default()));
        let inbox = Arc::new(Inbox { device, gate: Arc::clone(&gate), notifications });
        begin(&requests, &trouble, &gate, {
            let (line, inbox) = (Arc::clone(&line), Arc::clone(&inbox));
            move || relay::requests(&line, &inbox)
        })?;
        begin(&replies, &trouble, &gate, {
            let line = Arc::clone(&line);
            move || relay::replies(&line, &inbox)
        })?;
        Ok(Self { trouble, taken, gate, line })
    }

    /// Why it does not work, if it does not.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.get()
    }

    /// Returns once the kernel has taken the first `seq` notifications.
    ///
    /// # Errors
    /// `ETIMEDOUT` after [`BARRIER_TIMEOUT`], `ENODEV` where the relay has ended.
    pub(crate) async fn barrier(&self, seq: u64) -> Result<(), Errno> {
        let mut taken = self.taken.clone();
        let all = taken.wait_for(|taken| *taken >= seq);
        match tokio::time::timeout(BARRIER_TIMEOUT, all).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Errno::ENODEV),
            Err(_) => Err(Errno::ETIMEDOUT),
        }
    }

    /// Forwards nothing more to the host, and returns once nothing is under way there: every request
    /// is answered to the kernel, and the host has taken everything. What the kernel asks from then
    /// on is kept. The caller bounds the time, and thaws where it gives up.
    ///
    /// # Errors
    /// `ENODEV` where the relay has ended.
    pub(crate) async fn freeze(&self) -> Result<(), Errno> {
        self.gate.close();
        self.gate.drained().await?;
        // Nobody else sends now, so what was sent is before the mark, and that does not wait.
        while !self.line.is_clear()? {
            tokio::time::sleep(FREEZE_POLL_INTERVAL).await;
        }
        self.line.send_over_port(&self.gate.mark())?;
        self.gate.mark_answered().await
    }

    /// Forwards what was kept, and all that comes; to whichever host there is now.
    pub(crate) fn thaw(&self) {
        if let Err(errno) = self.line.offer() {
            say(&format!("home: offer the host a ring: {}", errno.desc()));
        }
        self.gate.open();
    }

    /// What a freeze waits for, in words.
    pub(crate) fn under_way(&self) -> String {
        self.gate.under_way()
    }
}

fn mount_device(device: &OwnedFd) -> Result<(), Error> {
    use std::os::fd::AsRawFd;
    let options = format!(
        "fd={},rootmode=40755,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    // No MS_NOSUID, no MS_NODEV: whoever owns the machine may do with the home as with any disk.
    mount(Some("dormouse"), HOME, Some("fuse.dormouse"), MsFlags::empty(), Some(&options[..]))
        .map_err(Error::sys(format!("mount {HOME}")))
}

fn begin(
    worker: &Worker,
    trouble: &Arc<Trouble>,
    gate: &Arc<Gate>,
    work: impl FnOnce() -> relay::End + Send + 'static,
) -> Result<(), Error> {
    let (trouble, gate) = (Arc::clone(trouble), Arc::clone(gate));
    worker.begin(move || {
        // A panic ends only this thread; what it was for is lost with it, so say so and abort.
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        gate.end();
        match end {
            Ok(relay::End::Unmounted) => {}
            Ok(relay::End::Failed(why)) => abort(&trouble, why),
            Err(_) => abort(&trouble, "the relay failed".to_owned()),
        }
    })
}

fn abort(trouble: &Trouble, why: String) {
    trouble.set(why);
    // It may be unmounted already.
    let _ = umount2(HOME, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
    // What would be written to the directory below is in nobody's home.
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    if let Err(errno) = mount(Some("lost-home"), HOME, Some("tmpfs"), flags, Some("size=4k")) {
        say(&format!("home: mount nothing in its place: {}", errno.desc()));
    }
}
