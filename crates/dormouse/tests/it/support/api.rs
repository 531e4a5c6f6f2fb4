//! Plain HTTP calls, one function a verb, so that tests say what goes over the wire.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::blocking::{Body, Client, RequestBuilder};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

use super::BOOT;

/// A server and its key.
#[derive(Debug, Clone)]
pub struct Api {
    http: Client,
    url: String,
    key: String,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?} {:?}", self.status, self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Checks the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }

    /// Checks for success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.is_success(), "{} {}", self.status, self.text());
        self
    }
}

impl Api {
    pub fn new(url: &str, key: &str) -> Self {
        let http = Client::builder()
            .timeout(Duration::from_secs(600))
            .no_proxy()
            .build()
            .expect("set up HTTP");
        Self { http, url: url.to_owned(), key: key.to_owned() }
    }

    /// A request with the key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    /// A request without one.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    #[track_caller]
    pub fn send(&self, request: RequestBuilder) -> Reply {
        let response = request.send().expect("the server answers");
        let (status, headers) = (response.status(), response.headers().clone());
        Reply { status, headers, body: response.bytes().expect("the body is whole") }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path))
    }

    #[track_caller]
    pub fn head(&self, path: &str) -> Reply {
        self.send(self.request(Method::HEAD, path))
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path))
    }

    #[track_caller]
    pub fn put(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send(self.request(Method::PUT, path).body(body))
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send(self.request(Method::POST, path).body(body))
    }

    #[track_caller]
    pub fn post_json(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request(Method::POST, path).json(body))
    }

    /// Creates a machine and waits until it runs; its id.
    #[track_caller]
    pub fn create(&self, name: &str) -> String {
        let body = json!({"name": name, "vcpu": 1, "memory_mib": 512, "storage_gib": 4, "autosleep": "never"});
        let machine = self.post_json("/v1/machines", &body).ok().json();
        let id = machine["machine_id"].as_str().expect("it has an id").to_owned();
        self.until(&id, "running");
        id
    }

    /// Waits for a phase; fails at once where the machine has failed.
    #[track_caller]
    pub fn until(&self, machine: &str, phase: &str) -> Value {
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
    pub fn sleep(&self, machine: &str) {
        self.post(&format!("/v1/machines/{machine}/sleep"), "").ok();
        self.until(machine, "sleeping");
    }

    #[track_caller]
    pub fn wake(&self, machine: &str) {
        self.post(&format!("/v1/machines/{machine}/wake"), "").ok();
        self.until(machine, "running");
    }

    /// Starts a command; its execution id.
    #[track_caller]
    pub fn start(&self, machine: &str, command: &[&str]) -> String {
        let path = format!("/v1/machines/{machine}/executions");
        let started = self.post_json(&path, &json!({ "command": command })).ok().json();
        started["execution_id"].as_str().expect("it has an id").to_owned()
    }

    /// Runs a command to its end; its exit code and output.
    #[track_caller]
    pub fn run(&self, machine: &str, command: &[&str]) -> (i64, String) {
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
    pub fn shell(&self, machine: &str, script: &str) -> String {
        let (code, output) = self.run(machine, &["/bin/bash", "-ec", script]);
        assert_eq!(code, 0, "{script}: {output}");
        output
    }

    /// Waits for an execution's end.
    #[track_caller]
    pub fn ended(&self, machine: &str, execution: &str) -> Value {
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
}
