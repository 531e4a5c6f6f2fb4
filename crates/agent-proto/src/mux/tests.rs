use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::timeout;

use super::*;

fn pair() -> (HostMux, AgentMux) {
    let (near, far) = duplex(32 * 1024);
    (HostMux::start(near), AgentMux::start(far))
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("nothing happened")
}

/// An agent that sends back what it reads on every stream.
async fn echo(mut agent: AgentMux) -> Error {
    loop {
        match agent.accept().await {
            Ok(stream) => {
                drop(tokio::spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(stream);
                    drop(tokio::io::copy(&mut reader, &mut writer).await);
                    drop(writer.shutdown().await);
                }));
            }
            Err(error) => return error,
        }
    }
}

#[tokio::test]
async fn many_streams_carry_their_own_bytes() {
    let (host, agent) = pair();
    let echoing = tokio::spawn(echo(agent));
    let mut tasks = Vec::new();
    for number in 0..100_u8 {
        let host = host.clone();
        tasks.push(tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(host.open().await.unwrap());
            let sent = vec![number; 300_000];
            let (_, read) = tokio::join!(
                async {
                    writer.write_all(&sent).await.unwrap();
                    writer.shutdown().await.unwrap();
                },
                async {
                    let mut read = Vec::new();
                    reader.read_to_end(&mut read).await.unwrap();
                    read
                }
            );
            assert!(read == sent);
        }));
    }
    for task in tasks {
        soon(task).await.unwrap();
    }
    drop(host);
    soon(echoing).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_nobody_reads_does_not_stop_the_others() {
    let (host, agent) = pair();
    drop(tokio::spawn(echo(agent)));
    let mut stuck = host.open().await.unwrap();
    let full = timeout(Duration::from_millis(200), async {
        while stuck.write_all(&[0; 65_536]).await.is_ok() {}
    });
    full.await.unwrap_err();
    let mut other = host.open().await.unwrap();
    other.write_all(b"hello").await.unwrap();
    let mut read = [0; 5];
    soon(other.read_exact(&mut read)).await.unwrap();
}

#[tokio::test]
async fn there_are_only_so_many_streams() {
    let (host, agent) = pair();
    drop(tokio::spawn(echo(agent)));
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = soon(host.open()).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        streams.push(stream);
    }
    assert!(matches!(soon(host.open()).await, Err(Error::TooManyStreams { .. })));
    streams.pop();
    let mut another = soon(host.open()).await.unwrap();
    another.write_all(b"y").await.unwrap();
    assert_eq!(soon(another.read_u8()).await.unwrap(), b'y', "the session goes on");
}

#[tokio::test]
async fn a_host_that_goes_away_ends_every_stream_of_the_agent() {
    let (host, mut agent) = pair();
    let mut stream = host.open().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let mut accepted = agent.accept().await.unwrap();
    drop((host, stream));
    let mut read = Vec::new();
    soon(accepted.read_to_end(&mut read)).await.unwrap();
    assert_eq!(read, b"x");
    assert!(matches!(soon(agent.accept()).await, Err(Error::SessionEnded { .. })));
}

#[tokio::test]
async fn an_agent_that_goes_away_ends_every_stream_of_the_host() {
    let (host, agent) = pair();
    let mut stream = host.open().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    drop(agent);
    let mut read = Vec::new();
    drop(soon(stream.read_to_end(&mut read)).await);
    assert!(matches!(soon(host.ended()).await, Error::SessionEnded { .. }));
    assert!(matches!(soon(host.open()).await, Err(Error::SessionEnded { .. })));
}

#[tokio::test]
async fn an_agent_that_opens_a_stream_ends_its_session() {
    let (near, far) = duplex(32 * 1024);
    let host = HostMux::start(near);
    let mut rogue = Connection::new(far.compat(), config(), Mode::Server);
    let mut stream = std::future::poll_fn(|c| rogue.poll_new_outbound(c)).await.unwrap();
    futures::AsyncWriteExt::write_all(&mut stream, b"let me in").await.unwrap();
    let driving = async {
        while let Some(Ok(_)) = std::future::poll_fn(|c| rogue.poll_next_inbound(c)).await {}
    };
    let (ended, ()) = soon(async { tokio::join!(host.ended(), driving) }).await;
    assert!(ended.to_string().contains("opened a stream"), "{ended}");
}

#[tokio::test]
async fn a_frame_longer_than_the_window_ends_the_session_and_no_other() {
    let (quiet_host, quiet_agent) = pair();
    drop(tokio::spawn(echo(quiet_agent)));
    // A data frame of 512 KiB that opens stream 1: twice the window.
    let (mut near, far) = duplex(1 << 20);
    let mut agent = AgentMux::start(far);
    near.write_all(&[0, 0, 0, 1, 0, 0, 0, 1, 0, 8, 0, 0]).await.unwrap();
    near.write_all(&vec![0; 512 * 1024]).await.unwrap();
    drop(near);
    assert!(matches!(soon(agent.accept()).await, Err(Error::SessionEnded { .. })));

    let mut stream = quiet_host.open().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(soon(stream.read_u8()).await.unwrap(), b'x');
}

#[tokio::test]
async fn a_flood_of_streams_is_bounded() {
    let (near, far) = duplex(1 << 20);
    let mut agent = AgentMux::start(far);
    // Whatever the agent answers is read, so that it is not the one to stop.
    let (mut reader, mut writer) = tokio::io::split(near);
    let flooding = tokio::spawn(async move {
        for id in (1..20_000_u32).step_by(2) {
            let mut open = vec![0, 0, 0, 1];
            open.extend(id.to_be_bytes());
            open.extend([0; 4]);
            writer.write_all(&open).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let answers = tokio::spawn(async move {
        let mut answers = Vec::new();
        drop(reader.read_to_end(&mut answers).await);
        answers.len()
    });
    let mut accepted = Vec::new();
    let ended = loop {
        match soon(agent.accept()).await {
            Ok(stream) => accepted.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(accepted.len(), YAMUX_STREAMS_MAX, "the rest is refused");
    assert!(matches!(ended, Error::SessionEnded { .. }));
    drop(accepted);
    soon(flooding).await.unwrap();
    assert!(soon(answers).await.unwrap() > 12);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_bytes_end_at_most_the_session(
        bytes in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..200),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut near, far) = duplex(1024);
            let agent = tokio::spawn(echo(AgentMux::start(far)));
            near.write_all(&bytes).await.unwrap();
            drop(near);
            soon(agent).await.expect("no panic");

            let (mut near, far) = duplex(1024);
            let host = HostMux::start(far);
            drop(near.write_all(&bytes).await);
            drop(near);
            let ended = soon(host.ended()).await;
            prop_assert!(!ended.to_string().contains("the driver failed"), "{}", ended);
            Ok(())
        })?;
    }
}

/// The smallest frames that there are, on streams that nobody reads: as many as windows let through.
#[test]
fn small_pieces_that_nobody_reads_end_the_session_in_bounded_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (reason, held) = fuzz::most_held(|| {
        runtime.block_on(async {
            let (near, mut far) = duplex(32 * 1024);
            let host = HostMux::start(near);
            let mut streams = Vec::new();
            for _ in 0..8 {
                let mut stream = host.open().await.unwrap();
                stream.write_all(b"?").await.unwrap();
                streams.push(stream);
            }
            let flood = async {
                for id in (1_u32..).step_by(2).take(streams.len()) {
                    let mut frame = vec![0; 4];
                    frame.extend(id.to_be_bytes());
                    frame.extend(1_u32.to_be_bytes());
                    frame.push(b'x');
                    let some = frame.repeat(1024);
                    for _ in 0..256 {
                        // Until the host has had enough.
                        far.write_all(&some).await?;
                    }
                }
                Ok::<_, std::io::Error>(())
            };
            let (_, ended) = tokio::join!(flood, soon(host.ended()));
            ended.to_string()
        })
    });
    assert!(reason.contains("small pieces"), "{reason}");
    assert!(held < 64 << 20, "{held}");
}

#[tokio::test]
async fn an_agent_that_breaks_the_protocol_is_heard_no_more() {
    let pong_that_nobody_asked_for = [0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7];
    let stream_of_the_hosts = [0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
    for violation in [pong_that_nobody_asked_for, stream_of_the_hosts] {
        let (near, mut far) = duplex(1024);
        let host = HostMux::start(near);
        let (mut heard, flood) = tokio::join!(soon(host.ended()), async {
            // It takes some before it has looked at the first, and nothing is lost by that.
            let mut taken = 0;
            while far.write_all(&violation).await.is_ok() && taken < 1000 {
                taken += 1;
            }
            taken
        });
        assert!(flood < 1000, "{violation:?}");
        assert!(matches!(&mut heard, Error::SessionEnded { .. }), "{heard}");
    }
}
