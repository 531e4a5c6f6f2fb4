//! Calls on the content of files.

use homefs::HomeFs;
use vfs::{FileSystem, SeekFrom};

use super::Pair;
use super::agree::{agreed, both, same};
use crate::chance::noise;

impl Pair {
    pub(super) fn read(&self, fs: &HomeFs, i: u8, at: u64, len: u32) -> Result<(), String> {
        let i = self.file(i);
        agreed(same(fs.read(i.ours, at, len), self.model.read(i.model, at, len))).map(drop)
    }

    pub(super) fn write(
        &self,
        fs: &HomeFs,
        i: u8,
        at: u64,
        len: u32,
        seed: u64,
    ) -> Result<(), String> {
        let (i, data) = (self.file(i), noise(len as usize, seed));
        both(fs.write(i.ours, at, &data), self.model.write(i.model, at, &data))
    }

    pub(super) fn append(&self, fs: &HomeFs, i: u8, len: u32, seed: u64) -> Result<(), String> {
        let (i, data) = (self.file(i), noise(len as usize, seed));
        let at = self.model.getattr(i.model).map_or(0, |attr| attr.size);
        both(fs.write(i.ours, at, &data), self.model.write(i.model, at, &data))
    }

    pub(super) fn fallocate(
        &self,
        fs: &HomeFs,
        i: u8,
        mode: u32,
        at: u64,
        len: u64,
    ) -> Result<(), String> {
        let i = self.file(i);
        both(fs.fallocate(i.ours, mode, at, len), self.model.fallocate(i.model, mode, at, len))
    }

    pub(super) fn sync_one(&self, fs: &HomeFs, i: u8) -> Result<(), String> {
        let i = self.file(i);
        if fs.getattr(i.ours).is_ok() { both(fs.sync(Some(i.ours)), Ok(())) } else { Ok(()) }
    }

    /// Where data begins is each file system's own; but a hole holds zeros only.
    pub(super) fn seek(&self, fs: &HomeFs, i: u8, at: u64, data: bool) -> Result<(), String> {
        let i = self.file(i);
        let from = if data { SeekFrom::Data(at) } else { SeekFrom::Hole(at) };
        let (Ok(size), Ok(found)) =
            (self.model.getattr(i.model).map(|a| a.size), fs.seek(i.ours, from))
        else {
            return Ok(());
        };
        if found < at || found > size {
            return Err(format!("seek from {at} of {size} leads to {found}"));
        }
        if data {
            let hole = self.model.read(i.model, at, u32::try_from(found - at).unwrap_or(u32::MAX));
            let hole = hole.map_err(|error| error.to_string())?;
            if hole.iter().any(|byte| *byte != 0) {
                return Err(format!("seek from {at} skips data before {found}"));
            }
        }
        Ok(())
    }
}
