use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use objstore::{Backend, Error, Metered, ObjectStore, suite};
use testkit::S3Server;
use testkit::s3_server::{Fault, Outage, Verb};

const MUTATIONS: [Verb; 3] = [Verb::Put, Verb::Create, Verb::Delete];

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_keeps_every_promise() {
    let server = S3Server::start().await;
    for prefix in ["", "some/prefix"] {
        let store = server.backend(prefix);
        store.probe().await.unwrap();
        suite::run(Arc::new(store)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_that_loses_replies_keeps_every_promise() {
    let server = S3Server::start().await;
    for seed in 1..=3 {
        server.control().fail_at_random(seed, &MUTATIONS, 0.3, Fault::LoseReply);
        let store = server.backend("lossy");
        store.probe().await.unwrap();
        suite::run(Arc::new(store)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_s3_server_keeps_every_promise() {
    let server = S3Server::start().await;
    for fault in [Fault::SlowDown, Fault::InternalError, Fault::LoseRequest] {
        server.control().fail_at_random(4, &Verb::ALL, 0.15, fault);
        suite::run(Arc::new(server.backend("busy"))).await;
    }
}

#[tokio::test]
async fn a_create_whose_reply_is_lost_is_ok_and_stored_once() {
    let server = S3Server::start().await;
    let store = server.backend("");
    server.control().fail_next(Verb::Create, 1, Fault::LoseReply);
    store.create("log/1", Bytes::from_static(b"nonce 1")).await.unwrap();
    let traffic = server.traffic();
    assert_eq!((traffic[Verb::Create].requests, traffic[Verb::Get].requests), (2, 1));
}

#[tokio::test]
async fn a_lost_race_whose_reply_is_lost_is_still_lost() {
    let server = S3Server::start().await;
    let store = server.backend("");
    store.create("log/1", Bytes::from_static(b"theirs")).await.unwrap();
    server.control().fail_next(Verb::Create, 2, Fault::LoseReply);
    let outcome = store.create("log/1", Bytes::from_static(b"ours")).await;
    assert!(matches!(outcome, Err(Error::Exists { .. })), "{outcome:?}");
    assert_eq!(store.get("log/1", None).await.unwrap(), "theirs");
}

#[tokio::test]
async fn a_conflict_means_try_again_and_not_lost() {
    let server = S3Server::start().await;
    let store = server.backend("");
    server.control().fail_next(Verb::Create, 3, Fault::Conflict);
    store.create("log/1", Bytes::from_static(b"ours")).await.unwrap();
    assert_eq!(store.get("log/1", None).await.unwrap(), "ours");
}

#[tokio::test]
async fn a_create_over_an_existing_object_costs_one_read() {
    let server = S3Server::start().await;
    let store = server.backend("");
    store.create("log/1", Bytes::from_static(b"theirs")).await.unwrap();
    let before = server.traffic();
    store.create("log/1", Bytes::from_static(b"ours")).await.unwrap_err();
    let spent = server.traffic().since(&before);
    assert_eq!((spent[Verb::Create].requests, spent[Verb::Get].requests), (1, 1));
}

#[tokio::test]
async fn one_call_is_one_request_on_a_good_day() {
    let server = S3Server::start().await;
    let store = Metered::new(server.backend(""));
    store.put("a/1", Bytes::from_static(b"12345")).await.unwrap();
    store.create("a/2", Bytes::from_static(b"12345")).await.unwrap();
    store.get("a/1", Some(1..3)).await.unwrap();
    store.head("a/1").await.unwrap();
    store.list("a/", None, 10).await.unwrap();
    store.delete("a/1").await.unwrap();
    let (counts, traffic) = (store.counts(), server.traffic());
    assert_eq!(counts.requests(), 6);
    assert_eq!(traffic.requests(), 6);
    assert_eq!(traffic[Verb::Put].bytes_in, 5);
    assert_eq!((traffic[Verb::Get].bytes_out, counts.get.bytes), (2, 2));
}

#[tokio::test]
async fn a_server_that_comes_back_is_waited_for() {
    let server = S3Server::start().await;
    let store = server.backend("");
    store.put("k", Bytes::from_static(b"1")).await.unwrap();
    server.control().set_outage(Outage::Down);
    let control = server.control().clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        control.set_outage(Outage::None);
    });
    assert_eq!(store.get("k", None).await.unwrap(), "1");
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_reported_with_the_reason_within_seconds() {
    let variables = |name: &str| match name {
        // The discard port: nobody listens.
        "AWS_ENDPOINT_URL" => Some("http://127.0.0.1:9".to_owned()),
        "AWS_ACCESS_KEY_ID" => Some("id".to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some("s3cr3t".to_owned()),
        _ => None,
    };
    let store = Backend::open("s3://bucket/prefix", &variables).unwrap();
    let started = Instant::now();
    let Err(Error::Unavailable { message }) = store.probe().await else { panic!("reached nobody") };
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert!(message.contains("refused"), "{message}");
    assert!(!format!("{message} {store:?}").contains("s3cr3t"));
}

#[tokio::test]
async fn a_store_that_is_silent_is_given_up_within_fifteen_seconds() {
    let server = S3Server::start().await;
    server.control().set_outage(Outage::Silent);
    let started = Instant::now();
    let outcome = server.backend("").probe().await;
    assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
    assert!(started.elapsed() < Duration::from_secs(16), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_wrong_secret_is_denied_and_not_repeated() {
    let server = S3Server::start().await;
    let variables = |name: &str| match name {
        "AWS_SECRET_ACCESS_KEY" => Some("wrong-s3cr3t".to_owned()),
        name => server.variable(name),
    };
    let store = Backend::open(&server.url(""), &variables).unwrap();
    let error = store.get("k", None).await.unwrap_err();
    let Error::Denied { message } = &error else { panic!("{error}") };
    assert_eq!(message, "SignatureDoesNotMatch");
    let probed = store.probe().await.unwrap_err().to_string();
    assert!(!probed.contains("s3cr3t") && !probed.contains("test-access-key"), "{probed}");
}

#[tokio::test]
async fn a_missing_bucket_is_named_as_such() {
    let server = S3Server::start().await;
    let store = Backend::open("s3://other-bucket/", &|name| server.variable(name)).unwrap();
    let Err(Error::Unusable { message }) = store.probe().await else { panic!("found it") };
    assert!(message.contains("bucket"), "{message}");
    assert!(matches!(store.get("k", None).await, Err(Error::Unusable { .. })));
}
