//! What becomes of commands and sessions when the host goes away or talks nonsense.

use std::io::Write;
use std::time::Duration;

use agent_proto::{FrameKind, FrameWriter};

use crate::agent::{Agent, code, run, sh, soon};

#[tokio::test]
async fn a_command_goes_on_when_its_stream_is_closed() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let dir = tempfile::tempdir().unwrap();
    let done = dir.path().join("done");
    let script =
        format!("head -c 5000000 /dev/zero; sleep 0.2; echo more; touch {}", done.display());
    let execution = soon(client.exec(&sh(&script))).await.unwrap();
    drop(execution);
    soon(async {
        while !done.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(run(&client, &sh("exit 2")).await.exited, code(2));
}

#[tokio::test]
async fn a_command_goes_on_when_its_session_ends_and_another_begins() {
    let agent = Agent::start();
    let dir = tempfile::tempdir().unwrap();
    let done = dir.path().join("done");
    let script = format!("yes | head -c 5000000; sleep 0.2; touch {}", done.display());
    let client = agent.connect().await;
    // In the middle of a transfer: what is under way is left over in the socket.
    let mut execution = soon(client.exec(&sh(&script))).await.unwrap();
    soon(execution.output.next()).await.unwrap();
    drop((execution, client));
    let client = agent.connect().await;
    soon(async {
        while !done.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(run(&client, &sh("echo again")).await.stdout, "again\n");
}

#[tokio::test]
async fn sessions_begin_again_after_nonsense() {
    let agent = Agent::start();
    for nonsense in [&b"DMH1 is not all there is"[..], &[0xff; 5000], &[0; 12_000]] {
        agent.socket.as_ref().unwrap().write_all(nonsense).unwrap();
        let client = agent.connect().await;
        assert_eq!(run(&client, &sh("echo fine")).await.stdout, "fine\n");
    }
}

#[tokio::test]
async fn a_stream_with_nonsense_harms_no_other() {
    let agent = Agent::start();
    let socket = agent.socket.as_ref().unwrap().try_clone().unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut stream = tokio::net::UnixStream::from_std(socket).unwrap();
    soon(agent_proto::handshake::host(&mut stream, &base::SystemEntropy)).await.unwrap();
    let mux = agent_proto::mux::HostMux::start(stream);
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 2, 0, 0, 0, b'{', b'}'], &[9; 70_000]] {
        let mut wrong = mux.open().await.unwrap();
        drop(tokio::io::AsyncWriteExt::write_all(&mut wrong, nonsense).await);
        let mut reader = agent_proto::FrameReader::new(&mut wrong);
        assert!(!matches!(soon(reader.next()).await, Ok(Some(_))), "no answer to nonsense");
    }
    let mut writer = FrameWriter::new(mux.open().await.unwrap());
    writer.frame(FrameKind::Stdout, b"out of place").await.unwrap();

    let (reader, writer) = tokio::io::split(mux.open().await.unwrap());
    let mut writer = FrameWriter::new(writer);
    writer.message(&agent_proto::Request::Hello).await.unwrap();
    let reply = soon(agent_proto::FrameReader::new(reader).message("hello")).await.unwrap();
    assert!(matches!(reply, agent_proto::Reply::Hello(_)), "{reply:?}");
}

#[tokio::test]
async fn the_agent_ends_with_its_socket() {
    let mut agent = Agent::start();
    let client = agent.connect().await;
    soon(client.hello()).await.unwrap();
    drop(client);
    assert_eq!(agent.ended().await, Some(0));
}
