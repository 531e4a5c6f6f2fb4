//! Messages of an attachment.
//!
//! Binary: one byte that says which stream, then its bytes. 0 standard input (client to server; nothing
//! after it means its end), 1 standard output, 2 standard error. Text: JSON objects with a `type`:
//! `started`, `exit`, `error` from the server, `signal` from the client.

use axum::extract::ws::Message;
use bytes::{BufMut, Bytes, BytesMut};
use control::executions::{AttachInput, Execution};
use http_kit::ApiError;
use serde::Deserialize;
use serde_json::json;

use crate::limits::SIGNAL_MAX;
use crate::shapes::execution::status_word;

const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;

/// Bytes of output in one frame; WebSocket libraries refuse messages past 1 MiB by default.
const OUTPUT_FRAME_BYTES_MAX: usize = 256 * 1024;

/// The error code of an execution that its own time limit killed.
const TIMEOUT: &str = "TIMEOUT";

/// What a client can say in text after the first message.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Said {
    /// Send this signal to the process group.
    Signal { signal: i32 },
}

/// What a message of the client asks for; nothing for pings.
pub(super) fn input(message: Message) -> Result<Option<AttachInput>, ApiError> {
    match message {
        Message::Binary(frame) => match frame.split_first() {
            Some((&STDIN, [])) => Ok(Some(AttachInput::StdinEnd)),
            Some((&STDIN, _)) => Ok(Some(AttachInput::Stdin(frame.slice(1..)))),
            Some((tag, _)) => Err(ApiError::invalid(format!(
                "a binary message starts with {STDIN} for standard input, not with {tag}"
            ))),
            None => Err(ApiError::invalid("a binary message starts with the number of its stream")),
        },
        Message::Text(text) => match serde_json::from_str(text.as_str()) {
            Ok(Said::Signal { signal }) if (1..=SIGNAL_MAX).contains(&signal) => {
                Ok(Some(AttachInput::Signal(signal)))
            }
            Ok(Said::Signal { signal }) => {
                Err(ApiError::invalid(format!("signal {signal} is not one of 1 to {SIGNAL_MAX}")))
            }
            Err(error) => {
                Err(ApiError::invalid(format!("a text message is not as expected: {error}")))
            }
        },
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(None),
    }
}

/// Output as frames of a bearable size.
pub(super) fn output(tag: u8, bytes: &Bytes) -> impl Iterator<Item = Message> {
    bytes.chunks(OUTPUT_FRAME_BYTES_MAX).map(move |piece| {
        let mut frame = BytesMut::with_capacity(1 + piece.len());
        frame.put_u8(tag);
        frame.put_slice(piece);
        Message::Binary(frame.freeze())
    })
}

pub(super) fn started(execution: &Execution) -> Message {
    text(&json!({ "type": "started", "execution_id": execution.execution_id }))
}

pub(super) fn exit(execution: &Execution) -> Message {
    text(&json!({
        "type": "exit",
        "execution_id": execution.execution_id,
        "status": status_word(execution.status),
        "exit_code": execution.exit_code,
        "signal": execution.signal,
        "timed_out": execution.error_code.as_deref() == Some(TIMEOUT),
        "error_code": execution.error_code,
        "error_message": execution.error_message,
    }))
}

pub(super) fn error(error: &ApiError) -> Message {
    let mut body = serde_json::to_value(error.body()).unwrap_or_default();
    body["type"] = "error".into();
    text(&body)
}

fn text(value: &serde_json::Value) -> Message {
    Message::text(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_input_and_its_end_are_told_apart() {
        let of = |bytes: &'static [u8]| input(Message::Binary(Bytes::from_static(bytes)));
        assert_eq!(of(b"\0hi").unwrap(), Some(AttachInput::Stdin(Bytes::from_static(b"hi"))));
        assert_eq!(of(b"\0").unwrap(), Some(AttachInput::StdinEnd));
        assert!(of(b"").is_err() && of(b"\x01x").is_err());
    }

    #[test]
    fn only_signals_that_exist_are_sent() {
        let of = |text: &'static str| input(Message::text(text));
        assert_eq!(of(r#"{"type":"signal","signal":15}"#).unwrap(), Some(AttachInput::Signal(15)));
        for bad in
            [r#"{"type":"signal","signal":0}"#, r#"{"type":"signal","signal":65}"#, "{}", "x"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn large_output_is_cut_into_frames() {
        let bytes = Bytes::from(vec![7; OUTPUT_FRAME_BYTES_MAX + 5]);
        let frames: Vec<_> = output(STDERR, &bytes).map(Message::into_data).collect();
        assert_eq!(
            frames.iter().map(|frame| frame.len() - 1).collect::<Vec<_>>(),
            [OUTPUT_FRAME_BYTES_MAX, 5]
        );
        assert!(frames.iter().all(|frame| frame[0] == STDERR));
    }
}
