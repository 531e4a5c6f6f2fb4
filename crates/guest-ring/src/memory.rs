//! The memory of a guest, as its host finds areas in it.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, fallocate};

use crate::area::{AREA_BYTES, Area};

/// Where a piece of a guest's memory lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// The guest's address of its first byte.
    pub address: u64,
    /// Its place in the file.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

/// The memory of a guest in a file that it runs on.
#[derive(Debug)]
pub struct GuestMemory {
    file: File,
    regions: Vec<Region>,
}

impl GuestMemory {
    /// That of a guest whose memory is arranged like this.
    #[must_use]
    pub fn new(file: File, regions: Vec<Region>) -> Self {
        Self { file, regions }
    }

    /// The area that a guest says it has at `address`.
    ///
    /// # Errors
    /// Where a guest has no memory for one there, or it cannot be mapped.
    pub fn area(&self, address: u64) -> io::Result<Area> {
        let offset = self.offset(address).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "no memory of the guest for a ring there")
        })?;
        // Nothing that is missing in the file may be asked for only when it is written: the disk may be full then.
        let bytes = AREA_BYTES as u64;
        fallocate(&self.file, FallocateFlags::empty(), offset, bytes)?;
        Area::of_file(self.file.try_clone()?, offset)
    }

    fn offset(&self, address: u64) -> Option<u64> {
        if !address.is_multiple_of(AREA_BYTES as u64) {
            return None;
        }
        self.regions.iter().find_map(|region| {
            let within = address.checked_sub(region.address)?;
            let end = within.checked_add(AREA_BYTES as u64)?;
            (end <= region.bytes).then(|| region.offset.checked_add(within)).flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_lies_in_the_memory_of_the_guest_or_nowhere() {
        const GIB: u64 = 1 << 30;
        let low = Region { address: 0, offset: 0, bytes: 3 * GIB };
        let high = Region { address: 4 * GIB, offset: 3 * GIB, bytes: GIB };
        let memory = GuestMemory::new(tempfile::tempfile().unwrap(), vec![low, high]);
        let area = AREA_BYTES as u64;
        for (address, offset) in [
            (0, Some(0)),
            (area, Some(area)),
            (3 * GIB - area, Some(3 * GIB - area)),
            (3 * GIB, None),
            (4 * GIB - area, None),
            (4 * GIB, Some(3 * GIB)),
            (5 * GIB - area, Some(4 * GIB - area)),
            (5 * GIB, None),
            (4096, None),
            (u64::MAX - area + 1, None),
        ] {
            assert_eq!(memory.offset(address), offset, "{address:#x}");
        }
        let none = GuestMemory::new(tempfile::tempfile().unwrap(), Vec::new());
        assert!(none.area(0).is_err());
    }
}
