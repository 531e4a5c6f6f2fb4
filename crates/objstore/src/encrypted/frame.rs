//! The bytes of an encrypted object: frames, each sealed by itself.
//!
//! ```text
//! u8 key id   20 bytes drawn for the object   u32 number of the frame   cipher text   16 bytes tag
//!             └──────────────────── the nonce ────────────────────┘
//! ```
//! XChaCha20-Poly1305. Also authenticated: the object's key, the frame's number, and whether it is the
//! last. Numbers are little-endian. docs/formats.md describes it to people.
//!
//! # Invariants
//! - No byte is handed out that was not authenticated as this place of this object.
//! - Frames that are opened together are of one writing of the object.
//!
//! # Not here
//! That an object was replaced whole by an earlier one of the same key: the store could do that, and
//! nothing in it can tell.

use bytes::{Bytes, BytesMut};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{Tag, XNonce};

use super::keys::KeyRing;
use super::range::{self, OVERHEAD, PLAIN, STORED};
use crate::{Error, Result};

/// Random bytes in the nonces of one object.
pub(super) const UNIQUE: usize = 20;
const NONCE: usize = 24;
const TAG: usize = 16;
/// Bytes of a frame before its cipher text.
const LEAD: usize = 1 + NONCE;

/// The stored object of `body` under the key `name`. `unique` is drawn at random.
pub(super) fn seal(keys: &KeyRing, name: &str, body: &[u8], unique: [u8; UNIQUE]) -> Result<Bytes> {
    let key = keys.newest();
    let frames = range::frames(body.len() as u64);
    let len = usize::try_from(range::stored_len(body.len() as u64)).unwrap_or(usize::MAX);
    let mut out = Vec::with_capacity(len);
    for number in 0..frames {
        let start = number as usize * PLAIN as usize;
        let plain = &body[start..body.len().min(start + PLAIN as usize)];
        let nonce = nonce(unique, number).ok_or_else(|| too_large(name))?;
        out.push(key.id);
        out.extend_from_slice(&nonce);
        let at = out.len();
        out.extend_from_slice(plain);
        let tag = key
            .cipher
            .encrypt_inout_detached(
                &nonce,
                &associated(name, number, number + 1 == frames),
                out[at..].as_mut().into(),
            )
            .map_err(|_| too_large(name))?;
        out.extend_from_slice(&tag);
    }
    debug_assert_eq!(out.len(), len, "sizes are what `range` says");
    Ok(out.into())
}

/// The plain bytes of `stored`, which is frames from number `first` on. `ends`: the last of them is
/// the object's last.
pub(super) fn open(
    keys: &KeyRing,
    name: &str,
    first: u64,
    stored: Bytes,
    ends: bool,
) -> Result<Bytes> {
    let damaged = |what| Error::corrupt(name, what);
    // In place where nobody else holds the bytes: one copy of a body, not two.
    let mut bytes = stored.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    let full = STORED as usize;
    let frames = bytes.len().div_ceil(full) as u64;
    let mut unique = None;
    let mut plain_end = 0;
    for index in 0..frames {
        let start = index as usize * full;
        let end = bytes.len().min(start + full);
        let number = first.checked_add(index).ok_or_else(|| damaged("it is too long"))?;
        let is_last = ends && index + 1 == frames;
        let frame = &mut bytes[start..end];
        if frame.len() < OVERHEAD as usize || (!is_last && frame.len() < full) {
            return Err(damaged("it is cut off"));
        }
        if frame.len() == OVERHEAD as usize && number > 0 {
            return Err(damaged("its last frame is empty"));
        }
        let (lead, rest) = frame.split_at_mut(LEAD);
        let (content, tag) = rest.split_at_mut(rest.len() - TAG);
        let nonce = XNonce::try_from(&lead[1..]).map_err(|_| damaged("it is cut off"))?;
        if *unique.get_or_insert_with(|| nonce[..UNIQUE].to_vec()) != nonce[..UNIQUE] {
            return Err(damaged("its frames are of different writings"));
        }
        let Some(key) = keys.get(lead[0]) else {
            return Err(Error::KeyMissing { key: name.to_owned(), id: lead[0] });
        };
        let tag = Tag::try_from(&*tag).map_err(|_| damaged("it is cut off"))?;
        key.cipher
            .decrypt_inout_detached(
                &nonce,
                &associated(name, number, is_last),
                (&mut *content).into(),
                &tag,
            )
            .map_err(|_| damaged("it was changed, cut off or moved, or its key is a wrong one"))?;
        let len = content.len();
        bytes.copy_within(start + LEAD..start + LEAD + len, plain_end);
        plain_end += len;
    }
    if frames == 0 {
        return Err(damaged("it is empty; even an object of no bytes has a frame"));
    }
    bytes.truncate(plain_end);
    Ok(bytes.freeze())
}

fn nonce(unique: [u8; UNIQUE], number: u64) -> Option<XNonce> {
    let mut nonce = [0; NONCE];
    nonce[..UNIQUE].copy_from_slice(&unique);
    nonce[UNIQUE..].copy_from_slice(&u32::try_from(number).ok()?.to_le_bytes());
    Some(nonce.into())
}

/// The parts after the name are of one length, so no two triples make the same bytes.
fn associated(name: &str, number: u64, is_last: bool) -> Vec<u8> {
    let mut data = Vec::with_capacity(name.len() + 9);
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&number.to_le_bytes());
    data.push(u8::from(is_last));
    data
}

fn too_large(name: &str) -> Error {
    Error::unusable(format!("object {name} is too large to be encrypted"))
}
