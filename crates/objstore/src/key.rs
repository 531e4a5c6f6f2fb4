//! Which texts are keys.
//!
//! # Invariants
//! A key means the same object on every store: its bytes need no escaping in a URL or in XML, no
//! part of it means anything to a file system, and the order of bytes is the order of keys.

use crate::limits::{KEY_BYTES_MAX, KEY_SEGMENT_BYTES_MAX};
use crate::{Error, Result};

/// Refuses what is not a key.
pub(crate) fn check(key: &str) -> Result<()> {
    let bad = |reason| Err(Error::BadKey { reason });
    if key.is_empty() {
        return bad("it is empty");
    }
    if key.len() > KEY_BYTES_MAX {
        return bad("it is longer than 768 bytes");
    }
    for segment in key.split('/') {
        if segment.is_empty() {
            return bad("it has an empty part between slashes");
        }
        if segment.len() > KEY_SEGMENT_BYTES_MAX {
            return bad("a part between slashes is longer than 255 bytes");
        }
        if segment.starts_with('.') {
            return bad("a part between slashes begins with a dot");
        }
        if !segment.bytes().all(is_key_byte) {
            return bad("it has characters other than letters, digits and -_.:=+@~");
        }
    }
    Ok(())
}

/// Refuses what cannot be the prefix of a listing.
pub(crate) fn check_prefix(prefix: &str) -> Result<()> {
    match prefix.strip_suffix('/') {
        Some(directory) => check(directory),
        None if prefix.is_empty() => Ok(()),
        None => Err(Error::BadKey { reason: "a prefix ends in a slash" }),
    }
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:=+@~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_leave_the_store_or_need_escaping() {
        for good in ["a", "homes/home-1/log/00000000000000000001", "chunks/ab/sha256:ab", "a.b/c"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", ".tmp/x", "a b", "a%2fb", "ä", "a\0b"]
        {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert!(check(&"a/".repeat(400)).is_err());
        assert!(check(&"a".repeat(256)).is_err());
    }

    #[test]
    fn a_prefix_ends_where_a_part_of_a_key_ends() {
        assert!(check_prefix("").is_ok());
        assert!(check_prefix("homes/").is_ok());
        assert!(check_prefix("homes").is_err());
        assert!(check_prefix("../").is_err());
        assert!(check_prefix("/").is_err());
    }
}
