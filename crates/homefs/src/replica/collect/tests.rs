use super::super::testing::{ByNumber, MemoryPages, TestStore};
use super::*;

#[tokio::test]
async fn few_pages_stay_in_the_commit_and_cost_no_request() {
    let (store, log) = TestStore::with_log();
    let source = Arc::new(MemoryPages::numbered(4096, 100));
    let wanted = BTreeSet::from([3, 4, 99, 100, 101, 4_000_000]);
    let pages = log.collect(source, &wanted, 7, ByNumber::arrange).await.unwrap();
    assert!(store.take_calls().is_empty());
    let at = pages.at.unwrap();
    let index = Index::decode(&pages.body[..at.len as usize], &at, 100).unwrap();
    assert_eq!(index.pages().collect::<Vec<_>>(), [3, 4, 99, 100]);
    assert!(!index.full && index.objects.is_empty());
    assert_eq!(pages.len(), at.own);
}

#[tokio::test]
async fn many_pages_go_to_objects_named_by_birth_and_content() {
    let (store, log) = TestStore::with_log();
    let source = Arc::new(MemoryPages::numbered(4096, 200));
    let pages = log.collect_delta(source, (1..=200).collect(), 7, 100).await.unwrap();
    let at = pages.at.unwrap();
    let index = Index::decode(&pages.body[..at.len as usize], &at, 200).unwrap();
    assert!(index.objects.len() > 3 && at.own > 0);
    for object in &index.objects {
        let key = log.object_key(object);
        let bytes = store.objects.lock()[&key].clone();
        assert_eq!(log.keys().page_object_id(&key), Some((Some(7), Digest::of(&bytes))));
        assert_eq!(object.len, bytes.len() as u64);
    }
    let mut numbers: Vec<u32> = index.pages().collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn nothing_changed_is_nothing_at_all() {
    let (_store, log) = TestStore::with_log();
    let source = Arc::new(MemoryPages::numbered(4096, 3));
    let pages = log.collect(source, &BTreeSet::new(), 7, ByNumber::arrange).await.unwrap();
    assert_eq!(pages, Pages::none(4096, 3));
}
