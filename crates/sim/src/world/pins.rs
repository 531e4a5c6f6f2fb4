//! Snapshots, restores, forks and the end of homes.
//!
//! # Always true
//! - A snapshot that was confirmed shows what the home held then, whatever was written, restored,
//!   collected and deleted since. [`World::look_at`] forks it to see.
//! - A fork shows what its parent held, also where the parent is gone.
//! - A home that was deleted is not there any more, and who wrote it confirms nothing more.

use std::time::Duration;

use base::{Clock as _, ErrorKind, HomeId, SnapshotId};
use homefs::{Depth, HomeFs, Snapshot};
use vfs::{Errno, FileSystem as _, FsError, Kind, Owner, ROOT};

use super::host::Writer;
use super::writers::watched;
use super::{Belief, Check, Held, RUNTIME, World, scratch};
use crate::chance::uuid;
use crate::tree::{Tree, observe};

/// Homes at a time.
const HOMES_MAX: usize = 4;
/// A fork that takes longer may be given up by a collector.
const FORK_PATIENCE: Duration = Duration::from_secs(3600);
/// Snapshots at a time, of all homes.
const KEPT_MAX: usize = 4;

/// A snapshot.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) home: usize,
    id: SnapshotId,
    may: Vec<Tree>,
    /// Somebody was told that it is there.
    pub(super) certain: bool,
}

/// How a restore shows in [`Belief::doubt`].
fn restorer(host: usize) -> usize {
    2_000 + host
}

/// As the error of a sync, which a snapshot of an open home begins with.
fn of_sync(error: &homefs::Error) -> FsError {
    FsError::of_kind(error.kind(), Errno::EIO, error.to_string())
}

impl World {
    fn fresh<T: std::str::FromStr<Err: std::fmt::Debug>>(&mut self, prefix: &str) -> T {
        self.ids += 1;
        let id = uuid(&[prefix.as_bytes(), &self.seed.to_le_bytes(), &self.ids.to_le_bytes()]);
        format!("{prefix}-{id}").parse().expect("it is an id")
    }

    /// Keeps the newest state, through its writer where the host has one.
    pub(super) fn snapshot(&mut self, host: usize, home: usize) -> Check {
        if self.kept.len() >= KEPT_MAX {
            return self.let_go(host);
        }
        let id: SnapshotId = self.fresh("snap");
        if let Some(writer) = self.hosts[host].writers.get(&home) {
            let done = watched(&writer.fs, &writer.wire, |fs| fs.snapshot(&id, None));
            let seq = done.as_ref().ok().map(|info| info.seq);
            self.note(format!("snapshot h{host} home{home}, open: commit {seq:?}"));
            let may = vec![self.hosts[host].locals[&home].tree.clone()];
            self.kept.push(Kept { home, id, may, certain: done.is_ok() });
            return self.kept_open(host, home, done.map(drop).map_err(|error| of_sync(&error)));
        }
        let (parts, _) = self.process(host, true);
        let (of, may) = (self.homes[home].0.clone(), self.homes[home].1.may.clone());
        let done = RUNTIME.block_on(homefs::snapshot(&parts, &of, &id, Some("kept")));
        let (certain, seq) = (done.is_ok(), done.as_ref().ok().map(|(info, _)| info.seq));
        self.note(format!("snapshot h{host} home{home}: commit {seq:?}"));
        self.kept.push(Kept { home, id, may, certain });
        match done {
            Err(error) if error.kind() != ErrorKind::Unavailable => {
                Err(format!("home {home} cannot be kept: {error}"))
            }
            _ => Ok(()),
        }
    }

    /// A snapshot or fork of an open home was tried. One that failed may have stored everything and
    /// lost only its pin: where the store shows that, a later sync has nothing to store, also after
    /// somebody took the home.
    fn kept_open(&mut self, host: usize, home: usize, outcome: vfs::Result<()>) -> Check {
        let failed = outcome.is_err();
        self.synced(host, home, outcome)?;
        if !failed || !self.hosts[host].writers.contains_key(&home) {
            return Ok(());
        }
        let ((parts, _), dir) = (self.process(host, false), scratch());
        let stored = Snapshot::open_published(self.homes[home].0.clone(), dir.path(), parts)
            .map_err(|error| format!("home {home} cannot be read: {error}"))?;
        let shows = observe(&stored)
            .map_err(|(path, error)| format!("home {home}: {path:?} cannot be read: {error}"))?;
        if shows.differs(&self.hosts[host].locals[&home].tree).is_none()
            && let Some(writer) = self.hosts[host].writers.get_mut(&home)
        {
            writer.dirty = false;
        }
        Ok(())
    }

    /// Lets go of a snapshot.
    pub(super) fn let_go(&mut self, host: usize) -> Check {
        let n = self.chance.index(self.kept.len().max(1));
        let Some(kept) = self.kept.get(n).cloned() else { return Ok(()) };
        let (parts, _) = self.process(host, true);
        let of = self.homes[kept.home].0.clone();
        let done = RUNTIME.block_on(homefs::delete_snapshot(&parts, &of, &kept.id));
        self.note(format!("let go of {} of home{}: {}", kept.id, kept.home, done.is_ok()));
        match done {
            Ok(()) => {
                self.kept.remove(n);
                let (parts, _) = self.process(host, false);
                let info = RUNTIME.block_on(homefs::snapshot_info(&parts, &of, &kept.id));
                match info.map_err(|error| error.kind()) {
                    Err(ErrorKind::NotFound) => Ok(()),
                    other => Err(format!("a snapshot that was deleted is there: {other:?}")),
                }
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.kept[n].certain = false;
                Ok(())
            }
            Err(error) => Err(format!("a snapshot cannot be deleted: {error}")),
        }
    }

    /// Looks at one of the snapshots.
    pub(super) fn look(&mut self) -> Check {
        let n = self.chance.index(self.kept.len().max(1));
        if self.kept.get(n).is_some_and(|kept| kept.certain) { self.look_at(n) } else { Ok(()) }
    }

    /// Everything that a snapshot names is there, and shows what it must: in a fork of it.
    pub(super) fn look_at(&mut self, n: usize) -> Check {
        let Kept { home, id, may, .. } = self.kept[n].clone();
        let (parts, _) = self.process(0, false);
        let (of, server) = (self.homes[home].0.clone(), self.hosts[0].server.clone());
        self.check_whole(home, Some(&id))?;
        let child: HomeId = self.fresh("home");
        let failed = |error| format!("snapshot {id} of home {home} cannot be forked: {error}");
        RUNTIME.block_on(homefs::fork(&parts, &of, Some(&id), &child, &server)).map_err(failed)?;
        let dir = scratch();
        let fs = Snapshot::open_published(child.clone(), dir.path(), parts.clone())
            .map_err(|error| format!("a fork of snapshot {id} cannot be read: {error}"))?;
        let shows = observe(&fs).map_err(|(path, error)| {
            format!("snapshot {id} of home {home} names {path:?}, which is gone: {error}")
        })?;
        drop(fs);
        let belief = Belief { may, ..Belief::default() };
        if !belief.allows(&shows) {
            let why = belief.objection(&shows);
            return Err(format!("snapshot {id} of home {home} shows something else: {why}"));
        }
        self.note(format!("look at {id} of home{home}"));
        self.summary.pinned += 1;
        RUNTIME
            .block_on(homefs::delete_home(&parts, &child))
            .map_err(|error| format!("a fork cannot be deleted: {error}"))
    }

    /// `fsck` finds nothing.
    pub(super) fn check_whole(&mut self, home: usize, at: Option<&SnapshotId>) -> Check {
        let (parts, _) = self.process(0, false);
        let (dir, of) = (scratch(), self.homes[home].0.clone());
        let report = homefs::fsck(&parts, &of, at, Depth::Deep, dir.path(), &mut |_| ())
            .map_err(|error| format!("home {home} at {at:?} cannot be checked: {error}"))?;
        let wrong = report.lost.items.iter().chain(&report.damaged.items).next();
        match wrong {
            None => Ok(()),
            Some(wrong) => Err(format!("home {home} at {at:?} is not whole: {wrong:?}")),
        }
    }

    /// Takes a home back to a snapshot; `die`: the process dies somewhere in it.
    pub(super) fn restore(&mut self, host: usize, home: usize, die: bool) -> Check {
        let mine: Vec<Kept> = self.kept.iter().filter(|kept| kept.home == home).cloned().collect();
        let (nth, after) = (1 + self.chance.below(8), self.chance.percent(50));
        let Some(Kept { id, may, certain, .. }) = self.chance.of(&mine).cloned() else {
            return Ok(());
        };
        let owner = self.hosts.iter().position(|host| host.writers.contains_key(&home));
        if let Some(owner) = owner
            && self.chance.percent(70)
        {
            self.release(owner, home, false)?;
        }
        let (parts, wire) = self.process(host, true);
        if die {
            wire.die_at(nth, after);
        }
        let (of, server) = (self.homes[home].0.clone(), self.hosts[host].server.clone());
        let done = RUNTIME.block_on(homefs::restore(&parts, &of, &id, &server));
        let died = wire.is_dead();
        let said = done.as_ref().map(|head| head.seq).map_err(homefs::Error::kind);
        self.note(format!("restore h{host} home{home} to {id}: {said:?}, died {died}"));
        let belief = &mut self.homes[home].1;
        let held = matches!(belief.held, Held::By(_));
        match said {
            Ok(_) if held => return Err(format!("home {home}, which is held, was restored")),
            Ok(_) => {
                belief.may = may;
                belief.claimed(Held::Released);
                self.summary.confirmed += 1;
                self.summary.pinned += 1;
            }
            Err(ErrorKind::Fenced) if belief.held != Held::Released => {}
            Err(ErrorKind::NotFound) if !certain => {}
            Err(ErrorKind::Unavailable) => {
                if !held {
                    may.iter().for_each(|tree| belief.might(tree));
                    belief.doubted(restorer(host));
                }
            }
            Err(kind) => return Err(format!("home {home} cannot be restored: {kind:?}")),
        }
        Ok(())
    }

    /// Makes another home that goes on from this one, or from a snapshot of it.
    pub(super) fn fork(&mut self, host: usize, home: usize) -> Check {
        let kept: Vec<Kept> =
            self.kept.iter().filter(|kept| kept.home == home && kept.certain).cloned().collect();
        let kept = if self.chance.percent(40) { self.chance.of(&kept).cloned() } else { None };
        let mut into: HomeId = self.fresh("home");
        let (of, server) = (self.homes[home].0.clone(), self.hosts[host].server.clone());
        let at = kept.as_ref().map(|kept| kept.id.clone());
        let open = at.is_none() && self.hosts[host].writers.contains_key(&home);
        let mut may = kept.map_or_else(|| self.homes[home].1.may.clone(), |kept| kept.may);
        let done = if open {
            let writer = &self.hosts[host].writers[&home];
            let done = watched(&writer.fs, &writer.wire, |fs| fs.fork(&into));
            let tree = self.hosts[host].locals[&home].tree.clone();
            if done.is_ok() {
                may = vec![tree];
            } else {
                may.push(tree);
            }
            let synced = done.as_ref().map(drop).map_err(of_sync);
            self.kept_open(host, home, synced)?;
            done
        } else {
            let (parts, _) = self.process(host, true);
            RUNTIME.block_on(homefs::fork(&parts, &of, at.as_ref(), &into, &server))
        };
        let said = done.as_ref().map(|head| head.seq).map_err(homefs::Error::kind);
        self.note(format!("fork h{host} home{home} at {at:?}: {said:?}"));
        match said {
            Ok(_) => self.summary.pinned += 1,
            // Between the halves time passes, and garbage goes.
            Err(ErrorKind::Unavailable | ErrorKind::Fenced) => {
                let begun = self.hosts[host].clock.now();
                self.collect(host, home, false)?;
                may.extend(self.homes[home].1.may.clone());
                let since = self.hosts[host].clock.now().duration_since(begun);
                let late = since.try_into().is_ok_and(|since: Duration| since >= FORK_PATIENCE);
                into = self.finish_fork(host, home, at.as_ref(), into, late)?;
            }
            Err(kind) => return Err(format!("home {home} cannot be forked: {kind:?}")),
        }
        let belief = Belief { may, ..Belief::default() };
        if self.homes.len() < HOMES_MAX {
            self.homes.push((into, belief));
        } else {
            let victim = (home + 1 + self.chance.index(self.homes.len() - 1)) % self.homes.len();
            self.delete(host, victim)?;
            self.homes[victim] = (into, belief);
        }
        Ok(())
    }

    /// A fork that failed is made after all: as the same home, or, where it is `late` and was given
    /// up meanwhile, as another one. Returns which.
    fn finish_fork(
        &mut self,
        host: usize,
        home: usize,
        at: Option<&SnapshotId>,
        into: HomeId,
        late: bool,
    ) -> Check<HomeId> {
        let (parts, _) = self.process(host, false);
        let (of, server) = (self.homes[home].0.clone(), self.hosts[host].server.clone());
        let fork = |into: &HomeId| {
            RUNTIME
                .block_on(homefs::fork(&parts, &of, at, into, &server))
                .map_err(|error| (error.kind(), format!("a fork cannot be made: {error}")))
        };
        let done = match fork(&into) {
            Err((ErrorKind::NotFound, _)) if late => {
                let other: HomeId = self.fresh("home");
                fork(&other).map(|_| other)
            }
            done => done.map(|_| into),
        };
        done.map_err(|(_, error)| error)
    }

    /// Ends a home; its place is free.
    fn delete(&mut self, host: usize, home: usize) -> Check {
        let of = self.homes[home].0.clone();
        let (parts, _) = self.process(host, true);
        let mut done = RUNTIME.block_on(homefs::delete_home(&parts, &of));
        self.note(format!("delete h{host} home{home}: {}", done.is_ok()));
        if done.is_err() {
            let (parts, _) = self.process(host, false);
            done = RUNTIME.block_on(homefs::delete_home(&parts, &of));
        }
        done.map_err(|error| format!("home {home} cannot be deleted: {error}"))?;
        for owner in 0..self.hosts.len() {
            self.write_after_the_end(owner, home)?;
        }
        self.kept.retain(|kept| kept.home != home);
        let (parts, _) = self.process(host, false);
        match RUNTIME.block_on(homefs::head(&parts, &of)).map_err(|error| error.kind()) {
            Err(ErrorKind::NotFound) => Ok(()),
            other => Err(format!("home {home} was deleted and is there: {other:?}")),
        }
    }

    /// A writer of a home that was deleted confirms nothing.
    fn write_after_the_end(&mut self, owner: usize, home: usize) -> Check {
        let zombie = self.hosts[owner].writers.get(&home);
        let acted = |writer: &&Writer| {
            let name = b"after the end";
            writer.fs.mknod(ROOT, name, Kind::File, 0o644, Owner { uid: 0, gid: 0 }, 0).is_ok()
        };
        if let Some(writer) = zombie.filter(acted)
            && watched(&writer.fs, &writer.wire, |fs: &HomeFs| fs.sync(None)).is_ok()
        {
            return Err(format!("host {owner} confirmed a sync of home {home}, deleted"));
        }
        self.lose_disk(owner, home);
        Ok(())
    }
}
