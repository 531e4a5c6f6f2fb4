//! Rows of content: what of a file is in the spool, and what of it is sealed.

use vfs::{Ino, Result};

use super::Tx;
use crate::front::record::SpoolStep;
use crate::meta::rows::{Rows as _, Spooled};

impl Tx<'_> {
    /// Sets the row of a file with bytes in the spool; its ranges stay as they are.
    pub(crate) fn put_spooled(&mut self, ino: Ino, row: Spooled) -> Result<()> {
        self.spool_step(SpoolStep::Set(ino, row))
    }

    /// Notes that a file that is about to go to the spool has no sealed content.
    pub(crate) fn has_nothing_sealed(&mut self, ino: Ino) {
        self.changed.unsealed.push(ino);
    }

    /// Notes bytes of a file that are in the spool.
    pub(crate) fn cover(&mut self, ino: Ino, generation: u64, start: u64, end: u64) -> Result<()> {
        self.spool_step(SpoolStep::Cover { ino, generation, start, end })
    }

    /// Notes that bytes of all generations up to this one do not count any more.
    pub(crate) fn uncover(
        &mut self,
        ino: Ino,
        generation: u64,
        start: u64,
        end: u64,
    ) -> Result<()> {
        self.spool_step(SpoolStep::Uncover { ino, generation, start, end })
    }

    /// Removes the rows of what is in the spool; its files go once that is durable.
    pub(crate) fn drop_spooled(&mut self, ino: Ino) -> Result<()> {
        let Some(row) = self.spooled(ino)? else { return Ok(()) };
        let others =
            row.layers.iter().map(|layer| layer.0).filter(|other| *other != row.generation);
        let garbage = others.chain([row.generation]).map(|generation| (ino, generation));
        self.changed.spool_garbage.extend(garbage);
        self.spool_step(SpoolStep::Drop(ino))
    }

    pub(super) fn spool_step(&mut self, step: SpoolStep) -> Result<()> {
        let ino = match step {
            SpoolStep::Set(ino, _)
            | SpoolStep::Cover { ino, .. }
            | SpoolStep::Uncover { ino, .. }
            | SpoolStep::Drop(ino) => ino,
        };
        let mut row = match self.changed.rows.spooled.remove(&ino) {
            Some(row) => row,
            None => self.spooled(ino)?,
        };
        match (&step, &mut row) {
            (SpoolStep::Set(_, new), row) => {
                let layers = row.take().map(|row| row.layers).unwrap_or_default();
                *row = Some(Spooled { layers, ..new.clone() });
            }
            (SpoolStep::Cover { generation, start, end, .. }, Some(row)) => {
                row.cover(*generation, *start, *end);
            }
            (SpoolStep::Uncover { generation, start, end, .. }, Some(row)) => {
                row.uncover(*generation, *start, *end);
            }
            (SpoolStep::Drop(_), row) => *row = None,
            (_, None) => {}
        }
        if self.sql.is_some() {
            self.pending.get_mut().spooled.insert(ino, row.clone());
        } else {
            self.changed.steps.push(step);
        }
        self.changed.rows.spooled.insert(ino, row);
        Ok(())
    }

    /// Removes sealed content from `from` on. Needs a transaction where it is not known what
    /// there is.
    pub(crate) fn cut_sealed(&mut self, ino: Ino, from: u64) -> Result<()> {
        if let Some(conn) = self.sql {
            self.sql()?;
            return crate::ops::truncate::remove_sealed(conn, ino, from, u64::MAX >> 1);
        }
        if self.sealed_hot(ino, from, u64::MAX)?.is_empty() {
            return Ok(());
        }
        if self.front.cache.read().sealed_within(ino, 0, u64::MAX).is_none() {
            self.sql()?;
        }
        self.changed.rows.cut(ino, from);
        Ok(())
    }
}
