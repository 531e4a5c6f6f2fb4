//! What is built aside and then shown at once: `place` and `graft`.
//!
//! Both run on a copy of the state, so they may stop half way.

use std::collections::BTreeMap;

use super::state::State;
use crate::{
    Attr, Errno, Expect, FsError, Graft, Ino, Kind, Owner, Placed, Result, Touched, check_name,
};

/// Mode, owner, times and extended attributes.
struct Attributes {
    attr: Attr,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl State {
    pub(super) fn create_detached(&mut self, kind: Kind, perm: u32, owner: Owner) -> Result<Attr> {
        if !matches!(kind, Kind::File | Kind::Directory) {
            return Err(Errno::EINVAL.into());
        }
        let ino = self.add(kind, perm, owner, 0);
        self.pin(ino);
        self.attr(ino)
    }

    pub(super) fn place(
        &mut self,
        ino: Ino,
        base: Ino,
        path: &[&[u8]],
        expect: Expect,
    ) -> Result<Placed> {
        let attr = self.attr(ino)?;
        let (name, parents) = path.split_last().ok_or(Errno::EINVAL)?;
        if attr.kind == Kind::Directory || !self.inode(ino)?.detached {
            return Err(FsError::with(Errno::EINVAL, "only a detached file can be placed"));
        }
        path.iter().try_for_each(|name| check_name(name))?;
        let mut touched = Touched::default();
        let mut parent = base;
        for name in parents {
            parent = match self.child(parent, name)? {
                Some(child) => child,
                None => {
                    self.check_expected(None, expect)?;
                    self.make_parent(parent, name, attr.owner, &mut touched)?
                }
            };
            self.directory(parent)?;
        }
        let standing = self.child(parent, name)?;
        self.check_expected(standing, expect)?;
        if let Some(standing) = standing {
            if self.is_directory(standing) {
                return Err(Errno::EISDIR.into());
            }
            self.replace(parent, name, ino, standing)?;
            touched.inodes.push(standing);
        } else {
            self.check_free(parent, name)?;
            self.attach(parent, name, ino)?;
        }
        touched.entries.push((parent, name.to_vec()));
        touched.inodes.extend([parent, ino]);
        Ok(Placed { created: standing.is_none(), attr: self.attr(ino)?, touched })
    }

    pub(super) fn graft(&mut self, graft: &Graft<'_>) -> Result<Touched> {
        self.directory(graft.from)?;
        self.check_alive(graft.into)?;
        if !self.inode(graft.from)?.detached {
            return Err(FsError::with(Errno::EINVAL, "only a detached tree can be grafted"));
        }
        self.check_not_below(graft.from, graft.into)?;
        if let Some((name, ino, version)) = graft.expect {
            let standing = self.child(graft.into, name)?;
            self.check_expected(standing, Expect::Version(ino, version))?;
        }
        let attributes = self.attributes(graft.from)?;
        let mut touched = Touched::default();
        for path in graft.removals {
            self.remove_path(graft.into, path, &mut touched)?;
        }
        self.merge(graft.from, graft.into, graft.implicit, &mut touched)?;
        if !graft.implicit.contains(&graft.from) {
            self.take_attributes(graft.into, attributes)?;
            touched.inodes.push(graft.into);
        }
        Ok(touched)
    }

    fn make_parent(
        &mut self,
        parent: Ino,
        name: &[u8],
        owner: Owner,
        touched: &mut Touched,
    ) -> Result<Ino> {
        let made = self.mknod(parent, name, Kind::Directory, 0o755, owner, 0)?.ino;
        touched.entries.push((parent, name.to_vec()));
        touched.inodes.push(parent);
        Ok(made)
    }

    fn check_expected(&self, standing: Option<Ino>, expect: Expect) -> Result<()> {
        match (expect, standing) {
            (Expect::Any, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => Ok(()),
            (Expect::Absent, Some(_)) => Err(Errno::EEXIST.into()),
            (Expect::Version(ino, version), Some(standing))
                if ino == standing && self.attr(standing)?.version == version =>
            {
                Ok(())
            }
            _ => Err(Errno::ESTALE.into()),
        }
    }

    /// Puts `ino` where `standing` stands, under the same cookie.
    fn replace(&mut self, parent: Ino, name: &[u8], ino: Ino, standing: Ino) -> Result<()> {
        let cookie = self.directory(parent)?.names.get(name).map(|found| found.cookie);
        self.detach(parent, name)?;
        self.drop_link(standing);
        self.reattach_at(parent, name, ino, cookie)?;
        self.inode_mut(ino)?.attr.nlink += 1;
        self.attributes_changed(ino);
        Ok(())
    }

    fn remove_path(&mut self, base: Ino, path: &[Vec<u8>], touched: &mut Touched) -> Result<()> {
        let (name, parents) = path.split_last().ok_or(Errno::EINVAL)?;
        let mut parent = base;
        for name in parents {
            match self.child(parent, name)? {
                Some(child) if self.is_directory(child) => parent = child,
                _ => return Ok(()),
            }
        }
        match self.child(parent, name)? {
            Some(_) => self.remove_tree(parent, name, touched),
            None => Ok(()),
        }
    }

    fn remove_tree(&mut self, parent: Ino, name: &[u8], touched: &mut Touched) -> Result<()> {
        let ino = self.existing(parent, name)?;
        if let Ok(directory) = self.directory(ino) {
            let names: Vec<_> = directory.names.keys().cloned().collect();
            for child in names {
                self.remove_tree(ino, &child, touched)?;
            }
        }
        touched.entries.push((parent, name.to_vec()));
        touched.inodes.extend([parent, ino]);
        self.detach(parent, name)?;
        self.drop_link(ino);
        Ok(())
    }

    /// Moves what `from` holds into `into`.
    fn merge(
        &mut self,
        from: Ino,
        into: Ino,
        implicit: &[Ino],
        touched: &mut Touched,
    ) -> Result<()> {
        let names: Vec<_> = self
            .directory(from)?
            .names
            .iter()
            .map(|(name, found)| (name.clone(), found.ino))
            .collect();
        for (name, child) in names {
            let standing = self.child(into, &name)?;
            match (self.is_directory(child), standing) {
                (_, None) => {
                    self.detach(from, &name)?;
                    self.reattach(into, &name, child)?;
                }
                (true, Some(standing)) if self.is_directory(standing) => {
                    let attributes = self.attributes(child)?;
                    self.merge(child, standing, implicit, touched)?;
                    if !implicit.contains(&child) {
                        self.take_attributes(standing, attributes)?;
                    }
                    self.detach(from, &name)?;
                    self.drop_link(child);
                    touched.inodes.push(standing);
                    continue;
                }
                (true, Some(_)) => return Err(Errno::EEXIST.into()),
                (false, Some(standing)) => {
                    if self.directory(standing).is_ok_and(|dir| !dir.names.is_empty()) {
                        return Err(Errno::EEXIST.into());
                    }
                    let cookie = self.directory(into)?.names.get(&name).map(|n| n.cookie);
                    self.detach(from, &name)?;
                    self.detach(into, &name)?;
                    self.drop_link(standing);
                    self.reattach_at(into, &name, child, cookie)?;
                    touched.inodes.push(standing);
                }
            }
            touched.entries.push((into, name));
            touched.inodes.push(into);
        }
        Ok(())
    }

    /// What a merged directory hands on; read before its entries are moved, which changes times.
    fn attributes(&self, ino: Ino) -> Result<Attributes> {
        let inode = self.inode(ino)?;
        Ok(Attributes { attr: inode.attr, xattrs: inode.xattrs.clone() })
    }

    fn take_attributes(
        &mut self,
        into: Ino,
        Attributes { attr, xattrs }: Attributes,
    ) -> Result<()> {
        self.attributes_changed(into);
        let target = self.inode_mut(into)?;
        target.attr.perm = attr.perm;
        target.attr.owner = attr.owner;
        target.attr.atime = attr.atime;
        target.attr.mtime = attr.mtime;
        target.xattrs = xattrs;
        Ok(())
    }
}
