//! The few ways SQL is run here: always with cached statements, always with our errors.

use rusqlite::{Connection, OptionalExtension, Params, Row};
use vfs::{Errno, FsError, Result};

/// Turns an error of the database into one of the file system.
pub(crate) fn failed(error: rusqlite::Error) -> FsError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => {
            FsError::with(Errno::ENOSPC, "the host has no space left for the home's metadata")
        }
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            FsError::of_kind(
                base::ErrorKind::Corrupt,
                Errno::EIO,
                "the home's metadata is damaged on this host; open it again from the store",
            )
        }
        _ => FsError::with(Errno::EIO, format!("the home's metadata: {error}")),
    }
}

/// Runs a statement that returns no rows; the number of rows it changed.
pub(crate) fn run(conn: &Connection, sql: &str, params: impl Params) -> Result<usize> {
    conn.prepare_cached(sql).and_then(|mut s| s.execute(params)).map_err(failed)
}

/// The first row, if there is one.
pub(crate) fn first<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>> {
    conn.prepare_cached(sql).and_then(|mut s| s.query_row(params, map).optional()).map_err(failed)
}

/// All rows. For statements whose number of rows is bounded.
pub(crate) fn all<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    conn.prepare_cached(sql).and_then(|mut s| s.query_map(params, map)?.collect()).map_err(failed)
}

/// An unsigned number as SQLite keeps it. All that we store is below 2^63.
pub(crate) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An unsigned column. Negative is damage, and reads as zero rather than as something huge.
pub(crate) fn uint(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}
