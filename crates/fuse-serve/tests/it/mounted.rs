//! A file system in memory, mounted in a directory of its own for one test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fuse_serve::{Config, Mount, MountOptions, Notifier, Session};
use vfs::FileSystem;
use vfs::memfs::MemFs;

/// Unmounts when it is dropped, also by a failing test.
#[derive(Debug)]
pub(crate) struct Mounted {
    // Before `dir`: the directory can go only when nothing is mounted there.
    mount: Mount,
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) session: Arc<Session>,
    dir: tempfile::TempDir,
}

impl Mounted {
    /// `None`, with a word about it, where this host cannot mount.
    pub(crate) fn new(config: Config) -> Option<Self> {
        if let Some(why) = missing() {
            // `cargo xtask test` says where nothing may be skipped: there it is a failure.
            assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot run: {why}");
            eprintln!("skipped: {why}");
            return None;
        }
        let fs: Arc<dyn FileSystem> =
            Arc::new(MemFs::new(Arc::new(base::SystemClock::new()), 1 << 30));
        let session = Arc::new(Session::new(Arc::clone(&fs), config));
        let dir = tempfile::Builder::new().prefix("dormouse-fuse-").tempdir().unwrap();
        // Other users must get through to the mount.
        Command::new("chmod").arg("755").arg(dir.path()).status().unwrap();
        let mount = Mount::new(Arc::clone(&session), dir.path(), &MountOptions::default()).unwrap();
        Some(Self { mount, fs, session, dir })
    }

    /// A mount for each way of opening files, one after the other.
    pub(crate) fn both_ways(test: impl Fn(&Self)) {
        for zero_message_open in [true, false] {
            let config = Config { zero_message_open, ..Config::default() };
            let Some(mounted) = Self::new(config) else { return };
            test(&mounted);
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn notifier(&self) -> Notifier {
        self.mount.notifier()
    }

    pub(crate) fn into_mount(self) -> (Mount, tempfile::TempDir) {
        (self.mount, self.dir)
    }

    /// Runs a program in the mount; fails with what it said if it fails.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program)
            .args(args)
            .current_dir(self.root())
            .env("HOME", self.root())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program} {args:?}: {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    /// Runs Python in the mount, with `os` imported.
    pub(crate) fn python(&self, script: &str) -> String {
        self.run("python3", &["-c", &format!("import os\n{script}")])
    }
}

/// What this host lacks for a mount.
fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("a mount needs root");
    }
    (!Path::new("/dev/fuse").exists()).then_some("/dev/fuse is missing (modprobe fuse)")
}
