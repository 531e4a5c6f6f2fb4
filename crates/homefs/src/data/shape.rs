//! How the bytes of a stored object lie in it, and what a piece of it is worth.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::blocks::{BLOCK_BYTES, Blocks};

/// How the bytes of an object lie in the store.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// As they are.
    AsIs,
    /// In blocks, each with a sum.
    Blocks(Arc<Blocks>),
}

impl Shape {
    /// Content in each block that is fetched and kept.
    pub(super) fn unit(&self, as_is: u64) -> u64 {
        match self {
            Self::AsIs => as_is,
            Self::Blocks(_) => BLOCK_BYTES,
        }
    }
}

/// These blocks, which `stored` holds one after the other.
pub(super) fn unpack(
    blocks: &Blocks,
    wanted: Range<u64>,
    stored: &Bytes,
) -> Result<Vec<(u64, Bytes)>, &'static str> {
    let whole = blocks.stored(&wanted);
    if stored.len() as u64 != whole.end - whole.start {
        return Err("it is shorter or longer than it must be");
    }
    let one = |number| {
        let range = blocks.stored(&(number..number + 1));
        // Within `stored`, whose length was compared.
        let at = (range.start - whole.start) as usize..(range.end - whole.start) as usize;
        Ok((number, blocks.decode(number, &stored.slice(at))?))
    };
    wanted.map(one).collect()
}
