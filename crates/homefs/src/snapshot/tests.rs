//! What a reader with nothing at hand asks the store for.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use base::{Epoch, ServerId, SystemClock, SystemEntropy};
use objstore::{Counts, MemoryStore, Metered, ObjectStore as _};
use rusqlite::params;
use vfs::ROOT;

use super::*;
use crate::meta::arrange::arrange;
use crate::meta::schema;
use crate::meta::sql::int;
use crate::replica::append::Commit;
use crate::replica::base::base_pays;
use crate::replica::collect::Full;
use crate::wal::WalTail;

const FILES_PER_DIR: u32 = 50;
const PACK_FILE_BYTES: usize = 100_000;
/// The pack that all files of the pack tier lie in.
const PACK: u64 = 1;

/// A published home in a store that counts.
struct World {
    store: Arc<Metered<MemoryStore>>,
    home: HomeId,
    disk: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    files: u32,
}

/// Bytes that do not compress, others for every seed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 1_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        std::iter::repeat_with(next).take(2 << 20).collect()
    });
    let start = (seed as usize).wrapping_mul(7_919) % (1 << 20);
    NOISE[start..start + len].to_vec()
}

/// What file `n` is: every seventh is in a pack, every fiftieth as large as inline files get.
fn content(n: u32) -> Option<Vec<u8>> {
    match n {
        n if n % 7 == 3 => None,
        n if n % 50 == 0 => Some(noise(16 << 10, u64::from(n))),
        n => Some(noise(200 + (n as usize * 7_919) % 1_800, u64::from(n))),
    }
}

fn path_of(n: u32) -> [String; 4] {
    let dir = n / FILES_PER_DIR;
    [
        format!("project-{}", dir / 64),
        format!("module-{}", dir / 8),
        format!("package-{dir}"),
        format!("some-source-file-{n}.rs"),
    ]
}

/// Rows as a home has them, in the order in which an archive is unpacked.
struct Rows<'a> {
    conn: &'a Connection,
    next: u64,
    cookie: u64,
}

impl Rows<'_> {
    fn add(&mut self, parent: u64, name: &str, kind: u32, size: usize, tier: u32) -> u64 {
        let (ino, now) = (self.next, 1_790_000_000_000_000_000 + self.next as i64 * 1_000_003);
        (self.next, self.cookie) = (self.next + 1, self.cookie + 1);
        let parent_of_dir = if kind == 4 { parent } else { 0 };
        self.conn
            .prepare_cached(
                "INSERT INTO inode VALUES(?1,?2,420,1,0,0,0,?3,?3,?4,?4,?4,?4,?5,?6,?7)",
            )
            .and_then(|mut s| {
                s.execute(params![
                    int(ino),
                    kind,
                    size as i64,
                    now,
                    int(ino),
                    tier,
                    int(parent_of_dir)
                ])
            })
            .unwrap();
        self.conn
            .prepare_cached("INSERT INTO dentry VALUES(?1,?2,?3,?4)")
            .and_then(|mut s| {
                s.execute(params![int(parent), name.as_bytes(), int(ino), int(self.cookie)])
            })
            .unwrap();
        ino
    }

    fn add_file(&mut self, n: u32, dirs: &mut [(String, u64); 3]) {
        let path = path_of(n);
        let mut parent = ROOT;
        for (name, dir) in path.iter().zip(dirs) {
            if dir.0 != *name {
                *dir = (name.clone(), self.add(parent, name, 4, 0, 0));
            }
            parent = dir.1;
        }
        match content(n) {
            Some(content) => {
                let ino = self.add(parent, &path[3], 8, content.len(), 0);
                self.conn
                    .prepare_cached("INSERT INTO blob VALUES(?1,?2)")
                    .and_then(|mut s| s.execute(params![int(ino), content]))
                    .unwrap();
            }
            None => {
                let ino = self.add(parent, &path[3], 8, PACK_FILE_BYTES, 1);
                self.conn
                    .prepare_cached("INSERT INTO extent VALUES(?1,0,?2,?3,NULL,?4)")
                    .and_then(|mut s| {
                        s.execute(params![int(ino), PACK_FILE_BYTES as i64, int(PACK), n % 7 * 10])
                    })
                    .unwrap();
            }
        }
    }
}

impl World {
    /// A home of `files` files that was written in `rounds` commits, then changed here and there
    /// in `sleeps` wakes, and put to sleep.
    fn new(files: u32, rounds: u32, sleeps: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (store, disk) =
            (Arc::new(Metered::new(MemoryStore::new())), tempfile::tempdir().unwrap());
        let world = Self { store, home: HomeId::generate(), disk, runtime, files };
        world.write(rounds, sleeps);
        world
    }

    fn parts(&self) -> Parts {
        Parts {
            store: self.store.clone(),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            runtime: self.runtime.handle().clone(),
        }
    }

    fn write(&self, rounds: u32, sleeps: u32) {
        let mut log = self.parts().log(&self.home);
        self.runtime.block_on(log.claim(ServerId::generate(), false, [1; 16])).unwrap();
        let path = self.disk.path().join("live.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0;").unwrap();
        schema::create(&conn, 7).unwrap();
        let mut tail = WalTail::open(&path).unwrap();
        let mut changed: BTreeSet<u32> = (1..=tail.page_count()).collect();
        let pack = self.parts().log(&self.home).keys().pack(Epoch(1), PACK);
        self.runtime.block_on(self.store.put(&pack, noise(1 << 20, 5).into())).unwrap();
        conn.execute(
            "INSERT INTO pack(id,epoch,len,place,seq,born) VALUES(?1,1,1048576,1,0,1)",
            [int(PACK)],
        )
        .unwrap();
        let mut rows = Rows { conn: &conn, next: 2, cookie: 1 };
        let mut dirs = Default::default();
        let mut random = 1_u64;
        for round in 0..rounds + sleeps {
            conn.execute_batch("BEGIN").unwrap();
            if round < rounds {
                for n in self.files / rounds * round..self.files / rounds * (round + 1) {
                    rows.add_file(n, &mut dirs);
                }
            }
            for _ in 0..if round < rounds { 0 } else { 200 } {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let ino = 2 + (random >> 33) % u64::from(self.files);
                for sql in [
                    "UPDATE inode SET atime=atime+1 WHERE ino=?1",
                    "INSERT OR REPLACE INTO blob SELECT ino,data FROM blob WHERE ino=?1+70",
                    "INSERT OR REPLACE INTO extent SELECT * FROM extent WHERE ino=?1+900",
                ] {
                    conn.prepare_cached(sql).and_then(|mut s| s.execute([int(ino)])).unwrap();
                }
            }
            conn.execute("UPDATE kv SET value=?1 WHERE name='inodes_used'", [self.files]).unwrap();
            conn.execute_batch("COMMIT").unwrap();
            changed.append(&mut tail.poll().unwrap().pages);
            let (view, seq) = (Arc::new(tail.view()), log.next_seq().unwrap());
            let release = round + 1 == rounds + sleeps;
            let pages = if release || round >= rounds {
                let changed = Some(changed.clone());
                let full = Full { source: view, above: seq - 1, changed, born: seq };
                self.runtime.block_on(log.collect_full(full, arrange)).unwrap()
            } else {
                self.runtime.block_on(log.collect(view, &changed, seq, arrange)).unwrap()
            };
            changed.clear();
            let commit = Commit { pages, data: Bytes::new(), release };
            self.runtime.block_on(log.append(commit)).unwrap();
            let Some(head) = log.writer_head().cloned().filter(base_pays) else { continue };
            let view = Arc::new(tail.view());
            self.runtime.block_on(log.write_base(&head, view, arrange)).unwrap();
            log.note_base(head.seq);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let dir = tempfile::tempdir_in(self.disk.path()).unwrap().keep();
        Snapshot::open_published(self.home.clone(), dir, self.parts()).unwrap()
    }

    /// What a reader with nothing at hand asks for to get the first bytes of file `n`.
    fn first_bytes(&self, n: u32) -> Counts {
        let before = self.store.counts();
        let snapshot = self.snapshot();
        check_file(&snapshot, n);
        self.store.counts().since(&before)
    }
}

fn find(snapshot: &Snapshot, n: u32) -> Attr {
    let mut parent = ROOT;
    let mut attr = None;
    for name in path_of(n) {
        let found = snapshot.lookup(parent, name.as_bytes()).unwrap();
        parent = found.ino;
        attr = Some(found);
    }
    attr.unwrap()
}

fn check_file(snapshot: &Snapshot, n: u32) {
    let attr = find(snapshot, n);
    let bytes = snapshot.read(attr.ino, 0, 4_096).unwrap();
    match content(n) {
        Some(content) => assert_eq!(bytes, content[..content.len().min(4_096)]),
        None => {
            let start = (n % 7 * 10) as usize;
            assert_eq!(bytes, noise(1 << 20, 5)[start..start + 4_096]);
        }
    }
}

/// The most requests and bytes for one file.
fn check_bounds(world: &World) -> (u64, u64) {
    let last = world.files - 1;
    let mut most = (0, 0);
    for n in [0, 1, 3, 50, 255, last / 2, last / 2 + 1, last / 3, last - 8, last]
        .into_iter()
        .chain((0..8).map(|n| last / 3 * 2 + n))
    {
        let asked = world.first_bytes(n);
        let (gets, bytes) = (asked.get.requests, asked.get.bytes);
        assert!(gets <= 4 && bytes <= 2 << 20, "file {n}: {gets} requests, {bytes} bytes");
        let others = asked.list.requests + asked.head.requests;
        assert!(others <= 1, "file {n}: {others} listings");
        most = (most.0.max(gets), most.1.max(bytes));
    }
    eprintln!("{} files: at most {} GETs, {} bytes", world.files, most.0, most.1);
    most
}

#[test]
fn the_first_byte_of_a_file_takes_a_few_requests() {
    check_bounds(&World::new(1_000, 1, 0));
    check_bounds(&World::new(1_000, 10, 0));
}

#[test]
fn a_home_that_was_changed_here_and_there_stays_cheap_to_read() {
    let world = World::new(10_000, 4, 30);
    check_bounds(&world);
    let stored: u64 = world.runtime.block_on(async {
        let pages = world.parts().log(&world.home).keys().page_objects();
        world.store.list(&pages, None, 1_000).await.unwrap().iter().map(|page| page.size).sum()
    });
    eprintln!("{stored} bytes of page objects, none collected");
}

#[test]
fn the_first_byte_of_a_file_takes_as_few_requests_of_a_large_home() {
    let world = World::new(100_000, 10, 0);
    check_bounds(&world);
    let snapshot = world.snapshot();
    let before = world.store.counts();
    assert!(!snapshot.refresh().unwrap());
    let asked = world.store.counts().since(&before);
    assert_eq!((asked.requests(), asked.head.requests), (1, 1), "nothing new is one small request");
    for n in (0..world.files).step_by(997) {
        check_file(&snapshot, n);
    }
}
