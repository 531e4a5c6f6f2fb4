//! Small changes of one tree, made and synced in company.
//!
//! A change takes microseconds, making it durable takes a trip to the disk, and handing either to
//! another thread costs as much as the change. So whoever finds nobody at work gets a blocking thread,
//! which makes all changes that have queued up by then, one after the other, and then syncs once
//! for all of them. While it syncs, the next one may begin with the changes that come meanwhile.
//!
//! # Order
//! A change is answered when a sync that began after it has ended; one that failed is answered at once.
//!
//! # Bounds
//! [`WAITING_MAX`] changes wait, others wait to wait. At most two threads are at work.
//!
//! # Not here
//! Changes that take long, or wait for a client: they would hold up those behind them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use vfs::FileSystem;

use crate::{Failure, Result};

/// Changes that wait for a thread or for the disk.
const WAITING_MAX: usize = 1024;

/// What is changed.
pub trait Tree: Send + Sync + 'static {
    /// Returns when everything that was changed so far survives power loss here.
    ///
    /// # Errors
    /// Those of the disk.
    fn settle(&self) -> vfs::Result<()>;
}

impl Tree for dyn FileSystem {
    fn settle(&self) -> vfs::Result<()> {
        self.sync_local()
    }
}

/// Answers a change that was made, with how its sync went.
type Answer = Box<dyn FnOnce(Result<()>) + Send>;
/// Makes a change; `None` where it failed and was answered.
type Change = Box<dyn FnOnce() -> Option<Answer> + Send>;

/// See the module. One for each tree: those who have two are only slower.
pub struct Lane<T: ?Sized = dyn FileSystem> {
    places: Arc<Semaphore>,
    state: Mutex<State<T>>,
}

/// Work that waits, and whether somebody is at it.
struct State<T: ?Sized> {
    changes: Vec<(Arc<T>, Change)>,
    changing: bool,
    made: Vec<(Arc<T>, Answer)>,
    syncing: bool,
}

impl<T: ?Sized> std::fmt::Debug for Lane<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl<T: ?Sized> Default for Lane<T> {
    fn default() -> Self {
        let (changes, made) = (Vec::new(), Vec::new());
        let state = State { changes, changing: false, made, syncing: false };
        Self { places: Arc::new(Semaphore::new(WAITING_MAX)), state: Mutex::new(state) }
    }
}

impl<T: Tree + ?Sized> Lane<T> {
    /// Runs `change` on `tree` and answers when it survives power loss here. Once asked for, the change
    /// is made, also where nobody waits for it any more.
    pub(super) async fn durably<V: Send + 'static>(
        self: &Arc<Self>,
        tree: Arc<T>,
        change: impl FnOnce() -> Result<V> + Send + 'static,
    ) -> Result<V> {
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(|error| Failure::internal("wait for other changes", error))?;
        let (tell, told) = oneshot::channel();
        let change = Box::new(move || match guarded(change) {
            // Nobody listening is as good as told.
            Err(failure) => tell.send(Err(failure)).err().and(None),
            Ok(value) => Some(Box::new(move |synced: Result<()>| {
                // Until here the change takes its place, also where nobody waits for it any more.
                drop(place);
                tell.send(synced.map(|()| value)).ok();
            }) as Answer),
        });
        let begin = {
            let mut state = self.state.lock();
            state.changes.push((tree, change));
            !std::mem::replace(&mut state.changing, true)
        };
        if begin {
            let lane = self.clone();
            tokio::task::spawn_blocking(move || lane.change_all());
        }
        told.await.unwrap_or_else(|error| Err(Failure::internal("a change ended early", error)))
    }

    /// Makes changes until there are no more, then syncs, unless somebody does already.
    fn change_all(self: &Arc<Self>) {
        loop {
            let changes = std::mem::take(&mut self.state.lock().changes);
            let made: Vec<(Arc<T>, Answer)> = (changes.into_iter())
                .filter_map(|(tree, change)| Some((tree, change()?)))
                .collect();
            let (more, sync) = {
                let mut state = self.state.lock();
                state.made.extend(made);
                state.changing = !state.changes.is_empty();
                let sync = !state.made.is_empty() && !state.syncing;
                state.syncing |= sync;
                (state.changing, sync)
            };
            match (more, sync) {
                (true, true) => {
                    let lane = self.clone();
                    tokio::task::spawn_blocking(move || lane.sync_all());
                }
                (true, false) => {}
                (false, true) => return self.sync_all(),
                (false, false) => return,
            }
        }
    }

    /// Syncs and answers until everything that was made is answered.
    fn sync_all(&self) {
        loop {
            let made = {
                let mut state = self.state.lock();
                if state.made.is_empty() {
                    state.syncing = false;
                    return;
                }
                std::mem::take(&mut state.made)
            };
            let mut synced: Vec<(Arc<T>, Result<()>)> = Vec::with_capacity(1);
            for (tree, answer) in made {
                let known = synced.iter().find(|(other, _)| Arc::ptr_eq(other, &tree));
                let outcome = match known {
                    Some((_, outcome)) => outcome.clone(),
                    None => {
                        let outcome = guarded(|| Ok(tree.settle()?));
                        synced.push((tree, outcome.clone()));
                        outcome
                    }
                };
                answer(outcome);
            }
        }
    }
}

/// A defect costs one change, not the lane.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::internal("a file call ended early", text.unwrap_or("without words"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Counts; settles while the gate is open, and fails once `broken` settles were asked for.
    struct Disk {
        made: AtomicUsize,
        safe: AtomicUsize,
        settled: AtomicUsize,
        broken: usize,
        gate: Mutex<()>,
    }

    impl Disk {
        fn new(broken: usize) -> Arc<Self> {
            let [made, safe, settled] = [0; 3].map(AtomicUsize::new);
            Arc::new(Self { made, safe, settled, broken, gate: Mutex::new(()) })
        }
    }

    impl Tree for Disk {
        fn settle(&self) -> vfs::Result<()> {
            let made = self.made.load(Ordering::SeqCst);
            drop(self.gate.lock());
            if self.settled.fetch_add(1, Ordering::SeqCst) >= self.broken {
                return Err(vfs::Errno::EIO.into());
            }
            self.safe.fetch_max(made, Ordering::SeqCst);
            Ok(())
        }
    }

    type TestLane = Arc<Lane<Disk>>;

    async fn make(lane: TestLane, disk: Arc<Disk>) -> Result<usize> {
        let counted = disk.clone();
        lane.durably(disk, move || Ok(counted.made.fetch_add(1, Ordering::SeqCst) + 1)).await
    }

    async fn until(mut done: impl FnMut() -> bool) {
        let waited = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waited).await.expect("it never came");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    #[allow(clippy::await_holding_lock, reason = "it holds up the disk, and nobody else")]
    async fn callers_who_go_away_make_no_room_for_more() {
        let (lane, disk) = (TestLane::default(), Disk::new(usize::MAX));
        let gate = disk.gate.lock();
        for _ in 0..3 {
            let callers: Vec<_> = (0..2 * WAITING_MAX)
                .map(|_| tokio::spawn(make(lane.clone(), disk.clone())))
                .collect();
            until(|| disk.made.load(Ordering::SeqCst) >= WAITING_MAX).await;
            callers.iter().for_each(tokio::task::JoinHandle::abort);
            for caller in callers {
                caller.await.ok();
            }
        }
        assert_eq!(disk.made.load(Ordering::SeqCst), WAITING_MAX);
        drop(gate);
        make(lane, disk).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    #[allow(clippy::await_holding_lock, reason = "it holds up the disk, and nobody else")]
    async fn changes_that_come_while_the_disk_is_busy_share_a_sync() {
        let (lane, disk) = (TestLane::default(), Disk::new(usize::MAX));
        let gate = disk.gate.lock();
        let first = tokio::spawn(make(lane.clone(), disk.clone()));
        until(|| disk.made.load(Ordering::SeqCst) == 1).await;
        let rest: Vec<_> =
            (0..100).map(|_| tokio::spawn(make(lane.clone(), disk.clone()))).collect();
        until(|| disk.made.load(Ordering::SeqCst) == 101).await;
        assert!(!first.is_finished() && rest.iter().all(|one| !one.is_finished()));
        drop(gate);
        for one in rest.into_iter().chain([first]) {
            let number = one.await.unwrap().unwrap();
            assert!(number <= disk.safe.load(Ordering::SeqCst), "{number} was answered too early");
        }
        assert!(disk.settled.load(Ordering::SeqCst) <= 3, "{:?}", disk.settled);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn every_change_is_safe_when_it_is_answered() {
        let (lane, disk) = (TestLane::default(), Disk::new(usize::MAX));
        let clients = (0..16).map(|_| {
            let (lane, disk) = (lane.clone(), disk.clone());
            tokio::spawn(async move {
                for _ in 0..200 {
                    let number = make(lane.clone(), disk.clone()).await.unwrap();
                    assert!(number <= disk.safe.load(Ordering::SeqCst));
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        // Who answered last looks once more before it goes.
        let at_work = || {
            let state = lane.state.lock();
            state.changing || state.syncing
        };
        for _ in 0..1_000 {
            if !at_work() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!at_work(), "nobody is at work any more");
    }

    #[tokio::test]
    async fn a_sync_that_fails_is_told_and_the_next_one_tried() {
        let (lane, disk) = (TestLane::default(), Disk::new(1));
        assert_eq!(make(lane.clone(), disk.clone()).await.unwrap(), 1);
        assert_eq!(
            make(lane.clone(), disk.clone()).await.unwrap_err().message,
            "input/output error"
        );
        let other = Disk::new(usize::MAX);
        assert_eq!(make(lane, other).await.unwrap(), 1, "another tree has a disk of its own");
    }

    #[tokio::test]
    async fn a_change_that_fails_or_panics_costs_itself() {
        let (lane, disk) = (TestLane::default(), Disk::new(usize::MAX));
        let refused: Result<()> = (lane
            .durably(disk.clone(), || Err(Failure::new(base::ErrorKind::Conflict, "no"))))
        .await;
        assert_eq!(refused.unwrap_err().message, "no");
        let panicked: Result<()> = lane.durably(disk.clone(), || panic!("on purpose")).await;
        assert_eq!(panicked.unwrap_err().kind, base::ErrorKind::Internal);
        assert_eq!(disk.settled.load(Ordering::SeqCst), 0, "nothing was made, nothing is synced");
        assert_eq!(make(lane, disk).await.unwrap(), 1);
    }
}
