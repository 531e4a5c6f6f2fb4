//! What a guest's agent may answer to a command, and what is then kept of it.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use agent_proto::mux::{AgentMux, MuxStream};
use agent_proto::{
    AgentClient, Exited, FrameKind, FrameReader, FrameWriter, Reply, Request, handshake,
};
use base::{Entropy, ExecutionId};
use fuse_serve::{Channel, Config, Session, Threads};
use fuzz::{Target, outcome};
use tokio::io::AsyncWriteExt;
use vfs::nullfs::NullFs;

use super::runner::Runner;
use super::{NewExecution, Record, Records, State};
use crate::guest::{Guest, SAID_CHARS_MAX};
use crate::layout::MachineDir;

/// What an execution may hold, besides what it is told: a session, and a record.
const EXECUTION_BYTES_MAX: usize = 6 << 20;

#[derive(Debug)]
struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, into: &mut [u8]) {
        into.fill(0x5a);
    }
}

fn run<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(future)
}

/// An agent that answers every command with these bytes.
async fn answering(stream: tokio::io::DuplexStream, answer: Arc<[u8]>) {
    let mut stream = stream;
    handshake::agent(&mut stream).await.unwrap();
    let mut mux = AgentMux::start(stream);
    while let Ok(stream) = mux.accept().await {
        drop(tokio::spawn(answer_one(stream, answer.clone())));
    }
}

async fn answer_one(stream: MuxStream, answer: Arc<[u8]>) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader);
    let Ok(request) = reader.message::<Request>("request").await else { return };
    if let Request::Exec(_) = request {
        // A host that has enough of it hangs up.
        writer.write_all(&answer).await.ok();
    } else {
        FrameWriter::new(&mut writer).message(&Reply::Done).await.ok();
    }
    writer.shutdown().await.ok();
}

fn examples() -> Vec<Vec<u8>> {
    let exits = [(Some(0), None), (Some(3), None), (None, Some(9))];
    let mut examples: Vec<_> = exits
        .map(|(code, signal)| {
            run(async {
                let mut wire = Vec::new();
                let mut to = FrameWriter::new(&mut wire);
                to.message(&Reply::Started { pid: 417 }).await.unwrap();
                to.frame(FrameKind::Stdout, b"hello\n").await.unwrap();
                to.frame(FrameKind::Stderr, &[b'e'; 700]).await.unwrap();
                let exited = Exited { code, signal, timed_out: false };
                to.json(FrameKind::Exit, &exited).await.unwrap();
                wire
            })
        })
        .to_vec();
    let refusals = ["no such program: x", &"\x1b[2J long".repeat(2_000)];
    examples.extend(refusals.map(|message| {
        run(async {
            let mut wire = Vec::new();
            let refused = Reply::Failed { errno: Some(2), message: message.to_owned() };
            FrameWriter::new(&mut wire).message(&refused).await.unwrap();
            wire
        })
    }));
    examples
}

#[test]
fn answers_to_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let session = Arc::new(Session::new(Arc::new(NullFs::default()), Config::default()));
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let channel = Channel::serve(session, ours, None, Threads { kept: 1, max: 1 }).unwrap();
    let target = Target {
        name: "agent-execution",
        examples: examples(),
        words: &[b"\"code\":256", b"\"signal\":2147483647", b"\x04\x02\0\0\0{}", b"\x02\0\0\0\0"],
        bytes_max: 48 << 10,
        memory_max: EXECUTION_BYTES_MAX,
    };
    target.run(|input| {
        let dir = MachineDir::new(folder.path());
        let record = run(async {
            let (near, far) = tokio::io::duplex(64 << 10);
            let agent = tokio::spawn(answering(far, input.into()));
            let client = AgentClient::connect(near, &Fixed).await.unwrap();
            let guest = Guest::new(client.clone(), channel.notifier(), 0);
            let clock = Arc::new(base::SystemClock::new());
            let runner = Runner::new(dir.clone(), Arc::new(guest), clock);
            let what = NewExecution { command: vec!["true".to_owned()], ..NewExecution::default() };
            let id = runner.clone().start(ExecutionId::generate(), what).unwrap().id;
            let record = runner.wait(&id, Duration::from_secs(3600)).await.unwrap();
            client.close().await;
            agent.await.unwrap();
            record
        });
        let made = judge(&record, &dir);
        Records::new(&dir, true).remove(&record.id).unwrap();
        vec![made]
    });
}

/// What is kept can be shown, whatever the agent said.
fn judge(record: &Record, dir: &MachineDir) -> u64 {
    assert!(record.state.is_final(), "{record:?}");
    assert!(record.exit_code.is_none_or(|code| (0..=255).contains(&code)), "{record:?}");
    assert!(record.signal.is_none_or(|signal| (1..=64).contains(&signal)), "{record:?}");
    assert!(record.state != State::Succeeded || record.exit_code == Some(0));
    let message = record.error_message.as_deref().unwrap_or_default();
    assert!(message.chars().count() <= 2 * SAID_CHARS_MAX, "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
    let records = Records::new(dir, true);
    let output = records.output(&record.id).unwrap();
    assert_eq!(output.stdout.len() as u64, record.stdout_bytes);
    let events = records.events(&record.id, 0, 10_000).unwrap();
    assert_eq!(events.last().unwrap().state, Some(record.state));
    outcome((&record.error_code, record.exit_code.is_some(), events.len().min(5)))
}
