//! Plain HTTP calls, one function a verb, so that tests say what goes over the wire.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::blocking::{Body, Client, RequestBuilder};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

use super::BOOT;

/// A server and its key.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    http: Client,
    url: String,
    key: String,
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) body: Bytes,
}

impl Reply {
    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?} {:?}", self.status, self.text()))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Checks the status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }

    /// Checks for success.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(self.status.is_success(), "{} {}", self.status, self.text());
        self
    }
}

impl Api {
    pub(crate) fn new(url: &str, key: &str) -> Self {
        let http = Client::builder()
            .timeout(Duration::from_secs(600))
            .no_proxy()
            .build()
            .expect("set up HTTP");
        Self { http, url: url.to_owned(), key: key.to_owned() }
    }

    /// A request with the key.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    /// A request without one.
    pub(crate) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    #[track_caller]
    pub(crate) fn send(&self, request: RequestBuilder) -> Reply {
        let response = request.send().expect("the server answers");
        let (status, headers) = (response.status(), response.headers().clone());
        Reply { status, headers, body: response.bytes().expect("the body is whole") }
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path))
    }

    #[track_caller]
    pub(crate) fn head(&self, path: &str) -> Reply {
        self.send(self.request(Method::HEAD, path))
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path))
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send(self.request(Method::PUT, path).body(body))
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send(self.request(Method::POST, path).body(body))
    }

    #[track_caller]
    pub(crate) fn post_json(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request(Method::POST, path).json(body))
    }

    /// Creates a machine and waits until it runs; its id.
    #[track_caller]
    pub(crate) fn create(&self, name: &str) -> String {
        let body = json!({"name": name, "vcpu": 1, "memory_mib": 512, "storage_gib": 4, "autosleep": "never"});
        let machine = self.post_json("/v1/machines", &body).ok().json();
        let id = machine["machine_id"].as_str().expect("it has an id").to_owned();
        self.until(&id, "running");
        id
    }

    /// Waits for a phase; fails at once where the machine has failed.
    #[track_caller]
    pub(crate) fn until(&self, machine: &str, phase: &str) -> Value {
        let start = Instant::now();
        loop {
            let seen = self.get(&format!("/v1/machines/{machine}")).ok().json();
            let now = seen["status"]["phase"].as_str().unwrap_or_default();
            if now == phase {
                return seen;
            }
            assert!(now != "failed", "the machine failed: {seen}");
            assert!(start.elapsed() < BOOT, "not {phase} within {BOOT:?}: {seen}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    #[track_caller]
    pub(crate) fn sleep(&self, machine: &str) {
        self.post(&format!("/v1/machines/{machine}/sleep"), "").ok();
        self.until(machine, "sleeping");
    }

    #[track_caller]
    pub(crate) fn wake(&self, machine: &str) {
        self.post(&format!("/v1/machines/{machine}/wake"), "").ok();
        self.until(machine, "running");
    }

    /// Starts a command; its execution id.
    #[track_caller]
    pub(crate) fn start(&self, machine: &str, command: &[&str]) -> String {
        let path = format!("/v1/machines/{machine}/executions");
        let started = self.post_json(&path, &json!({ "command": command })).ok().json();
        started["execution_id"].as_str().expect("it has an id").to_owned()
    }

    /// Runs a command to its end; its exit code and output.
    #[track_caller]
    pub(crate) fn run(&self, machine: &str, command: &[&str]) -> (i64, String) {
        let id = self.start(machine, command);
        let done = self.ended(machine, &id);
        let path = format!("/v1/machines/{machine}/executions/{id}/output");
        let output = self.get(&path).ok().json();
        let text = format!(
            "{}{}",
            output["stdout"].as_str().unwrap_or_default(),
            output["stderr"].as_str().unwrap_or_default()
        );
        (done["exit_code"].as_i64().unwrap_or(-1), text)
    }

    /// Runs a shell script that must succeed; its output.
    #[track_caller]
    pub(crate) fn shell(&self, machine: &str, script: &str) -> String {
        let (code, output) = self.run(machine, &["/bin/bash", "-ec", script]);
        assert_eq!(code, 0, "{script}: {output}");
        output
    }

    /// Waits for an execution's end.
    #[track_caller]
    pub(crate) fn ended(&self, machine: &str, execution: &str) -> Value {
        let path = format!("/v1/machines/{machine}/executions/{execution}");
        let start = Instant::now();
        loop {
            let seen = self.get(&path).ok().json();
            let status = seen["status"].as_str().unwrap_or_default().to_owned();
            if matches!(status.as_str(), "succeeded" | "failed" | "cancelled" | "expired") {
                return seen;
            }
            assert!(start.elapsed() < Duration::from_secs(600), "does not end: {seen}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A request whose target goes over the wire as it is; status and body of the answer.
    pub(crate) fn raw(&self, method: &str, target: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.connect();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("send the head");
        stream.write_all(body).expect("send the body");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("read the answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
        (status.unwrap_or_else(|| panic!("no HTTP answer: {answer:?}")), answer)
    }

    /// A request that promises more than it sends.
    pub(crate) fn cut_off(&self, method: &str, target: &str) {
        let mut stream = self.connect();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100000\r\n\r\n",
            self.key
        );
        stream.write_all(head.as_bytes()).expect("send the head");
        stream.write_all(&[b'x'; 50_000]).expect("send half a body");
    }

    fn connect(&self) -> TcpStream {
        let address = self.url.strip_prefix("http://").expect("it is plain HTTP");
        TcpStream::connect(address).expect("connect")
    }
}
