//! Unpublished writes to a sleeping home.
//!
//! A draft is the engine on a directory of its own, begun on a published commit, without a claim.
//! Its changes are durable on this host and nowhere else until [`Draft::publish`].
//!
//! # Order of publishing
//! Let no more changes in; seal; store packs and chunks; note that the commit may be on its way;
//! create it on top of the commit that the draft began on, as a claim and a release in one. While
//! its fate is unknown the draft takes no changes, also after a restart, and publishing again
//! finds out: the nonce tells our commit from any other.
//!
//! # Failure
//! Where the home moved, nothing is published and the draft goes on. Objects it stored stay
//! behind; they are only names that nothing uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Epoch, HomeId};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::changes;
use crate::data::objects::Objects;
use crate::engine::{Engine, Gate, Open};
use crate::error::{Error, Result};
use crate::forward::forward_file_system;
use crate::home::lock;
use crate::layout::{HomeDir, temporary_of};
use crate::limits::HOME_BLOCK_BYTES;
use crate::meta::sql::{self, uint};
use crate::nearby;
use crate::replica::append::Commit;
use crate::replica::error::Error as LogError;
use crate::replica::log::Log;
use crate::replica::pages::{DatabaseFile, differing_pages};
use crate::settings::{HomeSettings, Parts, PathChange, Published};
use crate::upload::Pending;

/// `draft.json`: what a draft is, across restarts.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    format: u32,
    home: HomeId,
    /// The commit it began on.
    seq: u64,
    /// The epoch of that commit.
    epoch: Epoch,
    /// Of its publication.
    nonce: String,
    /// The commit may have been sent.
    publishing: bool,
    /// It was published, as this commit and epoch.
    published: Option<(u64, Epoch)>,
}

const FORMAT: u32 = 1;
const STATE_BYTES_MAX: u64 = 16 << 10;

/// Unpublished writes to a sleeping home.
#[derive(Debug)]
pub struct Draft {
    engine: Arc<Engine>,
    log: Log,
    dir: HomeDir,
    settings: HomeSettings,
    parts: Parts,
    state: Mutex<State>,
    _lock: fs::File,
}

impl Draft {
    /// Opens the draft in `settings.dir`, or begins one on the newest commit.
    ///
    /// # Errors
    /// `NotFound` where there is no such home; `Conflict` where another process has the directory
    /// open; those of the store and of the disk.
    pub fn open(settings: HomeSettings, parts: Parts) -> Result<Self> {
        let dir = HomeDir::new(&settings.dir);
        fs::create_dir_all(dir.root()).map_err(Error::local("make"))?;
        let lock = lock(&dir)?;
        let log = Log::new(parts.store.clone(), parts.clock.clone(), settings.home.clone());
        let state = match load(&dir)? {
            Some(state) if state.home == settings.home => state,
            Some(_) => {
                return Err(Error::Damaged { what: "the draft is one of another home".into() });
            }
            None => begin(&dir, &log, &parts)?,
        };
        let objects =
            Objects::new(dir.clone(), log.reader(), parts.runtime.clone(), HOME_BLOCK_BYTES);
        let (engine, _) = Engine::open(Open {
            objects,
            bytes_max: settings.bytes_max,
            clean: false,
            clock: parts.clock.clone(),
            entropy: parts.entropy.clone(),
            on_commit: Box::new(|| {}),
        })?;
        if state.publishing || state.published.is_some() {
            engine.set_gate(Gate::Closed);
        }
        let (engine, state) = (Arc::new(engine), Mutex::new(state));
        Ok(Self { engine, log, dir, settings, parts, state, _lock: lock })
    }

    /// True where `dir` holds a draft that was not published.
    #[must_use]
    pub fn exists(dir: impl AsRef<Path>) -> bool {
        let state = load(&HomeDir::new(dir.as_ref()));
        state.is_ok_and(|state| state.is_some_and(|state| state.published.is_none()))
    }

    /// Throws the draft in `dir` away. None there is no error.
    ///
    /// # Errors
    /// `Conflict` where it is open; those of the disk.
    pub fn discard(dir: impl AsRef<Path>) -> Result<()> {
        let dir = HomeDir::new(dir.as_ref());
        if !dir.root().exists() {
            return Ok(());
        }
        let _lock = lock(&dir)?;
        // The state goes first: from then on there is no draft here.
        match fs::remove_file(state_path(&dir)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::local("clear")(error));
            }
            _ => {}
        }
        fs::remove_dir_all(dir.root()).map_err(Error::local("clear"))
    }

    /// The commit that the draft began on.
    #[must_use]
    pub fn base_seq(&self) -> u64 {
        self.state.lock().seq
    }

    /// True where it was published and only waits to be thrown away.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.state.lock().published.is_some()
    }

    /// Makes all of the draft visible in one conditional write, if the home has not moved. The
    /// draft takes no changes while this runs, and none once it is published.
    ///
    /// # Errors
    /// `Fenced` where a server holds the home; those of the store. Calling again is safe.
    pub fn publish(&self) -> Result<Published> {
        let mut state = self.state.lock();
        if let Some((seq, epoch)) = state.published {
            return Ok(Published::Committed { seq, epoch });
        }
        self.engine.set_gate(Gate::Closed);
        let outcome = self.publish_closed(&mut state);
        let in_doubt = state.publishing;
        if !in_doubt && state.published.is_none() {
            self.engine.set_gate(Gate::Open);
        }
        outcome
    }

    fn publish_closed(&self, state: &mut State) -> Result<Published> {
        let commit = self.prepare(state)?;
        state.publishing = true;
        save(&self.dir, state)?;
        let nonce = nonce_of(state)?;
        let publish = self.log.publish(state.seq, commit, self.settings.holder.clone(), nonce);
        match self.parts.runtime.block_on(publish) {
            Ok((seq, epoch)) => {
                state.published = Some((seq, epoch));
                save(&self.dir, state)?;
                Ok(Published::Committed { seq, epoch })
            }
            Err(error @ (LogError::Store(_) | LogError::InDoubt { .. })) => Err(error.into()),
            Err(error) => {
                // Nothing was written, so the next attempt is another one.
                state.publishing = false;
                state.nonce = hex::encode(self.parts.entropy.nonce());
                save(&self.dir, state)?;
                match error {
                    LogError::Moved { found, .. } => {
                        Ok(Published::Moved { draft_base: state.seq, head: found })
                    }
                    error => Err(error.into()),
                }
            }
        }
    }

    /// Seals and stores everything but the commit.
    fn prepare(&self, state: &State) -> Result<Commit> {
        let dirty = self
            .engine
            .readers
            .with(|conn| sql::all(conn, "SELECT ino FROM dirty_inode", [], |r| uint(r, 0)))?;
        self.engine.seal(dirty, state.epoch.next().0)?;
        let pending = self.engine.readers.consistent(|conn| Pending::load(conn, false))?;
        self.parts.runtime.block_on(pending.store(&self.log, &self.engine.objects))?;
        let seq = state.seq + 1;
        self.engine.writer.run(move |tx| {
            tx.counters.store_seq = seq;
            pending.mark_stored(tx, seq)
        })?;
        self.engine.durable.sync()?;
        let view = Arc::new(self.engine.writer.between(|thread| thread.capture())?.view);
        let base = DatabaseFile::open(&base_path(&self.dir))?;
        let differing = differing_pages(&base, view.as_ref())?.into_iter().collect();
        let pages = self.parts.runtime.block_on(self.log.collect(view, &differing))?;
        Ok(Commit { pages, data: Bytes::new(), release: true })
    }

    /// Every path that the draft changed, in order.
    ///
    /// # Errors
    /// Those of the local disk.
    pub fn changes(&self) -> Result<Vec<PathChange>> {
        Ok(changes::between(&base_path(&self.dir), &self.dir.database())?)
    }

    fn tree(&self) -> &Engine {
        &self.engine
    }
}

forward_file_system!(Draft);

/// Begins a draft on the newest commit. The state is written last: without it there is no draft.
fn begin(dir: &HomeDir, log: &Log, parts: &Parts) -> Result<State> {
    let head = parts.runtime.block_on(log.head(None))?;
    let no_home = || Error::NoSuchHome { home: log.keys().home().clone() };
    let head = head.filter(|head| head.page_count > 0).ok_or_else(no_home)?;
    for path in [dir.spool_dir(), dir.packs_dir(), dir.chunks_dir()] {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::local("clear")(error));
            }
            _ => {}
        }
    }
    crate::lineage::remove_log(&dir.database())?;
    let base = base_path(dir);
    parts.runtime.block_on(nearby::fetch(log, &head, &base, None))?;
    nearby::copy(&base, &dir.database())?;
    let state = State {
        format: FORMAT,
        home: log.keys().home().clone(),
        seq: head.seq,
        epoch: head.epoch,
        nonce: hex::encode(parts.entropy.nonce()),
        publishing: false,
        published: None,
    };
    save(dir, &state)?;
    Ok(state)
}

/// The database as it was when the draft began.
fn base_path(dir: &HomeDir) -> PathBuf {
    dir.root().join("base.db")
}

fn state_path(dir: &HomeDir) -> PathBuf {
    dir.root().join("draft.json")
}

fn load(dir: &HomeDir) -> Result<Option<State>> {
    let path = state_path(dir);
    let damaged = || Error::Damaged { what: "draft.json cannot be read; discard the draft".into() };
    match fs::metadata(&path) {
        Ok(found) if found.len() > STATE_BYTES_MAX => return Err(damaged()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::local("read")(error)),
    }
    let bytes = fs::read(path).map_err(Error::local("read"))?;
    let state: State = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
    if state.format == FORMAT { Ok(Some(state)) } else { Err(damaged()) }
}

fn save(dir: &HomeDir, state: &State) -> Result<()> {
    let path = state_path(dir);
    let temporary = temporary_of(&path);
    let json = serde_json::to_vec_pretty(state).expect("a state is plain data");
    let write = || {
        fs::write(&temporary, json)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(dir.root())?.sync_all()
    };
    write().map_err(Error::local("note the draft in"))
}

fn nonce_of(state: &State) -> Result<[u8; 16]> {
    let mut nonce = [0; 16];
    hex::decode_to_slice(&state.nonce, &mut nonce).map_err(|_| Error::Damaged {
        what: "draft.json holds no nonce; discard the draft".into(),
    })?;
    Ok(nonce)
}
