//! Snapshots, restores and forks over HTTP.

use reqwest::{Method, Response};
use serde_json::json;

use crate::server::{Server, header, json};

async fn snapshot(server: &Server, body: serde_json::Value) -> Response {
    server.post("/v1/machines/hello/snapshots", body).await
}

async fn text(server: &Server, path: &str) -> String {
    server.get(path).await.text().await.unwrap()
}

#[tokio::test]
async fn a_snapshot_is_made_listed_read_and_let_go() {
    let server = Server::start().await;
    let machine = server.awake().await;
    let reply = snapshot(&server, json!({ "name": "before" })).await;
    assert_eq!(reply.status(), 201);
    let made = json(reply).await;
    assert_eq!((&made["machine_id"], &made["name"]), (&machine["machine_id"], &"before".into()));
    assert!(made["created_at"].is_string());
    let unnamed = json(snapshot(&server, json!({})).await).await;
    assert!(unnamed.get("name").is_none());
    let listed = json(server.get("/v1/machines/hello/snapshots").await).await;
    assert_eq!(listed, json!({ "items": [made, unnamed] }));
    let page = json(server.get("/v1/machines/hello/snapshots?limit=1").await).await;
    assert_eq!(page["next_cursor"], made["snapshot_id"]);
    let at = format!("/v1/snapshots/{}", made["snapshot_id"].as_str().unwrap());
    assert_eq!(json(server.get(&at).await).await, made);
    assert_eq!(json(server.delete(&at).await).await, made);
    assert_eq!(server.get(&at).await.status(), 404);
    assert_eq!(server.get("/v1/snapshots/nonsense").await.status(), 400);
    assert_eq!(snapshot(&server, json!({ "name": "" })).await.status(), 400);
    assert_eq!(server.post("/v1/machines/nobody/snapshots", json!({})).await.status(), 404);
}

#[tokio::test]
async fn what_is_kept_of_a_machine_is_said_and_can_be_insisted_on() {
    let server = Server::start().await;
    server.awake().await;
    let fork = |body| server.post("/v1/machines/hello/fork", body);
    let made = json(snapshot(&server, json!({})).await).await;
    assert_eq!(made["contains"], json!(["home"]));
    let at_home = json!({ "snapshot_id": made["snapshot_id"], "whole": true });
    let insisting = json!({ "whole": true });
    let commands = "/v1/machines/hello/executions";
    let runs = json(server.post(commands, json!({ "command": ["sleep", "60"] })).await).await;
    let refused = [
        snapshot(&server, insisting.clone()).await,
        fork(insisting.clone()).await,
        fork(at_home).await,
    ];
    for reply in refused {
        assert_eq!((reply.status().as_u16(), header(&reply, "x-should-retry")), (409, "false"));
        assert_eq!(json(reply).await["error_code"], "INVALID_STATE");
    }
    let one = format!("{commands}/{}", runs["execution_id"].as_str().unwrap());
    assert_eq!(json(server.get(&one).await).await["status"], "running");
    assert_eq!(server.delete(&one).await.status(), 200);
    let all = json!(["home", "upper"]);
    let whole = json(snapshot(&server, insisting.clone()).await).await;
    assert_eq!(whole["contains"], all);
    let listed = json(server.get("/v1/machines/hello/snapshots").await).await;
    assert_eq!(listed, json!({ "items": [made, whole] }));
    assert_eq!(json(server.get("/v1/machines/hello").await).await["phase"], "running");
    let slept = server.ask(Method::POST, "/v1/machines/hello/sleep").send().await.unwrap();
    assert_eq!(slept.status(), 200);
    let reply = fork(insisting).await;
    assert_eq!(reply.status(), 201);
    let forked = json(reply).await;
    assert_eq!((&forked["contains"], &forked["phase"]), (&all, &"sleeping".into()));
}

#[tokio::test]
async fn a_snapshot_asked_for_twice_under_one_key_is_one() {
    let server = Server::start().await;
    server.asleep().await;
    let ask = || {
        let request = server.ask(Method::POST, "/v1/machines/hello/snapshots");
        request.header("idempotency-key", "k").json(&json!({ "name": "once" })).send()
    };
    let (first, second) = (ask().await.unwrap(), ask().await.unwrap());
    assert_eq!(header(&second, "idempotent-replayed"), "true");
    assert_eq!(json(first).await, json(second).await);
    let listed = json(server.get("/v1/machines/hello/snapshots").await).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_machine_is_restored_asleep_and_refused_awake_or_with_a_draft() {
    let server = Server::start().await;
    server.awake().await;
    server.put("/v1/machines/hello/fs/f", "first").await;
    let made = json(snapshot(&server, json!({})).await).await;
    server.put("/v1/machines/hello/fs/f", "second").await;
    let body = json!({ "snapshot_id": made["snapshot_id"] });
    let restore = || server.post("/v1/machines/hello/restore", body.clone());
    let reply = restore().await;
    assert_eq!((reply.status().as_u16(), header(&reply, "x-should-retry")), (409, "false"));
    assert_eq!(json(reply).await["error_code"], "INVALID_STATE");
    let slept = server.ask(Method::POST, "/v1/machines/hello/sleep").send().await.unwrap();
    assert_eq!(slept.status(), 200);
    server.put("/v1/machines/hello/fs/g", "draft").await;
    let reply = restore().await;
    assert_eq!((reply.status().as_u16(), header(&reply, "x-should-retry")), (409, "false"));
    assert_eq!(json(reply).await["error_code"], "DRAFT_OPEN");
    assert_eq!(server.delete("/v1/machines/hello/draft").await.status(), 200);
    assert_eq!(text(&server, "/v1/machines/hello/fs/f").await, "second");
    let reply = restore().await;
    assert_eq!(reply.status(), 200);
    assert_eq!(json(reply).await["phase"], "sleeping");
    assert_eq!(text(&server, "/v1/machines/hello/fs/f").await, "first");
    for (body, status) in [
        (json!({}), 400),
        (json!({ "snapshot_id": "snap-1" }), 400),
        (json!({ "snapshot_id": base::SnapshotId::generate() }), 404),
    ] {
        assert_eq!(server.post("/v1/machines/hello/restore", body).await.status(), status);
    }
}

#[tokio::test]
async fn a_fork_is_a_machine_and_outlives_its_parent() {
    let server = Server::start().await;
    server.awake().await;
    server.put("/v1/machines/hello/fs/f", "first").await;
    let made = json(snapshot(&server, json!({})).await).await;
    server.put("/v1/machines/hello/fs/f", "second").await;
    let closed = json!({ "egress": { "policy": "none" } });
    let update = server.ask(Method::PATCH, "/v1/machines/hello").json(&closed);
    assert_eq!(update.send().await.unwrap().status(), 200);
    let fork = |body| server.post("/v1/machines/hello/fork", body);
    let reply = fork(json!({ "name": "now" })).await;
    assert_eq!(reply.status(), 201);
    let now = json(reply).await;
    assert_eq!(now["egress"], closed["egress"], "it reaches no more than its parent");
    assert_eq!((&now["name"], &now["phase"]), (&"now".into(), &"sleeping".into()));
    let then = json(fork(json!({ "snapshot_id": made["snapshot_id"] })).await).await;
    assert_eq!(fork(json!({ "name": "now" })).await.status(), 409);
    assert_eq!(fork(json!({ "name": "NOT OK" })).await.status(), 400);
    assert_eq!(server.delete("/v1/machines/hello").await.status(), 200);
    for (machine, expected) in [(&now, "second"), (&then, "first")] {
        let path = format!("/v1/machines/{}/fs/f", machine["machine_id"].as_str().unwrap());
        assert_eq!(text(&server, &path).await, expected);
    }
}
