//! Tells whoever waits that a machine changed.
//!
//! A watcher may miss states between two looks, never the newest one. A state older than the one
//! last told is not told, so a slow thread cannot turn time back.

use std::collections::HashMap;
use std::sync::Arc;

use base::MachineId;
use catalog::MachineRow;
use parking_lot::Mutex;
use tokio::sync::watch;

type Told = Option<Arc<MachineRow>>;

#[derive(Debug, Default)]
pub(crate) struct Watchers {
    machines: Mutex<HashMap<MachineId, watch::Sender<Told>>>,
}

impl Watchers {
    /// Joins. Read the row after this call, and no change is missed.
    pub(crate) fn subscribe(&self, machine: &MachineId) -> watch::Receiver<Told> {
        let mut machines = self.machines.lock();
        machines.entry(machine.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    /// Tells the watchers of a machine.
    pub(crate) fn tell(&self, row: &MachineRow) {
        let mut machines = self.machines.lock();
        let Some(sender) = machines.get(&row.id) else { return };
        if sender.receiver_count() == 0 {
            machines.remove(&row.id);
            return;
        }
        sender.send_if_modified(|told| {
            let newer = told
                .as_ref()
                .is_none_or(|told| (told.revision, told.recorded) < (row.revision, row.recorded));
            if newer {
                *told = Some(Arc::new(row.clone()));
            }
            newer
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::test_row;

    #[test]
    fn an_older_state_is_not_told_after_a_newer_one() {
        let watchers = Watchers::default();
        let old = test_row("one");
        let new = MachineRow { revision: 5, ..old.clone() };
        let receiver = watchers.subscribe(&old.id);
        watchers.tell(&new);
        watchers.tell(&old);
        assert_eq!(receiver.borrow().as_ref().unwrap().revision, 5);
    }

    #[test]
    fn machines_that_nobody_watches_cost_nothing() {
        let watchers = Watchers::default();
        let row = test_row("one");
        drop(watchers.subscribe(&row.id));
        watchers.tell(&row);
        assert!(watchers.machines.lock().is_empty());
    }
}
