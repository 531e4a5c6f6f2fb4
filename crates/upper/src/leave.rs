//! The end of a run: what this host, and others, have to know of it.

use base::Epoch;
use bytes::Bytes;

use crate::error::{Error, Result, blocking};
use crate::place::Upper;
use crate::state::{Look, State};

/// What is in the store for a run that changed the upper. Its name says everything.
const NOTE: &[u8] = b"{\"format\":1}";

impl Upper {
    /// Notes that the run of `epoch` has ended: here, and in the store where it changed something, so that
    /// whoever wakes the machine elsewhere knows that something is missing. The hypervisor is gone, the
    /// home not yet given up. True where something is to be stored.
    ///
    /// # Errors
    /// Those of disk and store. The upper can be stored all the same, where the note is here.
    pub async fn leave(&self, epoch: Epoch) -> Result<bool> {
        let files = self.files.clone();
        let behind = blocking(move || {
            let Some(look) = Look::at(&files.disk)? else { return Ok(false) };
            std::fs::File::open(&files.disk)
                .and_then(|disk| disk.sync_all())
                .map_err(Error::disk("sync the upper"))?;
            State::change(&files, |state| {
                (state.content, state.settled, state.asleep) = (epoch, epoch, Some(look));
                state.is_ahead_of_the_store()
            })
        })
        .await?;
        if behind {
            self.say_changed(epoch).await?;
        }
        Ok(behind)
    }

    /// Says in the store that the run of `epoch` changed something, which nobody will store: this host's disk failed.
    /// Here nothing is noted of it, as of a run that did not end.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn leave_unstored(&self, epoch: Epoch) -> Result<()> {
        self.say_changed(epoch).await
    }

    async fn say_changed(&self, epoch: Epoch) -> Result<()> {
        Ok(self.store.put(&self.keys.changed(epoch), Bytes::from_static(NOTE)).await?)
    }
}
