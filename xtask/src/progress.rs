//! Says what is being done and how long it takes.

use std::io::{IsTerminal, Write, stderr};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How often a running step reports where nobody looks at a terminal.
const EVERY: Duration = Duration::from_secs(10);

/// Does `work` and says so: at once, while it runs, and how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let live = stderr().is_terminal();
    let started = Instant::now();
    let say = |state: &str| {
        // Progress that cannot be written is no reason to fail.
        let elapsed = started.elapsed().as_secs_f64();
        if live {
            let end = if state == "..." { "" } else { "\n" };
            drop(write!(stderr(), "\r\x1b[K{what} {state} {elapsed:.1} s{end}"));
        } else {
            drop(writeln!(stderr(), "{what} {state} {elapsed:.1} s"));
        }
    };
    say("...");
    let (done, is_done) = channel::<()>();
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            let is_done = is_done;
            let interval = if live { Duration::from_millis(200) } else { EVERY };
            while is_done.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                say("...");
            }
        });
        let result = work();
        drop(done);
        result
    });
    say(if result.is_ok() { "done," } else { "failed after" });
    result
}
