//! Snapshots and forks of whole machines, with guests.

use serde_json::{Value, json};

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
    let refused = api.post_json(&format!("/v1/machines/{parent}/fork"), &json!({ "whole": true }));
    assert_eq!(refused.expect(409).json()["error_code"], "INVALID_STATE");
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
