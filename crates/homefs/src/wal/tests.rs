use rusqlite::Connection;
use tempfile::TempDir;

use super::*;

/// A database in WAL mode that never checkpoints by itself.
struct Db {
    dir: TempDir,
    connection: Connection,
}

impl Db {
    fn new(page_size: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join("home.db")).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
                 PRAGMA synchronous=OFF; PRAGMA auto_vacuum=FULL;
                 CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB);"
            ))
            .unwrap();
        Self { dir, connection }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("home.db")
    }

    fn run(&self, sql: &str) {
        self.connection.execute_batch(sql).unwrap();
    }

    fn insert(&self, id: u64, len: u64) {
        self.run(&format!("INSERT OR REPLACE INTO t VALUES({id}, randomblob({len}))"));
    }

    fn checkpoint(&self, mode: &str) {
        self.connection
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get::<_, i64>(0))
            .map(|busy| assert_eq!(busy, 0))
            .unwrap();
    }

    /// The database as one file, as SQLite itself makes it from database and WAL.
    fn checkpointed_copy(&self) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy.db");
        fs::copy(self.path(), &copy).unwrap();
        if wal_of(&self.path()).exists() {
            fs::copy(wal_of(&self.path()), wal_of(&copy)).unwrap();
        }
        let connection = Connection::open(&copy).unwrap();
        connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
            .unwrap();
        drop(connection);
        fs::read(copy).unwrap()
    }
}

fn content(view: &PageView) -> Vec<u8> {
    let mut content = vec![0; view.page_size() as usize * view.page_count() as usize];
    for (page, into) in (1..).zip(content.chunks_exact_mut(view.page_size() as usize)) {
        view.read_page(page, into).unwrap();
    }
    content
}

/// Applies what a poll reported, as a replica would that sees nothing else.
fn apply(replica: &mut Vec<u8>, tail: &WalTail, advance: &Advance) {
    let (size, view) = (tail.page_size() as usize, tail.view());
    replica.resize(size * view.page_count() as usize, 0);
    for page in advance.pages.range(..=view.page_count()) {
        let start = (*page as usize - 1) * size;
        view.read_page(*page, &mut replica[start..start + size]).unwrap();
    }
}

/// Small and seeded: the same numbers every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % bound
    }
}

#[test]
fn a_replica_fed_by_the_tail_equals_the_database() {
    for (seed, page_size) in [(1, 4096), (2, 512), (3, 65_536), (4, 4096), (5, 1024)] {
        let (mut dice, db) = (Dice(seed), Db::new(page_size));
        let mut tail = WalTail::open(&db.path()).unwrap();
        let mut replica = content(&tail.view());
        for _ in 0..120 {
            match dice.below(12) {
                0 => {
                    // The rule for checkpoints: poll first, nothing in between.
                    let advance = tail.poll().unwrap();
                    apply(&mut replica, &tail, &advance);
                    db.checkpoint(["PASSIVE", "RESTART", "TRUNCATE"][dice.below(3) as usize]);
                    tail.note_checkpoint();
                }
                1 => db.run(&format!("DELETE FROM t WHERE id % 5 = {}", dice.below(5))),
                2 => {
                    db.run("BEGIN; PRAGMA cache_size=2; PRAGMA cache_spill=1;");
                    for id in 0..30 {
                        db.insert(id, 3000);
                    }
                    db.run("ROLLBACK; PRAGMA cache_size=2000;");
                }
                3 => {
                    db.run("BEGIN");
                    db.insert(dice.below(100), 2000);
                    db.run("SAVEPOINT s");
                    db.insert(dice.below(100), 9000);
                    db.run("ROLLBACK TO s; COMMIT");
                }
                _ => db.insert(dice.below(60), dice.below(20_000)),
            }
            if dice.below(3) == 0 {
                let advance = tail.poll().unwrap();
                apply(&mut replica, &tail, &advance);
                let truth = db.checkpointed_copy();
                assert_eq!(content(&tail.view()), truth, "seed {seed}");
                assert_eq!(replica, truth, "seed {seed}");
            }
        }
    }
}

#[test]
fn only_committed_transactions_count() {
    let db = Db::new(4096);
    let mut tail = WalTail::open(&db.path()).unwrap();
    assert_eq!(tail.poll().unwrap(), Advance::default());
    db.run("BEGIN; PRAGMA cache_size=1;");
    for id in 0..50 {
        db.insert(id, 3000);
    }
    let spilled = fs::metadata(wal_of(&db.path())).unwrap().len();
    assert!(spilled > tail.wal_bytes(), "the open transaction is in the file already");
    assert_eq!(tail.poll().unwrap(), Advance::default());
    db.run("COMMIT");
    let advance = tail.poll().unwrap();
    assert_eq!(advance.transactions, 1);
    assert!(advance.pages.len() > 40);
    assert_eq!(tail.poll().unwrap(), Advance::default());
}

#[test]
fn a_new_generation_is_recognised() {
    let db = Db::new(4096);
    db.insert(1, 100);
    let mut tail = WalTail::open(&db.path()).unwrap();
    db.checkpoint("RESTART");
    db.insert(2, 100);
    let advance = tail.poll().unwrap();
    assert!(advance.restarted && advance.transactions == 1);
    db.checkpoint("TRUNCATE");
    assert!(tail.poll().unwrap().restarted);
    assert_eq!(content(&tail.view()), db.checkpointed_copy());
    db.insert(3, 100);
    let advance = tail.poll().unwrap();
    assert!(!advance.restarted && advance.transactions == 1, "an empty log held nothing to lose");
}

#[test]
fn a_view_keeps_its_moment_and_notices_when_it_cannot() {
    let db = Db::new(4096);
    db.insert(1, 9000);
    let tail = WalTail::open(&db.path()).unwrap();
    assert!(!tail.has_views());
    let (view, before) = (tail.view(), db.checkpointed_copy());
    assert!(tail.has_views());
    for id in 0..10 {
        db.insert(id, 9000);
    }
    assert_eq!(content(&view), before);
    db.checkpoint("TRUNCATE");
    let mut page = vec![0; 4096];
    let stale: Vec<_> = view
        .frames
        .keys()
        .filter(|page_no| view.read_page(**page_no, &mut page).is_err())
        .collect();
    assert_eq!(stale.len(), view.frames.len());
}

#[test]
fn a_view_is_known_of_even_when_commits_followed_it() {
    let db = Db::new(4096);
    let mut tail = WalTail::open(&db.path()).unwrap();
    let view = tail.view();
    db.insert(1, 100);
    assert_eq!(tail.poll().unwrap().transactions, 1);
    assert!(tail.has_views());
    drop(view);
    assert!(!tail.has_views());
}

#[test]
fn a_view_made_after_a_checkpoint_outlives_the_next_commit() {
    let db = Db::new(4096);
    db.insert(1, 30_000);
    let mut tail = WalTail::open(&db.path()).unwrap();
    db.checkpoint("RESTART");
    tail.note_checkpoint();
    let (view, before) = (tail.view(), db.checkpointed_copy());
    db.insert(1, 20_000);
    assert_eq!(content(&view), before);
    assert_eq!(tail.poll().unwrap().transactions, 1);
    assert_eq!(content(&tail.view()), db.checkpointed_copy());
}

#[test]
fn a_damaged_frame_ends_what_is_believed() {
    let db = Db::new(4096);
    let frame = (FRAME_HEADER + 4096) as u64;
    let opened = WalTail::open(&db.path()).unwrap().wal_bytes();
    db.insert(1, 100);
    let first = WalTail::open(&db.path()).unwrap().wal_bytes();
    assert!(first >= opened + frame);
    db.insert(2, 100);
    let file = fs::OpenOptions::new().write(true).open(wal_of(&db.path())).unwrap();
    file.write_all_at(b"?", first + 2000).unwrap();
    assert_eq!(WalTail::open(&db.path()).unwrap().wal_bytes(), first);
}

#[test]
fn a_database_without_a_log_is_its_file() {
    let db = Db::new(4096);
    db.insert(1, 30_000);
    let (path, truth) = (db.path(), db.checkpointed_copy());
    let Db { dir, connection } = db;
    drop(connection);
    assert!(!wal_of(&path).exists());
    let mut tail = WalTail::open(&path).unwrap();
    assert_eq!(content(&tail.view()), truth);
    // The file of the log comes anew, with another inode.
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("INSERT INTO t VALUES(2, 'x')").unwrap();
    assert_eq!(tail.poll().unwrap().transactions, 1);
    drop((connection, dir));
}
