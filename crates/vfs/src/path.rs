//! Paths as clients write them: bytes, relative to the home, split and checked once.

use std::fmt;

use crate::{Errno, FsError, Result, check_name};

/// Longest path in bytes (Linux `PATH_MAX`).
pub const PATH_BYTES_MAX: usize = 4096;

/// A checked path below a root. The empty one is the root itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreePath(Vec<Vec<u8>>);

impl TreePath {
    /// The root.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Splits at `/`. One trailing slash is allowed, as people write it after directories.
    ///
    /// # Errors
    /// `EINVAL` for `.`, `..`, an empty component or NUL, `ENAMETOOLONG` past 255 bytes a component
    /// or 4,096 in all. The message names the component.
    pub fn parse(text: &[u8]) -> Result<Self> {
        if text.len() > PATH_BYTES_MAX {
            return Err(FsError::with(
                Errno::ENAMETOOLONG,
                format!("the path has {} bytes; at most {PATH_BYTES_MAX} are allowed", text.len()),
            ));
        }
        let text = text.strip_suffix(b"/").unwrap_or(text);
        if text.is_empty() {
            return Ok(Self::root());
        }
        let mut parts = Vec::new();
        for name in text.split(|b| *b == b'/') {
            check_name(name).map_err(|error| {
                let what = match error.errno() {
                    Errno::ENAMETOOLONG => "is longer than 255 bytes",
                    _ if name.is_empty() => {
                        "is empty: write the path without a leading or double slash"
                    }
                    _ if name.contains(&0) => "contains NUL",
                    _ => "is not allowed: paths are taken as they are, without . and ..",
                };
                FsError::with(error.errno(), format!("path component {:?} {what}", show(name)))
            })?;
            parts.push(name.to_vec());
        }
        Ok(Self(parts))
    }

    /// From components that are names already.
    #[must_use]
    pub fn from_parts(parts: Vec<Vec<u8>>) -> Self {
        Self(parts)
    }

    /// The components.
    #[must_use]
    pub fn parts(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// True for the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path with another one below it.
    #[must_use]
    pub fn join(&self, below: &Self) -> Self {
        Self(self.0.iter().chain(&below.0).cloned().collect())
    }

    /// The bytes, joined with `/`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.join(&b'/')
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            f.write_str("the home itself")
        } else {
            f.write_str(&show(&self.to_bytes()))
        }
    }
}

/// Bytes for a message: control characters escaped, not valid UTF-8 replaced, cut at 200 characters.
#[must_use]
pub fn show(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text
        .chars()
        .take(200)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    if text.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}

/// What a symbolic link's target means, seen from inside a home that is mounted at `/root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkTarget {
    /// Relative to the root of the home.
    FromRoot(Vec<Vec<u8>>),
    /// Relative to the directory of the link; may hold `..`.
    Relative(Vec<Vec<u8>>),
    /// An absolute path that is not in the home.
    Outside,
}

impl LinkTarget {
    /// Splits the target of a link; empty and `.` components fall away.
    #[must_use]
    pub fn parse(target: &[u8]) -> Self {
        let parts = |bytes: &[u8]| -> Vec<Vec<u8>> {
            bytes
                .split(|b| *b == b'/')
                .filter(|part| !part.is_empty() && *part != b".")
                .map(<[u8]>::to_vec)
                .collect()
        };
        if !target.starts_with(b"/") {
            return Self::Relative(parts(target));
        }
        let mut absolute = parts(target);
        if absolute.first().is_some_and(|first| first == b"root") {
            absolute.remove(0);
            Self::FromRoot(absolute)
        } else {
            Self::Outside
        }
    }

    /// True where the target cannot climb out of the home when the link stands in a directory
    /// `depth` levels below its root. Lexical: directories count, links on the way do not.
    #[must_use]
    pub fn stays_inside(&self, depth: usize) -> bool {
        let (parts, mut level) = match self {
            Self::Outside => return false,
            Self::FromRoot(parts) => (parts, 0),
            Self::Relative(parts) => (parts, depth),
        };
        for part in parts {
            if part == b".." {
                let Some(up) = level.checked_sub(1) else { return false };
                level = up;
            } else {
                level += 1;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_as_it_is() {
        assert_eq!(TreePath::parse(b"a/b\xff/c").unwrap().parts().len(), 3);
        assert_eq!(TreePath::parse(b"dir/").unwrap().to_bytes(), b"dir");
        assert!(TreePath::parse(b"").unwrap().is_root());
    }

    #[test]
    fn what_could_mean_another_place_is_refused() {
        for bad in [&b"../x"[..], b"a/../b", b"a//b", b"/abs", b"a/./b", b"a\0b", b".", b"a//"] {
            let error = TreePath::parse(bad).unwrap_err();
            assert_eq!(error.errno(), Errno::EINVAL, "{}", show(bad));
        }
        let long = vec![b'x'; 256];
        assert_eq!(TreePath::parse(&long).unwrap_err().errno(), Errno::ENAMETOOLONG);
        assert_eq!(TreePath::parse(&[b'x'; 5000]).unwrap_err().errno(), Errno::ENAMETOOLONG);
    }

    #[test]
    fn links_are_judged_from_where_they_stand() {
        let inside = |target: &[u8], depth| LinkTarget::parse(target).stays_inside(depth);
        assert!(inside(b"../x", 1) && !inside(b"../x", 0));
        assert!(inside(b"/root/a/../b", 0) && !inside(b"/root/..", 5));
        assert!(!inside(b"/etc/passwd", 3) && !inside(b"/rootkit", 3));
        assert!(inside(b"a/b/../../..", 1) && !inside(b"a/../..", 0));
    }
}
