//! Names in the store. Nothing else builds one.
//!
//! Below `uppers/<machine>/`: `log/<epoch>-<what>` in the order in which things came to be (but for `memory`, which
//! comes last), `chunks/<digest>-<epoch>`, `memory/<digest>-<epoch>`, `pins/<holder>` and `deleted`. An epoch in `log/` has 20 digits, so that the order of names is that of numbers;
//! of one epoch, `begun` comes before `changed`, and that before `stored`. A name in another spelling is not
//! one of ours.
//!
//! Below `templates/<template>/`, which no machine owns: `memory`, `packs/<digest>`, `users/<machine>` and `unused`.

use std::fmt;
use std::str::FromStr;

use base::{Digest, Epoch, MachineId};
use serde::{Deserialize, Serialize};

use crate::pins::Holder;

/// What a generation came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// A wake: what it began with, and that nothing older counts any more.
    Begun,
    /// A sleep: what it left.
    Stored,
}

/// A state of an upper in the store. Later ones are larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Generation {
    pub(crate) epoch: Epoch,
    pub(crate) kind: Kind,
}

/// What a name below `log/` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Manifest(Generation),
    /// The run of this epoch changed the upper; its manifest is to follow.
    Changed(Epoch),
    /// The memory that the run of this epoch left.
    Memory(Epoch),
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Begun => "begun",
            Kind::Stored => "stored",
        };
        write!(f, "{:020}-{kind}", self.epoch.0)
    }
}

impl From<Generation> for String {
    fn from(generation: Generation) -> Self {
        generation.to_string()
    }
}

impl TryFrom<String> for Generation {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Generation {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = "not a generation of an upper";
        let (digits, kind) = text.split_once('-').ok_or(bad)?;
        let kind = match kind {
            "begun" => Kind::Begun,
            "stored" => Kind::Stored,
            _ => return Err(bad),
        };
        let generation = Self { epoch: Epoch(digits.parse().map_err(|_| bad)?), kind };
        if generation.to_string() == text { Ok(generation) } else { Err(bad) }
    }
}

/// The names of one machine's upper.
#[derive(Debug, Clone)]
pub(crate) struct Keys(String);

impl Keys {
    pub(crate) fn of(machine: &MachineId) -> Self {
        Self(format!("uppers/{machine}/"))
    }

    /// Everything of this upper begins with it.
    pub(crate) fn prefix(&self) -> &str {
        &self.0
    }

    pub(crate) fn log(&self) -> String {
        format!("{}log/", self.0)
    }

    pub(crate) fn manifest(&self, generation: Generation) -> String {
        format!("{}log/{generation}", self.0)
    }

    pub(crate) fn changed(&self, epoch: Epoch) -> String {
        format!("{}log/{:020}-changed", self.0, epoch.0)
    }

    pub(crate) fn memory(&self, epoch: Epoch) -> String {
        format!("{}log/{:020}-memory", self.0, epoch.0)
    }

    pub(crate) fn packs(&self) -> String {
        format!("{}memory/", self.0)
    }

    pub(crate) fn pack(&self, digest: &Digest, born: Epoch) -> String {
        format!("{}memory/{digest}-{}", self.0, born.0)
    }

    /// The machine's id.
    pub(crate) fn machine(&self) -> &str {
        self.0.trim_start_matches("uppers/").trim_end_matches('/')
    }

    pub(crate) fn pins(&self) -> String {
        format!("{}pins/", self.0)
    }

    pub(crate) fn pin(&self, holder: &Holder) -> String {
        format!("{}pins/{holder}", self.0)
    }

    /// A copy of the manifest of the memory that is kept with it.
    pub(crate) fn pinned_memory(&self, holder: &Holder) -> String {
        format!("{}pins/{holder}-memory", self.0)
    }

    /// Says that the machine is deleted.
    pub(crate) fn grave(&self) -> String {
        format!("{}deleted", self.0)
    }

    /// Who holds what a name below `pins/` keeps, and whether that is a memory.
    pub(crate) fn holder(&self, key: &str) -> Option<(Holder, bool)> {
        let name = key.strip_prefix(&self.0)?.strip_prefix("pins/")?;
        match name.strip_suffix("-memory") {
            Some(holder) => Some((Holder::parse(holder)?, true)),
            None => Some((Holder::parse(name)?, false)),
        }
    }

    pub(crate) fn chunks(&self) -> String {
        format!("{}chunks/", self.0)
    }

    pub(crate) fn chunk(&self, digest: &Digest, born: Epoch) -> String {
        format!("{}chunks/{digest}-{}", self.0, born.0)
    }

    /// What a name in the store is, if it is one of `log/`.
    pub(crate) fn entry(&self, key: &str) -> Option<Entry> {
        let name = key.strip_prefix(&self.0)?.strip_prefix("log/")?;
        if let Ok(generation) = name.parse() {
            return Some(Entry::Manifest(generation));
        }
        let (digits, what) = name.split_once('-')?;
        let epoch = Epoch(digits.parse().ok()?);
        match what {
            "changed" => (self.changed(epoch) == key).then_some(Entry::Changed(epoch)),
            "memory" => (self.memory(epoch) == key).then_some(Entry::Memory(epoch)),
            _ => None,
        }
    }

    /// Digest and birth in the name of a chunk.
    pub(crate) fn chunk_id(&self, key: &str) -> Option<(Digest, Epoch)> {
        let id = self.id(key, "chunks/")?;
        (self.chunk(&id.0, id.1) == key).then_some(id)
    }

    /// The same of a pack.
    pub(crate) fn pack_id(&self, key: &str) -> Option<(Digest, Epoch)> {
        let id = self.id(key, "memory/")?;
        (self.pack(&id.0, id.1) == key).then_some(id)
    }

    fn id(&self, key: &str, below: &str) -> Option<(Digest, Epoch)> {
        let (digest, born) = key.strip_prefix(&self.0)?.strip_prefix(below)?.split_once('-')?;
        Some((digest.parse().ok()?, Epoch(born.parse().ok()?)))
    }
}

/// A template's memory in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TemplateId(pub(crate) Digest);

impl fmt::Display for TemplateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Everything of all templates begins with it.
pub(crate) const TEMPLATES: &str = "templates/";

/// The names of one template's memory.
#[derive(Debug, Clone)]
pub(crate) struct TemplateKeys(String);

impl TemplateKeys {
    pub(crate) fn of(template: TemplateId) -> Self {
        Self(format!("{TEMPLATES}{template}/"))
    }

    /// Everything of it begins with it.
    pub(crate) fn prefix(&self) -> &str {
        &self.0
    }

    /// Its manifest.
    pub(crate) fn memory(&self) -> String {
        format!("{}memory", self.0)
    }

    pub(crate) fn packs(&self) -> String {
        format!("{}packs/", self.0)
    }

    pub(crate) fn pack(&self, digest: &Digest) -> String {
        format!("{}packs/{digest}", self.0)
    }

    pub(crate) fn users(&self) -> String {
        format!("{}users/", self.0)
    }

    /// Says that memory of this machine may lie over it.
    pub(crate) fn user(&self, machine: &str) -> String {
        format!("{}users/{machine}", self.0)
    }

    /// Says that it is being deleted.
    pub(crate) fn unused(&self) -> String {
        format!("{}unused", self.0)
    }

    /// The template that a name below [`TEMPLATES`] is of.
    pub(crate) fn template(key: &str) -> Option<TemplateId> {
        let (template, _) = key.strip_prefix(TEMPLATES)?.split_once('/')?;
        let id = TemplateId(template.parse().ok()?);
        key.starts_with(Self::of(id).prefix()).then_some(id)
    }

    /// The machine that a name below [`users`](Self::users) is of.
    pub(crate) fn machine(&self, key: &str) -> Option<MachineId> {
        let machine: MachineId = key.strip_prefix(&self.users())?.parse().ok()?;
        (self.user(machine.as_str()) == key).then_some(machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_in_which_things_came_to_be() {
        let keys = Keys::of(&MachineId::generate());
        let begun = |epoch| Generation { epoch: Epoch(epoch), kind: Kind::Begun };
        let stored = |epoch| Generation { epoch: Epoch(epoch), kind: Kind::Stored };
        let in_order = [
            keys.manifest(stored(9)),
            keys.manifest(begun(10)),
            keys.changed(Epoch(10)),
            keys.manifest(stored(10)),
            keys.manifest(begun(u64::MAX)),
        ];
        assert!(in_order.is_sorted(), "{in_order:?}");
        assert!(begun(10) < stored(10) && stored(10) < begun(11));
    }

    #[test]
    fn a_name_comes_back_as_what_it_was_made_of_and_in_no_other_spelling() {
        let keys = Keys::of(&MachineId::generate());
        let generation = Generation { epoch: Epoch(7), kind: Kind::Stored };
        assert_eq!(keys.entry(&keys.manifest(generation)), Some(Entry::Manifest(generation)));
        assert_eq!(keys.entry(&keys.changed(Epoch(7))), Some(Entry::Changed(Epoch(7))));
        let chunk = (Digest::of(b"x"), Epoch(3));
        assert_eq!(keys.chunk_id(&keys.chunk(&chunk.0, chunk.1)), Some(chunk));
        assert_eq!(keys.pack_id(&keys.pack(&chunk.0, chunk.1)), Some(chunk));
        assert_eq!(keys.pack_id(&keys.chunk(&chunk.0, chunk.1)), None);
        assert_eq!(keys.entry(&keys.memory(Epoch(7))), Some(Entry::Memory(Epoch(7))));
        for bad in
            ["7-stored", "7-memory", "00000000000000000007-gone", "+0000000000000000007-stored", ""]
        {
            assert_eq!(keys.entry(&format!("{}{bad}", keys.log())), None, "{bad}");
        }
        for holder in
            [Holder::Snapshot(base::SnapshotId::generate()), Holder::Fork(MachineId::generate())]
        {
            assert_eq!(keys.holder(&keys.pin(&holder)), Some((holder.clone(), false)));
            assert_eq!(keys.holder(&keys.pinned_memory(&holder)), Some((holder.clone(), true)));
            assert_eq!(keys.holder(&format!("{}-later", keys.pin(&holder))), None);
        }
        assert_eq!(keys.holder(&keys.pins()), None);
        assert_eq!(
            keys.machine().parse::<MachineId>().map(|id| Keys::of(&id).0),
            Ok(keys.0.clone())
        );
        for bad in [format!("{}-03", chunk.0), format!("{}-+3", chunk.0), "x-3".to_owned()] {
            assert_eq!(keys.chunk_id(&format!("{}{bad}", keys.chunks())), None, "{bad}");
        }
    }
}
