//! The few ways SQL is run here: always with cached statements, always with our errors.

use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension, Params, Row};
use vfs::{Errno, FsError, Result};

use crate::error::to_fs;
use crate::replica::error::Error as LogError;

/// Turns an error of the database into one of the file system.
pub(crate) fn failed(error: rusqlite::Error) -> FsError {
    // SQLite only knows that a page could not be read; who should have read it knows why.
    if let Some(cause) = sqlite_pages::take_error() {
        return match cause.downcast::<LogError>() {
            Ok(error) => to_fs(*error),
            Err(other) => FsError::with(Errno::EIO, format!("the home's metadata: {other}")),
        };
    }
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

/// Shows row after row to `see`, until it says that this is enough. For statements with any number
/// of rows.
pub(crate) fn each(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    mut see: impl FnMut(&Row<'_>) -> rusqlite::Result<ControlFlow<()>>,
) -> Result<()> {
    let mut statement = conn.prepare_cached(sql).map_err(failed)?;
    let mut rows = statement.query(params).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        if see(row).map_err(failed)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// An unsigned number as SQLite keeps it. All that we store is below 2^63.
pub(crate) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An unsigned column. Negative is damage, and reads as zero rather than as something huge.
pub(crate) fn uint(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}
