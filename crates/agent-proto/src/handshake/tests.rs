use std::sync::atomic::{AtomicU8, Ordering};

use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};

use super::*;

/// Nonces 1…, 2…, 3…
#[derive(Debug, Default)]
struct Counted(AtomicU8);

impl Entropy for Counted {
    fn fill(&self, into: &mut [u8]) {
        into.fill(self.0.fetch_add(1, Ordering::Relaxed) + 1);
    }
}

/// Host and agent meet over a stream in which `to_agent` and `to_host` are left over; then each
/// sends a word, which must arrive unharmed.
async fn meet(to_agent: &[u8], to_host: &[u8]) {
    let (mut host_side, mut agent_side) = duplex(1024 * 1024);
    host_side.write_all(to_agent).await.unwrap();
    agent_side.write_all(to_host).await.unwrap();
    let entropy = Counted::default();
    let pause = Duration::from_millis(50);
    let host_part = async {
        host_repeating(&mut host_side, &entropy, pause).await.unwrap();
        host_side.write_all(b"from the host").await.unwrap();
        let mut word = [0; 14];
        host_side.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"from the agent");
    };
    // An agent whose session ends at once over garbage, as it would with yamux above it.
    let agent_part = async {
        loop {
            agent(&mut agent_side).await.unwrap();
            let mut word = [0; 13];
            agent_side.read_exact(&mut word).await.unwrap();
            if &word == b"from the host" {
                break agent_side.write_all(b"from the agent").await.unwrap();
            }
        }
    };
    tokio::join!(host_part, agent_part);
}

#[tokio::test]
async fn two_sides_meet_on_a_clean_stream() {
    meet(b"", b"").await;
}

#[tokio::test]
async fn stale_bytes_are_discarded_on_both_sides() {
    meet(&[0x44; 70_000], &vec![0x44; 200_000]).await;
    meet(b"DMH", b"DMA").await;
    meet(b"DDMH1DMDMH", b"DMA1DMA1\x01\x01\x01DMA").await;
}

#[tokio::test]
async fn a_call_that_was_cut_off_is_not_answered_in_place_of_the_next() {
    meet(b"DMH1\x09\x09\x09\x09\x09", b"").await;
    meet(b"DMH1\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09DM", b"").await;
}

#[tokio::test]
async fn an_answer_to_another_nonce_does_not_count() {
    meet(b"", &hello(AGENT_MAGIC, [9; 16])).await;
}

#[tokio::test]
async fn a_call_of_a_dead_host_delays_the_next_by_one_repetition() {
    meet(&hello(HOST_MAGIC, [9; 16]), b"").await;
}

#[tokio::test]
async fn two_sessions_in_a_row_on_one_stream() {
    let (mut host_side, mut agent_side) = duplex(4096);
    let entropy = Counted::default();
    for word in [b"first", b"again"] {
        let host_part = async {
            host(&mut host_side, &entropy).await.unwrap();
            // Cut off in the middle: the last two bytes stay in the stream.
            host_side.write_all(word).await.unwrap();
        };
        let agent_part = async {
            agent(&mut agent_side).await.unwrap();
            let mut read = [0; 3];
            agent_side.read_exact(&mut read).await.unwrap();
            assert_eq!(read, word[..3]);
            agent_side.write_all(b"unread answer").await.unwrap();
        };
        tokio::join!(host_part, agent_part);
    }
}

#[tokio::test]
async fn endless_garbage_ends_in_an_error() {
    async fn flood(mut side: DuplexStream) {
        while side.write_all(&[0x55; 65_536]).await.is_ok() {}
    }
    let (near, mut far) = duplex(65_536);
    let flooding = tokio::spawn(flood(near));
    let called = agent(&mut far).await;
    assert!(matches!(called, Err(Error::NoHandshake { .. })), "{called:?}");
    drop(far);
    flooding.await.unwrap();

    let (near, mut far) = duplex(65_536);
    let flooding = tokio::spawn(flood(near));
    let met = host(&mut far, &Counted::default()).await;
    assert!(matches!(met, Err(Error::NoHandshake { .. })), "{met:?}");
    drop(far);
    flooding.await.unwrap();
}

#[tokio::test]
async fn a_closed_stream_ends_the_handshake() {
    let (near, mut far) = duplex(64);
    drop(near);
    let met = host(&mut far, &Counted::default()).await;
    assert!(matches!(met, Err(Error::Closed { .. })), "{met:?}");
    assert!(matches!(agent(&mut far).await, Err(Error::Closed { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_stale_bytes_are_discarded(
        to_agent in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"DMHA1"[..])], 0..300),
        to_host in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"DMHA1"[..])], 0..300),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(meet(&to_agent, &to_host));
    }
}
