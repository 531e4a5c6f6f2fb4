//! A machine that sleeps goes on from its memory on another host, or boots there and says why.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::sleep::{COUNTER, boot_id, counted, how};
use crate::support::{Api, BOOT, Server, Storing, adopted, eventually, until_stored};

/// The counter has gone on, by the same process, without a gap.
fn goes_on(api: &Api, machine: &str, pid: &str, before: u64) -> u64 {
    eventually("the counter goes on", Duration::from_secs(60), || {
        counted(api, machine, pid) > before
    });
    counted(api, machine, pid)
}

#[test]
fn a_machine_goes_on_from_its_memory_on_other_hosts() {
    let storing = Storing::new();
    let (machine, pid, boot, mut before);
    {
        let lost = Server::start(storing.options.clone());
        let api = lost.api();
        machine = api.create("traveller");
        api.shell(&machine, "echo kept >/usr/local/marker");
        boot = boot_id(&api, &machine);
        // Slowly: a file without a name goes along as long as it is small.
        let counter = COUNTER.replace("sleep 0.02", "sleep 0.2");
        pid = api.shell(&machine, &counter).trim().to_owned();
        before = goes_on(&api, &machine, &pid, 0);
        api.sleep(&machine);
        until_stored(&api, &machine);
        // Dropping it deletes the data directory.
    }
    for host in 0..2 {
        let (_data, server) = adopted(&storing.options);
        let api = server.api();
        let begun = std::time::Instant::now();
        api.wake(&machine);
        println!("awake on host {host} after {} ms", begun.elapsed().as_millis());
        assert_eq!(how(&api, &machine), ("resumed".to_owned(), String::new()), "host {host}");
        before = goes_on(&api, &machine, &pid, before);
        assert_eq!(boot_id(&api, &machine), boot);
        assert_eq!(api.shell(&machine, "cat /usr/local/marker"), "kept\n");
        // What the API writes is seen, and what the guest writes.
        api.put(&format!("/v1/machines/{machine}/fs/file"), format!("for {host}")).ok();
        assert_eq!(api.shell(&machine, "cat /root/file"), format!("for {host}"));
        // On the same host as ever, and further from there.
        api.sleep(&machine);
        api.wake(&machine);
        assert_eq!(how(&api, &machine).0, "resumed");
        before = goes_on(&api, &machine, &pid, before);
        api.sleep(&machine);
        until_stored(&api, &machine);
        println!("{} bytes of memory are stored", bytes_below(&storing, &machine, "memory"));
    }
    let unnamed = format!("awk '$1 != NR {{ exit 1 }} END {{ print NR }}' /proc/{pid}/fd/3");
    let (_data, server) = adopted(&storing.options);
    let api = server.api();
    api.wake(&machine);
    let lines: u64 = api.shell(&machine, &unnamed).trim().parse().expect("a number");
    assert!(lines >= before, "{lines} of {before}: a file without a name is not whole");
}

fn below(storing: &Storing, machine: &str, what: &str) -> Vec<PathBuf> {
    let dir = storing.store().join("uppers").join(machine).join(what);
    let found = std::fs::read_dir(dir).expect("list it").flatten();
    found.map(|entry| entry.path()).collect()
}

fn bytes_below(storing: &Storing, machine: &str, what: &str) -> u64 {
    let all = below(storing, machine, what).into_iter();
    all.map(|path| std::fs::metadata(path).expect("look at it").len()).sum()
}

#[test]
fn what_does_not_fit_boots_and_says_why() {
    let storing = Storing::new();
    let one = Server::start(storing.options.clone());
    let (_data, two);
    let (here, there);
    let machine = one.api().create("unfit");
    let sleep_and_store = |api: &Api| {
        api.shell(&machine, "echo $RANDOM >/etc/changed; nohup sleep 100000 >/dev/null 2>&1 &");
        api.sleep(&machine);
        until_stored(api, &machine);
    };
    let booted = |api: &Api, why: &str| {
        api.wake(&machine);
        let (reason, error) = how(api, &machine);
        assert_eq!(reason, "booted_without_memory", "{why}");
        assert!(error.contains(why), "{error}");
        assert_eq!(api.shell(&machine, "cat /etc/changed | wc -l"), "1\n");
    };
    here = one.api();
    sleep_and_store(&here);
    (_data, two) = adopted(&storing.options);
    there = two.api();

    // Damaged.
    let pack = below(&storing, &machine, "memory").remove(0);
    let mut bytes = std::fs::read(&pack).expect("read it");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).expect("write it");
    booted(&there, "is damaged");

    // It goes back, to a host that has older memory of its own.
    sleep_and_store(&there);
    here.wake(&machine);
    assert_eq!(how(&here, &machine).0, "resumed");
    here.shell(&machine, "grep -qx sleep /proc/[0-9]*/comm");

    // A machine of another size.
    sleep_and_store(&here);
    let patch = there.request(reqwest::Method::PATCH, &format!("/v1/machines/{machine}"));
    there.send(patch.json(&json!({ "memory_mib": 640 }))).ok();
    booted(&there, "its size");

    // It was asked to boot.
    sleep_and_store(&there);
    here.post(&format!("/v1/machines/{machine}/wake?cold=true"), "").ok();
    here.until(&machine, "running");
    assert_eq!(how(&here, &machine), ("ready".to_owned(), String::new()));

    // Something was published to its home, which only that host could tell it.
    sleep_and_store(&here);
    here.put(&format!("/v1/machines/{machine}/fs/file"), "published").ok();
    here.post(&format!("/v1/machines/{machine}/fs/publish"), "").ok();
    booted(&there, "or its home was changed");
    assert_eq!(there.shell(&machine, "cat /root/file"), "published");

    // Deleted, it leaves nothing there.
    sleep_and_store(&there);
    there.delete(&format!("/v1/machines/{machine}")).ok();
    let left = || std::fs::read_dir(storing.store().join("uppers").join(&machine));
    eventually("nothing is left", BOOT, || left().is_err());
}
