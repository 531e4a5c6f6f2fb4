//! Every bound on what comes from outside.

use std::time::Duration;

/// Items of a page where the caller names no number.
pub const PAGE_LENGTH_DEFAULT: u32 = 50;
/// Items of a page at most.
pub const PAGE_LENGTH_MAX: u32 = 200;
/// Characters of a machine's name at most.
pub const NAME_LENGTH_MAX: usize = 63;
/// Characters of an image reference at most.
pub const IMAGE_LENGTH_MAX: usize = 255;
/// Least memory of a machine.
pub const MEMORY_MIB_MIN: u64 = 128;
/// Largest autosleep, in seconds (the contract's schema, section 7).
pub const AUTOSLEEP_SECONDS_MAX: u64 = 9_223_372_036;
/// Arguments of an execution, and its variables, in bytes together.
pub const EXECUTION_BYTES_MAX: usize = 128 * 1024;
/// Standard input given with the request, in bytes.
pub const STDIN_BYTES_MAX: usize = 1 << 20;
/// Bytes of one stream's output that a single reply carries.
pub const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// Longest execution: one week.
pub const TIMEOUT_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// Executions that may wait for one machine to wake.
pub const WAITING_EXECUTIONS_MAX: usize = 64;
/// Executions of one machine that are kept although they never ran; the oldest go first.
pub const NEVER_RAN_EXECUTIONS_MAX: usize = 100;
/// Paths that a publish names as changed on both sides; the rest is counted.
pub const CONFLICTS_SHOWN_MAX: usize = 100;
/// Characters of an idempotency key.
pub const IDEMPOTENCY_KEY_LENGTH_MAX: usize = 255;
/// Bytes of a reply that is kept for replay; larger ones are not kept.
pub const IDEMPOTENCY_BODY_BYTES_MAX: usize = 256 * 1024;
/// Replies kept for replay; the oldest go first.
pub const IDEMPOTENCY_ENTRIES_MAX: u64 = 100_000;
/// How long a reply is kept for replay.
pub const IDEMPOTENCY_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a file call waits for a machine that is starting or stopping.
pub const TRANSITION_WAIT: Duration = Duration::from_secs(20);
/// How long whoever had an awake machine kept whole waits for it to be awake again.
pub const NAP_WAIT: Duration = Duration::from_secs(60);
/// How soon the object store has to answer for an awake machine to sleep for that.
pub const NAP_STORE_WAIT: Duration = Duration::from_secs(5);
/// How long a snapshot or a fork waits until what a sleeping machine has is in the store.
pub const STORED_WAIT: Duration = Duration::from_secs(30);
/// How long a server that closes waits for calls that are under way. Uploads of uppers have 5 s to end in order.
pub const CLOSE_MAX: Duration = Duration::from_secs(6);
/// Size of a machine's record in the store. An egress policy alone may have 64 KiB.
pub const RECORD_BYTES_MAX: u64 = 256 * 1024;
/// Machines woken by their time in one look; the others in the next one.
pub const ALARMS_AT_ONCE: usize = 64;
