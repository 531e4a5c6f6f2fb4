use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_proto::{Error, Exec, Exited, Output};
use base::ErrorKind;

use crate::agent::{Agent, code, finish, run, sh, signal, soon};

#[tokio::test]
async fn output_and_exit_code_arrive() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let said = run(&client, &sh("echo out; echo err >&2; exit 7")).await;
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(said.exited, code(7));
}

#[tokio::test]
async fn a_command_finds_the_defaults() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let env = BTreeMap::from([("USER".to_owned(), "someone".to_owned())]);
    let exec = Exec {
        env,
        ..sh("env | sort; umask; cat; ulimit -S -n >/dev/null; pwd; ps -o pid=,sid=,pgid= -p $$")
    };
    let said = run(&client, &exec).await;
    let mut lines = said.stdout.lines();
    let mut variables: BTreeMap<_, _> =
        lines.by_ref().take_while(|l| *l != "0022").filter_map(|l| l.split_once('=')).collect();
    for shells_own in ["PWD", "OLDPWD", "SHLVL", "_"] {
        variables.remove(shells_own);
    }
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/dormouse/bin";
    let expected = [("HOME", "/root"), ("LANG", "C.UTF-8"), ("PATH", path), ("USER", "someone")];
    assert_eq!(variables, BTreeMap::from(expected), "and nothing of the agent's own");
    assert_eq!(lines.next(), Some("/"));
    let ids: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "leader of its session and group: {ids:?}");
}

#[tokio::test]
async fn nothing_of_the_agent_leaks_into_a_command() {
    let agent = Agent::start();
    let client = agent.connect().await;
    // ls itself opens the directory it lists: 3.
    let script = "ls /proc/self/fd | tr '\\n' ' '; grep Sig[BI] /proc/self/status";
    let said = run(&client, &sh(script)).await;
    let (open, masks) = said.stdout.split_once("SigBlk:\t").unwrap();
    assert_eq!(open, "0 1 2 3 ");
    let (blocked, ignored) = masks.trim().split_once("\nSigIgn:\t").unwrap();
    assert_eq!(blocked, "0000000000000000");
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(ignored & 1 << (libc::SIGPIPE - 1), 0, "a broken pipe ends a command as usual");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_refused() {
    let agent = Agent::start();
    let client = agent.connect().await;
    for command in ["no-such-program", "/no/such/program", "/etc/passwd/x"] {
        let exec = Exec { command: vec![command.into()], cwd: Some("/".into()), ..Exec::default() };
        let refused = soon(client.exec(&exec)).await.unwrap_err();
        let Error::Refused { errno, message } = &refused else { panic!("{refused:?}") };
        assert_eq!(*errno, Some(2));
        assert!(message.contains(command), "{message}");
        assert_eq!(refused.kind(), ErrorKind::NotFound);
    }
    let exec =
        Exec { command: vec!["/etc/passwd".into()], cwd: Some("/".into()), ..Exec::default() };
    let refused = soon(client.exec(&exec)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
    let exec = Exec { command: vec![], ..Exec::default() };
    let refused = soon(client.exec(&exec)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
    assert_eq!(run(&client, &sh("exit 3")).await.exited, code(3), "others go on");
}

#[tokio::test]
async fn a_working_directory_that_is_not_there_is_refused() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let exec = Exec { cwd: Some("/no/such/dir".into()), ..sh("true") };
    let refused = soon(client.exec(&exec)).await.unwrap_err();
    let Error::Refused { errno: Some(2), message } = &refused else { panic!("{refused:?}") };
    assert!(message.contains("working directory /no/such/dir"), "{message}");
}

#[tokio::test]
async fn standard_input_flows_and_ends() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let exec = Exec { stdin: true, ..sh("wc -c; echo done") };
    let execution = soon(client.exec(&exec)).await.unwrap();
    let (mut input, mut output) = (execution.input, execution.output);
    let feeding = tokio::spawn(async move {
        input.stdin(&vec![b'x'; 3_000_000]).await.unwrap();
        input.close_stdin().await.unwrap();
    });
    let said = finish(&mut output).await;
    assert_eq!(said.stdout, "3000000\ndone\n");
    soon(feeding).await.unwrap();
}

#[tokio::test]
async fn a_command_that_does_not_read_its_input_still_ends() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let execution = soon(client.exec(&Exec { stdin: true, ..sh("exec true") })).await.unwrap();
    let (mut input, mut output) = (execution.input, execution.output);
    let feeding = tokio::spawn(async move { while input.stdin(&[0; 60_000]).await.is_ok() {} });
    assert_eq!(finish(&mut output).await.exited, code(0));
    drop(output);
    soon(feeding).await.unwrap();
}

#[tokio::test]
async fn large_output_is_complete_and_held_back_while_nobody_reads() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let dir = tempfile::tempdir().unwrap();
    let done = dir.path().join("done");
    let script = format!("head -c 20000000 /dev/zero; touch {}", done.display());
    let mut execution = soon(client.exec(&sh(&script))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!done.exists(), "20 MB cannot have been written with nobody reading");
    let mut total = 0;
    loop {
        match soon(execution.output.next()).await.unwrap() {
            Output::Stdout(bytes) => total += bytes.len(),
            Output::Stderr(bytes) => panic!("{bytes:?}"),
            Output::Exited(exited) => break assert_eq!(exited, code(0)),
        }
    }
    assert_eq!(total, 20_000_000);
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let mut execution = soon(client.exec(&sh("sleep 1000 & echo; sleep 1000"))).await.unwrap();
    // Once the first of them is there.
    assert_eq!(soon(execution.output.next()).await.unwrap(), Output::Stdout("\n".into()));
    let left = sh(&format!("ps -e -o pgid=,stat= | grep -c '^ *{} [^Z]'", execution.pid));
    assert_ne!(run(&client, &left).await.stdout, "0\n", "all of them run");
    execution.input.signal(15).await.unwrap();
    assert_eq!(finish(&mut execution.output).await.exited, signal(15));
    soon(async {
        while run(&client, &left).await.stdout != "0\n" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_signal_by_number_of_process_passes_its_input() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let exec =
        Exec { stdin: true, ..sh("trap 'echo caught; exit 4' USR1; while :; do sleep 0.05; done") };
    let execution = soon(client.exec(&exec)).await.unwrap();
    let (mut input, mut output) = (execution.input, execution.output);
    let feeding = tokio::spawn(async move { while input.stdin(&[0; 60_000]).await.is_ok() {} });
    tokio::time::sleep(Duration::from_millis(300)).await;
    soon(client.kill(execution.pid, 10)).await.unwrap();
    let said = finish(&mut output).await;
    assert_eq!((said.stdout.as_str(), said.exited), ("caught\n", code(4)));
    drop(output);
    soon(feeding).await.unwrap();

    let gone = soon(client.kill(execution.pid, 10)).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    let never_ours = soon(client.kill(1, 9)).await.unwrap_err();
    assert_eq!(never_ours.kind(), ErrorKind::NotFound, "{never_ours}");
}

#[tokio::test]
async fn a_time_limit_kills_the_group() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let exec =
        Exec { timeout_ms: 3_000, ..sh("trap '' TERM INT; echo started; sleep 1000 & wait") };
    let said = run(&client, &exec).await;
    assert_eq!(said.stdout, "started\n");
    assert_eq!(said.exited, Exited { code: None, signal: Some(9), timed_out: true });

    let exec = Exec { timeout_ms: 20_000, ..sh("exit 5") };
    assert_eq!(run(&client, &exec).await.exited, code(5), "in time");
}

#[tokio::test]
async fn a_time_limit_holds_while_nobody_reads() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let exec = Exec { timeout_ms: 300, ..sh("exec cat /dev/zero") };
    let mut execution = soon(client.exec(&exec)).await.unwrap();
    // It is dead before long, though its output waits.
    soon(async {
        while client.kill(execution.pid, 18).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    loop {
        if let Output::Exited(exited) = soon(execution.output.next()).await.unwrap() {
            break assert!(exited.timed_out);
        }
    }
}

#[tokio::test]
async fn what_a_command_leaves_behind_does_not_hold_up_its_exit() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let dir = tempfile::tempdir().unwrap();
    let alive = dir.path().join("alive");
    let script =
        format!("(sleep 8; echo too late; echo x > {}) & echo now; exit 0", alive.display());
    let started = Instant::now();
    let said = run(&client, &sh(&script)).await;
    assert_eq!((said.stdout.as_str(), said.exited), ("now\n", code(0)));
    assert!(started.elapsed() < Duration::from_secs(7), "{:?}", started.elapsed());
    // It is not killed by a broken pipe either.
    soon(async {
        while !alive.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_child_that_writes_without_end_does_not_hold_up_the_exit() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let script = "exec 2>&1; timeout 20 yes & exit 6";
    let started = Instant::now();
    let said = run(&client, &sh(script)).await;
    assert_eq!(said.exited, code(6));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test]
async fn exits_are_not_lost_or_mixed_up_when_many_end_at_once() {
    let agent = Agent::start();
    let client = agent.connect().await;
    let mut tasks = Vec::new();
    for number in 0..200_i32 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            // Each also leaves an orphan for the reaper.
            let script = format!("(true &); echo {number}; exit {}", number % 100);
            let said = run(&client, &sh(&script)).await;
            assert_eq!((said.stdout, said.exited), (format!("{number}\n"), code(number % 100)));
        }));
    }
    for task in tasks {
        soon(task).await.unwrap();
    }
}

#[tokio::test]
async fn no_zombie_stays() {
    let mut agent = Agent::start();
    let client = agent.connect().await;
    let said = run(&client, &sh("(sleep 0.1 &) ; (true &) ; ps -o ppid= -p $$")).await;
    let agent_pid = said.stdout.trim().to_owned();
    tokio::time::sleep(Duration::from_millis(500)).await;
    // One that has just ended is one for a moment.
    let zombies = sh(&format!("ps -o stat= --ppid {agent_pid} | grep -c Z"));
    soon(async {
        while run(&client, &zombies).await.stdout != "0\n" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    drop(client);
    assert_eq!(agent.ended().await, Some(0));
}
