use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join_all;
use objstore::{Backend, Error, ObjectStore, suite};

fn open(root: &Path) -> objstore::Result<Backend> {
    Backend::open(&format!("file://{}", root.display()), &|_| None)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_store_keeps_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("made/by/open")).unwrap();
    store.probe().await.unwrap();
    suite::run(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_store_that_is_opened_again_keeps_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    let reopen = || Backend::reopen(&format!("file://{}", dir.path().display()), &|_| None);
    // Nobody has opened it: then this does.
    let first = reopen().unwrap();
    first.put("kept", Bytes::from_static(b"kept")).await.unwrap();
    let again = reopen().unwrap();
    assert_eq!(again.get("kept", None).await.unwrap(), "kept");
    again.delete("kept").await.unwrap();
    suite::run(Arc::new(again)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_behind_by_writes_races_and_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.put("a/b/c", Bytes::from_static(b"1")).await.unwrap();
    store.create("a/b/c", Bytes::from_static(b"2")).await.unwrap_err();
    store.put("a/b/c", Bytes::from_static(b"3")).await.unwrap();
    store.delete("a/b/c").await.unwrap();
    let left: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".staged"]);
    assert_eq!(fs::read_dir(dir.path().join(".staged")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_see_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (open(dir.path()).unwrap(), open(dir.path()).unwrap());
    for round in 0..20 {
        let key = format!("log/{round}");
        let outcomes = join_all([
            one.create(&key, Bytes::from_static(b"one")),
            other.create(&key, Bytes::from_static(b"other")),
        ])
        .await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        assert_eq!(one.get(&key, None).await.unwrap(), other.get(&key, None).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_come_and_go_do_not_fail_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let churn = (0..8).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                let key = format!("deep/er/{task}");
                store.create(&key, Bytes::from_static(b"x")).await.unwrap();
                store.delete(&key).await.unwrap();
            }
        })
    });
    for task in join_all(churn).await {
        task.unwrap();
    }
    assert!(store.list("", None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn open_removes_what_a_crash_left_and_keeps_what_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let staged = dir.path().join(".staged");
    fs::create_dir(&staged).unwrap();
    let old = fs::File::create(staged.join("old")).unwrap();
    old.set_modified(SystemTime::now() - Duration::from_secs(3 * 24 * 60 * 60)).unwrap();
    fs::write(staged.join("new"), b"another process is writing this").unwrap();
    let store = open(dir.path()).unwrap();
    assert!(!staged.join("old").exists());
    assert!(staged.join("new").exists());
    assert!(store.list("", None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_key_below_another_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.put("a", Bytes::new()).await.unwrap();
    assert!(matches!(store.put("a/b", Bytes::new()).await, Err(Error::BadKey { .. })));
    assert!(matches!(store.create("a/b", Bytes::new()).await, Err(Error::BadKey { .. })));
    store.put("d/e", Bytes::new()).await.unwrap();
    assert!(matches!(store.put("d", Bytes::new()).await, Err(Error::BadKey { .. })));
    assert!(matches!(store.create("d", Bytes::new()).await, Err(Error::BadKey { .. })));
    assert_eq!(store.list("", None, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn objects_are_private_to_the_user() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.put("a/b", Bytes::from_static(b"secret")).await.unwrap();
    let mode =
        |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a"), mode("a/b")), (0o700, 0o600));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_and_a_delete_of_one_key_do_not_fail_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let tasks = (0..8).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..100 {
                match task % 2 {
                    0 => store.put("deep/er/one", Bytes::from_static(b"x")).await.unwrap(),
                    _ => store.delete("deep/er/one").await.unwrap(),
                }
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
}
