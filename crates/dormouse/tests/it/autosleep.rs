//! Machines that fall asleep by themselves, and commands that meet them on the way.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Options, Server};

/// When a machine may fall asleep; the server looks every 2 s.
const AUTOSLEEP: Duration = Duration::from_secs(3);

#[test]
fn a_machine_falls_asleep_when_nothing_runs_and_a_command_finds_it_wherever_it_is() {
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("dozes");
    api.shell(&machine, "echo 0 >/root/count; sleep 1000 >/dev/null 2>&1 & echo $! >/root/pid");
    let path = format!("/v1/machines/{machine}");
    let body = json!({ "autosleep": format!("{}s", AUTOSLEEP.as_secs()) });
    api.send(api.request(reqwest::Method::PATCH, &path).json(&body)).ok();

    // A command that runs keeps it awake for far longer than that.
    let long = api.start(&machine, &["sleep", "12"]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        let seen = api.get(&path).ok().json();
        assert_eq!(seen["status"]["phase"], "running", "{seen}");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(api.ended(&machine, &long)["status"], "succeeded");
    let asleep = api.until(&machine, "sleeping");
    assert_eq!(asleep["desired_state"], "sleeping", "{asleep}");

    // Commands that come about when it falls asleep: before, on the way and after.
    for (n, later) in [2_900, 3_900, 4_400, 4_900, 5_400].into_iter().enumerate() {
        let count = api.shell(
            &machine,
            "n=$(cat /root/count); echo $((n + 1)) >/root/count; cat /root/count; kill -0 $(cat /root/pid)",
        );
        assert_eq!(count, format!("{}\n", n + 1));
        std::thread::sleep(Duration::from_millis(later));
    }
    assert_eq!(api.shell(&machine, "cat /root/count"), "5\n");
}
