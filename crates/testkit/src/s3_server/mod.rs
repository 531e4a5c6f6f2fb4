//! An S3 server for tests and benches: the real protocol over HTTP, in this process.
//!
//! Signatures are checked by the `s3s` crate. Objects are in memory or in a directory. Requests and
//! bytes are counted by verb, and a [`Control`] makes the server slow, failing or absent.
//!
//! # Invariants
//! - Conditions of a PUT are decided in the same moment as the object gets its name.
//! - A lost reply is a connection that closes after the work was done.
//!
//! # Not here
//! Versions, policies, encryption. Durability: a directory survives the end of the process, not that
//! of the host. User metadata and multipart uploads under way are forgotten at the end.

mod api;
mod control;
mod http;
mod list;
mod objects;
mod traffic;
mod uploads;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use control::{Control, Fault, Outage};
pub use traffic::{Traffic, Verb, VerbTraffic};

use api::Api;
use objects::Objects;

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where objects are; `None` for memory.
    pub dir: Option<PathBuf>,
    /// A bucket that exists from the start.
    pub bucket: String,
    /// The one access key.
    pub access_key_id: String,
    /// Its secret. Known to all: this server is for tests.
    pub secret_access_key: String,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            dir: None,
            bucket: "dormouse".to_owned(),
            access_key_id: "test-access-key".to_owned(),
            secret_access_key: "test-secret-key".to_owned(),
        }
    }
}

/// A running server. It stops when dropped.
#[derive(Debug)]
pub struct S3Server {
    settings: S3Settings,
    address: SocketAddr,
    control: Control,
    accepting: JoinHandle<()>,
}

impl S3Server {
    /// Starts a server in memory on a free port of the loopback.
    ///
    /// # Panics
    /// Where the loopback has no free port.
    pub async fn start() -> Self {
        Self::with(S3Settings::default()).await.expect("the loopback has a free port")
    }

    /// Starts a server.
    ///
    /// # Errors
    /// Where the address or the directory cannot be used.
    pub async fn with(settings: S3Settings) -> io::Result<Self> {
        let objects = Objects::open(settings.dir.clone())?;
        objects.create_bucket(&settings.bucket)?;
        let mut builder = S3ServiceBuilder::new(Api::new(Arc::new(objects)));
        let (id, secret) = (settings.access_key_id.clone(), settings.secret_access_key.clone());
        builder.set_auth(SimpleAuth::from_single(id, secret));
        let listener = TcpListener::bind(settings.listen).await?;
        let address = listener.local_addr()?;
        let control = Control::new();
        let accepting = tokio::spawn(http::accept(listener, builder.build(), control.clone()));
        Ok(Self { settings, address, control, accepting })
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A store URL in the bucket that exists from the start.
    #[must_use]
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.settings.bucket)
    }

    /// The variables a client needs.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", self.settings.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.settings.secret_access_key.clone()),
        ]
    }

    /// The value of one of [`S3Server::variables`], as `objstore::Backend::open` asks for it.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<String> {
        self.variables().into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// A client of this server.
    ///
    /// # Panics
    /// Where `prefix` is not one.
    #[must_use]
    pub fn backend(&self, prefix: &str) -> objstore::Backend {
        objstore::Backend::open(&self.url(prefix), &|name| self.variable(name))
            .expect("the settings of a running server are usable")
    }

    /// What makes the server misbehave.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// What was asked of it so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.control.traffic()
    }

    /// Serves until the listener fails, which is to say for good.
    pub async fn serve(mut self) {
        // An error here is that of a task which ended: there is nothing left to serve.
        (&mut self.accepting).await.ok();
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.accepting.abort();
        self.control.close_connections();
    }
}
