//! Sleep and wake, kills, and what comes after. Asleep, calls go to a draft, which is published when the
//! home wakes.

use std::time::Duration;

use homefs::{Depth, Draft, HomeFs, HomeSettings, Published};
use vfs::FileSystem;

use super::{Both, Pair};
use crate::world::scratch;

/// What takes the calls.
#[derive(Debug)]
pub(super) enum Live {
    Awake(HomeFs),
    Asleep(Draft),
}

impl Live {
    pub(super) fn fs(&self) -> &dyn FileSystem {
        match self {
            Self::Awake(home) => home,
            Self::Asleep(draft) => draft,
        }
    }
}

impl Pair {
    pub(super) fn fs(&self) -> &dyn FileSystem {
        self.home.as_ref().expect("it is open between calls").fs()
    }

    fn settings(&self, of: &str) -> HomeSettings {
        let dir = self.dir.path().join(format!("disk-{}/{of}", self.disks));
        HomeSettings {
            bytes_max: self.bytes_max,
            replicate_after: Duration::from_secs(86_400),
            ..HomeSettings::new(self.id.clone(), dir, self.server.clone())
        }
    }

    pub(super) fn open(&mut self) -> Result<(), String> {
        let live = if self.asleep {
            Draft::open(self.settings("draft"), self.parts()).map(Live::Asleep)
        } else {
            HomeFs::open_writer(self.settings("home"), self.parts()).map(|(fs, _)| Live::Awake(fs))
        };
        self.home = Some(live.map_err(|error| format!("it does not open: {error}"))?);
        Ok(())
    }

    /// The process ends, and another begins.
    pub(super) fn reopen(&mut self) -> Result<(), String> {
        drop(self.home.take());
        self.open()?;
        self.walks.clear();
        // Pins do not survive; with them go inodes that nothing names.
        for both in std::mem::take(&mut self.known) {
            for _ in 0..both.pins {
                self.model.unpin(both.model);
            }
            if self.model.getattr(both.model).is_ok() {
                self.known.push(Both { pins: 0, ..both });
            }
        }
        self.compare()
    }

    /// After a sync the disk is lost, and another host goes on. A draft is on no other: it is published.
    pub(super) fn lose_disk(&mut self) -> Result<(), String> {
        if self.asleep {
            self.fall_asleep_or_wake()?;
        }
        self.disks += 1;
        self.reopen()
    }

    pub(super) fn sleep_or_wake(&mut self) -> Result<(), String> {
        self.fall_asleep_or_wake()?;
        self.reopen()
    }

    fn fall_asleep_or_wake(&mut self) -> Result<(), String> {
        match self.home.take() {
            Some(Live::Awake(home)) => {
                home.release().map_err(|error| format!("it does not fall asleep: {error}"))?;
            }
            Some(Live::Asleep(draft)) => {
                let done = draft.publish().map_err(|error| format!("publish: {error}"))?;
                if !matches!(done, Published::Committed { .. }) {
                    return Err(format!("nobody was there, and a draft is late: {done:?}"));
                }
                drop(draft);
                Draft::discard(self.settings("draft").dir, &self.parts())
                    .map_err(|error| format!("a draft cannot be discarded: {error}"))?;
            }
            None => return Err("it is closed".into()),
        }
        self.asleep = !self.asleep;
        Ok(())
    }

    /// At the end: compared, stored, read on a host that knows nothing, and whole.
    pub(in super::super) fn end(&mut self) -> Result<(), String> {
        self.compare()?;
        self.fs().sync(None).map_err(|error| format!("sync: {error}"))?;
        self.compare()?;
        self.lose_disk()?;
        self.inodes_used(self.fs())?;
        self.fall_asleep_or_wake()?;
        let dir = scratch();
        let report =
            homefs::fsck(&self.parts(), &self.id, None, Depth::Deep, dir.path(), &mut |_| ())
                .map_err(|error| format!("it cannot be checked: {error}"))?;
        match report.lost.items.iter().chain(&report.damaged.items).next() {
            None => Ok(()),
            Some(wrong) => Err(format!("it is not whole: {wrong:?}")),
        }
    }
}
