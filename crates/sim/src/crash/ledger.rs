//! What was acknowledged, and by whom.

use std::collections::BTreeMap;

use anyhow::bail;

use crate::chance::{Chance, noise};

/// A call of a writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    /// A file, whole.
    Put(String, usize, u64),
    /// A name less.
    Delete(String),
}

impl Call {
    pub(super) fn path(&self) -> &str {
        match self {
            Self::Put(path, ..) | Self::Delete(path) => path,
        }
    }

    /// What the path holds once it is done.
    pub(super) fn outcome(&self) -> Option<Vec<u8>> {
        match self {
            Self::Put(_, len, seed) => Some(noise(*len, *seed)),
            Self::Delete(_) => None,
        }
    }
}

/// What one writer knows of its paths. No two share one.
#[derive(Debug, Clone, Default)]
pub(super) struct Own {
    /// What was acknowledged last.
    local: BTreeMap<String, Call>,
    /// All that was since the store certainly had everything, oldest first: the first is what it had.
    since: BTreeMap<String, Vec<Option<Call>>>,
    /// A call that nobody heard the end of.
    open: Option<Call>,
}

impl Own {
    pub(super) fn choose(&self, chance: &mut Chance, writer: u64) -> Call {
        let path = format!("w{writer}/d{}/f{}", chance.below(3), chance.below(12));
        let there = matches!(self.local.get(&path), Some(Call::Put(..)));
        if there && chance.percent(20) {
            return Call::Delete(path);
        }
        let len = match chance.below(30) {
            0 => 4_194_305,
            1..=3 => 200_000,
            4..=6 => 16_385,
            _ => chance.index(5_000),
        };
        Call::Put(path, len, chance.any() % 1_000_000)
    }

    pub(super) fn begin(&mut self, call: &Call) {
        self.open = Some(call.clone());
    }

    pub(super) fn refused(&mut self) {
        self.open = None;
    }

    pub(super) fn done(&mut self, call: &Call) {
        let path = call.path().to_owned();
        let before = self.local.insert(path.clone(), call.clone());
        let since = self.since.entry(path).or_insert_with(|| vec![before]);
        since.push(Some(call.clone()));
        self.open = None;
    }

    /// What a path may hold now.
    fn allowed(&self, path: &str, lost_disk: bool) -> Vec<Option<Vec<u8>>> {
        let outcome = |call: Option<&Call>| call.and_then(Call::outcome);
        let mut allowed = Vec::new();
        match self.since.get(path) {
            Some(since) if lost_disk => {
                // Old or new: a name is never stored without its content.
                allowed.extend(since.iter().map(|call| outcome(call.as_ref())));
            }
            _ => allowed.push(outcome(self.local.get(path))),
        }
        if let Some(open) = self.open.as_ref().filter(|open| open.path() == path) {
            allowed.push(open.outcome());
        }
        allowed
    }
}

/// All writers, and the guest's program.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    writers: BTreeMap<u64, Own>,
    /// Files that the guest synced, by cycle: numbers 1 to this.
    guest: BTreeMap<u64, u64>,
}

/// What the guest's program writes into its file `n`.
pub(super) fn guest_content(cycle: u64, n: u64) -> String {
    format!("cycle {cycle} file {n}\n").repeat(1 + (n as usize % 40) * 30)
}

/// Where.
pub(super) fn guest_path(cycle: u64, n: u64) -> String {
    format!("g{cycle}/{n}")
}

/// Cycles whose guest files are read again each time.
const GUEST_CYCLES: usize = 4;

impl Ledger {
    pub(super) fn of(&self, writer: u64) -> Own {
        self.writers.get(&writer).cloned().unwrap_or_default()
    }

    pub(super) fn put_back(&mut self, writer: u64, own: Own) {
        self.writers.insert(writer, own);
    }

    pub(super) fn synced(&mut self, cycle: u64, count: u64) {
        self.guest.insert(cycle, count);
    }

    /// The store has everything as it is now.
    pub(super) fn stored_all(&mut self) {
        for own in self.writers.values_mut() {
            own.since.clear();
            own.open = None;
        }
    }

    /// Reads all of it back, and takes what was found as what is; how much was compared.
    pub(super) fn verify(
        &mut self,
        lost_disk: bool,
        read: &dyn Fn(&str) -> anyhow::Result<Option<Vec<u8>>>,
    ) -> anyhow::Result<u64> {
        let mut compared = 0;
        for own in self.writers.values_mut() {
            let mut paths: Vec<String> = own.local.keys().cloned().collect();
            paths.extend(own.open.as_ref().map(|open| open.path().to_owned()));
            for path in paths {
                let found = read(&path)?;
                let allowed = own.allowed(&path, lost_disk);
                if !allowed.contains(&found) {
                    let sizes = |data: &Option<Vec<u8>>| data.as_ref().map(Vec::len);
                    let wanted: Vec<_> = allowed.iter().map(sizes).collect();
                    bail!("LOST {path}: found {:?} bytes, allowed {wanted:?}", sizes(&found));
                }
                own.settle(&path, found.as_deref());
                compared += 1;
            }
        }
        let recent: Vec<_> = self.guest.iter().rev().take(GUEST_CYCLES).collect();
        for (cycle, count) in recent {
            for n in 1..=*count {
                let found = read(&guest_path(*cycle, n))?;
                if found.as_deref() != Some(guest_content(*cycle, n).as_bytes()) {
                    bail!("LOST what the guest synced: cycle {cycle}, file {n} of {count}");
                }
                compared += 1;
            }
        }
        Ok(compared)
    }
}

impl Own {
    /// What was found is what was acknowledged from here on.
    fn settle(&mut self, path: &str, found: Option<&[u8]>) {
        let known = self.local.get(path).cloned();
        let candidates = known
            .into_iter()
            .chain(self.open.clone().filter(|open| open.path() == path))
            .chain(self.since.get(path).into_iter().flatten().flatten().cloned());
        let same = |call: &Call| call.outcome().as_deref() == found;
        let settled = candidates.into_iter().find(same).unwrap_or_else(|| match found {
            Some(_) => Call::Put(path.to_owned(), 0, 0),
            None => Call::Delete(path.to_owned()),
        });
        self.local.insert(path.to_owned(), settled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(calls: &[Call]) -> Ledger {
        let mut own = Own::default();
        for call in calls {
            own.begin(call);
            own.done(call);
        }
        let mut ledger = Ledger::default();
        ledger.put_back(0, own);
        ledger
    }

    fn put(seed: u64) -> Call {
        Call::Put("a".into(), 10, seed)
    }

    #[test]
    fn a_lost_write_is_a_finding_and_an_older_one_only_without_the_disk() {
        let found = |seed| move |_: &str| Ok(Some(noise(10, seed)));
        let calls = [put(1), put(2)];
        assert!(ledger(&calls).verify(false, &found(2)).is_ok());
        assert!(ledger(&calls).verify(false, &found(1)).is_err());
        assert!(ledger(&calls).verify(true, &found(1)).is_ok());
        assert!(ledger(&calls).verify(true, &found(3)).is_err());
        let mut stored = ledger(&calls);
        stored.stored_all();
        assert!(stored.verify(true, &found(1)).is_err(), "the store had the newer one");
    }
}
