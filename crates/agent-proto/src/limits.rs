//! Every bound on what the other side may send or hold, with the reason for its size.

use std::time::Duration;

/// Largest payload of one frame, in bytes. One pipe buffer of Linux fits.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Largest JSON message, in bytes: arguments and environment of an execution together.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Most streams open at once in one session.
pub const STREAMS_MAX: usize = 256;
/// Most bytes of an earlier session that a handshake discards before it gives up. The port, the
/// hypervisor and the socket together buffer well under a tenth of it.
pub const STALE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest message on the FUSE channel, in bytes: a write of 1 MiB and room for its headers.
pub const FUSE_MESSAGE_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;
/// Most notifications that the agent keeps while the kernel is busy with an earlier one.
pub const NOTIFICATIONS_QUEUED_MAX: usize = 16 * 1024;

/// Largest piece of a stream that yamux sends at once; small, so that streams share the channel
/// fairly (the measured round trip beside a full-speed download is 2.4 ms with it).
pub(crate) const SPLIT_BYTES: usize = 16 * 1024;
/// Most streams that yamux may hold. Twice what we hand out, because yamux ends the whole session
/// at its limit, and counts a dropped stream until it has told the other side.
pub(crate) const YAMUX_STREAMS_MAX: usize = 2 * STREAMS_MAX;
/// Most frames of yamux that may lie unread in a session, each a buffer of some 70 bytes besides what it
/// holds: what a dozen commands send at their smallest (six bytes) until their windows are full.
pub(crate) const FRAMES_UNREAD_MAX: usize = 512 * 1024;
/// Receive window of the whole session, in bytes: yamux's 256 KiB for each stream and no growth.
pub(crate) const WINDOW_BYTES: usize = YAMUX_STREAMS_MAX * 256 * 1024;
/// How long a stream or session may take to say good-bye before it is cut.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a repeated handshake sends first: more than the largest piece that an earlier session may
/// have been in the middle of, so that the peer leaves that session.
pub(crate) const RESYNC_BYTES: usize = 2 * SPLIT_BYTES;
/// When the host repeats its half of the handshake for the first time; doubles each time. A guest
/// boots in about 1.5 s, so usually never.
pub(crate) const HELLO_REPEAT_FIRST: Duration = Duration::from_secs(2);
/// The same for a guest that was awake before; its answer takes some 20 ms.
pub(crate) const HELLO_REPEAT_AGAIN: Duration = Duration::from_millis(250);
/// The longest pause between two repetitions.
pub(crate) const HELLO_REPEAT_MAX: Duration = Duration::from_secs(16);

/// How long a request that needs no work may take. Software emulation under load is slow.
pub(crate) const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a cache barrier may take; the kernel may have to write back a file first.
pub(crate) const BARRIER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a trim may take: a sync of a busy disk and of the home.
pub(crate) const TRIM_TIMEOUT: Duration = Duration::from_secs(40);
/// How long a shutdown may take besides its grace time: sync and unmount of a busy disk.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);
