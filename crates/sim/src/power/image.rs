//! What is on the platter: names and bytes.

use std::collections::BTreeMap;

use vfs::memfs::MemFs;
use vfs::{FileSystem, Ino, Kind, Owner, ROOT, Result, SetAttr};

use crate::chance::Chance;

/// A page, in bytes: what a kernel writes at once.
const PAGE: u64 = 4_096;
/// A sector, in bytes: what a disk writes at once.
const SECTOR: u64 = 512;

/// A directory and a name in it.
type Place = (Ino, Vec<u8>);

/// A change that is not durable yet.
#[derive(Debug, Clone)]
pub(super) enum Pending {
    /// Bytes written.
    Write { ino: Ino, at: u64, data: Vec<u8> },
    /// A new size.
    Size { ino: Ino, size: u64 },
    /// Zeros in place of bytes.
    Punch { ino: Ino, at: u64, len: u64 },
    /// Names, all of them or none: what they are from here on.
    Names(Vec<(Place, Option<Ino>)>),
}

impl Pending {
    /// True of what an `fsync` of the inode makes durable.
    pub(super) fn belongs_to(&self, synced: Ino) -> bool {
        match self {
            Self::Write { ino, .. } | Self::Size { ino, .. } | Self::Punch { ino, .. } => {
                *ino == synced
            }
            Self::Names(names) => names.iter().any(|((dir, _), _)| *dir == synced),
        }
    }
}

/// Names and bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    names: BTreeMap<(Ino, Vec<u8>), Ino>,
    kinds: BTreeMap<Ino, Kind>,
    files: BTreeMap<Ino, Vec<u8>>,
}

impl Image {
    /// There is such an inode; it needs a name to be found.
    pub(super) fn born(&mut self, ino: Ino, kind: Kind) {
        self.kinds.insert(ino, kind);
        if kind == Kind::File {
            self.files.insert(ino, Vec::new());
        }
    }

    /// All of a change.
    pub(super) fn apply(&mut self, change: &Pending) {
        match change {
            Pending::Write { ino, at, data } => self.write(*ino, *at, data),
            Pending::Size { ino, size } => {
                self.files.entry(*ino).or_default().resize(*size as usize, 0);
            }
            Pending::Punch { ino, at, len } => {
                let file = self.files.entry(*ino).or_default();
                let end = (at.saturating_add(*len) as usize).min(file.len());
                if let Some(range) = file.get_mut(*at as usize..end) {
                    range.fill(0);
                }
            }
            Pending::Names(names) => {
                for (key, now) in names {
                    match now {
                        Some(ino) => self.names.insert(key.clone(), *ino),
                        None => self.names.remove(key),
                    };
                }
            }
        }
    }

    /// What chance leaves of a change.
    pub(super) fn apply_some(&mut self, change: &Pending, keep: u64, chance: &mut Chance) {
        let Pending::Write { ino, at, data } = change else {
            if chance.percent(keep) {
                self.apply(change);
            }
            return;
        };
        let torn = chance.percent(15);
        let unit = if torn { SECTOR } else { PAGE };
        let end = at + data.len() as u64;
        let mut from = *at;
        while from < end {
            let to = ((from / unit + 1) * unit).min(end);
            if chance.percent(keep) {
                self.write(*ino, from, &data[(from - at) as usize..(to - at) as usize]);
            }
            from = to;
        }
        // The size may be there without the bytes.
        if chance.percent(keep / 2) {
            let file = self.files.entry(*ino).or_default();
            if (file.len() as u64) < end {
                file.resize(end as usize, 0);
            }
        }
    }

    fn write(&mut self, ino: Ino, at: u64, data: &[u8]) {
        let file = self.files.entry(ino).or_default();
        let (at, end) = (at as usize, at as usize + data.len());
        if file.len() < end {
            file.resize(end, 0);
        }
        file[at..end].copy_from_slice(data);
    }

    /// The tree that a kernel finds after the reboot, and the image in its numbers.
    pub(super) fn boot(&self, fs: &MemFs) -> Result<Self> {
        let mut fresh = Self::default();
        let mut open = vec![(ROOT, ROOT)];
        while let Some((old_dir, new_dir)) = open.pop() {
            let entries = self.names.range((old_dir, Vec::new())..);
            for ((_, name), ino) in entries.take_while(|((dir, _), _)| *dir == old_dir) {
                let kind = self.kinds.get(ino).copied().unwrap_or(Kind::File);
                let made = fs.mknod(new_dir, name, kind, 0o755, Owner::default(), 0)?.ino;
                fresh.born(made, kind);
                fresh.names.insert((new_dir, name.clone()), made);
                if kind == Kind::Directory {
                    open.push((*ino, made));
                    continue;
                }
                let data = self.files.get(ino).map(Vec::as_slice).unwrap_or_default();
                let size = SetAttr { size: Some(data.len() as u64), ..SetAttr::default() };
                fs.setattr(made, &size)?;
                fs.write(made, 0, data)?;
                fresh.files.insert(made, data.to_vec());
            }
        }
        Ok(fresh)
    }
}
