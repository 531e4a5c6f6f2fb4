//! Every bound on what a client can send.

use std::time::Duration;

use base::MIB;

/// A JSON body. The largest honest one carries an execution's standard input (1 MiB of text at
/// most, control's own bound), escaped.
pub const JSON_BODY_BYTES_MAX: usize = MIB as usize;
/// A request id that a client chose; longer ones are replaced by one of ours.
pub const REQUEST_ID_LENGTH_MAX: usize = 128;
/// Tags in one `If-Match` or `If-None-Match`.
pub const TAGS_MAX: usize = 32;
/// An uploaded body that stands still for this long is given up; nothing of it is kept.
pub const BODY_IDLE_MAX: Duration = Duration::from_secs(120);
/// A reply of which a client takes nothing for this long is cut off, with its connection.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(120);
/// Time in which a client must have sent the head of a request.
pub const HEAD_READ_MAX: Duration = Duration::from_secs(30);
/// Bytes of the head of a request, and of what is read from a connection at once: large enough that
/// uploads are not cut into small pieces.
pub const HEAD_BYTES_MAX: usize = 256 * 1024;
/// The longest a client can ask a lifecycle call to wait. Its own read timeout is 60 s.
pub const PREFER_WAIT_MAX: Duration = Duration::from_secs(30);
/// When to try again while another request with the same idempotency key is worked on (contract,
/// section 3).
pub const IN_FLIGHT_RETRY_MS: u64 = 250;
/// Connections that are served at the same time; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 16_384;
