//! The open file that SQLite sees: pages, end to end.
#![allow(unsafe_code, reason = "SQLite calls files through tables of C functions")]

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::ffi;

use crate::{Pages, note_error};

/// What lies in the memory that SQLite sets aside for a file. SQLite looks at `base` only.
#[repr(C)]
pub(crate) struct File {
    base: ffi::sqlite3_file,
    /// Made by `Box::into_raw` in [`fill`], freed in [`close`]; null once it is closed.
    pages: *mut Arc<dyn Pages>,
}

/// The calls that a file of ours answers. Version 1: no shared memory, no mapping.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(lock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Makes `file` an open file over `pages`.
///
/// # Safety
/// `file` points at memory for a [`File`], aligned for it, that nobody else uses.
pub(crate) unsafe fn fill(file: *mut ffi::sqlite3_file, pages: Arc<dyn Pages>) {
    let pages = Box::into_raw(Box::new(pages));
    let filled = File { base: ffi::sqlite3_file { pMethods: &raw const METHODS }, pages };
    // SAFETY: the caller says that the memory is ours, large and aligned enough.
    unsafe { file.cast::<File>().write(filled) };
}

/// The source behind an open file.
///
/// # Safety
/// `file` was filled by [`fill`] and is not closed while the result is used.
unsafe fn pages<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a dyn Pages> {
    // SAFETY: SQLite hands back what `fill` filled; `pages` is null or from `Box::into_raw`.
    unsafe { (*file.cast::<File>()).pages.as_ref().map(|pages| &**pages) }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file that we filled, and uses it no more.
    let raw = unsafe { std::mem::replace(&mut (*file.cast::<File>()).pages, std::ptr::null_mut()) };
    if !raw.is_null() {
        // SAFETY: it came from `Box::into_raw` and was just taken out, so this happens once.
        let pages = unsafe { Box::from_raw(raw) };
        // A source whose destructor panics has nobody to tell.
        drop(catch_unwind(AssertUnwindSafe(move || drop(pages))));
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    into: *mut c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let (Ok(len), Ok(offset)) = (usize::try_from(len), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_READ;
    };
    // SAFETY: SQLite gives a buffer of `len` bytes that nobody else uses during the call. Zeroed
    // first, so that it is initialised memory whatever it was before.
    let into = unsafe {
        into.cast::<u8>().write_bytes(0, len);
        std::slice::from_raw_parts_mut(into.cast::<u8>(), len)
    };
    // SAFETY: SQLite reads from a file that we filled and that is open.
    let Some(pages) = (unsafe { pages(file) }) else { return ffi::SQLITE_IOERR_READ };
    match catch_unwind(AssertUnwindSafe(|| read_range(pages, into, offset))) {
        Ok(Ok(true)) => ffi::SQLITE_OK,
        Ok(Ok(false)) => ffi::SQLITE_IOERR_SHORT_READ,
        Ok(Err(cause)) => {
            note_error(cause);
            ffi::SQLITE_IOERR_READ
        }
        Err(_) => {
            note_error("the source of the pages panicked".into());
            ffi::SQLITE_IOERR_READ
        }
    }
}

/// Fills `into`, which is zeros, from `offset` of the database; false where it ends before that.
fn read_range(pages: &dyn Pages, into: &mut [u8], offset: u64) -> Result<bool, crate::Cause> {
    let size = u64::from(pages.page_size());
    let end = size * u64::from(pages.page_count());
    let mut whole = Vec::new();
    let (mut into, mut at) = (into, offset);
    while !into.is_empty() {
        if size == 0 || at >= end {
            return Ok(false);
        }
        // Below `page_count`, so it fits.
        let page = u32::try_from(at / size)? + 1;
        let skip = usize::try_from(at % size)?;
        let take = into.len().min(usize::try_from(size)? - skip);
        let (part, rest) = std::mem::take(&mut into).split_at_mut(take);
        if part.len() as u64 == size {
            pages.read(page, part)?;
        } else {
            whole.resize(usize::try_from(size)?, 0);
            pages.read(page, &mut whole)?;
            part.copy_from_slice(&whole[skip..skip + take]);
        }
        (into, at) = (rest, at + take as u64);
    }
    Ok(true)
}

unsafe extern "C" fn file_size(
    file: *mut ffi::sqlite3_file,
    size: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite asks about a file that we filled and that is open.
    let Some(pages) = (unsafe { pages(file) }) else { return ffi::SQLITE_IOERR_FSTAT };
    let asked = || i64::from(pages.page_size()) * i64::from(pages.page_count());
    let Ok(bytes) = catch_unwind(AssertUnwindSafe(asked)) else { return ffi::SQLITE_IOERR_FSTAT };
    // SAFETY: SQLite points at a number of its own.
    unsafe { *size = bytes };
    ffi::SQLITE_OK
}

unsafe extern "C" fn write(
    _: *mut ffi::sqlite3_file,
    _: *const c_void,
    _: c_int,
    _: ffi::sqlite3_int64,
) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn truncate(_: *mut ffi::sqlite3_file, _: ffi::sqlite3_int64) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn sync(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn lock(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_: *mut ffi::sqlite3_file, reserved: *mut c_int) -> c_int {
    // SAFETY: SQLite points at a number of its own.
    unsafe { *reserved = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4_096
}

unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_IMMUTABLE
}
