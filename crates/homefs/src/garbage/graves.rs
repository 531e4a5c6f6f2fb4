//! The dead of a home, as its database has them.
//!
//! A pack without live bytes and a chunk without references move to `grave` in the transaction of
//! the round whose commit is the first without them. Riders (packs in the data section of a commit)
//! have the commit's key in their grave: it is not deleted with the grave, but not before either.
//!
//! What was never stored just goes. Its local file goes with the next look at local copies.

use base::Digest;
use rusqlite::{Connection, params};
use vfs::Result;

use crate::meta::sql::{self, int, uint};

/// Graves read at a time.
const PAGE: u64 = 500;

/// An object that nothing names any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grave {
    /// Its key below the home's prefix.
    pub(crate) key: String,
    /// The commit that stored it first.
    pub(crate) born: u64,
    /// The first commit without it.
    pub(crate) died: u64,
    /// Its size.
    pub(crate) bytes: u64,
}

impl Grave {
    /// True of the grave of a rider: the commit is still of use as a commit.
    pub(crate) fn is_rider(&self) -> bool {
        self.key.starts_with("log/")
    }
}

/// Buries what nothing names any more; the commit `seq` that is to come will be without it.
pub(crate) fn bury(conn: &Connection, seq: u64) -> Result<()> {
    const PACKS: &str = "INSERT OR REPLACE INTO grave(key,born,died,bytes) \
         SELECT CASE place WHEN 1 THEN 'packs/'||epoch||'-'||id ELSE printf('log/%020d',seq) END,\
         CASE place WHEN 1 THEN born ELSE seq END,?1,len FROM pack WHERE live=0 AND place<>0";
    const CHUNKS: &str = "INSERT OR REPLACE INTO grave(key,born,died,bytes) \
         SELECT 'chunks/'||lower(substr(hex(digest),1,2))||'/'||lower(hex(digest))||\
         CASE born WHEN 0 THEN '' ELSE '-'||born END,born,?1,len FROM chunk WHERE refs=0 AND stored<>0";
    for (bury, remove) in
        [(PACKS, "DELETE FROM pack WHERE live=0"), (CHUNKS, "DELETE FROM chunk WHERE refs=0")]
    {
        sql::run(conn, bury, [int(seq)])?;
        sql::run(conn, remove, [])?;
    }
    Ok(())
}

/// A chunk lives under the name that it has for commit `born`, whatever died under it before.
pub(crate) fn reopen(conn: &Connection, digest: &Digest, born: u64) -> Result<()> {
    let hex = digest.to_string();
    let key = format!("chunks/{}/{hex}-{born}", &hex[..2]);
    sql::run(conn, "DELETE FROM grave WHERE key=?1", [key])?;
    Ok(())
}

/// Graves that speak of a commit after `newest`, which was never made, die with the first one that
/// is: the one after the claim that took its number.
pub(crate) fn postpone(conn: &Connection, newest: u64) -> Result<()> {
    const SQL: &str = "UPDATE grave SET died=?1+2 WHERE died>?1";
    sql::run(conn, SQL, [int(newest)])?;
    Ok(())
}

/// Graves after `key` in their order, of what died at or before commit `upto`.
pub(crate) fn after(conn: &Connection, key: &str, upto: u64) -> Result<Vec<Grave>> {
    const SQL: &str =
        "SELECT key,born,died,bytes FROM grave WHERE key>?1 AND died<=?2 ORDER BY key LIMIT ?3";
    sql::all(conn, SQL, params![key, int(upto), int(PAGE)], |r| {
        Ok(Grave { key: r.get(0)?, born: uint(r, 1)?, died: uint(r, 2)?, bytes: uint(r, 3)? })
    })
}

/// True where anything is buried.
pub(crate) fn any(conn: &Connection) -> Result<bool> {
    Ok(sql::first(conn, "SELECT 1 FROM grave LIMIT 1", [], |_| Ok(()))?.is_some())
}

/// The commits up to `upto` whose data is still named, or was until not long ago.
pub(crate) fn ridden(conn: &Connection, upto: u64) -> Result<Vec<u64>> {
    const LIVE: &str = "SELECT seq FROM pack WHERE place=2 AND seq<=?1";
    const DEAD: &str = "SELECT born FROM grave WHERE key LIKE 'log/%' AND born<=?1";
    let mut numbers = sql::all(conn, LIVE, [int(upto)], |r| uint(r, 0))?;
    numbers.extend(sql::all(conn, DEAD, [int(upto)], |r| uint(r, 0))?);
    Ok(numbers)
}

/// These are gone from the store.
pub(crate) fn remove(conn: &Connection, keys: &[String]) -> Result<()> {
    for key in keys {
        sql::run(conn, "DELETE FROM grave WHERE key=?1", [key])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base::{Epoch, HomeId};

    use super::*;
    use crate::layout::HomeKeys;
    use crate::meta::schema;

    #[test]
    fn who_comes_back_under_the_same_name_leaves_the_grave() {
        let conn = Connection::open_in_memory().unwrap();
        schema::create(&conn, 0).unwrap();
        let digest = Digest::of(b"x");
        let insert = "INSERT INTO chunk(digest,len,refs,stored,born) VALUES(?1,5,0,1,9)";
        conn.execute(insert, [digest.as_bytes()]).unwrap();
        bury(&conn, 9).unwrap();
        reopen(&conn, &digest, 8).unwrap();
        assert!(any(&conn).unwrap(), "born for another commit, it has another name");
        reopen(&conn, &digest, 9).unwrap();
        assert!(!any(&conn).unwrap());
    }

    #[test]
    fn the_dead_are_buried_under_the_names_they_have() {
        let conn = Connection::open_in_memory().unwrap();
        schema::create(&conn, 0).unwrap();
        let digest = Digest::of(b"x");
        conn.execute_batch(
            "INSERT INTO pack(id,epoch,len,place,seq,born) VALUES\
             (1,3,10,1,0,7),(2,3,20,2,9,9),(3,3,30,0,0,0),(4,3,40,1,0,8);
             INSERT INTO extent VALUES(5,0,1,4,NULL,0);",
        )
        .unwrap();
        for (n, born) in [(0_u8, 0), (1, 6)] {
            let digest = if n == 0 { digest } else { Digest::of(b"y") };
            conn.execute(
                "INSERT INTO chunk(digest,len,stored,born) VALUES(?1,5,1,?2)",
                params![digest.as_bytes(), born],
            )
            .unwrap();
        }
        bury(&conn, 12).unwrap();
        let keys = HomeKeys::new(HomeId::generate());
        let mut expected = vec![
            (keys.pack(Epoch(3), 1), 7),
            (keys.log(9), 9),
            (keys.chunk(&digest, 0), 0),
            (keys.chunk(&Digest::of(b"y"), 6), 6),
        ];
        expected.sort();
        let found = after(&conn, "", 12).unwrap();
        let named: Vec<_> =
            found.iter().map(|g| (format!("{}{}", keys.prefix(), g.key), g.born)).collect();
        assert_eq!(named, expected);
        assert!(found.iter().all(|grave| grave.died == 12));
        assert_eq!(found.iter().filter(|grave| grave.is_rider()).count(), 1);
        assert!(after(&conn, "", 11).unwrap().is_empty());
        assert_eq!(after(&conn, &found[1].key, 12).unwrap(), found[2..]);
        assert_eq!(ridden(&conn, 9).unwrap(), [9]);
        let left = sql::all(&conn, "SELECT id FROM pack", [], |r| uint(r, 0)).unwrap();
        assert_eq!(left, [4], "what was never stored went without a grave");
        postpone(&conn, 11).unwrap();
        assert!(after(&conn, "", 100).unwrap().iter().all(|grave| grave.died == 13));
        postpone(&conn, 13).unwrap();
        assert!(after(&conn, "", 100).unwrap().iter().all(|grave| grave.died == 13));
    }
}
