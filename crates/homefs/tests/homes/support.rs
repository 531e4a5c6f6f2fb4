//! A store that counts and fails when told to, and a world with homes in it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::{Clock, HomeId, ServerId, SystemClock, SystemEntropy, Timestamp};
use bytes::Bytes;
use homefs::{Draft, HomeFs, HomeSettings, Opened, Parts, Snapshot};
use objstore::{Error, MemoryStore, ObjectMeta, ObjectStore, Result};
use vfs::{Errno, Expect, FileSystem, Ino, Kind, Owner, ROOT};

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

/// Counts what passes, and is away when told so.
#[derive(Debug, Default)]
pub(crate) struct Store {
    inner: MemoryStore,
    pub(crate) down: AtomicBool,
    /// Nothing is added to any log.
    pub(crate) refuse_logs: AtomicBool,
    /// So many chunks less one get through, and then no more; 0: all do.
    pub(crate) chunks_let_in: AtomicU64,
    /// How long a chunk takes, in milliseconds.
    pub(crate) chunk_millis: AtomicU64,
    /// Calls never return.
    pub(crate) hangs: AtomicBool,
    /// The next this many creates are stored, and their replies lost.
    pub(crate) lose_replies: AtomicU64,
    pub(crate) got_bytes: AtomicU64,
    pub(crate) gets: AtomicU64,
    pub(crate) stored: AtomicU64,
    pub(crate) stored_bytes: AtomicU64,
    /// Calls of all kinds.
    calls: AtomicU64,
}

impl Store {
    async fn check(&self) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.down.load(Ordering::SeqCst) { Err(away()) } else { Ok(()) }
    }

    pub(crate) fn take_got(&self) -> (u64, u64) {
        (self.gets.swap(0, Ordering::SeqCst), self.got_bytes.swap(0, Ordering::SeqCst))
    }

    /// Calls of any kind.
    pub(crate) fn take_calls(&self) -> u64 {
        self.calls.swap(0, Ordering::SeqCst)
    }

    pub(crate) fn take_stored(&self) -> u64 {
        self.stored_bytes.store(0, Ordering::SeqCst);
        self.stored.swap(0, Ordering::SeqCst)
    }

    fn note_stored(&self, body: &Bytes) {
        self.stored.fetch_add(1, Ordering::SeqCst);
        self.stored_bytes.fetch_add(body.len() as u64, Ordering::SeqCst);
    }
}

fn away() -> Error {
    Error::Unavailable { message: "told to be away".into() }
}

#[async_trait]
impl ObjectStore for Store {
    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.check().await?;
        self.note_stored(&body);
        self.inner.put(key, body).await
    }
    async fn create(&self, key: &str, body: Bytes) -> Result<()> {
        self.check().await?;
        if key.contains("/log/") && self.refuse_logs.load(Ordering::SeqCst) {
            return Err(away());
        }
        if key.contains("/chunks/") {
            let pause = self.chunk_millis.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.chunks_let_in.load(Ordering::SeqCst) {
                0 => {}
                1 => return Err(away()),
                more => self.chunks_let_in.store(more - 1, Ordering::SeqCst),
            }
        }
        self.note_stored(&body);
        self.inner.create(key, body).await?;
        let left = self.lose_replies.load(Ordering::SeqCst);
        if left > 0 {
            self.lose_replies.store(left - 1, Ordering::SeqCst);
            return Err(away());
        }
        Ok(())
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.check().await?;
        let body = self.inner.get(key, range).await?;
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.got_bytes.fetch_add(body.len() as u64, Ordering::SeqCst);
        Ok(body)
    }
    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.check().await?;
        self.inner.head(key).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.check().await?;
        self.inner.delete(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<ObjectMeta>> {
        self.check().await?;
        self.inner.list(prefix, after, max).await
    }
}

/// The real clock, and what a test added to it.
#[derive(Debug, Default)]
pub(crate) struct AheadClock {
    system: SystemClock,
    ahead: AtomicU64,
}

impl AheadClock {
    /// Lets so many minutes pass at once.
    pub(crate) fn pass_minutes(&self, minutes: u64) {
        self.ahead.fetch_add(minutes * 60, Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_secs(self.ahead.load(Ordering::SeqCst))
    }
}

impl Clock for AheadClock {
    fn now(&self) -> Timestamp {
        self.system.now().checked_add(self.ahead()).unwrap()
    }
    fn monotonic(&self) -> Duration {
        self.system.monotonic() + self.ahead()
    }
}

/// A store with one home, and a disk.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<AheadClock>,
    pub(crate) home: HomeId,
    pub(crate) server: ServerId,
    disk: Arc<tempfile::TempDir>,
    pub(crate) replicate_after: Duration,
    pub(crate) bytes_max: u64,
    pub(crate) inodes_cached: usize,
    pub(crate) unreplicated_bytes_max: u64,
    pub(crate) sync_patience: Duration,
    pub(crate) release_patience: Duration,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            store: Arc::default(),
            clock: Arc::default(),
            home: HomeId::generate(),
            server: ServerId::generate(),
            disk: Arc::new(tempfile::tempdir().unwrap()),
            // Tests say themselves when.
            replicate_after: Duration::from_secs(3_600),
            bytes_max: 1 << 40,
            inodes_cached: homefs::INODES_CACHED,
            unreplicated_bytes_max: homefs::UNREPLICATED_BYTES_MAX,
            sync_patience: Duration::from_secs(20),
            release_patience: Duration::from_secs(20),
        };
        RUNTIME.block_on(homefs::create_home(&world.parts(), &world.home, &world.server)).unwrap();
        world
    }

    /// Another home in the same store, with directories of its own.
    pub(crate) fn other(&self, home: HomeId) -> Self {
        let (store, server) = (self.store.clone(), self.server.clone());
        let clock = self.clock.clone();
        let disk = self.disk.clone();
        Self { store, clock, home, server, disk, ..*self }
    }

    pub(crate) fn parts(&self) -> Parts {
        Parts {
            store: self.store.clone(),
            clock: self.clock.clone(),
            entropy: Arc::new(SystemEntropy),
            runtime: RUNTIME.handle().clone(),
        }
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        RUNTIME.block_on(work)
    }

    /// A directory of this host or, by another name, of another one.
    pub(crate) fn dir(&self, host: &str, what: &str) -> PathBuf {
        self.disk.path().join(self.home.as_str()).join(host).join(what)
    }

    pub(crate) fn settings(&self, dir: &Path) -> HomeSettings {
        HomeSettings {
            bytes_max: self.bytes_max,
            inodes_cached: self.inodes_cached,
            unreplicated_bytes_max: self.unreplicated_bytes_max,
            sync_patience: self.sync_patience,
            release_patience: self.release_patience,
            replicate_after: self.replicate_after,
            ..HomeSettings::new(self.home.clone(), dir, self.server.clone())
        }
    }

    pub(crate) fn open(&self, host: &str) -> (HomeFs, Opened) {
        self.try_open(host).unwrap()
    }

    pub(crate) fn try_open(&self, host: &str) -> homefs::Result<(HomeFs, Opened)> {
        HomeFs::open_writer(self.settings(&self.dir(host, "home")), self.parts())
    }

    pub(crate) fn snapshot(&self, host: &str) -> Snapshot {
        Snapshot::open_published(self.home.clone(), self.dir(host, "snapshot"), self.parts())
            .unwrap()
    }

    pub(crate) fn draft(&self, host: &str) -> Draft {
        Draft::open(self.settings(&self.dir(host, "draft")), self.parts()).unwrap()
    }

    /// Takes objects out of the store behind everyone's back.
    pub(crate) fn remove(&self, prefix: &str) {
        for object in self.keys(prefix) {
            RUNTIME.block_on(self.store.delete(&object.key)).unwrap();
        }
    }

    /// A draft on a host that has the home, with one more file in it.
    pub(crate) fn draft_of_new_state(&self, host: &str) -> Draft {
        let draft = self.draft(host);
        upload(&draft, "new", b"content");
        draft
    }

    /// Bytes of all objects of the home.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let (prefix, mut after, mut bytes) = (format!("homes/{}/", self.home), None, 0);
        loop {
            let page = self.block_on(self.store.list(&prefix, after.as_deref(), 1_000)).unwrap();
            bytes += page.iter().map(|object| object.size).sum::<u64>();
            match page.last() {
                Some(last) if page.len() == 1_000 => after = Some(last.key.clone()),
                _ => return bytes,
            }
        }
    }

    pub(crate) fn keys(&self, prefix: &str) -> Vec<ObjectMeta> {
        let prefix = format!("homes/{}/{prefix}", self.home);
        RUNTIME.block_on(self.store.list(&prefix, None, 1_000)).unwrap()
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// Bytes that do not compress and differ by `seed`.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

pub(crate) const ROOT_USER: Owner = Owner { uid: 0, gid: 0 };

pub(crate) fn make(fs: &dyn FileSystem, name: &str) -> Ino {
    fs.mknod(ROOT, name.as_bytes(), Kind::File, 0o644, ROOT_USER, 0).unwrap().ino
}

pub(crate) fn mkdir(fs: &dyn FileSystem, parent: Ino, name: &str) -> Ino {
    fs.mknod(parent, name.as_bytes(), Kind::Directory, 0o755, ROOT_USER, 0).unwrap().ino
}

pub(crate) fn put(fs: &dyn FileSystem, name: &str, data: &[u8]) -> Ino {
    let ino = match fs.lookup(ROOT, name.as_bytes()) {
        Ok(attr) => attr.ino,
        Err(_) => make(fs, name),
    };
    for (n, part) in data.chunks(1 << 20).enumerate() {
        fs.write(ino, (n << 20) as u64, part).unwrap();
    }
    ino
}

/// As an upload does it: written detached, then placed.
pub(crate) fn upload(fs: &dyn FileSystem, path: &str, data: &[u8]) -> Ino {
    let ino = fs.create_detached(Kind::File, 0o644, ROOT_USER).unwrap().ino;
    for (n, part) in data.chunks(1 << 20).enumerate() {
        fs.write(ino, (n << 20) as u64, part).unwrap();
    }
    let names: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
    fs.place(ino, ROOT, &names, Expect::Any).unwrap();
    fs.sync_local().unwrap();
    fs.unpin(ino);
    ino
}

pub(crate) fn content(fs: &dyn FileSystem, ino: Ino) -> Vec<u8> {
    let size = fs.getattr(ino).unwrap().size;
    let mut data = Vec::new();
    while (data.len() as u64) < size {
        let part = fs.read(ino, data.len() as u64, 1 << 20).unwrap();
        assert!(!part.is_empty(), "a read before the end gives something");
        data.extend_from_slice(&part);
    }
    data
}

pub(crate) fn try_read(fs: &dyn FileSystem, ino: Ino, offset: u64, len: u32) -> vfs::Result<Bytes> {
    fs.read(ino, offset, len)
}

pub(crate) fn get(fs: &dyn FileSystem, path: &str) -> Vec<u8> {
    try_get(fs, path).unwrap_or_else(|| panic!("{path} is missing"))
}

pub(crate) fn try_get(fs: &dyn FileSystem, path: &str) -> Option<Vec<u8>> {
    let mut at = ROOT;
    for name in path.split('/') {
        match fs.lookup(at, name.as_bytes()) {
            Ok(attr) => at = attr.ino,
            Err(error) if error.errno() == Errno::ENOENT => return None,
            Err(error) => panic!("{path}: {error}"),
        }
    }
    Some(content(fs, at))
}

/// Waits for something that happens in the background.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "it never came to pass that {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
