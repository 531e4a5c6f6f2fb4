//! New machines begin with a guest that was booted before it was anybody's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sleep::{COUNTER, boot_id, counted};
use crate::support::{Api, BOOT, Options, Server, Storing, adopted, eventually, until_stored};

/// What no two machines share.
const IDENTITY: &str = "cat /proc/sys/kernel/random/boot_id /etc/machine-id /etc/hostname /sys/class/net/eth0/address; \
                        head -c 32 /dev/urandom | od -An -tx8 | tr -d '\\n'";

fn server() -> Server {
    Server::start(Options { templates: true, ..Options::default() })
}

/// How the machine came up, and why not otherwise.
fn how(api: &Api, machine: &str) -> (String, String) {
    let seen = api.get(&format!("/v1/machines/{machine}")).ok().json();
    let text = |name: &str| seen["status"][name].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("last_error"))
}

fn entries(server: &Server) -> Vec<PathBuf> {
    let entries = fs::read_dir(server.data().join("templates")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The one template, once it and the copies of it are there.
fn template(server: &Server) -> PathBuf {
    eventually("a template and two copies of it", BOOT, || {
        let entries = entries(server);
        entries.len() == 3 && entries.iter().all(|dir| dir.join("template.json").exists())
    });
    entries(server).remove(0)
}

fn damage(dir: &Path, name: &str) {
    // As long as it was, so that only the guest can tell.
    let path = dir.join(name);
    let length = fs::metadata(&path).expect("it is there").len();
    let garbage = vec![0x5a; usize::try_from(length.min(64 << 20)).expect("it fits")];
    let file = fs::File::create(&path).expect("open it");
    std::os::unix::fs::FileExt::write_all_at(&file, &garbage, 0).expect("write it");
    file.set_len(length).expect("keep its length");
}

#[test]
fn a_machine_that_begins_with_a_template_is_one_of_its_own() {
    let mut server = server();
    let api = server.api();
    let first = api.create("first");
    assert_eq!(how(&api, &first).0, "ready", "there is no template yet");
    let mut seen = vec![api.shell(&first, IDENTITY)];
    let template = template(&server);
    for name in ["second", "third", "fourth"] {
        let machine = api.create(name);
        assert_eq!(how(&api, &machine), ("cloned".to_owned(), String::new()), "{name}");
        seen.push(api.shell(&machine, IDENTITY));
        assert!(seen.last().expect("one").contains(&format!("{name}\n")), "{seen:?}");
        // A home of its own that the API sees, an upper, and a clock.
        api.shell(&machine, &format!("echo {name} >/root/whose; echo {name} >/etc/whose"));
        let read = api.get(&format!("/v1/machines/{machine}/fs/whose")).ok().text();
        assert_eq!(read.trim(), name);
        let clock: f64 = api.shell(&machine, "date +%s").trim().parse().expect("a number");
        let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        assert!((ours.expect("after 1970").as_secs_f64() - clock).abs() < 5.0);
        // It sleeps with its memory as any other, and boots upon what it has.
        api.sleep(&machine);
        api.wake(&machine);
        assert_eq!(how(&api, &machine), ("resumed".to_owned(), String::new()), "{name}");
        if name == "second" {
            api.sleep(&machine);
            api.post(&format!("/v1/machines/{machine}/wake?cold=true"), "").ok();
            api.until(&machine, "running");
            let id = api.shell(&machine, "cat /etc/machine-id");
            assert!(seen[1].contains(id.trim()), "{id} in {seen:?}");
        }
        assert_eq!(api.shell(&machine, "cat /root/whose /etc/whose"), format!("{name}\n{name}\n"));
        let dir = server.data().join("machines").join(&machine);
        assert!(!dir.join("template").exists(), "nothing is left of the copy");
        api.delete(&format!("/v1/machines/{machine}")).ok();
    }
    // A fork of an awake machine is a new machine too, whose home is at a later claim.
    for name in ["fork-1", "fork-2"] {
        let path = format!("/v1/machines/{first}/fork");
        let fork = api.post_json(&path, &serde_json::json!({ "name": name })).ok().json();
        let fork = fork["machine_id"].as_str().expect("an id").to_owned();
        api.wake(&fork);
        assert_eq!(how(&api, &fork), ("cloned".to_owned(), String::new()), "{name}");
        assert_eq!(api.shell(&fork, "cat /etc/hostname"), format!("{name}\n"));
        api.delete(&format!("/v1/machines/{fork}")).ok();
    }
    // One of a machine that sleeps has a disk and memory already, and no use for a template.
    api.sleep(&first);
    let path = format!("/v1/machines/{first}/fork");
    let fork = api.post_json(&path, &serde_json::json!({ "name": "fork-3" })).ok().json();
    let fork = fork["machine_id"].as_str().expect("an id").to_owned();
    api.wake(&fork);
    assert_eq!(how(&api, &fork), ("resumed".to_owned(), String::new()));
    assert_eq!(api.shell(&fork, "cat /etc/hostname"), "fork-3\n");
    api.delete(&format!("/v1/machines/{fork}")).ok();
    // Line by line: none of what they said is the same in two of them.
    for line in 0..5 {
        let mut values: Vec<_> = seen.iter().map(|text| text.lines().nth(line)).collect();
        values.sort();
        values.dedup();
        assert!(values.len() == 4 && values[0].is_some(), "line {line} of {seen:?}");
    }
    // It outlives the server.
    server.terminate();
    server.restart();
    let api = server.api();
    let later = api.create("later");
    assert_eq!(how(&api, &later).0, "cloned");
    assert!(template.exists());
}

/// Bytes below a directory of the store.
fn bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let each = entries.map(|entry| {
        // One that goes meanwhile is of an older memory.
        let meta = entry.metadata().ok().filter(|meta| !meta.is_dir());
        meta.map_or_else(|| bytes(&entry.path()), |meta| meta.len())
    });
    each.sum()
}

#[test]
fn what_machines_have_of_their_template_is_in_the_store_once_and_good_on_another_host() {
    let storing = Storing::new();
    let server = Server::start(Options { templates: true, ..storing.options.clone() });
    let api = server.api();
    let booted = api.create("booted");
    template(&server);
    let clones = ["one", "two"].map(|name| {
        let machine = api.create(name);
        assert_eq!(how(&api, &machine).0, "cloned");
        let (boot, pid) = (boot_id(&api, &machine), api.shell(&machine, COUNTER));
        api.sleep(&machine);
        until_stored(&api, &machine);
        (machine, boot, pid.trim().to_owned())
    });
    api.sleep(&booted);
    until_stored(&api, &booted);
    let of = |machine: &str| bytes(&storing.store().join("uppers").join(machine).join("memory"));
    let (of_template, whole) = (bytes(&storing.store().join("templates")), of(&booted));
    let of_clones = clones.each_ref().map(|(machine, ..)| of(machine));
    eprintln!("a template: {of_template}, clones: {of_clones:?}, one that booted: {whole}");
    assert!(of_template > 4 << 20 && whole > 4 << 20);
    assert!(of_clones.iter().all(|bytes| *bytes > 0 && bytes * 3 < whole), "{of_clones:?}");
    drop(server);
    let (_data, other) = adopted(&storing.options);
    let api = other.api();
    for (machine, boot, pid) in &clones {
        api.wake(machine);
        assert_eq!(how(&api, machine), ("resumed".to_owned(), String::new()));
        assert_eq!(boot_id(&api, machine), *boot);
        let before = counted(&api, machine, pid);
        eventually("it goes on", BOOT, || counted(&api, machine, pid) > before);
        // What it sleeps with here lies over that of the other host.
        api.sleep(machine);
        until_stored(&api, machine);
        // What only the memory before needed goes after it is said to be stored.
        eventually("what differs is there alone", BOOT, || of(machine) * 3 < 2 * whole);
        api.wake(machine);
        assert_eq!(how(&api, machine).0, "resumed");
    }
}

#[test]
fn a_machine_boots_where_its_template_is_damaged() {
    let server = server();
    let api = server.api();
    let first = api.create("first");
    api.sleep(&first);
    let made = template(&server);
    // Its devices, then its memory: the one is refused, with the other a guest begins that comes to nothing.
    for (name, file) in [("second", "devices"), ("third", "memory")] {
        for dir in entries(&server) {
            damage(&dir, file);
        }
        let machine = api.create(name);
        let (reason, why) = how(&api, &machine);
        assert_eq!(reason, "booted_without_template", "{name}: {why}");
        assert!(why.contains("did not begin with a template"), "{why}");
        assert!(!why.contains("/templates"), "no path of this host: {why}");
        let works = "echo here >/root/file; cat /root/file; wc -c </etc/machine-id";
        assert_eq!(api.shell(&machine, works), "here\n33\n");
        api.sleep(&machine);
    }
    // It failed twice: it is thrown away, and the next machine of its kind has a new one made.
    eventually("the template is thrown away", Duration::from_secs(60), || !made.exists());
    let machine = api.create("fourth");
    assert_eq!(how(&api, &machine).0, "ready");
    api.sleep(&machine);
    template(&server);
    let machine = api.create("fifth");
    assert_eq!(how(&api, &machine).0, "cloned");
}

#[test]
fn without_templates_nothing_is_made() {
    let server = Server::start(Options::default());
    let api = server.api();
    let (first, second) = (api.create("first"), api.create("second"));
    for machine in [&first, &second] {
        assert_eq!(how(&api, machine), ("ready".to_owned(), String::new()));
    }
    // Two that booted are told apart all the same.
    let ids = [&first, &second].map(|machine| api.shell(machine, "cat /etc/machine-id"));
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.trim().len() == 32), "{ids:?}");
    assert!(entries(&server).is_empty());
}
