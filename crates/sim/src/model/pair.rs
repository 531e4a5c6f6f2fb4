//! A home and a tree in memory, side by side.
//!
//! ```text
//! agree    when two answers are the same
//! names  attrs  content  trees    the calls, each made on both
//! walks    directories that are listed while they change
//! ```

mod agree;
mod attrs;
mod content;
mod names;
mod trees;
mod walks;

use std::sync::Arc;

use base::{HomeId, ServerId, SystemClock, SystemEntropy};
use homefs::{HomeFs, HomeSettings, Parts};
use objstore::MemoryStore;
use vfs::memfs::MemFs;
use vfs::{Attr, FileSystem, Ino, Kind, Owner, ROOT, Result, SetAttr};

use self::agree::{agreed, both, plain, same};
use self::walks::Walk;
use super::call::Call;
use crate::tree::observe;
use crate::world::{RUNTIME, scratch};

/// Inodes known at a time.
const KNOWN_MAX: usize = 48;
const USER: Owner = Owner { uid: 0, gid: 0 };
const KINDS: [Kind; 6] =
    [Kind::File, Kind::Directory, Kind::File, Kind::Directory, Kind::Fifo, Kind::File];

/// One inode in both.
#[derive(Debug, Clone, Copy)]
struct Both {
    ours: Ino,
    model: Ino,
    kind: Kind,
    /// Pins of ours on it; a detached one begins with one.
    pins: u32,
}

/// See the module.
pub(super) struct Pair {
    home: Option<HomeFs>,
    model: MemFs,
    known: Vec<Both>,
    walks: Vec<Walk>,
    store: Arc<MemoryStore>,
    dir: tempfile::TempDir,
    id: HomeId,
    server: ServerId,
    disks: u32,
}

fn name(n: u8) -> Vec<u8> {
    match n {
        6 => b"\xff\xfe".to_vec(),
        7 => vec![b'x'; 255],
        n => vec![b'a' + n],
    }
}

impl Pair {
    pub(super) fn new() -> Self {
        let mut pair = Self {
            home: None,
            model: MemFs::new(super::clock(), 1 << 40),
            known: vec![Both { ours: ROOT, model: ROOT, kind: Kind::Directory, pins: 0 }],
            walks: Vec::new(),
            store: Arc::new(MemoryStore::new()),
            dir: scratch(),
            id: HomeId::generate(),
            server: ServerId::generate(),
            disks: 0,
        };
        RUNTIME
            .block_on(homefs::create_home(&pair.parts(), &pair.id, &pair.server))
            .expect("make a home");
        pair.open().expect("open it");
        pair
    }

    fn parts(&self) -> Parts {
        Parts {
            store: self.store.clone(),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            runtime: RUNTIME.handle().clone(),
        }
    }

    fn open(&mut self) -> Result<(), String> {
        let dir = self.dir.path().join(format!("disk-{}/home", self.disks));
        let settings = HomeSettings {
            bytes_max: 1 << 40,
            replicate_after: std::time::Duration::from_secs(86_400),
            ..HomeSettings::new(self.id.clone(), dir, self.server.clone())
        };
        let opened = HomeFs::open_writer(settings, self.parts());
        self.home = Some(opened.map_err(|error| format!("it does not open: {error}"))?.0);
        Ok(())
    }

    fn fs(&self) -> &HomeFs {
        self.home.as_ref().expect("it is open between calls")
    }

    fn at(&self, n: u8) -> Both {
        self.known[n as usize % self.known.len()]
    }

    fn dir(&self, n: u8) -> Both {
        let dirs: Vec<_> = self.known.iter().filter(|b| b.kind == Kind::Directory).collect();
        // Mostly a directory, so that most calls do something.
        if n.is_multiple_of(11) { self.at(n) } else { *dirs[n as usize % dirs.len()] }
    }

    fn file(&self, n: u8) -> Both {
        let files: Vec<_> = self.known.iter().filter(|b| b.kind == Kind::File).collect();
        if files.is_empty() || n.is_multiple_of(11) {
            self.at(n)
        } else {
            *files[n as usize % files.len()]
        }
    }

    fn learn(&mut self, ours: Ino, model: Ino, kind: Kind, pins: u32) {
        if let Some(both) = self.known.iter_mut().find(|both| both.ours == ours) {
            both.pins += pins;
            return;
        }
        self.known.push(Both { ours, model, kind, pins });
        if self.known.len() > KNOWN_MAX {
            let out = self.known.iter().position(|b| b.pins == 0 && b.ours != ROOT);
            if let Some(out) = out {
                self.known.remove(out);
            }
        }
    }

    /// Compares two answers with attributes, and remembers the inode.
    fn attrs(&mut self, ours: Result<Attr>, model: Result<Attr>, pins: u32) -> Result<(), String> {
        let numbers = match (&ours, &model) {
            (Ok(ours), Ok(model)) => Some((ours.ino, model.ino, ours.kind)),
            _ => None,
        };
        agreed(same(ours.map(|attr| plain(&attr)), model.map(|attr| plain(&attr))))?;
        if let Some((ours, model, kind)) = numbers {
            self.learn(ours, model, kind, pins);
        }
        Ok(())
    }

    /// Makes a call on both.
    pub(super) fn step(&mut self, call: &Call) -> Result<(), String> {
        let fs = self.home.take().ok_or("it is closed")?;
        let done = self.call(&fs, call);
        self.home = Some(fs);
        done?;
        match call {
            Call::Kill => self.reopen(false),
            Call::LoseDisk => self.reopen(true),
            Call::Compare => self.compare(),
            _ => self.look_after_walks(),
        }
    }

    fn call(&mut self, fs: &HomeFs, call: &Call) -> Result<(), String> {
        let set = SetAttr::default();
        match *call {
            Call::Lookup(d, n) => self.lookup(fs, d, n),
            Call::Getattr(i) => self.getattr(fs, i),
            Call::Chmod(i, perm) => self.set(fs, i, SetAttr { perm: Some(perm), ..set }),
            Call::Chown(i, uid, gid) => {
                self.set(fs, i, SetAttr { uid: Some(uid), gid: Some(gid), ..set })
            }
            Call::Truncate(i, size) => self.set(fs, i, SetAttr { size: Some(size), ..set }),
            Call::Utimes(i, at) => self.utimes(fs, i, at),
            Call::Pin(i) => self.pin(fs, i),
            Call::Unpin(i) => self.unpin(fs, i),
            Call::Mknod(d, n, kind) => self.mknod(fs, d, n, kind),
            Call::Symlink(d, n, len) => self.symlink(fs, d, n, len),
            Call::Readlink(i) => self.readlink(fs, i),
            Call::Link(i, d, n) => self.link(fs, i, d, n),
            Call::Unlink(d, n) => self.unlink(fs, d, n),
            Call::Rmdir(d, n) => self.rmdir(fs, d, n),
            Call::Rename(a, n, b, m, flags) => self.rename(fs, (a, n), (b, m), flags),
            Call::Readdir(d) => self.readdir(fs, d),
            Call::WalkBegin(d) => self.walk_begin(fs, d),
            Call::WalkOn(n) => self.walk_on(fs, n),
            Call::Read(i, at, len) => self.read(fs, i, at, len),
            Call::Write(i, at, len, seed) => self.write(fs, i, at, len, seed),
            Call::Append(i, len, seed) => self.append(fs, i, len, seed),
            Call::Fallocate(i, mode, at, len) => self.fallocate(fs, i, mode, at, len),
            Call::Seek(i, at, data) => self.seek(fs, i, at, data),
            Call::SetXattr(i, n, len, mode) => self.set_xattr(fs, i, n, len, mode),
            Call::GetXattr(i, n) => self.get_xattr(fs, i, n),
            Call::ListXattr(i) => self.list_xattr(fs, i),
            Call::RemoveXattr(i, n) => self.remove_xattr(fs, i, n),
            Call::Statfs => self.inodes_used(fs),
            Call::SyncLocal => both(fs.sync_local(), Ok(())),
            Call::Sync | Call::LoseDisk => both(fs.sync(None), Ok(())),
            Call::SyncOne(i) => self.sync_one(fs, i),
            Call::Detached(kind) => self.detached(fs, kind),
            Call::Place(i, d, n, expect) => self.place(fs, i, d, n, expect),
            Call::PlaceBelow(i, n, m) => self.place_below(fs, i, n, m),
            Call::Graft(from, into, n, implicit) => self.graft(fs, from, into, n, implicit),
            Call::Compare | Call::Kill => Ok(()),
        }
    }

    fn inodes_used(&self, fs: &HomeFs) -> Result<(), String> {
        let used = |fs: &dyn FileSystem| fs.statfs().map(|sizes| sizes.inodes_used);
        agreed(same(used(fs), used(&self.model))).map(drop)
    }

    /// The process is killed; `disk`: after a sync, and the disk is lost too.
    fn reopen(&mut self, disk: bool) -> Result<(), String> {
        drop(self.home.take());
        if disk {
            self.disks += 1;
        }
        self.open()?;
        self.walks.clear();
        // Pins do not survive; with them go inodes that nothing names.
        for both in std::mem::take(&mut self.known) {
            for _ in 0..both.pins {
                self.model.unpin(both.model);
            }
            if self.model.getattr(both.model).is_ok() {
                self.known.push(Both { pins: 0, ..both });
            }
        }
        self.compare()
    }

    /// All of both.
    fn compare(&mut self) -> Result<(), String> {
        let read = |fs: &dyn FileSystem| {
            observe(fs).map_err(|(path, error)| format!("{path:?} cannot be read: {error}"))
        };
        match read(self.fs())?.differs(&read(&self.model)?) {
            Some(what) => Err(format!("the trees differ: {what}")),
            None => Ok(()),
        }
    }

    /// At the end: compared, stored, and read on a host that knows nothing.
    pub(super) fn end(&mut self) -> Result<(), String> {
        self.compare()?;
        self.fs().sync(None).map_err(|error| format!("sync: {error}"))?;
        self.compare()?;
        self.reopen(true)?;
        self.inodes_used(self.fs())
    }
}
