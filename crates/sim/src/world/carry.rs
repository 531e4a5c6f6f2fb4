//! Drafts whose home moved on: what they changed is whole, and is carried over by path, as a server does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use base::ErrorKind;
use bytes::Bytes;
use homefs::{Draft, PathChange};
use vfs::path::TreePath;
use vfs::tar::{Bundle, ImportOptions};
use vfs::{Attr, FileSystem as _, Kind};

use super::{Check, Held, World};
use crate::store::Rates;
use crate::tree::{Entry, Tree, XATTR, content, content_differs, observe};

/// What a draft says that it changed, by path.
type Changes = BTreeMap<String, Option<Attr>>;

impl World {
    /// True where the home of a draft may stand on another commit than the draft.
    pub(super) fn may_have_moved(&self, host: usize, home: usize) -> bool {
        let belief = &self.homes[home].1;
        let resting = belief.held == Held::Released && belief.doubt.is_empty();
        let same = |claims| belief.claims == claims;
        !resting
            || !self.hosts[host]
                .drafts
                .get(&home)
                .is_some_and(|draft| draft.begun.is_some_and(same))
    }

    /// All that a draft changed is there, whatever became of its home.
    pub(super) fn check_changes(&mut self, host: usize, home: usize) -> Check {
        let Some(sketch) = self.hosts[host].drafts.get(&home) else { return Ok(()) };
        let Some((draft, wire)) = &sketch.open else { return Ok(()) };
        let rates = wire.set_rates(Rates::default());
        let changes = changes_of(draft)?;
        let differs = |path: &String| {
            let entries = (sketch.base.names.get(path), sketch.tree.names.get(path));
            let (Some(Entry::File(before)), Some(Entry::File(now))) = entries else {
                return entries.0 != entries.1;
            };
            let files = (sketch.base.files.get(before), sketch.tree.files.get(now));
            matches!(files, (Some(before), Some(now)) if content_differs(path, before, now).is_some())
        };
        let paths: BTreeSet<_> = sketch.base.names.keys().chain(sketch.tree.names.keys()).collect();
        if let Some(missed) =
            paths.into_iter().find(|path| differs(path) && !changes.contains_key(*path))
        {
            return Err(format!("a draft does not know that it changed {missed:?}"));
        }
        for (path, now) in &changes {
            let found = now.as_ref().map(|attr| found(draft, attr));
            if let Some(wrong) = wrong_at(&sketch.tree, path, found)? {
                return Err(format!(
                    "a draft that its home moved under lost what it held: {wrong}"
                ));
            }
        }
        wire.set_rates(rates);
        self.note(format!("look at the draft h{host} home{home}: {} changes", changes.len()));
        Ok(())
    }

    /// Carries the changes of a draft over to the home as it is now.
    pub(super) fn carry_over(&mut self, host: usize, home: usize) -> Check {
        if !self.hosts[host].writers.contains_key(&home) {
            self.open(host, home, true, false)?;
        }
        let (host_now, steps) = (&self.hosts[host], self.acts + 1);
        let (Some(writer), Some(sketch)) =
            (host_now.writers.get(&home), host_now.drafts.get(&home))
        else {
            return Ok(());
        };
        let Some((draft, wire)) = &sketch.open else { return Ok(()) };
        let rates = (wire.set_rates(Rates::default()), writer.wire.set_rates(Rates::default()));
        let changes = changes_of(draft)?;
        let removed = changes.iter().filter(|(_, now)| now.is_none());
        let removed: Vec<Vec<Vec<u8>>> = removed
            .map(|(path, _)| path.split('/').map(|name| name.as_bytes().to_vec()).collect())
            .collect();
        let listed =
            changes.iter().filter_map(|(path, now)| Some((path.clone().into_bytes(), (*now)?)));
        let tar = Pieces(Bundle::of_paths(draft, listed.collect()), Bytes::new());
        let options = ImportOptions { keep_owner: true, outside_links: true };
        let done = vfs::tar::import(&*writer.fs, &TreePath::root(), tar, &removed, options);
        let shows = observe(&*writer.fs).map_err(|(path, error)| {
            format!("{path:?} cannot be read after a draft was carried over: {error}")
        })?;
        wire.set_rates(rates.0);
        writer.wire.set_rates(rates.1);
        let before = &host_now.locals[&home].tree;
        let line =
            format!("carry over h{host} home{home}: {:?}", done.as_ref().map(|done| done.entries));
        match &done {
            Ok(_) => {
                let touched = |path: &str| {
                    changes.contains_key(path)
                        || changes.iter().any(|(over, now)| now.is_none() && is_below(path, over))
                };
                for (path, now) in &changes {
                    if now.is_some()
                        && sketch.tree.names.get(path) != Some(&Entry::Dir)
                        && let Some(wrong) = entry_differs(path, &sketch.tree, &shows)
                    {
                        return Err(format!("carried over and not there: {wrong}"));
                    }
                }
                let mut kept = before.names.keys().filter(|path| !touched(path));
                if let Some(wrong) = kept.find_map(|path| entry_differs(path, before, &shows)) {
                    return Err(format!("carrying a draft over changed something else: {wrong}"));
                }
            }
            // Something is in the way: nothing was changed.
            Err(error)
                if error.kind() == ErrorKind::Conflict
                    || error.kind() == ErrorKind::AlreadyExists =>
            {
                if let Some(wrong) = before.differs(&shows) {
                    return Err(format!("carrying a draft over failed half way: {wrong}"));
                }
            }
            Err(error) if error.kind() == ErrorKind::Fenced => {}
            Err(error) => return Err(format!("a draft cannot be carried over: {error}")),
        }
        self.note(line);
        self.acts = steps;
        if done.is_ok() {
            self.summary.carried += 1;
            if let Some(local) = self.hosts[host].locals.get_mut(&home) {
                local.tree = shows;
            }
            if let Some(writer) = self.hosts[host].writers.get_mut(&home) {
                writer.dirty = true;
            }
            self.sync(host, home, false)?;
        }
        Ok(())
    }
}

fn is_below(path: &str, over: &str) -> bool {
    path.strip_prefix(over).is_some_and(|rest| rest.starts_with('/'))
}

fn changes_of(draft: &Draft) -> Check<Changes> {
    let changes =
        draft.changes().map_err(|error| format!("a draft cannot say what it changed: {error}"))?;
    let path = |change: &PathChange| String::from_utf8_lossy(&change.path.join(&b'/')).into_owned();
    Ok(changes.into_iter().map(|change| (path(&change), change.now)).collect())
}

/// One path of a draft, as a tree of its own.
fn found(draft: &Draft, attr: &Attr) -> vfs::Result<Tree> {
    let mut tree = Tree::default();
    let entry = match attr.kind {
        Kind::Directory => Entry::Dir,
        Kind::Symlink => Entry::Link(draft.readlink(attr.ino)?),
        _ => {
            let data = content(draft, attr.ino)?.into();
            let xattr = match draft.getxattr(attr.ino, XATTR) {
                Ok(value) => Some(value),
                Err(error) if error.errno() == vfs::Errno::ENODATA => None,
                Err(error) => return Err(error),
            };
            tree.files.insert(0, crate::tree::File { data, xattr, changed: 0 });
            Entry::File(0)
        }
    };
    tree.names.insert(String::new(), entry);
    Ok(tree)
}

fn wrong_at(tree: &Tree, path: &str, found: Option<vfs::Result<Tree>>) -> Check<Option<String>> {
    let found = match found {
        Some(Ok(found)) => found,
        Some(Err(error)) => return Ok(Some(format!("{path:?}: {error}"))),
        None => Tree::default(),
    };
    let mut expected = Tree::default();
    if let Some(entry) = tree.names.get(path) {
        expected.names.insert(String::new(), entry.clone());
        if let Entry::File(number) = entry
            && let Some(file) = tree.files.get(number)
        {
            expected.files.insert(*number, file.clone());
        }
    }
    Ok(expected.differs(&found).map(|what| format!("{path:?}: {what}")))
}

fn entry_differs(path: &str, one: &Tree, other: &Tree) -> Option<String> {
    let files = |tree: &Tree| tree.file(path).map(|(_, file)| file.clone());
    match (files(one), files(other)) {
        (Some(one), Some(other)) => content_differs(path, &one, &other),
        (None, None) if one.names.get(path) == other.names.get(path) => None,
        _ => Some(format!("{path}: {:?} and {:?}", one.names.get(path), other.names.get(path))),
    }
}

/// The stream of a bundle.
struct Pieces<'a>(Bundle<'a>, Bytes);

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.1.is_empty() {
            let next =
                self.0.next_piece().map_err(|error| std::io::Error::other(error.to_string()))?;
            self.1 = next.unwrap_or_default();
        }
        let part = self.1.split_to(self.1.len().min(into.len()));
        into[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}
