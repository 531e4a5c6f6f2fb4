//! A real source tree, and what it takes for two trees to be equal.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A source tree of thousands of files with its `.git`.
pub(crate) struct Tree {
    _root: tempfile::TempDir,
    dir: PathBuf,
}

impl Tree {
    /// This project's own clone, and the sources of what it depends on, committed.
    pub(crate) fn make() -> Self {
        let root = tempfile::tempdir().expect("make a directory");
        let dir = root.path().join("project");
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        run(Command::new("git").args(["clone", "--quiet", "--no-hardlinks"]).arg(&here).arg(&dir));
        let vendor = dir.join("vendor");
        std::fs::create_dir_all(&vendor).expect("make vendor");
        let mut files = 0;
        for source in dependency_sources() {
            if files > 3000 {
                break;
            }
            run(Command::new("cp").arg("-r").arg(&source).arg(&vendor));
            files += snapshot(&source).len();
        }
        assert!(files > 2000, "only {files} files of dependencies were found");
        symlink("vendor", dir.join("third-party")).expect("make a link");
        std::fs::write(dir.join("run.sh"), "#!/bin/sh\n").expect("write");
        run(Command::new("chmod").arg("0755").arg(dir.join("run.sh")));
        std::fs::hard_link(dir.join("run.sh"), dir.join("run-again.sh")).expect("link");
        let git = |args: &[&str]| {
            // A commit of many files would tidy up in the background, and change the tree under the test.
            let quiet = ["-c", "gc.auto=0", "-c", "maintenance.auto=false"];
            run(Command::new("git").arg("-C").arg(&dir).args(quiet).args(args));
        };
        git(&["config", "user.name", "test"]);
        git(&["config", "user.email", "test@localhost"]);
        git(&["add", "--all", "--force"]);
        git(&["commit", "--quiet", "-m", "vendor"]);
        Self { _root: root, dir }
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// As a tar stream with nanosecond times, made by GNU tar.
    pub(crate) fn tar(&self) -> Vec<u8> {
        let output = Command::new("tar")
            .args(["--format=pax", "--numeric-owner", "--owner=0", "--group=0", "-C"])
            .arg(&self.dir)
            .args(["-cf", "-", "."])
            .output()
            .expect("run tar");
        assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

fn dependency_sources() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cargo"),
        PathBuf::from,
    );
    let mut found: Vec<PathBuf> = std::fs::read_dir(home.join("registry/src"))
        .expect("cargo has fetched sources")
        .flatten()
        .flat_map(|index| std::fs::read_dir(index.path()).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

fn run(command: &mut Command) {
    let output = command.output().expect("run a command");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What is at each path: kind and mode, times, size or link target, a digest of the content, and the
/// first path of the same file where it has several names.
pub(crate) fn snapshot(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    walk(dir, dir, &mut found, &mut first_names);
    found
}

fn walk(
    root: &Path,
    dir: &Path,
    found: &mut BTreeMap<String, String>,
    first_names: &mut BTreeMap<u64, String>,
) {
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .expect("read a directory")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        let meta = path.symlink_metadata().expect("stat");
        let name = path.strip_prefix(root).expect("it is below").to_string_lossy().into_owned();
        let content = if meta.is_symlink() {
            let target = std::fs::read_link(&path).expect("read a link");
            String::from_utf8_lossy(target.as_os_str().as_bytes()).into_owned()
        } else if meta.is_file() {
            base::Digest::of(&std::fs::read(&path).expect("read a file")).to_string()
        } else {
            String::new()
        };
        let size = if meta.is_dir() { 0 } else { meta.size() };
        // tar keeps no nanoseconds for hard links and links; the first name carries them.
        let mtime = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
        let same = if meta.is_file() && meta.nlink() > 1 {
            first_names.entry(meta.ino()).or_insert_with(|| name.clone()).clone()
        } else {
            String::new()
        };
        found.insert(name, format!("{:o} {mtime} {size} {content} {same}", meta.mode()));
        if meta.is_dir() {
            walk(root, &path, found, first_names);
        }
    }
}
