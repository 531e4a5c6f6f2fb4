//! What users do to a tree: chosen by chance, done to a model and to a file system.
//!
//! # Invariants
//! An act that was chosen for a tree is valid there: a file system that holds this tree must do it.
//! Each act changes what is visible in one step. Content that an act writes is told by its seed.

use std::sync::Arc;

use vfs::{
    Expect, FileSystem, Graft, Ino, Kind, Owner, ROOT, RenameFlags, Result, SetAttr, XattrMode,
};

use crate::chance::{Chance, noise};
use crate::tree::{Entry, File, Tree, XATTR};

/// One change, by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// A whole file, replaced in one step as an upload does it.
    Put(String, usize, u64),
    /// An empty file.
    Make(String),
    /// Bytes written into a file that exists.
    Write(String, u64, usize, u64),
    /// A new size.
    Truncate(String, u64),
    /// A hole.
    Punch(String, u64, u64),
    /// A name less.
    Unlink(String),
    /// A directory.
    Mkdir(String),
    /// A directory less.
    Rmdir(String),
    /// A name moved, over what stands there.
    Rename(String, String),
    /// Two names swapped.
    Exchange(String, String),
    /// Another name for a file.
    HardLink(String, String),
    /// A symbolic link.
    Symlink(String, Vec<u8>),
    /// An extended attribute.
    Xattr(String, Vec<u8>),
    /// A tree of small files merged into the root in one step.
    Import(u64, u64),
}

const USER: Owner = Owner { uid: 0, gid: 0 };
const NAMES: u64 = 9;

/// Sizes that meet the borders of tiers, mostly small ones.
fn size(chance: &mut Chance) -> usize {
    match chance.below(40) {
        0..=19 => chance.index(6_000),
        20..=24 => 16_384,
        25..=28 => 16_385,
        29..=33 => 17_000 + chance.index(60_000),
        34..=37 => 200_000 + chance.index(200_000),
        38 => 1_500_000,
        _ => 4_194_305,
    }
}

fn name(chance: &mut Chance, tree: &Tree) -> String {
    let mut dirs = tree.paths(|entry| *entry == Entry::Dir);
    dirs.retain(|dir| dir.matches('/').count() < 2);
    let name = format!("n{}", chance.below(NAMES));
    if dirs.is_empty() || chance.percent(35) {
        return name;
    }
    format!("{}/{name}", dirs[chance.index(dirs.len())])
}

/// An act that is valid in `tree`.
pub fn choose(chance: &mut Chance, tree: &Tree) -> Act {
    for _ in 0..100 {
        let act = propose(chance, tree);
        let mut after = tree.clone();
        if act.as_ref().is_some_and(|act| apply(&mut after, act, 0))
            && let Some(act) = act
        {
            return act;
        }
    }
    Act::Import(chance.any() % 1_000, 2)
}

fn propose(chance: &mut Chance, tree: &Tree) -> Option<Act> {
    let files = tree.paths(|entry| matches!(entry, Entry::File(_)));
    let all = tree.paths(|_| true);
    let seed = chance.any() % 1_000_000;
    Some(match chance.below(34) {
        0..=7 => Act::Put(name(chance, tree), size(chance), seed),
        8..=9 => Act::Make(name(chance, tree)),
        10..=15 => {
            let path = chance.of(&files)?.clone();
            let len = tree.file(&path)?.1.data.len() as u64;
            let at = if chance.percent(40) { len } else { chance.below(len + 5_000) };
            Act::Write(path, at, 1 + size(chance).min(300_000), seed)
        }
        16 => {
            let path = chance.of(&files)?.clone();
            Act::Truncate(path, size(chance) as u64)
        }
        17 => {
            let path = chance.of(&files)?.clone();
            let len = tree.file(&path)?.1.data.len() as u64;
            Act::Punch(path, chance.below(len + 1), 1 + chance.below(50_000))
        }
        18..=20 => Act::Unlink(chance.of(&all)?.clone()),
        21..=23 => Act::Mkdir(name(chance, tree)),
        24 => Act::Rmdir(chance.of(&all)?.clone()),
        25..=27 => Act::Rename(chance.of(&all)?.clone(), name(chance, tree)),
        28 => Act::Exchange(chance.of(&all)?.clone(), chance.of(&all)?.clone()),
        29 => Act::HardLink(chance.of(&files)?.clone(), name(chance, tree)),
        30 => Act::Symlink(name(chance, tree), format!("to-{seed}").into_bytes()),
        31..=32 => Act::Xattr(chance.of(&files)?.clone(), seed.to_string().into_bytes()),
        _ => Act::Import(seed, 1 + chance.below(5)),
    })
}

/// The files that an import brings.
fn imported(seed: u64, count: u64) -> Vec<(String, Vec<u8>)> {
    (0..count)
        .map(|n| (format!("n{}", (seed + n) % NAMES), noise(100 + n as usize * 7_000, seed + n)))
        .collect()
}

const IMPORTED: &str = "imported";

/// Does `act` to a model; false, with the model half changed, where it is not valid there. `now`
/// is noted on files whose content changes.
pub fn apply(tree: &mut Tree, act: &Act, now: u64) -> bool {
    let fresh = tree.files.keys().next_back().map_or(1, |last| last + 1);
    let done = match act {
        Act::Put(path, len, seed) => {
            let stands = tree.names.get(path);
            has_parent(tree, path) && !matches!(stands, Some(Entry::Dir)) && {
                let data = Arc::new(noise(*len, *seed));
                tree.names.insert(path.clone(), Entry::File(fresh));
                tree.files.insert(fresh, File { data, xattr: None, changed: now });
                true
            }
        }
        Act::Make(path) => {
            free(tree, path) && {
                tree.names.insert(path.clone(), Entry::File(fresh));
                tree.files.insert(fresh, File { changed: now, ..File::default() });
                true
            }
        }
        Act::Write(path, at, len, seed) => edit(tree, path, now, |data| {
            let (at, end) = (*at as usize, *at as usize + len);
            data.resize(data.len().max(end), 0);
            data[at..end].copy_from_slice(&noise(*len, *seed));
        }),
        Act::Truncate(path, size) => edit(tree, path, now, |data| data.resize(*size as usize, 0)),
        Act::Punch(path, at, len) => edit(tree, path, now, |data| {
            let (at, end) = (*at as usize, (*at + *len) as usize);
            let end = end.min(data.len());
            if at < end {
                data[at..end].fill(0);
            }
        }),
        Act::Unlink(path) => {
            !matches!(tree.names.get(path), Some(Entry::Dir)) && tree.names.remove(path).is_some()
        }
        Act::Mkdir(path) => {
            free(tree, path) && tree.names.insert(path.clone(), Entry::Dir).is_none()
        }
        Act::Rmdir(path) => {
            tree.names.get(path) == Some(&Entry::Dir)
                && below(tree, path).is_empty()
                && tree.names.remove(path).is_some()
        }
        Act::Rename(from, to) => rename(tree, from, to),
        Act::Exchange(one, two) => exchange(tree, one, two),
        Act::HardLink(from, to) => match tree.names.get(from).cloned() {
            Some(file @ Entry::File(_)) => {
                free(tree, to) && tree.names.insert(to.clone(), file).is_none()
            }
            _ => false,
        },
        Act::Symlink(path, target) => {
            free(tree, path)
                && tree.names.insert(path.clone(), Entry::Link(target.clone())).is_none()
        }
        Act::Xattr(path, value) => match tree.names.get(path).cloned() {
            Some(Entry::File(number)) => tree.files.get_mut(&number).is_some_and(|file| {
                file.xattr = Some(value.clone());
                true
            }),
            _ => false,
        },
        Act::Import(seed, count) => {
            matches!(tree.names.get(IMPORTED), None | Some(Entry::Dir))
                && imported(*seed, *count).into_iter().enumerate().all(|(n, (name, data))| {
                    tree.names.insert(IMPORTED.to_owned(), Entry::Dir);
                    let (path, number) = (format!("{IMPORTED}/{name}"), fresh + n as u64);
                    let file = File { data: Arc::new(data), xattr: None, changed: now };
                    !matches!(tree.names.get(&path), Some(Entry::Dir)) && {
                        tree.names.insert(path, Entry::File(number));
                        tree.files.insert(number, file);
                        true
                    }
                })
        }
    };
    if done {
        tree.sweep();
    }
    done
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn has_parent(tree: &Tree, path: &str) -> bool {
    let parent = parent_of(path);
    parent.is_empty() || tree.names.get(parent) == Some(&Entry::Dir)
}

fn free(tree: &Tree, path: &str) -> bool {
    has_parent(tree, path) && !tree.names.contains_key(path)
}

fn below(tree: &Tree, path: &str) -> Vec<String> {
    let prefix = format!("{path}/");
    tree.names.keys().filter(|name| name.starts_with(&prefix)).cloned().collect()
}

fn edit(tree: &mut Tree, path: &str, now: u64, change: impl FnOnce(&mut Vec<u8>)) -> bool {
    let Some(Entry::File(number)) = tree.names.get(path).cloned() else { return false };
    let Some(file) = tree.files.get_mut(&number) else { return false };
    change(Arc::make_mut(&mut file.data));
    file.changed = now;
    true
}

fn rename(tree: &mut Tree, from: &str, to: &str) -> bool {
    let Some(moved) = tree.names.get(from).cloned() else { return false };
    let inside = to.starts_with(&format!("{from}/"));
    if from == to || inside || !has_parent(tree, to) {
        return false;
    }
    let fits = match (&moved, tree.names.get(to)) {
        (_, None) => true,
        (Entry::Dir, Some(Entry::Dir)) => below(tree, to).is_empty(),
        (Entry::Dir, Some(_)) | (_, Some(Entry::Dir)) => false,
        // Two names of one file: rename(2) does nothing then.
        (Entry::File(a), Some(Entry::File(b))) if a == b => false,
        _ => true,
    };
    if fits {
        tree.names.remove(to);
        move_below(tree, from, to);
    }
    fits
}

fn move_below(tree: &mut Tree, from: &str, to: &str) {
    for path in below(tree, from) {
        if let Some(entry) = tree.names.remove(&path) {
            tree.names.insert(format!("{to}{}", &path[from.len()..]), entry);
        }
    }
    if let Some(entry) = tree.names.remove(from) {
        tree.names.insert(to.to_owned(), entry);
    }
}

fn exchange(tree: &mut Tree, one: &str, two: &str) -> bool {
    let nested = one.starts_with(&format!("{two}/")) || two.starts_with(&format!("{one}/"));
    let there = tree.names.contains_key(one) && tree.names.contains_key(two);
    if one == two || nested || !there {
        return false;
    }
    let aside = "\u{1}aside";
    move_below(tree, one, aside);
    move_below(tree, two, one);
    move_below(tree, aside, two);
    true
}

fn parent(fs: &dyn FileSystem, path: &str) -> Result<(Ino, Vec<u8>)> {
    let mut dir = ROOT;
    let (names, last) = path.rsplit_once('/').unwrap_or(("", path));
    for name in names.split('/').filter(|name| !name.is_empty()) {
        dir = fs.lookup(dir, name.as_bytes())?.ino;
    }
    Ok((dir, last.as_bytes().to_vec()))
}

fn find(fs: &dyn FileSystem, path: &str) -> Result<Ino> {
    let (dir, name) = parent(fs, path)?;
    Ok(fs.lookup(dir, &name)?.ino)
}

fn write_all(fs: &dyn FileSystem, ino: Ino, at: u64, data: &[u8]) -> Result<()> {
    for (n, part) in data.chunks(1 << 20).enumerate() {
        fs.write(ino, at + ((n as u64) << 20), part)?;
    }
    Ok(())
}

/// A detached file with content; the caller unpins it.
fn detached(fs: &dyn FileSystem, data: &[u8]) -> Result<Ino> {
    let ino = fs.create_detached(Kind::File, 0o644, USER)?.ino;
    match write_all(fs, ino, 0, data) {
        Ok(()) => Ok(ino),
        Err(error) => {
            fs.unpin(ino);
            Err(error)
        }
    }
}

/// Does `act` to a file system.
///
/// # Errors
/// Those of the file system; for an act that was chosen for this very tree, a finding.
pub fn run(fs: &dyn FileSystem, act: &Act) -> Result<()> {
    match act {
        Act::Put(path, len, seed) => {
            let ino = detached(fs, &noise(*len, *seed))?;
            let names: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
            let placed = fs.place(ino, ROOT, &names, Expect::Any);
            fs.unpin(ino);
            placed.map(drop)
        }
        Act::Make(path) => {
            let (dir, name) = parent(fs, path)?;
            fs.mknod(dir, &name, Kind::File, 0o644, USER, 0).map(drop)
        }
        Act::Write(path, at, len, seed) => write_all(fs, find(fs, path)?, *at, &noise(*len, *seed)),
        Act::Truncate(path, size) => {
            let set = SetAttr { size: Some(*size), ..SetAttr::default() };
            fs.setattr(find(fs, path)?, &set).map(drop)
        }
        Act::Punch(path, at, len) => fs.fallocate(find(fs, path)?, 0x03, *at, *len),
        Act::Unlink(path) => parent(fs, path).and_then(|(dir, name)| fs.unlink(dir, &name)),
        Act::Mkdir(path) => {
            let (dir, name) = parent(fs, path)?;
            fs.mknod(dir, &name, Kind::Directory, 0o755, USER, 0).map(drop)
        }
        Act::Rmdir(path) => parent(fs, path).and_then(|(dir, name)| fs.rmdir(dir, &name)),
        Act::Rename(from, to) => two(fs, from, to, RenameFlags::Replace),
        Act::Exchange(one, two_) => two(fs, one, two_, RenameFlags::Exchange),
        Act::HardLink(from, to) => {
            let ino = find(fs, from)?;
            let (dir, name) = parent(fs, to)?;
            fs.link(ino, dir, &name).map(drop)
        }
        Act::Symlink(path, target) => {
            let (dir, name) = parent(fs, path)?;
            fs.symlink(dir, &name, target, USER).map(drop)
        }
        Act::Xattr(path, value) => fs.setxattr(find(fs, path)?, XATTR, value, XattrMode::Any),
        Act::Import(seed, count) => import(fs, *seed, *count),
    }
}

fn two(fs: &dyn FileSystem, from: &str, to: &str, flags: RenameFlags) -> Result<()> {
    let (from_dir, from_name) = parent(fs, from)?;
    let (to_dir, to_name) = parent(fs, to)?;
    fs.rename(from_dir, &from_name, to_dir, &to_name, flags)
}

fn import(fs: &dyn FileSystem, seed: u64, count: u64) -> Result<()> {
    let top = fs.create_detached(Kind::Directory, 0o755, USER)?.ino;
    let build = || {
        let into = fs.mknod(top, IMPORTED.as_bytes(), Kind::Directory, 0o755, USER, 0)?.ino;
        for (name, data) in imported(seed, count) {
            let file = fs.mknod(into, name.as_bytes(), Kind::File, 0o644, USER, 0)?.ino;
            write_all(fs, file, 0, &data)?;
        }
        let implicit = [top, into];
        fs.graft(&Graft { from: top, into: ROOT, removals: &[], implicit: &implicit, expect: None })
            .map(drop)
    };
    let done = build();
    fs.unpin(top);
    done
}

#[cfg(test)]
mod tests {
    use vfs::memfs::MemFs;

    use super::*;
    use crate::tree::observe;

    #[test]
    fn a_tree_in_memory_does_what_the_model_says() {
        for seed in 0..20 {
            let mut chance = Chance::new(seed);
            let fs = MemFs::new(Arc::new(testkit::HandClock::default()), 1 << 40);
            let mut tree = Tree::default();
            for n in 0..120 {
                let act = choose(&mut chance, &tree);
                run(&fs, &act).unwrap_or_else(|error| panic!("seed {seed}, {n}: {act:?}: {error}"));
                assert!(apply(&mut tree, &act, n));
            }
            assert_eq!(observe(&fs).unwrap().differs(&tree), None, "seed {seed}");
        }
    }
}
