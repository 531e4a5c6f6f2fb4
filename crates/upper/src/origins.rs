//! Machines that an upper goes on from: whose prefix a chunk or a pack lies below. Pure.
//!
//! A fork names what its parent stored, and copies nothing. Births tell what is whose: the home of a fork begins with a
//! later epoch than its parent had, so that what was born until then is the parent's, and all else its own.
//!
//! # Invariants
//! Epochs go down from the newest origin to the oldest, and are all below those of the machine itself.

use base::{Epoch, MachineId};

use crate::frame::Reader;
use crate::keys::Keys;
use crate::limits::ORIGINS_MAX;

/// Bytes that a machine's id has in a manifest, with a zero at its end.
const ID: usize = 40;
/// Bytes of an origin in a manifest.
pub(crate) const ORIGIN: usize = 8 + ID;

/// A machine, and the last epoch of it that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    machine: MachineId,
    epoch: Epoch,
}

/// See the module; newest first. None for a machine that is no fork.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Origins(Vec<Origin>);

impl Origins {
    /// Those of a fork of `machine`, whose origins these are, at `epoch`. `None` where the chain is too long.
    pub(crate) fn forked(&self, machine: MachineId, epoch: Epoch) -> Option<Self> {
        let mut origins = vec![Origin { machine, epoch }];
        origins.extend_from_slice(&self.0);
        (origins.len() <= ORIGINS_MAX).then_some(Self(origins))
    }

    /// The machine that it was forked from.
    pub(crate) fn parent(&self) -> Option<&MachineId> {
        self.0.first().map(|origin| &origin.machine)
    }

    /// Under which the fork was made.
    pub(crate) fn first_epoch(&self) -> Option<Epoch> {
        self.0.first().map(|origin| origin.epoch.next())
    }

    /// Whether something born under this epoch lies below the machine's own prefix.
    pub(crate) fn is_own(&self, born: Epoch) -> bool {
        self.0.first().is_none_or(|origin| born > origin.epoch)
    }

    /// The names of the machine that stored what was born under this epoch; `own` are those of the one that has these
    /// origins.
    pub(crate) fn keys(&self, own: &Keys, born: Epoch) -> Keys {
        let mut oldest_first = self.0.iter().rev();
        match oldest_first.find(|origin| born <= origin.epoch) {
            Some(origin) => Keys::of(&origin.machine),
            None => own.clone(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for Origin { machine, epoch } in &self.0 {
            out.extend_from_slice(&epoch.0.to_le_bytes());
            let mut id = [0; ID];
            for (byte, of_id) in id.iter_mut().zip(machine.as_str().bytes()) {
                *byte = of_id;
            }
            out.extend_from_slice(&id);
        }
    }

    /// Reads `count` of them, of something that was made under the epoch `below`.
    pub(crate) fn read(reader: &mut Reader<'_>, count: usize, below: Epoch) -> Option<Self> {
        if count > ORIGINS_MAX {
            return None;
        }
        let (mut origins, mut below) = (Vec::with_capacity(count), below);
        for _ in 0..count {
            let epoch = Epoch(reader.u64()?);
            let (zero, id) = reader.bytes(ID)?.split_last()?;
            let machine: MachineId = std::str::from_utf8(id).ok()?.parse().ok()?;
            if epoch >= below || *zero != 0 {
                return None;
            }
            below = epoch;
            origins.push(Origin { machine, epoch });
        }
        Some(Self(origins))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn births_tell_whose_it_is() {
        let own = Keys::of(&MachineId::generate());
        let (old, parent) = (MachineId::generate(), MachineId::generate());
        let none = Origins::default();
        assert_eq!(none.keys(&own, Epoch(0)).prefix(), own.prefix());
        assert!(none.is_own(Epoch(0)) && none.parent().is_none());
        let origins =
            none.forked(old.clone(), Epoch(5)).unwrap().forked(parent.clone(), Epoch(9)).unwrap();
        for (born, whose) in [
            (0, Keys::of(&old)),
            (5, Keys::of(&old)),
            (6, Keys::of(&parent)),
            (9, Keys::of(&parent)),
            (10, own.clone()),
        ] {
            assert_eq!(origins.keys(&own, Epoch(born)).prefix(), whose.prefix(), "{born}");
            assert_eq!(origins.is_own(Epoch(born)), born > 9);
        }
        assert_eq!((origins.parent(), origins.first_epoch()), (Some(&parent), Some(Epoch(10))));
    }

    #[test]
    fn a_chain_has_an_end() {
        let mut origins = Origins::default();
        for epoch in 1..=ORIGINS_MAX as u64 {
            origins = origins.forked(MachineId::generate(), Epoch(epoch)).unwrap();
        }
        assert_eq!(origins.len(), ORIGINS_MAX);
        assert_eq!(origins.forked(MachineId::generate(), Epoch(1_000)), None);
    }
}
