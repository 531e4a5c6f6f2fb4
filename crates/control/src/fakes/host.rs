//! Keepers and execution records on a [`FakeHost`].
//!
//! An execution whose program is `sleep` runs until it is cancelled; any other succeeds at once and
//! has written its arguments.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Egress, Epoch, ErrorKind, ExecutionId, HomeId, MachineId, SnapshotId, Timestamp};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vfs::path::TreePath;
use vfs::tar::ImportOptions;

use super::keeper::FakeKeeper;
use super::records::FakeRecords;
use super::uppers::FakeUpper;
use super::world::{FakeHost, no_such};
use crate::executions::{AttachOutput, Attachment, Execution, ExecutionStatus, NewExecution};
use crate::files::{
    ByteStream, DeleteOptions, Entry, FileBody, FileCalls, FileMeta, Imported, PutDone, PutOptions,
    RangeSpec,
};
use crate::homes::HomeSnapshot;
use crate::host::{
    ExecutionRecords, Host, KeeperLink, KeeperPhase, KeeperSpec, KeeperStatus, LastWords,
    MemoryStanding, Mounted, Sizes, UpperHolder, UpperKept, UpperStanding, UpperStored,
};
use crate::{Error, Page, PageQuery, Result};

/// One running keeper and the host it runs on.
#[derive(Debug)]
struct FakeLink {
    keeper: Arc<FakeKeeper>,
    host: FakeHost,
}

impl FakeLink {
    fn set(&self, id: &ExecutionId, status: ExecutionStatus) -> Result<Execution> {
        let mut state = self.host.state.lock();
        let executions = state.executions.entry(self.keeper.machine.clone()).or_default();
        let execution = executions.get_mut(id).ok_or_else(|| no_such(id))?;
        if !execution.status.is_final() {
            execution.status = status;
        }
        Ok(execution.clone())
    }
}

#[async_trait]
impl Host for FakeHost {
    async fn images(&self) -> Result<Vec<String>> {
        Ok(vec!["base".to_owned()])
    }

    async fn start_keeper(&self, spec: &KeeperSpec) -> Result<()> {
        let mut state = self.state.lock();
        if state.keepers.contains_key(&spec.machine) {
            return Ok(());
        }
        let read = state.uppers.of.get(&spec.machine).is_some_and(|upper| upper.storing);
        assert!(!read, "a keeper was started while its upper was read");
        if let Some(upper) = state.uppers.of.get_mut(&spec.machine) {
            upper.memory = None;
        }
        state.starts += 1;
        state.words.remove(&spec.machine);
        if let Some((kind, code)) = state.start_errors.pop_front() {
            return Err(Error::new(kind, format!("{code}: mend it")).with_code(code));
        }
        if let Some(failure) = state.dies_while_starting.pop_front() {
            let words =
                LastWords { phase: KeeperPhase::Failed, failure: Some(failure), wake_at: None };
            state.words.insert(spec.machine.clone(), words);
            return Ok(());
        }
        state.started_with = Some(spec.clone());
        let phase = if state.hold_starting { KeeperPhase::Starting } else { KeeperPhase::Ready };
        let home = state.homes.entry(spec.home.clone()).or_default();
        let takes_over = home.held && home.local.is_none();
        if takes_over && spec.take_over_from != Some(Epoch(home.seq)) {
            return Err(Error::new(ErrorKind::Fenced, "another server holds the home"));
        }
        let tree = home.local.clone().unwrap_or_else(|| home.published.copy());
        home.local = Some(tree.clone());
        home.held = true;
        home.seq += 1;
        state.took_over |= takes_over;
        let keeper = FakeKeeper {
            machine: spec.machine.clone(),
            home: spec.home.clone(),
            tree,
            phase: Mutex::new(phase),
            egress: Mutex::new(spec.egress.clone()),
            waits_for_room: Mutex::default(),
            sizes: Mutex::new(Sizes {
                vcpu: spec.vcpu,
                memory_mib: spec.memory_mib,
                storage_gib: spec.storage_gib,
            }),
            ended: watch::Sender::new(false),
        };
        state.keepers.insert(spec.machine.clone(), Arc::new(keeper));
        Ok(())
    }

    async fn connect(&self, machine: &MachineId) -> Option<Arc<dyn KeeperLink>> {
        let keeper = self.state.lock().keepers.get(machine).cloned()?;
        Some(Arc::new(FakeLink { keeper, host: self.clone() }))
    }

    async fn room_lacking(&self, _: &MachineId, memory_mib: Option<u64>) -> u64 {
        let state = self.state.lock();
        state.room_lacking + memory_mib.map_or(0, |_| state.room_lacking_for_memory)
    }

    async fn mounted(&self, home: &HomeId) -> Option<Mounted> {
        let process = *self.state.lock().mounted.get(home)?;
        Some(Mounted { process: Some(process) })
    }

    async fn last_words(&self, machine: &MachineId) -> Option<LastWords> {
        self.state.lock().words.get(machine).cloned()
    }

    fn executions(&self, machine: &MachineId) -> Arc<dyn ExecutionRecords> {
        Arc::new(FakeRecords { machine: machine.clone(), host: self.clone() })
    }

    async fn forget_memory(&self, machine: &MachineId) -> Result<()> {
        let mut state = self.state.lock();
        assert!(!state.keepers.contains_key(machine), "its guest has its memory");
        state.forgotten += 1;
        Ok(())
    }

    async fn upper_standing(&self, machine: &MachineId) -> UpperStanding {
        match self.state.lock().uppers.of.get(machine) {
            None => UpperStanding::Unknown,
            Some(upper) if upper.behind => UpperStanding::Behind,
            Some(upper) => UpperStanding::Stored { uncollected: upper.uncollected.clone() },
        }
    }

    async fn store_upper(
        &self,
        machine: &MachineId,
        stop: &CancellationToken,
    ) -> Result<UpperStored> {
        self.store_fake_upper(machine, stop).await
    }

    async fn memory_standing(&self, machine: &MachineId) -> MemoryStanding {
        let state = self.state.lock();
        let stays = state.uppers.memory_stays.clone();
        match state.uppers.of.get(machine) {
            Some(FakeUpper { memory: Some(false), .. }) if stays.is_some() => {
                MemoryStanding::StaysHere(stays.unwrap_or_default())
            }
            Some(FakeUpper { behind: false, memory: Some(true), .. }) => MemoryStanding::Stored,
            Some(FakeUpper { behind: false, memory: Some(false), .. }) => MemoryStanding::Behind,
            _ => MemoryStanding::Nothing,
        }
    }

    async fn store_memory(
        &self,
        machine: &MachineId,
        stop: &CancellationToken,
    ) -> Result<UpperStored> {
        self.store_fake_memory(machine, stop).await
    }

    async fn unstore_memory(&self, machine: &MachineId) -> Result<()> {
        self.state.lock().uppers.unstored.push(machine.clone());
        Ok(())
    }

    async fn collect_upper(&self, machine: &MachineId, since: &str) -> Result<u64> {
        let mut state = self.state.lock();
        let Some(upper) = state.uppers.of.get_mut(machine) else { return Ok(0) };
        upper.uncollected = upper.uncollected.take().filter(|newest| newest != since);
        upper.collected.push(since.to_owned());
        Ok(1)
    }

    async fn collect_templates(&self, known: &HashSet<MachineId>) -> Result<u64> {
        self.state.lock().templates_collected.push(known.clone());
        Ok(0)
    }

    async fn freed_upper(&self, machine: &MachineId) -> Result<Option<String>> {
        Ok(self.freed_fake_upper(machine))
    }

    async fn keep_upper(
        &self,
        machine: &MachineId,
        _home: Epoch,
        holder: &UpperHolder,
    ) -> Result<UpperKept> {
        let kept = self.keep_fake_upper(machine, holder);
        if kept == UpperKept::Storing && self.state.lock().uppers.stored_after_look {
            self.state.lock().uppers.held = false;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.fake_keep_error()?;
        Ok(kept)
    }

    async fn keep_upper_again(
        &self,
        machine: &MachineId,
        at: &SnapshotId,
        into: &MachineId,
    ) -> Result<Option<Result<(), String>>> {
        let kept = self.keep_fake_upper_again(machine, at, into);
        self.fake_keep_error()?;
        Ok(kept)
    }

    async fn let_go_of_upper(&self, machine: &MachineId, holder: &UpperHolder) -> Result<()> {
        let mut state = self.state.lock();
        if let Some(kind) = state.uppers.let_go_errors.pop_front() {
            return Err(Error::new(kind, "the store is away"));
        }
        if let Some(kept) = state.uppers.kept.get_mut(machine) {
            kept.remove(holder);
        }
        Ok(())
    }

    async fn kept_uppers(&self, machine: &MachineId) -> Result<Vec<(SnapshotId, bool)>> {
        let state = self.state.lock();
        let kept = state.uppers.kept.get(machine).into_iter().flatten();
        let snapshot = |(holder, memory): (&UpperHolder, &bool)| match holder {
            UpperHolder::Snapshot(id) => Some((id.clone(), *memory)),
            UpperHolder::Fork(_) => None,
        };
        Ok(kept.filter_map(snapshot).collect())
    }

    async fn kept_upper(&self, machine: &MachineId, at: &SnapshotId) -> Result<Option<bool>> {
        self.pins_are_whole()?;
        Ok(self.fake_kept(machine, &UpperHolder::Snapshot(at.clone())))
    }

    async fn begin_upper(
        &self,
        from: &MachineId,
        into: &MachineId,
        _home: &HomeId,
    ) -> Result<Option<String>> {
        self.begin_fake_upper(from, into)
    }

    async fn abandon_upper(&self, from: &MachineId, into: &MachineId) -> Result<()> {
        self.state.lock().uppers.abandoned.push(into.clone());
        let begun = self.state.lock().uppers.begun.contains_key(into);
        let holder = UpperHolder::Fork(into.clone());
        if begun { Ok(()) } else { self.let_go_of_upper(from, &holder).await }
    }

    async fn delete_upper(&self, machine: &MachineId) -> Result<Option<MachineId>> {
        Ok(self.delete_fake_upper(machine))
    }

    async fn remove(&self, machine: &MachineId) -> Result<()> {
        let mut state = self.state.lock();
        state.executions.remove(machine);
        state.removed.push(machine.clone());
        Ok(())
    }
}

#[async_trait]
impl KeeperLink for FakeLink {
    async fn status(&self) -> Result<KeeperStatus> {
        let state = self.host.state.lock();
        let executions = state.executions.get(&self.keeper.machine);
        let running = executions.map_or(0, |executions| {
            executions.values().filter(|one| one.status == ExecutionStatus::Running).count()
        });
        Ok(KeeperStatus {
            phase: *self.keeper.phase.lock(),
            failure: None,
            executions_running: u32::try_from(running).unwrap_or(u32::MAX),
            last_activity: state.last_activity.get(&self.keeper.machine).copied(),
            woken: crate::host::Woken::default(),
            upper_behind: state.uppers.missing.clone(),
            opening_home: state.opening_home,
            restoring: state.uppers.restoring,
            upper_coming: state.uppers.coming,
            upper_trouble: state.uppers.trouble.clone(),
            waits_for_room: *self.keeper.waits_for_room.lock(),
            keeps_memory: !state.keeps_no_memory,
            egress: self.keeper.egress.lock().clone(),
            sizes: Some(*self.keeper.sizes.lock()),
            home_claimed: true,
        })
    }

    async fn next_status(&self, seen: &KeeperStatus, wait: Duration) -> Result<KeeperStatus> {
        let until = Instant::now() + wait;
        loop {
            let now = self.status().await?;
            let news = (now.phase, now.waits_for_room) != (seen.phase, seen.waits_for_room);
            if news || Instant::now() >= until {
                return Ok(now);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn sleep(&self) -> Result<()> {
        *self.keeper.phase.lock() = KeeperPhase::Stopping;
        let hold = self.host.state.lock().hold_stopping;
        if !hold {
            self.keeper.finish_stopping(&self.host);
        }
        Ok(())
    }

    async fn shut_down(&self) -> Result<()> {
        self.sleep().await
    }

    async fn set_egress(&self, egress: &Egress) -> Result<()> {
        if let Some((kind, what)) = self.host.state.lock().egress_errors.pop_front() {
            return Err(Error::new(kind, what));
        }
        *self.keeper.egress.lock() = egress.clone();
        Ok(())
    }

    async fn set_sizes(&self, sizes: &Sizes) -> Result<()> {
        let mut in_force = self.keeper.sizes.lock();
        *in_force = Sizes { memory_mib: in_force.memory_mib, ..*sizes };
        Ok(())
    }

    async fn kill(&self) -> Result<()> {
        self.host.crash(&self.keeper.machine);
        Ok(())
    }

    async fn ended(&self) {
        let mut ended = self.keeper.ended.subscribe();
        // The sender lives in the keeper that this link holds.
        ended.wait_for(|ended| *ended).await.ok();
    }

    async fn execute(&self, id: &ExecutionId, new: &NewExecution) -> Result<Execution> {
        let held = || self.host.state.lock().hold_commands;
        if held() {
            while held() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            return Err(Error::new(ErrorKind::Unavailable, "the machine is going to sleep"));
        }
        let runs = new.command.first().is_some_and(|program| program == "sleep");
        let status = if runs { ExecutionStatus::Running } else { ExecutionStatus::Succeeded };
        let execution = Execution {
            execution_id: id.clone(),
            machine_id: self.keeper.machine.clone(),
            status,
            command: new.command.clone(),
            created_at: Timestamp::UNIX_EPOCH,
            started_at: Some(Timestamp::UNIX_EPOCH),
            completed_at: None,
            cwd: new.cwd.clone(),
            env_keys: new.env.keys().cloned().collect(),
            exit_code: if runs { None } else { Some(0) },
            signal: None,
            error_code: None,
            error_message: None,
            retry_after_ms: None,
            stdout_bytes: 0,
            stderr_bytes: 0,
            stdout_truncated: false,
            stderr_truncated: false,
            log_capture: std::collections::BTreeMap::new(),
        };
        let mut state = self.host.state.lock();
        let executions = state.executions.entry(self.keeper.machine.clone()).or_default();
        Ok(executions.entry(id.clone()).or_insert(execution).clone())
    }

    async fn cancel(&self, id: &ExecutionId) -> Result<Execution> {
        self.set(id, ExecutionStatus::Cancelled)
    }

    async fn wait(&self, id: &ExecutionId, wait: Duration) -> Result<Execution> {
        let execution = self.set(id, ExecutionStatus::Running)?;
        if !execution.status.is_final() {
            tokio::time::sleep(wait).await;
        }
        self.set(id, ExecutionStatus::Running)
    }

    async fn attach(&self, id: &ExecutionId) -> Result<Attachment> {
        let execution = self.set(id, ExecutionStatus::Running)?;
        let (input, mut inputs) = tokio::sync::mpsc::channel(4);
        // Echoes its input until that ends.
        let echo = stream::poll_fn(move |context| inputs.poll_recv(context)).map(|input| {
            let crate::executions::AttachInput::Stdin(bytes) = input else {
                return Ok(AttachOutput::Stdout(Bytes::new()));
            };
            Ok(AttachOutput::Stdout(bytes))
        });
        let end = stream::iter([Ok(AttachOutput::Ended(Box::new(execution)))]);
        Ok(Attachment { input, output: echo.chain(end).boxed() })
    }

    async fn snapshot(&self, id: &SnapshotId, name: Option<&str>) -> Result<HomeSnapshot> {
        let mut state = self.host.state.lock();
        let home = state.homes.entry(self.keeper.home.clone()).or_default();
        home.keep(self.keeper.tree.copy(), id, name)
    }

    async fn hold_fork(&self, into: &HomeId) -> Result<()> {
        let mut state = self.host.state.lock();
        let home = state.homes.entry(self.keeper.home.clone()).or_default();
        home.forks.insert(into.clone(), self.keeper.tree.copy());
        Ok(())
    }

    async fn graft(&self, removals: Vec<Vec<u8>>, tar: ByteStream) -> Result<()> {
        self.keeper.tree.graft(&removals, tar).await.map(drop)
    }
}

#[async_trait]
impl FileCalls for FakeLink {
    async fn head(&self, path: &TreePath) -> Result<FileMeta> {
        self.keeper.tree.head(path).await
    }
    async fn get(&self, path: &TreePath, range: Option<RangeSpec>) -> Result<FileBody> {
        self.keeper.tree.get(path, range).await
    }
    async fn put(&self, path: &TreePath, body: ByteStream, options: PutOptions) -> Result<PutDone> {
        self.keeper.tree.put(path, body, options).await
    }
    async fn delete(&self, path: &TreePath, options: DeleteOptions) -> Result<FileMeta> {
        self.keeper.tree.delete(path, options).await
    }
    async fn list(&self, path: &TreePath, page: &PageQuery) -> Result<Page<Entry>> {
        self.keeper.tree.list(path, page).await
    }
    async fn import_tar(
        &self,
        path: &TreePath,
        body: ByteStream,
        options: ImportOptions,
    ) -> Result<Imported> {
        self.keeper.tree.import_tar(path, body, options).await
    }
    async fn bundle_tar(&self, path: &TreePath) -> Result<ByteStream> {
        self.keeper.tree.bundle_tar(path).await
    }
}
