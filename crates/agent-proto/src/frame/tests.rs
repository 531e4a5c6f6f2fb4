use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, duplex};

use super::*;
use crate::{Exec, Exited, Request};

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn read_all(bytes: &[u8]) -> Result<Vec<Frame>, Error> {
    let mut reader = FrameReader::new(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = reader.next().await? {
        frames.push(frame);
    }
    Ok(frames)
}

fn exec_of(bytes: usize) -> Request {
    let env = BTreeMap::from([("BIG".to_owned(), "x".repeat(bytes))]);
    Request::Exec(Exec { command: vec!["true".into()], env, ..Exec::default() })
}

#[tokio::test]
async fn frames_arrive_as_they_were_sent() {
    let (near, far) = duplex(1000);
    let sent = tokio::spawn(async move {
        let mut writer = FrameWriter::new(near);
        writer.frame(FrameKind::Stdout, &[7; FRAME_BYTES_MAX]).await.unwrap();
        writer.frame(FrameKind::Stdin, b"").await.unwrap();
        let exited = Exited { code: Some(3), signal: None, timed_out: false };
        writer.json(FrameKind::Exit, &exited).await.unwrap();
        writer.close().await.unwrap();
    });
    let mut reader = FrameReader::new(far);
    let first = reader.next().await.unwrap().unwrap();
    assert_eq!((first.kind, first.payload.len()), (FrameKind::Stdout, FRAME_BYTES_MAX));
    let second = reader.next().await.unwrap().unwrap();
    assert_eq!((second.kind, second.payload.len()), (FrameKind::Stdin, 0));
    let third = reader.next().await.unwrap().unwrap();
    assert_eq!(third.json::<Exited>("exit").unwrap().code, Some(3));
    assert_eq!(reader.next().await.unwrap(), None);
    sent.await.unwrap();
}

#[tokio::test]
async fn a_request_longer_than_a_frame_spans_several() {
    // Around every border: a message that is a whole number of frames ends with an empty one.
    let overhead = serde_json::to_vec(&exec_of(0)).unwrap().len();
    let at_border = FRAME_BYTES_MAX - overhead;
    for bytes in [0, at_border - 1, at_border, at_border + 1, at_border + FRAME_BYTES_MAX, 200_000]
    {
        let mut wire = Vec::new();
        FrameWriter::new(&mut wire).message(&exec_of(bytes)).await.unwrap();
        let mut reader = FrameReader::new(&wire[..]);
        assert_eq!(reader.message::<Request>("request").await.unwrap(), exec_of(bytes));
        assert_eq!(reader.next().await.unwrap(), None, "nothing is left behind");
    }
}

#[tokio::test]
async fn a_request_above_the_bound_is_refused_on_both_sides() {
    let mut wire = Vec::new();
    let sent = FrameWriter::new(&mut wire).message(&exec_of(REQUEST_BYTES_MAX)).await;
    assert!(matches!(sent, Err(Error::TooLarge { what: "request", .. })));
    assert!(wire.is_empty());

    for _ in 0..=REQUEST_BYTES_MAX / FRAME_BYTES_MAX {
        let mut writer = FrameWriter::new(&mut wire);
        writer.frame(FrameKind::Message, &[b' '; FRAME_BYTES_MAX]).await.unwrap();
    }
    let read = FrameReader::new(&wire[..]).message::<Request>("request").await;
    assert!(matches!(read, Err(Error::TooLarge { what: "request", .. })));
}

#[tokio::test]
async fn an_over_long_frame_is_refused_before_it_is_allocated() {
    let (mut near, far) = duplex(64);
    near.write_all(&[2, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    let mut reader = FrameReader::new(far);
    let read = reader.next().await;
    assert!(matches!(read, Err(Error::TooLarge { bytes: 0xffff_ffff, .. })), "{read:?}");
    assert!(reader.buffer.capacity() < 1024, "{}", reader.buffer.capacity());
}

#[tokio::test]
async fn a_cancelled_read_loses_nothing() {
    let mut wire = Vec::new();
    FrameWriter::new(&mut wire).frame(FrameKind::Stdout, b"dormouse").await.unwrap();
    let (mut near, far) = duplex(64);
    let mut reader = FrameReader::new(far);
    for byte in wire {
        let read = tokio::time::timeout(Duration::from_millis(1), reader.next()).await;
        assert!(read.is_err(), "the frame is not whole yet");
        near.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(reader.next().await.unwrap().unwrap().payload, "dormouse");
}

#[tokio::test]
async fn a_stream_cut_inside_a_frame_is_an_error() {
    let read = read_all(&[2, 5, 0, 0, 0, b'a']).await;
    assert!(matches!(read, Err(Error::Closed { .. })), "{read:?}");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _frames = run(read_all(&bytes));
        let _message = run(FrameReader::new(&bytes[..]).message::<Request>("request"));
    }

    #[test]
    fn plausible_headers_never_panic(
        kind in 0u8..8,
        length in 0u32..200,
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = vec![kind];
        bytes.extend(length.to_le_bytes());
        bytes.extend(payload);
        if let Ok(frames) = run(read_all(&bytes)) {
            let total: usize = frames.iter().map(|f| f.payload.len() + HEADER_BYTES).sum();
            prop_assert_eq!(total, bytes.len(), "every byte belongs to a frame");
        }
    }
}
