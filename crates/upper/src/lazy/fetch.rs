//! How a missing chunk comes.

use std::io;
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::ErrorKind;

use super::io::told;
use super::note::Mark;
use super::table::{Look, Slot};
use super::{Inner, Phase};
use crate::error::{Error, Result};
use crate::limits::{CHUNK_BYTES, CHUNK_PAUSE, CHUNK_TRIES, STILL_PATIENCE};

/// A chunk that is being brought. Given up, it is missing again.
#[derive(Debug)]
pub(super) struct Claim {
    inner: Arc<Inner>,
    index: u32,
    settled: bool,
    /// The background may try once more.
    again: bool,
}

/// Why a chunk has not come.
#[derive(Debug)]
pub(super) enum Why {
    /// The guest stops.
    Held,
    /// No later attempt can do.
    Final(Error),
    /// One may.
    Passing(Error),
}

impl Claim {
    pub(super) fn of(inner: &Arc<Inner>, index: u32) -> Self {
        Self { inner: inner.clone(), index, settled: false, again: true }
    }

    /// One that stands for nothing.
    fn void(inner: &Arc<Inner>, index: u32) -> Self {
        Self { inner: inner.clone(), index, settled: true, again: false }
    }

    /// Its content is in the file.
    pub(super) fn settle(&mut self, slot: Slot) -> Result<()> {
        self.inner.mark(self.index, Mark::Here)?;
        self.settled = true;
        let inner = &self.inner;
        inner.progress.add(inner.stored(self.index));
        inner.lost.lock().remove(&self.index);
        let left = {
            let mut table = inner.table.lock();
            table.settle(self.index, slot);
            table.missing()
        };
        if left == 0 {
            inner.runtime.spawn(Inner::complete(inner.clone()));
        }
        Ok(())
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// The background does not try again.
    pub(super) fn give_up(mut self) {
        self.again = false;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.settled {
            self.inner.table.lock().give_back(self.index, self.again);
        }
        self.inner.changed.notify_waiters();
    }
}

/// A guest waits for as long as this is there.
struct Waiting<'a>(&'a Inner);

impl<'a> Waiting<'a> {
    fn begin(inner: &'a Inner) -> Self {
        inner.waiting.fetch_add(1, Ordering::SeqCst);
        Self(inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.quiet.notify_waiters();
        }
    }
}

impl Inner {
    /// Returns once a chunk is here: of several who want it one brings it.
    pub(super) async fn bring(self: &Arc<Self>, index: u32) -> io::Result<()> {
        let _waiting = Waiting::begin(self);
        match self.take_over(index).await? {
            None => Ok(()),
            Some(claim) => self.bring_claimed(claim).await,
        }
    }

    /// Waits until a chunk is here, or is the caller's to bring.
    pub(super) async fn take_over(self: &Arc<Self>, index: u32) -> io::Result<Option<Claim>> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.table.lock().take(index) {
                Look::Here => return Ok(None),
                Look::Taken => return Ok(Some(Claim::of(self, index))),
                Look::Busy => {}
            }
            tokio::select! {
                () = changed => {}
                () = self.held() => return Err(held()),
            }
        }
    }

    /// Tries until it comes or cannot.
    async fn bring_claimed(self: &Arc<Self>, mut claim: Claim) -> io::Result<()> {
        let (mut pause, mut tries) = (CHUNK_PAUSE.0, 0);
        loop {
            let why = match self.fetch(claim).await {
                Ok(()) => return Ok(()),
                Err((given_back, why)) => {
                    claim = given_back;
                    why
                }
            };
            match why {
                Why::Held => return Err(held()),
                Why::Final(error) => {
                    tries += 1;
                    if tries >= CHUNK_TRIES {
                        claim.again = false;
                        self.lose(claim.index, &error);
                        tracing::error!(%error, "a chunk of the upper that the guest wants cannot be had");
                        return Err(told(error));
                    }
                }
                // Its hypervisor stops it, and asks again once there is some.
                Why::Passing(error) if error.kind() == ErrorKind::Exhausted => {
                    return Err(told(error));
                }
                Why::Passing(error) => {
                    tracing::warn!(%error, "a chunk of the upper that the guest wants does not come");
                    self.say(Some(error.to_string()));
                }
            }
            if self.pause(&mut pause).await {
                return Err(held());
            }
        }
    }

    /// One attempt. The claim comes back with an error.
    pub(super) async fn fetch(self: &Arc<Self>, claim: Claim) -> Result<(), (Claim, Why)> {
        let index = claim.index;
        let mut phase = self.phase.subscribe();
        let runs = phase.wait_for(|phase| *phase != Phase::Still);
        // A hypervisor that is loaded and looks at more than we know of must not wait for its own guest.
        if !matches!(tokio::time::timeout(STILL_PATIENCE, runs).await, Ok(Ok(_))) {
            return Err((claim, Why::Held));
        }
        let content = async {
            let turn = self.turns.clone().acquire_owned().await.map_err(|_| Error::Closing)?;
            Ok::<_, Error>((turn, self.content(index).await?))
        };
        let content = tokio::select! {
            content = content => content,
            () = self.held() => return Err((claim, Why::Held)),
        };
        let (turn, content) = match content {
            Ok(content) => content,
            Err(error) => {
                let why = match error.kind() {
                    ErrorKind::Corrupt => Why::Final(error),
                    _ => Why::Passing(error),
                };
                return Err((claim, why));
            }
        };
        // The claim goes with what is written, which nothing stops any more; so does the turn, as long as it is in memory.
        let written = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let inner = claim.inner.clone();
            let ended = inner.ended.read();
            if *ended {
                return Err((claim, Why::Held));
            }
            let at = u64::from(index) * CHUNK_BYTES as u64;
            let written = inner.file.write_all_at(&content, at);
            let written = written.map_err(Error::disk("write a chunk of the upper"));
            let mut claim = claim;
            match written.and_then(|()| claim.settle(Slot::Fetched)) {
                Ok(()) => Ok(()),
                Err(error) => Err((claim, Why::Passing(error))),
            }
        });
        match written.await {
            Ok(written) => {
                if written.is_ok() {
                    self.say(None);
                }
                written
            }
            // The runtime is going down; the claim went with the work.
            Err(_) => Err((Claim::void(self, index), Why::Held)),
        }
    }

    async fn content(self: &Arc<Self>, index: u32) -> Result<Vec<u8>> {
        match self.chunks.get(&index) {
            Some((_, chunk)) => self.upper.content_of(self.note.manifest(), index, chunk).await,
            // Only what is named is ever missing.
            None => Ok(Vec::new()),
        }
    }

    /// Waits, longer each time. True where the guest stops.
    pub(super) async fn pause(&self, pause: &mut Duration) -> bool {
        let long = *pause;
        *pause = (long * 2).min(CHUNK_PAUSE.1);
        tokio::select! {
            () = tokio::time::sleep(long) => false,
            () = self.held() => true,
        }
    }
}

/// What a hypervisor can keep a request for.
fn held() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "the guest is stopping")
}
