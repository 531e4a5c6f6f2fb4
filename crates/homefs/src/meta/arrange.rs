//! How the pages of a home's database lie in the store: for readers who fetch few of them.
//!
//! # Order
//! Whoever looks a path up needs a leaf of `dentry`, one of `inode`, one of `extent`; files of one
//! directory were mostly made one after the other. So leaves that begin with the same inode lie
//! side by side, those of all these trees together, and one request brings what a path needs.
//! `blob` is apart, each row with its overflow pages: it is large and needed last.
//!
//! # Hot
//! The pages inside all trees, small tables and `extent` as a whole, and where the root directory is. Directories
//! are told in hints (`dirs`), so that only the last step of a path needs leaves.
//!
//! # Not here
//! What is stored when (`replica::plan`). Nothing depends on an order but the number of requests.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::btree::{self, Tree};
use super::{dirs, source};
use crate::replica::collect::Arrangement;
use crate::replica::error::Result;
use crate::replica::pages::PageSource;

/// A table whose leaves are all hot, if it has no more than this.
const SMALL_LEAVES_MAX: usize = 48;
/// Leaves of `extent` that are hot, if it has no more: some 25,000 files in packs. Each one less to
/// ask for when a file of a pack is read.
const EXTENT_LEAVES_MAX: usize = 256;
/// Leaves of the root directory that are hot.
const ROOT_LEAVES_MAX: usize = 8;

/// Trees whose first column is an inode, in the order in which leaves of one inode lie.
const BY_INODE: &[&str] = &["dentry", "inode", "extent", "xattr", "dentry_cookie"];

/// Where pages lie, by page. See [`arrange`].
struct Layout {
    hot: Vec<u32>,
    hints: Vec<u8>,
    /// By page, from 1: what to sort by. 0: unknown.
    ranks: Vec<u64>,
}

/// Sorts before everything of a later one.
#[derive(Debug, Clone, Copy)]
enum Class {
    ByInode = 1,
    Other = 2,
    Blob = 3,
    Unknown = 4,
}

fn rank(class: Class, key: u64, tree: usize) -> u64 {
    const KEY_MAX: u64 = (1 << 52) - 1;
    (class as u64) << 60 | key.min(KEY_MAX) << 8 | (tree as u64 & 0xFF)
}

/// Looks at a database of a home. One that is not, or is damaged, is laid out by number.
pub(crate) fn arrange(source: &Arc<dyn PageSource>) -> Result<Box<dyn Arrangement>> {
    let mut layout =
        Layout { hot: vec![1], hints: Vec::new(), ranks: vec![0; source.page_count() as usize] };
    if let Some(conn) = source::open(source) {
        let roots = source::roots(&conn);
        layout.survey(source.as_ref(), &roots)?;
        layout.hints = dirs::collect(&conn).unwrap_or_default();
    }
    Ok(Box::new(layout))
}

impl Layout {
    fn survey(&mut self, source: &dyn PageSource, roots: &[(String, u32)]) -> Result<()> {
        let schema = btree::read_tree(source, 1)?;
        self.hot.extend(schema.inside.iter().chain(schema.leaves.iter().map(|leaf| &leaf.1)));
        let mut warm = Vec::new();
        let mut inside = Vec::new();
        for (name, root) in roots {
            let tree = btree::read_tree(source, *root)?;
            let by_inode = BY_INODE.iter().position(|known| known == name);
            let class = match by_inode {
                Some(_) => Class::ByInode,
                None if name == "blob" => Class::Blob,
                None => Class::Other,
            };
            for (key, page) in &tree.leaves {
                self.note(*page, rank(class, *key, by_inode.unwrap_or(0)));
            }
            warm.extend(warm_leaves(name, &tree));
            inside.push(tree.inside);
        }
        // Of large homes not all of it fits: trees that every path needs come first.
        inside.sort_by_key(Vec::len);
        self.hot.extend(warm);
        self.hot.extend(inside.into_iter().flatten());
        Ok(())
    }

    fn rank_of(&self, page: u32) -> Option<u64> {
        let known = (page as usize).checked_sub(1).and_then(|at| self.ranks.get(at));
        known.copied().filter(|rank| *rank != 0)
    }

    /// The overflow pages of those of `pages` that are leaves of `blob`, each with its row.
    fn overflow(
        &self,
        source: &dyn PageSource,
        pages: impl Iterator<Item = u32>,
    ) -> Result<Vec<(u64, u32)>> {
        let is_leaf =
            |page: &u32| self.rank_of(*page).is_some_and(|r| r >> 60 == Class::Blob as u64);
        let mut buffer = vec![0; source.page_size() as usize];
        let mut found = Vec::new();
        for leaf in pages.filter(is_leaf) {
            found.extend(btree::overflow_of(source, leaf, &mut buffer)?);
        }
        Ok(found)
    }

    fn note(&mut self, page: u32, rank: u64) {
        let place = (page as usize).checked_sub(1).and_then(|at| self.ranks.get_mut(at));
        if let Some(place) = place {
            *place = rank;
        }
    }
}

/// Leaves that are worth having at once.
fn warm_leaves(name: &str, tree: &Tree) -> Vec<u32> {
    let of_root = tree.leaves.iter().take_while(|leaf| leaf.0 <= 1).take(ROOT_LEAVES_MAX);
    match name {
        "dentry" | "dentry_cookie" => of_root.map(|leaf| leaf.1).collect(),
        "inode" => tree.leaves.iter().take(1).map(|leaf| leaf.1).collect(),
        "extent" if tree.leaves.len() <= EXTENT_LEAVES_MAX => {
            tree.leaves.iter().map(|leaf| leaf.1).collect()
        }
        "blob" | "xattr" if tree.leaves.len() > 1 => Vec::new(),
        _ if tree.leaves.len() <= SMALL_LEAVES_MAX => {
            tree.leaves.iter().map(|leaf| leaf.1).collect()
        }
        _ => Vec::new(),
    }
}

impl Arrangement for Layout {
    fn hot(&self) -> &[u32] {
        &self.hot
    }

    fn hints(&self) -> &[u8] {
        &self.hints
    }

    fn companions(&self, source: &dyn PageSource, pages: &BTreeSet<u32>) -> Result<Vec<u32>> {
        let overflow = self.overflow(source, pages.iter().copied())?;
        Ok(overflow.into_iter().map(|(_, page)| page).collect())
    }

    fn order(&self, source: &dyn PageSource, pages: &mut [u32]) -> Result<()> {
        let overflow = self.overflow(source, pages.iter().copied())?;
        let ranks: HashMap<u32, u64> =
            overflow.into_iter().map(|(row, page)| (page, rank(Class::Blob, row, 1))).collect();
        pages.sort_by_cached_key(|page| {
            let known = self.rank_of(*page).or_else(|| ranks.get(page).copied());
            (known.unwrap_or(rank(Class::Unknown, 0, 0)), *page)
        });
        Ok(())
    }
}
