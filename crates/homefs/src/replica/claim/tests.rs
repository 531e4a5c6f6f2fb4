use std::sync::Arc;

use base::{ErrorKind, HomeId};

use super::super::collect::Pages;
use super::super::testing::{ByNumber, Fault, TestStore, unchanged};
use super::*;

fn setup() -> (Arc<TestStore>, HomeId, ServerId) {
    (Arc::new(TestStore::default()), HomeId::generate(), ServerId::generate())
}

fn empty(log: &Log, release: bool) -> Commit {
    let pages = unchanged(log.writer_head().unwrap());
    Commit { pages, data: Bytes::new(), release }
}

fn draft() -> Commit {
    let pages = Pages::none(512, 0);
    Commit { pages, data: Bytes::from_static(b"draft"), release: true }
}

/// A home that one server had and released: commits 1 and 2.
async fn released() -> (Arc<TestStore>, HomeId, ServerId) {
    let (store, home, server) = setup();
    let mut log = store.log(&home);
    log.claim(server.clone(), false, [1; 16]).await.unwrap();
    let commit = empty(&log, true);
    log.append(commit).await.unwrap();
    (store, home, server)
}

#[tokio::test]
async fn the_first_claim_of_a_home_is_epoch_and_commit_one() {
    let (store, home, server) = setup();
    let claimed = store.log(&home).claim(server, false, [1; 16]).await.unwrap();
    assert_eq!(claimed, Claimed { epoch: Epoch(1), seq: 1, previous: None });
}

#[tokio::test]
async fn of_many_who_claim_at_once_one_wins_each_number() {
    let (store, home, _) = released().await;
    let claims = (0..8).map(|n| {
        let mut log = store.log(&home);
        async move {
            let claim = log.claim(ServerId::generate(), false, [100 + n; 16]).await;
            (claim, log)
        }
    });
    let results = futures::future::join_all(claims).await;
    let won: Vec<_> = results.iter().filter(|(claim, _)| claim.is_ok()).collect();
    assert_eq!(won.len(), 1, "nobody else may take what is not released");
    assert_eq!(won[0].0.as_ref().unwrap().epoch, Epoch(2));
    for (claim, _) in results.iter().filter(|(claim, _)| claim.is_err()) {
        assert!(matches!(claim, Err(Error::HeldBy { .. })), "{claim:?}");
    }
}

#[tokio::test]
async fn epochs_are_never_shared_even_among_those_who_take_over() {
    let (store, home, _) = released().await;
    let claims = (0..6).map(|n| {
        let mut log = store.log(&home);
        async move { (log.claim(ServerId::generate(), true, [n; 16]).await.unwrap(), log) }
    });
    let mut results = futures::future::join_all(claims).await;
    results.sort_by_key(|(claimed, _)| claimed.epoch);
    let epochs: Vec<u64> = results.iter().map(|(claimed, _)| claimed.epoch.0).collect();
    assert_eq!(epochs, [2, 3, 4, 5, 6, 7]);
    for (claimed, log) in &mut results {
        let last = claimed.epoch == Epoch(7);
        let commit = empty(log, false);
        assert_eq!(log.append(commit).await.is_ok(), last, "only the newest can commit");
    }
}

#[tokio::test]
async fn a_home_that_another_server_holds_is_not_taken_silently() {
    let (store, home, server) = setup();
    let mut first = store.log(&home);
    first.claim(server.clone(), false, [1; 16]).await.unwrap();
    let mut second = store.log(&home);
    let error = second.claim(ServerId::generate(), false, [2; 16]).await.unwrap_err();
    assert!(matches!(&error, Error::HeldBy { holder, .. } if *holder == server));
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(store.log(&home).head(None).await.unwrap().unwrap().seq, 1, "nothing was written");
    let taken = second.claim(ServerId::generate(), true, [3; 16]).await.unwrap();
    assert_eq!((taken.epoch, taken.seq), (Epoch(2), 2));
    assert_eq!(taken.previous.unwrap().holder, server);
}

#[tokio::test]
async fn a_home_is_taken_from_the_claim_that_was_given_up_and_from_no_later_one() {
    let (store, home, server) = setup();
    let (other, from) = (ServerId::generate(), |epoch| TakeOver::From(Epoch(epoch)));
    store.log(&home).claim(server.clone(), false, [1; 16]).await.unwrap();
    let refused = store.log(&home).claim(other.clone(), from(2), [2; 16]).await.unwrap_err();
    assert!(matches!(refused, Error::HeldBy { .. }), "{refused:?}");
    let taken = store.log(&home).claim(other.clone(), from(1), [3; 16]).await.unwrap();
    assert_eq!(taken.epoch, Epoch(2));
    // It is its own by now, whatever it was allowed.
    let again = store.log(&home).claim(other.clone(), from(1), [4; 16]).await.unwrap();
    assert_eq!(again.epoch, Epoch(3));
    store.log(&home).claim(server.clone(), from(3), [5; 16]).await.unwrap();
    for nonce in [[4; 16], [6; 16]] {
        let refused = store.log(&home).claim(other.clone(), from(1), nonce).await.unwrap_err();
        assert!(matches!(&refused, Error::HeldBy { holder, .. } if *holder == server));
    }
}

#[tokio::test]
async fn the_same_server_takes_its_home_back_after_a_crash() {
    let (store, home, server) = setup();
    store.log(&home).claim(server.clone(), false, [1; 16]).await.unwrap();
    let again = store.log(&home).claim(server, false, [2; 16]).await.unwrap();
    assert_eq!((again.epoch, again.seq), (Epoch(2), 2));
}

#[tokio::test]
async fn a_claim_whose_reply_was_lost_is_found_again() {
    for (fault, seq) in [(Fault::ReplyLost, 3), (Fault::RequestLost, 3)] {
        let (store, home, _) = released().await;
        let (mut log, other) = (store.log(&home), ServerId::generate());
        store.faults.lock().push(fault);
        let error = log.claim(other.clone(), false, [9; 16]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let claimed = log.claim(other, false, [9; 16]).await.unwrap();
        assert_eq!((claimed.seq, claimed.epoch), (seq, Epoch(2)));
        assert_eq!(
            claimed.previous.as_ref().map(|head| (head.seq, head.released)),
            Some((2, true))
        );
        let commit = empty(&log, false);
        assert_eq!(log.append(commit).await.unwrap(), 4);
    }
}

#[tokio::test]
async fn a_claim_starts_from_the_newest_base() {
    let (store, home, server) = released().await;
    let log = store.log(&home);
    let head = log.head(None).await.unwrap().unwrap();
    let pages = Arc::new(super::super::testing::MemoryPages::numbered(0, 0));
    log.write_base(&head, pages, ByNumber::arrange).await.unwrap();
    let mut log = store.log(&home);
    log.claim(server, false, [2; 16]).await.unwrap();
    let head = log.writer_head().unwrap();
    assert_eq!((head.base_seq, head.bytes_above_base), (2, 0));
}

#[tokio::test]
async fn publishing_is_one_commit_that_takes_and_releases() {
    let (store, home, server) = released().await;
    let log = store.log(&home);
    store.take_calls();
    let published = log.publish(2, draft(), server.clone(), [5; 16]).await.unwrap();
    assert_eq!(published, (3, Epoch(2)));
    let writes = store.take_calls().into_iter().filter(|call| call.starts_with("create")).count();
    assert_eq!(writes, 1);
    let head = store.log(&home).head(None).await.unwrap().unwrap();
    assert!(head.released && head.epoch == Epoch(2));
    assert_eq!(log.read_data(3).await.unwrap(), "draft");
    let woken = store.log(&home).claim(ServerId::generate(), false, [6; 16]).await.unwrap();
    assert_eq!(woken.epoch, Epoch(3));
}

#[tokio::test]
async fn publishing_on_a_head_that_moved_writes_nothing() {
    let (store, home, server) = released().await;
    store.log(&home).publish(2, draft(), server.clone(), [4; 16]).await.unwrap();
    let before = store.keys();
    for on in [0, 1, 2, 4] {
        let moved = store.log(&home).publish(on, draft(), server.clone(), [5; 16]).await;
        assert!(
            matches!(moved, Err(Error::Moved { expected, found: 3 }) if expected == on),
            "{moved:?}"
        );
    }
    assert_eq!(store.keys(), before);
}

#[tokio::test]
async fn of_two_who_publish_at_once_one_wins() {
    let (store, home, server) = released().await;
    let (first, second) = (store.log(&home), store.log(&home));
    let results = futures::join!(
        first.publish(2, draft(), server.clone(), [4; 16]),
        second.publish(2, draft(), server.clone(), [5; 16])
    );
    let (won, lost) = if results.0.is_ok() { results } else { (results.1, results.0) };
    assert_eq!(won.unwrap(), (3, Epoch(2)));
    assert!(matches!(lost, Err(Error::Moved { expected: 2, found: 3 })), "{lost:?}");
    assert_eq!(store.log(&home).head(None).await.unwrap().unwrap().seq, 3);
}

#[tokio::test]
async fn publishing_to_an_awake_home_is_refused() {
    let (store, home, server) = setup();
    store.log(&home).claim(server.clone(), false, [1; 16]).await.unwrap();
    let held = store.log(&home).publish(1, draft(), server, [5; 16]).await;
    assert!(matches!(held, Err(Error::HeldBy { .. })), "{held:?}");
}

#[tokio::test]
async fn a_publication_whose_reply_was_lost_is_not_made_twice() {
    for fault in [Fault::ReplyLost, Fault::RequestLost] {
        let (store, home, server) = released().await;
        let log = store.log(&home);
        store.faults.lock().push(fault);
        log.publish(2, draft(), server.clone(), [5; 16]).await.unwrap_err();
        let mut others = None;
        if fault == Fault::ReplyLost {
            // Somebody even woke the machine since.
            let mut other = store.log(&home);
            others = Some(other.claim(ServerId::generate(), false, [8; 16]).await.unwrap());
        }
        let again = log.publish(2, draft(), server, [5; 16]).await.unwrap();
        assert_eq!(again, (3, Epoch(2)));
        let head = store.log(&home).head(None).await.unwrap().unwrap();
        assert_eq!(head.seq, 3 + u64::from(others.is_some()));
    }
}
