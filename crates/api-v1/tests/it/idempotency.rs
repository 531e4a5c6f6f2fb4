use std::time::Duration;

use control::fakes::eventually;
use reqwest::{Method, Response};
use serde_json::json;

use crate::server::{Server, header, json};

async fn create(server: &Server, key: &str, body: serde_json::Value) -> Response {
    let request = server.ask(Method::POST, "/v1/machines").header("idempotency-key", key);
    request.json(&body).send().await.unwrap()
}

#[tokio::test]
async fn the_same_request_under_its_key_makes_one_machine() {
    let server = Server::start().await;
    let first = create(&server, "key-1", json!({})).await;
    assert_eq!(header(&first, "idempotent-replayed"), "");
    let (status, etag) = (first.status(), header(&first, "etag").to_owned());
    let first = json(first).await;
    let second = create(&server, "key-1", json!({})).await;
    assert_eq!((second.status(), header(&second, "etag")), (status, etag.as_str()));
    assert_eq!(header(&second, "idempotent-replayed"), "true");
    assert_eq!(header(&second, "content-type"), "application/json");
    assert_eq!(json(second).await, first);
    let all = json(server.get("/v1/machines").await).await;
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_belongs_to_one_request() {
    let server = Server::start().await;
    assert!(create(&server, "key-1", json!({ "vcpu": 1 })).await.status().is_success());
    let reply = create(&server, "key-1", json!({ "vcpu": 2 })).await;
    assert_eq!((reply.status().as_u16(), header(&reply, "x-should-retry")), (409, "false"));
    let body = json(reply).await;
    assert_eq!(body["error_code"], "IDEMPOTENCY_KEY_REUSED");
    assert_ne!(body["details"]["expected_request_hash"], body["details"]["provided_request_hash"]);
}

#[tokio::test]
async fn a_request_that_failed_may_be_tried_again() {
    let server = Server::start().await;
    let ask = || {
        let request = server.ask(Method::POST, "/v1/machines/hello/wake");
        request.header("idempotency-key", "key-1").send()
    };
    assert_eq!(ask().await.unwrap().status(), 404);
    server.awake().await;
    assert_eq!(ask().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_key_in_use_is_told_to_come_back() {
    let server = Server::start().await;
    server.world.host.hold_starting(true);
    let slow =
        server.ask(Method::POST, "/v1/machines").header("idempotency-key", "k").json(&json!({}));
    let slow = tokio::spawn(slow.send());
    eventually(|| server.world.host.starts() > 0).await;
    let reply = create(&server, "k", json!({})).await;
    assert_eq!((reply.status().as_u16(), header(&reply, "retry-after-ms")), (429, "250"));
    assert_eq!(json(reply).await["error_code"], "RATE_LIMITED");
    server.world.host.hold_starting(false);
    let id = json(slow.await.unwrap().unwrap()).await["machine_id"].clone();
    assert_eq!(json(create(&server, "k", json!({})).await).await["machine_id"], id);
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_cut_its_request_in_half() {
    let server = Server::start().await;
    server.world.host.hold_starting(true);
    let request = server.ask(Method::POST, "/v1/machines").header("idempotency-key", "k");
    let asked = tokio::spawn(request.json(&json!({})).send());
    eventually(|| server.world.host.starts() > 0).await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    server.world.host.hold_starting(false);
    for _ in 0..600 {
        let reply = create(&server, "k", json!({})).await;
        if reply.status() != 429 {
            assert_eq!(header(&reply, "idempotent-replayed"), "true");
            let all = json(server.get("/v1/machines").await).await;
            assert_eq!(all["items"].as_array().unwrap().len(), 1);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the first request never ended");
}

#[tokio::test]
async fn files_take_no_notice_of_keys() {
    let server = Server::start().await;
    server.awake().await;
    for body in ["one", "two"] {
        let request =
            server.ask(Method::PUT, "/v1/machines/hello/fs/f").header("idempotency-key", "k");
        assert!(request.body(body).send().await.unwrap().status().is_success());
    }
    assert_eq!(server.get("/v1/machines/hello/fs/f").await.text().await.unwrap(), "two");
}
