//! A real source tree: this project's clone with its `.git`, and the sources of what it depends on.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::cargo::run_quietly;
use crate::paths;

/// Enough dependencies are taken that this many files are reached.
const FILES_MIN: u64 = 5000;

/// The tree, packed.
#[derive(Debug)]
pub(crate) struct Tree {
    /// A pax archive of it.
    pub(crate) tar: PathBuf,
    /// Length of the archive.
    pub(crate) tar_bytes: u64,
    /// Regular files in it.
    pub(crate) files: u64,
}

impl Tree {
    /// Makes it below `root`.
    pub(crate) fn make(root: &Path) -> anyhow::Result<Self> {
        let dir = root.join("tree");
        run_quietly(
            Command::new("git")
                .args(["clone", "--quiet", "--no-hardlinks"])
                .arg(paths::root())
                .arg(&dir),
        )?;
        let vendor = dir.join("vendor");
        fs::create_dir_all(&vendor).context("make the tree")?;
        let mut files = count(&dir)?;
        for source in dependency_sources()? {
            if files >= FILES_MIN {
                break;
            }
            files += count(&source)?;
            run_quietly(Command::new("cp").args(["-R", "-P"]).arg(&source).arg(&vendor))?;
        }
        ensure!(files >= FILES_MIN, "only {files} source files were found; cargo fetch gets them");
        let tar = root.join("tree.tar");
        run_quietly(
            Command::new("tar")
                .args(["--format=pax", "--numeric-owner", "--owner=0", "--group=0", "-cf"])
                .arg(&tar)
                .arg("-C")
                .arg(&dir)
                .arg("."),
        )?;
        fs::remove_dir_all(&dir).context("remove the unpacked tree")?;
        let tar_bytes = fs::metadata(&tar).context("look at the archive")?.len();
        Ok(Self { tar, tar_bytes, files })
    }
}

/// Where cargo unpacked what `Cargo.lock` names, in the order of names, so that every run takes the same.
pub(super) fn dependency_sources() -> anyhow::Result<Vec<PathBuf>> {
    let lock = fs::read_to_string(paths::root().join("Cargo.lock")).context("read Cargo.lock")?;
    let cargo = env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let registries = fs::read_dir(cargo.join("registry/src"))
        .context("look for the sources of dependencies; cargo fetch gets them")?;
    let registries = registries.collect::<Result<Vec<_>, _>>()?;
    let found = |package: &String| {
        registries.iter().map(|dir| dir.path().join(package)).find(|path| path.is_dir())
    };
    Ok(packages(&lock).iter().filter_map(found).collect())
}

/// `NAME-VERSION` of all packages in a lock file.
fn packages(lock: &str) -> BTreeSet<String> {
    let value = |line: &str, key: &str| {
        Some(line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')?.to_owned())
    };
    let mut name = String::new();
    let mut packages = BTreeSet::new();
    for line in lock.lines() {
        if let Some(found) = value(line, "name") {
            name = found;
        } else if let Some(version) = value(line, "version") {
            packages.insert(format!("{name}-{version}"));
        }
    }
    packages
}

/// How many regular files there are below `dir`.
pub(super) fn count(dir: &Path) -> anyhow::Result<u64> {
    let mut files = 0;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind => files += u64::from(kind.is_file()),
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_names_its_packages() {
        let lock = "version = 4\n\n[[package]]\nname = \"b\"\nversion = \"1.2.3\"\nsource = \"x\"\n\
                    dependencies = [\n \"a\",\n]\n\n[[package]]\nname = \"a\"\nversion = \"0.1.0+x\"\n";
        assert_eq!(Vec::from_iter(packages(lock)), ["a-0.1.0+x", "b-1.2.3"]);
    }

    #[test]
    fn only_regular_files_count() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dir")).unwrap();
        fs::write(root.path().join("dir/one"), "").unwrap();
        fs::write(root.path().join("two"), "").unwrap();
        std::os::unix::fs::symlink("two", root.path().join("link")).unwrap();
        assert_eq!(count(root.path()).unwrap(), 2);
    }
}
