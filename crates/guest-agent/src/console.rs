//! Lines for whoever reads the guest's console: one per boot stage, and the last words.

use std::io::Write;

/// Prints one line. The kernel gives PID 1 the console as its standard error.
pub(crate) fn say(text: &str) {
    let line = format!("dormouse-agent: {text}\n");
    // In one write, so that lines of the kernel do not mix in. Nobody to tell where it fails.
    drop(std::io::stderr().write_all(line.as_bytes()));
}

/// Prints why the guest cannot go on.
pub(crate) fn say_fatal(text: &str) {
    say(&format!("FATAL: {text}"));
}

/// Panics of any thread are said in one line.
pub(crate) fn say_panics() {
    std::panic::set_hook(Box::new(|panic| say(&format!("defect: {panic}").replace('\n', " "))));
}
