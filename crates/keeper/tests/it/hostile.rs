//! Agents that mean harm: what becomes of their keeper and of what their owner wants.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use agent_proto::{Exited, FrameKind, FrameReader, FrameWriter, Reply, Request};
use base::ErrorKind;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use keeper::KeeperState;
use keeper::executions::{OUTPUT_BYTES_MAX, State, TAPS_MAX};
use tokio::io::AsyncWriteExt;
use vfs::path::TreePath;

use crate::guest::{BOOT_TIMEOUT, Machine, Play, Writer, come_up, hello, meet, request};

/// What a keeper may have resident, the guest of these tests included: docs/semantics.md, "Hostile guests".
const BYTES_MAX: u64 = 256 << 20;

fn most_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

async fn put_and_get(machine: &Machine) {
    let path = TreePath::parse(b"file").unwrap();
    let body = futures::stream::once(async { Ok(bytes::Bytes::from_static(b"content")) }).boxed();
    machine.client.put(&path, body, keeper::files::PutOptions::default()).await.unwrap();
    assert_eq!(machine.client.stat(&path).await.unwrap().size, 7);
}

type Control = tokio::net::UnixStream;

#[tokio::test(flavor = "multi_thread")]
async fn noise_in_place_of_an_agent_fails_the_start_and_loses_nothing() {
    fn play(mut control: Control, mut fuse: UnixStream) -> BoxFuture<'static, ()> {
        async move {
            fuse.write_all(&[0xff; 4096]).ok();
            let noise: Vec<u8> = (0..65_536_u32).map(|n| ((n * 31) >> 3) as u8).collect();
            while control.write_all(&noise).await.is_ok() {}
        }
        .boxed()
    }
    let words = Machine::begin(play).await.end().await;
    let (kind, message) = words.error.unwrap();
    assert_eq!(kind, ErrorKind::Unreachable);
    assert!(message.contains("handshake"), "{message}");
    assert!(words.released && most_resident() < BYTES_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_says_of_its_troubles_is_cut_short() {
    fn no_home(control: Control, _: UnixStream) -> BoxFuture<'static, ()> {
        let detail = Some("\x1b[2J no home ".repeat(12_000));
        let hello = agent_proto::Hello { home_mounted: false, detail, ..hello() };
        answer(control, [Reply::Hello(hello), Reply::Done]).boxed()
    }
    fn no_clock(control: Control, _: UnixStream) -> BoxFuture<'static, ()> {
        let message = "\x1b[2J no home ".repeat(12_000);
        answer(control, [Reply::Hello(hello()), Reply::Failed { errno: None, message }]).boxed()
    }
    for play in [no_home, no_clock] {
        let (_, message) = Machine::begin(play).await.end().await.error.unwrap();
        assert!(message.contains("no home") && message.len() < 500, "{message}");
        assert!(!message.contains(char::is_control), "{message:?}");
    }
}

async fn answer(control: Control, replies: [Reply; 2]) {
    let mut mux = meet(control).await;
    for reply in replies {
        let (_, mut writer) = request(&mut mux).await;
        writer.message(&reply).await.ok();
    }
    std::future::pending::<()>().await;
}

/// It comes up, and says nothing more.
fn silent(control: Control, fuse: UnixStream) -> BoxFuture<'static, ()> {
    async move {
        let mut mux = meet(control).await;
        come_up(&mut mux).await;
        let _held = (mux, fuse);
        std::future::pending::<()>().await;
    }
    .boxed()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_for_room_while_its_home_is_taken_ends() {
    let machine = Machine::running(silent).await;
    put_and_get(&machine).await;
    let told = machine.client.stop(false).await.unwrap();
    assert_eq!(
        told.state,
        KeeperState::Stopping,
        "who asks next must not take it for one that stays"
    );
    let _taken = machine.take_home().await;
    // It is asked already when it is to be woken, and says nothing.
    machine.waits_for_room.send_replace(true);
    let (kind, message) = machine.end().await.error.unwrap();
    assert!(kind == ErrorKind::Fenced && message.contains("another server"), "{kind:?} {message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_still_boots_while_its_home_is_taken_ends() {
    fn play(control: Control, fuse: UnixStream) -> BoxFuture<'static, ()> {
        async move {
            let _held = (control, fuse);
            std::future::pending::<()>().await;
        }
        .boxed()
    }
    let machine = Machine::begin(play).await;
    machine.until_files().await;
    let _taken = machine.take_home().await;
    let begun = Instant::now();
    // What is written here finds out.
    put_and_get(&machine).await;
    let (kind, message) = machine.end().await.error.unwrap();
    assert!(kind == ErrorKind::Fenced && message.contains("another server"), "{kind:?} {message}");
    assert!(begun.elapsed() < BOOT_TIMEOUT / 2, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_falls_silent_is_put_to_sleep_with_all_that_its_owner_wrote() {
    let machine = Machine::running(silent).await;
    put_and_get(&machine).await;
    let _waits = machine.start().await;
    let begun = Instant::now();
    let words = machine.sleep().await;
    assert!(words.released && words.error.is_none(), "{words:?}");
    // Ends of commands 10 s, a wish 2 s, a word 15 s; and as long again for a host that does other work.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_opens_a_stream_loses_its_session_and_its_machine_obeys() {
    fn play(control: Control, fuse: UnixStream) -> BoxFuture<'static, ()> {
        async move {
            let mut beside = UnixStream::from(control.as_fd().try_clone_to_owned().unwrap());
            let mut mux = meet(control).await;
            come_up(&mut mux).await;
            let _command = request(&mut mux).await;
            // A window update with SYN, for the first stream of an agent's.
            beside.write_all(&[0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]).unwrap();
            let _held = (mux, fuse);
            std::future::pending::<()>().await;
        }
        .boxed()
    }
    let machine = Machine::running(play).await;
    let record = machine.run().await;
    assert_eq!(record.state, State::Failed);
    assert_eq!(record.error_code.as_deref(), Some("MACHINE_STOPPED"));
    put_and_get(&machine).await;
    let begun = Instant::now();
    assert!(machine.sleep().await.released);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

/// Four GiB are announced on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_read_and_written_where_its_port_is_lied_to() {
    fn play(control: Control, mut fuse: UnixStream) -> BoxFuture<'static, ()> {
        async move {
            let mut mux = meet(control).await;
            come_up(&mut mux).await;
            fuse.write_all(&u32::MAX.to_ne_bytes()).unwrap();
            drop(std::thread::spawn(move || while fuse.write_all(&[0xff; 65_536]).is_ok() {}));
            obey(mux).await;
        }
        .boxed()
    }
    its_owner_is_served(play).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_read_and_written_where_its_guest_reads_no_answer() {
    fn play(control: Control, mut fuse: UnixStream) -> BoxFuture<'static, ()> {
        async move {
            let mut mux = meet(control).await;
            come_up(&mut mux).await;
            // GETATTR of the root, as often as it is taken.
            let mut ask = Vec::new();
            [56_u32, 3].iter().for_each(|number| ask.extend(number.to_ne_bytes()));
            [7_u64, 1].iter().for_each(|number| ask.extend(number.to_ne_bytes()));
            ask.resize(56, 0);
            let asks = ask.repeat(1000);
            drop(std::thread::spawn(move || while fuse.write_all(&asks).is_ok() {}));
            obey(mux).await;
        }
        .boxed()
    }
    its_owner_is_served(play).await;
}

async fn its_owner_is_served(play: Play) {
    let machine = Machine::running(play).await;
    // In this order: a command waits until the guest has heard what was changed.
    assert_eq!(machine.run().await.state, State::Succeeded);
    put_and_get(&machine).await;
    let words = machine.sleep().await;
    assert!(words.released && words.error.is_none(), "{words:?}");
    assert!(most_resident() < BYTES_MAX, "{}", most_resident());
}

/// Output in the smallest pieces, without an end, to clients who do not read.
#[tokio::test(flavor = "multi_thread")]
async fn output_that_nobody_reads_stays_within_the_memory_of_a_keeper() {
    fn play(control: Control, fuse: UnixStream) -> BoxFuture<'static, ()> {
        let say = |mut writer: Writer| async move {
            while writer.frame(FrameKind::Stdout, b"y").await.is_ok() {}
        };
        run_commands(control, fuse, say).boxed()
    }
    let machine = Machine::running(play).await;
    let mut clients = Vec::new();
    for _ in 0..24 {
        let id = machine.start().await;
        clients.push(machine.client.attach(&id).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(8)).await;
    put_and_get(&machine).await;
    assert!(most_resident() < BYTES_MAX, "{}", most_resident());
    assert!(machine.sleep().await.released);
}

/// A guest whose commands do this once they have started.
async fn run_commands<F: Future<Output = ()> + Send + 'static>(
    control: Control,
    fuse: UnixStream,
    run: impl Fn(Writer) -> F + Send,
) {
    let mut mux = meet(control).await;
    come_up(&mut mux).await;
    let _held = fuse;
    loop {
        let (request, mut writer) = request(&mut mux).await;
        if !matches!(request, Request::Exec(_)) {
            writer.message(&Reply::Done).await.ok();
            continue;
        }
        writer.message(&Reply::Started { pid: 7 }).await.ok();
        drop(tokio::spawn(run(writer)));
    }
}

/// Commands that say so many bytes on each stream, and then nothing for ever.
async fn say_and_stay(control: Control, fuse: UnixStream, bytes: u64) {
    let say = move |mut writer: Writer| async move {
        let piece = vec![b'y'; agent_proto::FRAME_BYTES_MAX];
        for kind in [FrameKind::Stdout, FrameKind::Stderr] {
            for _ in 0..bytes / piece.len() as u64 {
                writer.frame(kind, &piece).await.ok();
            }
        }
        std::future::pending::<()>().await;
    };
    run_commands(control, fuse, say).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_clients_who_do_not_read_is_not_in_memory() {
    fn play(control: Control, fuse: UnixStream) -> BoxFuture<'static, ()> {
        say_and_stay(control, fuse, OUTPUT_BYTES_MAX).boxed()
    }
    let machine = Machine::running(play).await;
    let id = machine.start().await;
    let mut reader = FrameReader::new(machine.client.attach(&id).await.unwrap());
    let mut left = 2 * OUTPUT_BYTES_MAX;
    while left > 0 {
        left -= reader.next().await.unwrap().unwrap().payload.len() as u64;
    }
    let mut clients = Vec::new();
    for _ in 0..48 {
        clients.push(machine.client.attach(&id).await.unwrap());
    }
    put_and_get(&machine).await;
    assert!(most_resident() < BYTES_MAX, "{}", most_resident());
    // It is all there for whoever reads it later.
    let mut reader = FrameReader::new(clients.pop().unwrap());
    for kind in [FrameKind::Stdout, FrameKind::Stderr] {
        let mut left = OUTPUT_BYTES_MAX;
        while left > 0 {
            let frame = reader.next().await.unwrap().unwrap();
            assert_eq!(frame.kind, kind);
            left -= frame.payload.len() as u64;
        }
    }
    assert!(machine.sleep().await.released);
}

/// Who has left a command that says nothing has no place any more.
#[tokio::test(flavor = "multi_thread")]
async fn so_many_clients_are_attached_and_no_more_until_one_leaves() {
    fn play(control: Control, fuse: UnixStream) -> BoxFuture<'static, ()> {
        say_and_stay(control, fuse, 0).boxed()
    }
    let machine = Machine::running(play).await;
    let ids = [machine.start().await, machine.start().await];
    let mut clients = Vec::new();
    for n in 0..TAPS_MAX {
        clients.push(machine.client.attach(&ids[n % 2]).await.unwrap());
    }
    let refused = machine.client.attach(&ids[0]).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::TooMany);
    assert!(refused.message.contains("close one of them"), "{}", refused.message);
    let again = async || {
        let attached = async {
            loop {
                match machine.client.attach(&ids[0]).await {
                    Ok(client) => return client,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), attached).await.expect("its place is taken")
    };
    drop(clients.pop());
    clients.push(again().await);
    // One that sent more than its command reads, too.
    clients.clear();
    let reads = machine.start_with_input().await;
    for _ in 0..TAPS_MAX {
        clients.push(machine.client.attach(&reads).await.unwrap());
    }
    let mut writer = FrameWriter::new(clients.pop().unwrap());
    let piece = vec![b'y'; agent_proto::FRAME_BYTES_MAX];
    let sends = async { while writer.frame(FrameKind::Stdin, &piece).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(3), sends).await.expect_err("somebody reads it all");
    machine.client.attach(&reads).await.unwrap_err();
    drop(writer);
    again().await;
    assert!(machine.sleep().await.released);
}

/// Does what it is told, and does it at once.
async fn obey(mut mux: agent_proto::mux::AgentMux) {
    loop {
        let (request, mut writer) = request(&mut mux).await;
        let said = match request {
            Request::Hello => writer.message(&Reply::Hello(hello())).await,
            Request::Exec(_) => succeed(&mut writer).await,
            _ => writer.message(&Reply::Done).await,
        };
        said.unwrap();
        writer.close().await.ok();
    }
}

async fn succeed(
    writer: &mut FrameWriter<impl tokio::io::AsyncWrite + Unpin>,
) -> Result<(), agent_proto::Error> {
    writer.message(&Reply::Started { pid: 7 }).await?;
    writer.json(FrameKind::Exit, &Exited { code: Some(0), signal: None, timed_out: false }).await
}
