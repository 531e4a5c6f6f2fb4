//! The S3 server of `testkit` as a process, for end-to-end tests and for people.
//!
//! When it serves, it prints one line of assignments on stdout, fit for `export $(…)`:
//! `AWS_ENDPOINT_URL=…`, `AWS_REGION=…`, `AWS_ACCESS_KEY_ID=…`, `AWS_SECRET_ACCESS_KEY=…` and
//! `S3_URL=s3://BUCKET`, with blanks between.
//!
//! With `--control` it then answers each line on stdin with one on stdout:
//! `traffic` (JSON: requests and bytes by verb since the start), `latency VERB MS` (`ok`).

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use testkit::s3_server::{Control, S3Server, S3Settings, Verb};

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
    /// Take commands on stdin.
    #[arg(long)]
    control: bool,
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
    if options.control {
        let control = server.control().clone();
        std::thread::spawn(move || obey(&control));
    }
    server.serve().await;
    Ok(())
}

/// Answers commands until stdin ends.
fn obey(control: &Control) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<_> = line.split_whitespace().collect();
        let answer = match words.as_slice() {
            ["traffic"] => traffic(control),
            ["latency", verb, ms] => latency(control, verb, ms),
            _ => format!("error: no command {line:?}"),
        };
        let mut stdout = io::stdout().lock();
        if writeln!(stdout, "{answer}").and_then(|()| stdout.flush()).is_err() {
            return;
        }
    }
}

/// `{"put":[REQUESTS,BYTES_IN,BYTES_OUT],…}`.
fn traffic(control: &Control) -> String {
    let traffic = control.traffic();
    let verbs: Vec<_> = Verb::ALL
        .iter()
        .map(|verb| {
            let of = traffic[*verb];
            let name = format!("{verb:?}").to_lowercase();
            format!("\"{name}\":[{},{},{}]", of.requests, of.bytes_in, of.bytes_out)
        })
        .collect();
    format!("{{{}}}", verbs.join(","))
}

fn latency(control: &Control, verb: &str, ms: &str) -> String {
    let verb = Verb::ALL.into_iter().find(|known| format!("{known:?}").eq_ignore_ascii_case(verb));
    match (verb, ms.parse().map(Duration::from_millis)) {
        (Some(verb), Ok(latency)) => {
            control.set_latency(verb, latency);
            "ok".to_owned()
        }
        _ => "error: latency VERB MS".to_owned(),
    }
}
