//! Calls on the content of files.

use vfs::{FileSystem, SeekFrom};

use super::Pair;
use super::agree::{agreed, both, same};
use crate::chance::noise;

impl Pair {
    pub(super) fn read(&self, fs: &dyn FileSystem, i: u8, at: u64, len: u32) -> Result<(), String> {
        let i = self.file(i);
        agreed(same(fs.read(i.ours, at, len), self.model.read(i.model, at, len))).map(drop)
    }

    pub(super) fn write(
        &self,
        fs: &dyn FileSystem,
        i: u8,
        at: u64,
        len: u32,
        seed: u64,
    ) -> Result<(), String> {
        let (i, data) = (self.file(i), noise(len as usize, seed));
        let range = (at, u64::from(len));
        self.fill(fs, (i.ours, i.model), range, |fs, ino| fs.write(ino, at, &data))
    }

    pub(super) fn append(
        &self,
        fs: &dyn FileSystem,
        i: u8,
        len: u32,
        seed: u64,
    ) -> Result<(), String> {
        let (i, data) = (self.file(i), noise(len as usize, seed));
        let at = self.model.getattr(i.model).map_or(0, |attr| attr.size);
        let range = (at, u64::from(len));
        self.fill(fs, (i.ours, i.model), range, |fs, ino| fs.write(ino, at, &data))
    }

    pub(super) fn fallocate(
        &self,
        fs: &dyn FileSystem,
        i: u8,
        mode: u32,
        at: u64,
        len: u64,
    ) -> Result<(), String> {
        let i = self.file(i);
        let ids = (i.ours, i.model);
        self.fill(fs, ids, (at, len), |fs, ino| fs.fallocate(ino, mode, at, len))
    }

    pub(super) fn sync_one(&self, fs: &dyn FileSystem, i: u8) -> Result<(), String> {
        let i = self.file(i);
        if fs.getattr(i.ours).is_ok() { both(fs.sync(Some(i.ours)), Ok(())) } else { Ok(()) }
    }

    /// Where data begins is each file system's own; but a hole holds zeros only.
    pub(super) fn seek(
        &self,
        fs: &dyn FileSystem,
        i: u8,
        at: u64,
        data: bool,
    ) -> Result<(), String> {
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
