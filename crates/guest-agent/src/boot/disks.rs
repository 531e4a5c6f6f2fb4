//! Finds the two disks by what is on them: the image (erofs) and the upper (ext4).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::Error;
use crate::limits::{DEVICE_TIMEOUT, POLL_INTERVAL};

/// The machine's disks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Disks {
    pub(super) image: PathBuf,
    pub(super) upper: PathBuf,
}

/// What a disk holds, by the magic number of its superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Erofs,
    Ext4,
    Other,
}

/// Looks at the virtio disks until both are there, a bounded time. Of two of one kind the first
/// in the kernel's order counts.
pub(super) fn find() -> Result<Disks, Error> {
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    loop {
        let disks = virtio_disks("/sys/block");
        let kinds: Vec<_> = disks.iter().map(|disk| kind_of(disk)).collect();
        let first = |kind| kinds.iter().position(|k| *k == kind).map(|at| disks[at].clone());
        if let (Some(image), Some(upper)) = (first(Kind::Erofs), first(Kind::Ext4)) {
            return Ok(Disks { image, upper });
        }
        if Instant::now() > deadline {
            let seen: Vec<_> =
                disks.iter().zip(kinds).map(|(d, k)| format!("{} {k:?}", d.display())).collect();
            return Err(Error::Invalid(format!(
                "need a disk with erofs and one with ext4, found [{}]",
                seen.join(", ")
            )));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

impl Disks {
    /// Has the kernel send what it wants as it comes, neither ordered nor held back: these are files of a host, which
    /// does both. Where that cannot be said, it is only slower.
    pub(super) fn send_at_once(&self) {
        for name in [&self.image, &self.upper].into_iter().filter_map(|disk| disk.file_name()) {
            let queue = Path::new("/sys/block").join(name).join("queue");
            drop(fs::write(queue.join("scheduler"), "none"));
            drop(fs::write(queue.join("wbt_lat_usec"), "0"));
        }
    }
}

fn virtio_disks(block: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(block).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("vd")).collect();
    names.sort();
    names.iter().map(|name| Path::new("/dev").join(name)).collect()
}

/// A disk that cannot be read is none that we look for.
fn kind_of(disk: &Path) -> Kind {
    let mut superblock = [0; 64];
    let read = File::open(disk).and_then(|file| file.read_exact_at(&mut superblock, 1024));
    match (read, &superblock[..4], &superblock[0x38..0x3a]) {
        (Ok(()), [0xe2, 0xe1, 0xf5, 0xe0], _) => Kind::Erofs,
        (Ok(()), _, [0x53, 0xef]) => Kind::Ext4,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_known_by_their_superblock() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        assert_eq!(kind_of(&disk), Kind::Other, "not there");
        fs::write(&disk, b"short").unwrap();
        assert_eq!(kind_of(&disk), Kind::Other, "too short");
        let mut image = vec![0; 4096];
        image[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
        fs::write(&disk, &image).unwrap();
        assert_eq!(kind_of(&disk), Kind::Erofs);
        let mut upper = vec![0; 4096];
        upper[1024 + 0x38..1024 + 0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
        fs::write(&disk, &upper).unwrap();
        assert_eq!(kind_of(&disk), Kind::Ext4);
    }
}
