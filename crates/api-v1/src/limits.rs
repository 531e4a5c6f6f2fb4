//! Bounds of this face; the rest are `control`'s and `http-kit`'s.

use std::time::Duration;

/// How long a lifecycle call waits for its outcome where the client names no time. Most wakes fit, and
/// it is far below the clients' read timeout of 60 s.
pub(crate) const SETTLE_WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// How long `wait_ms` can hold a call on an execution.
pub(crate) const EXECUTION_WAIT_MAX: Duration = Duration::from_secs(30);
/// A status stream says something at least this often; clients give up after 60 s of silence.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);
/// Characters of a cursor; ours have fewer than a hundred.
pub(crate) const CURSOR_LENGTH_MAX: usize = 1024;
/// Items of a page where the client names no number.
pub(crate) const PAGE_LENGTH_DEFAULT: u32 = 100;
/// Largest number of items that a client can ask for; `control` may give fewer.
pub(crate) const PAGE_LENGTH_MAX: u32 = 1000;
/// One message of an attached client.
pub(crate) const ATTACH_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Time in which an attached client must say what to run.
pub(crate) const ATTACH_FIRST_MESSAGE_MAX: Duration = Duration::from_secs(10);
/// A client that takes no output for this long is let go; its execution goes on.
pub(crate) const ATTACH_SEND_MAX: Duration = Duration::from_secs(60);
/// Time in which a client must close after it was told the end.
pub(crate) const ATTACH_CLOSE_MAX: Duration = Duration::from_secs(5);
/// Largest signal number on Linux.
pub(crate) const SIGNAL_MAX: i32 = 64;
/// Permission bits with set-uid, set-gid and sticky.
pub(crate) const MODE_MAX: u32 = 0o7777;
