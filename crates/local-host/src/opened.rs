//! Things that are opened once and shared.
//!
//! # Invariants
//! One home's thing is open at most once at any time, as its directory demands: calls that come
//! together wait for the first, and one that was put aside while somebody used it is found again.
//!
//! # Bounds
//! Of those that nobody uses, the ones used longest ago are closed first.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use base::HomeId;
use control::Result;
use parking_lot::Mutex;

/// What is open, by home.
#[derive(Debug)]
pub(crate) struct Opened<T> {
    places: Mutex<Places<T>>,
    max: usize,
}

#[derive(Debug)]
struct Places<T> {
    by_home: HashMap<HomeId, Place<T>>,
    uses: u64,
}

/// One home's.
#[derive(Debug)]
struct Place<T> {
    used: u64,
    /// Held while it is opened.
    opening: Arc<tokio::sync::Mutex<()>>,
    /// Keeps it open between calls.
    kept: Option<Arc<T>>,
    open: Weak<T>,
}

impl<T> Opened<T> {
    /// Keeps at most `max` open between calls.
    pub(crate) fn new(max: usize) -> Self {
        Self { places: Mutex::new(Places { by_home: HashMap::new(), uses: 0 }), max }
    }

    /// The one of `home`, opened with `open` where it is not open; true where it was opened now.
    ///
    /// # Errors
    /// Those of `open`.
    pub(crate) async fn get_or_open(
        &self,
        home: &HomeId,
        open: impl Future<Output = Result<T>>,
    ) -> Result<(Arc<T>, bool)> {
        let (opening, found) = self.find(home);
        if let Some(found) = found {
            return Ok((found, false));
        }
        let _alone = opening.lock().await;
        if let (_, Some(found)) = self.find(home) {
            return Ok((found, false));
        }
        let opened = Arc::new(open.await?);
        self.keep(home, &opened);
        Ok((opened, true))
    }

    /// Lets go of the one of `home`; it is closed once nobody uses it.
    pub(crate) fn close(&self, home: &HomeId) {
        let kept = self.places.lock().by_home.get_mut(home).and_then(|place| place.kept.take());
        // Closing may wait for the disk: not under the lock.
        drop(kept);
    }

    fn find(&self, home: &HomeId) -> (Arc<tokio::sync::Mutex<()>>, Option<Arc<T>>) {
        let mut places = self.places.lock();
        places.uses += 1;
        let used = places.uses;
        let place = places.by_home.entry(home.clone()).or_insert_with(|| Place {
            used,
            opening: Arc::default(),
            kept: None,
            open: Weak::new(),
        });
        place.used = used;
        (place.opening.clone(), place.open.upgrade())
    }

    fn keep(&self, home: &HomeId, opened: &Arc<T>) {
        let mut places = self.places.lock();
        if let Some(place) = places.by_home.get_mut(home) {
            place.open = Arc::downgrade(opened);
            place.kept = Some(opened.clone());
        }
        let mut kept: Vec<(u64, HomeId)> = (places.by_home.iter())
            .filter(|(_, place)| place.kept.is_some())
            .map(|(home, place)| (place.used, home.clone()))
            .collect();
        let surplus = kept.len().saturating_sub(self.max);
        kept.sort_unstable_by_key(|(used, _)| *used);
        let closed: Vec<Arc<T>> = (kept.iter().take(surplus))
            .filter_map(|(_, home)| places.by_home.get_mut(home)?.kept.take())
            .collect();
        // A place that is neither open nor about to be is forgotten.
        places.by_home.retain(|_, place| {
            place.open.strong_count() > 0 || Arc::strong_count(&place.opening) > 1
        });
        drop(places);
        drop(closed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it was opened.
    async fn open(times: &AtomicUsize) -> Result<usize> {
        tokio::task::yield_now().await;
        Ok(times.fetch_add(1, Ordering::Relaxed))
    }

    #[tokio::test]
    async fn calls_that_come_together_share_one() {
        let (opened, times, home) = (Opened::new(2), AtomicUsize::new(0), HomeId::generate());
        let call = || opened.get_or_open(&home, open(&times));
        let (one, two, three) = tokio::join!(call(), call(), call());
        let fresh = [one, two, three].map(|call| call.unwrap().1);
        assert_eq!(fresh.iter().filter(|fresh| **fresh).count(), 1);
        assert_eq!(times.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn one_that_is_in_use_is_found_again_after_it_was_put_aside() {
        let (opened, times) = (Opened::new(1), AtomicUsize::new(0));
        let (one, two) = (HomeId::generate(), HomeId::generate());
        let (used, _) = opened.get_or_open(&one, open(&times)).await.unwrap();
        opened.get_or_open(&two, open(&times)).await.unwrap();
        assert!(!opened.get_or_open(&one, open(&times)).await.unwrap().1, "still in use");
        drop(used);
        assert!(opened.get_or_open(&one, open(&times)).await.unwrap().1, "closed by now");
    }

    #[tokio::test]
    async fn one_that_was_closed_is_opened_anew() {
        let (opened, times, home) = (Opened::new(2), AtomicUsize::new(0), HomeId::generate());
        assert!(opened.get_or_open(&home, open(&times)).await.unwrap().1);
        assert!(!opened.get_or_open(&home, open(&times)).await.unwrap().1);
        opened.close(&home);
        assert!(opened.get_or_open(&home, open(&times)).await.unwrap().1);
    }

    #[tokio::test]
    async fn an_opening_that_fails_leaves_nothing() {
        let (opened, home) = (Opened::<usize>::new(2), HomeId::generate());
        let failed = opened.get_or_open(&home, async { Err(control::Error::internal("no")) });
        assert!(failed.await.is_err());
        assert_eq!(*opened.get_or_open(&home, async { Ok(7) }).await.unwrap().0, 7);
    }
}
