//! Notifications: what the host changed, so that the kernel forgets what it cached.
//!
//! # Invariants
//! - Whoever reads from the host never waits here: the queue is bounded, and a notification that
//!   does not fit is dropped and *counted*.
//! - The count of taken notifications reaches `n` only when the first `n` had their effect. For
//!   dropped ones that effect is coarser: once the queue is empty, the kernel is told to drop all
//!   clean pages, names and inodes that are not in use. A host that sends a barrier before it has
//!   more than [`NOTIFICATIONS_QUEUED_MAX`] under way never gets there.
//!
//! # Not here
//! Notifications that carry data or ask for it (store, retrieve): longer than the bound, dropped.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;

use agent_proto::NOTIFICATIONS_QUEUED_MAX;
use nix::errno::Errno;
use tokio::sync::watch;

use super::relay;
use crate::Error;
use crate::console::say;
use crate::limits::NOTIFICATION_BYTES_MAX;

/// The way in.
#[derive(Debug)]
pub(super) struct Notifications {
    /// An empty one only wakes the thread.
    queue: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl Notifications {
    /// Starts the thread. The receiver counts what the kernel has taken.
    pub(super) fn start(device: Arc<OwnedFd>) -> Result<(Self, watch::Receiver<u64>), Error> {
        Self::start_with(NOTIFICATIONS_QUEUED_MAX, forget_everything, move |message| {
            relay::deliver(|| nix::unistd::write(&*device, message))
        })
    }

    fn start_with(
        queued_max: usize,
        forget_everything: impl Fn() + Send + 'static,
        deliver: impl Fn(&[u8]) -> Result<(), Errno> + Send + 'static,
    ) -> Result<(Self, watch::Receiver<u64>), Error> {
        let (queue, queued) = sync_channel(queued_max);
        let (count, taken) = watch::channel(0);
        let dropped = Arc::new(AtomicU64::new(0));
        let taker = Taker { queued, dropped: Arc::clone(&dropped), count };
        let run = move || taker.run(&forget_everything, &deliver);
        let thread = thread::Builder::new().name("fuse-notify".to_owned()).spawn(run);
        thread.map_err(Error::io("start fuse-notify"))?;
        Ok((Self { queue, dropped }, taken))
    }

    /// Queues `message`. Never waits.
    pub(super) fn put(&self, message: &[u8]) {
        if message.len() <= NOTIFICATION_BYTES_MAX && self.queue.try_send(message.to_vec()).is_ok()
        {
            return;
        }
        self.dropped.fetch_add(1, Ordering::Release);
        // The thread may have emptied the queue just before; where this does not fit either, it
        // still has something to do and looks at the count after it.
        drop(self.queue.try_send(Vec::new()));
    }
}

/// The thread's side.
#[derive(Debug)]
struct Taker {
    queued: Receiver<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    count: watch::Sender<u64>,
}

impl Taker {
    fn run(&self, forget_everything: &impl Fn(), deliver: &impl Fn(&[u8]) -> Result<(), Errno>) {
        loop {
            let message = match self.queued.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Empty) => {
                    self.make_up_for_dropped(forget_everything);
                    let Ok(message) = self.queued.recv() else { return };
                    message
                }
                Err(TryRecvError::Disconnected) => return,
            };
            if message.is_empty() {
                continue;
            }
            if deliver(&message).is_err() {
                return;
            }
            self.count.send_modify(|taken| *taken += 1);
        }
    }

    fn make_up_for_dropped(&self, forget_everything: &impl Fn()) {
        let dropped = self.dropped.swap(0, Ordering::Acquire);
        if dropped > 0 {
            forget_everything();
            self.count.send_modify(|taken| *taken += dropped);
        }
    }
}

fn forget_everything() {
    say("home: more notifications than fit; dropping all caches");
    if let Err(error) = fs::write("/proc/sys/vm/drop_caches", "3") {
        say(&format!("home: drop caches: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    async fn wait_for(taken: &mut watch::Receiver<u64>, count: u64) {
        let reached = taken.wait_for(|taken| *taken >= count);
        tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn notifications_arrive_in_order_and_are_counted() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let (notifications, mut taken) = Notifications::start_with(
            8,
            || (),
            move |message| {
                sink.lock().unwrap().push(message[0]);
                Ok(())
            },
        )
        .unwrap();
        for number in 1..=5 {
            notifications.put(&[number]);
        }
        wait_for(&mut taken, 5).await;
        assert_eq!(*seen.lock().unwrap(), [1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn a_full_queue_never_blocks_and_is_made_up_for() {
        let (go, gate) = channel::<()>();
        let forgotten = Arc::new(AtomicU64::new(0));
        let forgetting = Arc::clone(&forgotten);
        let forget = move || {
            forgetting.fetch_add(1, Ordering::SeqCst);
        };
        // The kernel keeps the thread waiting in its first notification.
        let (notifications, mut taken) = Notifications::start_with(4, forget, move |_| {
            let _ = gate.recv();
            Ok(())
        })
        .unwrap();
        for _ in 0..1000 {
            notifications.put(&[1]);
        }
        assert_eq!((*taken.borrow(), forgotten.load(Ordering::SeqCst)), (0, 0));
        drop(go);
        wait_for(&mut taken, 1000).await;
        assert_eq!(*taken.borrow(), 1000, "every one is counted exactly once");
        assert!(forgotten.load(Ordering::SeqCst) > 0);
    }

    #[tokio::test]
    async fn an_over_long_notification_is_dropped_but_counted() {
        let (notifications, mut taken) = Notifications::start_with(
            4,
            || (),
            |message| {
                assert!(message.len() <= NOTIFICATION_BYTES_MAX);
                Ok(())
            },
        )
        .unwrap();
        notifications.put(&vec![1; NOTIFICATION_BYTES_MAX + 1]);
        wait_for(&mut taken, 1).await;
    }
}
