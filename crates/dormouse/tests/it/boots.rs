//! A machine boots, and boots again, on a host that has too much to do.
//!
//! The test does a few rounds; `cargo xtask soak` has it do more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sleep::boot_id;
use crate::support::{Options, Rounds, Server, shown};

/// Keeps every core of this host busy until it is dropped.
struct Load {
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn on_every_core() -> Self {
        let cores = std::thread::available_parallelism().expect("there are cores").get();
        let done = Arc::new(AtomicBool::new(false));
        let spin = |done: Arc<AtomicBool>| {
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..cores).map(|_| spin(done.clone())).collect();
        Self { done, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

#[test]
fn cold_boots_in_a_row_under_load_are_all_good() {
    let load = Load::on_every_core();
    let server = Server::start(Options::default());
    let api = server.api();
    let machine = api.create("boots");
    let mut boot = boot_id(&api, &machine);
    let rounds = Rounds::usually(2);
    let (count, mut longest) = (rounds.count, Duration::ZERO);
    for round in rounds {
        // In the home and outside of it.
        api.shell(&machine, "echo x >>/root/boots; echo x >>/usr/local/boots");
        api.sleep(&machine);
        let begun = Instant::now();
        let woken = server.cli(&["wake", "boots", "--cold", "--json"]).output().expect("run it");
        let took = begun.elapsed();
        let told = String::from_utf8_lossy(&woken.stderr);
        assert!(woken.status.success(), "round {round}: {told}");
        let said: Value = serde_json::from_slice(&woken.stdout).expect("it says what there is");
        let status = &said["status"];
        let how = (&status["phase"], &status["reason"], status.get("last_error"));
        assert_eq!(how, (&"running".into(), &"ready".into(), None), "round {round}: {said}");
        let lines = api.shell(&machine, "cat /root/boots /usr/local/boots | wc -l");
        assert_eq!(lines.trim(), (2 * (round + 1)).to_string(), "round {round}");
        let now = boot_id(&api, &machine);
        assert_ne!(now, boot, "round {round}: it was not booted");
        boot = now;
        eprintln!("booted in {:.1} s", took.as_secs_f64());
        longest = longest.max(took);
    }
    let (cores, longest) = (load.threads.len(), longest.as_secs_f64());
    shown(&format!("{count} cold boots with {cores} busy cores, the longest {longest:.1} s"));
}
