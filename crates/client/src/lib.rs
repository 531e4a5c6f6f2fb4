//! HTTP client of the native face, `/v1`.
//!
//! What the command line is built on. A [`Client`] knows one server and one key. Errors carry the server's own
//! sentence and the kind that decides the exit code.
//!
//! # Not here
//! Where server and key come from (the binary), and retries: a person decides whether to try again.

mod error;
mod exec;
mod files;
mod machines;
mod snapshots;
mod sse;

pub use error::{Error, Result};
pub use exec::{ExecEvent, ExecInput, ExecRequest, ExecSession};
pub use files::{Entry, FileStat};
pub use machines::{CreateMachine, Egress, Machine, MachineStatus, UpdateMachine};
pub use reqwest::Body;
pub use snapshots::{Forked, Snapshot};

use serde::de::DeserializeOwned;

/// A server, and the right to use it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `base` (`http://HOST:PORT`, a path prefix is fine).
    ///
    /// # Errors
    /// `InvalidArgument` where `base` is no HTTP URL.
    pub fn new(base: &str, key: &str) -> Result<Self> {
        let base = base.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(Error::invalid(format!("{base:?} is no URL: write http://HOST:PORT")));
        }
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::invalid("the API key is empty or holds characters that no key has"));
        }
        let http = reqwest::Client::builder()
            // A server on this host is never behind a proxy, and the key must not go through one unasked.
            .no_proxy()
            .connect_timeout(std::time::Duration::from_secs(5))
            .build()
            .map_err(|error| Error::invalid(format!("set up HTTP: {error}")))?;
        Ok(Self { http, base, key: key.to_owned() })
    }

    /// The server's URL.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let response =
            request.send().await.map_err(|error| Error::transport(&self.base, &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(Error::from_response(response).await)
    }

    async fn json<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T> {
        let response = self.send(request).await?;
        response.json().await.map_err(|error| Error::transport(&self.base, &error))
    }
}

/// A path segment: everything that is not plain is escaped.
fn escape(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_escaped_whatever_it_holds() {
        assert_eq!(escape("a-b_c.d~e"), "a-b_c.d~e");
        assert_eq!(escape("a b/ü?#%"), "a%20b%2F%C3%BC%3F%23%25");
    }

    #[test]
    fn a_client_needs_a_url_and_a_key_and_shows_neither_of_them_wrongly() {
        assert!(Client::new("127.0.0.1:8080", "key").is_err());
        assert!(Client::new("http://127.0.0.1:8080", "").is_err());
        assert!(Client::new("http://127.0.0.1:8080", "a\nb").is_err());
        let client = Client::new("http://127.0.0.1:8080/", "hunter2").unwrap();
        assert_eq!(client.base(), "http://127.0.0.1:8080");
        assert!(!format!("{client:?}").contains("hunter2"));
    }
}
