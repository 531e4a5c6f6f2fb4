//! Keys: how they are written down, and which one is used for what.
//!
//! ```text
//! # a comment
//! 1:6d9b…   64 hex digits
//! 2:03fe…   the newest is last: what is stored from now on is encrypted with it
//! ```
//!
//! # Invariants
//! - Nothing here shows a key: not `Debug`, not an error. Memory that held one is overwritten.
//! - An id means one key for ever: what was stored with it can be read only with it.
//!
//! # Not here
//! Where the text comes from (the binary), which ids a store knows (`mark`).

use std::fmt;

use base::{Digest, Entropy};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use zeroize::Zeroizing;

use crate::{Error, Result};

/// The largest text of keys that is read, in bytes: every id there can be, with comments.
pub const KEY_TEXT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Bytes of what tells whether a key is the right one.
const CHECK_BYTES: usize = 8;

/// The keys of a store, the newest last.
pub struct KeyRing {
    /// Never empty; ids are unique.
    keys: Vec<Key>,
}

/// One key.
pub(super) struct Key {
    pub(super) id: u8,
    /// Tells one key from another of the same id, and says nothing about it.
    pub(super) check: String,
    pub(super) cipher: XChaCha20Poly1305,
}

impl KeyRing {
    /// Reads keys as they are written down.
    ///
    /// # Errors
    /// [`Error::Unusable`], which names the line and repeats nothing of it.
    pub fn parse(text: &[u8]) -> Result<Self> {
        if text.len() > KEY_TEXT_BYTES_MAX {
            return Err(bad(format!("it is longer than {KEY_TEXT_BYTES_MAX} bytes")));
        }
        let text = std::str::from_utf8(text).map_err(|_| bad("it is not text"))?;
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = Key::parse(line)
                .ok_or_else(|| bad(format!("line {} is not ID:64 HEX DIGITS", number + 1)))?;
            if keys.iter().any(|known| known.id == key.id) {
                return Err(bad(format!("line {} has an id that was there before", number + 1)));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(bad("there is no key in it; `dormouse keygen` makes one"));
        }
        Ok(Self { keys })
    }

    /// A new line with a new key, under the id after the largest in `text`, which may be empty.
    ///
    /// # Errors
    /// As [`KeyRing::parse`]; also where all 255 ids are taken.
    pub fn new_line(text: &[u8], entropy: &dyn Entropy) -> Result<(u8, Zeroizing<String>)> {
        let largest = match text.trim_ascii() {
            [] => 0,
            _ => Self::parse(text)?.keys.iter().map(|key| key.id).max().unwrap_or_default(),
        };
        let id = largest.checked_add(1).ok_or_else(|| bad("all 255 ids are taken"))?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        entropy.fill(key.as_mut());
        let digits = Zeroizing::new(hex::encode(key.as_ref()));
        Ok((id, Zeroizing::new(format!("{id}:{}\n", digits.as_str()))))
    }

    /// The ids, the newest last.
    pub fn ids(&self) -> impl Iterator<Item = u8> {
        self.keys.iter().map(|key| key.id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// The key of this id.
    pub(super) fn get(&self, id: u8) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// The key for what is stored from now on.
    pub(super) fn newest(&self) -> &Key {
        self.keys.last().expect("`parse` leaves at least one")
    }
}

impl Key {
    fn parse(line: &str) -> Option<Self> {
        let (id, digits) = line.split_once(':')?;
        let id = id.trim().parse().ok().filter(|id| *id > 0)?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(digits.trim(), key.as_mut()).ok()?;
        Some(Self { id, check: check(id, &key), cipher: XChaCha20Poly1305::new((&*key).into()) })
    }
}

/// A key is 256 random bits, so its digest tells nothing but whether two are the same.
fn check(id: u8, key: &[u8; KEY_BYTES]) -> String {
    let mut text = Zeroizing::new(b"dormouse key check 1\0".to_vec());
    // Grown once, so that no copy of the key is left where the shorter one was.
    text.reserve_exact(1 + KEY_BYTES);
    text.push(id);
    text.extend_from_slice(key);
    hex::encode(&Digest::of(&text).as_bytes()[..CHECK_BYTES])
}

fn bad(what: impl fmt::Display) -> Error {
    Error::unusable(format!("the encryption keys cannot be used: {what}"))
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("ids", &self.ids().collect::<Vec<_>>()).finish()
    }
}

#[cfg(test)]
mod tests {
    use base::SystemEntropy;

    use super::*;

    const ONE: &str = "1:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn comments_and_order_are_kept_and_nothing_is_shown() {
        let two = ONE.replacen("1:", "7:", 1);
        let ring = KeyRing::parse(format!("# first\n{ONE}\n\n {two} \n").as_bytes()).unwrap();
        assert_eq!(ring.ids().collect::<Vec<_>>(), [1, 7]);
        assert_eq!(ring.newest().id, 7);
        assert_eq!(format!("{ring:?}"), "KeyRing { ids: [1, 7] }");
        assert_ne!(ring.get(1).unwrap().check, ring.get(7).unwrap().check);
    }

    #[test]
    fn a_bad_line_is_named_and_not_repeated() {
        let cases = [
            ("", "no key"),
            ("# only\n", "no key"),
            (&format!("{ONE}\n{ONE}"), "line 2"),
            (&ONE[..40], "line 1"),
            (&format!("{ONE}ff"), "line 1"),
            (&ONE.replacen("1:", "0:", 1), "line 1"),
            (&ONE.replacen("1:", "256:", 1), "line 1"),
            (&ONE.replacen("1:", "", 1), "line 1"),
        ];
        for (text, told) in cases {
            let error = KeyRing::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
            assert!(!error.contains("0001"), "{error}");
        }
        assert!(KeyRing::parse(&[0xff]).is_err());
        assert!(KeyRing::parse(&vec![b'#'; KEY_TEXT_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn a_new_line_follows_the_largest_id() {
        let (id, first) = KeyRing::new_line(b"", &SystemEntropy).unwrap();
        assert_eq!(id, 1);
        let (id, second) = KeyRing::new_line(first.as_bytes(), &SystemEntropy).unwrap();
        assert_eq!(id, 2);
        let both = format!("{}{}", first.as_str(), second.as_str());
        assert_eq!(KeyRing::parse(both.as_bytes()).unwrap().ids().collect::<Vec<_>>(), [1, 2]);
        let last = ONE.replacen("1:", "255:", 1);
        assert!(KeyRing::new_line(last.as_bytes(), &SystemEntropy).is_err());
    }
}
