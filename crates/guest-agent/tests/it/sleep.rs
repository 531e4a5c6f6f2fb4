//! Freeze and thaw of real guests.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent_proto::{AgentClient, Error, ExecOutput, Output};
use runtime::{Exit, Network};
use vfs::path::TreePath;
use vfs::path_ops::{self, Last};
use vfs::{FileSystem, memfs::MemFs};

use crate::agent::{code, finish, sh, soon};
use crate::boot::{put, settle, shell};
use crate::guest::{Guest, configure, image};

/// Far more than a busy guest under emulation takes.
const PATIENCE: Duration = Duration::from_secs(50);

/// A file of the home, as the host has it.
fn content(home: &MemFs, path: &str) -> String {
    let path = TreePath::parse(path.as_bytes()).unwrap();
    let Ok(file) = path_ops::stat(home, &path, Last::Follow) else { return String::new() };
    let content = home.read(file.ino, 0, u32::MAX >> 4).unwrap();
    String::from_utf8(content.to_vec()).unwrap()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

async fn thaw(client: &AgentClient, at: Duration) {
    let nanos = i64::try_from(at.as_nanos()).unwrap();
    client.thaw(nanos, &"a5".repeat(32)).await.unwrap();
}

async fn freeze(client: &AgentClient) -> Duration {
    let begun = Instant::now();
    client.freeze(PATIENCE).await.unwrap();
    begun.elapsed()
}

/// Counts what a command says, for as long as it does.
fn listen(mut output: ExecOutput) -> Arc<Mutex<u64>> {
    let heard = Arc::new(Mutex::new(0));
    let hearing = Arc::clone(&heard);
    drop(tokio::spawn(async move {
        while let Ok(Output::Stdout(bytes)) = output.next().await {
            *hearing.lock().unwrap() += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        }
    }));
    heard
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_guest_stands_still_and_goes_on_as_if_nothing_was() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::boot(&image, dir.path(), Network::None).await;
    let counter = "n=0; while :; do n=$((n+1)); echo $$ $n >> /root/counter; done";
    let counter = soon(guest.client.exec(&sh(counter))).await.unwrap();
    let burner = "n=0; while :; do n=$((n+1)); case $n in *00) echo $n;; esac; done";
    let burner = soon(guest.client.exec(&sh(burner))).await.unwrap();
    let burned = listen(burner.output);
    let counted = || content(&guest.home, "counter").lines().count();
    assert_eq!(shell(&guest, "echo old > /root/note; cat /root/note").await, "old");
    until("both have begun", || counted() > 10 && *burned.lock().unwrap() > 10).await;

    let took = freeze(&guest.client).await;
    // What they said before is still on its way.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let requests = guest.session.requests();
    let before = (counted(), *burned.lock().unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((counted(), *burned.lock().unwrap()), before, "no progress");
    assert_eq!(guest.session.requests(), requests, "and no request to the home");
    // Nothing is under way at the host either, and frozen twice is frozen.
    guest.channel.freeze(Duration::from_secs(5)).unwrap();
    guest.channel.thaw();
    // What was changed elsewhere gets to a frozen kernel.
    put(&guest, "note", b"new");
    settle(&guest).await;
    soon(guest.client.freeze(Duration::from_millis(1))).await.unwrap();

    let begun = Instant::now();
    thaw(&guest.client, now() + Duration::from_secs(3600)).await;
    eprintln!("busy guest: frozen in {took:?}, thawed in {:?}", begun.elapsed());
    until("both go on", || counted() > before.0 + 10 && *burned.lock().unwrap() > before.1 + 10)
        .await;
    let date: u64 = shell(&guest, "date +%s").await.parse().unwrap();
    assert_eq!(shell(&guest, "cat /root/note").await, "new");
    let expected = now().as_secs() + 3600;
    assert!((expected - 30..=expected + 30).contains(&date), "{date} is not {expected}");

    shell(&guest, &format!("kill -9 {} {}", counter.pid, burner.pid)).await;
    let text = content(&guest.home, "counter");
    for (line, number) in text.lines().zip(1_u64..) {
        assert_eq!(line, format!("{} {number}", counter.pid));
    }
    soon(guest.client.trim()).await.unwrap();
    assert_eq!(guest.shut_down().await, Exit::PoweredOff);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_session_thaws_what_an_earlier_one_froze() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest::boot(&image, dir.path(), Network::None).await;
    // One that sleeps, and one that is stopped.
    let script = "echo kept > /root/file; exec >/dev/null 2>&1; sleep 1000 & sh -c 'kill -STOP $$' & \
                  until grep -q '^State:.T' /proc/$!/status; do :; done";
    shell(&guest, script).await;
    for _ in 0..5 {
        let took = freeze(&guest.client).await;
        let begun = Instant::now();
        guest = guest.reconnect().await;
        let connected = begun.elapsed();
        thaw(&guest.client, now()).await;
        eprintln!(
            "idle guest: frozen in {took:?}; connected in {connected:?}, thawed {:?} after the beginning",
            begun.elapsed()
        );
        let script = "cat /root/file; cut -d' ' -f2,3 /proc/[0-9]*/stat | grep -E '^\\((sleep|sh\\) T)' | sort";
        assert_eq!(shell(&guest, script).await, "kept\n(sh) T\n(sleep) S");
    }
    // One that is frozen ends as any other does.
    freeze(&guest.client).await;
    assert_eq!(guest.shut_down().await, Exit::PoweredOff);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_ends_a_freeze_and_nothing_else() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::boot(&image, dir.path(), Network::None).await;
    shell(&guest, "echo there > /root/file; true").await;
    for busy in [true, false] {
        guest.channel.freeze(Duration::from_secs(5)).unwrap();
        let mut asking = None;
        if busy {
            let script = "cat /root/file; ls /root/nowhere; date > /root/date; echo went on";
            asking = Some(soon(guest.client.exec(&sh(script))).await.unwrap());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let begun = Instant::now();
        let refused = guest.client.freeze(Duration::from_secs(3)).await.unwrap_err();
        let took = begun.elapsed();
        eprintln!("busy {busy}: after {took:?}: {refused}");
        assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(20), "{took:?}");
        assert!(matches!(refused, Error::Refused { errno: Some(110), .. }), "{refused:?}");
        guest.channel.thaw();
        if let Some(asking) = &mut asking {
            let said = finish(&mut asking.output).await;
            assert!(said.stdout.ends_with("went on\n"), "{said:?}");
        }
        freeze(&guest.client).await;
        thaw(&guest.client, now()).await;
        assert_eq!(shell(&guest, "cat /root/file").await, "there");
    }
    // Nor does it keep a shutdown waiting.
    guest.channel.freeze(Duration::from_secs(5)).unwrap();
    let client = guest.client.clone();
    let freezing = tokio::spawn(async move { client.freeze(PATIENCE).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let client = guest.client.clone();
    let ending = tokio::spawn(async move { client.shutdown(Duration::from_secs(3)).await });
    let refused = soon(freezing).await.unwrap().unwrap_err();
    assert!(matches!(refused, Error::Refused { errno: Some(108), .. }), "{refused:?}");
    guest.channel.thaw();
    ending.await.unwrap().unwrap();
    assert_eq!(guest.ended().await, Exit::PoweredOff);
}

#[tokio::test(flavor = "multi_thread")]
async fn freezing_in_the_middle_of_much_work_loses_nothing() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::boot(&image, dir.path(), Network::None).await;
    // Programs of their own, and many files without: both are in the middle of something always.
    let script = "mkdir $0; cd $0; n=0; until [ -e /root/stop ]; do n=$((n+1)); \
                  echo $0 > f$n; echo $n >> f$n; [ $((n % 20)) = 0 ] && cp f$n copy; done; \
                  echo $n > /root/$0-made";
    let mut workers = Vec::new();
    for number in 0..4 {
        let mut exec = sh(script);
        exec.command.push(format!("w{number}"));
        exec.cwd = None;
        workers.push(soon(guest.client.exec(&exec)).await.unwrap());
    }
    let mut times = Vec::new();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let took = freeze(&guest.client).await;
        guest.channel.freeze(Duration::from_secs(5)).unwrap();
        let requests = guest.session.requests();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(guest.session.requests(), requests);
        guest.channel.thaw();
        let begun = Instant::now();
        thaw(&guest.client, now()).await;
        times.push((took, begun.elapsed()));
    }
    times.sort();
    eprintln!(
        "working guest: median freeze {:?}, worst {:?}; a thaw {:?}",
        times[10].0, times[19].0, times[10].1
    );
    shell(&guest, "touch /root/stop").await;
    for (worker, number) in workers.iter_mut().zip(0..) {
        let said = finish(&mut worker.output).await;
        assert_eq!((said.exited, &*said.stderr), (code(0), ""));
        let made: u64 = content(&guest.home, &format!("w{number}-made")).trim().parse().unwrap();
        assert!(made > 20, "worker {number} made {made}");
        for n in 1..=made {
            let file = content(&guest.home, &format!("w{number}/f{n}"));
            assert_eq!(file, format!("w{number}\n{n}\n"));
        }
    }
    assert_eq!(guest.shut_down().await, Exit::PoweredOff);
}

/// As `ssh-keygen -A` would.
const KEYGEN: &str = "mkdir -p /etc/ssh; cat >/usr/local/bin/ssh-keygen <<'END'
#!/bin/sh
key=/etc/ssh/ssh_host_ed25519_key
test -e $key || head -c 99 /dev/urandom | od >$key.new && mv $key.new $key
END
chmod 755 /usr/local/bin/ssh-keygen; ssh-keygen -A; cat /etc/ssh/ssh_host_ed25519_key";

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_held_becomes_another_machine_before_its_processes_go_on() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::boot(&image, dir.path(), Network::None).await;
    let key = shell(&guest, KEYGEN).await;
    guest.configure(&configure("first", 1)).await;
    assert_eq!(
        shell(&guest, "hostname; cat /etc/machine-id").await,
        format!("first\n{}", "01".repeat(16))
    );
    let (was, made) = (
        key,
        "for n in $(seq 300); do [ -e /etc/ssh/ssh_host_ed25519_key ] && break; sleep 0.1; done; cat /etc/ssh/ssh_host_ed25519_key",
    );
    let key = shell(&guest, made).await;
    assert_ne!(key, was, "it is another machine already");
    // It looks all the time who it is.
    let looker = "while :; do echo \"$(cat /etc/machine-id) $(hostname) $(cat /etc/ssh/ssh_host_ed25519_key | cksum)\" >>/root/seen; done 2>/dev/null";
    let looker = soon(guest.client.exec(&sh(looker))).await.unwrap();
    let seen = || content(&guest.home, "seen").lines().count();
    until("it looks", || seen() > 3).await;
    freeze(&guest.client).await;
    let before = seen();
    guest.configure(&configure("second", 2)).await;
    thaw(&guest.client, now()).await;
    until("it looks again", || seen() > before + 3).await;
    assert_ne!(shell(&guest, made).await, key);
    shell(&guest, &format!("kill -9 {}", looker.pid)).await;
    let text = content(&guest.home, "seen");
    let after: Vec<_> = text.lines().skip(before + 1).collect();
    // A line that was being put together when it was held may have begun before.
    let second = "02".repeat(16);
    assert!(
        after.iter().all(|line| line.starts_with(&second) && line.contains(" second ")),
        "{text}"
    );
    assert_eq!(guest.shut_down().await, Exit::PoweredOff);
}
