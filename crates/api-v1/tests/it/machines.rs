use std::time::Instant;

use control::fakes::eventually;
use reqwest::Method;
use serde_json::json;

use crate::server::{Server, header, json};

#[tokio::test]
async fn a_machine_has_the_fields_of_every_dialect() {
    let server = Server::start().await;
    let reply = server
        .post(
            "/v1/machines",
            json!({ "vcpu": 1, "memory_mib": 2048, "storage_gib": 10, "autosleep": "15m" }),
        )
        .await;
    assert_eq!(reply.status(), 200, "it converged while the call waited");
    let etag = header(&reply, "etag").to_owned();
    let machine = json(reply).await;
    assert_eq!(etag, format!("\"{}\"", machine["revision"].as_str().unwrap()));
    assert_eq!(machine["phase"], "running");
    assert_eq!(machine["status"]["phase"], "running");
    assert_eq!(machine["status"]["revision"], machine["revision"]);
    assert_eq!(machine["status"]["memory_configured_mib"], 2048);
    assert_eq!(machine["desired_state"], "running");
    assert_eq!(machine["autosleep_seconds"], 900);
    for field in ["machine_id", "name", "image", "created_at"] {
        assert!(machine[field].is_string(), "{field}");
    }
    for field in ["reason", "last_transition_at", "last_progress_at"] {
        assert!(machine["status"][field].is_string(), "{field}");
    }
    assert!(machine["status"].get("last_error").is_none(), "unset fields are left out");
}

#[tokio::test]
async fn a_machine_is_named_by_id_or_by_name() {
    let server = Server::start().await;
    let machine = server.awake().await;
    let id = machine["machine_id"].as_str().unwrap();
    for name in [id, "hello"] {
        let found = json(server.get(&format!("/v1/machines/{name}")).await).await;
        assert_eq!(found["machine_id"], id);
    }
    assert_eq!(server.get("/v1/machines/nobody").await.status(), 404);
    assert_eq!(server.get("/v1/machines/NO%20WAY").await.status(), 400);
    assert_eq!(server.get("/v1/machines/%FF").await.status(), 400);
}

#[tokio::test]
async fn sleep_and_wake_take_empty_bodies_of_any_type() {
    let server = Server::start().await;
    server.awake().await;
    for (verb, phase) in [("sleep", "sleeping"), ("wake", "running"), ("wake", "running")] {
        let path = format!("/v1/machines/hello/{verb}");
        let request = server.ask(Method::POST, &path).header("content-type", "application/json");
        let reply = request.send().await.unwrap();
        assert_eq!(reply.status(), 200);
        assert_eq!(json(reply).await["phase"], phase);
    }
}

#[tokio::test]
async fn a_client_that_does_not_wait_gets_202() {
    let server = Server::start().await;
    server.world.host.hold_starting(true);
    let started = Instant::now();
    let request = server.ask(Method::POST, "/v1/machines").header("prefer", "wait=0");
    let reply = request.json(&json!({ "name": "slow" })).send().await.unwrap();
    assert_eq!(reply.status(), 202);
    assert!(started.elapsed().as_secs() < 5);
    assert_ne!(json(reply).await["phase"], "running");
    server.world.host.hold_starting(false);
}

#[tokio::test]
async fn egress_is_a_choice_of_each_machine_and_changes_while_it_runs() {
    let server = Server::start().await;
    let create = |body: serde_json::Value| {
        server.ask(Method::POST, "/v1/machines").header("prefer", "wait=20").json(&body).send()
    };
    let plain = json(create(json!({ "name": "plain" })).await.unwrap()).await;
    assert_eq!(plain["egress"], json!({ "policy": "open" }));
    let told = || server.world.host.started_with().unwrap().egress.to_string();
    assert_eq!(told(), "open");

    let list = json!({ "policy": "allow", "allow": ["Example.com", "192.0.2.7"] });
    let jailed = json(create(json!({ "name": "jailed", "egress": list })).await.unwrap()).await;
    assert_eq!(jailed["egress"]["allow"], json!(["example.com", "192.0.2.7/32"]));
    assert_eq!(told(), "allow=example.com,192.0.2.7/32");

    // In force when it is answered, also where that takes more than one attempt.
    let update = |body: serde_json::Value| {
        server.ask(Method::PATCH, "/v1/machines/jailed").json(&body).send()
    };
    server.world.host.fail_egress(&[(base::ErrorKind::Unavailable, "busy"); 2]);
    let changed = update(json!({ "egress": { "policy": "none" } })).await.unwrap();
    assert_eq!(changed.status(), 200);
    let changed = json(changed).await;
    assert_eq!(changed["egress"], json!({ "policy": "none" }));
    let id = changed["machine_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(server.world.host.egress_of(&id).unwrap().to_string(), "none");
    let same = json(update(json!({ "autosleep": "1h" })).await.unwrap()).await;
    assert_eq!(same["egress"], json!({ "policy": "none" }), "what is not named stays");

    for bad in [
        json!({ "egress": { "policy": "all" } }),
        json!({ "egress": { "allow": ["10.0.0.0/8"] } }),
        json!({ "egress": { "policy": "open", "allow": ["example.com"] } }),
    ] {
        let refused = update(bad).await.unwrap();
        assert_eq!(refused.status(), 400);
        assert_eq!(json(refused).await["details"]["field"], "egress");
    }
    assert_eq!(update(json!({ "egress": "none" })).await.unwrap().status(), 400);
}

#[tokio::test]
async fn fsync_is_a_choice_of_each_machine() {
    let server = Server::start().await;
    let told = || server.world.host.started_with().unwrap().fsync_local;
    let create = |body: serde_json::Value| {
        server.ask(Method::POST, "/v1/machines").header("prefer", "wait=20").json(&body).send()
    };
    let plain = json(create(json!({ "name": "plain" })).await.unwrap()).await;
    assert_eq!((plain["fsync"].as_str(), told()), (Some("store"), false));

    let local = json!({ "name": "fast", "fsync": "local" });
    let fast = json(create(local).await.unwrap()).await;
    assert_eq!((fast["fsync"].as_str(), told()), (Some("local"), true));

    // It is of the next wake, like sizes.
    let update =
        |body: serde_json::Value| server.ask(Method::PATCH, "/v1/machines/fast").json(&body).send();
    let changed = json(update(json!({ "fsync": "store" })).await.unwrap()).await;
    assert_eq!(changed["fsync"], "store");
    assert!(told());
    for verb in ["sleep", "wake"] {
        let path = format!("/v1/machines/fast/{verb}");
        let asked = server.ask(Method::POST, &path).header("prefer", "wait=20");
        assert_eq!(asked.send().await.unwrap().status(), 200);
    }
    assert!(!told());

    for bad in [json!({ "fsync": "never" }), json!({ "fsync": "" })] {
        let refused = update(bad).await.unwrap();
        assert_eq!(refused.status(), 400);
        assert_eq!(json(refused).await["details"]["field"], "fsync");
    }
}

#[tokio::test]
async fn a_stale_revision_is_refused_once_and_for_all() {
    let server = Server::start().await;
    let machine = server.awake().await;
    let revision = machine["revision"].as_str().unwrap().to_owned();
    let sleep = |tag: String| {
        server.ask(Method::POST, "/v1/machines/hello/sleep").header("if-match", tag).send()
    };
    let reply = sleep("1".to_owned()).await.unwrap();
    assert_eq!((reply.status().as_u16(), header(&reply, "x-should-retry")), (409, "false"));
    let body = json(reply).await;
    assert_eq!(
        (&body["error_code"], &body["retryable"]),
        (&"REVISION_MISMATCH".into(), &true.into())
    );
    assert_eq!(body["details"]["provided_revision"], "1");
    assert_eq!(body["details"]["expected_revision"], revision.as_str());
    // An empty claim is not none: no revision is `""`, and nobody means nothing at all.
    assert_eq!(sleep("\"\"".to_owned()).await.unwrap().status(), 409);
    for empty in ["", " "] {
        let reply = sleep(empty.to_owned()).await.unwrap();
        assert_eq!(reply.status(), 400);
        assert_eq!(json(reply).await["error_code"], "INVALID_REQUEST");
    }
    assert_eq!(sleep(format!("W/\"{revision}\"")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_deleted_machine_is_given_back_and_then_gone() {
    let server = Server::start().await;
    server.awake().await;
    let reply = server.delete("/v1/machines/hello").await;
    assert_eq!(reply.status(), 200, "never 204: clients expect the object");
    assert_eq!(json(reply).await["desired_state"], "destroyed");
    let control = server.control.clone();
    eventually(|| {
        let query = control::PageQuery::default();
        let machines = control.machines();
        let page = futures_now(machines.list(&query));
        page.is_none_or(|page| page.is_ok_and(|page| page.items.is_empty()))
    })
    .await;
}

/// What a future gives if it is ready at once.
fn futures_now<T>(future: impl Future<Output = T>) -> Option<T> {
    futures::FutureExt::now_or_never(future)
}

#[tokio::test]
async fn lists_have_cursors_and_no_empty_pages() {
    let server = Server::start().await;
    assert_eq!(json(server.get("/v1/machines").await).await, json!({ "items": [] }));
    for name in ["one", "two", "three"] {
        let reply = server.post("/v1/machines", json!({ "name": name })).await;
        assert!(reply.status().is_success());
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = json(server.get(&format!("/v1/machines?limit=2&cursor={cursor}")).await).await;
        let items = page["items"].as_array().unwrap();
        assert!(!items.is_empty() && items.len() <= 2);
        seen.extend(items.iter().map(|machine| machine["name"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["one", "two", "three"]);
    assert_eq!(server.get("/v1/machines?limit=0").await.status(), 400);
    assert_eq!(server.get("/v1/machines?limit=many").await.status(), 400);
}

#[tokio::test]
async fn a_body_that_cannot_be_right_is_400() {
    let server = Server::start().await;
    for body in ["{", "[]", r#"{"vcpu": "two"}"#, r#"{"memory_mib": -1}"#, r#"{"name": "NOT OK"}"#]
    {
        let reply = server.ask(Method::POST, "/v1/machines").body(body).send().await.unwrap();
        assert_eq!(reply.status(), 400, "{body}");
        assert_eq!(json(reply).await["error_code"], "INVALID_REQUEST", "{body}");
    }
    let large = format!(r#"{{"name": "{}"}}"#, "x".repeat(2 << 20));
    let reply = server.ask(Method::POST, "/v1/machines").body(large).send().await.unwrap();
    assert_eq!(reply.status(), 413);
    // One that is announced is not waited for.
    for length in [1 << 21, 1 << 62] {
        let refused = server.announced("POST", "/v1/machines", length);
        let (status, body) = tokio::time::timeout(std::time::Duration::from_secs(20), refused)
            .await
            .expect("an answer at once");
        assert_eq!((status, &body["error_code"]), (413, &"TOO_LARGE".into()));
    }
}

#[tokio::test]
async fn update_changes_what_is_named() {
    let server = Server::start().await;
    server.awake().await;
    let patch = |body| server.ask(Method::PATCH, "/v1/machines/hello").json(&body).send();
    let machine = json(patch(json!({ "autosleep": "never" })).await.unwrap()).await;
    assert_eq!((&machine["autosleep_seconds"], &machine["name"]), (&0.into(), &"hello".into()));
    let machine =
        json(patch(json!({ "autosleep_seconds": 60, "storage_gib": null })).await.unwrap()).await;
    assert_eq!(machine["autosleep_seconds"], 60);
}
