//! The directories of a published state, told beside its pages.
//!
//! Whoever looks up `/a/b/c/f` in place needs leaves for each step, and every leaf may be a request.
//! So a full state tells its directories in one piece: then only the last step needs leaves. They are
//! what the database says, read from the same pages; a reader of a later state does not use them.
//!
//! ```text
//! zstd of: number of directories; for each the fields of its inode and its name, parents first
//! ```
//!
//! # Bounds
//! The first [`DIRS_MAX`] directories by depth. What is not told is found in the database.

use std::collections::{BTreeMap, HashMap};

use rusqlite::Connection;
use vfs::{Ino, Kind, Owner, ROOT, Result};

use super::inode::{Inode, Tier};
use super::sql::{self, uint};
use crate::replica::varint::{Reader, Writer, zigzag};

/// Directories that are told: some 20 bytes each in the store, 150 in memory.
const DIRS_MAX: usize = 16_384;
/// Inodes of a home whose directories are told at all: finding them reads all rows.
const INODES_MAX: u64 = 4_000_000;
/// Bytes of hints, unpacked.
const BYTES_MAX: usize = 8 << 20;
const ZSTD_LEVEL: i32 = 3;

/// Directories by number and by name.
#[derive(Debug, Default)]
pub(crate) struct Dirs {
    by_ino: HashMap<Ino, Inode>,
    by_name: HashMap<(Ino, Box<[u8]>), Ino>,
}

impl Dirs {
    /// The directory of that number, if it was told.
    pub(crate) fn get(&self, ino: Ino) -> Option<&Inode> {
        self.by_ino.get(&ino)
    }

    /// The directory of that name, if there is one and it was told.
    pub(crate) fn lookup(&self, parent: Ino, name: &[u8]) -> Option<&Inode> {
        // A lookup must not copy the name, so the key is built only where the parent is known.
        self.by_ino.get(&parent)?;
        self.by_ino.get(self.by_name.get(&(parent, name.into()))?)
    }

    /// Reads what [`collect`] wrote. Hints that make no sense are none.
    pub(crate) fn read(hints: &[u8]) -> Self {
        Self::parse(hints).unwrap_or_default()
    }

    fn parse(hints: &[u8]) -> Option<Self> {
        if hints.is_empty() {
            return None;
        }
        let plain = zstd::bulk::decompress(hints, BYTES_MAX).ok()?;
        let mut from = Reader::new(&plain);
        let count = from.count(12)?;
        let mut dirs = Self::default();
        let mut before = Before::default();
        for _ in 0..count.min(DIRS_MAX) {
            let inode = before.read(&mut from)?;
            let len = usize::try_from(from.number()?).ok()?;
            let name = from.slice(len)?;
            if inode.ino != ROOT {
                dirs.by_name.insert((inode.parent, name.into()), inode.ino);
            }
            dirs.by_ino.insert(inode.ino, inode);
        }
        (from.left() == 0).then_some(dirs)
    }
}

/// Most fields are near those of the directory before.
#[derive(Debug, Default)]
struct Before([i64; 11]);

impl Before {
    fn write(&mut self, inode: &Inode, out: &mut Writer) {
        for (before, now) in self.0.iter_mut().zip(fields(inode)) {
            out.number(zigzag(now.wrapping_sub(*before)));
            *before = now;
        }
    }

    fn read(&mut self, from: &mut Reader<'_>) -> Option<Inode> {
        for before in &mut self.0 {
            let step = from.number()?;
            let step = (step >> 1) as i64 ^ -((step & 1) as i64);
            *before = before.wrapping_add(step);
        }
        let [ino, parent, perm, nlink, uid, gid, atime, mtime, ctime, btime, version] = self.0;
        let small = |number: i64| u32::try_from(number).ok();
        Some(Inode {
            ino: u64::try_from(ino).ok()?,
            kind: Kind::Directory,
            perm: small(perm)?,
            nlink: small(nlink)?,
            owner: Owner { uid: small(uid)?, gid: small(gid)? },
            rdev: 0,
            size: 0,
            alloc: 0,
            atime,
            mtime,
            ctime,
            btime,
            version: u64::try_from(version).ok()?,
            tier: Tier::Inline,
            parent: u64::try_from(parent).ok()?,
        })
    }
}

fn fields(inode: &Inode) -> [i64; 11] {
    [
        sql::int(inode.ino),
        sql::int(inode.parent),
        i64::from(inode.perm),
        i64::from(inode.nlink),
        i64::from(inode.owner.uid),
        i64::from(inode.owner.gid),
        inode.atime,
        inode.mtime,
        inode.ctime,
        inode.btime,
        sql::int(inode.version),
    ]
}

/// The directories of a database, for [`Dirs::read`]. Empty where there are too many inodes to look.
pub(crate) fn collect(conn: &Connection) -> Result<Vec<u8>> {
    const USED: &str = "SELECT value FROM kv WHERE name='inodes_used'";
    const DIRS: &str = "SELECT i.ino,i.kind,i.perm,i.nlink,i.uid,i.gid,i.rdev,i.size,i.alloc,\
         i.atime,i.mtime,i.ctime,i.btime,i.version,i.tier,i.parent FROM inode i WHERE i.kind=4";
    let used = sql::first(conn, USED, [], |r| uint(r, 0))?.unwrap_or(u64::MAX);
    if used > INODES_MAX {
        return Ok(Vec::new());
    }
    let mut inodes: HashMap<Ino, Inode> = sql::all(conn, DIRS, [], |r| Inode::from_row(r, 0))?
        .into_iter()
        .map(|i| (i.ino, i))
        .collect();
    // Those that other code would see differently are left to the database.
    inodes.retain(|_, inode| inode.size == 0 && inode.alloc == 0 && inode.rdev == 0);
    let mut children: BTreeMap<Ino, Vec<(Vec<u8>, Ino)>> = BTreeMap::new();
    sql::all(conn, "SELECT parent,name,ino FROM dentry", [], |r| {
        let ino = uint(r, 2)?;
        if inodes.contains_key(&ino) {
            children.entry(uint(r, 0)?).or_default().push((r.get(1)?, ino));
        }
        Ok(())
    })?;
    let mut out = Writer::default();
    let mut told = vec![(Vec::new(), ROOT)];
    let mut next = 0;
    while let Some((_, ino)) = told.get(next) {
        told.extend(children.remove(ino).unwrap_or_default());
        told.truncate(DIRS_MAX);
        next += 1;
    }
    told.retain(|(_, ino)| inodes.contains_key(ino));
    out.number(told.len() as u64);
    let mut before = Before::default();
    for (name, ino) in &told {
        before.write(&inodes[ino], &mut out);
        out.number(name.len() as u64);
        out.bytes(name);
    }
    let plain = out.into_bytes();
    if plain.len() > BYTES_MAX {
        return Ok(Vec::new());
    }
    Ok(zstd::bulk::compress(&plain, ZSTD_LEVEL)
        .expect("compressing from memory to memory fails only without memory"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::params;

    use super::super::rows::Rows as _;
    use super::super::schema;
    use super::*;

    /// The root, `wide` directories in it, and a chain of `deep` in the first of these.
    fn tree(wide: u64, deep: u64) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        schema::create(&conn, 7).unwrap();
        let add = |ino: u64, parent: u64, kind: u32| {
            const INODE: &str =
                "INSERT INTO inode VALUES(?1,?2,448,2,1000,?3,0,0,0,?1,?4,-5,7,?1,0,?5)";
            let at = 1_790_000_000_000_000_000 - int(ino);
            conn.execute(INODE, params![int(ino), kind, int(ino % 3), at, int(parent)]).unwrap();
            let name = format!("name {ino}");
            conn.execute(
                "INSERT INTO dentry VALUES(?1,?2,?3,?3)",
                params![int(parent), name.as_bytes(), int(ino)],
            )
            .unwrap();
        };
        for n in 0..wide {
            add(10 + n, ROOT, 4);
        }
        add(5, ROOT, 8);
        for n in 0..deep {
            add(100_000 + n, if n == 0 { 10 } else { 99_999 + n }, 4);
        }
        conn
    }

    use super::sql::int;

    #[test]
    fn what_is_told_is_what_the_database_says() {
        let conn = tree(50, 30);
        let dirs = Dirs::read(&collect(&conn).unwrap());
        assert_eq!(dirs.by_ino.len(), 81);
        for ino in [ROOT, 10, 59, 100_000, 100_029] {
            let (told, row) = (dirs.get(ino).unwrap(), conn.get(ino).unwrap());
            assert_eq!(told.attr(), row.attr(), "{ino}");
        }
        assert_eq!(dirs.lookup(ROOT, b"name 33").unwrap().ino, 33);
        assert_eq!(dirs.lookup(100_003, b"name 100004").unwrap().ino, 100_004);
        for (parent, name) in
            [(ROOT, &b"name 5"[..]), (ROOT, b"name 100001"), (5, b"name 33"), (ROOT, b"")]
        {
            assert!(dirs.lookup(parent, name).is_none());
        }
        assert!(dirs.get(5).is_none());
    }

    #[test]
    fn of_too_many_the_first_ones_are_told() {
        let conn = tree(DIRS_MAX as u64 + 100, 3);
        let dirs = Dirs::read(&collect(&conn).unwrap());
        assert_eq!(dirs.by_ino.len(), DIRS_MAX);
        assert!(dirs.get(100_000).is_none() && dirs.get(ROOT).is_some());
    }

    proptest! {
        #[test]
        fn hints_that_make_no_sense_are_none(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
        ) {
            Dirs::read(&bytes);
            Dirs::read(&zstd::bulk::compress(&bytes, 1).unwrap());
            let good = zstd::bulk::decompress(&collect(&tree(5, 5)).unwrap(), 1 << 20).unwrap();
            let mut bad = good;
            let at = at.index(bad.len());
            bad[at] ^= 0x55;
            Dirs::read(&zstd::bulk::compress(&bad, 1).unwrap());
        }
    }
}
