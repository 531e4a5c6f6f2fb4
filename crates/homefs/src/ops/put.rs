//! A small file, whole, in one transaction: how most uploads arrive.

use bytes::Bytes;
use vfs::{Expect, Ino, Placed, Result};

use super::content;
use super::names::{self, New};
use super::place::give_name;
use crate::meta::inode::Tier;
use crate::meta::tx::Tx;

/// Makes a file with `content`, at most `INLINE_BYTES_MAX` of it, and names it by `path` below `base`.
pub(crate) fn put(
    tx: &mut Tx<'_>,
    base: Ino,
    path: &[&[u8]],
    new: New,
    content: &[u8],
    expect: Expect,
) -> Result<Placed> {
    let size = content.len() as u64;
    tx.check_room()?;
    tx.check_space(size)?;
    let mut inode = names::fresh(tx, new);
    inode.size = size;
    inode.tier = Tier::of_size(size);
    if size > 0 {
        content::set_inline(tx, &mut inode, Bytes::copy_from_slice(content));
    }
    give_name(tx, &inode, base, path, expect)
}
