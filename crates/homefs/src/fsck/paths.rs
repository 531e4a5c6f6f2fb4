//! Where files are, for people.

use rusqlite::Connection;
use vfs::Result;

use super::report::Problem;
use crate::limits::DEPTH_MAX;
use crate::meta::sql::{self, int, uint};

/// Paths told of one problem.
const PATHS_MAX: usize = 20;

/// Makes finding names and content of inodes fast. The copy is ours.
pub(super) fn prepare(conn: &Connection) -> Result<()> {
    const INDICES: &str = "CREATE INDEX fsck_dentry ON dentry(ino); \
         CREATE INDEX fsck_pack ON extent(pack) WHERE pack IS NOT NULL; \
         CREATE INDEX fsck_digest ON extent(digest) WHERE digest IS NOT NULL;";
    conn.execute_batch(INDICES).map_err(sql::failed)
}

/// Adds the paths of `inodes`, in their order, to a problem.
pub(super) fn add(conn: &Connection, problem: &mut Problem, inodes: &[u64]) -> Result<()> {
    for &ino in inodes {
        problem.paths_total += 1;
        if problem.paths.len() < PATHS_MAX {
            problem.paths.push(path(conn, ino)?);
        }
    }
    Ok(())
}

/// One path of an inode, from the root.
pub(super) fn path(conn: &Connection, ino: u64) -> Result<String> {
    const UP: &str = "SELECT parent,name FROM dentry WHERE ino=?1 ORDER BY parent,name LIMIT 1";
    let (mut names, mut at) = (Vec::new(), ino);
    while at != vfs::ROOT {
        let up = sql::first(conn, UP, [int(at)], |r| Ok((uint(r, 0)?, r.get::<_, Vec<u8>>(1)?)))?;
        match up {
            Some((parent, name)) if names.len() < DEPTH_MAX => {
                names.push(vfs::path::show(&name));
                at = parent;
            }
            // An open file without a name, or one that lost its way.
            _ => {
                names.push(format!("(inode {at}, without a path)"));
                names.reverse();
                return Ok(names.join("/"));
            }
        }
    }
    names.push(String::new());
    names.reverse();
    Ok(if names.len() == 1 { "/".to_owned() } else { names.join("/") })
}
