//! What is mounted on a directory already, by the kernel's own list.
//!
//! A server that was killed leaves its mount behind: every use of it fails with `ENOTCONN`. The
//! list says that it is one of ours without touching it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// The type that our mounts show in the kernel's list.
pub(crate) const FS_TYPE: &str = "fuse.dormouse";

/// What stands on a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No mount of ours.
    Free,
    /// A mount of ours that is served.
    Served,
    /// A mount of ours whose server is gone.
    Stale,
}

/// Looks at `target`, which need not answer.
pub(crate) fn standing(target: &Path) -> io::Result<Standing> {
    let target = resolved(target)?;
    let list = std::fs::read("/proc/self/mountinfo")?;
    if type_at(&list, &target).as_deref() != Some(FS_TYPE.as_bytes()) {
        return Ok(Standing::Free);
    }
    match std::fs::symlink_metadata(&target) {
        Err(error) if is_disconnected(&error) => Ok(Standing::Stale),
        _ => Ok(Standing::Served),
    }
}

fn is_disconnected(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOTCONN | Errno::ECONNABORTED))
}

/// The path as the kernel lists it. The last name is left as it is: what is mounted there may not
/// answer.
fn resolved(target: &Path) -> io::Result<PathBuf> {
    let target = std::path::absolute(target)?;
    match (target.parent(), target.file_name()) {
        (Some(parent), Some(name)) => {
            let direct = parent.canonicalize()?.join(name);
            // A link to the directory is listed by where it leads.
            Ok(if direct.is_symlink() { direct.canonicalize()? } else { direct })
        }
        _ => Ok(target),
    }
}

/// The file-system type of the topmost mount on exactly `target`.
fn type_at(list: &[u8], target: &Path) -> Option<Vec<u8>> {
    let mut found = None;
    for line in list.split(|byte| *byte == b'\n') {
        // id parent major:minor root TARGET options optional... - TYPE source super-options
        let mut fields = line.split(|byte| *byte == b' ');
        let at = fields.nth(4);
        let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
        if let (Some(at), Some(kind)) = (at, behind.next())
            && unescaped(at).as_os_str().as_bytes() == target.as_os_str().as_bytes()
        {
            // Later ones lie over earlier ones.
            found = Some(kind.to_vec());
        }
    }
    found
}

/// Blanks, tabs, newlines and backslashes are listed as `\ooo`.
fn unescaped(text: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        let digits =
            behind.get(..3).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match (first, digits) {
            (b'\\', Some(digits)) => {
                let value =
                    digits.iter().fold(0_u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
                out.push(u8::try_from(value).unwrap_or(b'?'));
                rest = &behind[3..];
            }
            _ => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
        40 22 0:40 / /mnt/a\\040b rw,nosuid shared:7 master:2 - fuse.dormouse dormouse rw\n\
        41 22 0:41 / /mnt/x rw - tmpfs tmpfs rw\n\
        42 22 0:42 / /mnt/x rw - fuse.dormouse dormouse rw\n\
        broken line\n";

    #[test]
    fn the_topmost_mount_on_a_directory_is_found() {
        assert_eq!(type_at(LIST, Path::new("/mnt/a b")).unwrap(), b"fuse.dormouse");
        assert_eq!(type_at(LIST, Path::new("/mnt/x")).unwrap(), b"fuse.dormouse");
        assert_eq!(type_at(LIST, Path::new("/")).unwrap(), b"ext4");
        assert_eq!(type_at(LIST, Path::new("/mnt")), None);
    }

    #[test]
    fn names_are_listed_with_octal_numbers() {
        assert_eq!(unescaped(b"a\\040b\\134c\\01"), OsString::from("a b\\c\\01"));
    }

    #[test]
    fn a_plain_directory_is_free() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(standing(dir.path()).unwrap(), Standing::Free);
        assert!(standing(&dir.path().join("no/such")).is_err());
    }
}
