//! Taking a home over, and publishing to one that sleeps.
//!
//! Both create the commit after the head with the epoch after the head's. Of many who try, one
//! creates it. The epoch is his from that moment on: the next to try reads it from his commit.
//!
//! A home that is not released, and whose newest commit is from another server, is not taken
//! silently: that server may be running it. `take_over` says that it is lost, as of some epoch. If it is not, its
//! next commit finds our claim in its place and fences it.
//!
//! A lost reply: call again with the same nonce. It stands in the commit, so a claim or a
//! publication of ours that did get through is recognised, and nothing is done twice.

use base::{Epoch, ServerId};
use bytes::Bytes;

use super::append::{Author, Commit, Tenure};
use super::container;
use super::descent::Descent;
use super::error::{Error, Result};
use super::header::{Header, Kind, Nonce};
use super::horizon::Moment;
use super::limits::CLAIM_ATTEMPTS;
use super::log::{Head, Log, Standing};
use crate::settings::TakeOver;

/// A home that is now ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// Our epoch.
    pub(crate) epoch: Epoch,
    /// The number of the claim.
    pub(crate) seq: u64,
    /// The head that it was built on; `None` of a new home.
    pub(crate) previous: Option<Head>,
}

impl Log {
    /// Makes this value the writer of the home. `nonce` is drawn anew for each claim, and kept
    /// only to try the same one again.
    ///
    /// # Errors
    /// - [`Error::HeldBy`]: another server did not release it, and `take_over` does not cover it.
    /// - [`Error::Contended`]: it is being written faster than we can claim it.
    /// - [`Error::Deleted`], [`Error::Store`], [`Error::Corrupt`].
    pub(crate) async fn claim(
        &mut self,
        holder: ServerId,
        take_over: impl Into<TakeOver>,
        nonce: [u8; 16],
    ) -> Result<Claimed> {
        let (nonce, take_over) = (Nonce(nonce), take_over.into());
        for _ in 0..CLAIM_ATTEMPTS {
            let asked = Moment::of(self.clock().as_ref());
            let head = self.head(None).await?;
            if let Some(head) = head.as_ref().filter(|head| head.claim && head.nonce == nonce) {
                return self.resume(head.clone(), asked).await;
            }
            let others = |head: &&Head| !head.released && head.holder != holder;
            let kept = |head: &&Head| !take_over.covers(head.epoch);
            if let Some(head) = head.as_ref().filter(others).filter(kept) {
                return Err(held(head));
            }
            let claim = self.next_claim(head.as_ref(), holder.clone(), nonce).await?;
            let body = container::encode(&claim, b"", b"")?;
            if self.won(claim.seq, body).await? {
                let ours = Head::from(&claim);
                tracing::info!(home = %self.keys().home(), epoch = %claim.epoch, seq = claim.seq,
                    "claimed the home");
                self.standing = Standing::Writer(Box::new(Tenure::new(ours, asked)));
                return Ok(Claimed { epoch: claim.epoch, seq: claim.seq, previous: head });
            }
        }
        Err(Error::Contended { attempts: CLAIM_ATTEMPTS })
    }

    /// Adds one commit to a released home whose head is commit `on`, claiming and releasing it
    /// with the same write; returns number and epoch. `on` is 0 for a home without commits.
    ///
    /// # Errors
    /// - [`Error::Moved`]: the head is another; nothing was written.
    /// - [`Error::HeldBy`]: somebody has the home and did not release it.
    /// - [`Error::Store`]: it may be written or not; call again with the same arguments.
    pub(crate) async fn publish(
        &self,
        on: u64,
        commit: Commit,
        holder: ServerId,
        nonce: [u8; 16],
    ) -> Result<(u64, Epoch)> {
        let nonce = Nonce(nonce);
        let seq = on + 1;
        let head = self.head(Some(on)).await?;
        let found = head.as_ref().map_or(0, |head| head.seq);
        if found != on {
            return self.published_before(seq, nonce).await;
        }
        if let Some(head) = head.as_ref().filter(|head| !head.released) {
            return Err(held(head));
        }
        let (base_seq, bytes_above_base, descent) = self.above_base(head.as_ref()).await?;
        let epoch = head.map_or(Epoch::default(), |head| head.epoch).next();
        let author = Author { seq, epoch, nonce, holder, base_seq, bytes_above_base, descent };
        let commit = Commit { release: true, ..commit };
        let (_, body) = commit.into_object(author, self.clock().now())?;
        if self.won(seq, body).await? {
            return Ok((seq, epoch));
        }
        self.published_before(seq, nonce).await
    }

    /// Commit `seq` is taken. It may be our own, from a try whose reply was lost; others may have
    /// gone on since.
    pub(super) async fn published_before(&self, seq: u64, nonce: Nonce) -> Result<(u64, Epoch)> {
        let there = self.read(seq).await?;
        match there.as_ref().map(|stored| stored.header()) {
            Some(header) if header.nonce == nonce => Ok((seq, header.epoch)),
            _ => {
                let found = self.head(None).await?.map_or(0, |head| head.seq);
                Err(Error::Moved { expected: seq - 1, found })
            }
        }
    }

    /// Creates commit `seq`; true where it is ours and counts.
    pub(super) async fn won(&self, seq: u64, body: Bytes) -> Result<bool> {
        match self.store().create(&self.keys().log(seq), body).await {
            Ok(()) => {}
            Err(objstore::Error::Exists { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if self.boundary().await?.is_some_and(|boundary| boundary.seq >= seq) {
            return Ok(false);
        }
        self.note_seen(seq);
        Ok(true)
    }

    /// Goes on with a claim that an earlier call made without learning so.
    async fn resume(&mut self, claim: Head, asked: Moment) -> Result<Claimed> {
        let previous = match claim.seq {
            1 => None,
            seq => self.read(seq - 1).await?.map(|stored| Head::from(stored.header())),
        };
        let (epoch, seq) = (claim.epoch, claim.seq);
        self.standing = Standing::Writer(Box::new(Tenure::new(claim, asked)));
        Ok(Claimed { epoch, seq, previous })
    }

    async fn next_claim(
        &self,
        head: Option<&Head>,
        holder: ServerId,
        nonce: Nonce,
    ) -> Result<Header> {
        let (parent_base, bytes_above_base, descent) = self.above_base(head).await?;
        Ok(Header {
            seq: head.map_or(0, |head| head.seq) + 1,
            epoch: head.map_or(Epoch::default(), |head| head.epoch).next(),
            nonce,
            kind: Kind::Claim,
            holder,
            time: self.clock().now(),
            page_size: head.map_or(0, |head| head.page_size),
            page_count: head.map_or(0, |head| head.page_count),
            parent_base,
            bytes_above_base,
            sections: Vec::new(),
            index: None,
            data: None,
            descent,
        })
    }

    /// The newest base of the state of `head`, and the bytes of pages above it: at most too many, because a
    /// base that `head` did not know may lie between its own and itself.
    async fn above_base(&self, head: Option<&Head>) -> Result<(u64, u64, Descent)> {
        let Some(head) = head else { return Ok((0, 0, Descent::default())) };
        let base = self.base_of(head).await?;
        let bytes = if base == head.seq { 0 } else { head.bytes_above_base };
        Ok((base, bytes, head.descent.above(base)))
    }
}

pub(super) fn held(head: &Head) -> Error {
    Error::HeldBy { holder: head.holder.clone(), since: head.time }
}

#[cfg(test)]
mod tests;
