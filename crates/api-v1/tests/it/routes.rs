//! The table, its golden file, and what answers where no route does.

use reqwest::Method;

use crate::server::{Server, header, json};

#[test]
fn the_table_is_the_one_that_is_written_down() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api/routes.txt");
    let now = api_v1::routes_text();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(now, written, "if this is meant, run again with UPDATE_GOLDEN=1");
}

#[tokio::test]
async fn every_row_of_the_table_is_served() {
    let server = Server::start().await;
    for row in api_v1::routes_text().lines() {
        let mut words = row.split_whitespace();
        let (method, path) = (words.next().unwrap(), words.last().unwrap());
        let path = path.replace("{machine}", "nobody").replace("{*path}", "some/file");
        let path = path.replace("{execution}", "exec-none").replace("{snapshot}", "snap-none");
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let reply = server.ask(method.clone(), &path).send().await.unwrap();
        assert_ne!(reply.status(), 405, "{row}");
        if method != Method::HEAD && reply.status() == 404 {
            let message = json(reply).await["message"].to_string();
            assert!(!message.contains("nothing is served"), "{row}: {message}");
        }
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_in_json() {
    let server = Server::start().await;
    let reply = server.get("/v1/nothing").await;
    assert_eq!(
        (reply.status().as_u16(), header(&reply, "content-type")),
        (404, "application/json")
    );
    assert_eq!(json(reply).await["error_code"], "NOT_FOUND");
    let reply = server.put("/v1/machines", "").await;
    assert_eq!(reply.status(), 405);
    assert!(header(&reply, "allow").contains("POST"));
    assert_eq!(json(reply).await["error_code"], "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn the_document_is_served_without_a_key() {
    let server = Server::start().await;
    let reply = server.client.get(server.url("/openapi.json")).send().await.unwrap();
    assert_eq!(reply.status(), 200);
    let document = json(reply).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    assert!(document["paths"]["/v1/machines/{machine}/fs/{path}"]["put"].is_object());
    assert!(document["components"]["schemas"]["MachineBody"]["properties"]["phase"].is_object());
}

#[tokio::test]
async fn health_is_open_and_metrics_are_not() {
    let server = Server::start().await;
    let plain = |path: &str| server.client.get(server.url(path)).send();
    assert_eq!(plain("/healthz").await.unwrap().status(), 200);
    control::fakes::eventually(|| server.control.health().readiness().ready).await;
    assert_eq!(plain("/readyz").await.unwrap().status(), 200);
    server.world.store.break_down(true);
    control::fakes::eventually(|| !server.control.health().readiness().ready).await;
    let reply = plain("/readyz").await.unwrap();
    assert_eq!(reply.status(), 503);
    assert!(json(reply).await["checks"].to_string().contains("object_store"));
    assert_eq!(plain("/metrics").await.unwrap().status(), 401);
    assert_eq!(server.get("/metrics").await.status(), 200);
}
