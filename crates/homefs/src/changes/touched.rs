//! What a kernel that knows the base has to forget before it sees the draft.
//!
//! Inode numbers are never used again, so a name stands for the same inode on both sides or changed its
//! meaning; and a directory that lost its name takes what is below it along.

use std::path::Path;

use vfs::{Result, Touched};

use super::attached;
use crate::meta::sql::{self, int, uint};

/// Names that mean something else in `draft`, or nothing, or nothing before; inodes that changed or are
/// gone. `None` where it is more than `max` of either.
pub(crate) fn between(base: &Path, draft: &Path, max: u64) -> Result<Option<Touched>> {
    const NAMES: &str = "SELECT parent,name FROM ( \
         SELECT b.parent,b.name FROM base.dentry b \
         LEFT JOIN main.dentry d ON d.parent=b.parent AND d.name=b.name \
         WHERE d.ino IS NULL OR d.ino<>b.ino \
         UNION ALL \
         SELECT d.parent,d.name FROM main.dentry d \
         LEFT JOIN base.dentry b ON b.parent=d.parent AND b.name=d.name \
         WHERE b.ino IS NULL) LIMIT ?1";
    const INODES: &str = "SELECT b.ino FROM base.inode b \
         LEFT JOIN main.inode i ON i.ino=b.ino \
         WHERE i.ino IS NULL OR i.version<>b.version LIMIT ?1";
    let conn = attached(base, draft)?;
    let bound = int(max.saturating_add(1));
    let entries = sql::all(&conn, NAMES, [bound], |r| Ok((uint(r, 0)?, r.get(1)?)))?;
    let inodes = sql::all(&conn, INODES, [bound], |r| uint(r, 0))?;
    let most = entries.len().max(inodes.len()) as u64;
    Ok((most <= max).then_some(Touched { entries, inodes }))
}
