//! What is worked on: a large source tree with a repository in it, and a packed repository to clone.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::bench::tree::{count, dependency_sources};
use crate::cargo::run_quietly;

/// Files of the large tree.
const FILES: u64 = 45_000;

/// The tree and the repository.
#[derive(Debug)]
pub(super) struct Material {
    /// A pax archive of the tree; a repository with all of it committed is in it.
    pub(super) tar: PathBuf,
    /// Files in it.
    pub(super) files: u64,
    /// Bytes of it.
    pub(super) bytes: u64,
    /// A part of it that slow programs can bear.
    pub(super) small_tar: PathBuf,
    /// Files in that.
    pub(super) small_files: u64,
    /// A bare, packed repository.
    pub(super) repository: PathBuf,
    /// Bytes of its pack.
    pub(super) repository_bytes: u64,
}

impl Material {
    /// Makes it below `root`.
    pub(super) fn make(root: &Path) -> anyhow::Result<Self> {
        let tree = root.join("material");
        let sources = dependency_sources()?;
        let mut files = 0;
        let mut copies = 0;
        while files < FILES {
            let copy = tree.join(format!("src-{copies}"));
            fs::create_dir_all(&copy).context("make the tree")?;
            let before = files;
            for source in &sources {
                if files >= FILES {
                    break;
                }
                files += count(source)?;
                run_quietly(Command::new("cp").args(["-R", "-P"]).arg(source).arg(&copy))?;
            }
            ensure!(files > before, "no sources of dependencies were found; cargo fetch gets them");
            copies += 1;
        }
        let small_tar = root.join("small.tar");
        let first = sources.iter().filter_map(|path| path.file_name()).take(24);
        let small: Vec<_> = first.map(|name| Path::new("src-0").join(name)).collect();
        let mut small_files = 0;
        for path in &small {
            small_files += count(&tree.join(path))?;
        }
        pack(&tree, &small, &small_tar)?;

        let repository = root.join("repository.git");
        commit(&tree.join("src-0"))?;
        run_quietly(
            git(root)
                .args(["clone", "--quiet", "--bare", "--no-hardlinks"])
                .arg(tree.join("src-0"))
                .arg(&repository),
        )?;
        let repository_bytes = size(&repository)?;
        fs::remove_dir_all(tree.join("src-0/.git")).context("make the tree")?;
        commit(&tree)?;
        let tar = root.join("large.tar");
        pack(&tree, &[PathBuf::from(".")], &tar)?;
        let (files, bytes) = (count(&tree)?, size(&tree)?);
        fs::remove_dir_all(&tree).context("remove the unpacked tree")?;
        Ok(Self { tar, files, bytes, small_tar, small_files, repository, repository_bytes })
    }
}

/// Git without anything that a user has set up.
pub(super) fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", env::temp_dir())
        .args(["-c", "safe.directory=*", "-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
    command
}

/// Makes a folder a repository with everything in it committed and packed.
fn commit(dir: &Path) -> anyhow::Result<()> {
    // Nested ones would be submodules.
    run_quietly(git(dir).args(["init", "--quiet"]))?;
    run_quietly(git(dir).args(["add", "--all", "--force", "."]))?;
    run_quietly(git(dir).args([
        "-c",
        "user.name=bench",
        "-c",
        "user.email=bench@localhost",
        "commit",
        "--quiet",
        "--message",
        "all",
    ]))?;
    run_quietly(git(dir).args(["repack", "-a", "-d", "--quiet", "--window=5"])).map(drop)
}

fn pack(dir: &Path, what: &[PathBuf], into: &Path) -> anyhow::Result<()> {
    run_quietly(
        Command::new("tar")
            .args(["--format=pax", "--numeric-owner", "--owner=0", "--group=0", "-cf"])
            .arg(into)
            .arg("-C")
            .arg(dir)
            .args(what),
    )
    .map(drop)
}

fn size(dir: &Path) -> anyhow::Result<u64> {
    let said = run_quietly(Command::new("du").args(["-s", "-b"]).arg(dir))?;
    let said = String::from_utf8_lossy(&said);
    said.split_whitespace().next().and_then(|word| word.parse().ok()).context("read what du says")
}
