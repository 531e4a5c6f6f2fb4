//! Paths of a machine's directory. Nothing else builds one.

use std::path::{Path, PathBuf};

use crate::template::TemplateDir;

/// The directory of one machine on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDir(PathBuf);

impl MachineDir {
    /// The machine directory at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the keeper needs to know, written before it is started; mode 0600.
    #[must_use]
    pub fn spec(&self) -> PathBuf {
        self.0.join("keeper.json")
    }

    /// Held with `flock` by a living keeper.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.0.join("keeper.lock")
    }

    /// Where the keeper listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.0.join("keeper.sock")
    }

    /// Held open by a living keeper: who reads from it hears of its end.
    #[must_use]
    pub fn life(&self) -> PathBuf {
        self.0.join("keeper.life")
    }

    /// Where a keeper that is none any more and has its guest loaded still is found.
    #[must_use]
    pub fn warm(&self) -> PathBuf {
        self.0.join("warm.sock")
    }

    /// What the keeper logs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join("keeper.log")
    }

    /// How the last keeper ended.
    #[must_use]
    pub fn last_words(&self) -> PathBuf {
        self.0.join("status.json")
    }

    /// The home's local directory.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.0.join("home")
    }

    /// The open draft of a sleeping home.
    #[must_use]
    pub fn draft(&self) -> PathBuf {
        self.0.join("draft")
    }

    /// Cached metadata of the published home.
    #[must_use]
    pub fn snapshot(&self) -> PathBuf {
        self.0.join("snapshot")
    }

    /// The machine's writable layer over its image.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.0.join("upper.ext4")
    }

    /// The same with what lies beside it.
    #[must_use]
    pub fn upper_files(&self) -> upper::Files {
        upper::Files {
            disk: self.upper(),
            state: self.0.join("upper.json"),
            lock: self.0.join("upper.lock"),
            manifest: self.0.join("upper.manifest"),
            missing: self.0.join("upper.missing"),
            fetched: self.0.join("upper.fetch"),
            memory_fetched: self.0.join("memory.fetch"),
        }
    }

    /// Which root file system the writable layer lies over.
    #[must_use]
    pub fn root_pin(&self) -> PathBuf {
        self.0.join("root.sha256")
    }

    /// The guest's memory: in use while the machine is awake, saved while it sleeps.
    #[must_use]
    pub fn memory(&self) -> PathBuf {
        self.0.join("memory")
    }

    /// The state of the guest's devices, while the machine sleeps with its memory.
    #[must_use]
    pub fn devices(&self) -> PathBuf {
        self.0.join("devices")
    }

    /// What it takes to go on from the saved memory; without it there is none.
    #[must_use]
    pub fn asleep(&self) -> PathBuf {
        self.0.join("asleep.json")
    }

    /// There where the next wake is to boot, whatever memory there is.
    #[must_use]
    pub fn cold(&self) -> PathBuf {
        self.0.join("cold")
    }

    /// What became of the home since.
    #[must_use]
    pub fn meanwhile(&self) -> PathBuf {
        self.0.join("meanwhile.json")
    }

    /// There where the machine is a fork with an upper in the store: it is no new one.
    #[must_use]
    pub fn forked(&self) -> PathBuf {
        self.0.join("forked")
    }

    /// The name of the template that the machine was given to begin with.
    #[must_use]
    pub fn cloned(&self) -> PathBuf {
        self.0.join("cloned")
    }

    /// A copy of a template, until the machine's first keeper takes it.
    #[must_use]
    pub fn template(&self) -> TemplateDir {
        TemplateDir::new(self.0.join("template"))
    }

    /// Console and hypervisor logs.
    #[must_use]
    pub fn instance_logs(&self) -> PathBuf {
        self.0.join("instance")
    }

    /// Records and output of executions.
    #[must_use]
    pub fn executions(&self) -> PathBuf {
        self.0.join("executions")
    }
}
