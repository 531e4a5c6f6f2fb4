use std::collections::VecDeque;

use base::SystemEntropy;
use serde_json::json;
use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::mux::AgentMux;

/// An agent that takes one request after the other and answers with the next of `replies`, or
/// drops the stream unanswered where that is `None`. Hands back what it was asked.
async fn agent(
    mut stream: DuplexStream,
    mut replies: VecDeque<Option<serde_json::Value>>,
) -> Vec<serde_json::Value> {
    handshake::agent(&mut stream).await.unwrap();
    let mut mux = AgentMux::start(stream);
    let mut asked = Vec::new();
    while let Ok(stream) = mux.accept().await {
        let (reader, writer) = split(stream);
        let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
        asked.push(reader.message("request").await.unwrap());
        if let Some(reply) = replies.pop_front().unwrap() {
            writer.message(&reply).await.unwrap();
            writer.close().await.unwrap();
        }
    }
    asked
}

#[tokio::test]
async fn when_the_guest_wants_to_be_woken_is_asked() {
    let (near, far) = duplex(64 * 1024);
    let replies = [
        Some(json!({"reply": "wake_at", "unix_seconds": 1_900_000_000})),
        Some(json!({"reply": "wake_at", "unix_seconds": null})),
        Some(json!({"reply": "failed", "errno": 95, "message": "not in a guest"})),
        Some(json!({"reply": "done"})),
        None,
    ];
    let answering = tokio::spawn(agent(far, VecDeque::from(replies)));
    let client = AgentClient::connect(near, &SystemEntropy).await.unwrap();
    assert_eq!(client.wake_at().await.unwrap(), Some(1_900_000_000));
    assert_eq!(client.wake_at().await.unwrap(), None);
    let refused = client.wake_at().await.unwrap_err();
    assert!(matches!(refused, Error::Refused { errno: Some(95), .. }), "{refused}");
    let other = client.wake_at().await.unwrap_err();
    assert!(matches!(other, Error::UnexpectedReply { .. }), "{other}");
    // What an agent does that does not know the request.
    let reset = client.wake_at().await.unwrap_err();
    assert!(matches!(reset, Error::Closed { .. }), "{reset}");
    drop(client);
    assert_eq!(answering.await.unwrap(), vec![json!({"op": "wake_at"}); 5]);
}
