//! The file system that SQLite sees: it has the files of `registry` and no others.
//!
//! Registered once in a process, under a name of its own and never as the default. Time, pauses and
//! randomness are those of SQLite's own file system.
#![allow(unsafe_code, reason = "SQLite calls file systems through tables of C functions")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use rusqlite::{Connection, ffi};

use crate::{file, registry};

const NAME: &CStr = c"dormouse-pages";
/// The longest name of a file, its end included.
const NAME_BYTES_MAX: c_int = 64;

/// The name to open connections with; registers the file system when it is first asked for.
pub(crate) fn name() -> rusqlite::Result<&'static CStr> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    let code = *REGISTERED.get_or_init(|| {
        // Lets `rusqlite` set the library up before anybody else does.
        match Connection::open_in_memory() {
            Ok(_) => register(),
            Err(error) => error.sqlite_error().map_or(ffi::SQLITE_ERROR, |e| e.extended_code),
        }
    });
    match code {
        ffi::SQLITE_OK => Ok(NAME),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

fn register() -> c_int {
    // SAFETY: a null name asks for the default, which lives as long as the process.
    let default = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) };
    if default.is_null() {
        return ffi::SQLITE_ERROR;
    }
    let size = c_int::try_from(size_of::<file::File>()).unwrap_or(c_int::MAX);
    let vfs = Box::new(ffi::sqlite3_vfs {
        iVersion: 2,
        szOsFile: size,
        mxPathname: NAME_BYTES_MAX,
        pNext: std::ptr::null_mut(),
        zName: NAME.as_ptr(),
        pAppData: default.cast::<c_void>(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: Some(get_last_error),
        xCurrentTimeInt64: Some(current_time_i64),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    });
    // SAFETY: the table is leaked on purpose: SQLite keeps the pointer as long as the process.
    unsafe { ffi::sqlite3_vfs_register(Box::leak(vfs), 0) }
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    // SAFETY: `file` is memory of `szOsFile` bytes, ours from here on. Without methods SQLite does
    // not close it, which is what a failed opening must leave.
    unsafe { (*file).pMethods = std::ptr::null() };
    // Journals and temporary files have no place here.
    if name.is_null() || flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: a name that is not null ends in a zero byte and outlives the file.
    let name = unsafe { CStr::from_ptr(name) };
    let Some(pages) = name.to_str().ok().and_then(registry::find) else {
        return ffi::SQLITE_CANTOPEN;
    };
    // SAFETY: as above; SQLite aligns it for any type that C has, which is enough for pointers.
    unsafe { file::fill(file, pages) };
    if !flags_out.is_null() {
        // SAFETY: where it is not null it points at a number of SQLite's.
        unsafe { *flags_out = ffi::SQLITE_OPEN_READONLY | ffi::SQLITE_OPEN_MAIN_DB };
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, _: *const c_char, _: c_int) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn access(
    _: *mut ffi::sqlite3_vfs,
    _: *const c_char,
    _: c_int,
    found: *mut c_int,
) -> c_int {
    // SAFETY: SQLite points at a number of its own. No journal, no log is beside a file of ours.
    unsafe { *found = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes a name that ends in a zero byte.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    match usize::try_from(len) {
        // SAFETY: `out` has `len` bytes, which is enough, and is not part of `name`.
        Ok(len) if name.len() <= len => unsafe {
            out.copy_from_nonoverlapping(name.as_ptr().cast::<c_char>(), name.len());
            ffi::SQLITE_OK
        },
        _ => ffi::SQLITE_CANTOPEN,
    }
}

/// SQLite's own file system, from the table that `register` filled.
///
/// # Safety
/// `vfs` is the table of `register`.
unsafe fn default_of(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: as the caller says; the default lives as long as the process.
    unsafe { (*vfs).pAppData.cast::<ffi::sqlite3_vfs>() }
}

unsafe extern "C" fn randomness(vfs: *mut ffi::sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    // SAFETY: the arguments are handed on as SQLite gave them.
    unsafe {
        let default = default_of(vfs);
        (*default).xRandomness.map_or(0, |call| call(default, len, out))
    }
}

unsafe extern "C" fn sleep(vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    // SAFETY: the arguments are handed on as SQLite gave them.
    unsafe {
        let default = default_of(vfs);
        (*default).xSleep.map_or(0, |call| call(default, microseconds))
    }
}

unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: the arguments are handed on as SQLite gave them.
    unsafe {
        let default = default_of(vfs);
        (*default).xCurrentTime.map_or(ffi::SQLITE_ERROR, |call| call(default, out))
    }
}

unsafe extern "C" fn current_time_i64(
    vfs: *mut ffi::sqlite3_vfs,
    out: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: the arguments are handed on as SQLite gave them.
    unsafe {
        let default = default_of(vfs);
        match (*default).xCurrentTimeInt64 {
            Some(call) if (*default).iVersion >= 2 => call(default, out),
            _ => ffi::SQLITE_ERROR,
        }
    }
}

unsafe extern "C" fn get_last_error(_: *mut ffi::sqlite3_vfs, _: c_int, _: *mut c_char) -> c_int {
    0
}
