//! Listing a directory tree as a flat, ordered set of keys.
//!
//! # Order
//! A directory counts as its name with a slash, since that is what its keys go on with: `a-b/x`
//! comes before `a/x`. So a walk that sorts each directory that way visits keys in ascending order,
//! and can stop at the wanted number.
//!
//! # Failure
//! What disappears between being seen and being looked at is left out, as if deleted before.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::ObjectMeta;

/// Up to `max` objects below `prefix` whose key is greater than `after`.
pub(crate) fn list(
    root: &Path,
    prefix: &str,
    after: &str,
    max: usize,
) -> io::Result<Vec<ObjectMeta>> {
    let mut found = Vec::new();
    walk(root, prefix, after, max, &mut found)?;
    Ok(found)
}

/// `prefix` is that of a directory: empty or with its slash at the end.
fn walk(
    root: &Path,
    prefix: &str,
    after: &str,
    max: usize,
    found: &mut Vec<ObjectMeta>,
) -> io::Result<()> {
    for (key, is_directory) in entries(root, prefix, after)? {
        if found.len() >= max {
            return Ok(());
        }
        if is_directory {
            walk(root, &key, after, max, found)?;
            continue;
        }
        match fs::metadata(root.join(&key)) {
            Ok(meta) => found.push(ObjectMeta { key, size: meta.len() }),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What one directory holds that can matter, and whether each is a directory.
fn entries(root: &Path, prefix: &str, after: &str) -> io::Result<BTreeMap<String, bool>> {
    let directory = match fs::read_dir(root.join(prefix)) {
        Ok(directory) => directory,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(BTreeMap::new());
        }
        Err(error) => return Err(error),
    };
    let mut entries = BTreeMap::new();
    for entry in directory {
        let entry = entry?;
        let name = entry.file_name();
        // Ours are ASCII without a leading dot; anything else is not an object.
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        let is_directory = entry.file_type()?.is_dir();
        let key = format!("{prefix}{name}{}", if is_directory { "/" } else { "" });
        let wanted = if is_directory {
            key.as_str() > after || after.starts_with(&key)
        } else {
            key.as_str() > after
        };
        if wanted {
            entries.insert(key, is_directory);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(root: &Path, prefix: &str, after: &str, max: usize) -> Vec<String> {
        list(root, prefix, after, max).unwrap().into_iter().map(|meta| meta.key).collect()
    }

    #[test]
    fn keys_come_in_byte_order_across_directories() {
        let root = tempfile::tempdir().unwrap();
        let mut all = ["a-b/x", "a/x", "a/y/z", "a0", "b/1", "b/10", "b/2", ".staged/x"];
        for key in all {
            let path = root.path().join(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, key).unwrap();
        }
        all.sort_unstable();
        let visible = &all[1..];
        assert_eq!(keys(root.path(), "", "", 100), visible);
        assert_eq!(keys(root.path(), "a/", "", 100), ["a/x", "a/y/z"]);
        for (index, key) in visible.iter().enumerate() {
            assert_eq!(
                keys(root.path(), "", key, 2),
                visible[index + 1..].iter().take(2).copied().collect::<Vec<_>>()
            );
        }
        assert!(keys(root.path(), "missing/", "", 100).is_empty());
    }
}
