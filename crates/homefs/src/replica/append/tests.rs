use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{ErrorKind, HomeId};

use super::super::testing::{ByNumber, Fault, MemoryPages, TestStore};
use super::*;

async fn writer(store: &Arc<TestStore>, home: &HomeId, nonce: u8) -> Log {
    let mut log = store.log(home);
    log.claim(ServerId::generate(), true, [nonce; 16]).await.unwrap();
    log
}

async fn one_writer() -> (Arc<TestStore>, Log) {
    let store = Arc::new(TestStore::default());
    let log = writer(&store, &HomeId::generate(), 1).await;
    store.take_calls();
    (store, log)
}

async fn delta(log: &Log, pages: u32, data: &'static str) -> Commit {
    let source = Arc::new(MemoryPages::numbered(512, pages));
    let pages = log.collect(source, &BTreeSet::from([1, 2]), 2, ByNumber::arrange).await.unwrap();
    Commit { pages, data: data.into(), release: false }
}

#[tokio::test]
async fn a_commit_is_one_put() {
    let (store, mut log) = one_writer().await;
    let commit = delta(&log, 5, "small file").await;
    assert_eq!(log.next_seq().unwrap(), 2);
    assert_eq!(log.append(commit).await.unwrap(), 2);
    let calls = store.take_calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    let stored = log.read(2).await.unwrap().unwrap();
    let header = stored.header();
    assert_eq!((header.epoch, header.kind, header.page_count), (Epoch(1), Kind::Delta, 5));
    assert_eq!(header.bytes_above_base, header.page_bytes());
    assert_eq!(log.read_data(2).await.unwrap(), "small file");
    assert_eq!(log.read_data(1).await.unwrap(), "");
}

#[tokio::test]
async fn a_fenced_writer_cannot_publish() {
    let (store, mut zombie) = one_writer().await;
    let mut successor = writer(&store, zombie.keys().home(), 2).await;
    let commit = delta(&zombie, 5, "").await;
    let error = zombie.append(commit.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { ours: Epoch(1), theirs: Epoch(2) }), "{error}");
    assert_eq!(successor.append(commit.clone()).await.unwrap(), 3);

    // For good, and without asking the store again.
    store.take_calls();
    assert_eq!(zombie.append(commit.clone()).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(zombie.settle().await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(zombie.next_seq().unwrap_err().kind(), ErrorKind::Fenced);
    assert!(store.take_calls().is_empty());
    assert_eq!(successor.append(commit).await.unwrap(), 4);
}

#[tokio::test]
async fn a_lost_reply_is_settled_and_nothing_is_stored_twice() {
    for fault in [Fault::ReplyLost, Fault::RequestLost] {
        let (store, mut log) = one_writer().await;
        let commit = delta(&log, 5, "x").await;
        store.faults.lock().push(fault);
        let error = log.append(commit.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(log.in_doubt(), Some(2));
        assert!(matches!(log.append(commit.clone()).await, Err(Error::InDoubt { seq: 2 })));
        assert_eq!(log.settle().await.unwrap(), Some(2));
        assert_eq!((log.settle().await.unwrap(), log.in_doubt()), (None, None));
        assert_eq!(log.append(commit).await.unwrap(), 3);
        assert_eq!(log.head(None).await.unwrap().unwrap().seq, 3);
    }
}

#[tokio::test]
async fn doubt_ends_in_a_fence_where_another_was_faster() {
    let (store, mut log) = one_writer().await;
    store.faults.lock().push(Fault::RequestLost);
    let commit = delta(&log, 5, "x").await;
    log.append(commit).await.unwrap_err();
    let _successor = writer(&store, log.keys().home(), 2).await;
    assert_eq!(log.settle().await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(log.in_doubt(), None);
}

#[tokio::test]
async fn an_append_that_is_dropped_half_way_is_in_doubt() {
    let (store, mut log) = one_writer().await;
    let commit = delta(&log, 5, "x").await;
    {
        // The store lets others in between before it answers; nobody polls a second time.
        let mut append = Box::pin(log.append(commit));
        assert!(futures::poll!(append.as_mut()).is_pending());
    }
    assert_eq!(log.in_doubt(), Some(2));
    assert_eq!(log.settle().await.unwrap(), Some(2));
    drop(store);
}

#[tokio::test]
async fn a_commit_created_at_or_below_the_boundary_has_lost() {
    let (store, mut zombie) = one_writer().await;
    store.clock.advance(3_600);
    // Others went on to commit 50, wrote a base and let go what is below.
    store.objects.lock().insert(zombie.keys().boundary(), r#"{"seq":40,"epoch":6}"#.into());
    let commit = delta(&zombie, 5, "").await;
    let error = zombie.append(commit.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { ours: Epoch(1), theirs: Epoch(6) }), "{error}");
    assert_eq!(zombie.append(commit).await.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn after_a_long_silence_a_commit_counts_only_when_the_boundary_was_seen() {
    let (store, mut log) = one_writer().await;
    store.clock.advance(450);
    let commit = delta(&log, 5, "").await;
    store.objects.lock().insert(log.keys().boundary(), "not JSON".into());
    assert_eq!(log.append(commit).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(log.in_doubt(), Some(2));
    store.objects.lock().remove(&log.keys().boundary());
    assert_eq!(log.settle().await.unwrap(), Some(2));
}

#[tokio::test]
async fn the_boundary_is_asked_for_once_in_half_a_horizon_of_silence() {
    let (store, mut log) = one_writer().await;
    let commit = delta(&log, 5, "").await;
    for (silence, calls) in [(0, 1), (449, 1), (449, 1), (450, 2), (449, 1), (4_000, 2), (0, 1)] {
        store.clock.advance(silence);
        log.append(commit.clone()).await.unwrap();
        assert_eq!(store.take_calls().len(), calls, "{silence}");
    }
}

#[tokio::test]
async fn either_clock_ends_the_trust() {
    let (store, mut log) = one_writer().await;
    let commit = delta(&log, 5, "").await;
    // Suspended, and the wall clock was set back meanwhile.
    store.clock.monotonic.fetch_add(450, Ordering::Relaxed);
    store.clock.wall.fetch_sub(1_000_000, Ordering::Relaxed);
    log.append(commit.clone()).await.unwrap();
    assert_eq!(store.take_calls().len(), 2);
    // The machine that this runs in was stopped; only the wall clock knows.
    store.clock.wall.fetch_add(450, Ordering::Relaxed);
    log.append(commit).await.unwrap();
    assert_eq!(store.take_calls().len(), 2);
}

#[tokio::test]
async fn the_time_that_a_doubt_took_counts() {
    let (store, mut log) = one_writer().await;
    let commit = delta(&log, 5, "").await;
    store.faults.lock().push(Fault::RequestLost);
    log.append(commit.clone()).await.unwrap_err();
    // The store was away for long. Had another writer come and its commits gone, the create below
    // would succeed all the same.
    store.clock.advance(900);
    store.take_calls();
    assert_eq!(log.settle().await.unwrap(), Some(2));
    assert_eq!(store.take_calls().len(), 2);
    // It was sent long before it was answered, and is no older than the look at the boundary.
    assert_eq!(log.append(commit).await.unwrap(), 3);
    assert_eq!(store.take_calls().len(), 1);
}

#[tokio::test]
async fn a_zombie_confirms_nothing_whenever_it_wakes() {
    for silence in [0, 100, 449, 450, 899, 900, 1_000, 1_000_000] {
        let (store, mut zombie) = one_writer().await;
        let home = zombie.keys().home().clone();
        let commit = delta(&zombie, 5, "").await;
        let mut successor = writer(&store, &home, 2).await;
        for _ in 0..5 {
            successor.append(commit.clone()).await.unwrap();
        }
        store.objects.lock().insert(successor.keys().boundary(), r#"{"seq":6,"epoch":2}"#.into());
        store.clock.advance(silence);
        if silence >= 900 {
            // A horizon after the boundary was raised, even if the claim went with the rest.
            for seq in 1..=6 {
                store.objects.lock().remove(&successor.keys().log(seq));
            }
        }
        let error = zombie.append(commit.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Fenced { .. }), "{silence}: {error}");
        assert!(matches!(zombie.append(commit.clone()).await, Err(Error::Fenced { .. })));
        assert_eq!(successor.append(commit).await.unwrap(), 8, "{silence}");
    }
}

#[tokio::test]
async fn a_release_ends_the_tenure() {
    let (_store, mut log) = one_writer().await;
    let commit = Commit { release: true, ..delta(&log, 5, "").await };
    assert_eq!(log.append(commit.clone()).await.unwrap(), 2);
    let head = log.head(None).await.unwrap().unwrap();
    assert!(head.released && head.seq == 2);
    assert!(matches!(log.append(commit).await, Err(Error::Unclaimed)));
    assert!(log.writer_head().is_none());
}

#[tokio::test]
async fn a_reader_cannot_append() {
    let (_store, log) = one_writer().await;
    let mut reader = log.reader();
    let commit = delta(&log, 5, "").await;
    assert!(matches!(reader.append(commit).await, Err(Error::Unclaimed)));
    assert!(matches!(reader.settle().await, Err(Error::Unclaimed)));
}

#[tokio::test]
async fn what_lies_above_a_base_is_counted_from_it() {
    let (_store, mut log) = one_writer().await;
    for _ in 0..4 {
        let commit = delta(&log, 5, "").await;
        log.append(commit).await.unwrap();
    }
    let size = log.read(2).await.unwrap().unwrap().header().page_bytes();
    assert_eq!(log.writer_head().unwrap().bytes_above_base, 4 * size);
    log.note_base(3);
    let head = log.writer_head().unwrap().clone();
    assert_eq!((head.base_seq, head.bytes_above_base), (3, 2 * size));
    log.note_base(2);
    log.note_base(99);
    assert_eq!(log.writer_head(), Some(&head), "older ones and ones of no commit of ours");
    let commit = delta(&log, 5, "").await;
    log.append(commit).await.unwrap();
    let header = log.read(6).await.unwrap().unwrap().header().clone();
    assert_eq!((header.parent_base, header.bytes_above_base), (3, 3 * size));
}

#[tokio::test]
async fn data_beyond_the_bound_is_refused_before_anything_is_stored() {
    let (store, mut log) = one_writer().await;
    let data = Bytes::from(vec![0; (16 << 20) + 1]);
    let commit = Commit { data, ..delta(&log, 5, "").await };
    assert_eq!(log.append(commit).await.unwrap_err().kind(), ErrorKind::TooLarge);
    assert!(store.take_calls().is_empty() && log.in_doubt().is_none());
}
