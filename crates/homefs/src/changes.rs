//! What a draft changed, found by comparing its database with the one it began on.
//!
//! No journal is kept while the draft is written: inode numbers are never used again and every
//! change gives a new version, so the two databases say it all, after any crash.
//!
//! Each directory is looked into once for each side, and a path is kept as a name below another
//! path. So time and memory go by the number of paths, however deep they lie; only who asks for the
//! paths themselves ([`between`]) pays for their length.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rusqlite::Connection;
use vfs::{Attr, Ino, ROOT, Result};

use self::paths::{Node, Paths, TOP};
use crate::limits::DEPTH_MAX;
use crate::meta::inode::Inode;
use crate::meta::schema;
use crate::meta::sql::{self, failed, int, uint};
use crate::settings::PathChange;

mod paths;
pub(crate) mod touched;

/// Every path that is different in `draft`, in order.
pub(crate) fn between(base: &Path, draft: &Path) -> Result<Vec<PathChange>> {
    let found = compare(base, draft)?;
    let in_order = found.paths.in_order().into_iter();
    let changes = in_order.filter_map(|(node, path)| {
        let Found { now, base } = found.changed.get(&node)?.clone();
        Some(PathChange { path, now, base })
    });
    Ok(changes.collect())
}

/// How many paths are different in `draft`.
pub(crate) fn count(base: &Path, draft: &Path) -> Result<u64> {
    Ok(compare(base, draft)?.changed.len() as u64)
}

/// What became of a path.
#[derive(Debug, Clone)]
struct Found {
    now: Option<Attr>,
    base: Option<(Ino, u64)>,
}

struct Compared {
    paths: Paths,
    changed: HashMap<Node, Found>,
}

/// `draft` as it is now, with `base` beside it.
fn attached(base: &Path, draft: &Path) -> Result<Connection> {
    let conn = schema::open_reader(draft)?;
    conn.execute("ATTACH ?1 AS base", [schema::immutable_uri(base)?]).map_err(failed)?;
    sql::run(&conn, "BEGIN", [])?;
    Ok(conn)
}

fn compare(base: &Path, draft: &Path) -> Result<Compared> {
    let conn = attached(base, draft)?;
    let mut changes = Changes {
        conn: &conn,
        changed: HashMap::new(),
        paths: Paths::default(),
        directories: HashMap::new(),
        expanded: HashSet::new(),
        in_base: HashMap::from([(TOP, Some((ROOT, 0)))]),
    };
    changes.removed()?;
    changes.named()?;
    changes.rewritten()?;
    Ok(Compared { paths: changes.paths, changed: changes.changed })
}

/// One of the two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    /// What the draft began on.
    Base,
    /// The draft.
    Draft,
}

impl Side {
    const fn children(self) -> &'static str {
        match self {
            Self::Base => "SELECT name,ino FROM base.dentry WHERE parent=?1",
            Self::Draft => "SELECT name,ino FROM main.dentry WHERE parent=?1",
        }
    }

    /// The one entry of a directory. Its parent narrows it down; the index is on parent and name.
    const fn up(self) -> &'static str {
        match self {
            Self::Base => {
                "SELECT parent,name FROM base.dentry WHERE ino=?1 AND parent=\
                 (SELECT parent FROM base.inode WHERE ino=?1)"
            }
            Self::Draft => {
                "SELECT parent,name FROM main.dentry WHERE ino=?1 AND parent=\
                 (SELECT parent FROM main.inode WHERE ino=?1)"
            }
        }
    }
}

struct Changes<'a> {
    conn: &'a Connection,
    changed: HashMap<Node, Found>,
    paths: Paths,
    /// Where directories are; `None` for one that has no path.
    directories: HashMap<(Side, Ino), Option<Node>>,
    /// Directories of which all entries are noted.
    expanded: HashSet<(Side, Ino)>,
    /// Inode and version at a path of the base.
    in_base: HashMap<Node, Option<(Ino, u64)>>,
}

impl Changes<'_> {
    /// Names that the draft does not have any more, or that stand for something else now, with all
    /// that was below them.
    fn removed(&mut self) -> Result<()> {
        const SQL: &str = "SELECT b.parent,b.name,b.ino FROM base.dentry b \
             WHERE NOT EXISTS (SELECT 1 FROM main.dentry d \
             WHERE d.parent=b.parent AND d.name=b.name AND d.ino=b.ino)";
        for (parent, name, ino) in self.entries(SQL)? {
            if let Some(directory) = self.directory(Side::Base, parent)? {
                let path = self.paths.below(directory, name);
                self.walk(Side::Base, path, ino)?;
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
            if let Some(directory) = self.directory(Side::Draft, parent)? {
                let path = self.paths.below(directory, name);
                self.walk(Side::Draft, path, ino)?;
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
            if let Some(directory) = self.directory(Side::Draft, parent)? {
                let path = self.paths.below(directory, name);
                self.note(path, Some(ino))?;
            }
        }
        Ok(())
    }

    fn entries(&self, sql: &str) -> Result<Vec<(Ino, Vec<u8>, Ino)>> {
        sql::all(self.conn, sql, [], |r| Ok((uint(r, 0)?, r.get(1)?, uint(r, 2)?)))
    }

    /// Notes `path` and everything below it, as `side` has it. Removed paths are walked first, so
    /// that what the draft has at such a path wins.
    fn walk(&mut self, side: Side, path: Node, ino: Ino) -> Result<()> {
        let mut open = vec![(path, ino)];
        while let Some((path, ino)) = open.pop() {
            self.note(path, (side == Side::Draft).then_some(ino))?;
            if !self.expanded.insert((side, ino)) {
                continue;
            }
            let below = sql::all(self.conn, side.children(), [int(ino)], |r| {
                Ok((r.get::<_, Vec<u8>>(0)?, uint(r, 1)?))
            })?;
            for (name, child) in below {
                open.push((self.paths.below(path, name), child));
            }
        }
        Ok(())
    }

    fn note(&mut self, path: Node, now: Option<Ino>) -> Result<()> {
        let now = match now {
            Some(ino) => Inode::find(self.conn, ino)?.map(|inode| inode.attr()),
            None => None,
        };
        let base = self.in_base(path)?;
        self.changed.insert(path, Found { now, base });
        Ok(())
    }

    /// Inode and version at a path of the base.
    fn in_base(&mut self, path: Node) -> Result<Option<(Ino, u64)>> {
        const NEXT: &str = "SELECT d.ino,i.version FROM base.dentry d \
             JOIN base.inode i ON i.ino=d.ino WHERE d.parent=?1 AND d.name=?2";
        let mut unknown = vec![path];
        let mut found = loop {
            let at = unknown.last().copied().unwrap_or(TOP);
            match self.in_base.get(&at) {
                Some(known) => {
                    unknown.pop();
                    break *known;
                }
                None => unknown.push(self.paths.parent(at)),
            }
        };
        while let Some(node) = unknown.pop() {
            if let Some((directory, _)) = found {
                let params = rusqlite::params![int(directory), self.paths.name(node)];
                found = sql::first(self.conn, NEXT, params, |r| Ok((uint(r, 0)?, uint(r, 1)?)))?;
            }
            self.in_base.insert(node, found);
        }
        Ok(found)
    }

    /// The path of a directory; `None` where it has none.
    fn directory(&mut self, side: Side, ino: Ino) -> Result<Option<Node>> {
        let (mut at, mut climbed) = (ino, Vec::new());
        let mut path = loop {
            if at == ROOT {
                break Some(TOP);
            }
            if let Some(known) = self.directories.get(&(side, at)) {
                break *known;
            }
            let next = sql::first(self.conn, side.up(), [int(at)], |r| {
                Ok((uint(r, 0)?, r.get::<_, Vec<u8>>(1)?))
            })?;
            match next {
                Some((parent, name)) if climbed.len() < DEPTH_MAX => {
                    climbed.push((at, name));
                    at = parent;
                }
                _ => {
                    self.directories.insert((side, at), None);
                    break None;
                }
            }
        };
        while let Some((ino, name)) = climbed.pop() {
            path = path.map(|above| self.paths.below(above, name));
            self.directories.insert((side, ino), path);
        }
        Ok(path)
    }
}
