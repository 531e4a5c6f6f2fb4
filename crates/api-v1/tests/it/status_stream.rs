use reqwest::Method;
use serde_json::Value;

use crate::server::{Server, header};

/// Every event as (name, id, data).
fn events(text: &str) -> Vec<(String, String, Value)> {
    assert!(text.ends_with("\n\n"), "the last event is ended by a blank line");
    let blocks = text.split("\n\n").filter(|block| !block.trim().is_empty());
    blocks
        .filter(|block| !block.starts_with(':'))
        .map(|block| {
            let field = |name: &str| {
                let line =
                    block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.unwrap_or_default().trim().to_owned()
            };
            (field("event"), field("id"), serde_json::from_str(&field("data")).unwrap())
        })
        .collect()
}

#[tokio::test]
async fn a_settled_machine_is_told_once() {
    let server = Server::start().await;
    let machine = server.awake().await;
    let reply = server.get("/v1/machines/hello/status/stream").await;
    assert_eq!(
        (reply.status().as_u16(), header(&reply, "content-type")),
        (200, "text/event-stream")
    );
    let events = events(&reply.text().await.unwrap());
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].0.as_str(), &events[0].2["phase"]), ("status", &"running".into()));
    assert_eq!(events[0].1, machine["revision"].as_str().unwrap());
}

#[tokio::test]
async fn changes_are_told_until_the_machine_is_there() {
    let server = Server::start().await;
    server.world.host.hold_starting(true);
    let create = server.ask(Method::POST, "/v1/machines").header("prefer", "wait=0");
    let create = create.json(&serde_json::json!({ "name": "hello" })).send().await.unwrap();
    assert_eq!(create.status(), 202);
    let mut watching = server.get("/v1/machines/hello/status/stream").await;
    let first = watching.chunk().await.unwrap().expect("it says how it is");
    server.world.host.hold_starting(false);
    let told = [first, watching.bytes().await.unwrap()].concat();
    let events = events(std::str::from_utf8(&told).unwrap());
    assert!(events.len() >= 2, "{events:?}");
    assert_ne!(events[0].2["phase"], "running", "the first is the state at the start");
    assert_eq!(events.last().unwrap().2["status"]["phase"], "running");
}

#[tokio::test]
async fn an_unknown_machine_is_an_ordinary_error() {
    let server = Server::start().await;
    let reply = server.get("/v1/machines/nobody/status/stream").await;
    assert_eq!(
        (reply.status().as_u16(), header(&reply, "content-type")),
        (404, "application/json")
    );
}
