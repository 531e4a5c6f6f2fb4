//! Peers: the same work done by plain programs on the same disk.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::load;
use super::pattern::{self, Pattern};
use super::samples::{Samples, ms_since};
use super::tree::Tree;
use crate::cargo::run_quietly;

/// Bytes moved at once.
const PIECE: usize = 256 * 1024;

/// What the disk does with the bytes that we send to the server.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Milliseconds to make a file of 4 KiB and fsync it.
    pub(crate) small: Samples,
    /// The same by many threads: files a second.
    pub(crate) small_many: Samples,
    /// MB/s of writing a large file with one fsync at its end.
    pub(crate) write: Samples,
    /// MB/s of reading it again; it is in the page cache then, as it is for the server.
    pub(crate) read: Samples,
    /// Seconds of GNU tar to unpack the tree.
    pub(crate) untar: Samples,
    /// The same, and then everything on disk, as the server promises it.
    pub(crate) untar_synced: Samples,
    /// Seconds of GNU tar to pack the tree.
    pub(crate) tar: Samples,
}

impl Disk {
    /// Files of 4 KiB below `dir`.
    pub(crate) fn measure_small(&mut self, dir: &Path, requests: usize) -> anyhow::Result<()> {
        let _gone = Folder::make(dir)?;
        for number in 0..requests {
            let started = Instant::now();
            synced(&dir.join(number.to_string()), &pattern::page(0, number as u64))?;
            self.small.push(ms_since(started));
        }
        self.small_many = Samples::take(3, Duration::from_secs(10), |run| {
            load::rate(|client| {
                let dir = dir.join(format!("{run}-{client}"));
                fs::create_dir_all(&dir)?;
                Ok(move |number: u64| {
                    synced(&dir.join(number.to_string()), &pattern::page(0, number))
                })
            })
        })?;
        Ok(())
    }

    /// One file of `length` bytes below `dir`.
    pub(crate) fn measure_large(
        &mut self,
        dir: &Path,
        length: u64,
        runs: usize,
        budget: Duration,
    ) -> anyhow::Result<()> {
        let _gone = Folder::make(dir)?;
        let path = dir.join("large");
        let mut piece = vec![0; PIECE];
        self.write = Samples::take(runs, budget, |run| {
            let started = Instant::now();
            let mut file = File::create(&path)?;
            let mut pattern = Pattern::new(u32::try_from(run)?, length);
            loop {
                match pattern.read(&mut piece)? {
                    0 => break,
                    count => file.write_all(&piece[..count])?,
                }
            }
            file.sync_all()?;
            Ok(megabytes(length) / started.elapsed().as_secs_f64())
        })
        .context("write to the disk")?;
        self.read = Samples::take(runs, budget, |_| {
            let started = Instant::now();
            let read = drain(&mut File::open(&path)?)?;
            ensure!(read == length, "the disk gave {read} of {length} bytes");
            Ok(megabytes(length) / started.elapsed().as_secs_f64())
        })?;
        Ok(())
    }

    /// GNU tar on `tree`, below `dir`.
    pub(crate) fn measure_tar(
        &mut self,
        dir: &Path,
        tree: &Tree,
        runs: usize,
        budget: Duration,
    ) -> anyhow::Result<()> {
        let _gone = Folder::make(dir)?;
        Samples::take(runs, budget, |run| {
            let into = dir.join(run.to_string());
            fs::create_dir_all(&into)?;
            let started = Instant::now();
            run_quietly(Command::new("tar").arg("-xf").arg(&tree.tar).arg("-C").arg(&into))?;
            self.untar.push(started.elapsed().as_secs_f64());
            nix::unistd::syncfs(File::open(&into)?).context("sync the disk")?;
            self.untar_synced.push(started.elapsed().as_secs_f64());
            Ok(0.0)
        })?;
        self.tar = Samples::take(runs, budget, |_| {
            let started = Instant::now();
            let mut tar = Command::new("tar")
                .args(["--format=pax", "-cf", "-", "-C"])
                .arg(dir.join("0"))
                .arg(".")
                .stdout(Stdio::piped())
                .spawn()
                .context("start tar")?;
            drain(tar.stdout.as_mut().context("tar's output")?)?;
            ensure!(tar.wait()?.success(), "tar failed");
            Ok(started.elapsed().as_secs_f64())
        })?;
        Ok(())
    }
}

/// A folder that is removed at the end.
struct Folder<'a>(&'a Path);

impl<'a> Folder<'a> {
    fn make(path: &'a Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

/// 10^6 bytes.
pub(crate) fn megabytes(bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let bytes = bytes as f64;
    bytes / 1e6
}

/// Makes a file that survives a loss of power.
fn synced(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = File::create(path).with_context(|| format!("make {}", path.display()))?;
    file.write_all(bytes)?;
    Ok(file.sync_all()?)
}

/// Reads to the end; how many bytes there were.
fn drain(from: &mut dyn Read) -> anyhow::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_measured_and_left_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("peer");
        let mut disk = Disk::default();
        disk.measure_large(&dir, 1 << 20, 2, Duration::from_secs(60)).unwrap();
        assert_eq!((disk.write.len(), disk.read.len()), (2, 2));
        assert!(disk.write.median() > 0.0 && disk.read.median() > 0.0);
        assert!(!dir.exists());
    }
}
