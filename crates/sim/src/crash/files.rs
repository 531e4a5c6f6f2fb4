//! What one thread knows of its files.
//!
//! # Compared
//! After a kill: exactly what was answered, with or without the call that was under way, or a part of what
//! that one writes. On another host: a file that was synced is as it was then, or as some later write left
//! it; one that was renamed or unlinked since is not looked at.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};

use crate::chance::{Chance, noise};

/// A call on a file, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    Create(String, Vec<u8>),
    Write(String, u64, Vec<u8>),
    Rename(String, String),
    Unlink(String),
    Fsync(String),
}

type Tree = BTreeMap<String, Vec<u8>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// All that was answered.
    now: Tree,
    /// What files had when they were synced, and after each write since.
    stored: BTreeMap<String, Vec<Vec<u8>>>,
    /// The call that nobody heard the end of.
    open: Option<Op>,
}

fn overwrite(data: &mut Vec<u8>, at: u64, new: &[u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    data.resize(data.len().max(at + new.len()), 0);
    data[at..at + new.len()].copy_from_slice(new);
}

fn apply(tree: &mut Tree, op: &Op) {
    match op {
        Op::Create(name, data) => drop(tree.insert(name.clone(), data.clone())),
        Op::Write(name, at, new) => {
            if let Some(data) = tree.get_mut(name) {
                overwrite(data, *at, new);
            }
        }
        Op::Rename(from, to) => {
            if let Some(data) = tree.remove(from) {
                tree.insert(to.clone(), data);
            }
        }
        Op::Unlink(name) => drop(tree.remove(name)),
        Op::Fsync(_) => {}
    }
}

/// True where every byte of `found` is that of `old` or of `new`, and no byte is missing.
fn between(found: &[u8], old: &[u8], new: &[u8]) -> bool {
    (old.len().min(new.len())..=old.len().max(new.len())).contains(&found.len())
        && found.iter().enumerate().all(|(n, byte)| {
            // What was not reached yet reads as zeros where the file got longer.
            old.get(n).unwrap_or(&0) == byte || new.get(n) == Some(byte)
        })
}

impl Files {
    pub(super) fn choose(&self, chance: &mut Chance) -> Op {
        let name = format!("f{}", chance.below(24));
        let seed = chance.any();
        let len = match chance.below(24) {
            0 => 200_000,
            1..=2 => 16_385,
            3..=4 => 40_000,
            _ => 1 + chance.index(5_000),
        };
        let Some(data) = self.now.get(&name) else { return Op::Create(name, noise(len, seed)) };
        match chance.below(20) {
            0..=8 => {
                let at = chance.below(data.len() as u64 + 1);
                Op::Write(name, at, noise(len.min(20_000), seed))
            }
            9..=11 => Op::Rename(name, format!("f{}", chance.below(24))),
            12..=14 => Op::Unlink(name),
            _ => Op::Fsync(name),
        }
    }

    pub(super) fn begin(&mut self, op: &Op) {
        match op {
            Op::Rename(from, to) => {
                self.stored.remove(from);
                self.stored.remove(to);
            }
            Op::Unlink(name) => drop(self.stored.remove(name)),
            _ => {}
        }
        self.open = Some(op.clone());
    }

    pub(super) fn done(&mut self, op: &Op) {
        apply(&mut self.now, op);
        match op {
            Op::Fsync(name) => {
                if let Some(data) = self.now.get(name) {
                    self.stored.insert(name.clone(), vec![data.clone()]);
                }
            }
            Op::Write(name, ..) => {
                if let (Some(versions), Some(data)) =
                    (self.stored.get_mut(name), self.now.get(name))
                {
                    versions.push(data.clone());
                }
            }
            _ => {}
        }
        self.open = None;
    }

    /// Compares with what is in `dir`, and takes that as what is; how many files were compared.
    pub(super) fn verify(&mut self, dir: &Path, another_host: bool) -> anyhow::Result<u64> {
        let found = read(dir)?;
        let compared = if another_host { self.against_store(&found) } else { self.against(&found) };
        let compared = compared.with_context(|| format!("with {:?} under way", self.open_op()))?;
        if another_host {
            // All of this came from the store.
            let whole = |(name, data): (&String, &Vec<u8>)| (name.clone(), vec![data.clone()]);
            self.stored = found.iter().map(whole).collect();
        } else {
            // What a call that was under way has changed is a version like others.
            for (name, versions) in &mut self.stored {
                versions.extend(found.get(name).cloned());
            }
        }
        self.now = found;
        self.open = None;
        Ok(compared)
    }

    fn open_op(&self) -> String {
        let mut text = format!("{:?}", self.open);
        text.truncate(60);
        text
    }

    fn against(&self, found: &Tree) -> anyhow::Result<u64> {
        let mut after = self.now.clone();
        if let Some(op) = &self.open {
            apply(&mut after, op);
        }
        if *found == self.now || *found == after || self.is_part_of_open(found) {
            return Ok(found.len() as u64);
        }
        let names: Vec<&String> = self.now.keys().chain(found.keys()).collect();
        let differs = |name: &&&String| self.now.get(**name) != found.get(**name);
        let what = names.iter().filter(differs).map(|name| {
            let len = |tree: &Tree| tree.get(*name).map(Vec::len);
            format!("{name}: {:?} bytes, found {:?}", len(&self.now), len(found))
        });
        bail!("LOST by a kill: {}", what.collect::<Vec<_>>().join("; "))
    }

    /// A part of what the call writes is there.
    fn is_part_of_open(&self, found: &Tree) -> bool {
        let (Some(Op::Create(name, _) | Op::Write(name, ..)), Some(part)) =
            (&self.open, self.open_name().and_then(|name| found.get(name)))
        else {
            return false;
        };
        let (mut others, mut mine) = (found.clone(), self.now.clone());
        others.remove(name);
        mine.remove(name);
        others == mine && self.may_be(name, part)
    }

    fn open_name(&self) -> Option<&String> {
        match &self.open {
            Some(Op::Create(name, _) | Op::Write(name, ..)) => Some(name),
            _ => None,
        }
    }

    /// True where `part` is between the file as it is and as the call under way makes it.
    fn may_be(&self, name: &str, part: &[u8]) -> bool {
        let old = self.now.get(name).cloned().unwrap_or_default();
        let mut tree = Tree::from([(name.to_owned(), old.clone())]);
        if let Some(op) = self.open.as_ref().filter(|_| self.open_name().is_some_and(|n| n == name))
        {
            apply(&mut tree, op);
        }
        tree.get(name).is_some_and(|new| between(part, &old, new))
    }

    fn against_store(&self, found: &Tree) -> anyhow::Result<u64> {
        for (name, versions) in &self.stored {
            let data = found.get(name);
            let known = data.is_some_and(|data| {
                // The store may have a part of a write: the kernel sends a large one in pieces.
                let part = versions.windows(2).any(|pair| between(data, &pair[0], &pair[1]));
                part || versions.contains(data) || self.may_be(name, data)
            });
            if !known {
                let lens: Vec<usize> = versions.iter().map(Vec::len).collect();
                bail!(
                    "LOST with the host: {name}, synced with {lens:?} bytes, found {:?}",
                    data.map(Vec::len)
                );
            }
        }
        Ok(self.stored.len() as u64)
    }
}

fn read(dir: &Path) -> anyhow::Result<Tree> {
    let mut tree = Tree::new();
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(tree),
        entries => entries.with_context(|| format!("list {}", dir.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let data = std::fs::read(entry.path()).with_context(|| format!("LOST: read {name}"))?;
        tree.insert(name, data);
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(files: &mut Files, found: &[(&str, &[u8])], another_host: bool) -> bool {
        let dir = tempfile::tempdir().unwrap();
        for (name, data) in found {
            std::fs::write(dir.path().join(name), data).unwrap();
        }
        files.verify(dir.path(), another_host).is_ok()
    }

    fn files() -> Files {
        let mut files = Files::default();
        for op in [
            Op::Create("a".into(), b"one".to_vec()),
            Op::Fsync("a".into()),
            Op::Write("a".into(), 0, b"two".to_vec()),
            Op::Create("b".into(), b"b".to_vec()),
        ] {
            files.begin(&op);
            files.done(&op);
        }
        files
    }

    #[test]
    fn a_loss_is_a_finding_and_what_was_not_answered_is_none() {
        assert!(verify(&mut files(), &[("a", b"two"), ("b", b"b")], false));
        assert!(!verify(&mut files(), &[("a", b"one"), ("b", b"b")], false));
        assert!(!verify(&mut files(), &[("a", b"two")], false));
        assert!(verify(&mut files(), &[("a", b"one")], true));
        assert!(verify(&mut files(), &[("a", b"two"), ("b", b"")], true));
        assert!(!verify(&mut files(), &[("a", b"")], true));
        assert!(!verify(&mut files(), &[("b", b"b")], true));
        let mut open = files();
        open.begin(&Op::Write("b".into(), 1, b"c".to_vec()));
        assert!(verify(&mut open, &[("a", b"two"), ("b", b"bc")], false));
    }
}
