//! A tar stream into a tree, all of it or none.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use tar::EntryType;

use super::DEPTH_MAX;
use super::reader::{Member, Reader};
use crate::path::{LinkTarget, TreePath, show};
use crate::path_ops;
use crate::{
    Attr, Errno, FileSystem, FsError, Graft, Ino, Kind, Owner, Removal, Result, SetAttr, SetTime,
    Touched, XattrMode, check_name,
};

/// How much of a member's content is handed on at a time.
const COPY_BYTES: usize = 1 << 20;

/// How to import.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportOptions {
    /// Keep user and group ids of the archive. Otherwise everything belongs to root, as `git` and
    /// `ssh` in the guest expect of root's home.
    pub keep_owner: bool,
    /// Take symbolic links that point outside the home as they are. They are never followed by us.
    pub outside_links: bool,
}

/// What an import brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imported {
    /// Members that were taken.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// What changed.
    pub touched: Touched,
}

/// Reads a tar stream and merges it into the directory `target` (made where it is missing), after
/// removing what `removals` name below it. One step: see [`FileSystem::graft`].
///
/// # Errors
/// `EINVAL` naming the entry: absolute or climbing names, links that point outside, devices, sizes
/// that contradict each other, a stream that ends early. `EEXIST` where a file would replace a
/// directory with entries. Whatever it is, the tree is as before.
pub fn import(
    fs: &dyn FileSystem,
    target: &TreePath,
    source: impl Read,
    removals: &[Removal],
    options: ImportOptions,
) -> Result<Imported> {
    let root = fs.create_detached(Kind::Directory, 0o755, Owner::default())?;
    let mut import = Import {
        fs,
        root: root.ino,
        base_depth: target.parts().len(),
        options,
        dirs: HashMap::new(),
        dir_attrs: Vec::new(),
        explicit: HashSet::new(),
        done: Imported::default(),
    };
    let done = import.run(source, target, removals);
    fs.unpin(root.ino);
    done
}

struct Import<'a> {
    fs: &'a dyn FileSystem,
    root: Ino,
    /// How deep the target stands, for judging relative links.
    base_depth: usize,
    options: ImportOptions,
    /// Directories made so far, by parent and name: whole paths as keys would cost memory by the
    /// square of their depth, and a small archive of deep directories all of it.
    dirs: HashMap<(Ino, Vec<u8>), Ino>,
    /// Attributes of directories, applied last: filling a directory changes its times.
    dir_attrs: Vec<(Ino, SetAttr)>,
    /// Directories that have a member of their own. The others only lead somewhere.
    explicit: HashSet<Ino>,
    done: Imported,
}

impl Import<'_> {
    fn run(
        &mut self,
        source: impl Read,
        target: &TreePath,
        removals: &[Removal],
    ) -> Result<Imported> {
        let mut reader = Reader::new(source);
        while let Some(member) = reader.next()? {
            self.take(&mut reader, &member).map_err(|error| name_entry(error, &member))?;
            self.done.entries += 1;
        }
        for (ino, set) in std::mem::take(&mut self.dir_attrs).into_iter().rev() {
            self.fs.setattr(ino, &set)?;
        }
        let into = path_ops::make_dir(self.fs, target, 0o755)?.ino;
        let implicit: Vec<Ino> = std::iter::once(self.root)
            .chain(self.dirs.values().copied())
            .filter(|dir| !self.explicit.contains(dir))
            .collect();
        let graft = Graft { from: self.root, into, removals, implicit: &implicit, expect: None };
        let touched = self.fs.graft(&graft)?;
        Ok(Imported { touched, ..std::mem::take(&mut self.done) })
    }

    fn take<R: Read>(&mut self, reader: &mut Reader<R>, member: &Member) -> Result<()> {
        let path = entry_path(&member.path)?;
        let Some((name, parents)) = path.split_last() else {
            // The archive's own root, `./`.
            if member.kind != EntryType::Directory {
                return Err(FsError::with(
                    Errno::EINVAL,
                    "only a directory can stand for the root",
                ));
            }
            self.explicit.insert(self.root);
            let set = self.attrs(member);
            self.dir_attrs.push((self.root, set));
            return Ok(());
        };
        let dir = self.dir(parents)?;
        match member.kind {
            EntryType::Directory => {
                let ino = self.dir(&path)?;
                self.explicit.insert(ino);
                self.set_xattrs(ino, member)?;
                let set = self.attrs(member);
                self.dir_attrs.push((ino, set));
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous => self.file(reader, member, dir, name),
            EntryType::Symlink => self.symlink(member, dir, name, parents.len()),
            EntryType::Link => self.hard_link(member, dir, name),
            EntryType::Fifo => {
                self.replace(dir, name)?;
                let attr =
                    self.fs.mknod(dir, name, Kind::Fifo, member.perm, self.owner(member), 0)?;
                self.finish(attr.ino, member)
            }
            EntryType::Char | EntryType::Block => {
                Err(FsError::with(Errno::EINVAL, "device nodes are not taken"))
            }
            EntryType::GNUSparse => Err(FsError::with(
                Errno::EINVAL,
                "sparse entries are not supported; make the archive without --sparse",
            )),
            other => Err(FsError::with(
                Errno::EINVAL,
                format!("entry type {:?} is not supported", char::from(other.as_byte())),
            )),
        }
    }

    fn file<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        member: &Member,
        dir: Ino,
        name: &[u8],
    ) -> Result<()> {
        self.replace(dir, name)?;
        let perm = member.perm;
        let attr = self.fs.mknod(dir, name, Kind::File, perm, self.owner(member), 0)?;
        let mut buffer =
            vec![0; COPY_BYTES.min(usize::try_from(member.size).unwrap_or(COPY_BYTES))];
        let mut at = 0;
        while at < member.size {
            let mut filled = 0;
            while filled < buffer.len() {
                match reader.content(&mut buffer[filled..])? {
                    0 => break,
                    got => filled += got,
                }
            }
            self.fs.write(attr.ino, at, &buffer[..filled])?;
            at += filled as u64;
        }
        self.done.bytes += at;
        self.finish(attr.ino, member)
    }

    fn symlink(&mut self, member: &Member, dir: Ino, name: &[u8], depth: usize) -> Result<()> {
        if member.link.is_empty() || member.link.contains(&0) {
            return Err(FsError::with(Errno::EINVAL, "a symbolic link without a usable target"));
        }
        let inside = LinkTarget::parse(&member.link).stays_inside(self.base_depth + depth);
        if !inside && !self.options.outside_links {
            return Err(FsError::with(
                Errno::EINVAL,
                format!(
                    "the symbolic link points outside the home, to {:?}; outside_links=true takes such links as they are",
                    show(&member.link)
                ),
            ));
        }
        self.replace(dir, name)?;
        let attr = self.fs.symlink(dir, name, &member.link, self.owner(member))?;
        let set = SetAttr { perm: None, ..self.attrs(member) };
        self.fs.setattr(attr.ino, &set).map(drop)
    }

    /// A hard link to a member that came before. Nothing else can be meant.
    fn hard_link(&mut self, member: &Member, dir: Ino, name: &[u8]) -> Result<()> {
        let target = entry_path(&member.link)?;
        let before =
            self.find(&target)?.filter(|attr| attr.kind != Kind::Directory).ok_or_else(|| {
                FsError::with(
                    Errno::EINVAL,
                    format!(
                        "hard link to {:?}, which is no earlier file of this archive",
                        show(&member.link)
                    ),
                )
            })?;
        if self.fs.lookup(dir, name).is_ok_and(|there| there.ino == before.ino) {
            return Ok(());
        }
        self.replace(dir, name)?;
        self.fs.link(before.ino, dir, name).map(drop)
    }

    fn find(&self, path: &[Vec<u8>]) -> Result<Option<Attr>> {
        let Some((name, parents)) = path.split_last() else { return Ok(None) };
        let mut dir = self.root;
        for parent in parents {
            match self.dirs.get(&(dir, parent.clone())) {
                Some(ino) => dir = *ino,
                None => return Ok(None),
            }
        }
        match self.fs.lookup(dir, name) {
            Ok(attr) => Ok(Some(attr)),
            Err(error) if error.errno() == Errno::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The detached directory at `path`, made with what is missing above it.
    fn dir(&mut self, path: &[Vec<u8>]) -> Result<Ino> {
        let mut dir = self.root;
        for (at, name) in path.iter().enumerate() {
            let key = (dir, name.clone());
            if let Some(ino) = self.dirs.get(&key) {
                dir = *ino;
                continue;
            }
            // An earlier member that is not a directory is never walked through: not a link, nor a file.
            let attr = self
                .fs
                .mknod(dir, name, Kind::Directory, 0o755, Owner::default(), 0)
                .map_err(|error| match error.errno() {
                    Errno::EEXIST => FsError::with(
                        Errno::EINVAL,
                        format!(
                            "{:?} is an earlier entry and no directory",
                            show(&path[..=at].join(&b'/'))
                        ),
                    ),
                    _ => error,
                })?;
            dir = attr.ino;
            self.dirs.insert(key, dir);
        }
        Ok(dir)
    }

    /// Makes way for a member of the same name as an earlier one, as tar does: the last one counts.
    fn replace(&self, dir: Ino, name: &[u8]) -> Result<()> {
        match self.fs.lookup(dir, name) {
            Err(error) if error.errno() == Errno::ENOENT => Ok(()),
            Err(error) => Err(error),
            Ok(there) if there.kind == Kind::Directory => {
                Err(FsError::with(Errno::EINVAL, "an earlier entry of this name is a directory"))
            }
            Ok(_) => self.fs.unlink(dir, name),
        }
    }

    fn finish(&self, ino: Ino, member: &Member) -> Result<()> {
        self.set_xattrs(ino, member)?;
        self.fs.setattr(ino, &self.attrs(member)).map(drop)
    }

    fn set_xattrs(&self, ino: Ino, member: &Member) -> Result<()> {
        for (name, value) in &member.xattrs {
            self.fs.setxattr(ino, name, value, XattrMode::Any)?;
        }
        Ok(())
    }

    fn attrs(&self, member: &Member) -> SetAttr {
        let owner = self.owner(member);
        SetAttr {
            perm: Some(member.perm),
            uid: Some(owner.uid),
            gid: Some(owner.gid),
            mtime: Some(SetTime::At(member.mtime)),
            ..SetAttr::default()
        }
    }

    fn owner(&self, member: &Member) -> Owner {
        if !self.options.keep_owner {
            return Owner::default();
        }
        // Ids past 32 bits do not exist on Linux; nobody's is the honest stand-in.
        let id = |id: u64| u32::try_from(id).unwrap_or(65_534);
        Owner { uid: id(member.uid), gid: id(member.gid) }
    }
}

/// The components of a member's name. `./` and doubled slashes fall away; what could leave does not.
fn entry_path(name: &[u8]) -> Result<Vec<Vec<u8>>> {
    if name.starts_with(b"/") {
        return Err(FsError::with(Errno::EINVAL, "absolute names are not taken"));
    }
    let mut path = Vec::new();
    for part in name.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if part == b".." {
            return Err(FsError::with(Errno::EINVAL, "names with .. are not taken"));
        }
        check_name(part).map_err(|error| match error.errno() {
            Errno::ENAMETOOLONG => {
                FsError::with(Errno::ENAMETOOLONG, "a name has more than 255 bytes")
            }
            _ => FsError::with(Errno::EINVAL, "a name contains NUL"),
        })?;
        path.push(part.to_vec());
    }
    if path.len() > DEPTH_MAX {
        return Err(FsError::with(
            Errno::ENAMETOOLONG,
            format!("more than {DEPTH_MAX} directories deep"),
        ));
    }
    Ok(path)
}

/// Errors of an import name the entry; those of the stream itself already say where.
fn name_entry(error: FsError, member: &Member) -> FsError {
    let text = error.to_string();
    if text.starts_with("tar, near byte") || text.starts_with("reading the archive") {
        return error;
    }
    FsError::of_kind(error.kind(), error.errno(), format!("entry {:?}: {text}", member.shown()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memfs::MemFs;

    #[test]
    fn remembering_deep_directories_costs_by_their_number_not_their_depth() {
        let fs = MemFs::new(Arc::new(base::SystemClock::new()), 1 << 30);
        let root = fs.create_detached(Kind::Directory, 0o755, Owner::default()).unwrap();
        let mut import = Import {
            fs: &fs,
            root: root.ino,
            base_depth: 0,
            options: ImportOptions::default(),
            dirs: HashMap::new(),
            dir_attrs: Vec::new(),
            explicit: HashSet::new(),
            done: Imported::default(),
        };
        let deep = vec![b"d".to_vec(); DEPTH_MAX];
        let ino = import.dir(&deep).unwrap();
        assert_eq!(import.dir(&deep).unwrap(), ino);
        assert_eq!(import.dirs.len(), DEPTH_MAX);
        assert_eq!(import.dirs.keys().map(|(_, name)| name.len()).sum::<usize>(), DEPTH_MAX);
    }
}
