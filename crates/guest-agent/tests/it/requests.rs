use std::time::Duration;

use agent_proto::{Configure, Exec, PROTOCOL_VERSION};
use base::ErrorKind;

use crate::agent::{Agent, finish, run, sh, signal, soon};

#[tokio::test]
async fn hello_says_what_is_there() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let hello = soon(client.hello()).await.unwrap();
    assert_eq!(hello.protocol, PROTOCOL_VERSION);
    assert!(hello.uptime_ms > 0);
    assert!(!hello.home_mounted);
    assert!(hello.detail.is_some());
}

#[tokio::test]
async fn configure_is_checked_before_anything_is_done() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let sound = Configure { hostname: "hello".into(), ..Configure::default() };
    soon(client.configure(&sound)).await.unwrap();
    let wrong = Configure { hostname: "no host name".into(), ..Configure::default() };
    let refused = soon(client.configure(&wrong)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(host_name.trim(), "hello", "outside of a guest nothing is changed");
}

#[tokio::test]
async fn a_barrier_without_a_home_fails() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let refused = soon(client.barrier(1)).await.unwrap_err();
    assert!(refused.to_string().contains("no home"), "{refused}");
}

#[tokio::test]
async fn a_request_of_full_size_gets_through() {
    let agent = Agent::start();
    let client = agent.connect().await;
    // Linux takes at most 128 KiB in one argument, and so many of them.
    let mut exec = sh("echo $#");
    exec.command.push("sh".into());
    exec.command.extend(["x".repeat(100_000), "y".repeat(100_000)]);
    assert_eq!(run(&client, &exec).await.stdout, "2\n");
    let exec = Exec { command: vec!["x".repeat(300_000)], ..Exec::default() };
    assert_eq!(soon(client.exec(&exec)).await.unwrap_err().kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn shutdown_ends_processes_and_then_the_agent() {
    let mut agent = Agent::start();
    let client = agent.connect().await;
    let mut polite = soon(client.exec(&sh("exec sleep 1000"))).await.unwrap();
    let mut stubborn =
        soon(client.exec(&sh("trap '' TERM; echo up; while :; do sleep 0.05; done")))
            .await
            .unwrap();
    // It must have set its trap.
    soon(stubborn.output.next()).await.unwrap();
    let shutdown = client.clone();
    let shutting_down =
        tokio::spawn(async move { shutdown.shutdown(Duration::from_millis(300)).await });
    assert_eq!(finish(&mut polite.output).await.exited, signal(15));
    assert_eq!(finish(&mut stubborn.output).await.exited, signal(9));
    soon(shutting_down).await.unwrap().unwrap();
    drop((client, polite, stubborn));
    assert_eq!(agent.ended().await, Some(0));
}

#[tokio::test]
async fn nothing_is_started_while_shutting_down() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let mut stubborn =
        soon(client.exec(&sh("trap '' TERM; echo up; while :; do sleep 0.05; done")))
            .await
            .unwrap();
    soon(stubborn.output.next()).await.unwrap();
    let shutdown = client.clone();
    let shutting_down =
        tokio::spawn(async move { shutdown.shutdown(Duration::from_secs(2)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(soon(client.exec(&sh("true"))).await.is_err());
    assert!(soon(client.shutdown(Duration::ZERO)).await.is_err(), "one is under way");
    soon(shutting_down).await.unwrap().unwrap();
}

#[tokio::test]
async fn sleep_is_for_guests() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let patience = Duration::from_secs(1);
    for refused in [
        soon(client.trim()).await,
        soon(client.wake_at()).await.map(drop),
        soon(client.freeze(patience)).await,
        soon(client.thaw(1_900_000_000_000_000_000, "00")).await,
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
        assert!(refused.to_string().contains("not in a guest"), "{refused}");
    }
    let wrong = soon(client.thaw(-1, "00")).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::InvalidArgument, "{wrong}");
    assert_eq!(run(&client, &sh("echo on")).await.stdout, "on\n");
}
