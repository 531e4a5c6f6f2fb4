//! The S3 server of `testkit` as a process, for end-to-end tests and for people.
//!
//! When it serves, it prints one line of assignments on stdout, fit for `export $(…)`:
//! `AWS_ENDPOINT_URL=…`, `AWS_REGION=…`, `AWS_ACCESS_KEY_ID=…`, `AWS_SECRET_ACCESS_KEY=…` and
//! `S3_URL=s3://BUCKET`, with blanks between.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use testkit::s3_server::{S3Server, S3Settings};

/// An S3 server for tests. Its secret is known to all: do not expose it.
#[derive(Debug, Parser)]
struct Options {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to keep objects; in memory if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The bucket to begin with.
    #[arg(long, default_value = "dormouse")]
    bucket: String,
    /// The access key to accept.
    #[arg(long, default_value = "test-access-key")]
    access_key_id: String,
    /// Its secret.
    #[arg(long, default_value = "test-secret-key")]
    secret_access_key: String,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let options = Options::parse();
    let server = S3Server::with(S3Settings {
        listen: options.listen,
        dir: options.dir,
        bucket: options.bucket.clone(),
        access_key_id: options.access_key_id,
        secret_access_key: options.secret_access_key,
    })
    .await?;
    let mut line = String::new();
    for (name, value) in server.variables() {
        line.push_str(&format!("{name}={value} "));
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}S3_URL=s3://{}", options.bucket)?;
    stdout.flush()?;
    drop(stdout);
    server.serve().await;
    Ok(())
}
