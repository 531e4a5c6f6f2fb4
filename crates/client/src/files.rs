//! Files of a machine's home.

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use reqwest::{Body, Method};
use serde::{Deserialize, Serialize};

use crate::machines::at;
use crate::{Client, Error, Result, escape};

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// `file`, `directory`, `symlink`, …
    pub kind: String,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
}

/// One entry of a directory.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The rest of what the server says.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

fn fs(machine: &str, path: &str) -> String {
    let mut at = at(machine, "/fs");
    for part in path.split('/').filter(|part| !part.is_empty()) {
        at.push('/');
        at.push_str(&escape(part));
    }
    at
}

impl Client {
    /// What stands at `path`; `None` where nothing does.
    ///
    /// # Errors
    /// Those of the server; so for all below.
    pub async fn stat(&self, machine: &str, path: &str) -> Result<Option<FileStat>> {
        let request = self.request(Method::HEAD, &fs(machine, path));
        let response =
            request.send().await.map_err(|error| Error::transport(self.base(), &error))?;
        // A HEAD has no body to tell a missing machine from a missing file.
        if response.status() == 404 {
            self.machine(machine).await?;
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(self.why(machine, path, response.status().as_u16()).await);
        }
        let header = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        Ok(Some(FileStat {
            kind: header("x-fs-type").to_owned(),
            mode: u32::from_str_radix(header("x-fs-mode"), 8).unwrap_or(0o644),
            size: header("x-fs-size").parse().unwrap_or(0),
        }))
    }

    /// Why a HEAD was refused: its answer has no body, that of the same request with GET has one.
    async fn why(&self, machine: &str, path: &str, status: u16) -> Error {
        match self.send(self.request(Method::GET, &fs(machine, path))).await {
            Err(error) => error,
            // It would be answered by now; the body, however long, is not read.
            Ok(_) => Error::from_body(status, b""),
        }
    }

    /// A file's bytes.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn read(
        &self,
        machine: &str,
        path: &str,
    ) -> Result<impl Stream<Item = Result<Bytes>> + use<>> {
        self.stream(self.request(Method::GET, &fs(machine, path))).await
    }

    /// Puts a file.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn write(
        &self,
        machine: &str,
        path: &str,
        body: Body,
        mode: Option<u32>,
    ) -> Result<()> {
        let mut request = self.request(Method::PUT, &fs(machine, path)).body(body);
        if let Some(mode) = mode {
            request = request.query(&[("mode", format!("{mode:04o}"))]);
        }
        self.send(request).await.map(drop)
    }

    /// Unpacks a tar stream below `path`.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn import(&self, machine: &str, path: &str, tar: Body) -> Result<serde_json::Value> {
        let request = self.request(Method::POST, &fs(machine, path));
        self.json(request.query(&[("import", "tar"), ("outside_links", "true")]).body(tar)).await
    }

    /// A tree as a tar stream.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn bundle(
        &self,
        machine: &str,
        path: &str,
    ) -> Result<impl Stream<Item = Result<Bytes>> + use<>> {
        self.stream(self.request(Method::GET, &fs(machine, path)).query(&[("bundle", "tar")])).await
    }

    async fn stream(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<impl Stream<Item = Result<Bytes>> + use<>> {
        let response = self.send(request).await?;
        let base = self.base().to_owned();
        Ok(response.bytes_stream().map_err(move |error| Error::transport(&base, &error)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// A server that refuses everything, saying why where an answer has a body; the methods it was asked with.
    fn refusing() -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = std::thread::spawn(move || {
            let mut methods = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = Vec::new();
                while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut some = [0; 1024];
                    let read = stream.read(&mut some).unwrap();
                    asked.extend_from_slice(&some[..read]);
                }
                let asked = String::from_utf8(asked).unwrap();
                let method = asked.split(' ').next().unwrap().to_owned();
                let body = r#"{"error_code": "INVALID_STATE", "message": "wake it"}"#;
                let head = "HTTP/1.1 409 Conflict\r\nconnection: close\r\ncontent-length";
                write!(stream, "{head}: {}\r\n\r\n", body.len()).unwrap();
                if method != "HEAD" {
                    stream.write_all(body.as_bytes()).unwrap();
                }
                methods.push(method);
            }
            methods
        });
        (url, serve)
    }

    #[tokio::test]
    async fn a_stat_that_is_refused_says_why() {
        let (url, server) = refusing();
        let client = Client::new(&url, "key").unwrap();
        let error = client.stat("demo", "a.txt").await.unwrap_err();
        assert_eq!((&*error.message, &*error.code), ("wake it", "INVALID_STATE"));
        assert_eq!(error.kind, base::ErrorKind::Conflict);
        assert_eq!(server.join().unwrap(), ["HEAD", "GET"]);
    }
}
