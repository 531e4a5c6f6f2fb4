//! A record's bytes as rows. Nothing in them is believed before it was checked.

use base::ErrorKind;
use vfs::{Errno, FsError, Ino, Kind, NAME_BYTES_MAX, Owner, Result};

use super::{
    BLOB, COVER, CUT, ENTRY, INODE, Item, NO_BLOB, NO_ENTRY, NO_INODE, NO_ORPHAN, NO_SPOOLED,
    ORPHAN, PATCH, SPOOLED, SpoolStep, UNCOVER,
};
use crate::front::delta::EntryKey;
use crate::limits::INLINE_BYTES_MAX;
use crate::meta::counters::Counters;
use crate::meta::inode::{Inode, Tier};
use crate::meta::rows::{Entry, Spooled};

/// Reads a record's counters into `counters` and hands its rows to `each`.
pub(crate) fn decode(
    record: &[u8],
    counters: &mut Counters,
    mut each: impl FnMut(Item<'_>) -> Result<()>,
) -> Result<()> {
    let mut rest = Reader(record);
    counters.next_ino = rest.number()?;
    counters.next_cookie = rest.number()?;
    counters.version = rest.number()?;
    counters.bytes_used = rest.number()?;
    counters.inodes_used = rest.number()?;
    while let Some((tag, after)) = rest.0.split_first() {
        rest.0 = after;
        each(rest.item(*tag)?)?;
    }
    Ok(())
}

/// What is left of a record.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn item(&mut self, tag: u8) -> Result<Item<'a>> {
        let ino = self.number()?;
        Ok(match tag {
            INODE => Item::Inode(ino, Some(self.inode(ino)?)),
            NO_INODE => Item::Inode(ino, None),
            ENTRY | NO_ENTRY => {
                let key = EntryKey { parent: ino, name: self.bytes(NAME_BYTES_MAX)?.into() };
                let entry = (tag == ENTRY)
                    .then(|| {
                        Ok::<_, FsError>(Entry { ino: self.number()?, cookie: self.number()? })
                    })
                    .transpose()?;
                Item::Entry(key, entry)
            }
            BLOB => Item::Blob(ino, Some(self.bytes(INLINE_BYTES_MAX as usize)?)),
            NO_BLOB => Item::Blob(ino, None),
            PATCH => {
                let at = self.number()?;
                let bytes = self.bytes(INLINE_BYTES_MAX as usize)?;
                if at > INLINE_BYTES_MAX {
                    return Err(damaged());
                }
                // It fits: it was compared with a small number.
                Item::Patch(ino, at as usize, bytes)
            }
            ORPHAN => Item::Orphan(ino, Some(self.number()? != 0)),
            NO_ORPHAN => Item::Orphan(ino, None),
            CUT => Item::Cut(ino, self.number()?),
            SPOOLED => {
                let row = Spooled {
                    generation: self.number()?,
                    sealed_size: self.number()?,
                    sealed_mtime: self.number()?.cast_signed(),
                    sealed_version: self.number()?,
                    layers: Vec::new(),
                };
                Item::Spool(SpoolStep::Set(ino, row))
            }
            COVER | UNCOVER => {
                let (generation, start, end) = (self.number()?, self.number()?, self.number()?);
                Item::Spool(if tag == COVER {
                    SpoolStep::Cover { ino, generation, start, end }
                } else {
                    SpoolStep::Uncover { ino, generation, start, end }
                })
            }
            NO_SPOOLED => Item::Spool(SpoolStep::Drop(ino)),
            _ => return Err(damaged()),
        })
    }

    fn inode(&mut self, ino: Ino) -> Result<Inode> {
        let mode = self.small()?;
        let kind = Kind::from_mode(mode).ok_or_else(damaged)?;
        let tier = Tier::from_number(i64::from(self.small()?));
        let (nlink, uid, gid, rdev) = (self.small()?, self.small()?, self.small()?, self.small()?);
        Ok(Inode {
            ino,
            kind,
            perm: mode & 0o7777,
            tier,
            nlink,
            owner: Owner { uid, gid },
            rdev,
            size: self.number()?,
            alloc: self.number()?,
            version: self.number()?,
            parent: self.number()?,
            atime: self.time()?,
            mtime: self.time()?,
            ctime: self.time()?,
            btime: self.time()?,
        })
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or_else(damaged)?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(damaged())
    }

    fn small(&mut self) -> Result<u32> {
        u32::try_from(self.number()?).map_err(|_| damaged())
    }

    fn time(&mut self) -> Result<i64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(i64::from_le_bytes(*bytes))
    }

    fn bytes(&mut self, max: usize) -> Result<&'a [u8]> {
        let len = usize::try_from(self.number()?).map_err(|_| damaged())?;
        if len > max || len > self.0.len() {
            return Err(damaged());
        }
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(bytes)
    }
}

fn damaged() -> FsError {
    FsError::of_kind(
        ErrorKind::Corrupt,
        Errno::EIO,
        "the home's journal holds a record that makes no sense",
    )
}
