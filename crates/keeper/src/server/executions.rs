//! Execution calls over the socket. What is kept can be read from disk; these need the guest.
//!
//! An attachment upgrades to the frames of `agent_proto`: input and signals in, output out; the end of
//! the connection is the end of the execution (or of the keeper), and the record then says which. A client that ends its
//! half has left. An empty piece of output says nothing: it is sent now and then, to find out whether anybody is there.

use std::sync::Arc;
use std::time::Duration;

use agent_proto::{FrameKind, FrameReader, FrameWriter, Signal};
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use base::{ErrorKind, ExecutionId};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::Ctx;
use super::reply::Args;
use crate::executions::runner::{Attached, Input, Runner};
use crate::executions::{NewExecution, Piece, Record};
use crate::run::room::{no_room, says_so};
use crate::{Failure, Result};

/// How often it is looked whether a client of a silent command is there: one whose input nobody takes is not read, so that
/// its end is not seen.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Longest that `wait` waits.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StartArgs {
    pub(crate) id: ExecutionId,
    pub(crate) what: NewExecution,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WaitArgs {
    pub(crate) wait_ms: u64,
}

pub(super) async fn create(State(ctx): Ctx, Json(args): Json<StartArgs>) -> Result<Json<Record>> {
    let _inside = ctx.door.enter()?;
    if ctx.waits_for_room.get().is_some_and(says_so) {
        return Err(no_room());
    }
    Arc::clone(ctx.runner()?).start(args.id, args.what).map(Json)
}

pub(super) async fn attach(
    State(ctx): Ctx,
    Path(id): Path<ExecutionId>,
    request: Request,
) -> Result<Response> {
    let Some(attached) = ctx.runner()?.attach(&id)? else {
        return Err(Failure::new(ErrorKind::Conflict, format!("execution {id} has ended")));
    };
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => copy(attached, TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "an attach went away before it began"),
        }
    });
    let headers = [(http::header::CONNECTION, "upgrade"), (http::header::UPGRADE, "dormouse-exec")];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

pub(super) async fn cancel(State(ctx): Ctx, Path(id): Path<ExecutionId>) -> Result<Json<Record>> {
    ctx.runner()?.cancel(&id).await.map(Json)
}

/// Answers once the execution has ended, or after the given time with how it stands.
pub(super) async fn wait(
    State(ctx): Ctx,
    Path(id): Path<ExecutionId>,
    Args(args): Args<WaitArgs>,
) -> Result<Json<Record>> {
    let runner: &Arc<Runner> = ctx.runner()?;
    runner.wait(&id, Duration::from_millis(args.wait_ms).min(WAIT_MAX)).await.map(Json)
}

async fn copy(attached: Attached, io: impl AsyncRead + AsyncWrite) {
    let (read, write) = tokio::io::split(io);
    let Attached { before, mut output, input, place: _place } = attached;
    let outward = async move {
        let mut writer = FrameWriter::new(Box::pin(write));
        for piece in before.into_iter().flatten() {
            send(&mut writer, piece).await?;
        }
        loop {
            match timeout(LOOK_EVERY, output.recv()).await {
                Ok(Some(piece)) => send(&mut writer, piece).await?,
                Ok(None) => break,
                Err(_) => writer.frame(FrameKind::Stdout, b"").await?,
            }
        }
        Ok::<(), agent_proto::Error>(())
    };
    let inward = async move {
        let mut reader = FrameReader::new(Box::pin(read));
        while let Some(frame) = reader.next().await? {
            let next = match frame.kind {
                FrameKind::Stdin if frame.payload.is_empty() => Input::StdinEnd,
                FrameKind::Stdin => Input::Stdin(frame.payload),
                FrameKind::Signal => Input::Signal(frame.json::<Signal>("signal")?.signal),
                _ => break,
            };
            // Where nobody takes input any more it falls away, and is read on: the end tells that the client has left.
            input.send(next).await.ok();
        }
        Ok::<(), agent_proto::Error>(())
    };
    // Whoever has left is not waited for until there is output again: it has a place that others want.
    tokio::select! {
        done = outward => done.ok(),
        done = inward => done.ok(),
    };
}

async fn send(
    writer: &mut FrameWriter<impl AsyncWrite + Unpin>,
    piece: Piece,
) -> Result<(), agent_proto::Error> {
    let (kind, bytes) = match piece {
        Piece::Stdout(bytes) => (FrameKind::Stdout, bytes),
        Piece::Stderr(bytes) => (FrameKind::Stderr, bytes),
    };
    for part in bytes.chunks(agent_proto::FRAME_BYTES_MAX) {
        writer.frame(kind, part).await?;
    }
    Ok(())
}
