use reqwest::Method;

use crate::server::{KEY, Server, header, json};

#[tokio::test]
async fn every_guarded_route_asks_for_a_key() {
    let server = Server::start().await;
    for row in api_v1::routes_text().lines() {
        let words: Vec<_> = row.split_whitespace().collect();
        let path = words[2].replace(['{', '}', '*'], "");
        let method = Method::from_bytes(words[0].as_bytes()).unwrap();
        let reply = server.client.request(method, server.url(&path)).send().await.unwrap();
        assert_eq!(reply.status() == 401, words[1] != "open", "{row}");
    }
    let reply = server.client.get(server.url("/v1/nothing")).send().await.unwrap();
    assert_eq!(reply.status(), 401, "what does not exist is not told to strangers");
}

#[tokio::test]
async fn either_header_suffices() {
    let server = Server::start().await;
    let ask = |pairs: &[(&'static str, String)]| {
        let request = server.client.get(server.url("/v1/machines"));
        pairs.iter().fold(request, |request, (name, value)| request.header(*name, value)).send()
    };
    let bearer = |key: &str| ("authorization", format!("Bearer {key}"));
    let plain = |key: &str| ("x-api-key", key.to_owned());
    assert_eq!(ask(&[bearer(KEY)]).await.unwrap().status(), 200);
    assert_eq!(ask(&[plain(KEY)]).await.unwrap().status(), 200);
    assert_eq!(ask(&[bearer("old"), plain(KEY)]).await.unwrap().status(), 200);
    let missing = ask(&[]).await.unwrap();
    assert_eq!(header(&missing, "www-authenticate"), "Bearer");
    let missing = json(missing).await;
    assert_eq!(
        (&missing["error_code"], &missing["retryable"]),
        (&"AUTH_REQUIRED".into(), &false.into())
    );
    let wrong = json(ask(&[bearer("old")]).await.unwrap()).await;
    assert_eq!((&wrong["error_code"], &wrong["status"]), (&"AUTH_INVALID".into(), &401.into()));
}

#[tokio::test]
async fn a_request_id_comes_back() {
    let server = Server::start().await;
    let reply =
        server.ask(Method::GET, "/v1/machines").header("x-request-id", "mine-1").send().await;
    assert_eq!(header(&reply.unwrap(), "x-request-id"), "mine-1");
    let reply = server.client.get(server.url("/v1/machines")).send().await.unwrap();
    assert!(header(&reply, "x-request-id").starts_with("req-"));
}
