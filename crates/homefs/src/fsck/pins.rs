//! Snapshots and forks: can what they keep be found, and is what the home itself relies on kept?

use super::Check;
use super::report::Problem;
use crate::error::Result;
use crate::replica::error::Error as LogError;
use crate::replica::pinned::PinKind;
use crate::replica::unread::Unread;

impl Check<'_> {
    /// Looks at the home's pins, and at the one that its parent has for it.
    pub(super) fn pins(&mut self) -> Result<()> {
        let wait = |future| self.parts.runtime.block_on(future);
        let (pins, unread) = wait(Box::pin(self.log.pins_as_found()))?;
        for Unread { error, .. } in unread {
            match error {
                LogError::Corrupt { key, why } => self.report.damaged.add(Problem::new(key, why)),
                error => return Err(error.into()),
            }
        }
        self.report.checked.pins = pins.len() as u64;
        for pin in &pins {
            match self.parts.runtime.block_on(self.log.pinned_head(pin)) {
                Ok(_) => {}
                Err(LogError::Corrupt { key, why }) => {
                    let whose = match &pin.kind {
                        PinKind::Snapshot { id, .. } => format!("snapshot {id}"),
                        PinKind::Fork { child } => format!("the fork {child}"),
                        PinKind::Draft { .. } => "an open draft".to_owned(),
                    };
                    let what = format!("{why}; {whose} goes on from it");
                    self.report.lost.add(Problem::new(key, what));
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.own_pin()
    }

    /// A fork whose parent keeps nothing for it lives until the parent is next cleaned up.
    fn own_pin(&mut self) -> Result<()> {
        let Some(origin) = self.log.keys().origins().first().cloned() else { return Ok(()) };
        let parent = self.parts.log(&origin.home);
        let child = self.log.keys().home().clone();
        let key = parent.keys().fork_pin(&child);
        let why = match self.parts.runtime.block_on(parent.fork_pin(&child)) {
            Ok(Some(pin)) if pin.seq == origin.seq => return Ok(()),
            Ok(Some(_)) => "it keeps another commit than the one this fork goes on from".to_owned(),
            Ok(None) => {
                "it is missing: nothing keeps what this fork has from its parent".to_owned()
            }
            Err(LogError::Corrupt { why, .. }) => why,
            Err(error) => return Err(error.into()),
        };
        self.report.damaged.add(Problem::new(key, why));
        Ok(())
    }
}
