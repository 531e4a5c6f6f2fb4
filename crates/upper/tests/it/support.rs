//! Hosts with a directory each, one store, and the epochs of one home.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Digest, Epoch, MachineId};
use objstore::{MemoryStore, Metered, ObjectStore};
use tempfile::TempDir;
use testkit::FaultyStore;
use tokio_util::sync::CancellationToken;
use upper::{Begin, Begun, Files, Found, Progress, Saved, Upper};

pub(crate) const CHUNK: u64 = 4 << 20;
pub(crate) const DISK: u64 = 40 * CHUNK + 4096;

/// The store that all hosts share, and a machine.
pub(crate) struct World {
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) machine: MachineId,
    pub(crate) root: Digest,
    epoch: std::cell::Cell<u64>,
}

/// A host.
pub(crate) struct Host {
    pub(crate) dir: TempDir,
    pub(crate) store: FaultyStore,
    pub(crate) meter: Arc<Metered<FaultyStore>>,
    pub(crate) upper: Upper,
    pub(crate) files: Files,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            memory: Arc::new(MemoryStore::new()),
            machine: MachineId::generate(),
            root: Digest::of(b"root"),
            epoch: std::cell::Cell::new(1),
        }
    }

    pub(crate) fn host(&self) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let files = Files {
            disk: at("upper.ext4"),
            state: at("upper.json"),
            lock: at("upper.lock"),
            manifest: at("upper.manifest"),
            fetched: at("upper.fetch"),
        };
        let store = FaultyStore::new(self.memory.clone());
        let meter = Arc::new(Metered::new(store.clone()));
        let upper = Upper::new(meter.clone(), &self.machine, files.clone());
        Host { dir, store, meter, upper, files }
    }

    /// The home is claimed.
    pub(crate) fn claim(&self) -> Epoch {
        self.epoch.set(self.epoch.get() + 1);
        Epoch(self.epoch.get())
    }

    pub(crate) async fn keys(&self) -> Vec<String> {
        let found = self.memory.list("", None, 1_000).await.unwrap();
        found.into_iter().map(|object| object.key).collect()
    }

    pub(crate) async fn generations(&self) -> Vec<String> {
        let keys = self.keys().await;
        let name = |key: String| key.split_once("/log/").map(|(_, name)| name.to_owned());
        keys.into_iter().filter_map(name).collect()
    }
}

impl Host {
    pub(crate) async fn begin(&self, epoch: Epoch) -> Result<Begun, upper::Error> {
        let begin = Begin { epoch, was_awake: false, disk_bytes_max: DISK };
        let begun = self
            .upper
            .begin(begin, &Progress::default(), |_| Ok::<_, upper::Error>(()), |_| Ok(()))
            .await?;
        if begun.found == Found::Nowhere {
            File::create(&self.files.disk).unwrap().set_len(DISK).unwrap();
        }
        Ok(begun)
    }

    /// A guest writes.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        // Files remember when they were written in ticks of some milliseconds.
        std::thread::sleep(Duration::from_millis(12));
        let disk = OpenOptions::new().write(true).open(&self.files.disk).unwrap();
        disk.write_all_at(bytes, at).unwrap();
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut found = vec![0; len];
        let disk = File::open(&self.files.disk).unwrap();
        disk.read_exact_at(&mut found, at).unwrap();
        found
    }

    pub(crate) fn has(&self, at: u64, bytes: &[u8]) -> bool {
        self.read(at, bytes.len()) == bytes
    }

    /// Of the whole disk.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&std::fs::read(&self.files.disk).unwrap())
    }

    pub(crate) async fn save(&self, world: &World) -> Result<Saved, upper::Error> {
        self.upper.save(&world.root, &CancellationToken::new()).await
    }

    /// A whole run: wake, write, sleep.
    pub(crate) async fn run(&self, world: &World, at: u64, bytes: &[u8]) -> Begun {
        let epoch = world.claim();
        let begun = self.begin(epoch).await.unwrap();
        self.write(at, bytes);
        self.upper.leave(epoch).await.unwrap();
        begun
    }

    /// The same, stored.
    pub(crate) async fn run_and_save(&self, world: &World, at: u64, bytes: &[u8]) -> Begun {
        let begun = self.run(world, at, bytes).await;
        assert!(matches!(self.save(world).await.unwrap(), Saved::Stored { .. }));
        begun
    }

    /// Uppers that were set aside.
    pub(crate) fn parked(&self) -> Vec<PathBuf> {
        let all = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.to_string_lossy().contains("parked")).collect()
    }
}

pub(crate) fn fetched(world: &World) -> Found {
    Found::Fetched { root: world.root }
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}
