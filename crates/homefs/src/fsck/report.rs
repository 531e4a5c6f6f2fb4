//! What a check found. Plain data.

use base::{HomeId, SnapshotId};
use serde::Serialize;

/// Problems of one sort that are told one by one; beyond, they are only counted.
const PROBLEMS_MAX: usize = 1_000;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// All metadata; of content, whether it is there and of the right length.
    Quick,
    /// All content too.
    Deep,
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is looked at.
    pub stage: &'static str,
    /// How many of them.
    pub done: u64,
    /// Of how many, where that is known.
    pub total: Option<u64>,
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which home.
    pub home: HomeId,
    /// The snapshot of it that was checked; else its newest state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<SnapshotId>,
    /// The commit that was checked; 0 where none could be found.
    pub seq: u64,
    /// How much was read.
    pub depth: Depth,
    /// The home went on meanwhile. What is reported as missing may rightly be gone: check again.
    pub moved: bool,
    /// What was looked at.
    pub checked: Checked,
    /// Content that cannot be read any more.
    pub lost: Problems,
    /// What is wrong while all content can be read.
    pub damaged: Problems,
    /// What costs money and serves nobody.
    pub leaked: Leaked,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Pages of the database.
    pub pages: u64,
    /// Files, directories, links, …
    pub inodes: u64,
    /// Bytes of content that they have.
    pub bytes: u64,
    /// Packs, chunks and data sections that content lies in.
    pub objects: u64,
    /// Bytes of those that were read whole.
    pub bytes_read: u64,
    /// Files whose newest content was not in the store yet; they were checked as last stored.
    pub unsealed: u64,
    /// Snapshots and forks of the home.
    pub pins: u64,
}

/// Problems of one sort.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// How many there are.
    pub total: u64,
    /// The first 1,000.
    pub items: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// With what: an object's key, or a part of the metadata.
    pub subject: String,
    /// What is wrong with it.
    pub what: String,
    /// Paths that are touched, at most 20. What is not UTF-8 in them is replaced.
    pub paths: Vec<String>,
    /// How many are.
    pub paths_total: u64,
}

/// Objects that nothing names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Leaked {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The keys of the first 20.
    pub keys: Vec<String>,
}

impl Report {
    pub(super) fn new(home: HomeId, at: Option<SnapshotId>, depth: Depth) -> Self {
        Self {
            home,
            at,
            seq: 0,
            depth,
            moved: false,
            checked: Checked::default(),
            lost: Problems::default(),
            damaged: Problems::default(),
            leaked: Leaked::default(),
        }
    }

    /// True where nothing is lost and nothing damaged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost.total == 0 && self.damaged.total == 0
    }
}

impl Problems {
    pub(super) fn add(&mut self, problem: Problem) {
        self.total += 1;
        if self.items.len() < PROBLEMS_MAX {
            self.items.push(problem);
        }
    }
}

impl Problem {
    pub(super) fn new(subject: impl Into<String>, what: impl Into<String>) -> Self {
        let (subject, what) = (subject.into(), what.into());
        Self { subject, what, paths: Vec::new(), paths_total: 0 }
    }

    /// One that takes the whole home with it.
    pub(super) fn of_home(key: String, why: impl std::fmt::Display) -> Self {
        let what = format!("{why}; without it no file of this state can be read");
        Self { paths: vec!["/".to_owned()], paths_total: 1, ..Self::new(key, what) }
    }
}
