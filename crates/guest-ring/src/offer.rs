//! What is said about a ring over the port: framed as FUSE frames its messages, with numbers that it does not have.

/// Opcode of an [`Offer`].
pub const OFFER_OPCODE: u32 = 0xd0_4d_52_01;
/// Opcode of a bell to the host.
pub const BELL_OPCODE: u32 = 0xd0_4d_52_02;
/// `unique` of an [`Offer`] and of the answer to it. The kernel counts its requests up from 0.
pub const OFFER_UNIQUE: u64 = u64::MAX - 1;
/// `unique` of a bell to the guest.
pub const BELL_UNIQUE: u64 = u64::MAX;

/// `struct fuse_in_header`, `struct fuse_out_header`.
const REQUEST_HEADER_BYTES: usize = 40;
const REPLY_HEADER_BYTES: usize = 16;
const OFFER_BYTES: usize = REQUEST_HEADER_BYTES + 24;

/// A guest has a ring. Answered with error 0 by a host that uses it from then on; each host that the guest finds
/// itself with is told, and until it has answered everything goes over the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The guest's address of the area to the host.
    pub to_host: u64,
    /// The same for the area to the guest.
    pub to_guest: u64,
    /// What both are marked with.
    pub token: u64,
}

impl Offer {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> [u8; OFFER_BYTES] {
        let mut message = [0; OFFER_BYTES];
        message[..REQUEST_HEADER_BYTES].copy_from_slice(&request(
            OFFER_BYTES,
            OFFER_OPCODE,
            OFFER_UNIQUE,
        ));
        message[40..48].copy_from_slice(&self.to_host.to_le_bytes());
        message[48..56].copy_from_slice(&self.to_guest.to_le_bytes());
        message[56..].copy_from_slice(&self.token.to_le_bytes());
        message
    }

    /// What `message` offers; none where it does not.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        let (header, body) = message.split_first_chunk::<REQUEST_HEADER_BYTES>()?;
        if header[4..8] != OFFER_OPCODE.to_ne_bytes() {
            return None;
        }
        let (to_host, rest) = body.split_first_chunk()?;
        let (to_guest, rest) = rest.split_first_chunk()?;
        let (token, []) = rest.split_first_chunk()? else { return None };
        let number = u64::from_le_bytes;
        Some(Self { to_host: number(*to_host), to_guest: number(*to_guest), token: number(*token) })
    }

    /// The answer of a host: that it uses the ring, or an error number.
    #[must_use]
    pub fn answer(errno: i32) -> [u8; REPLY_HEADER_BYTES] {
        reply(errno, OFFER_UNIQUE)
    }
}

/// A message that means only that there are some in the ring.
#[must_use]
pub fn bell_to_host() -> [u8; REQUEST_HEADER_BYTES] {
    request(REQUEST_HEADER_BYTES, BELL_OPCODE, BELL_UNIQUE)
}

/// The same to the guest.
#[must_use]
pub fn bell_to_guest() -> [u8; REPLY_HEADER_BYTES] {
    reply(0, BELL_UNIQUE)
}

fn request(bytes: usize, opcode: u32, unique: u64) -> [u8; REQUEST_HEADER_BYTES] {
    let mut header = [0; REQUEST_HEADER_BYTES];
    header[..4].copy_from_slice(&(bytes as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&opcode.to_ne_bytes());
    header[8..16].copy_from_slice(&unique.to_ne_bytes());
    header
}

fn reply(errno: i32, unique: u64) -> [u8; REPLY_HEADER_BYTES] {
    let mut header = [0; REPLY_HEADER_BYTES];
    header[..4].copy_from_slice(&(REPLY_HEADER_BYTES as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&(-errno).to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_what_was_offered_and_nothing_else_is_one() {
        let offer = Offer { to_host: 2 << 20, to_guest: 4 << 20, token: 77 };
        let message = offer.encode();
        assert_eq!(Offer::decode(&message), Some(offer));
        assert_eq!(message[..4], 64_u32.to_ne_bytes());
        for other in
            [&message[..63], &[&message[..], &[0]].concat(), &bell_to_host(), b"", &[0; 64]]
        {
            assert_eq!(Offer::decode(other), None);
        }
        assert_eq!(Offer::answer(22)[4..8], (-22_i32).to_ne_bytes());
    }
}
