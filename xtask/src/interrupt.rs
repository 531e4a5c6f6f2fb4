//! Ctrl-C and SIGTERM, for commands that leave something behind unless they clean up.

use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Has Ctrl-C and SIGTERM clean up what is `held` and end this program, whatever it does at that moment. The lock is
/// kept to the end: what the main thread does fails then, and it waits for this lock before it says so.
pub(crate) fn watch<T: Send + 'static>(
    held: Arc<Mutex<T>>,
    clean_up: impl FnOnce(&mut T) + Send + 'static,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("watch for Ctrl-C")?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    drop(entered);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        eprintln!("\ninterrupted: cleaning up");
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        clean_up(&mut held);
        exit(INTERRUPTED);
    });
    Ok(())
}
