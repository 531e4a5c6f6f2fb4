use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use base::{ErrorKind, ServerId};
use bytes::Bytes;
use tempfile::TempDir;

use super::super::append::Commit;
use super::super::base::base_pays;
use super::super::collect::Full;
use super::super::format1::Section;
use super::super::testing::{ByNumber, MemoryPages, TestStore};
use super::*;
use crate::layout::{shm_of, temporary_of, wal_of};
use crate::meta::arrange::arrange;

/// A home, the states that it had, and a directory for what is restored.
struct Home {
    store: Arc<TestStore>,
    log: Log,
    /// By number of the commit.
    states: Vec<Option<MemoryPages>>,
    dir: TempDir,
}

impl Home {
    async fn new() -> Self {
        let (store, mut log) = TestStore::with_log();
        log.claim(ServerId::generate(), false, [1; 16]).await.unwrap();
        let (states, dir) = (vec![None, None], tempfile::tempdir().unwrap());
        Self { store, log, states, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("home.db")
    }

    fn state(&self) -> MemoryPages {
        let empty = MemoryPages { page_size: 512, pages: Vec::new() };
        self.states.iter().rev().flatten().next().cloned().unwrap_or(empty)
    }

    /// Commits a database of `count` pages, in which `changed` begin with `mark`.
    async fn commit(&mut self, count: u32, changed: &[u32], mark: u8) -> u64 {
        self.commit_in_sections(count, changed, mark, 8 << 20).await
    }

    async fn commit_in_sections(
        &mut self,
        count: u32,
        changed: &[u32],
        mark: u8,
        size: u64,
    ) -> u64 {
        let mut state = self.state();
        state.pages.resize(count as usize, vec![0; 512]);
        for page in changed {
            state.pages[*page as usize - 1] = page_content(*page, mark);
        }
        let (source, born) = (Arc::new(state.clone()), self.log.next_seq().unwrap());
        let pages = self.log.collect_delta(source, changed.to_vec(), born, size).await.unwrap();
        let data = Bytes::from(vec![mark; 100]);
        let seq = self.log.append(Commit { pages, data, release: false }).await.unwrap();
        assert_eq!(seq as usize, self.states.len());
        self.states.push(Some(state));
        seq
    }

    /// The same with a commit that says where every page is.
    async fn commit_full(&mut self, count: u32, changed: &[u32], mark: u8) -> u64 {
        let mut state = self.state();
        state.pages.resize(count as usize, vec![0; 512]);
        for page in changed {
            state.pages[*page as usize - 1] = page_content(*page, mark);
        }
        let (source, born) = (Arc::new(state.clone()), self.log.next_seq().unwrap());
        let changed = Some(changed.iter().copied().collect());
        let full = Full { source, above: born - 1, changed, born };
        let pages = self.log.collect_full(full, ByNumber::arrange).await.unwrap();
        let commit = Commit { pages, data: Bytes::new(), release: false };
        let seq = self.log.append(commit).await.unwrap();
        self.states.push(Some(state));
        seq
    }

    async fn base(&mut self) {
        let head = self.log.writer_head().unwrap().clone();
        self.log.write_base(&head, Arc::new(self.state()), ByNumber::arrange).await.unwrap();
        self.log.note_base(head.seq);
    }

    async fn restore(&self, upto: Option<u64>, from: Option<u64>) -> Result<Option<Head>> {
        // Another host: it remembers nothing.
        let log = self.store.log(self.log.keys().home());
        materialise(&log, upto, &self.path(), from, &Opening::default()).await
    }

    fn assert_restored(&self, seq: u64) {
        let truth = self.states[seq as usize].as_ref().map_or(Vec::new(), MemoryPages::bytes);
        assert!(fs::read(self.path()).unwrap() == truth, "commit {seq}");
        assert!(!temporary_of(&self.path()).exists());
    }
}

/// What makes it a database, for page 1; anything for others.
fn page_content(page: u32, mark: u8) -> Vec<u8> {
    let mut content = vec![mark; 512];
    content[20..24].copy_from_slice(&page.to_le_bytes());
    if page == 1 {
        content[..18].copy_from_slice(b"SQLite format 3\0\x02\x00");
    }
    content
}

#[tokio::test]
async fn every_commit_can_be_restored_from_nothing_and_from_every_earlier_one() {
    let mut home = Home::new().await;
    home.commit(10, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 1).await;
    home.commit(10, &[2, 9], 2).await;
    home.commit(40, &(11..=40).collect::<Vec<_>>(), 3).await;
    home.base().await;
    home.commit(40, &[1, 30], 4).await;
    // Cut off, then grown again, and not all of the new pages written.
    home.commit(5, &[1], 5).await;
    home.commit(12, &[1, 8], 6).await;
    home.base().await;
    home.commit(12, &[], 7).await;
    let last = home.commit(12, &[3], 8).await;
    for seq in 2..=last {
        home.restore(Some(seq), None).await.unwrap();
        home.assert_restored(seq);
        for later in seq..=last {
            home.restore(Some(seq), None).await.unwrap();
            let head = home.restore(Some(later), Some(seq)).await.unwrap().unwrap();
            assert_eq!(head.seq, later);
            home.assert_restored(later);
        }
    }
    let head = home.restore(None, None).await.unwrap().unwrap();
    assert_eq!((head.seq, head.page_count), (last, 12));
    home.assert_restored(last);
}

#[tokio::test]
async fn any_history_is_restored_as_it_was_made() {
    for seed in 0..12_u64 {
        let mut random = seed + 1;
        let mut below = move |bound: u32| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            (random >> 33) as u32 % bound
        };
        let mut home = Home::new().await;
        let mut last = 1;
        for mark in 1..=20 {
            let count = 1 + below(120);
            let mut changed = BTreeSet::from([1]);
            changed.extend((0..below(60)).map(|_| 1 + below(count)));
            let changed: Vec<u32> = changed.into_iter().collect();
            last = match below(3) {
                0 => home.commit_full(count, &changed, mark).await,
                n => {
                    home.commit_in_sections(count, &changed, mark, [8 << 20, 150][n as usize - 1])
                        .await
                }
            };
            if below(6) == 0 {
                home.base().await;
            }
        }
        let mut at = None;
        while at != Some(last) {
            let from = at.filter(|_| below(4) > 0);
            let next = (at.unwrap_or(1) + 1 + u64::from(below(5))).min(last);
            home.restore(Some(next), from).await.unwrap();
            home.assert_restored(next);
            at = Some(next);
        }
    }
}

#[tokio::test]
async fn a_real_database_survives_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("live.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF;
         CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB);",
    )
    .unwrap();
    let (_store, mut log) = TestStore::with_log();
    log.claim(ServerId::generate(), false, [1; 16]).await.unwrap();
    let mut tail = crate::wal::WalTail::open(&path).unwrap();
    let view = Arc::new(tail.view());
    let mut changed: BTreeSet<u32> = (1..=tail.page_count()).collect();
    drop(view);
    let restored = dir.path().join("restored.db");
    let mut seen = None;
    for round in 0..90_u32 {
        db.execute_batch(&format!(
            "INSERT OR REPLACE INTO t VALUES({}, randomblob({}));
             DELETE FROM t WHERE id = {};",
            round % 40,
            round * 211 % 9_000,
            round * 7 % 40
        ))
        .unwrap();
        changed.append(&mut tail.poll().unwrap().pages);
        let pages = log
            .collect(Arc::new(tail.view()), &changed, log.next_seq().unwrap(), arrange)
            .await
            .unwrap();
        changed.clear();
        let release = false;
        log.append(Commit { pages, data: Bytes::new(), release }).await.unwrap();
        let head = log.writer_head().unwrap().clone();
        if base_pays(&head) {
            log.write_base(&head, Arc::new(tail.view()), arrange).await.unwrap();
            log.note_base(head.seq);
        }
        if round % 10 == 9 {
            seen = materialise(&log.reader(), None, &restored, seen, &Opening::default())
                .await
                .unwrap()
                .map(|h| h.seq);
            assert_eq!(seen, Some(head.seq));
            let rows = |db: &rusqlite::Connection| {
                db.query_row("SELECT group_concat(id || hex(body)) FROM t", [], |row| {
                    row.get::<_, String>(0)
                })
                .unwrap()
            };
            // A copy is opened, because opening in WAL mode writes beside the file.
            let copy = dir.path().join(format!("copy{round}.db"));
            fs::copy(&restored, &copy).unwrap();
            let copy = rusqlite::Connection::open(copy).unwrap();
            assert_eq!(rows(&copy), rows(&db));
            let check = "PRAGMA integrity_check";
            assert_eq!(copy.query_row(check, [], |r| r.get::<_, String>(0)).unwrap(), "ok");
            assert!(!tail.has_views());
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        }
    }
    assert!(log.writer_head().unwrap().base_seq > 60, "a base was due once");
}

#[tokio::test]
async fn pages_in_objects_of_their_own_are_followed() {
    let mut home = Home::new().await;
    home.commit_in_sections(300, &(1..=300).collect::<Vec<_>>(), 1, 200).await;
    let last = home.commit(300, &[7], 2).await;
    assert!(home.store.keys().iter().filter(|key| key.contains("/pages/")).count() > 3);
    home.restore(None, None).await.unwrap();
    home.assert_restored(last);
}

#[tokio::test]
async fn only_what_is_needed_is_fetched() {
    let mut home = Home::new().await;
    let all: Vec<u32> = (1..=300).collect();
    home.commit_in_sections(300, &all, 1, 200).await;
    home.commit(300, &all, 2).await;
    home.store.take_calls();
    home.restore(None, None).await.unwrap();
    home.assert_restored(3);
    let calls = home.store.take_calls();
    assert!(!calls.iter().any(|call| call.contains("/pages/")), "{calls:?}");

    home.base().await;
    for mark in 0..5 {
        home.commit(300, &[9], mark).await;
    }
    home.store.take_calls();
    home.restore(None, None).await.unwrap();
    let calls = home.store.take_calls();
    assert!(!calls.iter().any(|call| *call == format!("get {}", home.log.keys().log(2))));
    home.restore(Some(6), None).await.unwrap();
    home.store.take_calls();
    home.restore(Some(8), Some(6)).await.unwrap();
    home.assert_restored(8);
    let commits = |call: &&String| call.starts_with("get ") && call.contains("/log/");
    assert!(home.store.take_calls().iter().filter(commits).count() <= 3);
}

#[tokio::test]
async fn bringing_a_file_forward_to_a_full_state_fetches_what_changed() {
    let mut home = Home::new().await;
    let all: Vec<u32> = (1..=3_000).collect();
    home.commit_in_sections(3_000, &all, 1, 2_000).await;
    let from = home.commit_full(3_000, &[5, 700], 2).await;
    home.restore(None, None).await.unwrap();
    home.commit(3_000, &[9], 3).await;
    let last = home.commit_full(3_000, &[1_500], 4).await;
    home.store.take_calls();
    home.restore(None, Some(from)).await.unwrap();
    home.assert_restored(last);
    let calls = home.store.take_calls();
    let pages = calls.iter().filter(|call| call.contains("/pages/")).count();
    assert!(pages == 0, "what is new lies in the commit: {calls:?}");
}

#[tokio::test]
async fn a_full_state_stores_what_changed_and_names_the_rest() {
    let mut home = Home::new().await;
    let all: Vec<u32> = (1..=3_000).collect();
    home.commit_in_sections(3_000, &all, 1, 2_000).await;
    let objects = home.store.keys().len();
    home.store.take_calls();
    for mark in 2..9 {
        let seq = home.commit_full(3_000, &[u32::from(mark) * 90, 2_000], mark).await;
        let stored = home.log.read(seq).await.unwrap().unwrap();
        assert!(stored.header().is_full() && stored.header().page_bytes() < 30_000);
        assert_eq!(stored.header().bytes_above_base, 0);
    }
    assert_eq!(home.store.keys().len(), objects + 7, "no page object but the first ones");
    let listings = |call: &&String| call.starts_with("list ");
    let calls = home.store.take_calls();
    assert!(calls.iter().filter(listings).count() <= 1, "what it said itself it knows: {calls:?}");
    home.restore(None, None).await.unwrap();
    home.assert_restored(9);
}

/// SQLite never writes the page that its lock byte is on, at one GiB.
#[tokio::test]
async fn a_database_of_more_than_a_gib_has_a_page_that_is_nowhere() {
    const LOCK_PAGE: u32 = 262_145;
    struct Sparse(u8);
    impl super::super::pages::PageSource for Sparse {
        fn page_size(&self) -> u32 {
            4_096
        }
        fn page_count(&self) -> u32 {
            LOCK_PAGE + 50
        }
        fn read_page(&self, page: u32, into: &mut [u8]) -> Result<()> {
            assert_ne!(page, LOCK_PAGE, "nobody knows what is there");
            let is_new = [2, LOCK_PAGE + 1].contains(&page);
            into.fill(if is_new { self.0 } else { 1 });
            into[..4].copy_from_slice(&page.to_le_bytes());
            Ok(())
        }
    }
    let mut home = Home::new().await;
    let changed = BTreeSet::from([1, 2, LOCK_PAGE - 1, LOCK_PAGE + 1, LOCK_PAGE + 50]);
    let source = Arc::new(Sparse(1));
    let pages = home.log.collect(source, &changed, 2, ByNumber::arrange).await.unwrap();
    home.log.append(Commit { pages, data: Bytes::new(), release: false }).await.unwrap();
    let changed = Some(BTreeSet::from([2, LOCK_PAGE + 1]));
    let full = Full { source: Arc::new(Sparse(2)), above: 2, changed, born: 3 };
    let pages = home.log.collect_full(full, ByNumber::arrange).await.unwrap();
    home.log.append(Commit { pages, data: Bytes::new(), release: false }).await.unwrap();
    let head = home.restore(None, None).await.unwrap().unwrap();
    assert_eq!(head.page_count, LOCK_PAGE + 50);
    let file = std::fs::File::open(home.path()).unwrap();
    let page = |number: u32| {
        let mut page = vec![9; 4_096];
        let at = u64::from(number - 1) * 4_096;
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut page, at).unwrap();
        (page[..4] == number.to_le_bytes(), page[4_095])
    };
    for (number, found) in [
        (1, (true, 1)),
        (2, (true, 2)),
        (3, (false, 0)),
        (LOCK_PAGE - 1, (true, 1)),
        (LOCK_PAGE, (false, 0)),
        (LOCK_PAGE + 1, (true, 2)),
        (LOCK_PAGE + 50, (true, 1)),
    ] {
        assert_eq!(page(number), found, "{number}");
    }
}

#[tokio::test]
async fn a_long_way_forward_goes_by_the_base() {
    let mut home = Home::new().await;
    home.commit(10, &(1..=10).collect::<Vec<_>>(), 1).await;
    home.restore(None, None).await.unwrap();
    for n in 0..140_u8 {
        home.commit(10, &[u32::from(n % 10) + 1], n).await;
    }
    home.base().await;
    let last = home.commit(10, &[4], 200).await;
    home.store.take_calls();
    home.restore(None, Some(2)).await.unwrap();
    home.assert_restored(last);
    assert!(home.store.take_calls().len() < 30);
}

#[tokio::test]
async fn damage_and_holes_are_errors_and_leave_the_old_file_alone() {
    let mut home = Home::new().await;
    home.commit_in_sections(100, &(1..=100).collect::<Vec<_>>(), 1, 200).await;
    home.commit(100, &[1, 50], 2).await;
    home.restore(Some(2), None).await.unwrap();
    let objects = home.store.objects.lock().clone();
    let doomed = |key: &&String| !key.ends_with(&format!("{:020}", 1)) && !key.contains("boundary");
    for key in objects.keys().filter(doomed) {
        for damage in 0..2 {
            home.store.objects.lock().clone_from(&objects);
            if damage == 0 {
                home.store.damage(key, objects[key].len() / 2);
            } else {
                home.store.objects.lock().remove(key);
            }
            // A missing newest commit cannot be told from one that was never made.
            let Err(error) = home.restore(Some(3), None).await else { panic!("{key} {damage}") };
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            home.assert_restored(2);
        }
    }
    home.store.objects.lock().clone_from(&objects);
    let mut header = home.log.read(3).await.unwrap().unwrap().header().clone();
    let (object, groups) = (Some("homes/other/pages/x".into()), Vec::new());
    (header.index, header.sections) = (None, vec![Section { object, groups }]);
    let json = serde_json::to_vec(&header).unwrap();
    let forged = super::super::container::seal(1, &json, b"", &[3; 100]).unwrap();
    home.store.objects.lock().insert(home.log.keys().log(3), forged);
    assert_eq!(home.restore(Some(3), None).await.unwrap_err().kind(), ErrorKind::Corrupt);
    home.assert_restored(2);
}

#[tokio::test]
async fn an_unreachable_store_leaves_the_old_file_alone() {
    let mut home = Home::new().await;
    home.commit(10, &(1..=10).collect::<Vec<_>>(), 1).await;
    home.restore(None, None).await.unwrap();
    *home.store.down.lock() = true;
    let error = home.restore(None, Some(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    home.assert_restored(2);
}

#[tokio::test]
async fn a_home_without_pages_gives_an_empty_file_and_a_new_one_none() {
    let home = Home::new().await;
    fs::write(home.path(), b"what was there").unwrap();
    let head = home.restore(None, None).await.unwrap().unwrap();
    assert_eq!((head.seq, head.page_count), (1, 0));
    home.assert_restored(1);
    let (_store, log) = TestStore::with_log();
    let path = home.dir.path().join("none");
    assert_eq!(materialise(&log, None, &path, None, &Opening::default()).await.unwrap(), None);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_sqlite_left_beside_the_old_file_goes_with_it() {
    let mut home = Home::new().await;
    home.commit(3, &[1, 2, 3], 1).await;
    home.commit(3, &[2], 2).await;
    fs::write(wal_of(&home.path()), b"frames of another database").unwrap();
    fs::write(shm_of(&home.path()), b"index").unwrap();
    fs::write(temporary_of(&home.path()), vec![9; 100_000]).unwrap();
    home.restore(Some(2), None).await.unwrap();
    home.assert_restored(2);
    assert!(!wal_of(&home.path()).exists() && !shm_of(&home.path()).exists());
    // A file with a log beside it is not the commit that the caller thinks it is.
    fs::write(wal_of(&home.path()), b"frames").unwrap();
    let error = home.restore(Some(3), Some(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    home.assert_restored(2);
}
