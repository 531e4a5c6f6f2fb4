//! The rest of the chunks, while nobody waits for one.

use std::pin::pin;
use std::sync::Arc;

use super::fetch::{Claim, Why};
use super::{Inner, Phase};
use crate::error::blocking;
use crate::limits::{BACKGROUND_FETCHES, CHUNK_PAUSE};

impl Inner {
    /// Fetches all that is missing, until the guest stops.
    pub(super) async fn fetch_rest(self: Arc<Self>) {
        let begun = std::time::Instant::now();
        let chunks = self.table.lock().missing();
        let all = (0..BACKGROUND_FETCHES).map(|_| self.fetch_some());
        futures::future::join_all(all).await;
        if self.table.lock().missing() > 0 || !self.phase_is(Phase::Running) {
            return;
        }
        let inner = self.clone();
        let kept = blocking(move || {
            let ended = inner.ended.read();
            if *ended { Ok(()) } else { inner.keep_all() }
        });
        match kept.await {
            Ok(()) => {
                let ms = begun.elapsed().as_millis();
                tracing::info!(chunks, ms, "all of the machine's upper is here");
            }
            // It is tried again when the guest stops.
            Err(error) => tracing::warn!(%error, "note that all of the upper is here"),
        }
        self.progress.begin(0);
    }

    async fn fetch_some(self: &Arc<Self>) {
        let mut pause = CHUNK_PAUSE.0;
        loop {
            tokio::select! {
                () = self.until_quiet() => {}
                () = self.held() => return,
            }
            let Some(index) = self.table.lock().take_next() else { return };
            let Err((claim, why)) = self.fetch(Claim::of(self, index)).await else {
                pause = CHUNK_PAUSE.0;
                continue;
            };
            match why {
                Why::Held => return,
                Why::Final(error) => {
                    tracing::error!(%error, "a chunk of the upper cannot be had");
                    self.say(Some(error.to_string()));
                    claim.give_up();
                }
                Why::Passing(error) => {
                    tracing::debug!(%error, "a chunk of the upper does not come");
                    self.say(Some(error.to_string()));
                    drop(claim);
                    if self.pause(&mut pause).await {
                        return;
                    }
                }
            }
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
