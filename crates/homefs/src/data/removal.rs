//! Spool files that nothing needs any more go without anybody waiting for it.
//!
//! A few are unlinked at once, by whoever found them to be of no use: a sync, mostly. Many, as when
//! a large tree was written and removed, go to a thread that lives as long as there are some.
//!
//! # Failure
//! What is not unlinked when the process ends is swept when the home is next opened.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

/// So many are unlinked at once.
const AT_ONCE: usize = 64;

/// Unlinks files.
#[derive(Debug, Default)]
pub(super) struct Removal {
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    paths: Vec<PathBuf>,
    /// A thread is at it.
    is_served: bool,
}

impl Removal {
    /// Unlinks all of them, by and by; returns how many it unlinked itself.
    pub(super) fn remove(&self, mut paths: Vec<PathBuf>) -> usize {
        let few = paths.len().min(AT_ONCE);
        for path in paths.drain(..few) {
            unlink(path);
        }
        if !paths.is_empty() {
            self.leave(paths);
        }
        few
    }

    fn leave(&self, paths: Vec<PathBuf>) {
        let mut queue = self.queue.lock();
        queue.paths.extend(paths);
        if std::mem::replace(&mut queue.is_served, true) {
            return;
        }
        let ours = self.queue.clone();
        let thread = std::thread::Builder::new().name("home-unlink".to_owned());
        if let Err(error) = thread.spawn(move || serve(&ours)) {
            // The next one tries again; else the next opening sweeps.
            queue.is_served = false;
            tracing::warn!(%error, "no thread for removing spool files; they stay for now");
        }
    }
}

fn serve(queue: &Mutex<Queue>) {
    loop {
        let path = {
            let mut queue = queue.lock();
            let path = queue.paths.pop();
            queue.is_served = path.is_some();
            path
        };
        match path {
            Some(path) => unlink(path),
            None => return,
        }
    }
}

fn unlink(path: PathBuf) {
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "a spool file could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_finds_many_files_of_no_use_unlinks_a_few() {
        let dir = tempfile::tempdir().unwrap();
        let removal = Removal::default();
        for round in 0..3 {
            let paths = (0..2_000).map(|n| dir.path().join(format!("{round}-{n}")));
            let paths: Vec<_> = paths.inspect(|path| std::fs::write(path, b"x").unwrap()).collect();
            assert_eq!(removal.remove(paths), AT_ONCE);
        }
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while std::fs::read_dir(dir.path()).unwrap().count() > 0 {
            assert!(std::time::Instant::now() < until, "they do not go");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(removal.remove(vec![dir.path().join("gone")]), 1, "none there is no error");
    }
}
