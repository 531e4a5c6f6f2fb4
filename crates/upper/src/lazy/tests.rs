//! Disks that fail, and processes that are killed, at places which nothing outside can reach.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::{Digest, Epoch, MachineId};
use objstore::{MemoryStore, Metered};

use super::*;
use crate::keys::{Generation, Kind};
use crate::manifest::Manifest;
use crate::place::Files;

const CHUNK: u64 = CHUNK_BYTES as u64;

/// A machine's upper of which all chunks are missing.
struct World {
    _dir: tempfile::TempDir,
    upper: Upper,
    meter: Arc<Metered<MemoryStore>>,
}

fn content(index: u8) -> Vec<u8> {
    vec![index + 1; CHUNK_BYTES]
}

impl World {
    async fn with_chunks(chunks: u8) -> Self {
        Self::on(tempfile::tempdir().unwrap(), chunks).await
    }

    async fn on(dir: tempfile::TempDir, chunks: u8) -> Self {
        let at = |name: &str| dir.path().join(name);
        let files = Files {
            disk: at("disk"),
            state: at("state"),
            lock: at("lock"),
            manifest: at("manifest"),
            missing: at("missing"),
            fetched: at("fetched"),
            memory_fetched: at("memory"),
        };
        let meter = Arc::new(Metered::new(MemoryStore::new()));
        let upper = Upper::new(meter.clone(), &MachineId::generate(), files.clone());
        let generation = Generation { epoch: Epoch(3), kind: Kind::Stored };
        let mut manifest = Manifest { disk_bytes: 24 * CHUNK, ..Manifest::blank(generation) };
        for index in 0..chunks {
            let body = zstd::bulk::compress(&content(index), 1).unwrap();
            let stored = u32::try_from(body.len()).unwrap();
            let chunk = Chunk { digest: Digest::of(&content(index)), born: Epoch(3), stored };
            upper.store.put(&upper.chunk_key(&manifest, &chunk), body.into()).await.unwrap();
            manifest.chunks.insert(u32::from(index), chunk);
        }
        File::create(&files.disk).unwrap().set_len(manifest.disk_bytes).unwrap();
        Note::write(&files.missing, &manifest, &Boot::this().unwrap()).unwrap();
        State::change(&files, |state| (state.content, state.lazy) = (Epoch(3), true)).unwrap();
        Self { _dir: dir, upper, meter }
    }

    async fn open(&self) -> Option<LazyDisk> {
        let disk = LazyDisk::open(&self.upper, &Progress::default()).await.unwrap()?;
        disk.go_on();
        Some(disk)
    }

    /// The kernel has dropped what it could not write.
    fn drop_pages(&self, indexes: &[u64]) {
        let file = OpenOptions::new().write(true).open(&self.upper.files.disk).unwrap();
        for index in indexes {
            file.write_all_at(&vec![0; CHUNK_BYTES], index * CHUNK).unwrap();
        }
    }
}

/// What a guest does.
async fn guest<T: Send + 'static>(
    disk: &LazyDisk,
    work: impl FnOnce(&LazyDisk) -> T + Send + 'static,
) -> T {
    let disk = disk.clone();
    tokio::task::spawn_blocking(move || work(&disk)).await.unwrap()
}

/// Waits until the background says that it does not get on.
async fn in_trouble(disk: &LazyDisk) {
    for _ in 0..2_000 {
        if disk.trouble().is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it is in no trouble");
}

async fn read(disk: &LazyDisk, at: u64) -> Vec<u8> {
    guest(disk, move |disk| {
        let mut found = vec![0; 8];
        disk.read(at, &mut found).map(|()| found)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_failed_is_never_taken_back_and_what_was_flushed_before_is_there() {
    let world = World::with_chunks(4).await;
    let disk = world.open().await.unwrap();
    guest(&disk, |disk| disk.write(10, b"flushed").and_then(|()| disk.flush())).await.unwrap();
    guest(&disk, |disk| disk.write(CHUNK + 10, b"not so!")).await.unwrap();
    assert_eq!(read(&disk, 2 * CHUNK).await, [3; 8]);
    disk.0.latch.breaks.store(true, Ordering::SeqCst);
    guest(&disk, LazyDisk::flush).await.unwrap_err();
    let later = guest(&disk, LazyDisk::flush).await.unwrap_err();
    assert!(later.to_string().contains("failed before"), "{later}");
    assert!(disk.trouble().unwrap().contains("not stored"), "{:?}", disk.trouble());
    // What comes now is kept neither.
    assert_eq!(read(&disk, 3 * CHUNK).await, [4; 8]);
    disk.end().await.unwrap_err();
    disk.end().await.unwrap_err();
    drop(disk);
    world.drop_pages(&[1, 2, 3]);
    let disk = world.open().await.unwrap();
    assert_eq!((disk.missing(), disk.trouble()), (3, None));
    assert_eq!(&read(&disk, 10).await[..7], b"flushed");
    assert_eq!(read(&disk, CHUNK + 10).await, [2; 8]);
    assert_eq!(read(&disk, 2 * CHUNK).await, [3; 8]);
    assert_eq!(read(&disk, 3 * CHUNK).await, [4; 8]);
    disk.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_chunks_are_in_memory_than_have_a_turn_until_they_are_written() {
    let world = World::with_chunks(20).await;
    let disk = world.open().await.unwrap();
    // The host's disk takes nothing.
    let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
    let (full, is_full) = std::sync::mpsc::channel();
    let inner = disk.0.clone();
    let slow = std::thread::spawn(move || {
        let _ended = inner.ended.write();
        full.send(()).unwrap();
        goes_on.recv().unwrap();
    });
    is_full.recv().unwrap();
    let all: Vec<_> = (0..20)
        .map(|index| {
            let disk = disk.clone();
            tokio::spawn(async move { read(&disk, index * CHUNK).await })
        })
        .collect();
    let gets = || usize::try_from(world.meter.counts().get.requests).unwrap();
    for _ in 0..1_000 {
        if gets() >= FETCHES {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(gets(), FETCHES);
    go_on.send(()).unwrap();
    slow.join().unwrap();
    for (index, one) in all.into_iter().enumerate() {
        assert_eq!(one.await.unwrap(), content(u8::try_from(index).unwrap())[..8]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_hosts_disk_has_little_room_only_what_somebody_wants_comes() {
    let world = World::with_chunks(6).await;
    let disk = world.open().await.unwrap();
    let room = &disk.0.room.none;
    room.store(true, Ordering::SeqCst);
    disk.fetch_rest();
    in_trouble(&disk).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(disk.missing(), 6);
    assert!(disk.trouble().unwrap().contains("less than 4 GiB free"), "{:?}", disk.trouble());
    assert_eq!(read(&disk, 2 * CHUNK).await, [3; 8]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    in_trouble(&disk).await;
    assert_eq!((disk.missing(), disk.fetched_bytes()), (5, CHUNK));
    room.store(false, Ordering::SeqCst);
    for _ in 0..2_000 {
        if disk.missing() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((disk.missing(), disk.trouble()), (0, None));
    // And a guest that stops does not wait for it.
    let world = World::with_chunks(2).await;
    let disk = world.open().await.unwrap();
    disk.0.room.none.store(true, Ordering::SeqCst);
    disk.fetch_rest();
    tokio::time::sleep(Duration::from_millis(100)).await;
    disk.end().await.unwrap();
    assert_eq!(disk.missing(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_a_chunk_for_which_the_host_has_no_room_is_told_so_and_has_it_once_there_is_some()
{
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "needs root");
        eprintln!("skipped: needs root");
        return;
    }
    let small = testkit::SmallDisk::new(64 << 20).unwrap();
    let world = World::on(tempfile::tempdir_in(small.path()).unwrap(), 3).await;
    let disk = world.open().await.unwrap();
    assert_eq!(read(&disk, 0).await, [1; 8]);
    small.fill(1 << 20).unwrap();
    for _ in 0..2 {
        let refused = guest(&disk, |disk| disk.read(CHUNK, &mut [0; 8])).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
    }
    let refused = guest(&disk, |disk| disk.write(2 * CHUNK + 1, b"part of one")).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!((disk.missing(), read(&disk, 0).await), (2, vec![1; 8]));
    small.make_room().unwrap();
    assert_eq!(read(&disk, CHUNK).await, [2; 8]);
    guest(&disk, |disk| disk.write(2 * CHUNK + 1, b"part of one")).await.unwrap();
    assert_eq!(&read(&disk, 2 * CHUNK).await[..4], b"\x03par");
    disk.end().await.unwrap();
}
