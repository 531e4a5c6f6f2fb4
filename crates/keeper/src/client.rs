//! The other end of a keeper's socket.

mod connections;

use std::time::Duration;

use base::{Egress, ErrorKind, ExecutionId, HomeId, SnapshotId};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vfs::Removal;
use vfs::path::TreePath;
use vfs::tar::ImportOptions;

use crate::executions::{NewExecution, Record};
use crate::files::{
    ByteStream, FileInfo, ImportDone, ListPage, Preconditions, PutDone, PutOptions, Range,
};
use crate::layout::MachineDir;
use crate::server::Kept;
use crate::server::wire::{
    DirArgs, ForkArgs, GetArgs, GetInfo, ImportArgs, ListArgs, NextArgs, PathArgs, PutArgs,
    RemoveArgs, SnapshotArgs, StartArgs, StopArgs, WaitArgs,
};
use crate::server::{ARGS_HEADER, INFO_HEADER, encode_header};
use crate::{Failure, Result, Sizes, Stage, Status};
use connections::{Connections, RequestBody};

/// Largest JSON answer that is believed, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long a keeper may take to say how it stands. One that does not is stuck.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a keeper may take to put an egress policy or sizes in force.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// A body of up to this many bytes goes out together with its head.
const AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// Calls to the keeper of one machine. Cheap to clone; clones share connections, which are kept for a
/// while between calls.
#[derive(Debug, Clone)]
pub struct Client {
    connections: Connections,
}

impl Client {
    /// The keeper of the machine in `dir`, whether it lives or not.
    #[must_use]
    pub fn new(dir: &MachineDir) -> Self {
        Self { connections: Connections::to(&dir.socket()) }
    }

    /// How the keeper stands.
    ///
    /// # Errors
    /// `Unreachable` where there is none; `Timeout` where it listens and does not answer.
    pub async fn status(&self) -> Result<Status> {
        self.at_once(Method::GET, "/status").await
    }

    /// How the keeper stands once that differs in its stage from what was `seen`; after `wait` in any case.
    ///
    /// # Errors
    /// `NotFound` of one that is older than this call; else those of [`status`](Self::status).
    pub async fn next_status(&self, seen: Stage, wait: Duration) -> Result<Status> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let args = NextArgs { seen, wait_ms };
        let answer = self.json(Method::GET, "/status/next", &args, empty());
        within(STATUS_TIMEOUT + wait, answer).await
    }

    /// Asks it to put the machine to sleep and end; with `forget` to stop the guest in order, keeping nothing of its
    /// memory, which one of an older version does not hear. Answers at once.
    ///
    /// # Errors
    /// `Unreachable` where there is none; `Timeout` where it listens and does not answer.
    pub async fn stop(&self, forget: bool) -> Result<Status> {
        let args = forget.then_some(StopArgs { forget });
        within(STATUS_TIMEOUT, self.json(Method::POST, "/stop", &args, empty())).await
    }

    /// Has another egress policy in force when this returns.
    ///
    /// # Errors
    /// `NotFound` of one that is older than this call; `Unavailable` where the policy could not be put in force.
    pub async fn set_egress(&self, egress: &Egress) -> Result<Status> {
        let body = serde_json::to_vec(egress)
            .map_err(|error| Failure::internal("encode an egress policy", error))?;
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        within(CHANGE_TIMEOUT, self.json(Method::PUT, "/egress", &(), body)).await
    }

    /// Has other sizes in force when this returns, but for the memory.
    ///
    /// # Errors
    /// `Unavailable` where they could not be put in force.
    pub async fn set_sizes(&self, sizes: &Sizes) -> Result<Status> {
        let body =
            serde_json::to_vec(sizes).map_err(|error| Failure::internal("encode sizes", error))?;
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        within(CHANGE_TIMEOUT, self.json(Method::PUT, "/sizes", &(), body)).await
    }

    /// See [`Files::stat`](crate::files::Files::stat).
    ///
    /// # Errors
    /// Those of the call, and `Unreachable`; so for all below.
    pub async fn stat(&self, path: &TreePath) -> Result<FileInfo> {
        self.json(Method::GET, "/files/stat", &PathArgs { path: path.into() }, empty()).await
    }

    /// See [`Files::get`](crate::files::Files::get).
    ///
    /// # Errors
    /// Those of the call.
    pub async fn get(
        &self,
        path: &TreePath,
        range: Option<Range>,
    ) -> Result<(FileInfo, Option<(u64, u64)>, ByteStream)> {
        let args = GetArgs { path: path.into(), range };
        let response = self.call(Method::GET, "/files/content", &args, empty()).await?;
        let info: GetInfo = crate::server::decode_header(response.headers(), INFO_HEADER)?;
        Ok((info.info, info.part, body_stream(response.into_body())))
    }

    /// See [`Files::put`](crate::files::Files::put).
    ///
    /// # Errors
    /// Those of the call.
    pub async fn put(
        &self,
        path: &TreePath,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<PutDone> {
        let args = PutArgs { path: path.into(), options };
        self.json(Method::PUT, "/files/content", &args, whole_if_small(body).await).await
    }

    /// See [`Files::remove`](crate::files::Files::remove).
    ///
    /// # Errors
    /// Those of the call.
    pub async fn remove(
        &self,
        path: &TreePath,
        recursive: bool,
        preconditions: Preconditions,
    ) -> Result<FileInfo> {
        let args = RemoveArgs { path: path.into(), recursive, preconditions };
        self.json(Method::DELETE, "/files/content", &args, empty()).await
    }

    /// See [`Files::list`](crate::files::Files::list).
    ///
    /// # Errors
    /// Those of the call.
    pub async fn list(&self, path: &TreePath, after: u64, limit: usize) -> Result<ListPage> {
        let args = ListArgs { path: path.into(), after, limit };
        self.json(Method::GET, "/files/list", &args, empty()).await
    }

    /// See [`Files::make_dir`](crate::files::Files::make_dir).
    ///
    /// # Errors
    /// Those of the call.
    pub async fn make_dir(&self, path: &TreePath, perm: u32) -> Result<()> {
        self.json(Method::POST, "/files/dir", &DirArgs { path: path.into(), perm }, empty()).await
    }

    /// See [`Files::import_tar`](crate::files::Files::import_tar).
    ///
    /// # Errors
    /// Those of the call.
    pub async fn import_tar(
        &self,
        path: &TreePath,
        body: ByteStream,
        removals: Vec<Removal>,
        options: ImportOptions,
    ) -> Result<ImportDone> {
        let args = ImportArgs {
            path: path.into(),
            removals,
            keep_owner: options.keep_owner,
            outside_links: options.outside_links,
        };
        let json = serde_json::to_vec(&args).map_err(|error| Failure::internal("encode", error))?;
        let length = u32::try_from(json.len())
            .map_err(|_| Failure::new(ErrorKind::TooLarge, "too many removals in one import"))?;
        let prefix = [&length.to_le_bytes()[..], &json].concat();
        let prefix = futures::stream::once(async move { Ok(Bytes::from(prefix)) });
        self.json(Method::POST, "/files/tar", &(), streamed(prefix.chain(body).boxed())).await
    }

    /// See [`Files::bundle_tar`](crate::files::Files::bundle_tar).
    ///
    /// # Errors
    /// Those of the call.
    pub async fn bundle_tar(&self, path: &TreePath) -> Result<ByteStream> {
        let args = PathArgs { path: path.into() };
        let response = self.call(Method::GET, "/files/tar", &args, empty()).await?;
        Ok(body_stream(response.into_body()))
    }

    /// Stores everything, and keeps that state of the home.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that cannot be, `TooMany`.
    pub async fn snapshot(&self, id: &SnapshotId, name: Option<&str>) -> Result<Kept> {
        let args = SnapshotArgs { id: id.clone(), name: name.map(str::to_owned) };
        self.json(Method::POST, "/home/snapshots", &args, empty()).await
    }

    /// Stores everything, and keeps that state for the fork `into`; returns its commit.
    ///
    /// # Errors
    /// `TooMany`.
    pub async fn hold_fork(&self, into: &HomeId) -> Result<u64> {
        let args = ForkArgs { into: into.clone() };
        self.json(Method::POST, "/home/forks", &args, empty()).await
    }

    /// Starts a command and answers at once.
    ///
    /// # Errors
    /// `TooMany` where too many run, `InvalidArgument`.
    pub async fn execute(&self, id: &ExecutionId, what: &NewExecution) -> Result<Record> {
        let args = StartArgs { id: id.clone(), what: what.clone() };
        let json = serde_json::to_vec(&args).map_err(|error| Failure::internal("encode", error))?;
        let body = Full::from(json).map_err(|never| match never {}).boxed_unsync();
        self.json(Method::POST, "/executions", &(), body).await
    }

    /// Kills an execution that runs and answers with its end.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn cancel(&self, id: &ExecutionId) -> Result<Record> {
        self.json(Method::POST, &format!("/executions/{id}/cancel"), &(), empty()).await
    }

    /// Waits for an execution's end, at most `wait` (and at most a minute).
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn wait(&self, id: &ExecutionId, wait: Duration) -> Result<Record> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.json(Method::GET, &format!("/executions/{id}/wait"), &WaitArgs { wait_ms }, empty())
            .await
    }

    /// A connection to a running execution, in the frames of `agent_proto`: what was kept of its
    /// output first, then what comes. It ends with the execution.
    ///
    /// # Errors
    /// `Conflict` where it has ended; `TooMany` where too many are attached.
    pub async fn attach(&self, id: &ExecutionId) -> Result<TokioIo<hyper::upgrade::Upgraded>> {
        let request = Request::post(format!("/executions/{id}/attach"))
            .header(http::header::HOST, "keeper")
            .header(http::header::CONNECTION, "upgrade")
            .header(http::header::UPGRADE, "dormouse-exec")
            .body(empty())
            .map_err(Failure::unreachable)?;
        let response = self.connections.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(failure(response).await);
        }
        hyper::upgrade::on(response).await.map(TokioIo::new).map_err(Failure::unreachable)
    }

    /// A call that a keeper answers from memory.
    async fn at_once(&self, method: Method, path: &str) -> Result<Status> {
        within(STATUS_TIMEOUT, self.json(method, path, &(), empty())).await
    }

    async fn json<A: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        args: &A,
        body: RequestBody,
    ) -> Result<T> {
        let response = self.call(method, path, args, body).await?;
        let bytes = collect(response.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(Failure::unreachable)
    }

    async fn call<A: Serialize>(
        &self,
        method: Method,
        path: &str,
        args: &A,
        body: RequestBody,
    ) -> Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "keeper")
            .header(ARGS_HEADER, encode_header(args)?)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(Failure::unreachable)?;
        let response = self.connections.send(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(failure(response).await) }
    }
}

/// An answer that comes within `patience`, or the error that none does.
async fn within(
    patience: Duration,
    answer: impl Future<Output = Result<Status>>,
) -> Result<Status> {
    tokio::time::timeout(patience, answer).await.unwrap_or_else(|_| {
        let seconds = patience.as_secs();
        let why = format!("the machine's keeper does not answer: nothing came in {seconds} s");
        Err(Failure::new(ErrorKind::Timeout, why))
    })
}

fn empty() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn streamed(body: ByteStream) -> RequestBody {
    StreamBody::new(body.map_ok(Frame::data)).boxed_unsync()
}

/// With its length where its end comes soon. One that breaks off by then breaks off the call.
async fn whole_if_small(mut body: ByteStream) -> RequestBody {
    let mut first = Vec::new();
    let mut length = 0;
    while length <= AT_ONCE_BYTES_MAX {
        match body.next().await {
            Some(Ok(piece)) => {
                length += piece.len();
                first.push(piece);
            }
            None => {
                return Full::from(joined(first)).map_err(|never| match never {}).boxed_unsync();
            }
            Some(Err(error)) => {
                body = futures::stream::iter([Err(error)]).boxed();
                break;
            }
        }
    }
    streamed(futures::stream::iter(first.into_iter().map(Ok)).chain(body).boxed())
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        1 => pieces.remove(0),
        _ => pieces
            .iter()
            .fold(BytesMut::new(), |mut all, piece| {
                all.extend_from_slice(piece);
                all
            })
            .freeze(),
    }
}

fn body_stream(body: Incoming) -> ByteStream {
    body.into_data_stream().map_err(std::io::Error::other).boxed()
}

async fn collect(body: Incoming) -> Result<Bytes> {
    let body =
        Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(Failure::unreachable)?;
    Ok(body.to_bytes())
}

async fn failure(response: Response<Incoming>) -> Failure {
    let status = response.status();
    match collect(response.into_body()).await {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|_| match status {
            // Not one of ours: a keeper of an older version does not know the call.
            StatusCode::NOT_FOUND => Failure::new(ErrorKind::NotFound, "it knows no such call"),
            _ => Failure::unreachable(format!("it answered {status}")),
        }),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_its_sender_breaks_off_is_not_the_keepers_fault() {
        let root = tempfile::tempdir().unwrap();
        let dir = MachineDir::new(root.path().to_owned());
        let _listener = tokio::net::UnixListener::bind(dir.socket()).unwrap();
        let lost = futures::stream::iter([
            Ok(Bytes::from_static(b"half")),
            Err(std::io::Error::other("reset")),
        ]);
        let path = TreePath::parse(b"file").unwrap();
        let client = Client::new(&dir);
        let put = client.put(&path, lost.boxed(), PutOptions::default());
        let error = put.await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
    }
}
