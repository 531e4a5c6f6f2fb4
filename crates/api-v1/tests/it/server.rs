//! A server on a port of its own, and a client that has its key.

use std::time::Duration;

use control::Control;
use control::fakes::World;
use http_kit::{Exporter, Keys};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub(crate) const KEY: &str = "a-key-for-tests";

pub(crate) struct Server {
    pub(crate) world: World,
    pub(crate) control: Control,
    pub(crate) address: String,
    pub(crate) client: reqwest::Client,
    stop: CancellationToken,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let world = World::new();
        let control = world.open().await;
        let router = api_v1::router(control.clone(), Keys::single(KEY), Exporter::detached());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let stop = CancellationToken::new();
        tokio::spawn(http_kit::serve(listener, router, stop.clone(), Duration::ZERO));
        Self { world, control, address, client: reqwest::Client::new(), stop }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request with the key.
    pub(crate) fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).bearer_auth(KEY)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).send().await.expect("the server answers")
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Response {
        self.ask(Method::POST, path).json(&body).send().await.expect("the server answers")
    }

    pub(crate) async fn put(&self, path: &str, body: &'static str) -> Response {
        self.ask(Method::PUT, path).body(body).send().await.expect("the server answers")
    }

    pub(crate) async fn delete(&self, path: &str) -> Response {
        self.ask(Method::DELETE, path).send().await.expect("the server answers")
    }

    /// An awake machine called `hello`.
    pub(crate) async fn awake(&self) -> Value {
        let reply = self.post("/v1/machines", serde_json::json!({ "name": "hello" })).await;
        assert_eq!(reply.status(), 200);
        json(reply).await
    }

    /// A sleeping machine called `hello`.
    pub(crate) async fn asleep(&self) -> Value {
        self.awake().await;
        let reply = self.ask(Method::POST, "/v1/machines/hello/sleep").send().await;
        let reply = reply.expect("the server answers");
        assert_eq!(reply.status(), 200);
        json(reply).await
    }

    /// A request whose path no client library would send as it is; returns status and body.
    pub(crate) async fn raw(&self, method: &str, path: &str) -> (u16, Value) {
        self.announced(method, path, 0).await
    }

    /// The same, of which a body of some length is announced that never comes.
    pub(crate) async fn announced(&self, method: &str, path: &str, length: u64) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).await.expect("it listens");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("it reads");
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.expect("it answers");
        let reply = String::from_utf8_lossy(&reply).into_owned();
        let status = reply.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = reply.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).unwrap_or_default())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) async fn json(reply: Response) -> Value {
    reply.json().await.expect("the body is JSON")
}

pub(crate) fn header<'a>(reply: &'a Response, name: &str) -> &'a str {
    reply.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}
