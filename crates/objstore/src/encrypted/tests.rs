use base::{ErrorKind, SystemEntropy};
use proptest::prelude::*;

use super::range::{OVERHEAD, PLAIN, STORED};
use super::*;
use crate::{MemoryStore, Metered, probe, suite};

const ONE: &str = "1:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const TWO: &str = "2:ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER_ONE: &str = "1:aa0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn ring(lines: &[&str]) -> KeyRing {
    KeyRing::parse(lines.join("\n").as_bytes()).unwrap()
}

fn over(store: Arc<dyn ObjectStore>, lines: &[&str]) -> Encrypted {
    Encrypted::new(store, ring(lines), Arc::new(SystemEntropy))
}

/// The store below, and the encrypted view.
fn world() -> (Arc<MemoryStore>, Encrypted) {
    let raw = Arc::new(MemoryStore::new());
    let encrypted = over(raw.clone(), &[ONE]);
    (raw, encrypted)
}

fn body(len: u64) -> Bytes {
    (0..len).map(|at| (at % 251) as u8).collect::<Vec<_>>().into()
}

fn is_corrupt<T: std::fmt::Debug>(outcome: Result<T>) -> bool {
    matches!(outcome, Err(Error::Corrupt { .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_every_promise() {
    let (_, store) = world();
    probe(&store).await.unwrap();
    suite::run(Arc::new(store)).await;
}

#[tokio::test]
async fn a_read_is_one_request_for_the_frames_that_cover_it() {
    let raw = Arc::new(Metered::new(MemoryStore::new()));
    let store = over(raw.clone(), &[ONE]);
    let plain = body(10 * PLAIN + 7);
    store.put("k", plain.clone()).await.unwrap();
    for range in
        [0..1, 5..PLAIN, PLAIN..3 * PLAIN, 2 * PLAIN - 1..2 * PLAIN + 1, 9 * PLAIN..u64::MAX]
    {
        let before = raw.counts();
        let end = range.end.min(plain.len() as u64);
        let got = store.get("k", Some(range.clone())).await.unwrap();
        assert_eq!(got, plain.slice(range.start as usize..end as usize), "{range:?}");
        let done = raw.counts().since(&before);
        let frames = end.div_ceil(PLAIN) - range.start / PLAIN;
        assert_eq!(done.requests(), 1, "{range:?}");
        assert!(done.get.bytes <= frames * STORED + 1, "{range:?}: {}", done.get.bytes);
    }
}

#[tokio::test]
async fn nothing_plain_is_stored_and_two_writings_share_no_bytes() {
    let (raw, store) = world();
    store.put("k", Bytes::from_static(b"a secret")).await.unwrap();
    let first = raw.get("k", None).await.unwrap();
    store.put("k", Bytes::from_static(b"a secret")).await.unwrap();
    let second = raw.get("k", None).await.unwrap();
    assert_eq!(first.len() as u64, 8 + OVERHEAD);
    assert!(!first.windows(8).any(|part| part == b"a secret"));
    assert_ne!(first[1..], second[1..]);
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_damage() {
    let (raw, store) = world();
    let plain = body(PLAIN + 20);
    store.put("k", plain.clone()).await.unwrap();
    let stored = raw.get("k", None).await.unwrap();
    // All of the lead and the tag, and some of the content, of both frames.
    let interesting = (0..60).chain((STORED - 40..STORED + 60).step_by(1)).chain([1_000, 60_000]);
    for at in interesting {
        let mut bytes = stored.to_vec();
        bytes[at as usize] ^= 4;
        raw.put("k", bytes.into()).await.unwrap();
        let outcome = store.get("k", None).await;
        match at % STORED {
            // The id of a key that there is not.
            0 => assert!(matches!(outcome, Err(Error::KeyMissing { id: 5, .. })), "{at}"),
            _ => assert!(is_corrupt(outcome), "byte {at}"),
        }
        let other = if at < STORED { PLAIN..PLAIN + 20 } else { 0..PLAIN };
        let intact = store.get("k", Some(other.clone())).await.unwrap();
        assert_eq!(intact, plain.slice(other.start as usize..other.end as usize));
    }
}

#[tokio::test]
async fn cutting_extending_reordering_and_moving_are_damage() {
    let (raw, store) = world();
    for len in [0, 1, 20, PLAIN, PLAIN + 20, 3 * PLAIN] {
        store.put("k", body(len)).await.unwrap();
        let stored = raw.get("k", None).await.unwrap();
        for cut in [0, 1, OVERHEAD, STORED, 2 * STORED, stored.len() as u64 - 1] {
            if cut >= stored.len() as u64 {
                continue;
            }
            raw.put("k", stored.slice(..cut as usize)).await.unwrap();
            assert!(is_corrupt(store.get("k", None).await), "{len} bytes cut to {cut}");
            let all = store.get("k", Some(0..len.max(1))).await;
            assert!(is_corrupt(all), "{len} bytes cut to {cut}, as a range");
            let beyond = store.get("k", Some(10 * PLAIN..11 * PLAIN)).await;
            assert!(is_corrupt(beyond), "{len} bytes cut to {cut}, beyond");
        }
        for more in [&b"x"[..], &stored[..OVERHEAD as usize], &stored[..]] {
            raw.put("k", [&stored[..], more].concat().into()).await.unwrap();
            assert!(is_corrupt(store.get("k", None).await), "{len} bytes and {} more", more.len());
            let last = len.saturating_sub(1)..len + 1;
            assert!(is_corrupt(store.get("k", Some(last)).await), "{len} and {}", more.len());
        }
        raw.put("other", stored).await.unwrap();
        assert!(is_corrupt(store.get("other", None).await), "moved to another key");
    }
    store.put("k", body(3 * PLAIN)).await.unwrap();
    let stored = raw.get("k", None).await.unwrap();
    let frame = |n: usize| &stored[n * STORED as usize..(n + 1) * STORED as usize];
    for order in [[1, 0, 2], [0, 0, 2], [0, 2, 1], [2, 1, 0]] {
        raw.put("k", order.map(frame).concat().into()).await.unwrap();
        assert!(is_corrupt(store.get("k", None).await), "{order:?}");
    }
    store.put("k", body(3 * PLAIN)).await.unwrap();
    let newer = raw.get("k", None).await.unwrap();
    let mixed = [&newer[..STORED as usize], &stored[STORED as usize..]].concat();
    raw.put("k", mixed.into()).await.unwrap();
    assert!(is_corrupt(store.get("k", None).await), "frames of two writings");
}

#[tokio::test]
async fn sizes_are_plain_ones_and_impossible_ones_are_damage() {
    let (raw, store) = world();
    for (n, len) in [0, 1, PLAIN, PLAIN + 1].into_iter().enumerate() {
        let key = format!("s/{n}");
        store.put(&key, body(len)).await.unwrap();
        assert_eq!(store.head(&key).await.unwrap().size, len);
        assert_eq!(store.list("s/", None, 10).await.unwrap()[n].size, len);
    }
    raw.put("s/0", body(5)).await.unwrap();
    assert!(is_corrupt(store.head("s/0").await));
    let listed = store.list("s/", None, 10).await.unwrap();
    assert_eq!((listed.len(), listed[0].size), (4, 0), "the others are still found");
    store.delete("s/0").await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_not_at_hand_is_named_and_rotation_keeps_the_old() {
    let (raw, old) = world();
    old.put("old", "before".into()).await.unwrap();
    let both = over(raw.clone(), &[ONE, TWO]);
    both.put("new", "after".into()).await.unwrap();
    assert_eq!(both.get("old", None).await.unwrap(), "before");
    assert_eq!(both.get("new", None).await.unwrap(), "after");
    let error = old.get("new", None).await.unwrap_err();
    assert!(error.to_string().contains("key id 2"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(is_corrupt(over(raw, &[OTHER_ONE]).get("old", None).await));
}

#[tokio::test]
async fn who_only_reads_stores_nothing() {
    let raw = Arc::new(MemoryStore::new());
    let view = |keys: &[&str]| {
        let keys = (!keys.is_empty()).then(|| ring(keys));
        unlock_to_read(raw.clone(), keys, Arc::new(SystemEntropy))
    };
    view(&[ONE]).await.unwrap();
    assert!(raw.get(MARK_KEY, None).await.is_err(), "no mark was made");
    unlocked(&raw, &[ONE]).await.unwrap().put("homes/a", "x".into()).await.unwrap();
    // With a key that no server has used yet: those that do not have it must still start.
    assert_eq!(view(&[ONE, TWO]).await.unwrap().get("homes/a", None).await.unwrap(), "x");
    unlocked(&raw, &[ONE]).await.unwrap();
    assert!(told(view(&[]).await).contains("--encryption-key-file"));
}

#[tokio::test]
async fn a_create_repeated_by_another_process_is_settled_by_what_it_says() {
    let (raw, store) = world();
    store.create("k", "nonce 1".into()).await.unwrap();
    let rotated = over(raw, &[ONE, TWO]);
    rotated.create("k", "nonce 1".into()).await.unwrap();
    let other = rotated.create("k", "nonce 2".into()).await;
    assert!(matches!(other, Err(Error::Exists { .. })));
    assert_eq!(store.get("k", None).await.unwrap(), "nonce 1");
}

async fn unlocked(raw: &Arc<MemoryStore>, keys: &[&str]) -> Result<Arc<dyn ObjectStore>> {
    let keys = (!keys.is_empty()).then(|| ring(keys));
    unlock(raw.clone(), keys, Arc::new(SystemEntropy)).await
}

fn told(outcome: Result<Arc<dyn ObjectStore>>) -> String {
    let error = outcome.expect_err("it is refused");
    assert!(matches!(error, Error::Unusable { .. }), "{error}");
    let text = error.to_string();
    assert!(!text.contains("0102"), "no key is shown: {text}");
    text
}

#[tokio::test]
async fn an_encrypted_store_opens_with_its_keys_only() {
    let raw = Arc::new(MemoryStore::new());
    unlocked(&raw, &[ONE]).await.unwrap().put("homes/a", "x".into()).await.unwrap();
    assert_eq!(unlocked(&raw, &[ONE]).await.unwrap().get("homes/a", None).await.unwrap(), "x");
    assert!(told(unlocked(&raw, &[]).await).contains("--encryption-key-file"));
    assert!(told(unlocked(&raw, &[OTHER_ONE]).await).contains("key 1 is not the one"));
    assert!(told(unlocked(&raw, &[TWO]).await).contains("ids 1"));
    let rotated = unlocked(&raw, &[ONE, TWO]).await.unwrap();
    assert_eq!(rotated.get("homes/a", None).await.unwrap(), "x");
    assert!(told(unlocked(&raw, &[ONE]).await).contains("ids 2"), "its objects may be anywhere");
    let mark = raw.get(MARK_KEY, None).await.unwrap();
    assert!(
        mark.starts_with(
            br#"{"format":1,"encryption":{"cipher":"xchacha20-poly1305","keys":{"1":""#
        )
    );
}

#[tokio::test]
async fn a_plain_store_stays_plain_also_one_without_a_mark() {
    let raw = Arc::new(MemoryStore::new());
    check_keys(&raw, Some(&ring(&[ONE]))).await.unwrap();
    raw.put("homes/a", "x".into()).await.unwrap();
    assert!(told(unlocked(&raw, &[ONE]).await).contains("not encrypted"));
    raw.delete(MARK_KEY).await.unwrap();
    check_keys(&raw, Some(&ring(&[ONE]))).await.unwrap_err();
    check_keys(&raw, None).await.unwrap();
    assert_eq!(raw.list("", None, 10).await.unwrap().len(), 1, "looking leaves no mark");
    assert_eq!(unlocked(&raw, &[]).await.unwrap().get("homes/a", None).await.unwrap(), "x");
    assert_eq!(raw.get(MARK_KEY, None).await.unwrap(), r#"{"format":1,"encryption":null}"#);
    assert!(told(unlocked(&raw, &[ONE]).await).contains("not encrypted"));
}

#[tokio::test]
async fn a_mark_that_is_damaged_or_of_later_is_refused() {
    let raw = Arc::new(MemoryStore::new());
    raw.put(MARK_KEY, r#"{"format":2,"more":1}"#.into()).await.unwrap();
    assert!(told(unlocked(&raw, &[]).await).contains("newer server"));
    let cipher = r#"{"format":1,"encryption":{"cipher":"rot13","keys":{}}}"#;
    raw.put(MARK_KEY, cipher.into()).await.unwrap();
    assert!(told(unlocked(&raw, &[ONE]).await).contains("rot13"));
    for bad in [&b"{"[..], b"", &[b' '; 20_000]] {
        raw.put(MARK_KEY, Bytes::copy_from_slice(bad)).await.unwrap();
        assert!(is_corrupt(unlocked(&raw, &[]).await));
    }
}

/// Written by the first version. It must be readable for as long as its format is.
#[tokio::test]
async fn an_object_of_the_first_version_still_opens() {
    let (raw, store) = world();
    let golden = include_bytes!("golden-1.bin");
    raw.put("homes/golden", Bytes::from_static(golden)).await.unwrap();
    assert_eq!(store.get("homes/golden", None).await.unwrap(), "written by the first version");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_range_of_any_object_is_what_a_plain_store_gives(
        len in 0..4 * PLAIN,
        start in 0..5 * PLAIN,
        wanted in 0..3 * PLAIN,
        border in 0..4_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_, store) = world();
            let plain = MemoryStore::new();
            // Half of the objects end where a frame does.
            let len = if border < 2 { len / PLAIN * PLAIN } else { len };
            store.put("k", body(len)).await.unwrap();
            plain.put("k", body(len)).await.unwrap();
            let range = Some(start..start + wanted);
            let got = store.get("k", range.clone()).await.unwrap();
            prop_assert_eq!(got, plain.get("k", range).await.unwrap());
            Ok(())
        })?;
    }
}
