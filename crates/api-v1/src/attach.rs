//! A command with its standard streams on one WebSocket; ours, beyond the contract.
//!
//! # Order
//! The client's first message is the text of an `ExecutionCreate`; with `"stdin": true` standard input
//! comes in frames. The server answers `{"type":"started","execution_id":…}`, then sends output as it
//! comes, `{"type":"exit",…}`, and closes with 1000. Frames are in [`frames`].
//!
//! # Failure
//! What goes wrong is told as `{"type":"error",…}` with the fields of every error body, then close 1008
//! (the request cannot be right) or 1011 (the server could not). A client that goes away leaves its
//! execution running; its output is kept as for any other.
//!
//! # Not here
//! Terminals: they have their own endpoint and protocol.

mod frames;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use base::ErrorKind;
use bytes::Bytes;
use control::executions::{AttachInput, AttachOutput, Attachment};
use control::{Executions, MachineRef};
use futures::stream::{BoxStream, SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use http_kit::{ApiError, body};
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};
use tracing::debug;

use crate::ctx::{Ctx, Target};
use crate::limits::{
    ATTACH_CLOSE_MAX, ATTACH_FIRST_MESSAGE_MAX, ATTACH_MESSAGE_BYTES_MAX, ATTACH_SEND_MAX,
    HEARTBEAT,
};
use crate::shapes::execution::ExecutionCreate;

type Sink = SplitSink<WebSocket, Message>;

/// Why a conversation ended early.
enum End {
    /// The client is gone; nobody is left to tell.
    Gone,
    /// Tell the client.
    Failed(ApiError),
}

impl From<ApiError> for End {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl From<control::Error> for End {
    fn from(error: control::Error) -> Self {
        ApiError::from(error).into()
    }
}

pub(crate) async fn attach(
    State(ctx): State<Ctx>,
    Target(machine): Target,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| {
        ApiError::invalid(format!("this path is a WebSocket: {}", error.body_text()))
            .with_code(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED")
    })?;
    // A machine that does not exist is told before the upgrade, as a plain 404.
    ctx.control.machines().get(&machine).await?;
    let executions = ctx.control.executions();
    Ok(upgrade
        .max_message_size(ATTACH_MESSAGE_BYTES_MAX)
        .max_frame_size(ATTACH_MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| converse(executions, machine, socket)))
}

async fn converse(executions: Executions, machine: MachineRef, socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    let ended = match begin(&executions, &machine, &mut sink, &mut stream).await {
        Ok(attachment) => relay(attachment, &mut sink, &mut stream).await,
        Err(end) => Err(end),
    };
    let close = match ended {
        Ok(()) => close_frame(close_code::NORMAL, "the execution has ended"),
        Err(End::Gone) => return,
        Err(End::Failed(error)) => {
            let code = if error.status().is_server_error() {
                close_code::ERROR
            } else {
                close_code::POLICY
            };
            if send(&mut sink, frames::error(&error)).await.is_err() {
                return;
            }
            close_frame(code, error.code())
        }
    };
    if send(&mut sink, Message::Close(Some(close))).await.is_err() {
        debug!("an attached client left before it was told the end");
        return;
    }
    // Until the client closes too: bytes that it still sends, unread, would reset the connection, and
    // it could lose what it was just told.
    let rest = async { while let Some(Ok(_)) = stream.next().await {} };
    if timeout(ATTACH_CLOSE_MAX, rest).await.is_err() {
        debug!("an attached client did not close");
    }
}

/// Reads what to run, starts it and joins it.
async fn begin(
    executions: &Executions,
    machine: &MachineRef,
    sink: &mut Sink,
    stream: &mut SplitStream<WebSocket>,
) -> Result<Attachment, End> {
    let asked = timeout(ATTACH_FIRST_MESSAGE_MAX, first_text(stream)).await.map_err(|_| {
        ApiError::new(ErrorKind::InvalidArgument, "send what to run as the first message")
    })??;
    let new = body::from_json::<ExecutionCreate>(asked.as_bytes())?.into_new(true)?;
    let execution = executions.create(machine, new).await?;
    send(sink, frames::started(&execution)).await?;
    Ok(executions.attach(machine, &execution.execution_id).await?)
}

async fn first_text(stream: &mut SplitStream<WebSocket>) -> Result<String, End> {
    while let Some(message) = stream.next().await {
        match message {
            Ok(Message::Text(text)) => return Ok(text.as_str().to_owned()),
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(Message::Binary(_)) => {
                let what = "the first message is text: a JSON object with the command to run";
                return Err(ApiError::invalid(what).into());
            }
            Ok(Message::Close(_)) | Err(_) => return Err(End::Gone),
        }
    }
    Err(End::Gone)
}

/// Copies both ways until the execution has ended or the client is gone. The two directions run beside
/// each other, so neither a guest nor a client that is slow to read holds up the other direction.
async fn relay(
    attachment: Attachment,
    sink: &mut Sink,
    stream: &mut SplitStream<WebSocket>,
) -> Result<(), End> {
    let Attachment { input, output } = attachment;
    tokio::select! {
        ended = write(sink, output) => ended,
        // Input stays open after the client has said its last: how that ends must be told first.
        end = read(stream, &input) => Err(end),
    }
}

/// Sends output as it comes, then the exit.
async fn write(
    sink: &mut Sink,
    mut output: BoxStream<'static, control::Result<AttachOutput>>,
) -> Result<(), End> {
    let mut heartbeat = interval(HEARTBEAT);
    loop {
        tokio::select! {
            event = output.next() => match event {
                Some(Ok(AttachOutput::Ended(execution))) => {
                    return send(sink, frames::exit(&execution)).await;
                }
                Some(Ok(AttachOutput::Stdout(bytes))) => {
                    send_all(sink, frames::STDOUT, bytes).await?;
                }
                Some(Ok(AttachOutput::Stderr(bytes))) => {
                    send_all(sink, frames::STDERR, bytes).await?;
                }
                Some(Err(error)) => return Err(error.into()),
                None => {
                    let what = "the machine stopped answering; look at the execution for how it ended";
                    return Err(ApiError::new(ErrorKind::Unreachable, what).into());
                }
            },
            _ = heartbeat.tick() => send(sink, Message::Ping(Bytes::new())).await?,
        }
    }
}

/// Hands on what the client sends, until it leaves or sends what cannot be read.
async fn read(stream: &mut SplitStream<WebSocket>, input: &mpsc::Sender<AttachInput>) -> End {
    while let Some(message) = stream.next().await {
        let message = match message {
            Ok(Message::Close(_)) | Err(_) => break,
            Ok(message) => message,
        };
        match frames::input(message) {
            // Where nobody takes input any more, the execution has ended and its exit is on the way to
            // the client; what is sent until then falls away.
            Ok(Some(event)) => drop(input.send(event).await),
            Ok(None) => {}
            Err(error) => return error.into(),
        }
    }
    End::Gone
}

async fn send_all(sink: &mut Sink, tag: u8, bytes: Bytes) -> Result<(), End> {
    for frame in frames::output(tag, &bytes) {
        send(sink, frame).await?;
    }
    Ok(())
}

/// Sends, unless the client takes nothing for too long.
async fn send(sink: &mut Sink, message: Message) -> Result<(), End> {
    match timeout(ATTACH_SEND_MAX, sink.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End::Gone),
    }
}

fn close_frame(code: u16, reason: &str) -> CloseFrame {
    CloseFrame { code, reason: reason.to_owned().into() }
}
