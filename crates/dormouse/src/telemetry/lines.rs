//! Log lines on their way to a slow place: whoever logs appends to a buffer, a thread writes it.
//!
//! A server logs a line for every request, and a write for every line would be one of the larger costs
//! of a small request.
//!
//! # Bounds
//! [`BUFFER_BYTES`]; when it is full, whoever logs waits. Nothing is dropped.
//!
//! # Failure
//! A process that is killed loses the lines of its last [`GATHER`]; one that ends waits for them
//! ([`Flush`]). A place that takes nothing any more loses them too: there is nobody to tell.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes that wait to be written.
const BUFFER_BYTES: usize = 1 << 20;
/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(5);
/// How long the end of the process waits for the last lines.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Takes lines.
#[derive(Debug, Clone)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    filled: Condvar,
    /// There is room, or everything is written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
    closed: bool,
}

/// Waits, when dropped, until everything is written.
#[derive(Debug)]
pub(crate) struct Flush(Arc<Shared>);

impl Lines {
    /// Lines to `to`, and what makes sure of the last ones.
    pub(super) fn to(mut to: impl Write + Send + 'static) -> io::Result<(Self, Flush)> {
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || while own.write_some(&mut to) {})?;
        Ok((Self(shared.clone()), Flush(shared)))
    }
}

impl Shared {
    /// Writes what has gathered; false once it is closed and nothing is left.
    fn write_some(&self, to: &mut dyn Write) -> bool {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.closed {
                return false;
            }
            self.filled.wait(&mut state);
        }
        if !state.closed {
            self.filled.wait_while_for(&mut state, |state| !state.closed, GATHER);
        }
        let lines = std::mem::take(&mut state.waiting);
        state.writing = true;
        drop(state);
        to.write_all(&lines).and_then(|()| to.flush()).ok();
        self.state.lock().writing = false;
        self.written.notify_all();
        true
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        while state.waiting.len() >= BUFFER_BYTES && !state.closed {
            self.0.written.wait(&mut state);
        }
        let first = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        if first {
            self.0.filled.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        self.0.filled.notify_one();
        self.0.written.wait_while_for(
            &mut state,
            |state| state.writing || !state.waiting.is_empty(),
            FLUSH_MAX,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what was written, and in how many calls; takes its time.
    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            thread::sleep(Duration::from_millis(1));
            let mut seen = self.0.lock();
            seen.0.extend_from_slice(bytes);
            seen.1 += 1;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_lines_arrive_in_order_and_together() {
        let slow = Slow::default();
        let (mut lines, flush) = Lines::to(slow.clone()).unwrap();
        let mut all = String::new();
        for number in 0..5_000 {
            let line = format!("{{\"line\":{number}}}\n");
            lines.write_all(line.as_bytes()).unwrap();
            all.push_str(&line);
        }
        drop(flush);
        let seen = slow.0.lock();
        assert!(seen.0 == all.as_bytes());
        assert!(seen.1 < 1_000, "{} writes", seen.1);
    }

    #[test]
    fn a_full_buffer_makes_them_wait_and_loses_nothing() {
        let slow = Slow::default();
        let (lines, flush) = Lines::to(slow.clone()).unwrap();
        let line = vec![b'x'; 64 << 10];
        thread::scope(|scope| {
            for _ in 0..4 {
                let (mut lines, line) = (lines.clone(), &line);
                scope.spawn(move || (0..32).for_each(|_| lines.write_all(line).unwrap()));
            }
        });
        drop(flush);
        assert_eq!(slow.0.lock().0.len(), 4 * 32 * line.len());
    }

    #[test]
    fn a_single_line_does_not_wait_for_others() {
        let slow = Slow::default();
        let (mut lines, _flush) = Lines::to(slow.clone()).unwrap();
        lines.write_all(b"one\n").unwrap();
        for _ in 0..2_000 {
            if slow.0.lock().0 == b"one\n" {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("it never came");
    }
}
