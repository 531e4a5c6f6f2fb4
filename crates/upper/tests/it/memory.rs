//! Memory that is stored comes back elsewhere once, whole, beside the upper that it was saved with.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Epoch, ErrorKind};
use objstore::ObjectStore as _;
use testkit::{FaultRates, Injection, Verb};
use tokio_util::sync::CancellationToken;
use upper::{Begun, Error, Found, Memory, Progress, Saved, StoredMemory, Upper};

use crate::support::{Host, World, fetched, noise, until};

/// A piece, and some memory that is no multiple of it.
pub(crate) const PIECE: u64 = 256 << 10;
const LEN: u64 = 200 * PIECE + 4096;

impl Host {
    pub(crate) fn memory(&self) -> PathBuf {
        self.dir.path().join("memory")
    }

    /// What a guest leaves: noise in pages of these pieces, the same for the same seed.
    pub(crate) fn remember(&self, pieces: impl Iterator<Item = u64>, seed: u64) {
        self.remember_in(&self.memory(), pieces, seed);
    }

    /// The same in another file.
    pub(crate) fn remember_in(&self, path: &Path, pieces: impl Iterator<Item = u64>, seed: u64) {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(path).unwrap();
        file.set_len(LEN).unwrap();
        for piece in pieces {
            let page = noise(seed * 1_000 + piece, 64 << 10);
            file.write_all_at(&page, piece * PIECE + 8192).unwrap();
        }
    }

    /// The guest writes.
    pub(crate) fn write_memory(&self, what: impl IntoIterator<Item = (u64, Vec<u8>)>) {
        let file = OpenOptions::new().write(true).open(self.memory()).unwrap();
        for (at, bytes) in what {
            file.write_all_at(&bytes, at).unwrap();
        }
    }

    /// More of the same, so that there is more than a pack of it.
    fn fill(&self, pieces: impl Iterator<Item = u64>) {
        let file = OpenOptions::new().write(true).open(self.memory()).unwrap();
        for piece in pieces {
            file.write_all_at(&noise(piece, 100 << 10), piece * PIECE + (128 << 10)).unwrap();
        }
    }

    pub(crate) fn to_store(&self) -> Memory {
        let about = b"about it".to_vec();
        let template = Some(self.template()).filter(|template| template.exists());
        Memory { file: self.memory(), state: noise(77, 300_000), about, template }
    }

    pub(crate) async fn save_memory(&self) -> Result<Saved, Error> {
        self.upper.save_memory(self.to_store(), &CancellationToken::new()).await
    }

    /// A run that changes upper and memory, both stored; packs that this took.
    pub(crate) async fn run_with_memory(&self, world: &World, seed: u64) -> u64 {
        self.run(world, 0, &noise(seed, 64)).await;
        self.save_all(world).await;
        self.remember(0..120, seed);
        self.memory_stored().await
    }

    pub(crate) async fn memory_stored(&self) -> u64 {
        match self.save_memory().await.unwrap() {
            Saved::Stored { chunks, .. } => chunks,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn take(&self, memory: &StoredMemory) -> Result<Vec<u8>, Error> {
        let fetched = self.upper.fetch_memory(memory, &Progress::default()).await?;
        fetched.place(&self.memory())
    }

    pub(crate) fn memory_bytes(&self) -> Vec<u8> {
        std::fs::read(self.memory()).unwrap()
    }
}

/// What a wake elsewhere is offered.
pub(crate) fn offered(begun: Begun) -> Result<StoredMemory, String> {
    begun.memory.expect("the store was asked")
}

pub(crate) async fn packs(world: &World) -> Vec<String> {
    world.keys().await.into_iter().filter(|key| key.contains("/memory/")).collect()
}

pub(crate) async fn memories(world: &World) -> Vec<String> {
    let names = world.generations().await;
    names.into_iter().filter(|name| name.ends_with("-memory")).collect()
}

#[tokio::test]
async fn memory_comes_back_on_another_host_with_its_holes() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    assert_eq!(one.run_with_memory(&world, 1).await, 1);
    assert!(Upper::memory_is_stored(&one.files));
    assert_eq!(one.save_memory().await.unwrap(), Saved::Nothing);
    let begun = two.begin(world.claim()).await.unwrap();
    assert_eq!(begun.found, fetched(&world));
    let memory = offered(begun).unwrap();
    assert_eq!((memory.about(), memory.file_bytes()), (&b"about it"[..], LEN));
    assert_eq!(two.take(&memory).await.unwrap(), one.to_store().state);
    assert!(two.memory_bytes() == one.memory_bytes());
    let allocated = std::fs::metadata(two.memory()).unwrap().blocks() * 512;
    let was = std::fs::metadata(one.memory()).unwrap().blocks() * 512;
    assert!(allocated <= was + 65_536, "{allocated} bytes of {was}");
    assert!(!two.files.memory_fetched.exists());
}

#[tokio::test]
async fn memory_is_stored_only_with_the_upper_that_it_was_saved_with() {
    let world = World::new();
    let one = world.host();
    one.run(&world, 0, b"first").await;
    one.remember(0..3, 1);
    assert_eq!(one.save_memory().await.unwrap(), Saved::Nothing, "the upper is not stored");
    one.save_all(&world).await;
    one.write(0, b"somebody wakes");
    assert!(matches!(one.save_memory().await, Err(Error::Changed)));
    assert!(memories(&world).await.is_empty());
}

#[tokio::test]
async fn memory_of_a_sleep_that_did_not_change_the_upper_goes_with_the_one_before() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_and_save(&world, 0, b"once").await;
    one.run_with(&world, |_| ()).await;
    assert_eq!(one.save(&world).await.unwrap(), Saved::Nothing);
    one.remember(0..3, 1);
    one.memory_stored().await;
    let memory = offered(two.begin(world.claim()).await.unwrap()).unwrap();
    two.take(&memory).await.unwrap();
    assert!(two.has(0, b"once") && two.memory_bytes() == one.memory_bytes());
}

#[tokio::test]
async fn memory_goes_back_to_a_host_whose_disk_nobody_changed() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_and_save(&world, 0, b"once").await;
    two.run_with(&world, |_| ()).await;
    assert_eq!(two.save(&world).await.unwrap(), Saved::Nothing);
    two.remember(0..3, 1);
    two.memory_stored().await;
    for (round, host) in [&one, &two, &one, &two].into_iter().enumerate() {
        let epoch = world.claim();
        let begun = host.begin(epoch).await.unwrap();
        assert_eq!(begun.found, Found::Here, "round {round}: nothing of it is to be fetched");
        let memory = offered(begun).unwrap_or_else(|why| panic!("round {round}: {why}"));
        host.take(&memory).await.unwrap();
        assert!(one.memory_bytes() == two.memory_bytes());
        host.upper.leave(epoch).await.unwrap();
        assert_eq!(host.save(&world).await.unwrap(), Saved::Nothing);
        host.remember(0..3, round as u64 + 2);
        host.memory_stored().await;
    }
    // What a run that was cut off left is no such disk, whatever is newest in the store.
    one.write(0, b"cut off");
    let begun = one.begin(world.claim()).await.unwrap();
    assert_eq!((begun.found, begun.memory), (Found::Here, None));
}

#[tokio::test]
async fn memory_is_used_by_no_wake_but_the_next_wherever_that_was() {
    let world = World::new();
    let (one, two, three) = (world.host(), world.host(), world.host());
    one.run_with_memory(&world, 1).await;
    // Here, without a word to the store; and then the host is lost.
    let epoch = world.claim();
    assert_eq!(one.begin(epoch).await.unwrap().memory, None);
    let why = offered(two.begin(world.claim()).await.unwrap()).unwrap_err();
    assert!(why.contains("the machine ran"), "{why}");
    two.run_with_memory(&world, 2).await;
    // Elsewhere, and that host is lost as well.
    offered(three.begin(world.claim()).await.unwrap()).unwrap();
    let four = world.host();
    offered(four.begin(world.claim()).await.unwrap()).unwrap_err();
    // A draft was published, which takes an epoch.
    four.run_with_memory(&world, 3).await;
    world.claim();
    offered(world.host().begin(world.claim()).await.unwrap()).unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn memory_is_not_offered_beside_another_upper() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_with_memory(&world, 1).await;
    // As if somebody had put one there: a generation that the memory does not name.
    let keys = world.keys().await;
    let stored = keys.iter().find(|key| key.ends_with("-stored")).unwrap();
    let older = world.memory.get(stored, None).await.unwrap();
    let mut renamed = older.to_vec();
    renamed[12..16].copy_from_slice(&1_u32.to_le_bytes());
    let sum = base::Digest::of(&renamed[..renamed.len() - 32]);
    let at = renamed.len() - 32;
    renamed[at..].copy_from_slice(sum.as_bytes());
    world.memory.delete(stored).await.unwrap();
    world.memory.put(&stored.replace("-stored", "-begun"), renamed.into()).await.unwrap();
    let why = offered(two.begin(world.claim()).await.unwrap()).unwrap_err();
    assert!(why.contains("another state"), "{why}");
    // And where nothing was stored, there is none.
    let other = World::new();
    let (one, two) = (other.host(), other.host());
    one.run_and_save(&other, 0, b"x").await;
    let why = offered(two.begin(other.claim()).await.unwrap()).unwrap_err();
    assert!(why.contains("not in the store"), "{why}");
}

#[tokio::test]
async fn what_did_not_change_is_not_stored_again_and_what_is_not_needed_goes() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_with_memory(&world, 1).await;
    let (before, first) = (one.meter.counts(), packs(&world).await);
    // A tenth of it changes.
    one.run(&world, 0, b"again").await;
    one.save_all(&world).await;
    one.remember(0..12, 9);
    let Saved::Stored { chunks, bytes, .. } = one.save_memory().await.unwrap() else { panic!() };
    assert!(chunks == 1 && bytes < 12 * (70 << 10), "{chunks} packs, {bytes} bytes");
    let cost = one.meter.counts().since(&before);
    // Word, chunk, pack; two manifests; a look whether another host has gone on.
    assert_eq!((cost.put.requests, cost.create.requests, cost.list.requests), (3, 2, 1));
    assert_eq!(memories(&world).await.len(), 1);
    assert_eq!(packs(&world).await.len(), first.len() + 1);
    // All of it: nothing of what was is left.
    one.run(&world, 0, b"and again").await;
    one.save_all(&world).await;
    one.remember(0..120, 10);
    one.memory_stored().await;
    let now = packs(&world).await;
    assert!(now.iter().all(|pack| !first.contains(pack)), "{now:?}");
    // Another host goes on from there, and stores what it changed of that.
    let epoch = world.claim();
    let memory = offered(two.begin(epoch).await.unwrap()).unwrap();
    two.take(&memory).await.unwrap();
    two.upper.note_memory_used(&memory).await.unwrap();
    assert!(two.memory_bytes() == one.memory_bytes());
    two.remember(0..3, 11);
    two.upper.leave(epoch).await.unwrap();
    two.save(&world).await.unwrap();
    let Saved::Stored { bytes, .. } = two.save_memory().await.unwrap() else { panic!() };
    assert!(bytes < 4 * (70 << 10), "{bytes} bytes");
    assert_eq!(memories(&world).await.len(), 1);
    let three = world.host();
    let memory = offered(three.begin(world.claim()).await.unwrap()).unwrap();
    three.take(&memory).await.unwrap();
    assert!(three.memory_bytes() == two.memory_bytes());
}

#[tokio::test]
async fn an_upload_that_is_cut_off_goes_on_with_what_it_had_stored() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_and_save(&world, 0, b"slept").await;
    // More than two packs.
    one.remember(0..200, 1);
    one.fill(0..200);
    let mut failures = 0;
    let before = one.meter.counts();
    let saved = loop {
        one.store.inject(Verb::Put, "uppers/", 2, Injection::Before);
        match one.save_memory().await {
            Ok(saved) => break saved,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
        }
        failures += 1;
        assert!(failures < 20 && memories(&world).await.is_empty());
    };
    assert!(matches!(saved, Saved::Stored { .. }) && failures > 0);
    let puts = one.meter.counts().since(&before).put;
    let all = packs(&world).await.len() as u64;
    assert!(all > 1 && puts.requests - puts.errors <= all + failures, "{puts:?} for {all}");
    let memory = offered(two.begin(world.claim()).await.unwrap()).unwrap();
    two.take(&memory).await.unwrap();
    assert!(two.memory_bytes() == one.memory_bytes());
}

#[tokio::test]
async fn an_upload_that_is_told_to_stop_names_nothing_and_leaves_nothing_for_long() {
    let world = World::new();
    let one = world.host();
    one.run_and_save(&world, 0, b"slept").await;
    one.remember(0..200, 1);
    one.fill(0..200);
    one.slow_down(Duration::from_millis(60));
    let stop = CancellationToken::new();
    let before = one.meter.counts().put.requests;
    let (saved, ()) = tokio::join!(one.upper.save_memory(one.to_store(), &stop), async {
        until(|| one.meter.counts().put.requests >= before + 2).await;
        stop.cancel();
    });
    assert_eq!(saved.unwrap(), Saved::Stopped);
    one.store.set_rates(FaultRates::default());
    assert!(memories(&world).await.is_empty());
    let left = packs(&world).await;
    assert!(!left.is_empty());
    // It woke here, and slept again with other memory.
    one.run(&world, 0, b"again").await;
    one.save_all(&world).await;
    one.remember(0..200, 2);
    one.memory_stored().await;
    let now = packs(&world).await;
    assert!(now.iter().all(|pack| !left.contains(pack)), "{left:?} {now:?}");
}

#[tokio::test]
async fn lost_replies_are_settled_and_what_cannot_be_noted_is_found_again() {
    let world = World::new();
    let one = world.host();
    one.run_and_save(&world, 0, b"slept").await;
    one.remember(0..40, 1);
    one.store.inject(Verb::Create, "uppers/", 1, Injection::After);
    one.save_memory().await.unwrap_err();
    one.memory_stored().await;
    assert!(Upper::memory_is_stored(&one.files));
    assert_eq!(memories(&world).await.len(), 1);
}

#[tokio::test]
async fn a_memory_that_is_written_to_meanwhile_is_not_named() {
    let world = World::new();
    let one = world.host();
    one.run_and_save(&world, 0, b"slept").await;
    one.remember(0..120, 1);
    one.slow_down(Duration::from_millis(80));
    let before = one.meter.counts().put.requests;
    let done = Cell::new(false);
    let saving = async {
        let saved = one.save_memory().await;
        done.set(true);
        saved
    };
    let (saved, ()) = tokio::join!(saving, async {
        until(|| one.meter.counts().put.requests > before || done.get()).await;
        // How long its requests take is chance; a file's times may not tell what is written within a few milliseconds.
        while !done.get() {
            one.remember(199..200, 5);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(matches!(saved, Err(Error::Changed)));
    assert!(memories(&world).await.is_empty());
}

#[tokio::test]
async fn damage_costs_the_memory_and_nothing_else() {
    let world = World::new();
    let one = world.host();
    one.run_with_memory(&world, 1).await;
    let pack = packs(&world).await.remove(0);
    let good = world.memory.get(&pack, None).await.unwrap();
    let mut flipped = good.to_vec();
    flipped[good.len() / 2] ^= 1;
    let longer = [&good[..], b"x"].concat();
    let two = world.host();
    let epoch = world.claim();
    for bad in [Some(flipped), Some(longer), Some(good[1..].to_vec()), Some(Vec::new()), None] {
        match bad {
            Some(bad) => world.memory.put(&pack, bad.into()).await.unwrap(),
            None => world.memory.delete(&pack).await.unwrap(),
        }
        std::fs::remove_file(&two.files.state).ok();
        std::fs::remove_file(&two.files.disk).ok();
        let begun = two.begin(epoch).await.unwrap();
        assert_eq!(begun.found, fetched(&world), "the upper is whole");
        let error = two.take(&offered(begun).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(!two.memory().exists() && !two.files.memory_fetched.exists());
    }
    // Its manifest.
    let name = world.keys().await.into_iter().find(|key| key.ends_with("-memory")).unwrap();
    let good = world.memory.get(&name, None).await.unwrap();
    for bad in [b"".to_vec(), good[..good.len() - 1].to_vec(), vec![0xff; 1 << 20]] {
        world.memory.put(&name, bad.into()).await.unwrap();
        std::fs::remove_file(&two.files.state).ok();
        std::fs::remove_file(&two.files.disk).ok();
        let begun = two.begin(epoch).await.unwrap();
        assert_eq!(begun.found, fetched(&world));
        let why = offered(begun).unwrap_err();
        assert!(why.contains("is damaged"), "{why}");
    }
    // What is damaged is stored anew, and keeps nobody from collecting.
    one.run(&world, 0, b"again").await;
    let (generation, _) = one.save_all(&world).await;
    one.upper.collect(generation).await.unwrap();
    one.memory_stored().await;
    let three = world.host();
    let memory = offered(three.begin(world.claim()).await.unwrap()).unwrap();
    three.take(&memory).await.unwrap();
    assert!(three.memory_bytes() == one.memory_bytes());
}

#[tokio::test]
async fn a_collector_takes_what_no_later_memory_needs() {
    let world = World::new();
    let (one, two) = (world.host(), world.host());
    one.run_with_memory(&world, 1).await;
    // Stored on another host, which cannot delete the first one's.
    let epoch = world.claim();
    let memory = offered(two.begin(epoch).await.unwrap()).unwrap();
    drop(memory);
    two.write(0, b"booted");
    two.upper.leave(epoch).await.unwrap();
    let (generation, _) = two.save_all(&world).await;
    // What the next memory could take packs over from stays.
    two.upper.collect(generation).await.unwrap();
    assert_eq!(memories(&world).await.len(), 1);
    two.remember(0..120, 2);
    two.store.inject(Verb::Delete, "uppers/", 1, Injection::Before);
    two.memory_stored().await;
    assert_eq!(memories(&world).await.len(), 2);
    let both = packs(&world).await.len();
    two.upper.collect(generation).await.unwrap();
    assert_eq!(memories(&world).await.len(), 1);
    assert!(packs(&world).await.len() < both);
    let three = world.host();
    let memory = offered(three.begin(world.claim()).await.unwrap()).unwrap();
    three.take(&memory).await.unwrap();
    assert!(three.memory_bytes() == two.memory_bytes());
}

#[tokio::test]
async fn memory_goes_when_it_is_not_wanted_in_the_store_any_more_and_with_the_machine() {
    let world = World::new();
    let one = world.host();
    one.run_with_memory(&world, 1).await;
    one.run_with(&world, |_| ()).await;
    one.save(&world).await.unwrap();
    one.upper.unstore_memory().await.unwrap();
    assert!(memories(&world).await.is_empty() && packs(&world).await.is_empty());
    one.upper.unstore_memory().await.unwrap();
    assert!(!Upper::memory_is_stored(&one.files));
    one.memory_stored().await;
    assert_eq!(memories(&world).await.len(), 1);
    let store: std::sync::Arc<dyn objstore::ObjectStore> = world.memory.clone();
    upper::delete(&store, &world.machine).await.unwrap();
    assert!(world.keys().await.is_empty());
}

#[tokio::test]
async fn lengths_are_bounded() {
    let world = World::new();
    let one = world.host();
    one.run_and_save(&world, 0, b"slept").await;
    one.remember(0..1, 1);
    let stop = CancellationToken::new();
    let about = vec![0; upper::ABOUT_BYTES_MAX + 1];
    let refused = one.upper.save_memory(Memory { about, ..one.to_store() }, &stop).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::TooLarge);
    File::options()
        .write(true)
        .open(one.memory())
        .unwrap()
        .set_len(upper::MEMORY_BYTES_MAX + 1)
        .unwrap();
    assert_eq!(one.save_memory().await.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(one.begin(Epoch(world.claim().0)).await.unwrap().found, Found::Here);
}
