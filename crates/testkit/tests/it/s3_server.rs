use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    Error, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, UpdateVersion,
};
use testkit::S3Server;
use testkit::s3_server::{Fault, S3Settings, Verb};

/// A client with its library's own habits: bulk deletes, retries, multipart uploads.
fn client(server: &S3Server) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_bucket_name("dormouse")
        .with_access_key_id(server.variable("AWS_ACCESS_KEY_ID").unwrap())
        .with_secret_access_key(server.variable("AWS_SECRET_ACCESS_KEY").unwrap())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_a_directory_passes_the_suite() {
    let dir = tempfile::tempdir().unwrap();
    let settings = S3Settings { dir: Some(dir.path().to_owned()), ..S3Settings::default() };
    let server = S3Server::with(settings).await.unwrap();
    objstore::suite::run(Arc::new(server.backend("on/disk"))).await;
    let left = std::fs::read_dir(dir.path().join("dormouse")).unwrap().count();
    assert_eq!(left, 0, "files left after all objects were deleted");
}

#[tokio::test]
async fn parts_become_one_object_when_completed_and_none_when_aborted() {
    let server = S3Server::start().await;
    let client = client(&server);
    let path = Path::from("large");
    let part = vec![7_u8; 5 << 20];
    let mut upload =
        client.put_multipart_opts(&path, PutMultipartOptions::default()).await.unwrap();
    upload.put_part(part.clone().into()).await.unwrap();
    upload.put_part("end".into()).await.unwrap();
    assert!(matches!(client.head(&path).await, Err(Error::NotFound { .. })));
    upload.complete().await.unwrap();
    let stored = client.get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(stored.len(), part.len() + 3);
    assert_eq!(&stored[part.len()..], b"end");

    let mut aborted = client.put_multipart(&Path::from("aborted")).await.unwrap();
    aborted.put_part(part.into()).await.unwrap();
    aborted.abort().await.unwrap();
    assert!(client.head(&Path::from("aborted")).await.is_err());
    assert!(server.traffic()[Verb::Multipart].requests >= 6);
}

#[tokio::test]
async fn an_update_needs_the_etag_of_what_it_replaces() {
    let server = S3Server::start().await;
    let client = client(&server);
    let path = Path::from("pointer");
    let first = client.put(&path, "1".into()).await.unwrap();
    let version = |etag: &Option<String>| UpdateVersion { e_tag: etag.clone(), version: None };
    let update =
        |etag| PutOptions { mode: PutMode::Update(version(etag)), ..PutOptions::default() };
    let second = client.put_opts(&path, "2".into(), update(&first.e_tag)).await.unwrap();
    let stale = client.put_opts(&path, "3".into(), update(&first.e_tag)).await;
    assert!(matches!(stale, Err(Error::Precondition { .. })), "{stale:?}");
    client.put_opts(&path, "3".into(), update(&second.e_tag)).await.unwrap();
}

#[tokio::test]
async fn many_objects_are_listed_in_pages_and_deleted_in_bulk() {
    let server = S3Server::start().await;
    let client = client(&server);
    let paths: Vec<Path> = (0..2_300).map(|n| Path::from(format!("many/{n:05}/x"))).collect();
    futures::stream::iter(&paths)
        .map(|path| client.put(path, "x".into()))
        .buffer_unordered(16)
        .try_for_each(|_| async { Ok(()) })
        .await
        .unwrap();
    let before = server.traffic();
    let listed: Vec<_> =
        client.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
    assert_eq!(listed, paths);
    assert_eq!(server.traffic().since(&before)[Verb::List].requests, 3);
    let groups = client.list_with_delimiter(Some(&Path::from("many"))).await.unwrap();
    assert_eq!((groups.common_prefixes.len(), groups.objects.len()), (2_300, 0));
    let offset = Path::from("many/02297/x");
    let rest: Vec<_> = client.list_with_offset(None, &offset).try_collect().await.unwrap();
    assert_eq!(rest.len(), 2);
    let all = futures::stream::iter(paths.into_iter().map(Ok)).boxed();
    let deleted: Vec<_> = client.delete_stream(all).try_collect().await.unwrap();
    assert_eq!(deleted.len(), 2_300);
    assert_eq!(client.list(None).count().await, 0);
}

#[tokio::test]
async fn a_copy_carries_the_bytes_over() {
    let server = S3Server::start().await;
    let client = client(&server);
    client.put(&Path::from("from"), "bytes".into()).await.unwrap();
    client.copy(&Path::from("from"), &Path::from("to")).await.unwrap();
    assert_eq!(client.get(&Path::from("to")).await.unwrap().bytes().await.unwrap(), "bytes");
}

#[tokio::test]
async fn latency_and_faults_happen_to_the_verb_they_are_set_for() {
    let server = S3Server::start().await;
    let client = client(&server);
    server.control().set_latency(Verb::Head, Duration::from_secs(2));
    server.control().fail_next(Verb::Get, 1, Fault::AccessDenied);
    let path = Path::from("k");
    client.put(&path, "x".into()).await.unwrap();
    let started = Instant::now();
    client.head(&path).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(2));
    assert!(matches!(client.get(&path).await, Err(Error::PermissionDenied { .. })));
    assert_eq!(client.get(&path).await.unwrap().bytes().await.unwrap(), "x");
    let started = Instant::now();
    server.control().calm();
    client.head(&path).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2));
}
