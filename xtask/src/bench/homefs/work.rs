//! The work itself, the same for every place: each function does it once in a folder and says how many seconds it took.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};

use super::material::git;
use crate::bench::pattern::{self, Pattern};
use crate::cargo::run_quietly;

/// Bytes moved at once.
const PIECE: usize = 1 << 20;
/// Bytes of a page that is read at random.
const PAGE: usize = 4096;

fn seconds(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

/// GNU tar.
pub(super) fn untar(tar: &Path, into: &Path) -> anyhow::Result<f64> {
    fs::create_dir_all(into).context("make a folder")?;
    seconds(|| run_quietly(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(into)).map(drop))
}

/// `git status` of the repository in `dir`; its second time is the warm one.
pub(super) fn git_status(dir: &Path) -> anyhow::Result<f64> {
    seconds(|| {
        let said = run_quietly(git(dir).args(["status", "--porcelain"]))?;
        ensure!(said.is_empty(), "the tree differs from what was committed");
        Ok(())
    })
}

/// ripgrep for a word that is nowhere.
pub(super) fn rg(dir: &Path) -> anyhow::Result<f64> {
    seconds(|| {
        let status = Command::new("rg")
            .args(["--quiet", "--no-ignore", "a word that is not there"])
            .arg(dir)
            .stdin(Stdio::null())
            .status()
            .context("start rg; Debian's package ripgrep has it")?;
        ensure!(status.code() == Some(1), "rg: {status}");
        Ok(())
    })
}

/// `git clone` through the ordinary transport.
pub(super) fn git_clone(repository: &Path, into: &Path) -> anyhow::Result<f64> {
    let from = format!("file://{}", repository.display());
    let parent = into.parent().context("a folder to clone into")?;
    seconds(|| run_quietly(git(parent).args(["clone", "--quiet", &from]).arg(into)).map(drop))
}

/// Makes `files` files of `bytes` bytes, one after the other.
pub(super) fn create(dir: &Path, files: u64, bytes: usize) -> anyhow::Result<f64> {
    fs::create_dir_all(dir).context("make a folder")?;
    let mut content = vec![0; bytes];
    seconds(|| {
        for number in 0..files {
            for part in content.chunks_mut(pattern::PAGE) {
                let page = pattern::page(7, number);
                part.copy_from_slice(&page[..part.len()]);
            }
            File::create(dir.join(number.to_string()))?.write_all(&content)?;
        }
        Ok(())
    })
}

/// Removes them one by one.
pub(super) fn delete(dir: &Path, files: u64) -> anyhow::Result<f64> {
    seconds(|| {
        for number in 0..files {
            fs::remove_file(dir.join(number.to_string()))?;
        }
        Ok(())
    })
}

/// Writes `bytes` in order.
pub(super) fn write(path: &Path, bytes: u64, tag: u32) -> anyhow::Result<f64> {
    let mut piece = vec![0; PIECE];
    seconds(|| {
        let mut file = File::create(path)?;
        let mut from = Pattern::new(tag, bytes);
        loop {
            match from.read(&mut piece)? {
                0 => return Ok(()),
                count => file.write_all(&piece[..count])?,
            }
        }
    })
}

/// Reads all of it in order.
pub(super) fn read(path: &Path) -> anyhow::Result<f64> {
    let mut piece = vec![0; PIECE];
    seconds(|| {
        let mut file = File::open(path)?;
        while file.read(&mut piece)? > 0 {}
        Ok(())
    })
}

/// Reads `count` pages at random.
pub(super) fn read_randomly(path: &Path, count: u64) -> anyhow::Result<f64> {
    let file = File::open(path)?;
    let pages = file.metadata()?.len() / PAGE as u64;
    ensure!(pages > 0, "the file is too small");
    let mut page = [0; PAGE];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    seconds(|| {
        for _ in 0..count {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            file.read_exact_at(&mut page, state % pages * PAGE as u64)?;
        }
        Ok(())
    })
}

/// Python's own SQLite: `commits` transactions of one row each, all of them synced. Bytes that it wrote.
pub(super) fn sqlite(path: &Path, commits: u64) -> anyhow::Result<f64> {
    const SCRIPT: &str = "import sqlite3,sys,os\n\
        db=sqlite3.connect(sys.argv[1],isolation_level=None)\n\
        db.execute('PRAGMA journal_mode=WAL'); db.execute('PRAGMA synchronous=FULL')\n\
        db.execute('CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b BLOB)')\n\
        for i in range(int(sys.argv[2])): db.execute('INSERT INTO t(b) VALUES(?)',(os.urandom(200),))\n\
        print(open('/proc/self/io').read().split('wchar: ')[1].split()[0])\n";
    let said = run_quietly(
        Command::new("python3").args(["-c", SCRIPT]).arg(path).arg(commits.to_string()),
    )?;
    String::from_utf8_lossy(&said).trim().parse().context("read what was written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_read_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("many");
        create(&dir, 5, 4096).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 5);
        assert_eq!(fs::read(dir.join("3")).unwrap().len(), 4096);
        delete(&dir, 5).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        let large = root.path().join("large");
        write(&large, 3 << 20, 1).unwrap();
        read(&large).unwrap();
        read_randomly(&large, 10).unwrap();
        assert_eq!(fs::metadata(&large).unwrap().len(), 3 << 20);
    }
}
