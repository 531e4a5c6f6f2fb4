//! What a home must hold: names, and content behind them. And what one does hold, read back whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vfs::{FileSystem, FsError, Ino, Kind, ROOT};

/// What a name stands for. Files by number, so that hard links show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Dir,
    /// A file.
    File(u64),
    /// A symbolic link and its target.
    Link(Vec<u8>),
}

/// Content and one extended attribute of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct File {
    /// Its bytes.
    pub data: Arc<Vec<u8>>,
    /// `user.sim`, where it is set.
    pub xattr: Option<Vec<u8>>,
    /// The act that last changed it; 0 where nobody counts. Not compared.
    pub changed: u64,
}

/// A tree by path, without the root.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// What each path stands for.
    pub names: BTreeMap<String, Entry>,
    /// The files by number.
    pub files: BTreeMap<u64, File>,
}

/// The extended attribute that acts set.
pub const XATTR: &[u8] = b"user.sim";

impl Tree {
    /// The first difference in names or content; `None` where there is none. Numbers of files may
    /// differ, but two names share a file here where they do there.
    #[must_use]
    pub fn differs(&self, other: &Self) -> Option<String> {
        self.names_differ(other).or_else(|| {
            self.names.iter().find_map(|(path, entry)| {
                let (Entry::File(mine), Some(Entry::File(theirs))) = (entry, other.names.get(path))
                else {
                    return None;
                };
                let (mine, theirs) = (self.files.get(mine)?, other.files.get(theirs)?);
                content_differs(path, mine, theirs)
            })
        })
    }

    /// As [`Tree::differs`], without looking at content.
    #[must_use]
    pub fn names_differ(&self, other: &Self) -> Option<String> {
        let paths: BTreeSet<&String> = self.names.keys().chain(other.names.keys()).collect();
        let (mut there, mut back) = (BTreeMap::new(), BTreeMap::new());
        for path in paths {
            let same = match (self.names.get(path), other.names.get(path)) {
                (Some(Entry::File(mine)), Some(Entry::File(theirs))) => {
                    *there.entry(*mine).or_insert(*theirs) == *theirs
                        && *back.entry(*theirs).or_insert(*mine) == *mine
                }
                (mine, theirs) => mine == theirs,
            };
            if !same {
                let (mine, theirs) = (self.names.get(path), other.names.get(path));
                return Some(format!("{path}: {mine:?} and {theirs:?}"));
            }
        }
        None
    }

    /// The file at a path.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<(u64, &File)> {
        match self.names.get(path) {
            Some(Entry::File(number)) => Some((*number, self.files.get(number)?)),
            _ => None,
        }
    }

    /// Paths of one kind.
    pub fn paths(&self, want: fn(&Entry) -> bool) -> Vec<String> {
        self.names.iter().filter(|(_, e)| want(e)).map(|(path, _)| path.clone()).collect()
    }

    /// Forgets files that no name stands for.
    pub fn sweep(&mut self) {
        let named: BTreeSet<u64> = self
            .names
            .values()
            .filter_map(|entry| if let Entry::File(number) = entry { Some(*number) } else { None })
            .collect();
        self.files.retain(|number, _| named.contains(number));
    }
}

/// What differs in two files at one path.
#[must_use]
pub fn content_differs(path: &str, mine: &File, theirs: &File) -> Option<String> {
    if mine.data != theirs.data {
        let at = mine.data.iter().zip(theirs.data.iter()).position(|(a, b)| a != b);
        let (mine, theirs) = (mine.data.len(), theirs.data.len());
        return Some(format!("{path}: content differs from {at:?} ({mine} and {theirs} bytes)"));
    }
    (mine.xattr != theirs.xattr).then(|| format!("{path}: the extended attribute differs"))
}

/// Reads all of a file system.
///
/// # Errors
/// The path and the error of the first call that fails.
pub fn observe(fs: &dyn FileSystem) -> Result<Tree, (String, FsError)> {
    let mut tree = Tree::default();
    let mut open = vec![(String::new(), ROOT)];
    while let Some((dir, ino)) = open.pop() {
        let mut cookie = 0;
        loop {
            let part = fs.readdir(ino, cookie, 7).map_err(|error| (dir.clone(), error))?;
            let Some(last) = part.last() else { break };
            cookie = last.cookie;
            for found in part {
                let name = String::from_utf8_lossy(&found.name).into_owned();
                let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                let entry = read_entry(fs, &mut tree, found.attr.ino, found.attr.kind)
                    .map_err(|error| (path.clone(), error))?;
                if entry == Entry::Dir {
                    open.push((path.clone(), found.attr.ino));
                }
                tree.names.insert(path, entry);
            }
        }
    }
    Ok(tree)
}

fn read_entry(fs: &dyn FileSystem, tree: &mut Tree, ino: Ino, kind: Kind) -> vfs::Result<Entry> {
    Ok(match kind {
        Kind::Directory => Entry::Dir,
        Kind::Symlink => Entry::Link(fs.readlink(ino)?),
        _ => {
            if let std::collections::btree_map::Entry::Vacant(vacant) = tree.files.entry(ino) {
                let data = Arc::new(content(fs, ino)?);
                let xattr = match fs.getxattr(ino, XATTR) {
                    Ok(value) => Some(value),
                    Err(error) if error.errno() == vfs::Errno::ENODATA => None,
                    Err(error) => return Err(error),
                };
                vacant.insert(File { data, xattr, changed: 0 });
            }
            Entry::File(ino)
        }
    })
}

/// All bytes of a file.
///
/// # Errors
/// Those of the file system.
pub fn content(fs: &dyn FileSystem, ino: Ino) -> vfs::Result<Vec<u8>> {
    let size = fs.getattr(ino)?.size;
    let mut data = Vec::new();
    while (data.len() as u64) < size {
        let part = fs.read(ino, data.len() as u64, 1 << 20)?;
        if part.is_empty() {
            break;
        }
        data.extend_from_slice(&part);
    }
    Ok(data)
}
