//! A small HTTP/1.1 client that takes as little as possible from what it measures.
//!
//! The load shares its cores with the server, so a request is one write and, mostly, one read on a
//! connection that stays open; no task switches, no buffers of whole files. It knows what our server
//! sends: lengths, chunked bodies, no redirects, no encodings.
//!
//! Not here: TLS, and pooling; who measures decides when a connection is made.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::Value;

/// A server that says nothing for this long is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(180);
/// Longest line in the head of a reply.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Bytes moved at once.
const PIECE: usize = 256 * 1024;
/// How much of an error's body is shown.
const ERROR_BYTES_MAX: usize = 4096;

/// What a request carries.
pub(crate) enum Body<'a> {
    None,
    Bytes(&'a [u8]),
    /// This many bytes of a stream.
    Stream(u64, &'a mut dyn Read),
}

/// Takes the pieces of a reply's body.
type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> anyhow::Result<()>;

/// A server and the key to it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    address: String,
    key: String,
}

impl Endpoint {
    /// The server at `url`, which is `http://HOST:PORT`.
    pub(crate) fn new(url: &str, key: &str) -> anyhow::Result<Self> {
        let address = url.strip_prefix("http://").with_context(|| format!("no URL: {url}"))?;
        Ok(Self { address: address.trim_end_matches('/').to_owned(), key: key.to_owned() })
    }

    /// A connection to it. The server closes one that is idle for half a minute.
    pub(crate) fn connect(&self) -> anyhow::Result<Connection> {
        let (stream, head) = self.stream()?;
        Ok(Connection { stream: BufReader::with_capacity(PIECE, stream), head, out: Vec::new() })
    }

    /// A bare connection, and the lines that the head of every request has.
    pub(crate) fn stream(&self) -> anyhow::Result<(TcpStream, String)> {
        let stream = TcpStream::connect(&self.address)
            .with_context(|| format!("connect to {}", self.address))?;
        stream.set_nodelay(true).context("set up the connection")?;
        stream.set_read_timeout(Some(SILENCE_MAX)).context("set up the connection")?;
        stream.set_write_timeout(Some(SILENCE_MAX)).context("set up the connection")?;
        let head = format!("Host: {}\r\nAuthorization: Bearer {}\r\n", self.address, self.key);
        Ok((stream, head))
    }

    /// One call on a connection of its own, JSON both ways.
    pub(crate) fn json(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.connect()?.json(method, path, body)
    }
}

/// A connection that is kept open. After an error it is of no more use.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    head: String,
    out: Vec<u8>,
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    Close,
}

impl Connection {
    /// A call whose reply is JSON. `Null` sends no body.
    pub(crate) fn json(&mut self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.reply(method, path, Body::Bytes(text.as_bytes()))
    }

    /// A call whose reply is JSON, with any body.
    pub(crate) fn reply(
        &mut self,
        method: &str,
        path: &str,
        body: Body<'_>,
    ) -> anyhow::Result<Value> {
        let mut reply = Vec::new();
        self.call(method, path, body, &mut |bytes| {
            reply.extend_from_slice(bytes);
            Ok(())
        })?;
        serde_json::from_slice(&reply).with_context(|| format!("{method} {path}: read the reply"))
    }

    /// A call whose reply is of no interest but for its success.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: Body<'_>) -> anyhow::Result<()> {
        self.call(method, path, body, &mut |_| Ok(())).map(drop)
    }

    /// Reads a body piece by piece; its length.
    pub(crate) fn read(&mut self, path: &str, sink: Sink<'_>) -> anyhow::Result<u64> {
        self.call("GET", path, Body::None, sink)
    }

    /// One request and its reply; anything but a 2xx is an error that shows what the server said.
    fn call(
        &mut self,
        method: &str,
        path: &str,
        body: Body<'_>,
        sink: Sink<'_>,
    ) -> anyhow::Result<u64> {
        let what = || format!("{method} {path}");
        let sent = self.request(method, path, body);
        // A server that refuses a body may stop reading it: what it answered says more than the
        // broken pipe.
        let (status, framing) = match (sent, self.reply_head()) {
            (_, Ok(head)) => head,
            (Err(error), _) | (Ok(()), Err(error)) => return Err(error).with_context(what),
        };
        if (200..300).contains(&status) {
            return self.body(framing, sink).with_context(what);
        }
        let mut said = Vec::new();
        let read = self.body(framing, &mut |bytes| {
            said.extend_from_slice(&bytes[..bytes.len().min(ERROR_BYTES_MAX - said.len())]);
            Ok(())
        });
        drop(read);
        bail!("{}: {status} {}", what(), String::from_utf8_lossy(&said).trim())
    }

    fn request(&mut self, method: &str, path: &str, body: Body<'_>) -> anyhow::Result<()> {
        let length = match &body {
            Body::None => 0,
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Stream(length, _) => *length,
        };
        self.out.clear();
        write!(
            self.out,
            "{method} {path} HTTP/1.1\r\n{}Content-Length: {length}\r\n\r\n",
            self.head
        )?;
        if let Body::Bytes(bytes) = &body {
            self.out.extend_from_slice(bytes);
        }
        self.stream.get_mut().write_all(&self.out).context("send the request")?;
        if let Body::Stream(length, from) = body {
            let sent = send(&mut from.take(length), self.stream.get_mut())?;
            ensure!(sent == length, "the body ended after {sent} of {length} bytes");
        }
        Ok(())
    }

    fn reply_head(&mut self) -> anyhow::Result<(u16, Framing)> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("no HTTP status: {line:?}"))?;
        let mut framing = if status == 204 { Framing::Length(0) } else { Framing::Close };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, framing));
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            if name.eq_ignore_ascii_case("content-length") {
                framing = Framing::Length(value.trim().parse().context("read Content-Length")?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Framing::Chunked;
            }
        }
    }

    /// Passes the body on; its length.
    fn body(&mut self, framing: Framing, sink: Sink<'_>) -> anyhow::Result<u64> {
        match framing {
            Framing::Length(length) => {
                let read = self.pass(length, sink)?;
                ensure!(read == length, "the reply ended after {read} of {length} bytes");
                Ok(length)
            }
            Framing::Close => self.pass(u64::MAX, sink),
            Framing::Chunked => {
                let mut total = 0;
                loop {
                    let line = self.line()?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(size, 16).context("read the size of a chunk")?;
                    if size == 0 {
                        while !self.line()?.is_empty() {}
                        return Ok(total);
                    }
                    ensure!(self.pass(size, sink)? == size, "the reply broke off after {total}");
                    self.line()?;
                    total += size;
                }
            }
        }
    }

    /// Passes on up to `length` bytes; how many came before the end.
    fn pass(&mut self, length: u64, sink: Sink<'_>) -> anyhow::Result<u64> {
        let mut left = length;
        while left > 0 {
            let bytes = self.stream.fill_buf().context("read the reply")?;
            let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if count == 0 {
                break;
            }
            sink(&bytes[..count])?;
            self.stream.consume(count);
            left -= count as u64;
        }
        Ok(length - left)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        (&mut self.stream)
            .take(LINE_BYTES_MAX)
            .read_line(&mut line)
            .context("read the head of the reply")?;
        let text = line.strip_suffix('\n').ok_or_else(|| anyhow!("the server hung up"))?;
        Ok(text.trim_end_matches('\r').to_owned())
    }
}

/// Copies `from` to `to` in large pieces; how many bytes.
fn send(from: &mut dyn Read, to: &mut dyn Write) -> anyhow::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut sent = 0;
    loop {
        let count = from.read(&mut piece).context("make the body")?;
        if count == 0 {
            return Ok(sent);
        }
        to.write_all(&piece[..count]).context("send the body")?;
        sent += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};

    use serde_json::json;

    use super::*;

    /// Answers one connection: reads requests with bodies, gives `replies` in order; what came.
    fn server(replies: &'static [&'static str]) -> (Endpoint, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut came = Vec::new();
            for reply in replies {
                let (mut request, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.strip_prefix("Content-Length: ") {
                        length = value.trim().parse().unwrap();
                    }
                    request += &line;
                    if line == "\r\n" {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                came.push(request + &String::from_utf8(body).unwrap());
                stream.write_all(reply.as_bytes()).unwrap();
            }
            came
        });
        (Endpoint::new(&url, "secret").unwrap(), serving)
    }

    #[test]
    fn a_connection_serves_many_calls_in_every_framing() {
        let (endpoint, serving) = server(&[
            "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}",
            "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nto the end",
        ]);
        let mut connection = endpoint.connect().unwrap();
        let reply = connection.json("POST", "/one", &json!({"b": 2})).unwrap();
        assert_eq!(reply, json!({"a": 1}));
        let mut text = Vec::new();
        let mut keep = |bytes: &[u8]| {
            text.extend_from_slice(bytes);
            Ok(())
        };
        assert_eq!(connection.read("/two", &mut keep).unwrap(), 5);
        connection.send("PUT", "/three", Body::Stream(4, &mut "bodies".as_bytes())).unwrap();
        assert_eq!(connection.read("/four", &mut keep).unwrap(), 10);
        assert_eq!(text, b"abcdeto the end");
        let came = serving.join().unwrap();
        assert!(came[0].starts_with("POST /one HTTP/1.1\r\nHost: 127.0.0.1:"));
        assert!(came[0].contains("Authorization: Bearer secret\r\n"));
        assert!(came[0].ends_with("\r\n\r\n{\"b\":2}"));
        assert!(came[2].ends_with("Content-Length: 4\r\n\r\nbodi"));
    }

    #[test]
    fn a_refusal_shows_what_the_server_said() {
        let (endpoint, serving) =
            server(&["HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 4\r\n\r\nfull"]);
        let error = endpoint.json("PUT", "/x", &Value::Null).unwrap_err();
        assert_eq!(error.to_string(), "PUT /x: 507 full");
        serving.join().unwrap();
    }

    #[test]
    fn a_reply_that_breaks_off_is_an_error() {
        let (endpoint, serving) = server(&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]);
        let mut connection = endpoint.connect().unwrap();
        let error = connection.read("/x", &mut |_| Ok(())).unwrap_err();
        assert!(format!("{error:#}").contains("after 4 of 9 bytes"), "{error:#}");
        serving.join().unwrap();
    }
}
