//! The rest of the chunks, while nobody waits for one.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fetch::{Claim, Why};
use super::{Inner, Phase};
use crate::error::blocking;
use crate::limits::{BACKGROUND_FETCHES, CHUNK_PAUSE, CHUNK_TRIES, ROOM_LOOK_EVERY};

impl Inner {
    /// Fetches all that is missing, until the guest stops.
    pub(super) async fn fetch_rest(self: Arc<Self>) {
        if self.table.lock().missing() == 0 {
            return self.complete().await;
        }
        let all = (0..BACKGROUND_FETCHES).map(|_| self.fetch_some());
        futures::future::join_all(all).await;
    }

    /// All is here, whoever brought the last of it: it is brought to the disk, and the note goes.
    pub(super) async fn complete(self: Arc<Self>) {
        let inner = self.clone();
        let kept = blocking(move || {
            let ended = inner.ended.read();
            if *ended || inner.phase_is(Phase::Held) {
                return Ok(false);
            }
            inner.progress.begin(0);
            inner.keep_all().map(|()| true)
        });
        match kept.await {
            Ok(true) => tracing::info!("all of the machine's upper is here"),
            Ok(false) => {}
            // It is tried again when the guest stops.
            Err(error) => tracing::warn!(%error, "note that all of the upper is here"),
        }
    }

    async fn fetch_some(self: &Arc<Self>) {
        let mut pause = CHUNK_PAUSE.0;
        loop {
            let may = async {
                self.until_quiet().await;
                self.until_room().await;
            };
            tokio::select! {
                () = may => {}
                () = self.held() => return,
            }
            let Some(index) = self.table.lock().take_next() else { return };
            if !self.fetch_one(Claim::of(self, index), &mut pause).await {
                return;
            }
        }
    }

    /// False where the guest stops.
    async fn fetch_one(self: &Arc<Self>, mut claim: Claim, pause: &mut Duration) -> bool {
        let mut tries = 0;
        loop {
            match self.fetch(claim).await {
                Ok(()) => {
                    *pause = CHUNK_PAUSE.0;
                    return true;
                }
                Err((_, Why::Held)) => return false,
                Err((given_back, Why::Final(error))) => {
                    tries += 1;
                    if tries >= CHUNK_TRIES {
                        tracing::error!(%error, "a chunk of the upper cannot be had");
                        self.lose(given_back.index(), &error);
                        given_back.give_up();
                        return true;
                    }
                    claim = given_back;
                }
                Err((given_back, Why::Passing(error))) => {
                    tracing::debug!(%error, "a chunk of the upper does not come");
                    self.say(Some(error.to_string()));
                    drop(given_back);
                    return !self.pause(pause).await;
                }
            }
            if self.pause(pause).await {
                return false;
            }
        }
    }

    /// Returns once the host's disk has room for what nobody waits for.
    async fn until_room(&self) {
        loop {
            let scarce = self.room.is_scarce(&self.file);
            if self.scarce.swap(scarce, Ordering::SeqCst) != scarce && scarce {
                tracing::warn!(
                    "the rest of the upper waits: the host's disk has too little room for it"
                );
            }
            if !scarce {
                return;
            }
            tokio::time::sleep(ROOM_LOOK_EVERY).await;
        }
    }

    /// Returns once no guest waits for a chunk.
    async fn until_quiet(&self) {
        loop {
            let mut quiet = pin!(self.quiet.notified());
            quiet.as_mut().enable();
            if self.is_quiet() {
                return;
            }
            quiet.await;
        }
    }
}
