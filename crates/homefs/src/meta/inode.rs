//! The row of an inode.

use rusqlite::{Connection, Row, params};
use vfs::{Attr, Errno, FsError, Ino, Kind, Owner, Result, Time};

use super::sql::{self, int, uint};

/// Where content of a file goes when it is sealed. Only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// A row of `blob`.
    Inline,
    /// Pieces of packs.
    Pack,
    /// Chunks, and pieces of packs over them.
    Chunked,
}

impl Tier {
    /// The tier a file of `size` bytes needs at least.
    pub(crate) fn of_size(size: u64) -> Self {
        match size {
            0..=crate::limits::INLINE_BYTES_MAX => Self::Inline,
            n if n <= crate::limits::PACK_FILE_BYTES_MAX => Self::Pack,
            _ => Self::Chunked,
        }
    }

    pub(crate) fn number(self) -> u64 {
        self as u64
    }

    pub(crate) fn from_number(number: i64) -> Self {
        match number {
            0 => Self::Inline,
            1 => Self::Pack,
            _ => Self::Chunked,
        }
    }
}

/// One inode as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Inode {
    pub(crate) ino: Ino,
    pub(crate) kind: Kind,
    pub(crate) perm: u32,
    pub(crate) nlink: u32,
    pub(crate) owner: Owner,
    pub(crate) rdev: u32,
    pub(crate) size: u64,
    /// Bytes of content that are not holes.
    pub(crate) alloc: u64,
    pub(crate) atime: i64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
    pub(crate) btime: i64,
    pub(crate) version: u64,
    pub(crate) tier: Tier,
    /// The directory a directory is in, itself for the root, 0 for all else.
    pub(crate) parent: Ino,
}

impl Inode {
    /// Reads columns `at`… of a row that selected all columns of `inode` in their order.
    pub(crate) fn from_row(row: &Row<'_>, at: usize) -> rusqlite::Result<Self> {
        Ok(Self {
            ino: uint(row, at)?,
            kind: kind_from_number(row.get(at + 1)?),
            perm: row.get(at + 2)?,
            nlink: row.get(at + 3)?,
            owner: Owner { uid: row.get(at + 4)?, gid: row.get(at + 5)? },
            rdev: row.get(at + 6)?,
            size: uint(row, at + 7)?,
            alloc: uint(row, at + 8)?,
            atime: row.get(at + 9)?,
            mtime: row.get(at + 10)?,
            ctime: row.get(at + 11)?,
            btime: row.get(at + 12)?,
            version: uint(row, at + 13)?,
            tier: Tier::from_number(row.get(at + 14)?),
            parent: uint(row, at + 15)?,
        })
    }

    /// The inode of that number, if it exists.
    pub(crate) fn find(conn: &Connection, ino: Ino) -> Result<Option<Self>> {
        const SQL: &str = "SELECT i.ino,i.kind,i.perm,i.nlink,i.uid,i.gid,i.rdev,i.size,i.alloc,\
             i.atime,i.mtime,i.ctime,i.btime,i.version,i.tier,i.parent FROM inode i WHERE i.ino=?1";
        sql::first(conn, SQL, [int(ino)], |r| Self::from_row(r, 0))
    }

    /// The inode of that number; `ENOENT` without it.
    pub(crate) fn get(conn: &Connection, ino: Ino) -> Result<Self> {
        Self::find(conn, ino)?.ok_or(FsError::new(Errno::ENOENT))
    }

    /// Writes it, new or changed.
    pub(crate) fn save(&self, conn: &Connection) -> Result<()> {
        const SQL: &str = "INSERT INTO inode VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16) \
             ON CONFLICT(ino) DO UPDATE SET perm=?3,nlink=?4,uid=?5,gid=?6,size=?8,alloc=?9,\
             atime=?10,mtime=?11,ctime=?12,version=?14,tier=?15,parent=?16";
        sql::run(
            conn,
            SQL,
            params![
                int(self.ino),
                kind_number(self.kind),
                self.perm,
                self.nlink,
                self.owner.uid,
                self.owner.gid,
                self.rdev,
                int(self.size),
                int(self.alloc),
                self.atime,
                self.mtime,
                self.ctime,
                self.btime,
                int(self.version),
                int(self.tier.number()),
                int(self.parent),
            ],
        )?;
        Ok(())
    }

    /// As callers see it.
    pub(crate) fn attr(&self) -> Attr {
        Attr {
            ino: self.ino,
            kind: self.kind,
            perm: self.perm,
            nlink: self.nlink,
            owner: self.owner,
            rdev: self.rdev,
            size: self.size,
            blocks: self.alloc.div_ceil(512),
            atime: Time(self.atime),
            mtime: Time(self.mtime),
            ctime: Time(self.ctime),
            btime: Time(self.btime),
            version: self.version,
        }
    }
}

fn kind_number(kind: Kind) -> i64 {
    i64::from(kind.mode_bits() >> 12)
}

/// A number that names no kind is damage; it reads as a socket, which nobody can open.
fn kind_from_number(number: i64) -> Kind {
    u32::try_from(number).ok().and_then(|n| Kind::from_mode(n << 12)).unwrap_or(Kind::Socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_changes_just_past_its_largest_file() {
        assert_eq!(Tier::of_size(16 << 10), Tier::Inline);
        assert_eq!(Tier::of_size((16 << 10) + 1), Tier::Pack);
        assert_eq!(Tier::of_size(4 << 20), Tier::Pack);
        assert_eq!(Tier::of_size((4 << 20) + 1), Tier::Chunked);
    }
}
