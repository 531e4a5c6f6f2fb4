//! What the store may hold of one home, by all that was confirmed and tried: the oracle.
//!
//! # Always true
//! - What a new writer or a reader finds is one of [`Belief::may`]: after a confirmed sync, release or
//!   publication exactly that tree; after one in doubt the tree before or the tree after, whole.
//! - A writer that somebody else overtook confirms nothing; one that nobody overtook is not fenced.
//! - A home that another server holds is not taken unless that is asked for.
//! - A killed process loses nothing that was done (`host::Local`).

use std::collections::BTreeSet;

use crate::tree::Tree;

/// Who holds a home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Nobody.
    Released,
    /// This host.
    By(usize),
    /// An attempt is in doubt.
    Unsure,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Belief {
    /// What the newest commit may show.
    pub may: Vec<Tree>,
    /// Who holds the home.
    pub held: Held,
    /// Claims and publications that are certain.
    pub claims: u64,
    /// Who made one since the last certain one that may or may not have been done.
    pub doubt: BTreeSet<usize>,
}

impl Default for Belief {
    fn default() -> Self {
        Self { may: vec![Tree::default()], held: Held::Released, claims: 0, doubt: BTreeSet::new() }
    }
}

impl Belief {
    /// A claim or publication is certain.
    pub fn claimed(&mut self, held: Held) -> u64 {
        self.claims += 1;
        self.held = held;
        self.doubt.clear();
        self.claims
    }

    /// One is in doubt.
    pub fn doubted(&mut self, who: usize) {
        self.held = Held::Unsure;
        self.doubt.insert(who);
    }

    /// True where somebody other than `who` may have taken the home after claim `claim`.
    #[must_use]
    pub fn maybe_overtaken(&self, claim: u64, who: usize) -> bool {
        self.claims > claim || self.doubt.iter().any(|other| *other != who)
    }

    /// True where `tree` is what the newest commit may show.
    #[must_use]
    pub fn allows(&self, tree: &Tree) -> bool {
        self.may.iter().any(|may| may.differs(tree).is_none())
    }

    /// Why not.
    #[must_use]
    pub fn objection(&self, tree: &Tree) -> String {
        let all: Vec<_> = self.may.iter().filter_map(|may| may.differs(tree)).collect();
        format!("{} allowed; {}", all.len(), all.join(" | "))
    }

    /// Something was tried that may make this the newest state.
    pub fn might(&mut self, tree: &Tree) {
        if !self.allows(tree) {
            self.may.push(tree.clone());
        }
    }
}
