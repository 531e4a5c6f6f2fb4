//! Suspends an instance into files, and brings it back from them.
//!
//! The guest's memory lies in a file that QEMU maps shared, so that saving it is stopping the guest:
//! only the state of the devices, some 0.3 MB, is written (`x-ignore-shared`).
//!
//! # Order of a suspend
//! Stop the virtual CPUs; write the device state; end QEMU; sync both files. Only then is it said to
//! be done: a loss of power after that loses nothing.
//!
//! # Failure
//! Before QEMU is told to end, the guest goes on. A device state that does not fit, is damaged or
//! comes from another QEMU fails the start; the caller boots instead. QEMU checks it section by
//! section, and memory that does not belong to it is the caller's to keep apart: see [`Memory`].
//!
//! # Who can open them
//! Only the instance's own user while it runs, by descriptor; ours otherwise.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::os::unix::net::UnixStream;
use std::path::Path;

use guest_ring::Region;
use serde_json::json;

use super::qmp::{Qmp, migrated};
use super::start_error;
use crate::limits::DEVICE_STATE_BYTES_MAX;
use crate::{Error, Memory};

/// What QEMU calls the descriptor of the device state.
const STATE: &str = "state";
const MIB: u64 = 1 << 20;

/// Opens the file of a guest's memory, for QEMU to run as `user`. An empty one becomes as long as it
/// takes; one that was saved has to be as long.
pub(crate) fn open(memory: &Memory, mib: u64, user: Option<u32>) -> Result<Option<File>, Error> {
    let (path, saved) = match memory {
        Memory::Anonymous => return Ok(None),
        Memory::File(path) => (path, false),
        Memory::Saved { file, .. } => (file, true),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(!saved)
        .truncate(!saved)
        .mode(0o600)
        .open(path)
        .map_err(start_error("open the file of the guest's memory"))?;
    let length = file.metadata().map_err(start_error("look at the guest's memory"))?.len();
    if saved && length != mib * MIB {
        return Err(Error::Resume(format!("{length} bytes of memory for a guest of {mib} MiB")));
    }
    if user.is_some() {
        fchown(&file, user, user).map_err(start_error("hand over the guest's memory"))?;
    }
    Ok(Some(file))
}

/// Where QEMU's `microvm` puts its guest's memory: what fits below 3 GiB there, the rest above 4 GiB.
pub(crate) fn arrangement(mib: u64) -> Vec<Region> {
    const LOW_BYTES_MAX: u64 = 3 << 30;
    const HIGH: u64 = 4 << 30;
    let low = (mib * MIB).min(LOW_BYTES_MAX);
    let high = mib * MIB - low;
    vec![
        Region { address: 0, offset: 0, bytes: low },
        Region { address: HIGH, offset: low, bytes: high },
    ]
}

/// The device state that `memory` is to go on from.
pub(crate) fn open_state(memory: &Memory) -> Result<Option<File>, Error> {
    let Memory::Saved { state, .. } = memory else { return Ok(None) };
    let resume = |error: io::Error| Error::Resume(format!("open the device state: {error}"));
    let file = File::open(state).map_err(resume)?;
    let length = file.metadata().map_err(resume)?.len();
    if length == 0 || length > DEVICE_STATE_BYTES_MAX {
        return Err(Error::Resume(format!("a device state of {length} bytes")));
    }
    Ok(Some(file))
}

/// Has a QEMU that waits for it (`-incoming defer`) read the device state.
pub(crate) fn load(monitor: UnixStream, state: &File) -> Result<Loaded, Error> {
    let loaded = (|| {
        let mut qmp = Qmp::negotiate(monitor)?;
        ignore_shared(&mut qmp)?;
        qmp.give(STATE, state.as_fd())?;
        qmp.execute("migrate-incoming", json!({ "uri": format!("fd:{STATE}") }))?;
        migrated(&mut qmp)?;
        Ok::<_, io::Error>(Loaded { qmp })
    })();
    loaded.map_err(|error| Error::Resume(error.to_string()))
}

/// A guest that is loaded and does not run yet.
#[derive(Debug)]
pub(crate) struct Loaded {
    qmp: Qmp,
}

impl Loaded {
    /// Lets it run.
    pub(crate) fn go_on(mut self) -> Result<(), Error> {
        // It may have waited for the network, and others on this host with it.
        self.qmp.begin_anew();
        let told = self.qmp.execute("cont", json!({}));
        told.map(drop).map_err(|error| Error::Resume(error.to_string()))
    }
}

/// Stops the guest and writes its device state to a new file at `path`. The guest does not run when
/// this returns `Ok`; else it goes on, as far as QEMU still listens.
pub(crate) fn save(mut qmp: Qmp, path: &Path) -> io::Result<Stopped> {
    qmp.begin_anew();
    let state =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    ignore_shared(&mut qmp)?;
    qmp.execute("stop", json!({}))?;
    let saved = qmp
        .give(STATE, state.as_fd())
        .and_then(|()| qmp.execute("migrate", json!({ "uri": format!("fd:{STATE}") })))
        .and_then(|_| migrated(&mut qmp));
    match saved {
        Ok(()) => Ok(Stopped { qmp, state }),
        Err(error) => {
            // Where even this fails, the monitor is gone, and the guest with it.
            qmp.execute("cont", json!({})).ok();
            Err(error)
        }
    }
}

/// A guest that is saved; QEMU is still there.
#[derive(Debug)]
pub(crate) struct Stopped {
    qmp: Qmp,
    state: File,
}

impl Stopped {
    /// Ends QEMU. It may be gone before it has answered.
    pub(crate) fn quit(&mut self) {
        self.qmp.execute("quit", json!({})).ok();
    }

    /// The monitor of a QEMU that is to stay, and the device state.
    pub(crate) fn into_parts(self) -> (Qmp, File) {
        (self.qmp, self.state)
    }

    /// Brings both files to the disk, and takes `memory` back from QEMU's user, who has it open as long as it is there.
    pub(crate) fn sync(&self, memory: &Path) -> io::Result<()> {
        let memory = OpenOptions::new().write(true).open(memory)?;
        let us = nix::unistd::geteuid();
        if us.is_root() {
            fchown(&memory, Some(us.as_raw()), Some(nix::unistd::getegid().as_raw()))?;
        }
        memory.sync_all()?;
        self.state.sync_all()
    }
}

fn ignore_shared(qmp: &mut Qmp) -> io::Result<()> {
    let capabilities = json!([{ "capability": "x-ignore-shared", "state": true }]);
    qmp.execute("migrate-set-capabilities", json!({ "capabilities": capabilities })).map(drop)
}
