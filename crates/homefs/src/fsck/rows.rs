//! The rows of a home compared with each other.
//!
//! Each rule is one query for what breaks it. A row that it finds names an inode, or 0, and says the
//! particulars. Rules rely only on tables, never on counters that other rules check.

use rusqlite::Connection;
use vfs::Result;

use super::paths;
use super::report::{Problem, Report};
use crate::meta::sql::{self, uint};

/// Rows that one rule tells; beyond, the home is beyond telling.
const ROWS_MAX: usize = 1_000;

/// What a broken rule means.
#[derive(Clone, Copy, PartialEq)]
enum Means {
    /// Content cannot be read.
    Lost,
    /// Something is wrong; content can be read.
    Damaged,
}

struct Rule {
    means: Means,
    table: &'static str,
    what: &'static str,
    /// Columns: inode, particulars.
    sql: &'static str,
}

const fn lost(table: &'static str, what: &'static str, sql: &'static str) -> Rule {
    Rule { means: Means::Lost, table, what, sql }
}

const fn damaged(table: &'static str, what: &'static str, sql: &'static str) -> Rule {
    Rule { means: Means::Damaged, table, what, sql }
}

/// Kinds as in column `inode.kind`: 4 directory, 8 file, 10 symbolic link.
const RULES: &[Rule] = &[
    damaged(
        "inode",
        "there is no root directory",
        "SELECT 1,'' WHERE NOT EXISTS (SELECT 1 FROM inode WHERE ino=1 AND kind=4)",
    ),
    lost(
        "dentry",
        "a name stands for a file that is not there",
        "SELECT d.parent,quote(d.name) FROM dentry d LEFT JOIN inode i ON i.ino=d.ino \
         WHERE i.ino IS NULL",
    ),
    damaged(
        "dentry",
        "a name is in something that is no directory",
        "SELECT d.ino,'in inode '||d.parent FROM dentry d LEFT JOIN inode i ON i.ino=d.parent \
         WHERE i.kind IS NOT 4",
    ),
    lost(
        "inode",
        "a file has no name",
        "SELECT i.ino,'' FROM inode i WHERE i.ino<>1 \
         AND NOT EXISTS (SELECT 1 FROM dentry d WHERE d.ino=i.ino) \
         AND NOT EXISTS (SELECT 1 FROM orphan o WHERE o.ino=i.ino)",
    ),
    damaged(
        "inode",
        "the link count of a file is wrong",
        "SELECT i.ino,i.nlink||', not '||(SELECT count(*) FROM dentry d WHERE d.ino=i.ino) \
         FROM inode i WHERE i.kind<>4 \
         AND i.nlink<>(SELECT count(*) FROM dentry d WHERE d.ino=i.ino)",
    ),
    damaged(
        "inode",
        "the link count of a directory is wrong",
        "SELECT i.ino,i.nlink||', not '||(2+n) FROM (SELECT d.ino,d.nlink,\
         (SELECT count(*) FROM dentry c JOIN inode s ON s.ino=c.ino \
          WHERE c.parent=d.ino AND s.kind=4) AS n FROM inode d WHERE d.kind=4 \
          AND NOT EXISTS (SELECT 1 FROM orphan o WHERE o.ino=d.ino)) i WHERE i.nlink<>2+n",
    ),
    damaged(
        "inode",
        "a directory has several names, or does not know where it is",
        "SELECT i.ino,'in inode '||i.parent FROM inode i JOIN dentry d ON d.ino=i.ino \
         WHERE i.kind=4 AND (i.parent<>d.parent OR \
         (SELECT count(*) FROM dentry e WHERE e.ino=i.ino)>1)",
    ),
    lost(
        "inode",
        "a directory cannot be reached from the root",
        "WITH RECURSIVE reached(ino) AS (SELECT 1 UNION \
          SELECT d.ino FROM reached r JOIN dentry d ON d.parent=r.ino \
          JOIN inode i ON i.ino=d.ino AND i.kind=4) \
         SELECT i.ino,'' FROM inode i WHERE i.kind=4 AND i.ino NOT IN (SELECT ino FROM reached) \
         AND NOT EXISTS (SELECT 1 FROM orphan o WHERE o.ino=i.ino)",
    ),
    lost(
        "extent",
        "content is said to be in a pack or chunk that is not known",
        "SELECT e.ino,'at byte '||e.off FROM extent e LEFT JOIN pack p ON p.id=e.pack \
         LEFT JOIN chunk c ON c.digest=e.digest \
         WHERE (p.id IS NULL)=(c.digest IS NULL) OR (e.pack IS NULL)=(e.digest IS NULL)",
    ),
    lost(
        "extent",
        "content is said to lie behind the end of its pack or chunk",
        "SELECT e.ino,'at byte '||e.off FROM extent e LEFT JOIN pack p ON p.id=e.pack \
         LEFT JOIN chunk c ON c.digest=e.digest WHERE e.src<0 OR e.len<=0 OR e.off<0 \
         OR e.src+e.len>COALESCE(p.len,c.len)",
    ),
    damaged(
        "extent",
        "two pieces of one file overlap",
        "SELECT ino,'at byte '||off FROM (SELECT ino,off,\
         lag(off+len) OVER (PARTITION BY ino ORDER BY off) AS before FROM extent) \
         WHERE before>off",
    ),
    lost(
        "pack",
        "content was never stored",
        "SELECT DISTINCT e.ino,'pack '||p.epoch||'-'||p.id FROM pack p \
         JOIN extent e ON e.pack=p.id WHERE p.place=0",
    ),
    lost(
        "chunk",
        "content was never stored",
        "SELECT DISTINCT e.ino,'chunk '||lower(hex(c.digest)) FROM chunk c \
         JOIN extent e ON e.digest=c.digest WHERE c.stored=0",
    ),
    lost(
        "blob",
        "a small file or a symbolic link has lost its content",
        "SELECT i.ino,i.size||' bytes' FROM inode i WHERE \
         (i.kind=10 OR (i.kind=8 AND i.tier=0 AND i.alloc>0)) \
         AND NOT EXISTS (SELECT 1 FROM blob b WHERE b.ino=i.ino) \
         AND NOT EXISTS (SELECT 1 FROM extent e WHERE e.ino=i.ino) \
         AND NOT EXISTS (SELECT 1 FROM dirty_extent e WHERE e.ino=i.ino)",
    ),
    damaged(
        "rows",
        "something belongs to a file that is not there",
        "SELECT 0,t||' of inode '||ino FROM (SELECT 'blob' AS t,ino FROM blob UNION ALL \
         SELECT DISTINCT 'extent',ino FROM extent UNION ALL \
         SELECT DISTINCT 'xattr',ino FROM xattr UNION ALL \
         SELECT 'orphan',ino FROM orphan UNION ALL SELECT 'dirty_inode',ino FROM dirty_inode \
         UNION ALL SELECT DISTINCT 'dirty_extent',ino FROM dirty_extent) \
         WHERE ino NOT IN (SELECT ino FROM inode)",
    ),
    damaged(
        "pack",
        "the count of live bytes is wrong",
        "SELECT 0,'pack '||p.epoch||'-'||p.id||': '||p.live||', not '||n FROM (SELECT p.*,\
         COALESCE((SELECT sum(e.len) FROM extent e WHERE e.pack=p.id),0) AS n FROM pack p) p \
         WHERE p.live<>n",
    ),
    damaged(
        "chunk",
        "the count of references is wrong",
        "SELECT 0,'chunk '||lower(hex(c.digest))||': '||c.refs||', not '||n FROM (SELECT c.*,\
         (SELECT count(*) FROM extent e WHERE e.digest=c.digest) AS n FROM chunk c) c \
         WHERE c.refs<>n",
    ),
    damaged(
        "kv",
        "the bytes in use are counted wrong",
        "SELECT 0,k.value||', not '||n FROM kv k,(SELECT COALESCE(sum(alloc),0) AS n FROM inode) \
         WHERE k.name='bytes_used' AND k.value<>n",
    ),
    damaged(
        "kv",
        "the inodes are counted wrong",
        "SELECT 0,k.value||', not '||n FROM kv k,(SELECT count(*) AS n FROM inode) \
         WHERE k.name='inodes_used' AND k.value<>n",
    ),
    damaged(
        "kv",
        "a number would be used twice",
        "SELECT 0,k.name FROM kv k WHERE \
         (k.name='next_ino' AND k.value<=(SELECT max(ino) FROM inode)) OR \
         (k.name='next_cookie' AND k.value<(SELECT max(cookie) FROM dentry)) OR \
         (k.name='version' AND k.value<(SELECT max(version) FROM inode))",
    ),
];

/// Applies every rule, and counts what there is.
pub(super) fn check(conn: &Connection, report: &mut Report) -> Result<()> {
    paths::prepare(conn)?;
    for rule in RULES {
        let sql = format!("{} LIMIT {ROWS_MAX}", rule.sql);
        let found = sql::all(conn, &sql, [], |row| Ok((uint(row, 0)?, row.get::<_, String>(1)?)))?;
        for (ino, particulars) in found {
            let what = match particulars.as_str() {
                "" => rule.what.to_owned(),
                particulars => format!("{} ({particulars})", rule.what),
            };
            let mut problem = Problem::new(format!("table {}", rule.table), what);
            if ino > 0 {
                paths::add(conn, &mut problem, &[ino])?;
            }
            match rule.means {
                Means::Lost => report.lost.add(problem),
                Means::Damaged => report.damaged.add(problem),
            }
        }
    }
    let count =
        |sql: &str| sql::first(conn, sql, [], |row| uint(row, 0)).map(Option::unwrap_or_default);
    report.checked.inodes = count("SELECT count(*) FROM inode")?;
    report.checked.bytes = count("SELECT COALESCE(sum(alloc),0) FROM inode")?;
    report.checked.unsealed = count("SELECT count(*) FROM dirty_inode")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use base::HomeId;

    use super::super::report::Depth;
    use super::*;
    use crate::meta::schema;

    fn home(changes: &str) -> Report {
        let conn = Connection::open_in_memory().unwrap();
        schema::create(&conn, 0).unwrap();
        // A directory with a file of two extents and one small file.
        let good = "INSERT INTO inode VALUES(2,4,493,2,0,0,0,0,0,0,0,0,0,1,0,1);\
             INSERT INTO inode VALUES(3,8,420,1,0,0,0,30,30,0,0,0,0,1,1,0);\
             INSERT INTO inode VALUES(4,8,420,1,0,0,0,5,5,0,0,0,0,1,0,0);\
             UPDATE inode SET nlink=3 WHERE ino=1;\
             INSERT INTO dentry VALUES(1,x'64',2,1),(2,x'66',3,2),(2,x'73',4,3);\
             INSERT INTO pack(id,epoch,len,place,seq) VALUES(7,1,30,1,0);\
             INSERT INTO extent VALUES(3,0,10,7,NULL,0),(3,10,20,7,NULL,10);\
             INSERT INTO blob VALUES(4,x'0000000000');\
             UPDATE kv SET value=5 WHERE name='next_ino';\
             UPDATE kv SET value=4 WHERE name IN ('next_cookie','inodes_used');\
             UPDATE kv SET value=35 WHERE name='bytes_used';";
        conn.execute_batch(good).unwrap();
        conn.execute_batch(changes).unwrap();
        let mut report = Report::new(HomeId::generate(), None, Depth::Quick);
        check(&conn, &mut report).unwrap();
        report
    }

    #[test]
    fn a_sound_home_breaks_no_rule() {
        let report = home("");
        assert!(report.is_clean(), "{report:#?}");
        assert_eq!((report.checked.inodes, report.checked.bytes), (4, 35));
    }

    #[test]
    fn each_damage_is_found_and_told_apart() {
        for (changes, lost, path) in [
            ("DELETE FROM inode WHERE ino=4;", true, "/d"),
            ("DELETE FROM dentry WHERE ino=3;", true, "(inode 3, without a path)"),
            ("UPDATE inode SET nlink=2 WHERE ino=3;", false, "/d/f"),
            ("UPDATE inode SET nlink=9 WHERE ino=1;", false, "/"),
            ("UPDATE inode SET parent=3 WHERE ino=2;", false, "/d"),
            ("INSERT INTO dentry VALUES(3,x'78',4,9);", false, "/d/s"),
            ("DELETE FROM pack;", true, "/d/f"),
            ("UPDATE pack SET len=29;", true, "/d/f"),
            ("UPDATE extent SET off=5 WHERE off=10;", false, "/d/f"),
            ("UPDATE pack SET place=0;", true, "/d/f"),
            ("DELETE FROM blob;", true, "/d/s"),
            ("UPDATE pack SET live=31;", false, ""),
            ("INSERT INTO xattr VALUES(99,x'61',x'62');", false, ""),
            ("INSERT INTO chunk(digest,len,stored,refs) VALUES(x'00',1,1,1);", false, ""),
            ("UPDATE kv SET value=1 WHERE name='bytes_used';", false, ""),
            ("UPDATE kv SET value=1 WHERE name='inodes_used';", false, ""),
            ("UPDATE kv SET value=2 WHERE name='next_ino';", false, ""),
        ] {
            let report = home(changes);
            assert!(!report.is_clean(), "{changes}");
            assert_eq!(report.lost.total > 0, lost, "{changes} {report:#?}");
            let all = report.lost.items.iter().chain(&report.damaged.items);
            let mut paths = all.flat_map(|problem| &problem.paths);
            assert!(path.is_empty() || paths.any(|found| found == path), "{changes} {report:#?}");
        }
    }
}
