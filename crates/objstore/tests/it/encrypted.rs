//! The suite over an encrypted view of each store that keeps something.

use std::sync::Arc;

use base::SystemEntropy;
use objstore::{Backend, Encrypted, KeyRing, suite, unlock};
use testkit::S3Server;
use testkit::s3_server::{Fault, Verb};

fn keys() -> KeyRing {
    let (_, line) = KeyRing::new_line(b"", &SystemEntropy).expect("the first id is free");
    KeyRing::parse(line.as_bytes()).expect("it was just made")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_file_store_keeps_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let store = Arc::new(Backend::open(&url, &|_| None).unwrap());
    suite::run(unlock(store, Some(keys()), Arc::new(SystemEntropy)).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_s3_store_that_loses_replies_keeps_every_promise() {
    let server = S3Server::start().await;
    let mutations = [Verb::Put, Verb::Create, Verb::Delete];
    server.control().fail_at_random(7, &mutations, 0.2, Fault::LoseReply);
    let store = Arc::new(server.backend("some/prefix"));
    let encrypted = Encrypted::new(store, keys(), Arc::new(SystemEntropy));
    suite::run(Arc::new(encrypted)).await;
}
