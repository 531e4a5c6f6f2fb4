//! Hosts with a directory each, one store, and the epochs of one home.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Digest, Epoch, MachineId};
use objstore::{MemoryStore, Metered, ObjectStore};
use tempfile::TempDir;
use testkit::{FaultRates, FaultyStore};
use tokio_util::sync::CancellationToken;
use upper::{Begin, Begun, Files, Found, Generation, LazyDisk, Progress, Saved, Upper};

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

    /// Another machine whose home was forked from this one's as it is.
    pub(crate) fn forked(&self) -> Self {
        Self {
            memory: self.memory.clone(),
            machine: MachineId::generate(),
            root: self.root,
            epoch: std::cell::Cell::new(self.epoch.get() + 1),
        }
    }

    /// Under which the home was claimed last.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.get())
    }

    pub(crate) fn store(&self) -> Arc<dyn ObjectStore> {
        self.memory.clone()
    }

    pub(crate) fn host(&self) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let files = Files {
            disk: at("upper.ext4"),
            state: at("upper.json"),
            lock: at("upper.lock"),
            manifest: at("upper.manifest"),
            missing: at("upper.missing"),
            fetched: at("upper.fetch"),
            memory_fetched: at("memory.fetch"),
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

    /// Under which epoch it was claimed last.
    pub(crate) fn claimed(&self) -> Epoch {
        Epoch(self.epoch.get())
    }

    /// It is claimed by a machine that is to wake.
    pub(crate) fn wake(&self, was_awake: bool) -> Begin {
        Begin { epoch: self.claim(), was_awake, disk_bytes_max: DISK }
    }

    /// Of all machines.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let found = self.memory.list("", None, 1_000).await.unwrap();
        found.into_iter().map(|object| object.key).collect()
    }

    /// Of this one.
    pub(crate) async fn own_keys(&self) -> Vec<String> {
        let mut keys = self.keys().await;
        keys.retain(|key| key.contains(self.machine.as_str()));
        keys
    }

    pub(crate) async fn generations(&self) -> Vec<String> {
        let keys = self.keys().await;
        let name = |key: String| key.split_once("/log/").map(|(_, name)| name.to_owned());
        keys.into_iter().filter_map(name).collect()
    }

    pub(crate) async fn chunks(&self) -> Vec<String> {
        let keys = self.keys().await.into_iter();
        keys.filter(|key| key.contains("/chunks/")).collect()
    }

    /// A host whose sleeping machine has this many chunks that nobody stored.
    pub(crate) async fn host_with_chunks(&self, count: u64) -> Host {
        let host = self.host();
        host.run_through(self, count).await;
        host
    }
}

impl Host {
    pub(crate) async fn begin(&self, epoch: Epoch) -> Result<Begun, upper::Error> {
        let begin = Begin { epoch, was_awake: false, disk_bytes_max: DISK };
        let begun = self.begin_with(begin, |_| Ok(()), |_| Ok(())).await?;
        self.bring_all().await;
        if begun.found == Found::Nowhere {
            File::create(&self.files.disk).unwrap().set_len(DISK).unwrap();
        }
        Ok(begun)
    }

    /// With somebody who is asked for roots, and writes them down.
    pub(crate) async fn begin_with(
        &self,
        begin: Begin,
        root_here: impl Fn(&Digest) -> Result<(), upper::Error>,
        pin: impl FnOnce(&Digest) -> Result<(), upper::Error>,
    ) -> Result<Begun, upper::Error> {
        self.upper.begin(begin, root_here, pin).await
    }

    /// The disk, where chunks are missing.
    pub(crate) async fn lazy(&self) -> Option<LazyDisk> {
        for _ in 0..500 {
            // One that was given up may be noting that all is here.
            match LazyDisk::open(&self.upper, &Progress::default()).await {
                Err(upper::Error::Disk { .. }) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                opened => return opened.unwrap(),
            }
        }
        panic!("it cannot be opened")
    }

    /// Waits until all of the disk is here.
    pub(crate) async fn bring_all(&self) {
        let Some(disk) = self.lazy().await else { return };
        disk.go_on();
        disk.fetch_rest();
        tokio::time::timeout(Duration::from_secs(30), async {
            while disk.missing() > 0 {
                assert_eq!(disk.trouble(), None);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        disk.end().await.unwrap();
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

    /// Stores what there is to store; how many chunks that took.
    pub(crate) async fn save_all(&self, world: &World) -> (Generation, u64) {
        match self.save(world).await.unwrap() {
            Saved::Stored { generation, chunks, .. } => (generation, chunks),
            other => panic!("{other:?}"),
        }
    }

    /// A whole run: wake, what the guest does, sleep.
    pub(crate) async fn run_with(&self, world: &World, guest: impl FnOnce(Epoch)) -> Begun {
        let epoch = world.claim();
        let begun = self.begin(epoch).await.unwrap();
        guest(epoch);
        self.upper.leave(epoch).await.unwrap();
        begun
    }

    /// The same with a guest that writes once.
    pub(crate) async fn run(&self, world: &World, at: u64, bytes: &[u8]) -> Begun {
        self.run_with(world, |_| self.write(at, bytes)).await
    }

    /// The same with one that writes something new in each of the first chunks.
    pub(crate) async fn run_through(&self, world: &World, chunks: u64) -> Begun {
        let write = |epoch: Epoch, chunk| {
            self.write(chunk * CHUNK, &noise(epoch.0 * 100 + chunk, 4096));
        };
        self.run_with(world, |epoch| (0..chunks).for_each(|chunk| write(epoch, chunk))).await
    }

    /// A run that writes once, stored.
    pub(crate) async fn run_and_save(&self, world: &World, at: u64, bytes: &[u8]) -> Begun {
        let begun = self.run(world, at, bytes).await;
        self.save_all(world).await;
        begun
    }

    /// Every call of the store takes up to so long from here on.
    pub(crate) fn slow_down(&self, delay_max: Duration) {
        self.store.set_rates(FaultRates { delay: 1.0, delay_max, ..FaultRates::default() });
    }

    /// Uppers that were set aside.
    pub(crate) fn parked(&self) -> Vec<PathBuf> {
        let all = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.to_string_lossy().contains("parked")).collect()
    }
}

pub(crate) fn fetched(world: &World) -> Found {
    Found::Stored { root: world.root }
}

/// Waits until something holds.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it did not come to hold");
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
