//! What a hostile peer may send, as far as this crate reads it: frames, messages, the handshake, and
//! whole sessions, which a guest's bytes reach only behind a handshake and a mux.

mod replay;

use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base::Entropy;
use fuzz::{Target, outcome};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, duplex};

use self::replay::{Recorder, Replay};
use crate::mux::AgentMux;
use crate::{
    AgentClient, Configure, Error, Exec, Exited, Frame, FrameKind, FrameReader, FrameWriter, Hello,
    Output, PROTOCOL_VERSION, REQUEST_BYTES_MAX, Reply, Request, Signal, handshake,
};

/// What JSON costs while it is read: a short value of two bytes becomes one of 32.
const JSON_FACTOR: usize = 24;
/// What yamux may hold: a frame of 1 MiB and what is buffered of it.
const SESSION_BYTES_MAX: usize = 6 << 20;

/// Always the same, so that the handshake of a recording fits.
#[derive(Debug)]
struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, into: &mut [u8]) {
        into.fill(0x5a);
    }
}

/// A stream that gives so many bytes at a time.
struct Pieces<'a>(&'a [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let len = self.0.len().min(self.1).min(into.remaining());
        let (now, later) = self.0.split_at(len);
        into.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

/// Runs a future on this thread, on a clock that does not wait.
fn run<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(future)
}

/// The kind of an error, without what differs from input to input.
fn kind(error: &Error) -> u64 {
    let of = match error {
        Error::Decode { source, .. } => format!("{:?}", source.classify()),
        Error::Io { source, .. } => format!("{:?}", source.kind()),
        Error::SessionEnded { reason } => reason.chars().take_while(|c| !c.is_numeric()).collect(),
        _ => String::new(),
    };
    outcome((std::mem::discriminant(error), of))
}

fn made<T: Hash>(of: Result<T, Error>) -> u64 {
    of.map_or_else(|error| kind(&error), outcome)
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        version: "0.1.0".to_owned(),
        uptime_ms: 1_470,
        home_mounted: true,
        unconfigured: true,
        detail: None,
    }
}

fn replies() -> Vec<Reply> {
    vec![
        Reply::Hello(hello()),
        Reply::Done,
        Reply::Failed { errno: Some(2), message: "no such program: x".to_owned() },
        Reply::Started { pid: 417 },
        Reply::WakeAt { unix_seconds: Some(1_800_000_000) },
        Reply::WakeAt { unix_seconds: None },
    ]
}

/// What an agent sends on the stream of a command.
async fn say_execution(to: &mut FrameWriter<impl tokio::io::AsyncWrite + Unpin>) {
    to.message(&Reply::Started { pid: 417 }).await.unwrap();
    to.frame(FrameKind::Stdout, b"hello\n").await.unwrap();
    to.frame(FrameKind::Stderr, &[b'e'; 700]).await.unwrap();
    let exited = Exited { code: Some(0), signal: None, timed_out: false };
    to.json(FrameKind::Exit, &exited).await.unwrap();
}

#[test]
fn frames() {
    let mut examples: Vec<Vec<u8>> = Vec::new();
    run(async {
        let mut wire = Vec::new();
        say_execution(&mut FrameWriter::new(&mut wire)).await;
        examples.push(wire);
        for reply in replies() {
            let mut wire = Vec::new();
            FrameWriter::new(&mut wire).message(&reply).await.unwrap();
            examples.push(wire);
        }
    });
    let target = Target {
        name: "agent-frames",
        examples,
        words: &[b"\x00\x00\x00\x01\x00", b"\x02\xff\xff\xff\xff", b"\x04\x02\0\0\0{}"],
        bytes_max: 128 << 10,
        memory_max: 2 * REQUEST_BYTES_MAX + JSON_FACTOR * (128 << 10),
    };
    target.run(|input| {
        let mut made = Vec::new();
        for at_once in [1, 7, usize::MAX] {
            let mut reader = FrameReader::new(Pieces(input, at_once));
            let end = loop {
                match run(reader.next()) {
                    Ok(Some(frame)) => made.push(of_frame(&frame)),
                    Ok(None) => break 0,
                    Err(error) => break kind(&error),
                }
            };
            made.push(end);
        }
        // Taken to pieces in whatever way, it says the same.
        let len = made.len() / 3;
        assert!(made[..len] == made[len..2 * len] && made[..len] == made[2 * len..]);
        let message = run(FrameReader::new(Pieces(input, 4096)).message::<Reply>("reply"));
        made.push(self::made(message.map(|reply| std::mem::discriminant(&reply))));
        made
    });
}

fn of_frame(frame: &Frame) -> u64 {
    let length = frame.payload.len().checked_ilog2();
    let exited = frame.json::<Exited>("exit").map(|exited| exited.timed_out).ok();
    let signal = frame.json::<Signal>("signal").is_ok();
    outcome((frame.kind as u8, length, exited, signal))
}

#[test]
fn messages() {
    let mut examples: Vec<Vec<u8>> =
        replies().iter().map(|reply| serde_json::to_vec(reply).unwrap()).collect();
    let exited = [(Some(0), None), (None, Some(9))];
    examples.extend(exited.map(|(code, signal)| {
        serde_json::to_vec(&Exited { code, signal, timed_out: false }).unwrap()
    }));
    let request = Request::Freeze { patience_ms: 10_000 };
    examples.push(serde_json::to_vec(&request).unwrap());
    let target = Target {
        name: "agent-messages",
        examples,
        words: &[b"\"reply\":", b"\"started\"", b"{\"a\":", b"[[[[[[[[", b"\\ud800", b"1e400"],
        bytes_max: 16 << 10,
        memory_max: (64 << 10) + JSON_FACTOR * (16 << 10),
    };
    target.run(|input| {
        let reply = serde_json::from_slice::<Reply>(input);
        let exited = serde_json::from_slice::<Exited>(input);
        let request = serde_json::from_slice::<Request>(input);
        vec![
            outcome(
                reply.map(|reply| std::mem::discriminant(&reply)).map_err(|e| e.classify() as u8),
            ),
            outcome(
                exited
                    .map(|e| (e.code.is_some(), e.signal.is_some()))
                    .map_err(|e| e.classify() as u8),
            ),
            outcome(request.map(|of| std::mem::discriminant(&of)).map_err(|e| e.classify() as u8)),
        ]
    });
}

#[test]
fn handshake_of_the_host() {
    let answer = [&b"DMA1"[..], &[0x5a; 16]].concat();
    let mut examples =
        vec![answer.clone(), [&b"what an earlier session left DMA1\x5a"[..], &answer].concat()];
    examples.push([&answer[..19], &answer[..], b"and what follows"].concat());
    let target = Target {
        name: "agent-handshake",
        examples,
        words: &[b"DMA1", b"DMH1", b"DM", &[0x5a; 16]],
        bytes_max: 4096,
        memory_max: 256 << 10,
    };
    target.run(|input| {
        let made = run(async {
            let (near, far) = duplex(64);
            let (_, mut to_host) = tokio::io::split(far);
            let mut stream = tokio::io::join(near, tokio::io::sink());
            let say = async {
                // A host that has met its agent reads no more.
                to_host.write_all(input).await.ok();
                to_host.shutdown().await.ok();
            };
            let met = async {
                handshake::host(&mut stream, &Fixed).await.map_err(|error| kind(&error))?;
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.unwrap();
                Ok::<_, u64>(rest)
            };
            tokio::join!(say, met).1
        });
        // It stands behind the answer, and has not lost a byte of what follows.
        let found = input.windows(answer.len()).position(|piece| piece == answer);
        match (&made, found) {
            (Ok(rest), Some(at)) => assert!(input[at + answer.len()..] == rest[..], "{at}"),
            (Err(_), None) => {}
            _ => panic!("{made:?} with an answer at {found:?}"),
        }
        vec![outcome(made.map(|rest| rest.len().checked_ilog2()))]
    });
}

#[test]
fn sessions() {
    let target = Target {
        name: "agent-session",
        examples: vec![record(), record_a_shy_agent()],
        words: &[b"\0\0\0\0", b"\0\x01\0\x01\0\0\0\x01", b"\0\x03\0\0", b"\0\0\0\x02"],
        bytes_max: 64 << 10,
        memory_max: SESSION_BYTES_MAX,
    };
    target.run(|input| run(converse(Replay::new(input))));
}

/// All that a keeper asks an agent, and what comes of it.
async fn converse(stream: Replay) -> Vec<u64> {
    let mut said = Vec::new();
    // As long as a boot may take: time costs nothing here.
    let meeting =
        tokio::time::timeout(Duration::from_secs(600), AgentClient::connect(stream, &Fixed));
    let agent = match meeting.await {
        Ok(Ok(agent)) => agent,
        Ok(Err(error)) => return vec![kind(&error)],
        Err(_) => return vec![0],
    };
    said.push(made(agent.hello().await.map(|hello| (hello.home_mounted, hello.detail.is_some()))));
    said.push(made(agent.configure(&Configure::default()).await));
    said.push(made(agent.barrier(3).await));
    said.push(made(agent.wake_at().await.map(|wish| wish.is_some())));
    let exec = Exec { command: vec!["true".to_owned()], stdin: true, ..Exec::default() };
    match agent.exec(&exec).await {
        Ok(mut execution) => {
            execution.input.stdin(b"input").await.ok();
            loop {
                // A command may be silent for as long as it likes; here it is not waited for.
                let next = tokio::time::timeout(Duration::from_secs(60), execution.output.next());
                match next.await {
                    Ok(Ok(Output::Stdout(bytes))) => {
                        said.push(outcome((1, bytes.len().checked_ilog2())));
                    }
                    Ok(Ok(Output::Stderr(bytes))) => {
                        said.push(outcome((2, bytes.len().checked_ilog2())));
                    }
                    Ok(Ok(Output::Exited(exited))) => {
                        said.push(outcome((3, exited.code.is_some(), exited.signal.is_some())));
                        break;
                    }
                    Ok(Err(error)) => {
                        said.push(kind(&error));
                        break;
                    }
                    Err(_) => {
                        said.push(4);
                        break;
                    }
                }
            }
        }
        Err(error) => said.push(kind(&error)),
    }
    said.push(made(agent.freeze(Duration::from_secs(1)).await));
    said.push(made(agent.thaw(1, "00").await));
    let closed = tokio::time::timeout(Duration::from_secs(60), agent.close()).await;
    assert!(closed.is_ok(), "a session ends when it is told to, whatever the agent does");
    said
}

/// What an agent sends in the conversation above.
fn record() -> Vec<u8> {
    record_with(|request| match request {
        Request::Hello => Reply::Hello(hello()),
        Request::WakeAt => Reply::WakeAt { unix_seconds: Some(1_800_000_000) },
        _ => Reply::Done,
    })
}

/// One that refuses what it can.
fn record_a_shy_agent() -> Vec<u8> {
    record_with(|request| match request {
        Request::Hello => Reply::Hello(hello()),
        _ => Reply::Failed { errno: Some(95), message: "x".repeat(300) },
    })
}

fn record_with(reply: fn(&Request) -> Reply) -> Vec<u8> {
    run(async {
        let (near, far) = duplex(256 << 10);
        let recorder = Recorder::new(near);
        let recording = recorder.recording();
        let agent = tokio::spawn(async move {
            let mut far = far;
            handshake::agent(&mut far).await.unwrap();
            let mut mux = AgentMux::start(far);
            while let Ok(stream) = mux.accept().await {
                drop(tokio::spawn(async move {
                    let (reader, writer) = tokio::io::split(stream);
                    let (mut reader, mut writer) =
                        (FrameReader::new(reader), FrameWriter::new(writer));
                    let Ok(request) = reader.message::<Request>("request").await else { return };
                    match request {
                        Request::Exec(_) => say_execution(&mut writer).await,
                        request => writer.message(&reply(&request)).await.unwrap(),
                    }
                    writer.close().await.ok();
                }));
            }
        });
        converse_recorded(recorder).await;
        agent.await.unwrap();
        Replay::input(&recording.lock().unwrap())
    })
}

/// The conversation, over what writes it down.
async fn converse_recorded(stream: Recorder) {
    let agent = AgentClient::connect(stream, &Fixed).await.unwrap();
    agent.hello().await.unwrap();
    agent.configure(&Configure::default()).await.ok();
    agent.barrier(3).await.ok();
    agent.wake_at().await.ok();
    let exec = Exec { command: vec!["true".to_owned()], stdin: true, ..Exec::default() };
    let mut execution = agent.exec(&exec).await.unwrap();
    execution.input.stdin(b"input").await.ok();
    while !matches!(execution.output.next().await, Ok(Output::Exited(_)) | Err(_)) {}
    agent.freeze(Duration::from_secs(1)).await.ok();
    agent.thaw(1, "00").await.ok();
    agent.close().await;
}

#[test]
fn a_recording_is_what_an_honest_agent_says() {
    let said = run(converse(Replay::new(&record())));
    let honest = outcome((3, true, false));
    assert!(said.contains(&honest), "the command of the recording comes to its end");
    let refused = run(converse(Replay::new(&record_a_shy_agent())));
    assert_ne!(said, refused);
}
