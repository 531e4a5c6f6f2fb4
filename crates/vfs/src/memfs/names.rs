//! Directories and what changes them.

use super::state::{Body, Directory, Name, State};
use crate::{Attr, DirEntry, Errno, Ino, Kind, Owner, RenameFlags, Result, check_name};

/// Longest target of a symbolic link in bytes (Linux `PATH_MAX` less its NUL).
const TARGET_BYTES_MAX: usize = 4095;
const S_ISGID: u32 = 0o2000;

impl State {
    pub(super) fn directory(&self, ino: Ino) -> Result<&Directory> {
        match &self.inode(ino)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    pub(super) fn directory_mut(&mut self, ino: Ino) -> Result<&mut Directory> {
        match &mut self.inode_mut(ino)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    pub(super) fn is_directory(&self, ino: Ino) -> bool {
        self.directory(ino).is_ok()
    }

    /// The inode that `name` names, if any.
    pub(super) fn child(&self, parent: Ino, name: &[u8]) -> Result<Option<Ino>> {
        check_name(name)?;
        Ok(self.directory(parent)?.names.get(name).map(|found| found.ino))
    }

    pub(super) fn existing(&self, parent: Ino, name: &[u8]) -> Result<Ino> {
        self.child(parent, name)?.ok_or_else(|| Errno::ENOENT.into())
    }

    pub(super) fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.attr(self.existing(parent, name)?)
    }

    pub(super) fn mknod(
        &mut self,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        perm: u32,
        owner: Owner,
        rdev: u32,
    ) -> Result<Attr> {
        if kind == Kind::Symlink {
            return Err(Errno::EINVAL.into());
        }
        self.check_free(parent, name)?;
        let (perm, owner) = self.inherited(parent, kind, perm, owner)?;
        let ino = self.add(kind, perm, owner, rdev);
        self.attach(parent, name, ino)?;
        self.attr(ino)
    }

    pub(super) fn symlink(
        &mut self,
        parent: Ino,
        name: &[u8],
        target: &[u8],
        owner: Owner,
    ) -> Result<Attr> {
        if target.len() > TARGET_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        if target.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        if target.contains(&0) {
            return Err(Errno::EINVAL.into());
        }
        self.check_free(parent, name)?;
        let (perm, owner) = self.inherited(parent, Kind::Symlink, 0o777, owner)?;
        let ino = self.add(Kind::Symlink, perm, owner, 0);
        self.inode_mut(ino)?.body = Body::Symlink(target.to_vec());
        self.attach(parent, name, ino)?;
        self.attr(ino)
    }

    pub(super) fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        match &self.inode(ino)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    pub(super) fn link(&mut self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.inode(ino)?;
        self.check_free(parent, name)?;
        let inode = self.inode(ino)?;
        if inode.attr.kind == Kind::Directory {
            return Err(Errno::EPERM.into());
        }
        if inode.attr.nlink == 0 && !inode.detached {
            return Err(Errno::ENOENT.into());
        }
        self.attach(parent, name, ino)?;
        self.attr(ino)
    }

    pub(super) fn unlink(&mut self, parent: Ino, name: &[u8]) -> Result<()> {
        let ino = self.existing(parent, name)?;
        if self.is_directory(ino) {
            return Err(Errno::EISDIR.into());
        }
        self.detach(parent, name)?;
        self.drop_link(ino);
        Ok(())
    }

    pub(super) fn rmdir(&mut self, parent: Ino, name: &[u8]) -> Result<()> {
        let ino = self.existing(parent, name)?;
        if !self.directory(ino)?.names.is_empty() {
            return Err(Errno::ENOTEMPTY.into());
        }
        self.detach(parent, name)?;
        self.drop_link(ino);
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        self.check_alive(new_parent)?;
        let target = self.child(new_parent, new_name)?;
        let ino = self.existing(parent, name)?;
        self.check_not_below(ino, new_parent)?;
        match (flags, target) {
            (RenameFlags::NoReplace, Some(_)) => return Err(Errno::EEXIST.into()),
            (RenameFlags::Exchange, None) => return Err(Errno::ENOENT.into()),
            (RenameFlags::Exchange, Some(other)) => {
                self.check_not_below(other, parent)?;
                if other == ino {
                    return Ok(());
                }
                self.detach(parent, name)?;
                self.detach(new_parent, new_name)?;
                self.reattach(parent, name, other)?;
                self.reattach(new_parent, new_name, ino)?;
                self.attributes_changed(other);
            }
            // Two names of one inode: POSIX says that nothing happens.
            (RenameFlags::Replace, Some(other)) if other == ino => return Ok(()),
            (RenameFlags::Replace, Some(other)) => {
                self.check_replaceable(ino, other)?;
                let cookie = self.directory(new_parent)?.names.get(new_name).map(|n| n.cookie);
                self.detach(parent, name)?;
                self.detach(new_parent, new_name)?;
                self.drop_link(other);
                self.reattach_at(new_parent, new_name, ino, cookie)?;
            }
            (_, None) => {
                self.detach(parent, name)?;
                self.reattach(new_parent, new_name, ino)?;
            }
        }
        self.attributes_changed(ino);
        Ok(())
    }

    pub(super) fn readdir(&self, ino: Ino, cookie: u64, max: usize) -> Result<Vec<DirEntry>> {
        let directory = self.directory(ino)?;
        let after = directory.cookies.range(cookie.saturating_add(1)..).take(max);
        after
            .map(|(cookie, name)| {
                let attr = self.lookup(ino, name)?;
                Ok(DirEntry { name: name.clone(), attr, cookie: *cookie })
            })
            .collect()
    }

    /// Permissions and owner of what is made in `parent`: a set-gid directory hands on its group,
    /// and to directories the bit.
    pub(super) fn inherited(
        &self,
        parent: Ino,
        kind: Kind,
        perm: u32,
        owner: Owner,
    ) -> Result<(u32, Owner)> {
        let attr = self.inode(parent)?.attr;
        if attr.perm & S_ISGID == 0 {
            return Ok((perm, owner));
        }
        let bit = if kind == Kind::Directory { S_ISGID } else { 0 };
        Ok((perm | bit, Owner { gid: attr.owner.gid, ..owner }))
    }

    /// A removed directory takes nothing in any more.
    pub(super) fn check_alive(&self, directory: Ino) -> Result<()> {
        if self.directory(directory)?.removed { Err(Errno::ENOENT.into()) } else { Ok(()) }
    }

    pub(super) fn check_free(&self, parent: Ino, name: &[u8]) -> Result<()> {
        match self.child(parent, name)? {
            Some(_) => Err(Errno::EEXIST.into()),
            None => self.check_alive(parent),
        }
    }

    /// `EINVAL` where `directory` is `ino` or lies below it.
    pub(super) fn check_not_below(&self, ino: Ino, directory: Ino) -> Result<()> {
        let mut at = directory;
        loop {
            if at == ino {
                return Err(Errno::EINVAL.into());
            }
            match self.directory(at)?.parent {
                Some(parent) if parent != at => at = parent,
                _ => return Ok(()),
            }
        }
    }

    fn check_replaceable(&self, ino: Ino, target: Ino) -> Result<()> {
        match (self.is_directory(ino), self.is_directory(target)) {
            (true, false) => Err(Errno::ENOTDIR.into()),
            (false, true) => Err(Errno::EISDIR.into()),
            (true, true) if !self.directory(target)?.names.is_empty() => {
                Err(Errno::ENOTEMPTY.into())
            }
            _ => Ok(()),
        }
    }

    /// Gives `ino` its first or another name.
    pub(super) fn attach(&mut self, parent: Ino, name: &[u8], ino: Ino) -> Result<()> {
        self.reattach(parent, name, ino)?;
        if !self.is_directory(ino) {
            self.inode_mut(ino)?.attr.nlink += 1;
        }
        self.attributes_changed(ino);
        Ok(())
    }

    /// Gives `ino` a name in place of one that it had; its link count stays.
    pub(super) fn reattach(&mut self, parent: Ino, name: &[u8], ino: Ino) -> Result<()> {
        self.reattach_at(parent, name, ino, None)
    }

    pub(super) fn reattach_at(
        &mut self,
        parent: Ino,
        name: &[u8],
        ino: Ino,
        cookie: Option<u64>,
    ) -> Result<()> {
        let directory = self.directory_mut(parent)?;
        let cookie = cookie.unwrap_or(directory.next_cookie);
        directory.next_cookie = directory.next_cookie.max(cookie + 1);
        directory.names.insert(name.to_vec(), Name { ino, cookie });
        directory.cookies.insert(cookie, name.to_vec());
        self.inode_mut(ino)?.detached = false;
        if let Ok(directory) = self.directory_mut(ino) {
            directory.parent = Some(parent);
            self.inode_mut(parent)?.attr.nlink += 1;
        }
        self.content_changed(parent);
        Ok(())
    }

    /// Takes a name away; the inode and its link count stay.
    pub(super) fn detach(&mut self, parent: Ino, name: &[u8]) -> Result<Ino> {
        let directory = self.directory_mut(parent)?;
        let found = directory.names.remove(name).ok_or(Errno::ENOENT)?;
        directory.cookies.remove(&found.cookie);
        if let Ok(directory) = self.directory_mut(found.ino) {
            directory.parent = None;
            self.inode_mut(parent)?.attr.nlink -= 1;
        }
        self.content_changed(parent);
        Ok(found.ino)
    }
}
