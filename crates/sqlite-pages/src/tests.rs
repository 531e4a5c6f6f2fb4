use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rusqlite::{Connection, ErrorCode, params};

use super::*;

/// A database in memory that counts, fails and panics when told to.
struct Image {
    bytes: Vec<u8>,
    page_size: u32,
    reads: AtomicU64,
    fails: AtomicBool,
    panics: AtomicBool,
}

impl Image {
    fn of(bytes: Vec<u8>, page_size: u32) -> Arc<Self> {
        let (fails, panics) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { bytes, page_size, reads: AtomicU64::new(0), fails, panics })
    }
}

impl Pages for Image {
    fn page_size(&self) -> u32 {
        self.page_size
    }
    fn page_count(&self) -> u32 {
        self.bytes.len() as u32 / self.page_size
    }
    fn read(&self, page: u32, into: &mut [u8]) -> Result<(), Cause> {
        assert!(!self.panics.load(Ordering::SeqCst), "told to panic");
        if self.fails.load(Ordering::SeqCst) {
            return Err("told to fail".into());
        }
        assert_eq!(into.len(), self.page_size as usize);
        self.reads.fetch_add(1, Ordering::SeqCst);
        let at = (page as usize - 1) * into.len();
        into.copy_from_slice(&self.bytes[at..at + into.len()]);
        Ok(())
    }
}

/// A database in WAL mode, checkpointed, with `rows` rows of a hundred bytes.
fn image(page_size: u32, rows: u32) -> Arc<Image> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    fill(&path, page_size, rows);
    Image::of(std::fs::read(path).unwrap(), page_size)
}

fn fill(path: &Path, page_size: u32, rows: u32) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(&format!(
        "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
         CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB); BEGIN;"
    ))
    .unwrap();
    for n in 0..rows {
        conn.execute("INSERT INTO t VALUES(?1, zeroblob(100))", params![n]).unwrap();
    }
    conn.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE);").unwrap();
}

fn count(conn: &Connection) -> rusqlite::Result<u32> {
    conn.query_row("SELECT count(*) FROM t WHERE length(body)=100", [], |r| r.get(0))
}

#[test]
fn a_database_is_read_whatever_its_page_size() {
    for page_size in [512, 4_096, 65_536] {
        let image = image(page_size, 2_000);
        let conn = open(image).unwrap();
        assert_eq!(count(&conn).unwrap(), 2_000, "{page_size}");
        let check: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
}

#[test]
fn only_the_pages_on_the_way_are_read_and_each_once() {
    let image = image(4_096, 50_000);
    let conn = open(image.clone()).unwrap();
    let one = |id: u32| {
        conn.query_row("SELECT length(body) FROM t WHERE id=?1", [id], |r| r.get::<_, u32>(0))
    };
    one(31_000).unwrap();
    let reads = image.reads.swap(0, Ordering::SeqCst);
    assert!(reads <= 7, "{reads} pages");
    one(31_000).unwrap();
    assert_eq!(image.reads.load(Ordering::SeqCst), 0);
}

#[test]
fn nothing_can_be_written() {
    let conn = open(image(4_096, 10)).unwrap();
    let error = conn.execute("DELETE FROM t", []).unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly));
    assert_eq!(count(&conn).unwrap(), 10);
}

#[test]
fn views_that_last_as_long_as_the_connection_can_be_made_and_rows_sorted() {
    let conn = open(image(512, 20_000)).unwrap();
    conn.execute_batch(
        "PRAGMA cache_size=10; CREATE TEMP VIEW t AS SELECT id+1 AS id, body FROM main.t",
    )
    .unwrap();
    let last: u32 = conn
        .query_row("SELECT id FROM t ORDER BY id%7, hex(body), id DESC LIMIT 1", [], |r| r.get(0))
        .unwrap();
    assert_eq!(last, 19_999);
}

#[test]
fn a_page_that_cannot_be_read_is_an_error_with_its_cause_and_no_lasting_harm() {
    let image = image(4_096, 5_000);
    let conn = open(image.clone()).unwrap();
    for (what, wanted) in [(&image.fails, "told to fail"), (&image.panics, "panicked")] {
        what.store(true, Ordering::SeqCst);
        let error = count(&conn).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::SystemIoFailure));
        assert!(take_error().unwrap().to_string().contains(wanted));
        assert!(take_error().is_none());
        what.store(false, Ordering::SeqCst);
    }
    assert_eq!(count(&conn).unwrap(), 5_000);
}

#[test]
fn a_source_that_fails_at_once_cannot_be_opened_or_read() {
    let image = image(4_096, 5);
    image.fails.store(true, Ordering::SeqCst);
    let outcome = open(image).and_then(|conn| count(&conn));
    assert!(outcome.is_err() && take_error().is_some());
}

#[test]
fn a_source_goes_with_its_last_connection() {
    let image = image(4_096, 5);
    let (first, second) = (open(image.clone()).unwrap(), open(image.clone()).unwrap());
    assert_eq!(Arc::strong_count(&image), 3);
    drop(first);
    assert_eq!(count(&second).unwrap(), 5);
    drop(second);
    assert_eq!(Arc::strong_count(&image), 1);
}

#[test]
fn what_is_no_database_is_refused() {
    for bytes in [vec![7; 8_192], vec![0; 4_096], b"SQLite format 3\0".repeat(256)] {
        let conn = open(Image::of(bytes, 4_096));
        assert!(conn.and_then(|conn| count(&conn)).is_err());
    }
    let conn = open(Image::of(Vec::new(), 4_096)).unwrap();
    assert!(count(&conn).is_err(), "an empty database has no tables");
}

#[test]
fn damage_anywhere_is_an_error_or_another_answer_and_never_worse() {
    let good = image(512, 300);
    for seed in 0..400_usize {
        let mut bytes = good.bytes.clone();
        for n in 0..4 {
            let at = (seed * 7_919 + n * 104_729) % bytes.len();
            bytes[at] ^= 1 << (seed % 8);
        }
        if let Ok(conn) = open(Image::of(bytes, 512)) {
            drop(count(&conn));
        }
    }
}

#[test]
fn threads_read_at_the_same_time() {
    let image = image(4_096, 20_000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(count(&open(image.clone()).unwrap()).unwrap(), 20_000);
                }
            });
        }
    });
}

#[test]
fn an_unknown_name_and_a_journal_are_not_there() {
    drop(open(image(4_096, 1)).unwrap());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    assert!(Connection::open_with_flags_and_vfs("nothing", flags, c"dormouse-pages").is_err());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let long = "x".repeat(200);
    assert!(Connection::open_with_flags_and_vfs(long, flags, c"dormouse-pages").is_err());
}
