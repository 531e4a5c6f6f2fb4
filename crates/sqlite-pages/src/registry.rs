//! Sources by name, between the call that opens a connection and SQLite opening the file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

use crate::Pages;

static SOURCES: LazyLock<Mutex<HashMap<String, Arc<dyn Pages>>>> = LazyLock::new(Mutex::default);
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A source that can be found by its name as long as this lives.
pub(crate) struct Entry(String);

impl Entry {
    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        SOURCES.lock().remove(&self.0);
    }
}

/// Gives `pages` a name that nothing else has.
pub(crate) fn enter(pages: Arc<dyn Pages>) -> Entry {
    let name = format!("pages-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    SOURCES.lock().insert(name.clone(), pages);
    Entry(name)
}

/// The source of that name.
pub(crate) fn find(name: &str) -> Option<Arc<dyn Pages>> {
    SOURCES.lock().get(name).cloned()
}
