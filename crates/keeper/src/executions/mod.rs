//! Commands run in a machine: their records and output, as plain files.
//!
//! ```text
//! executions/<execution-id>/record.json   replaced by rename at every change of state
//!                           stdout stderr the first [`OUTPUT_BYTES_MAX`] bytes of each
//!                           events.jsonl  one line an event, at most [`EVENTS_MAX`]
//! ```
//!
//! Only a living keeper writes them ([`runner`]); anybody on the host may read ([`Records`]), also
//! when no keeper lives. A record that says `running` without one is told as `failed`: its machine
//! stopped under it.
//!
//! # Bounds
//! Output past [`OUTPUT_BYTES_MAX`] is counted and dropped, and the record says so. The newest
//! [`RECORDS_MAX`] executions of a machine are kept. Of clients that are attached each holds up to 256 KiB of
//! output that it has not read, and [`TAPS_MAX`] of them do; what is kept is read as it is sent.

#[cfg(test)]
mod fuzz;
mod journal;
mod record;
mod records;
pub(crate) mod runner;

pub(crate) use journal::Piece;
pub use record::{Event, EventKind, NewExecution, Output, Record, State};
pub use records::Records;

/// Most bytes of each output stream that are kept.
pub const OUTPUT_BYTES_MAX: u64 = 8 << 20;
/// Most events of one execution that are kept.
pub const EVENTS_MAX: u64 = 10_000;
/// How many executions of a machine are kept.
pub const RECORDS_MAX: usize = 1000;
/// How many executions of a machine may run at once.
pub const LIVE_MAX: usize = 128;
/// How many clients may be attached to executions of a machine at once: one for each that runs, and half as many again.
pub const TAPS_MAX: usize = LIVE_MAX + LIVE_MAX / 2;
/// Largest standard input given with the request, in bytes.
pub const STDIN_BYTES_MAX: usize = 1 << 20;
