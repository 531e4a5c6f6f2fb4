//! A home and a tree in memory, side by side.
//!
//! ```text
//! agree    when two answers are the same
//! names  attrs  content  trees    the calls, each made on both
//! room     calls that there may be no room for
//! walks    directories that are listed while they change
//! life     sleep and wake, kills, and what comes after
//! ```

mod agree;
mod attrs;
mod content;
mod life;
mod names;
mod room;
mod trees;
mod walks;

use std::sync::Arc;

use base::{HomeId, ServerId, SystemClock, SystemEntropy};
use homefs::Parts;
use objstore::MemoryStore;
use vfs::memfs::MemFs;
use vfs::{Attr, FileSystem, Ino, Kind, Owner, ROOT, Result, SetAttr};

use self::agree::{agreed, both, plain, same};
use self::life::Live;
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
    home: Option<Live>,
    asleep: bool,
    bytes_max: u64,
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
    /// A new home with room for `bytes_max` bytes.
    pub(super) fn new(bytes_max: u64) -> Self {
        let mut pair = Self {
            home: None,
            asleep: false,
            bytes_max,
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
        let live = self.home.take().ok_or("it is closed")?;
        let done = self.call(live.fs(), call);
        self.home = Some(live);
        done?;
        match call {
            Call::Kill => self.reopen(),
            Call::LoseDisk => self.lose_disk(),
            Call::SleepOrWake => self.sleep_or_wake(),
            Call::Compare => self.compare(),
            _ => self.look_after_walks(),
        }
    }

    fn call(&mut self, fs: &dyn FileSystem, call: &Call) -> Result<(), String> {
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
            Call::Put(d, n, len, seed, how) => self.put(fs, d, n, (len, seed), how),
            Call::PlaceBelow(i, n, m) => self.place_below(fs, i, n, m),
            Call::Graft(from, into, n, implicit) => self.graft(fs, from, into, n, implicit),
            Call::Compare | Call::Kill | Call::SleepOrWake => Ok(()),
        }
    }

    fn inodes_used(&self, fs: &dyn FileSystem) -> Result<(), String> {
        let used = |fs: &dyn FileSystem| fs.statfs().map(|sizes| sizes.inodes_used);
        agreed(same(used(fs), used(&self.model))).map(drop)
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
}
