//! One running keeper.

use std::time::Duration;

use agent_proto::{FrameKind, FrameReader, FrameWriter, Signal};
use async_trait::async_trait;
use base::{Egress, ErrorKind, ExecutionId, GIB, HomeId, MachineId, SnapshotId};
use bytes::Bytes;
use control::executions::{AttachInput, AttachOutput, Attachment, Execution, NewExecution};
use control::files::{
    ByteStream, DeleteOptions, Entry, FileBody, FileCalls, FileMeta, Imported, PutDone, PutOptions,
    RangeSpec,
};
use control::homes::HomeSnapshot;
use control::host::{ExecutionRecords, KeeperLink, KeeperPhase, KeeperStatus, Sizes, Woken};
use control::{Error, Page, PageQuery, Result};
use futures::StreamExt;
use keeper::layout::MachineDir;
use keeper::{Client, KeeperState, Stage, Status, launch};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use vfs::path::TreePath;
use vfs::tar::ImportOptions;

use crate::convert;
use crate::files::Calls;
use crate::leftovers::Leftovers;
use crate::records::LocalRecords;

/// Pieces of input that wait for a slow guest.
const INPUT_AHEAD: usize = 16;
/// How often a keeper of an older version is asked, which cannot say when it has moved. Each
/// time is a call over its socket.
const OLD_KEEPER_POLL: Duration = Duration::from_millis(50);
/// How long the record may take to be closed after its output has ended.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// A connection to one running keeper.
#[derive(Debug)]
pub(crate) struct LocalLink {
    machine: MachineId,
    dir: MachineDir,
    client: Client,
    calls: Calls,
    leftovers: Leftovers,
}

impl LocalLink {
    pub(crate) fn new(machine: MachineId, dir: MachineDir, leftovers: Leftovers) -> Self {
        let client = Client::new(&dir);
        Self { machine, dir, calls: Calls::Keeper(client.clone()), client, leftovers }
    }

    /// What a keeper said of itself, or its silence.
    fn told(&self, status: keeper::Result<Status>) -> Result<KeeperStatus> {
        let status = match status {
            Ok(status) => status,
            // It holds its lock and no longer listens: it is saying its last words.
            // One that listens and says nothing is stuck; that is another error.
            Err(error)
                if error.kind == base::ErrorKind::Unreachable && launch::is_alive(&self.dir) =>
            {
                return Ok(KeeperStatus {
                    phase: KeeperPhase::Stopping,
                    failure: None,
                    executions_running: 0,
                    last_activity: None,
                    woken: Woken::default(),
                    upper_behind: None,
                    opening_home: None,
                    restoring: None,
                    upper_coming: None,
                    upper_trouble: None,
                    waits_for_room: false,
                    keeps_memory: false,
                    egress: Egress::default(),
                    sizes: None,
                    home_claimed: false,
                });
            }
            Err(error) => return Err(convert::failure(error)),
        };
        let stage = status.stage();
        Ok(KeeperStatus {
            phase: match stage.state {
                KeeperState::Starting => KeeperPhase::Starting,
                KeeperState::Running => KeeperPhase::Ready,
                KeeperState::Stopping => KeeperPhase::Stopping,
            },
            failure: None,
            executions_running: u32::try_from(status.executions_live).unwrap_or(u32::MAX),
            last_activity: status.last_activity,
            woken: convert::woken(&status.woken),
            home_claimed: stage.claimed,
            upper_behind: status.upper_behind,
            opening_home: status.opening_home,
            restoring: status.restoring,
            upper_coming: status.upper_coming,
            upper_trouble: status.upper_trouble,
            waits_for_room: status.waits_for_room,
            keeps_memory: status.keeps_memory,
            egress: status.egress,
            sizes: status.sizes.map(|sizes| Sizes {
                vcpu: sizes.vcpu,
                memory_mib: sizes.memory_mib,
                storage_gib: sizes.storage_bytes_max / GIB,
            }),
        })
    }
}

#[async_trait]
impl KeeperLink for LocalLink {
    async fn status(&self) -> Result<KeeperStatus> {
        self.told(self.client.status().await)
    }

    async fn next_status(&self, seen: &KeeperStatus, wait: Duration) -> Result<KeeperStatus> {
        let state = match seen.phase {
            KeeperPhase::Starting => KeeperState::Starting,
            KeeperPhase::Ready => KeeperState::Running,
            KeeperPhase::Stopping | KeeperPhase::Stopped | KeeperPhase::Failed => {
                KeeperState::Stopping
            }
        };
        let (claimed, waits_for_room) = (seen.home_claimed, seen.waits_for_room);
        let seen = Stage { state, claimed, waits_for_room };
        match self.client.next_status(seen, wait).await {
            // A keeper of an older version, which runs on under this server.
            Err(error) if error.kind == base::ErrorKind::NotFound => {
                tokio::time::sleep(wait.min(OLD_KEEPER_POLL)).await;
                self.status().await
            }
            status => self.told(status),
        }
    }

    async fn set_sizes(&self, sizes: &Sizes) -> Result<()> {
        let sizes = keeper::Sizes {
            vcpu: sizes.vcpu,
            memory_mib: sizes.memory_mib,
            storage_bytes_max: sizes.storage_gib.saturating_mul(GIB),
        };
        self.client.set_sizes(&sizes).await.map(drop).map_err(convert::failure)
    }

    async fn set_egress(&self, egress: &Egress) -> Result<()> {
        match self.client.set_egress(egress).await {
            Ok(_) => Ok(()),
            // A keeper of an older version, which runs on under this server.
            Err(error) if error.kind == ErrorKind::NotFound => Err(Error::new(
                ErrorKind::Unsupported,
                "the machine was woken by an older version, which knows no egress policies; put it to sleep and \
                 wake it",
            )),
            Err(error) => Err(convert::failure(error)),
        }
    }

    async fn sleep(&self) -> Result<()> {
        self.client.stop(false).await.map(drop).map_err(convert::failure)
    }

    async fn shut_down(&self) -> Result<()> {
        self.client.stop(true).await.map(drop).map_err(convert::failure)
    }

    async fn kill(&self) -> Result<()> {
        launch::kill(&self.dir).await.map_err(convert::failure)?;
        self.leftovers.sweep().await;
        Ok(())
    }

    async fn ended(&self) {
        launch::ended(&self.dir).await;
    }

    async fn execute(&self, id: &ExecutionId, new: &NewExecution) -> Result<Execution> {
        let what = keeper::executions::NewExecution {
            command: new.command.clone(),
            cwd: new.cwd.clone(),
            env: new.env.clone(),
            stdin: new.stdin.clone(),
            stdin_open: new.stdin_open,
            timeout_ms: new.timeout_ms,
        };
        let record = self.client.execute(id, &what).await.map_err(|failure| {
            let error = convert::failure(failure);
            // One of them ends.
            if error.kind() == base::ErrorKind::TooMany { error.retry_after(1_000) } else { error }
        })?;
        Ok(convert::execution(&self.machine, record))
    }

    async fn cancel(&self, id: &ExecutionId) -> Result<Execution> {
        let record = self.client.cancel(id).await.map_err(convert::failure)?;
        Ok(convert::execution(&self.machine, record))
    }

    async fn wait(&self, id: &ExecutionId, wait: Duration) -> Result<Execution> {
        let record = self.client.wait(id, wait).await.map_err(convert::failure)?;
        Ok(convert::execution(&self.machine, record))
    }

    async fn attach(&self, id: &ExecutionId) -> Result<Attachment> {
        match self.client.attach(id).await {
            Ok(connection) => Ok(self.live(id, connection)),
            // It has ended: what is kept is all there is.
            Err(error) if error.kind == base::ErrorKind::Conflict => self.ended_already(id).await,
            Err(error) => Err(convert::failure(error)),
        }
    }

    async fn snapshot(&self, id: &SnapshotId, name: Option<&str>) -> Result<HomeSnapshot> {
        let kept = self.client.snapshot(id, name).await.map_err(convert::failure)?;
        Ok(HomeSnapshot { id: kept.id, name: kept.name, time: kept.time, damaged: None })
    }

    async fn hold_fork(&self, into: &HomeId) -> Result<()> {
        self.client.hold_fork(into).await.map(drop).map_err(convert::failure)
    }

    async fn graft(&self, removals: Vec<Vec<u8>>, tar: ByteStream) -> Result<()> {
        let removals = convert::removals(&removals)?;
        // The draft was written through this API already: what it holds is taken as it is.
        let options = ImportOptions { keep_owner: true, outside_links: true };
        self.client
            .import_tar(&TreePath::root(), tar, removals, options)
            .await
            .map(drop)
            .map_err(convert::failure)
    }
}

/// How an attachment ends.
#[derive(Debug, Clone)]
struct End {
    client: Client,
    records: LocalRecords,
    id: ExecutionId,
}

impl End {
    /// The execution's end. Where its output ended but the command did not, the connection was
    /// lost, and that is said instead.
    async fn told(&self) -> Result<AttachOutput> {
        let execution = match self.client.wait(&self.id, END_PATIENCE).await {
            Ok(record) => convert::execution(&self.records.machine, record),
            // The keeper has gone; what it wrote stays.
            Err(error) if error.kind == base::ErrorKind::Unreachable => {
                self.records.get(&self.id).await?
            }
            Err(error) => return Err(convert::failure(error)),
        };
        if execution.status.is_final() {
            return Ok(AttachOutput::Ended(Box::new(execution)));
        }
        Err(Error::new(
            base::ErrorKind::Unavailable,
            "the connection to the command was lost; it is still running: attach again",
        ))
    }
}

impl LocalLink {
    fn records(&self) -> LocalRecords {
        LocalRecords { machine: self.machine.clone(), dir: self.dir.clone() }
    }

    fn live(
        &self,
        id: &ExecutionId,
        connection: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
    ) -> Attachment {
        let (read, write) = tokio::io::split(connection);
        let (input, mut inputs) = mpsc::channel(INPUT_AHEAD);
        // Ends with the output: a write that nobody takes would hold the connection for as long as the command runs.
        let writing = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut writer = FrameWriter::new(Box::pin(write));
            while let Some(next) = inputs.recv().await {
                let sent = match next {
                    AttachInput::Stdin(bytes) => stdin(&mut writer, &bytes).await,
                    AttachInput::StdinEnd => writer.frame(FrameKind::Stdin, b"").await,
                    AttachInput::Signal(signal) => {
                        writer.json(FrameKind::Signal, &Signal { signal }).await
                    }
                };
                if sent.is_err() {
                    break;
                }
            }
        }));
        let end = End { client: self.client.clone(), records: self.records(), id: id.clone() };
        let reader = FrameReader::new(Box::pin(read));
        let output = futures::stream::unfold(Some((reader, writing)), move |connected| {
            let end = end.clone();
            async move {
                let (mut reader, writing) = connected?;
                loop {
                    // A keeper that ends the connection with input unread resets it; the record tells
                    // whether the command has ended or the keeper is gone.
                    let frame = reader.next().await.unwrap_or_default();
                    let item = match frame.map(|frame| (frame.kind, frame.payload)) {
                        Some((FrameKind::Stdout, bytes)) if bytes.is_empty() => continue,
                        Some((FrameKind::Stdout, bytes)) => AttachOutput::Stdout(bytes),
                        Some((FrameKind::Stderr, bytes)) => AttachOutput::Stderr(bytes),
                        _ => return Some((end.told().await, None)),
                    };
                    return Some((Ok(item), Some((reader, writing))));
                }
            }
        });
        Attachment { input, output: output.boxed() }
    }

    async fn ended_already(&self, id: &ExecutionId) -> Result<Attachment> {
        let wanted = id.clone();
        let output = self.records().with(move |records| records.output(&wanted)).await?;
        let items = vec![
            Ok(AttachOutput::Stdout(Bytes::from(output.stdout))),
            Ok(AttachOutput::Stderr(Bytes::from(output.stderr))),
            Ok(AttachOutput::Ended(Box::new(convert::execution(&self.machine, output.record)))),
        ];
        let (input, _) = mpsc::channel(1);
        Ok(Attachment { input, output: futures::stream::iter(items).boxed() })
    }
}

async fn stdin(
    writer: &mut FrameWriter<impl tokio::io::AsyncWrite + Unpin>,
    bytes: &[u8],
) -> Result<(), agent_proto::Error> {
    for piece in bytes.chunks(agent_proto::FRAME_BYTES_MAX) {
        writer.frame(FrameKind::Stdin, piece).await?;
    }
    Ok(())
}

#[async_trait]
impl FileCalls for LocalLink {
    async fn head(&self, path: &TreePath) -> Result<FileMeta> {
        self.calls.head(path).await
    }
    async fn get(&self, path: &TreePath, range: Option<RangeSpec>) -> Result<FileBody> {
        self.calls.get(path, range).await
    }
    async fn put(&self, path: &TreePath, body: ByteStream, options: PutOptions) -> Result<PutDone> {
        self.calls.put(path, body, options).await
    }
    async fn delete(&self, path: &TreePath, options: DeleteOptions) -> Result<FileMeta> {
        self.calls.delete(path, options).await
    }
    async fn list(&self, path: &TreePath, page: &PageQuery) -> Result<Page<Entry>> {
        self.calls.list(path, page).await
    }
    async fn import_tar(
        &self,
        path: &TreePath,
        body: ByteStream,
        options: ImportOptions,
    ) -> Result<Imported> {
        self.calls.import_tar(path, body, options).await
    }
    async fn bundle_tar(&self, path: &TreePath) -> Result<ByteStream> {
        self.calls.bundle_tar(path).await
    }
}
