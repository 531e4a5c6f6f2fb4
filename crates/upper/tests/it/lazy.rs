//! Disks of which chunks are still in the store.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use base::{Digest, ErrorKind};
use objstore::ObjectStore as _;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest as _, Sha256};
use testkit::FaultRates;
use upper::{Found, LazyDisk};

use crate::support::{CHUNK, DISK, Host, World, fetched, noise, until};

const BLOCK: u64 = 4096;

/// What a guest does, where it may block.
pub(crate) async fn guest<T: Send + 'static>(
    disk: &LazyDisk,
    work: impl FnOnce(&LazyDisk) -> T + Send + 'static,
) -> T {
    let disk = disk.clone();
    tokio::task::spawn_blocking(move || work(&disk)).await.unwrap()
}

/// A guest runs, and all is to come.
pub(crate) fn run(disk: &LazyDisk) {
    disk.go_on();
    disk.fetch_rest();
}

async fn read(disk: &LazyDisk, at: u64, len: usize) -> io::Result<Vec<u8>> {
    guest(disk, move |disk| {
        let mut found = vec![0; len];
        disk.read(at, &mut found).map(|()| found)
    })
    .await
}

pub(crate) async fn write(disk: &LazyDisk, at: u64, bytes: Vec<u8>) -> io::Result<()> {
    guest(disk, move |disk| disk.write(at, &bytes)).await
}

impl World {
    /// A host whose machine has so many chunks that are stored, and one that begins with them.
    pub(crate) async fn two(&self, chunks: u64) -> (Host, Host) {
        let one = self.host_with_chunks(chunks).await;
        one.save_all(self).await;
        let two = self.host();
        let begun = two.begin_with(self.wake(false), |_| Ok(()), |_| Ok(())).await.unwrap();
        assert_eq!(begun.found, fetched(self));
        (one, two)
    }
}

impl Host {
    pub(crate) async fn wake_lazily(&self, world: &World) -> Found {
        self.begin_with(world.wake(false), |_| Ok(()), |_| Ok(())).await.unwrap().found
    }

    fn as_fast_as_ever(&self) {
        self.store.set_rates(FaultRates::default());
    }

    /// The host has started anew since the note was written.
    fn start_anew(&self) {
        let mut note = std::fs::read(&self.files.missing).unwrap();
        let end = 48 + u32::from_le_bytes(*note[44..].first_chunk::<4>().unwrap()) as usize;
        note[12..44].fill(9);
        let sum = Sha256::digest(&note[..end]);
        note[end..end + 32].copy_from_slice(&sum);
        std::fs::write(&self.files.missing, note).unwrap();
    }

    /// Marks of the chunks that were stored.
    fn marks(&self) -> Vec<u8> {
        let note = std::fs::read(&self.files.missing).unwrap();
        let end = 48 + u32::from_le_bytes(*note[44..].first_chunk::<4>().unwrap()) as usize;
        note[end + 32..].to_vec()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_runs_before_all_is_here_and_the_rest_comes_by_itself() {
    let world = World::new();
    let (one, two) = world.two(12).await;
    let gets = || two.meter.counts().get.requests;
    let before = gets();
    let disk = two.lazy().await.unwrap();
    assert_eq!((disk.missing(), disk.bytes()), (12, DISK));
    // Nobody runs yet: nothing comes, whoever asks.
    let asked = tokio::spawn({
        let disk = disk.clone();
        async move { read(&disk, 7 * CHUNK + 10, 100).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((disk.missing(), gets()), (12, before));
    run(&disk);
    assert_eq!(asked.await.unwrap(), one.read(7 * CHUNK + 10, 100));
    until(|| disk.missing() == 0).await;
    assert_eq!(gets(), before + 12, "each came once");
    // A hole, and a part of two chunks.
    assert_eq!(read(&disk, 30 * CHUNK, 10).await.unwrap(), [0; 10]);
    assert_eq!(read(&disk, 2 * CHUNK - 5, 10).await.unwrap(), one.read(2 * CHUNK - 5, 10));
    until(|| !two.files.missing.exists()).await;
    disk.end().await.unwrap();
    assert!(two.lazy().await.is_none(), "it is a plain file");
    assert_eq!(two.digest(), one.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_comes_first_and_once_for_all_who_want_it() {
    let world = World::new();
    let (one, two) = world.two(32).await;
    two.slow_down(Duration::from_millis(200));
    let gets = || two.meter.counts().get.requests;
    let before = gets();
    let disk = two.lazy().await.unwrap();
    run(&disk);
    let each = (0..16).map(|at| read(&disk, 30 * CHUNK + at * 100, 100));
    let all = futures::future::try_join_all(each).await.unwrap().concat();
    assert_eq!(all, one.read(30 * CHUNK, 1600));
    assert!(disk.missing() > 16, "{} are missing", disk.missing());
    two.as_fast_as_ever();
    until(|| disk.missing() == 0).await;
    assert_eq!(gets(), before + 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_overwritten_as_a_whole_does_not_have_to_come() {
    let world = World::new();
    let (_, two) = world.two(6).await;
    two.store.kill();
    let disk = two.lazy().await.unwrap();
    run(&disk);
    let all = noise(77, CHUNK as usize);
    write(&disk, CHUNK, all.clone()).await.unwrap();
    guest(&disk, |disk| disk.zero(2 * CHUNK, CHUNK, false)).await.unwrap();
    guest(&disk, |disk| disk.zero(3 * CHUNK, CHUNK, true)).await.unwrap();
    // Of the last one a part is left alone.
    guest(&disk, |disk| disk.trim(4 * CHUNK, CHUNK + 8192)).await.unwrap();
    assert_eq!(disk.missing(), 2);
    assert_eq!(read(&disk, CHUNK, CHUNK as usize).await.unwrap(), all);
    assert_eq!(
        read(&disk, 2 * CHUNK, 3 * CHUNK as usize).await.unwrap(),
        vec![0; 3 * CHUNK as usize]
    );
    assert!(disk.trouble().is_some(), "the others do not come");
    disk.end().await.unwrap();
    let end = read(&disk, DISK, 1).await.unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_waited_for_until_the_guest_stops() {
    let world = World::new();
    let (one, two) = world.two(3).await;
    two.store.kill();
    let disk = two.lazy().await.unwrap();
    run(&disk);
    let asked = tokio::spawn({
        let disk = disk.clone();
        async move { read(&disk, CHUNK, 10).await }
    });
    until(|| disk.trouble().is_some()).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!asked.is_finished());
    two.store.revive();
    assert_eq!(asked.await.unwrap().unwrap(), one.read(CHUNK, 10));
    until(|| disk.missing() == 0 && disk.trouble().is_none()).await;
    // One that does not come back.
    let three = world.host();
    three.wake_lazily(&world).await;
    three.store.kill();
    let disk = three.lazy().await.unwrap();
    run(&disk);
    let asked = tokio::spawn({
        let disk = disk.clone();
        async move { write(&disk, 2 * CHUNK + 8, vec![1; 10]).await }
    });
    until(|| disk.trouble().is_some()).await;
    let begun = std::time::Instant::now();
    disk.hold();
    // A hypervisor can keep the request until the next run.
    assert_eq!(asked.await.unwrap().unwrap_err().kind(), io::ErrorKind::StorageFull);
    let later = read(&disk, 0, 1).await.unwrap_err();
    assert_eq!(later.kind(), io::ErrorKind::StorageFull);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(disk.missing(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hypervisor_that_leaves_waits_for_no_store_and_the_next_one_is_served() {
    let world = World::new();
    let (one, two) = world.two(3).await;
    two.store.kill();
    let disk = two.lazy().await.unwrap();
    // Without the background, which ends once it is held.
    disk.go_on();
    let asked = tokio::spawn({
        let disk = disk.clone();
        async move { read(&disk, CHUNK, 10).await }
    });
    until(|| disk.trouble().is_some()).await;
    let leaving = {
        let disk = disk.clone();
        tokio::task::spawn_blocking(move || {
            let mut left = None;
            disk.while_nobody_waits(|| {
                left = Some(tokio::runtime::Handle::current().block_on(asked).unwrap());
            });
            left.unwrap()
        })
    };
    let left = tokio::time::timeout(Duration::from_secs(20), leaving).await.unwrap().unwrap();
    assert_eq!(left.unwrap_err().kind(), io::ErrorKind::StorageFull);
    two.store.revive();
    assert_eq!(read(&disk, CHUNK, 10).await.unwrap(), one.read(CHUNK, 10));
    // One that is to sleep meanwhile stays held.
    disk.while_nobody_waits(|| disk.hold());
    let held = read(&disk, 2 * CHUNK, 10).await.unwrap_err();
    assert_eq!(held.kind(), io::ErrorKind::StorageFull);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_is_an_error_for_who_wants_it_and_for_nothing_else() {
    let world = World::new();
    let (one, two) = world.two(4).await;
    let content = one.read(CHUNK, CHUNK as usize);
    let key = world
        .chunks()
        .await
        .into_iter()
        .find(|key| key.contains(&Digest::of(&content).to_string()));
    let key = key.unwrap();
    let good = world.memory.get(&key, None).await.unwrap();
    let mut flipped = good.to_vec();
    flipped[good.len() / 2] ^= 1;
    for bad in [Some(flipped), Some(good[1..].to_vec()), None] {
        match bad {
            Some(bad) => world.memory.put(&key, bad.into()).await.unwrap(),
            None => world.memory.delete(&key).await.unwrap(),
        }
        let disk = two.lazy().await.unwrap();
        run(&disk);
        let error = read(&disk, CHUNK, 10).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Other, "{error}");
        assert!(disk.trouble().unwrap().contains("chunks/"), "{:?}", disk.trouble());
        for chunk in [0, 2, 3] {
            assert_eq!(read(&disk, chunk * CHUNK, 10).await.unwrap(), one.read(chunk * CHUNK, 10));
        }
        until(|| disk.missing() == 1).await;
        disk.end().await.unwrap();
    }
    world.memory.put(&key, good).await.unwrap();
    let disk = two.lazy().await.unwrap();
    run(&disk);
    assert_eq!(read(&disk, CHUNK, 10).await.unwrap(), one.read(CHUNK, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_said_until_it_is_overwritten_and_then_all_is_here() {
    let world = World::new();
    let (one, two) = world.two(12).await;
    let wanted = Digest::of(&one.read(CHUNK, CHUNK as usize)).to_string();
    let key = world.chunks().await.into_iter().find(|key| key.contains(&wanted)).unwrap();
    world.memory.put(&key, b"noise".to_vec().into()).await.unwrap();
    let progress = upper::Progress::default();
    let disk = LazyDisk::open(&two.upper, &progress).await.unwrap().unwrap();
    let gets = || two.meter.counts().get.requests;
    let before = gets();
    run(&disk);
    until(|| disk.missing() == 1 && disk.trouble().is_some()).await;
    assert_eq!(gets(), before + 11 + 2, "it is tried twice");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(disk.trouble().unwrap().contains(&wanted), "{:?}", disk.trouble());
    assert!(progress.bytes().is_some());
    // Nobody fetches any more, and the guest brings the last of it.
    write(&disk, CHUNK, noise(5, CHUNK as usize)).await.unwrap();
    until(|| !two.files.missing.exists()).await;
    assert_eq!((disk.trouble(), progress.bytes()), (None, None));
    disk.end().await.unwrap();
    assert!(two.lazy().await.is_none(), "it is a plain file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleep_before_all_is_here_takes_over_what_is_missing() {
    let world = World::new();
    let (one, two) = world.two(20).await;
    let mut expected = std::fs::read(&one.files.disk).unwrap();
    let mut on =
        |at: u64, bytes: &[u8]| expected[at as usize..][..bytes.len()].copy_from_slice(bytes);
    two.slow_down(Duration::from_millis(300));
    let disk = two.lazy().await.unwrap();
    run(&disk);
    write(&disk, 12 * CHUNK + 500, b"changed".to_vec()).await.unwrap();
    write(&disk, 35 * CHUNK, b"new".to_vec()).await.unwrap();
    on(12 * CHUNK + 500, b"changed");
    on(35 * CHUNK, b"new");
    let missing = disk.missing();
    assert!(missing > 4, "{missing} are missing");
    disk.end().await.unwrap();
    drop(disk);
    two.as_fast_as_ever();
    two.upper.leave(world.claimed()).await.unwrap();
    let read = two.meter.counts().get.bytes;
    assert_eq!(two.save_all(&world).await.1, 2, "two chunks were changed");
    assert!(two.meter.counts().get.bytes - read < 100_000, "nothing was read for it");
    // It goes on here, and elsewhere.
    assert_eq!(two.wake_lazily(&world).await, Found::Here);
    let three = world.host();
    assert_eq!(three.begin(world.claim()).await.unwrap().found, fetched(&world));
    assert_eq!(three.digest(), Digest::of(&expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_wake_here_goes_on_with_what_is_missing() {
    let world = World::new();
    let (one, two) = world.two(20).await;
    for round in 0..3 {
        two.slow_down(Duration::from_millis(400));
        let disk = two.lazy().await.unwrap();
        run(&disk);
        write(&disk, (10 + round) * CHUNK, noise(round + 1, 64)).await.unwrap();
        one.write((10 + round) * CHUNK, &noise(round + 1, 64));
        let missing = disk.missing();
        disk.end().await.unwrap();
        two.as_fast_as_ever();
        let look = |host: &Host| std::fs::metadata(&host.files.disk).unwrap().modified().unwrap();
        let asleep = look(&two);
        two.upper.leave(world.claimed()).await.unwrap();
        two.save_all(&world).await;
        // It is loaded before it is known whether it may go on: nothing of that touches the disk.
        let early = two.lazy().await.unwrap();
        assert!(early.missing() <= missing && early.missing() > 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(look(&two), asleep);
        drop(early);
        assert_eq!(two.wake_lazily(&world).await, Found::Here);
    }
    two.bring_all().await;
    assert_eq!(two.digest(), one.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_came_without_being_marked_comes_again() {
    let world = World::new();
    let (one, two) = world.two(3).await;
    // The process was killed between the two, in the middle of the first.
    let disk = OpenOptions::new().write(true).open(&two.files.disk).unwrap();
    disk.write_all_at(&noise(99, 100_000), CHUNK).unwrap();
    let lazy = two.lazy().await.unwrap();
    assert_eq!(lazy.missing(), 3);
    run(&lazy);
    assert_eq!(read(&lazy, CHUNK, 100).await.unwrap(), one.read(CHUNK, 100));
    until(|| lazy.missing() == 0).await;
    lazy.end().await.unwrap();
    assert_eq!(two.digest(), one.digest());
}

/// What a guest knows of a block.
#[derive(Debug, Clone, Default)]
struct Block {
    flushed: Option<u64>,
    /// Written since, in this order.
    since: Vec<u64>,
}

/// Whatever is killed: what was answered is there. After a loss of power, what was flushed is, and of what was
/// written since each block has one version or another.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_flushed_is_lost_and_nothing_that_was_written_is_replaced() {
    let seeds = std::env::var("DORMOUSE_LAZY_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(12) {
        one_life(seed).await;
    }
}

async fn one_life(seed: u64) {
    const CHUNKS: u64 = 6;
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new();
    let (one, two) = world.two(CHUNKS).await;
    let places: Vec<u64> = (0..CHUNKS)
        .flat_map(|chunk| [0, 1, 700].map(|block| chunk * CHUNK + block * BLOCK))
        .collect();
    let mut blocks = vec![Block::default(); places.len()];
    let content = |place: u64, version: Option<u64>| match version {
        None => one.read(place, BLOCK as usize),
        Some(version) => noise(version, BLOCK as usize),
    };
    let mut version = 0;
    for _life in 0..5 {
        two.slow_down(Duration::from_millis(rng.random_range(1..60)));
        let Some(disk) = two.lazy().await else { break };
        run(&disk);
        for _ in 0..rng.random_range(0..14) {
            let at = rng.random_range(0..places.len());
            match rng.random_range(0..10) {
                0..5 => {
                    version += 1;
                    write(&disk, places[at], noise(version, BLOCK as usize)).await.unwrap();
                    blocks[at].since.push(version);
                }
                5..7 => {
                    guest(&disk, LazyDisk::flush).await.unwrap();
                    for block in &mut blocks {
                        block.flushed = block.since.pop().or(block.flushed);
                        block.since.clear();
                    }
                }
                _ => {
                    let last = blocks[at].since.last().copied().or(blocks[at].flushed);
                    let found = read(&disk, places[at], BLOCK as usize).await.unwrap();
                    assert!(found == content(places[at], last), "seed {seed}, block {at}");
                }
            }
        }
        match rng.random_range(0..3) {
            // In order.
            0 => disk.end().await.unwrap(),
            // Killed: nothing of it goes on.
            1 => kill(disk).await,
            _ => {
                kill(disk).await;
                if two.files.missing.exists() {
                    lose_power(&two, &mut rng);
                    settle(&two, &mut blocks, &places, &content, seed).await;
                }
            }
        }
    }
    two.as_fast_as_ever();
    two.bring_all().await;
    for (block, place) in blocks.iter().zip(&places) {
        let last = block.since.last().copied().or(block.flushed);
        assert!(two.read(*place, BLOCK as usize) == content(*place, last), "seed {seed}");
    }
    // All else is as it was.
    let apart = |host: &Host| {
        let mut bytes = std::fs::read(&host.files.disk).unwrap();
        places.iter().for_each(|place| bytes[*place as usize..][..BLOCK as usize].fill(0));
        Digest::of(&bytes)
    };
    assert_eq!(apart(&two), apart(&one), "seed {seed}");
}

async fn kill(disk: LazyDisk) {
    disk.hold();
    tokio::time::sleep(Duration::from_millis(20)).await;
    // That all is here may be being noted, which in a process would end with it.
    if disk.missing() == 0 {
        disk.end().await.unwrap();
    }
}

/// What is not on the disk for certain is lost, or not.
fn lose_power(host: &Host, rng: &mut StdRng) {
    let disk = OpenOptions::new().write(true).open(&host.files.disk).unwrap();
    for (chunk, mark) in host.marks().into_iter().enumerate() {
        if mark != 2 && rng.random_bool(0.7) {
            disk.write_all_at(&noise(rng.random(), 3 << 20), chunk as u64 * CHUNK).unwrap();
        }
    }
    host.start_anew();
}

/// What a guest finds after a loss of power is what it goes on from.
async fn settle(
    host: &Host,
    blocks: &mut [Block],
    places: &[u64],
    content: &impl Fn(u64, Option<u64>) -> Vec<u8>,
    seed: u64,
) {
    host.as_fast_as_ever();
    let Some(disk) = host.lazy().await else { return };
    run(&disk);
    for (block, place) in blocks.iter_mut().zip(places) {
        let found = read(&disk, *place, BLOCK as usize).await.unwrap();
        let known = std::iter::once(block.flushed).chain(block.since.iter().map(|of| Some(*of)));
        let is = known.into_iter().find(|version| found == content(*place, *version));
        let Some(is) = is else {
            panic!("seed {seed}: a flushed block at {place} is lost: {block:?}")
        };
        *block = Block { flushed: is, since: Vec::new() };
    }
    // From here on it is as if it had been flushed.
    guest(&disk, LazyDisk::flush).await.unwrap();
    disk.end().await.unwrap();
}

#[tokio::test]
async fn a_chunk_that_is_known_to_be_nowhere_fails_the_wake() {
    let world = World::new();
    let one = world.host_with_chunks(3).await;
    one.save_all(&world).await;
    let key = world.chunks().await.remove(1);
    world.memory.delete(&key).await.unwrap();
    let two = world.host();
    let error = two.begin(world.claim()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&key), "{error}");
    assert!(!two.files.disk.exists() && !two.files.missing.exists());
}
