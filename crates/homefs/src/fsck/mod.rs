//! Is a home whole? Looks at everything that its state in the store names, and changes nothing.
//!
//! # Order
//! Find the commit (the newest, or that of a snapshot); make its database in a temporary directory,
//! which reads every page and checks its sum; ask SQLite whether the database is sound; compare the
//! rows with each other (`rows`); compare packs, chunks and commits that rows name with what is in
//! the store (`objects`), and, in depth, read them all; look at the pins. Each step goes on after what
//! it finds, unless nothing can be known any more.
//!
//! # What is found
//! *Lost*: content that cannot be read any more, with the paths it belongs to. *Damaged*: what is
//! wrong while all content can be read. *Leaked*: objects that nothing names; they only cost money.
//!
//! # A home in use
//! Its published state is checked; what its writer has not stored yet is not part of that. Where it
//! moves on meanwhile, objects of the state that was checked may rightly be gone after a while:
//! [`Report::moved`] says so, and a second look decides.
//!
//! # Not here
//! Mending anything. Local directories.

mod objects;
mod paths;
mod pins;
mod report;
mod rows;

use std::path::PathBuf;

use base::{HomeId, SnapshotId};
use rusqlite::Connection;

pub use self::report::{Checked, Depth, Leaked, Problem, Problems, Progress, Report};

use crate::error::{Error, Result};
use crate::layout::HomeDir;
use crate::meta::{schema, sql};
use crate::opening::Opening;
use crate::replica::error::Error as LogError;
use crate::replica::log::{Head, Log};
use crate::replica::restore::materialise_state;
use crate::settings::Parts;
use crate::snapshots::{pin_of, published};

/// Where a check works, and what it has found so far.
struct Check<'a> {
    parts: &'a Parts,
    log: Log,
    head: Head,
    dir: PathBuf,
    report: Report,
    progress: &'a mut dyn FnMut(Progress),
}

/// Checks a home, or a snapshot of it. `scratch` is a directory for a copy of its database; what is
/// made there is removed again. Blocks on the store, so not to be called from the runtime's own tasks.
///
/// # Errors
/// `NotFound` for home or snapshot; those of the store and of the scratch directory. What is wrong
/// with the home is no error but in the report.
pub fn fsck(
    parts: &Parts,
    home: &HomeId,
    at: Option<&SnapshotId>,
    depth: Depth,
    scratch: &std::path::Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report> {
    let log = parts.log(home);
    let mut report = Report::new(home.clone(), at.cloned(), depth);
    let head = match parts.runtime.block_on(state(&log, at)) {
        Ok(head) => head,
        Err(Error::Log(LogError::Corrupt { key, why })) => {
            report.lost.add(Problem::of_home(key, why));
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    report.seq = head.seq;
    let scratch = Scratch::below(scratch, parts)?;
    let dir = scratch.0.clone();
    let mut check = Check { parts, log, head, dir, report, progress };
    check.run(depth)?;
    check.report.moved = check.has_moved()?;
    Ok(check.report)
}

/// A directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn below(dir: &std::path::Path, parts: &Parts) -> Result<Self> {
        let dir = dir.join(format!("fsck-{}", hex::encode(parts.entropy.nonce())));
        std::fs::create_dir(&dir).map_err(Error::local("make a copy beside"))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, dir = %self.0.display(), "a copy stays behind");
        }
    }
}

async fn state(log: &Log, at: Option<&SnapshotId>) -> Result<Head> {
    match at {
        None => published(log).await,
        Some(id) => {
            // Of a fork, where its ancestors' objects lie is known from its own commits.
            published(log).await?;
            Ok(log.pinned_head(&pin_of(log, id).await?).await?)
        }
    }
}

impl Check<'_> {
    fn run(&mut self, depth: Depth) -> Result<()> {
        self.say("pins", 0, None);
        self.pins()?;
        self.say("metadata", 0, None);
        let Some(conn) = self.database()? else { return Ok(()) };
        self.say("rows", 0, None);
        rows::check(&conn, &mut self.report)?;
        self.objects(&conn)?;
        if depth == Depth::Deep {
            self.read_all(&conn)?;
        }
        Ok(())
    }

    /// The database as of the commit; `None` where it cannot be had.
    fn database(&mut self) -> Result<Option<Connection>> {
        let path = HomeDir::new(&self.dir).database();
        let opening = Opening::default();
        let made = materialise_state(&self.log, &self.head, &path, None, &opening);
        match self.parts.runtime.block_on(made) {
            Ok(()) => {}
            Err(LogError::Corrupt { key, why }) => {
                self.report.lost.add(Problem::of_home(key.clone(), why));
                self.other_commits(&key)?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        self.report.checked.pages = u64::from(self.head.page_count);
        let conn = schema::open_writer(&path)?;
        // The copy is ours: what makes looking things up fast may be added to it.
        if let Some(why) = unsound(&conn) {
            let key = self.log.keys().log(self.head.seq);
            self.report.lost.add(Problem::of_home(key, why));
            return Ok(None);
        }
        schema::check(&conn)?;
        schema::migrate(&conn)?;
        Ok(Some(conn))
    }

    /// The state cannot be read; what else of its log is missing?
    fn other_commits(&mut self, known: &str) -> Result<()> {
        let base = self.head.base_seq;
        for seq in self.head.descent.numbers(self.head.seq, base) {
            let why = match self.parts.runtime.block_on(self.log.read(seq)) {
                Ok(Some(_)) => continue,
                Ok(None) => "it is missing".to_owned(),
                Err(LogError::Corrupt { why, .. }) => why,
                Err(error) => return Err(error.into()),
            };
            let key = self.log.keys().log(seq);
            if key != known {
                self.report.lost.add(Problem::of_home(key, why));
            }
        }
        Ok(())
    }

    /// True where the home has another head by now.
    fn has_moved(&self) -> Result<bool> {
        if self.report.at.is_some() {
            return Ok(false);
        }
        let now = self.parts.runtime.block_on(self.log.head(Some(self.head.seq)));
        Ok(now.map_err(Error::from)?.is_none_or(|head| head.seq != self.head.seq))
    }

    fn say(&mut self, stage: &'static str, done: u64, total: Option<u64>) {
        (self.progress)(Progress { stage, done, total });
    }
}

/// What SQLite itself finds.
fn unsound(conn: &Connection) -> Option<String> {
    let said = sql::first(conn, "PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
    match said {
        Ok(Some(ok)) if ok == "ok" => None,
        Ok(Some(why)) => Some(format!("the database is not sound: {why}")),
        Ok(None) => Some("the database is empty".to_owned()),
        Err(error) => Some(format!("the database cannot be read: {error}")),
    }
}
