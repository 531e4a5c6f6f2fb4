//! A home on a disk whose power goes at any moment.
//!
//! # What is compared
//! A home that is opened after a cut shows the names after some act that came at or behind the last
//! confirmed `sync_local`. Content that nobody changed since then is exactly that; of other files each byte
//! is one that was written there. From a lost disk the same holds for the last confirmed `sync`, of the
//! states that were sent. The database passes SQLite's own check.

use std::path::PathBuf;
use std::sync::Arc;

use base::{HomeId, ServerId};
use homefs::{HomeFs, HomeSettings, Parts};
use objstore::MemoryStore;
use testkit::{HandClock, SeededEntropy};
use vfs::FileSystem;

use super::serve::Platter;
use super::{Loss, Names};
use crate::acts;
use crate::chance::{Chance, mix, uuid};
use crate::store::{Rates, Wire};
use crate::tree::{Tree, content_differs, observe};
use crate::world::{RUNTIME, watched};

/// How much a seed does.
#[derive(Debug, Clone)]
pub struct Options {
    /// Cuts of one seed.
    pub cuts: u64,
    /// When names are durable.
    pub names: Names,
    /// `fsync` does nothing: the harness must find that out.
    pub lies: bool,
    /// The program `sim`, which serves the disk.
    pub program: PathBuf,
}

impl Options {
    /// As tests have it.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { cuts: 4, names: Names::Journaled, lies: false, program: program.into() }
    }
}

/// What is known of the home.
#[derive(Debug)]
struct Known {
    /// The tree after each act since the last opening, the first as it was found then.
    history: Vec<Tree>,
    /// The last one that `sync_local` confirmed.
    local: usize,
    /// The last one that `sync` confirmed.
    stored: usize,
    /// Those that a `sync` may have sent since.
    sent: Vec<usize>,
    acts: u64,
    /// The last act that is in `history[local]`, and in `history[stored]`.
    local_acts: u64,
    stored_acts: u64,
}

struct Run {
    seed: u64,
    chance: Chance,
    truth: Arc<MemoryStore>,
    home: HomeId,
    server: ServerId,
    clock: Arc<HandClock>,
    known: Known,
    opened: u64,
    confirmed: u64,
    trace: Vec<String>,
}

/// Runs one seed; how many syncs were confirmed.
///
/// # Errors
/// What was lost.
pub fn run(seed: u64, options: &Options) -> Result<u64, String> {
    let bytes = seed.to_le_bytes();
    let first = Known {
        history: vec![Tree::default()],
        local: 0,
        stored: 0,
        sent: vec![0],
        acts: 0,
        local_acts: 0,
        stored_acts: 0,
    };
    let mut run = Run {
        seed,
        chance: Chance::new(seed),
        truth: Arc::new(MemoryStore::new()),
        home: format!("home-{}", uuid(&[b"home", &bytes])).parse().expect("it is an id"),
        server: format!("srv-{}", uuid(&[b"srv", &bytes])).parse().expect("it is an id"),
        clock: Arc::default(),
        known: first,
        opened: 0,
        confirmed: 0,
        trace: Vec::new(),
    };
    match run.play(options) {
        Ok(()) => Ok(run.confirmed),
        Err(what) => Err(format!("  {}\nseed {seed}: {what}", run.trace.join("\n  "))),
    }
}

impl Run {
    fn play(&mut self, options: &Options) -> Result<(), String> {
        let (parts, _) = self.parts();
        RUNTIME
            .block_on(homefs::create_home(&parts, &self.home, &self.server))
            .map_err(|error| format!("a home cannot be made: {error}"))?;
        let mut disk = Platter::start(&options.program, options.names, options.lies)?;
        for _ in 0..options.cuts {
            // Now and then in the middle of opening.
            let far = if self.chance.percent(30) { 60 } else { 700 };
            disk.cut_at(1 + self.chance.below(far))?;
            self.one_life(&disk)?;
            let loss = if self.chance.percent(15) { Loss::Process } else { Loss::Power };
            self.trace.push(format!("{loss:?} lost after {} writes", disk.count()));
            if self.chance.percent(12) {
                self.trace.push("the disk is lost".to_owned());
                disk.replace()?;
                self.known.local = usize::MAX;
                continue;
            }
            disk.lose(loss, self.chance.any())?;
            self.check_database(&disk)?;
        }
        // The last word: power stays, and everything is there.
        self.one_life(&disk).map(drop)
    }

    fn parts(&mut self) -> (Parts, Arc<Wire>) {
        self.opened += 1;
        let seed = mix(&[&self.seed.to_le_bytes(), &self.opened.to_le_bytes()]);
        let wire = Arc::new(Wire::new(self.truth.clone(), seed, Rates::default()));
        let parts = Parts {
            store: wire.clone(),
            clock: self.clock.clone(),
            entropy: Arc::new(SeededEntropy::new(seed)),
            runtime: RUNTIME.handle().clone(),
        };
        (parts, wire)
    }

    /// From opening to the cut.
    fn one_life(&mut self, disk: &Platter) -> Result<(), String> {
        let (parts, wire) = self.parts();
        let settings = HomeSettings {
            replicate_after: std::time::Duration::from_secs(86_400),
            ..HomeSettings::new(self.home.clone(), disk.path("home"), self.server.clone())
        };
        let home = match HomeFs::open_writer(settings, parts) {
            Ok((home, opened)) => {
                self.trace.push(format!("opened: {:?}", opened.recovery));
                Arc::new(home)
            }
            Err(_) if disk.is_cut() => {
                self.trace.push("cut while it was opened".to_owned());
                return Ok(());
            }
            Err(error) => return Err(format!("the home does not open: {error:?}")),
        };
        let done = self.live(&home, &wire, disk);
        wire.die();
        home.stop();
        drop(home);
        done
    }

    fn live(&mut self, home: &Arc<HomeFs>, wire: &Wire, disk: &Platter) -> Result<(), String> {
        let found = match observe(&**home) {
            Ok(found) => found,
            Err(_) if disk.is_cut() => return Ok(()),
            Err((path, error)) => return Err(format!("{path:?} cannot be read: {error}")),
        };
        self.compare(&found)?;
        self.begin(found);
        for _ in 0..60 {
            if disk.is_cut() {
                break;
            }
            self.clock.advance(std::time::Duration::from_millis(self.chance.below(2_000)));
            match self.chance.below(10) {
                0..=6 => {
                    let tree = self.known.history.last().cloned().unwrap_or_default();
                    let act = acts::choose(&mut self.chance, &tree);
                    let done = acts::run(&**home, &act);
                    self.trace.push(format!("{act:?}: {done:?}"));
                    self.known.acts += 1;
                    let mut after = tree;
                    acts::apply(&mut after, &act, self.known.acts);
                    self.known.history.push(after);
                    if let Err(error) = done
                        && !disk.is_cut()
                    {
                        return Err(format!("{act:?} failed: {error}"));
                    }
                }
                7..=8 => {
                    let done = home.sync_local();
                    self.trace.push(format!("sync_local: {done:?}"));
                    match done {
                        Ok(()) => self.kept_here(),
                        Err(_) if disk.is_cut() => {}
                        Err(error) => return Err(format!("sync_local failed: {error}")),
                    }
                }
                _ => {
                    self.known.sent.push(self.known.history.len() - 1);
                    // A home that lost its disk would try for long.
                    let done = std::thread::scope(|scope| {
                        let watcher = scope.spawn(|| watched(home, wire, |home| home.sync(None)));
                        while !watcher.is_finished() {
                            if disk.is_cut() {
                                wire.die();
                            }
                            std::thread::sleep(std::time::Duration::from_millis(1));
                        }
                        watcher.join().expect("a sync does not panic")
                    });
                    self.trace.push(format!("sync: {done:?}"));
                    match done {
                        Ok(()) => {
                            self.known.stored = self.known.history.len() - 1;
                            self.known.stored_acts = self.known.acts;
                            self.known.sent = vec![self.known.stored];
                            self.kept_here();
                        }
                        Err(_) if disk.is_cut() => {}
                        Err(error) => return Err(format!("sync failed: {error}")),
                    }
                }
            }
        }
        Ok(())
    }

    fn kept_here(&mut self) {
        self.known.local = self.known.history.len() - 1;
        self.known.local_acts = self.known.acts;
        self.confirmed += 1;
    }

    /// What was found is where the history goes on. It is not durable yet for that.
    fn begin(&mut self, mut found: Tree) {
        // What it is made of may still be lost, so the state before stays what was confirmed; but a
        // home that was opened has synced its recovery, or a later loss shows that it had to.
        let known = &mut self.known;
        for file in found.files.values_mut() {
            file.changed = 0;
        }
        let lost = known.local == usize::MAX;
        let base = if lost { known.stored } else { known.local };
        let base_acts = if lost { known.stored_acts } else { known.local_acts };
        let stored: Vec<Tree> = known.sent.iter().map(|n| known.history[*n].clone()).collect();
        let mut history = stored;
        let sent = (0..history.len()).collect();
        let confirmed = known.history[known.stored].clone();
        let stored = history.iter().position(|tree| tree.differs(&confirmed).is_none());
        let tail: Vec<Tree> = known.history[base..].to_vec();
        known.local = history.len();
        known.local_acts = base_acts;
        history.extend(tail);
        history.push(renumbered(found, &history, known.acts));
        known.stored = stored.unwrap_or(0);
        known.sent = sent;
        known.history = history;
    }

    fn compare(&self, found: &Tree) -> Result<(), String> {
        let known = &self.known;
        if known.local == usize::MAX {
            let fits = known.sent.iter().any(|n| known.history[*n].differs(found).is_none());
            let why = || known.history[known.stored].differs(found).unwrap_or_default();
            return if fits { Ok(()) } else { Err(format!("lost from the store: {}", why())) };
        }
        let after = &known.history[known.local..];
        let mut why = Vec::new();
        for tree in after.iter().rev() {
            match self.fits(tree, found, after) {
                None => return Ok(()),
                Some(what) => why.push(what),
            }
        }
        Err(format!("lost from the disk; nearest first: {}", why.join(" | ")))
    }

    /// Why `found` is not `tree` with content that may be newer or torn.
    fn fits(&self, tree: &Tree, found: &Tree, after: &[Tree]) -> Option<String> {
        if let Some(what) = tree.names_differ(found) {
            return Some(what);
        }
        tree.names.keys().find_map(|path| {
            let (number, expected) = tree.file(path)?;
            let (_, found) = found.file(path)?;
            let versions: Vec<&Arc<Vec<u8>>> = after
                .iter()
                .filter_map(|tree| tree.files.get(&number).map(|file| &file.data))
                .collect();
            let touched = versions.iter().any(|data| **data != expected.data)
                || expected.changed > self.known.local_acts;
            if !touched {
                return content_differs(path, expected, found);
            }
            let strange = found.data.iter().enumerate().position(|(at, byte)| {
                *byte != 0 && !versions.iter().any(|data| data.get(at) == Some(byte))
            });
            strange.map(|at| format!("{path}: byte {at} was never written"))
        })
    }

    /// SQLite's own check, on a copy.
    fn check_database(&mut self, disk: &Platter) -> Result<(), String> {
        if !self.chance.percent(40) {
            return Ok(());
        }
        let copy = disk.copy()?;
        let path = copy.join("home/home.db");
        if !path.exists() {
            return Ok(());
        }
        let check = || -> rusqlite::Result<String> {
            let conn = rusqlite::Connection::open(&path)?;
            conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))
        };
        match check() {
            Ok(answer) if answer == "ok" => Ok(()),
            Ok(answer) => Err(format!("the database is damaged: {answer}")),
            // One that was never finished: there was no home here yet.
            Err(_) if !copy.join("home/replica.json").exists() => Ok(()),
            Err(error) => Err(format!("the database cannot be checked: {error}")),
        }
    }
}

/// `found` with the numbers that its files have in the newest tree that has the same names, so that
/// versions of one file are known as such.
fn renumbered(found: Tree, history: &[Tree], now: u64) -> Tree {
    let Some(like) = history.iter().rev().find(|tree| tree.names_differ(&found).is_none()) else {
        return found;
    };
    let mut tree = like.clone();
    for path in like.names.keys() {
        if let (Some((number, old)), Some((_, new))) = (like.file(path), found.file(path))
            && let Some(file) = tree.files.get_mut(&number)
        {
            let changed = if old.data == new.data { old.changed } else { now };
            *file = crate::tree::File { changed, ..new.clone() };
        }
    }
    tree
}
