//! What tells a kernel to forget: changes made elsewhere, as notifications.
//!
//! A name that changed its meaning: `INVAL_ENTRY`, which also ends a remembered "does not exist".
//! An inode that changed: `INVAL_INODE` for attributes and all cached content. A directory whose
//! entry changed gets both, because Linux drops a cached listing on `INVAL_ENTRY` only if the name
//! itself was cached.
//!
//! # Not here
//! Sending them (`notifier`).

use std::collections::BTreeSet;

use vfs::{Ino, Touched};

use crate::abi::{OUT_HEADER_BYTES, Writer, notify_code};

/// Notifications that wait to be sent, each at most once.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    entries: BTreeSet<(Ino, Vec<u8>)>,
    inodes: BTreeSet<Ino>,
}

impl Batch {
    /// What `touched` means for a kernel that knows the inodes for which `holds` is true.
    pub(crate) fn of(touched: &Touched, holds: impl Fn(Ino) -> bool) -> Self {
        let mut batch = Self::default();
        for (parent, name) in &touched.entries {
            if batch.inodes.contains(parent) || holds(*parent) {
                batch.inodes.insert(*parent);
                batch.entries.insert((*parent, name.clone()));
            }
        }
        batch.inodes.extend(touched.inodes.iter().copied().filter(|ino| holds(*ino)));
        batch
    }

    /// Adds `more`; what is there already stays once.
    pub(crate) fn merge(&mut self, more: Self) {
        if self.is_empty() {
            *self = more;
            return;
        }
        self.entries.extend(more.entries);
        self.inodes.extend(more.inodes);
    }

    /// How many notifications it is.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() + self.inodes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The messages: names first, so that no cached name leads to an inode whose attributes are
    /// read again for nothing.
    pub(crate) fn messages(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let entries = self.entries.iter().map(|(parent, name)| inval_entry(*parent, name));
        entries.chain(self.inodes.iter().map(|ino| inval_inode(*ino)))
    }
}

/// `FUSE_NOTIFY_INVAL_INODE` for attributes and all content.
fn inval_inode(ino: Ino) -> Vec<u8> {
    let mut message = header(24, notify_code::INVAL_INODE);
    message.u64(ino).i64(0).i64(0);
    message
}

/// `FUSE_NOTIFY_INVAL_ENTRY`.
fn inval_entry(parent: Ino, name: &[u8]) -> Vec<u8> {
    let mut message = header(16 + name.len() + 1, notify_code::INVAL_ENTRY);
    let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    message.u64(parent).u32(name_len).u32(0).bytes(name).zeros(1);
    message
}

/// A header with `unique` 0, which marks a notification.
fn header(body_bytes: usize, code: i32) -> Vec<u8> {
    let len = OUT_HEADER_BYTES + body_bytes;
    let mut message = Vec::with_capacity(len);
    message.u32(u32::try_from(len).unwrap_or(u32::MAX)).bytes(&code.to_ne_bytes()).u64(0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(entries: &[(Ino, &str)], inodes: &[Ino]) -> Touched {
        Touched {
            entries: entries.iter().map(|(p, n)| (*p, n.as_bytes().to_vec())).collect(),
            inodes: inodes.to_vec(),
        }
    }

    #[test]
    fn a_changed_name_invalidates_its_directory_too() {
        let batch = Batch::of(&touched(&[(1, "a"), (1, "b")], &[7]), |_| true);
        assert_eq!(batch.len(), 4);
        let codes: Vec<i32> =
            batch.messages().map(|m| i32::from_ne_bytes([m[4], m[5], m[6], m[7]])).collect();
        assert_eq!(codes, [3, 3, 2, 2]);
    }

    #[test]
    fn what_the_kernel_does_not_know_is_left_out() {
        let batch = Batch::of(&touched(&[(5, "a")], &[7, 8]), |ino| ino == 8);
        assert_eq!(batch.messages().count(), 1);
    }

    #[test]
    fn the_same_change_twice_is_one_notification() {
        let mut batch = Batch::of(&touched(&[(1, "a")], &[7]), |_| true);
        let again = batch.clone();
        batch.merge(again.clone());
        assert_eq!(batch, again);
    }

    #[test]
    fn lengths_are_what_the_header_says() {
        for message in Batch::of(&touched(&[(1, "name")], &[7]), |_| true).messages() {
            let len = u32::from_ne_bytes([message[0], message[1], message[2], message[3]]);
            assert_eq!(len as usize, message.len());
            assert_eq!(&message[8..16], &[0; 8]);
        }
    }
}
