//! A command in a machine, with its input and output live: the attach WebSocket (docs/api/v1.md).

use std::collections::BTreeMap;

use base::ErrorKind;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::machines::at;
use crate::{Client, Error, Result};

/// First byte of a binary message: standard input.
const STDIN: u8 = 0;
/// Standard output.
const STDOUT: u8 = 1;
/// Standard error.
const STDERR: u8 = 2;

/// What to run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// Whether standard input will be sent.
    pub stdin: bool,
}

/// What comes from the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// It has started, under this id.
    Started(String),
    /// Bytes of standard output.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
    /// It has ended.
    Exited {
        /// Its exit code, where it exited.
        code: Option<i32>,
        /// The signal that killed it.
        signal: Option<i32>,
        /// What went wrong besides.
        error: Option<String>,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Text {
    Started {
        execution_id: String,
    },
    Exit {
        exit_code: Option<i32>,
        signal: Option<i32>,
        #[serde(default)]
        error_message: Option<String>,
    },
    Error {
        #[serde(default)]
        error_code: String,
        #[serde(default)]
        message: String,
    },
    #[serde(other)]
    Other,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A running command; see [`ExecSession::split`] for its input.
#[derive(Debug)]
pub struct ExecSession {
    events: SplitStream<Socket>,
    base: String,
}

/// Where input and signals go.
#[derive(Debug)]
pub struct ExecInput(SplitSink<Socket, Message>);

impl ExecInput {
    /// Writes to standard input; empty bytes end it.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(STDIN);
        message.extend_from_slice(bytes);
        self.send(Message::Binary(message.into())).await
    }

    /// Sends a signal to the command.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn signal(&mut self, signal: i32) -> Result<()> {
        let text = serde_json::json!({"type": "signal", "signal": signal}).to_string();
        self.send(Message::Text(text.into())).await
    }

    async fn send(&mut self, message: Message) -> Result<()> {
        self.0.send(message).await.map_err(|error| lost(&error))
    }
}

fn lost(error: &dyn std::fmt::Display) -> Error {
    Error::of(ErrorKind::Unreachable, format!("the connection to the server was lost: {error}"))
}

impl ExecSession {
    /// The next thing that comes; `None` after the end.
    ///
    /// # Errors
    /// The server's error, or a lost connection.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>> {
        loop {
            let Some(message) = self.events.next().await else { return Ok(None) };
            match message.map_err(|error| lost(&error))? {
                Message::Binary(bytes) => match bytes.first() {
                    Some(&STDOUT) => return Ok(Some(ExecEvent::Stdout(bytes.slice(1..)))),
                    Some(&STDERR) => return Ok(Some(ExecEvent::Stderr(bytes.slice(1..)))),
                    _ => {}
                },
                Message::Text(text) => {
                    let text: Text = serde_json::from_str(&text).map_err(|error| lost(&error))?;
                    match text {
                        Text::Started { execution_id } => {
                            return Ok(Some(ExecEvent::Started(execution_id)));
                        }
                        Text::Exit { exit_code, signal, error_message } => {
                            return Ok(Some(ExecEvent::Exited {
                                code: exit_code,
                                signal,
                                error: error_message,
                            }));
                        }
                        Text::Error { error_code, message } => {
                            return Err(Error::from_code(error_code, message));
                        }
                        Text::Other => {}
                    }
                }
                Message::Close(_) => return Ok(None),
                _ => {}
            }
        }
    }

    /// The server's URL, for messages.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }
}

impl Client {
    /// Runs a command and joins it. The machine is woken where it sleeps.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn exec(
        &self,
        machine: &str,
        what: &ExecRequest,
    ) -> Result<(ExecSession, ExecInput)> {
        let url = format!("{}{}", self.base, at(machine, "/executions/attach"));
        let url = url.replacen("http", "ws", 1);
        let mut request = url
            .into_client_request()
            .map_err(|error| Error::invalid(format!("{}: {error}", self.base)))?;
        let bearer = http::HeaderValue::from_str(&format!("Bearer {}", self.key))
            .map_err(|_| Error::invalid("the API key holds characters that no key has"))?;
        request.headers_mut().insert(http::header::AUTHORIZATION, bearer);
        let (socket, _) = match tokio_tungstenite::connect_async(request).await {
            Ok(connected) => connected,
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                return Err(Error::from_body(response.status().as_u16(), body));
            }
            Err(error) => return Err(lost(&error)),
        };
        let (sink, events) = socket.split();
        let mut input = ExecInput(sink);
        let first = serde_json::to_string(what)
            .map_err(|error| Error::invalid(format!("encode the command: {error}")))?;
        input.send(Message::Text(first.into())).await?;
        Ok((ExecSession { events, base: self.base.clone() }, input))
    }
}
