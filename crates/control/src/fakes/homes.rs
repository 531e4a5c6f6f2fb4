//! Sleeping homes on a [`FakeHost`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Epoch, ErrorKind, HomeId, ServerId, SnapshotId, Timestamp};

use super::FakeTree;
use super::world::{FakeHome, FakeHost, no_such};
use crate::files::FileCalls;
use crate::homes::{
    DraftChanges, DraftPublished, HomeAt, HomeHead, HomeSnapshot, HomeState, Homes,
};
use crate::host::UpperHolder;
use crate::{Error, Result};

impl FakeHome {
    pub(super) fn keep(
        &mut self,
        tree: FakeTree,
        id: &SnapshotId,
        name: Option<&str>,
    ) -> Result<HomeSnapshot> {
        if name.is_some_and(str::is_empty) {
            return Err(Error::invalid("a snapshot's name has at least one byte"));
        }
        let made = HomeSnapshot {
            id: id.clone(),
            name: name.map(str::to_owned),
            time: Timestamp::UNIX_EPOCH,
            damaged: None,
        };
        Ok(self.snapshots.entry(id.clone()).or_insert((made, tree)).0.clone())
    }

    fn kept_state(&self) -> HomeState {
        HomeState { epoch: Epoch(self.seq), released: !self.held }
    }

    fn kept(&self, id: &SnapshotId) -> Result<&(HomeSnapshot, FakeTree)> {
        self.snapshots.get(id).ok_or_else(|| no_such(id))
    }
}

impl FakeHost {
    /// Somebody has the home just before its state is kept, where a test wants that.
    fn claim_first(&self, home: &HomeId) {
        let mut state = self.state.lock();
        let holder = state.claim_before_pin.clone();
        if holder.is_some()
            && let Some(home) = state.homes.get_mut(home)
        {
            (home.held, home.seq, home.holder) = (true, home.seq + 1, holder);
        }
    }

    /// And gives it up again right after.
    fn give_up_again(&self, home: &HomeId) {
        let mut state = self.state.lock();
        if state.given_up_after_pin
            && let Some(home) = state.homes.get_mut(home)
        {
            (home.held, home.seq) = (false, home.seq + 1);
        }
    }

    pub(super) fn pins_are_whole(&self) -> Result<()> {
        if self.state.lock().damaged_pins {
            return Err(Error::new(ErrorKind::Corrupt, "the pin cannot be read"));
        }
        Ok(())
    }

    /// A home that must be there.
    fn there<T>(&self, home: &HomeId, work: impl FnOnce(&mut FakeHome) -> Result<T>) -> Result<T> {
        let mut state = self.state.lock();
        work(state.homes.get_mut(home).ok_or_else(|| no_such(home))?)
    }

    fn home<T>(&self, at: &HomeAt, work: impl FnOnce(&mut FakeHome) -> T) -> T {
        work(self.state.lock().homes.entry(at.home.clone()).or_default())
    }
}

#[async_trait]
impl Homes for FakeHost {
    async fn create(&self, home: &HomeId) -> Result<()> {
        let mut state = self.state.lock();
        let home = state.homes.entry(home.clone()).or_default();
        home.seq = home.seq.max(1);
        Ok(())
    }

    async fn delete(&self, at: &HomeAt) -> Result<()> {
        self.state.lock().homes.remove(&at.home);
        Ok(())
    }

    async fn head(&self, home: &HomeId) -> Result<Option<HomeHead>> {
        let state = self.state.lock();
        if state.store_away {
            return Err(Error::new(ErrorKind::Unavailable, "the store is away"));
        }
        let home = state.homes.get(home).filter(|home| home.seq > 0);
        Ok(home.map(|home| HomeHead {
            seq: home.seq,
            epoch: Epoch(home.seq),
            released: !home.held,
            holder: home.holder.clone().unwrap_or_else(ServerId::generate),
            time: Timestamp::UNIX_EPOCH,
        }))
    }

    async fn published(&self, at: &HomeAt) -> Result<Arc<dyn FileCalls>> {
        Ok(Arc::new(self.home(at, |home| home.published.copy())))
    }

    async fn has_draft(&self, at: &HomeAt) -> bool {
        self.home(at, |home| home.draft.is_some())
    }

    async fn draft(&self, at: &HomeAt) -> Result<Arc<dyn FileCalls>> {
        Ok(Arc::new(self.home(at, |home| {
            let (published, seq) = (&home.published, home.seq);
            let open = || (published.copy(), published.copy(), seq);
            home.draft.get_or_insert_with(open).0.clone()
        })))
    }

    async fn publish(&self, at: &HomeAt) -> Result<DraftPublished> {
        Ok(self.home(at, |home| match home.draft.take() {
            Some((draft, base, seq)) if seq == home.seq => {
                let (made, gone) = draft.against(&base);
                home.published = draft;
                home.seq += 1;
                let changed = (made.len() + gone.len()) as u64;
                DraftPublished::Committed { seq: home.seq, changed }
            }
            moved => {
                home.draft = moved;
                DraftPublished::Moved
            }
        }))
    }

    async fn changes(&self, at: &HomeAt) -> Result<DraftChanges> {
        self.home(at, |home| {
            let (draft, base, _) = home.draft.as_ref().ok_or_else(|| no_such("draft"))?;
            let (changed, removed) = draft.against(base);
            let both = changed.iter().chain(&removed);
            let bases = both.map(|path| (path.clone(), base.etag(path))).collect();
            Ok(DraftChanges { tar: draft.bundle(&changed), removed, changed, bases })
        })
    }

    async fn apply(&self, at: &HomeAt, changes: DraftChanges) -> Result<()> {
        let tree = self.home(at, |home| home.published.copy());
        tree.graft(&changes.removed, changes.tar).await?;
        while self.state.lock().hold_apply {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.home(at, |home| {
            home.published = tree;
            home.seq += 1;
        });
        Ok(())
    }

    async fn discard(&self, at: &HomeAt) -> Result<()> {
        self.home(at, |home| home.draft = None);
        Ok(())
    }

    fn check_snapshot_name(&self, name: Option<&str>) -> Result<()> {
        match name {
            Some("") => Err(Error::invalid("a snapshot's name has 1 to 100 bytes")),
            _ => Ok(()),
        }
    }

    async fn snapshot(
        &self,
        home: &HomeId,
        id: &SnapshotId,
        name: Option<&str>,
    ) -> Result<(HomeSnapshot, HomeState)> {
        self.claim_first(home);
        let made = self.there(home, |home| {
            let made = home.keep(home.published.copy(), id, name)?;
            Ok((made, home.kept_state()))
        });
        self.give_up_again(home);
        made
    }

    async fn snapshots(&self, home: &HomeId) -> Result<Vec<HomeSnapshot>> {
        let damaged = self.pins_are_whole().err().map(|error| error.message);
        let shown = |one: &HomeSnapshot| match &damaged {
            Some(why) => HomeSnapshot::damaged(one.id.clone(), why.clone()),
            None => one.clone(),
        };
        self.there(home, |home| Ok(home.snapshots.values().map(|one| shown(&one.0)).collect()))
    }

    async fn snapshot_info(&self, home: &HomeId, id: &SnapshotId) -> Result<HomeSnapshot> {
        self.pins_are_whole()?;
        self.there(home, |home| Ok(home.kept(id)?.0.clone()))
    }

    async fn delete_snapshot(&self, home: &HomeId, id: &SnapshotId) -> Result<()> {
        while self.state.lock().hold_deletes {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        self.there(home, |home| {
            home.snapshots.remove(id);
            Ok(())
        })
    }

    async fn restore(&self, at: &HomeAt, id: &SnapshotId) -> Result<()> {
        self.there(&at.home, |home| {
            let tree = home.kept(id)?.1.copy();
            if home.held {
                return Err(Error::new(ErrorKind::Fenced, "somebody has the home"));
            }
            home.published = tree;
            home.local = None;
            home.seq += 1;
            Ok(())
        })
    }

    async fn hold_fork(
        &self,
        from: &HomeId,
        at: Option<&SnapshotId>,
        into: &HomeId,
    ) -> Result<HomeState> {
        self.claim_first(from);
        let state = self.there(from, |home| {
            let tree = match at {
                Some(id) => home.kept(id)?.1.copy(),
                None => home.published.copy(),
            };
            home.forks.insert(into.clone(), tree);
            Ok(home.kept_state())
        })?;
        self.give_up_again(from);
        if let Some(at) = at.filter(|_| self.state.lock().gone_after_home) {
            self.there(from, |home| Ok(home.snapshots.remove(at)))?;
            let holder = UpperHolder::Snapshot(at.clone());
            self.state.lock().uppers.kept.values_mut().for_each(|kept| {
                kept.remove(&holder);
            });
        }
        Ok(state)
    }

    async fn begin_fork(&self, from: &HomeId, into: &HomeId) -> Result<()> {
        let kept = self.there(from, |home| Ok(home.forks.get(into).map(FakeTree::copy)))?;
        let published = kept.ok_or_else(|| no_such("fork"))?;
        let mut state = self.state.lock();
        state.homes.entry(into.clone()).or_insert_with(|| FakeHome {
            published,
            seq: 1,
            ..FakeHome::default()
        });
        Ok(())
    }

    async fn collect(&self, _at: &HomeAt) -> Result<crate::homes::HomeCollected> {
        self.state.lock().collected += 1;
        Ok(crate::homes::HomeCollected::default())
    }

    async fn abandon_fork(&self, from: &HomeId, into: &HomeId) -> Result<()> {
        let mut state = self.state.lock();
        if state.homes.contains_key(into) {
            return Err(Error::new(ErrorKind::AlreadyExists, "the fork was begun"));
        }
        if let Some(home) = state.homes.get_mut(from) {
            home.forks.remove(into);
        }
        Ok(())
    }
}
