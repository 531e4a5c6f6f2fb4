//! What we and the kernel agree on at `INIT`. Pure.
//!
//! Not asked for, on purpose: `POSIX_LOCKS` and `FLOCK_LOCKS` (one kernel uses the home, so locks
//! are its own matter), `WRITEBACK_CACHE` (sizes and times would be the kernel's, and what the API
//! writes would be invisible), `POSIX_ACL`, `HANDLE_KILLPRIV` (its first version clears set-uid for
//! root's own writes too; a kernel without the second does the work itself).

use crate::abi::{MAJOR, MINOR_MAX, MINOR_MIN, init_flag, linux};
use crate::limits::{BACKGROUND_MAX, CONGESTION_THRESHOLD, PAGES_MAX, WRITE_BYTES_MAX};
use crate::reply::{Failed, InitOut};
use crate::request::InitIn;

/// What a session may assume after `INIT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// `OPEN` is answered with `ENOSYS`, and never comes again.
    pub(crate) no_open: bool,
    /// `OPENDIR` likewise.
    pub(crate) no_opendir: bool,
}

/// The answer to `INIT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel speaks a newer major version and will ask again with ours.
    AskAgain(InitOut),
    /// Agreed.
    Ready(InitOut, Agreed),
}

/// Decides the answer to `offer`. `zero_message_open`: whether opens shall cost no message.
///
/// # Errors
/// `EPROTO` for a kernel that is too old.
pub(crate) fn negotiate(offer: &InitIn, zero_message_open: bool) -> Result<Answer, Failed> {
    let mut out = InitOut {
        minor: MINOR_MAX.min(offer.minor),
        max_readahead: offer.max_readahead,
        flags: 0,
        max_background: BACKGROUND_MAX,
        congestion_threshold: CONGESTION_THRESHOLD,
        max_write: WRITE_BYTES_MAX,
        max_pages: PAGES_MAX,
    };
    if offer.major > MAJOR {
        out.minor = MINOR_MAX;
        return Ok(Answer::AskAgain(out));
    }
    if offer.major < MAJOR || offer.minor < MINOR_MIN {
        return Err(Failed(linux::EPROTO));
    }
    let mut wanted = init_flag::ASYNC_READ
        | init_flag::BIG_WRITES
        | init_flag::DO_READDIRPLUS
        | init_flag::READDIRPLUS_AUTO
        | init_flag::PARALLEL_DIROPS
        | init_flag::MAX_PAGES
        | init_flag::CACHE_SYMLINKS
        | init_flag::HANDLE_KILLPRIV_V2;
    if zero_message_open {
        wanted |= init_flag::NO_OPEN_SUPPORT | init_flag::NO_OPENDIR_SUPPORT;
    }
    let agreed = Agreed {
        no_open: offer.flags & wanted & init_flag::NO_OPEN_SUPPORT != 0,
        no_opendir: offer.flags & wanted & init_flag::NO_OPENDIR_SUPPORT != 0,
    };
    if !agreed.no_open {
        // Without an OPEN there is nobody to truncate in it: the kernel then sends SETATTR.
        wanted |= init_flag::ATOMIC_O_TRUNC;
    }
    out.flags = offer.flags & wanted;
    Ok(Answer::Ready(out, agreed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(flags: u32) -> InitIn {
        InitIn { major: 7, minor: 38, max_readahead: 131_072, flags }
    }

    fn ready(offer: &InitIn, zero_message_open: bool) -> (InitOut, Agreed) {
        match negotiate(offer, zero_message_open) {
            Ok(Answer::Ready(out, agreed)) => (out, agreed),
            other => panic!("not ready: {other:?}"),
        }
    }

    #[test]
    fn only_what_the_kernel_offers_is_taken() {
        let (out, agreed) = ready(&offer(init_flag::BIG_WRITES), true);
        assert_eq!(out.flags, init_flag::BIG_WRITES);
        assert_eq!(out.minor, 38);
        assert!(!agreed.no_open && !agreed.no_opendir);
    }

    #[test]
    fn locks_and_writeback_stay_with_the_kernel() {
        let (out, _) = ready(&offer(u32::MAX), true);
        for bit in [1, 10, 16, 19, 20] {
            assert_eq!(out.flags & (1 << bit), 0, "bit {bit}");
        }
        assert_ne!(out.flags & init_flag::HANDLE_KILLPRIV_V2, 0);
        assert_ne!(out.flags & init_flag::MAX_PAGES, 0);
    }

    #[test]
    fn truncation_at_open_is_ours_only_where_open_comes() {
        let (out, agreed) = ready(&offer(u32::MAX), false);
        assert!(!agreed.no_open);
        assert_ne!(out.flags & init_flag::ATOMIC_O_TRUNC, 0);
        let (out, agreed) = ready(&offer(u32::MAX), true);
        assert!(agreed.no_open);
        assert_eq!(out.flags & init_flag::ATOMIC_O_TRUNC, 0);
    }

    #[test]
    fn other_major_versions_are_asked_again_or_refused() {
        let newer = InitIn { major: 8, ..offer(0) };
        assert!(matches!(negotiate(&newer, true), Ok(Answer::AskAgain(_))));
        let older = InitIn { minor: 30, ..offer(0) };
        assert_eq!(negotiate(&older, true), Err(Failed(linux::EPROTO)));
    }
}
