//! Snapshots and forks of whole machines, with guests.

use std::time::Duration;

use serde_json::{Value, json};

use crate::sleep::{COUNTER, boot_id, counted, how};
use crate::support::{Api, BOOT, Server, Storing, adopted, eventually};

/// What is a machine's own, a line each: host name, machine id, boot id, random numbers, SSH host keys.
const IDENTITY: &str = "cat /etc/hostname /etc/machine-id /proc/sys/kernel/random/boot_id; \
                        head -c 32 /dev/urandom | od -An -tx8 | tr -d '\\n'; echo; \
                        until [ -e /etc/ssh/ssh_host_ed25519_key ]; do sleep 0.1; done; \
                        sha256sum </etc/ssh/ssh_host_ed25519_key";

/// As an installation would: a program, its configuration, a database; and host keys of an SSH server.
const INSTALL: &str = "printf '#!/bin/sh\\necho it works\\n' >/usr/local/bin/tool
    chmod 755 /usr/local/bin/tool; echo setting >/etc/tool.conf
    head -c 9000000 /dev/urandom >/var/lib/tool.db; cd / && sha256sum var/lib/tool.db >/root/sum
    mkdir -p /etc/ssh; cat >/usr/local/bin/ssh-keygen <<'END'
#!/bin/sh
key=/etc/ssh/ssh_host_ed25519_key
test -e $key || head -c 99 /dev/urandom | od >$key.new && mv $key.new $key
END
    chmod 755 /usr/local/bin/ssh-keygen; ssh-keygen -A";
const INSTALLED: &str = "test \"$(tool)\" = 'it works' && cd / && sha256sum -c --status /root/sum && cat /etc/tool.conf";

/// The id of the machine in a reply, and what it begins with.
fn forked(reply: &Value) -> (String, Value) {
    (reply["machine_id"].as_str().expect("an id").to_owned(), reply["contains"].clone())
}

fn fork(api: &Api, from: &str, body: &Value) -> (String, Value) {
    forked(&api.post_json(&format!("/v1/machines/{from}/fork"), body).expect(201).json())
}

/// Everything in the store below `uppers/`.
fn uppers(storing: &Storing) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![storing.store().join("uppers")]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path.display().to_string()),
            }
        }
    }
    found
}

#[test]
fn a_fork_of_a_sleeping_machine_has_what_was_installed_and_an_identity_of_its_own() {
    let storing = Storing::new();
    let server = Server::start(storing.options.clone());
    let api = server.api();
    let parent = api.create("parent");
    api.shell(&parent, INSTALL);
    let mut seen = vec![api.shell(&parent, IDENTITY)];
    api.sleep(&parent);
    let body = json!({ "name": "before", "whole": true });
    let kept = api.post_json(&format!("/v1/machines/{parent}/snapshots"), &body).expect(201).json();
    assert_eq!(kept["contains"][1], "upper", "{kept}");
    let (one, contains) = fork(&api, &parent, &json!({ "name": "one", "whole": true }));
    assert_eq!(contains[1], "upper", "{contains}");
    // The parent goes on, cold, and is forked once more where it was.
    api.post(&format!("/v1/machines/{parent}/wake?cold=true"), "").ok();
    api.until(&parent, "running");
    api.shell(&parent, "echo other >/etc/tool.conf");
    let at = json!({ "name": "two", "snapshot_id": kept["snapshot_id"], "whole": true });
    let (two, _) = fork(&api, &parent, &at);
    for (machine, name) in [(&one, "one"), (&two, "two")] {
        api.post(&format!("/v1/machines/{machine}/wake?cold=true"), "").ok();
        api.until(machine, "running");
        assert_eq!(api.shell(machine, INSTALLED), "setting\n", "{name}");
        seen.push(api.shell(machine, IDENTITY));
        assert!(seen.last().expect("one").starts_with(&format!("{name}\n")), "{seen:?}");
        api.shell(machine, &format!("echo {name} >/etc/tool.conf"));
        api.sleep(machine);
    }
    for line in 0..5 {
        let mut values: Vec<_> = seen.iter().map(|text| text.lines().nth(line)).collect();
        values.sort();
        values.dedup();
        assert!(values.len() == 3 && values[0].is_some(), "line {line} of {seen:?}");
    }
    // Both outlive their parent, here and elsewhere.
    api.delete(&format!("/v1/machines/{parent}")).ok();
    eventually("what they stored", BOOT, || {
        let stored = |machine: &String| {
            let seen = api.get(&format!("/v1/machines/{machine}")).ok().json();
            seen["status"]["upper"] == "stored"
        };
        stored(&one) && stored(&two)
    });
    let (_data, other) = adopted(&storing.options);
    let there = other.api();
    for (machine, name) in [(&one, "one"), (&two, "two")] {
        there.post(&format!("/v1/machines/{machine}/wake?cold=true"), "").ok();
        there.until(machine, "running");
        assert_eq!(there.shell(machine, INSTALLED), format!("{name}\n"));
        there.delete(&format!("/v1/machines/{machine}")).ok();
    }
    eventually("nothing is left", BOOT, || uppers(&storing).is_empty());
}

/// What is a machine's own though its processes go on in another one: no boot id.
const OWN: &str = "cat /etc/hostname; hostname; cat /etc/machine-id; \
                   head -c 32 /dev/urandom | od -An -tx8 | tr -d '\\n'; echo; \
                   until [ -e /etc/ssh/ssh_host_ed25519_key ]; do sleep 0.1; done; \
                   sha256sum </etc/ssh/ssh_host_ed25519_key";

#[test]
fn a_fork_of_a_machine_that_sleeps_with_memory_goes_on_as_another_machine() {
    // Memory is stored because somebody asks for it, not because it is time.
    let storing = Storing::new();
    std::fs::write(storing.config(), "store_memory_after_seconds = 3600\n").expect("write it");
    let server = Server::start(storing.options.clone());
    let api = server.api();
    let parent = api.create("parent");
    api.shell(&parent, INSTALL);
    // Slowly: a file without a name goes along as long as it is small.
    let counter = COUNTER.replace("sleep 0.02", "sleep 0.2");
    let pid = api.shell(&parent, &counter).trim().to_owned();
    let boot = boot_id(&api, &parent);
    let mut own = vec![api.shell(&parent, OWN)];
    api.sleep(&parent);
    let body = json!({ "name": "asleep", "whole": true });
    let kept = api.post_json(&format!("/v1/machines/{parent}/snapshots"), &body).expect(201).json();
    let all = json!(["home", "upper", "memory"]);
    assert_eq!(kept["contains"], all, "{kept}");
    let (one, contains) = fork(&api, &parent, &json!({ "name": "one" }));
    assert_eq!(contains, all);
    // A fork of a fork that nobody has woken, and one of the snapshot, once the parent has gone on.
    let (two, contains) = fork(&api, &one, &json!({ "name": "two" }));
    assert_eq!(contains, all);
    api.wake(&parent);
    assert_eq!(how(&api, &parent), ("resumed".to_owned(), String::new()));
    let (three, contains) =
        fork(&api, &parent, &json!({ "name": "three", "snapshot_id": kept["snapshot_id"] }));
    assert_eq!(contains, all);
    let before = counted(&api, &parent, &pid);
    for (machine, name) in [(&one, "one"), (&two, "two"), (&three, "three")] {
        api.wake(machine);
        assert_eq!(how(&api, machine), ("resumed".to_owned(), String::new()), "{name}");
        assert_eq!(boot_id(&api, machine), boot, "{name} was booted");
        let begun = counted(&api, machine, &pid);
        eventually("the counter goes on", Duration::from_secs(60), || {
            counted(&api, machine, &pid) > begun
        });
        own.push(api.shell(machine, OWN));
        let last = own.last().expect("one");
        assert!(last.starts_with(&format!("{name}\n{name}\n")), "{last}");
        assert_eq!(api.shell(machine, INSTALLED), "setting\n");
        // Each writes into its own home and disk, and the API sees it.
        api.shell(machine, &format!("echo {name} >/root/whose; echo {name} >/etc/tool.conf"));
        let read = api.get(&format!("/v1/machines/{machine}/fs/whose")).ok().text();
        assert_eq!(read, format!("{name}\n"));
        let clock: f64 = api.shell(machine, "date +%s").trim().parse().expect("a number");
        let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        assert!((ours.expect("after 1970").as_secs_f64() - clock).abs() < 5.0);
        // On its own from here: the next sleep is any other one.
        api.sleep(machine);
        api.wake(machine);
        assert_eq!(how(&api, machine), ("resumed".to_owned(), String::new()), "{name}");
        let id = last.lines().nth(2).expect("a machine id");
        assert_eq!(api.shell(machine, "cat /etc/machine-id"), format!("{id}\n"));
        assert!(counted(&api, machine, &pid) > begun);
        api.sleep(machine);
    }
    for line in 0..5 {
        let mut values: Vec<_> = own.iter().map(|text| text.lines().nth(line)).collect();
        values.sort();
        values.dedup();
        assert!(values.len() == 4 && values[0].is_some(), "line {line} of {own:?}");
    }
    eventually("the parent goes on", Duration::from_secs(60), || {
        counted(&api, &parent, &pid) > before
    });
    assert_eq!(
        api.shell(&parent, "cat /etc/tool.conf; test -e /root/whose || echo not here"),
        "setting\nnot here\n"
    );
    for machine in [&parent, &two, &one, &three] {
        api.delete(&format!("/v1/machines/{machine}")).ok();
    }
    eventually("nothing is left", BOOT, || uppers(&storing).is_empty());
}

#[test]
fn a_machine_that_is_awake_is_kept_whole_and_goes_on_as_does_its_fork() {
    let storing = Storing::new();
    let server = Server::start(storing.options.clone());
    let api = server.api();
    let parent = api.create("parent");
    api.shell(&parent, INSTALL);
    let pid = api.shell(&parent, &COUNTER.replace("sleep 0.02", "sleep 0.2")).trim().to_owned();
    let boot = boot_id(&api, &parent);
    let snapshots = format!("/v1/machines/{parent}/snapshots");
    // A sleep would end what was started through the API: that is not asked for.
    let runs = api.start(&parent, &["sleep", "1000"]);
    let refused = api.post_json(&snapshots, &json!({ "whole": true })).expect(409).json();
    assert_eq!(refused["error_code"], "INVALID_STATE", "{refused}");
    let execution = format!("/v1/machines/{parent}/executions/{runs}");
    let status = &api.get(&execution).ok().json()["status"];
    assert!(["queued", "running"].contains(&status.as_str().expect("a status")), "{status}");
    api.delete(&execution).ok();
    api.ended(&parent, &runs);
    let all = json!(["home", "upper", "memory"]);
    for round in 0..3 {
        let before = counted(&api, &parent, &pid);
        let kept = api.post_json(&snapshots, &json!({ "whole": true })).expect(201).json();
        assert_eq!(kept["contains"], all, "{kept}");
        let seen = api.get(&format!("/v1/machines/{parent}")).ok().json();
        assert_eq!(
            (&seen["phase"], &seen["desired_state"]),
            (&json!("running"), &json!("running"))
        );
        assert_eq!(how(&api, &parent), ("resumed".to_owned(), String::new()), "{round}");
        eventually("the counter goes on", Duration::from_secs(60), || {
            counted(&api, &parent, &pid) > before
        });
    }
    let (one, contains) = fork(&api, &parent, &json!({ "name": "one", "whole": true }));
    assert_eq!(contains, all);
    api.shell(&parent, "echo other >/etc/tool.conf");
    for (machine, setting) in [(&parent, "other\n"), (&one, "setting\n")] {
        api.wake(machine);
        assert_eq!(how(&api, machine), ("resumed".to_owned(), String::new()));
        assert_eq!(
            (boot_id(&api, machine), api.shell(machine, INSTALLED)),
            (boot.clone(), setting.to_owned())
        );
        let begun = counted(&api, machine, &pid);
        eventually("the counter goes on", Duration::from_secs(60), || {
            counted(&api, machine, &pid) > begun
        });
    }
}
