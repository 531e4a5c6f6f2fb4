//! Operations by path, for callers that have no kernel between them and the tree.
//!
//! Symbolic links are followed inside the home only, by our own walk: a target that is absolute and
//! not below `/root`, or that climbs above the root, is refused with an error that names the link. No
//! path of the host is ever opened.
//!
//! # Atomicity
//! A put is written to a detached inode and then placed in one step; dropping a [`Put`] leaves no
//! trace. A recursive removal is one graft.
//!
//! # Not here
//! Streams and HTTP (`keeper::files`), tar ([`crate::tar`]).

use std::sync::Arc;

use crate::held::Held;
use crate::path::{LinkTarget, TreePath, show};
use crate::{
    Attr, DirEntry, Errno, Expect, FileSystem, FsError, Graft, Ino, Kind, NewFile, Owner, Placed,
    ROOT, Result, SetAttr, SetTime, Touched,
};

/// Links followed in one walk before `ELOOP` (Linux has the same number).
const LINKS_MAX: usize = 40;

/// Permission bits of a new file where the caller names none.
const FILE_PERM: u32 = 0o644;

/// Whether a link at the end of the path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// Look at what it points to.
    Follow,
    /// Look at the link itself.
    Keep,
}

/// Where a walk ended.
#[derive(Debug, Clone)]
pub struct Walk {
    /// The deepest directory that exists on the way.
    pub dir: Ino,
    /// The names that are left: empty for the root, one where the parent exists.
    pub rest: Vec<Vec<u8>>,
    /// What stands at the path, where something does.
    pub found: Option<Attr>,
}

/// Walks `path` from the root as far as it exists.
///
/// # Errors
/// `ENOTDIR` naming the component that is not a directory, `ELOOP`, `EXDEV` for links that leave
/// the home.
pub fn walk(fs: &dyn FileSystem, path: &TreePath, last: Last) -> Result<Walk> {
    // Names still to go, next one at the end; directories above us, for `..` in link targets.
    let mut todo: Vec<Vec<u8>> = path.parts().iter().rev().cloned().collect();
    let mut above: Vec<Ino> = Vec::new();
    let mut dir = ROOT;
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == b".." {
            // Only link targets bring these. At the root they would leave the home.
            dir = above.pop().ok_or_else(|| outside(path))?;
            continue;
        }
        let child = match fs.lookup(dir, &name) {
            Ok(child) => child,
            Err(error) if error.errno() == Errno::ENOENT => {
                todo.push(name);
                todo.reverse();
                if todo.iter().any(|name| name == b"..") {
                    return Err(missing(path));
                }
                return Ok(Walk { dir, rest: todo, found: None });
            }
            Err(error) => return Err(error),
        };
        if child.kind == Kind::Symlink && (last == Last::Follow || !todo.is_empty()) {
            links += 1;
            if links > LINKS_MAX {
                return Err(FsError::with(
                    Errno::ELOOP,
                    format!("{path}: more than {LINKS_MAX} symbolic links on the way"),
                ));
            }
            match LinkTarget::parse(&fs.readlink(child.ino)?) {
                LinkTarget::Outside => return Err(outside(path)),
                LinkTarget::FromRoot(parts) => {
                    above.clear();
                    dir = ROOT;
                    todo.extend(parts.into_iter().rev());
                }
                LinkTarget::Relative(parts) => todo.extend(parts.into_iter().rev()),
            }
            continue;
        }
        if todo.is_empty() {
            return Ok(Walk { dir, rest: vec![name], found: Some(child) });
        }
        if child.kind != Kind::Directory {
            return Err(FsError::with(
                Errno::ENOTDIR,
                format!("{path}: {:?} on the way is not a directory", show(&name)),
            ));
        }
        above.push(dir);
        dir = child.ino;
    }
    // The walk ended on a directory it had entered already: the root, or the `..` of a link.
    Ok(Walk { dir, rest: Vec::new(), found: Some(fs.getattr(dir)?) })
}

/// What stands at `path`.
///
/// # Errors
/// `ENOENT` naming the path, and those of [`walk`].
pub fn stat(fs: &dyn FileSystem, path: &TreePath, last: Last) -> Result<Attr> {
    walk(fs, path, last)?.found.ok_or_else(|| missing(path))
}

/// A directory's entries after `cookie`.
///
/// # Errors
/// `ENOTDIR` where it is something else.
pub fn list(
    fs: &dyn FileSystem,
    path: &TreePath,
    cookie: u64,
    max: usize,
) -> Result<Vec<DirEntry>> {
    let attr = stat(fs, path, Last::Follow)?;
    if attr.kind != Kind::Directory {
        return Err(FsError::with(Errno::ENOTDIR, format!("{path} is not a directory")));
    }
    fs.readdir(attr.ino, cookie, max)
}

/// A file on its way in. Dropped before [`finish`](Self::finish), it was never there.
#[derive(Debug)]
pub struct Put<'a> {
    fs: Held<'a>,
    ino: Ino,
    at: u64,
}

impl Put<'static> {
    /// As [`begin`](Put::begin), for a caller that comes back with every piece.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn begin_shared(fs: Arc<dyn FileSystem>) -> Result<Self> {
        Self::begin_held(Held::Shared(fs))
    }
}

impl<'a> Put<'a> {
    /// Makes the detached inode that takes the bytes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn begin(fs: &'a dyn FileSystem) -> Result<Self> {
        Self::begin_held(Held::Borrowed(fs))
    }

    fn begin_held(fs: Held<'a>) -> Result<Self> {
        let attr = fs.get().create_detached(Kind::File, FILE_PERM, Owner::default())?;
        Ok(Self { fs, ino: attr.ino, at: 0 })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// `ENOSPC`, `EFBIG` and whatever else the file system says.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        if !data.is_empty() {
            self.fs.get().write(self.ino, self.at, data)?;
            self.at += data.len() as u64;
        }
        Ok(())
    }

    /// Gives the file its name. A replaced file leaves its mode and owner to the new one unless
    /// `perm` says otherwise.
    ///
    /// # Errors
    /// `EISDIR` for a directory, `ESTALE` or `EEXIST` where `expect` does not hold.
    pub fn finish(self, path: &TreePath, expect: Expect, perm: Option<u32>) -> Result<Placed> {
        let (walk, before) = walk_to_file(self.fs.get(), path)?;
        let set = SetAttr {
            perm: perm.or(before.map(|attr| attr.perm)),
            uid: before.map(|attr| attr.owner.uid),
            gid: before.map(|attr| attr.owner.gid),
            ..SetAttr::default()
        };
        if set != SetAttr::default() {
            self.fs.get().setattr(self.ino, &set)?;
        }
        let parts: Vec<&[u8]> = walk.rest.iter().map(Vec::as_slice).collect();
        self.fs
            .get()
            .place(self.ino, walk.dir, &parts, expect)
            .map_err(|error| name_it(error, path))
    }
}

impl Drop for Put<'_> {
    fn drop(&mut self) {
        self.fs.get().unpin(self.ino);
    }
}

/// Puts a file whose bytes are all there, in one call of the file system. Mode and owner are as
/// [`Put::finish`] chooses them.
///
/// # Errors
/// Those of [`Put`]; nothing has changed then.
pub fn put_file(
    fs: &dyn FileSystem,
    path: &TreePath,
    content: &[u8],
    expect: Expect,
    perm: Option<u32>,
) -> Result<Placed> {
    let (walk, before) = walk_to_file(fs, path)?;
    let perm = perm.or(before.map(|attr| attr.perm)).unwrap_or(FILE_PERM);
    let owner = before.map(|attr| attr.owner).unwrap_or_default();
    let parts: Vec<&[u8]> = walk.rest.iter().map(Vec::as_slice).collect();
    let file = NewFile { content, perm, owner };
    fs.put_file(walk.dir, &parts, &file, expect).map_err(|error| name_it(error, path))
}

/// Where a file that is put goes, and the regular file that stands there.
fn walk_to_file(fs: &dyn FileSystem, path: &TreePath) -> Result<(Walk, Option<Attr>)> {
    if path.is_root() {
        return Err(FsError::with(
            Errno::EISDIR,
            "the home itself is a directory; name a file below it",
        ));
    }
    let walk = walk(fs, path, Last::Follow)?;
    if let Some(found) = &walk.found
        && (found.kind == Kind::Directory || walk.rest.is_empty())
    {
        return Err(FsError::with(Errno::EISDIR, format!("{path} is a directory")));
    }
    let before = walk.found.filter(|found| found.kind == Kind::File);
    Ok((walk, before))
}

/// Removes what stands at `path`; the link itself where it is one.
///
/// # Errors
/// `ENOENT`; `ENOTEMPTY` for a directory with entries unless `recursive`; `ESTALE` where `expect`
/// does not hold; `EBUSY` for the root.
pub fn remove(
    fs: &dyn FileSystem,
    path: &TreePath,
    recursive: bool,
    expect: Expect,
) -> Result<Touched> {
    if path.is_root() {
        return Err(FsError::with(
            Errno::EBUSY,
            "the home itself cannot be removed; delete the machine",
        ));
    }
    let walk = walk(fs, path, Last::Keep)?;
    let attr = walk.found.ok_or_else(|| missing(path))?;
    let [name] = walk.rest.as_slice() else {
        return Err(FsError::with(
            Errno::EINVAL,
            format!("{path} names the home itself through a link"),
        ));
    };
    let mut guard = None;
    if let Expect::Version(ino, version) = expect {
        if attr.ino != ino || attr.version != version {
            return Err(FsError::with(Errno::ESTALE, format!("{path} changed meanwhile")));
        }
        guard = Some((name.as_slice(), ino, version));
    }
    let is_dir = attr.kind == Kind::Directory;
    // A guarded removal is checked where it is done, so that a newer file is never taken.
    if recursive && is_dir || guard.is_some() && !is_dir {
        return graft_removal(fs, walk.dir, name, guard).map_err(|error| name_it(error, path));
    }
    if is_dir {
        fs.rmdir(walk.dir, name).map_err(|error| match error.errno() {
            Errno::ENOTEMPTY => FsError::with(
                Errno::ENOTEMPTY,
                format!(
                    "{path} is a directory with entries; recursive=true removes it with all of them"
                ),
            ),
            _ => error,
        })?;
    } else {
        fs.unlink(walk.dir, name)?;
    }
    Ok(Touched { entries: vec![(walk.dir, name.clone())], inodes: vec![walk.dir, attr.ino] })
}

/// A whole directory goes in one step, so nobody sees half of it.
fn graft_removal(
    fs: &dyn FileSystem,
    dir: Ino,
    name: &[u8],
    expect: Option<(&[u8], Ino, u64)>,
) -> Result<Touched> {
    let empty = fs.create_detached(Kind::Directory, 0o755, Owner::default())?;
    let removals = [vec![name.to_vec()]];
    let implicit = [empty.ino];
    let graft =
        Graft { from: empty.ino, into: dir, removals: &removals, implicit: &implicit, expect };
    let done = fs.graft(&graft);
    fs.unpin(empty.ino);
    done
}

/// Makes a directory and the missing ones above it.
///
/// # Errors
/// `EEXIST` where something else stands there; a directory there already is fine.
pub fn make_dir(fs: &dyn FileSystem, path: &TreePath, perm: u32) -> Result<Attr> {
    let walk = walk(fs, path, Last::Follow)?;
    if let Some(found) = walk.found {
        return if found.kind == Kind::Directory {
            Ok(found)
        } else {
            Err(FsError::with(Errno::EEXIST, format!("{path} is there and is not a directory")))
        };
    }
    let mut dir = walk.dir;
    let mut made = None;
    for name in &walk.rest {
        let attr = match fs.mknod(dir, name, Kind::Directory, perm, Owner::default(), 0) {
            // Somebody else made it between the walk and now.
            Err(error) if error.errno() == Errno::EEXIST => fs.lookup(dir, name)?,
            other => other?,
        };
        dir = attr.ino;
        made = Some(attr);
    }
    made.ok_or_else(|| missing(path))
}

/// Sets a modification time, for callers that copy trees.
///
/// # Errors
/// Those of the file system.
pub fn set_mtime(fs: &dyn FileSystem, ino: Ino, mtime: crate::Time) -> Result<()> {
    let set = SetAttr { mtime: Some(SetTime::At(mtime)), ..SetAttr::default() };
    fs.setattr(ino, &set).map(drop)
}

fn missing(path: &TreePath) -> FsError {
    FsError::with(Errno::ENOENT, format!("{path}: no such file or directory"))
}

fn outside(path: &TreePath) -> FsError {
    FsError::with(
        Errno::EXDEV,
        format!("{path}: a symbolic link on the way points outside the home"),
    )
}

/// Adds the path to an error that has no sentence of its own.
pub(crate) fn name_it(error: FsError, path: &TreePath) -> FsError {
    match (error.detail(), error.errno()) {
        (None, Errno::ESTALE) => {
            FsError::with(Errno::ESTALE, format!("{path} is not at the version that was asked for"))
        }
        (None, errno) => FsError::with(errno, format!("{path}: {}", errno.text())),
        (Some(_), _) => error,
    }
}

#[cfg(test)]
mod tests;
