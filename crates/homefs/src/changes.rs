//! What a draft changed, found by comparing its database with the one it began on.
//!
//! No journal is kept while the draft is written: inode numbers are never used again and every
//! change gives a new version, so the two databases say it all, after any crash.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rusqlite::Connection;
use vfs::{Ino, ROOT, Result};

use crate::limits::DEPTH_MAX;
use crate::meta::inode::Inode;
use crate::meta::schema;
use crate::meta::sql::{self, failed, int, uint};
use crate::settings::PathChange;

type Names = Vec<Vec<u8>>;

/// Every path that is different in `draft`, in order.
pub(crate) fn between(base: &Path, draft: &Path) -> Result<Vec<PathChange>> {
    let conn = schema::open_reader(draft)?;
    conn.execute("ATTACH ?1 AS base", [schema::immutable_uri(base)?]).map_err(failed)?;
    sql::run(&conn, "BEGIN", [])?;
    let mut changes = Changes { conn: &conn, found: BTreeMap::new(), paths: HashMap::new() };
    changes.removed()?;
    changes.named()?;
    changes.rewritten()?;
    Ok(changes.found.into_values().collect())
}

struct Changes<'a> {
    conn: &'a Connection,
    found: BTreeMap<Names, PathChange>,
    /// Paths of directories, of the draft (`main`) and of the base.
    paths: HashMap<(&'static str, Ino), Option<Names>>,
}

impl Changes<'_> {
    /// Names that the draft does not have any more, with all below them.
    fn removed(&mut self) -> Result<()> {
        const SQL: &str = "SELECT b.parent,b.name,b.ino FROM base.dentry b \
             WHERE NOT EXISTS (SELECT 1 FROM main.dentry d WHERE d.parent=b.parent AND d.name=b.name)";
        for (parent, name, ino) in self.entries(SQL)? {
            if let Some(path) = self.path("base", parent, name)? {
                self.walk("base", path, ino)?;
            }
        }
        Ok(())
    }

    /// Names that are new or stand for something else, with all below them.
    fn named(&mut self) -> Result<()> {
        const SQL: &str = "SELECT d.parent,d.name,d.ino FROM main.dentry d \
             LEFT JOIN base.dentry b ON b.parent=d.parent AND b.name=d.name \
             WHERE b.ino IS NULL OR b.ino<>d.ino";
        for (parent, name, ino) in self.entries(SQL)? {
            if let Some(path) = self.path("main", parent, name)? {
                self.walk("main", path, ino)?;
            }
        }
        Ok(())
    }

    /// Inodes that changed under the names they had.
    fn rewritten(&mut self) -> Result<()> {
        // A directory's version also changes with its entries; those are found by themselves.
        const SQL: &str = "SELECT d.parent,d.name,d.ino FROM main.inode i \
             JOIN base.inode b ON b.ino=i.ino AND b.version<>i.version \
             JOIN main.dentry d ON d.ino=i.ino \
             WHERE i.kind<>4 OR i.perm<>b.perm OR i.uid<>b.uid OR i.gid<>b.gid";
        for (parent, name, ino) in self.entries(SQL)? {
            if let Some(path) = self.path("main", parent, name)? {
                self.note(path, Some(ino))?;
            }
        }
        Ok(())
    }

    fn entries(&self, sql: &str) -> Result<Vec<(Ino, Vec<u8>, Ino)>> {
        sql::all(self.conn, sql, [], |r| Ok((uint(r, 0)?, r.get(1)?, uint(r, 2)?)))
    }

    /// Notes `path` and everything below it, as `side` has it.
    fn walk(&mut self, side: &'static str, path: Names, ino: Ino) -> Result<()> {
        let children = match side {
            "main" => "SELECT name,ino FROM main.dentry WHERE parent=?1",
            _ => "SELECT name,ino FROM base.dentry WHERE parent=?1",
        };
        let mut open = vec![(path, ino)];
        while let Some((path, ino)) = open.pop() {
            let below = sql::all(self.conn, children, [int(ino)], |r| {
                Ok((r.get::<_, Vec<u8>>(0)?, uint(r, 1)?))
            })?;
            for (name, child) in below {
                let mut inner = path.clone();
                inner.push(name);
                open.push((inner, child));
            }
            // Removed paths come first, so that what the draft has at such a path wins.
            self.note(path, (side == "main").then_some(ino))?;
        }
        Ok(())
    }

    fn note(&mut self, path: Names, now: Option<Ino>) -> Result<()> {
        let now = match now {
            Some(ino) => Inode::find(self.conn, ino)?.map(|inode| inode.attr()),
            None => None,
        };
        let base = self.in_base(&path)?;
        self.found.insert(path.clone(), PathChange { path, now, base });
        Ok(())
    }

    /// Inode and version at a path of the base.
    fn in_base(&self, path: &[Vec<u8>]) -> Result<Option<(Ino, u64)>> {
        const NEXT: &str = "SELECT d.ino,i.version FROM base.dentry d \
             JOIN base.inode i ON i.ino=d.ino WHERE d.parent=?1 AND d.name=?2";
        let mut at = (ROOT, 0);
        for name in path {
            let next = sql::first(self.conn, NEXT, rusqlite::params![int(at.0), name], |r| {
                Ok((uint(r, 0)?, uint(r, 1)?))
            })?;
            match next {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// The path of an entry; `None` for one in a directory that itself has no path.
    fn path(&mut self, side: &'static str, parent: Ino, name: Vec<u8>) -> Result<Option<Names>> {
        Ok(self.directory(side, parent)?.map(|mut path| {
            path.push(name);
            path
        }))
    }

    fn directory(&mut self, side: &'static str, ino: Ino) -> Result<Option<Names>> {
        if let Some(known) = self.paths.get(&(side, ino)) {
            return Ok(known.clone());
        }
        let up = match side {
            "main" => {
                "SELECT parent,name FROM main.dentry WHERE ino=?1 AND parent=\
                       (SELECT parent FROM main.inode WHERE ino=?1)"
            }
            _ => {
                "SELECT parent,name FROM base.dentry WHERE ino=?1 AND parent=\
                  (SELECT parent FROM base.inode WHERE ino=?1)"
            }
        };
        // The parent narrows it to the one entry of a directory; the index is on parent and name.
        let mut names = Vec::new();
        let mut at = ino;
        let path = loop {
            if at == ROOT {
                names.reverse();
                break Some(names);
            }
            let next = sql::first(self.conn, up, [int(at)], |r| {
                Ok((uint(r, 0)?, r.get::<_, Vec<u8>>(1)?))
            })?;
            match next {
                Some((parent, name)) if names.len() < DEPTH_MAX => {
                    names.push(name);
                    at = parent;
                }
                _ => break None,
            }
        };
        self.paths.insert((side, ino), path.clone());
        Ok(path)
    }
}
