//! Commits without pages that say where the state comes from: the first of a fork, and a restore.
//!
//! Both are a claim and a release in one, so whatever the size of the home, they are one small
//! object, and anybody may claim the home after them.
//!
//! Failure: a lost reply is settled by calling again. The first commit of a fork is recognised by
//! what it was forked from, a restore by its nonce; a restore that is made twice changes nothing.
//!
//! Not here: keeping what they rely on (`pinned`), which the caller has seen to before.

use base::{Epoch, HomeId, ServerId};

use super::claim::held;
use super::container;
use super::descent::Descent;
use super::error::{Error, Result};
use super::header::{Header, Kind, Nonce};
use super::limits::{ORIGINS_MAX, RESTORES_MAX};
use super::log::{Head, Log};
use super::pinned::Pin;

impl Log {
    /// Makes the first commit of this home: the state of commit `state` of `parent`, released.
    /// Where it is there already, that.
    ///
    /// # Errors
    /// [`Error::Taken`]: the home has commits and is not this fork. [`Error::GivenUp`]: it was to be
    /// this fork and will never be. [`Error::TooOften`]: the chain of forks is too long.
    /// [`Error::Deleted`], [`Error::Store`].
    pub(crate) async fn begin_fork(
        &self,
        parent: &HomeId,
        state: &Head,
        holder: ServerId,
        nonce: [u8; 16],
    ) -> Result<Head> {
        let descent = state.descent.forked(parent.clone(), state.seq, state.epoch);
        if let Some(head) = self.begun_or_given_up().await? {
            return self.same_fork(head, parent, state.seq);
        }
        let header = Header { descent, ..follow(state, state.seq, state.epoch, holder, nonce) };
        let header = Header { time: self.clock().now(), ..header };
        if header.check().is_err() {
            return Err(Error::TooOften { what: "the chain of forks", max: ORIGINS_MAX as u64 });
        }
        let body = container::encode(&header, b"", b"")?;
        self.keys().learn_origins(&header.descent.origins);
        if self.won(header.seq, body).await? {
            return Ok(Head::from(&header));
        }
        match self.begun_or_given_up().await? {
            Some(head) => self.same_fork(head, parent, state.seq),
            None => Err(Error::Taken { home: self.keys().home().clone() }),
        }
    }

    /// The head of a home that is to be a fork.
    async fn begun_or_given_up(&self) -> Result<Option<Head>> {
        let given_up = || Error::GivenUp { home: self.keys().home().clone() };
        match self.head(None).await {
            // Its first number is taken ([`Log::take_first`]), and the mark comes next.
            Ok(Some(head)) if head.nonce == Nonce::NOBODYS => Err(given_up()),
            // Of a home that had commits, the mark says which one fences.
            Err(Error::Deleted { .. })
                if self.boundary_or_grave().await?.is_some_and(|grave| grave.fence.is_none()) =>
            {
                Err(given_up())
            }
            head => head,
        }
    }

    /// Takes the first number of a fork that is not to be; false where it has begun.
    pub(super) async fn take_first(&self, pin: &Pin) -> Result<bool> {
        let nobody = self.nobody(pin.seq + 1, pin.epoch.next());
        self.won(nobody.seq, container::encode(&nobody, b"", b"")?).await
    }

    /// A commit that only takes a number.
    pub(super) fn nobody(&self, seq: u64, epoch: Epoch) -> Header {
        Header {
            seq,
            epoch,
            nonce: Nonce::NOBODYS,
            kind: Kind::Claim,
            holder: ServerId::generate(),
            time: self.clock().now(),
            page_size: 0,
            page_count: 0,
            parent_base: 0,
            bytes_above_base: 0,
            sections: Vec::new(),
            index: None,
            data: None,
            descent: Descent::default(),
        }
    }

    fn same_fork(&self, head: Head, parent: &HomeId, seq: u64) -> Result<Head> {
        let from = head.descent.origins.first();
        if from.is_some_and(|origin| origin.home == *parent && origin.seq == seq) {
            return Ok(head);
        }
        Err(Error::Taken { home: self.keys().home().clone() })
    }

    /// Takes a released home back to the state of its commit `state`, with one commit on top of
    /// `on`, its head.
    ///
    /// # Errors
    /// [`Error::Moved`]: the head is another; nothing was written. [`Error::HeldBy`]: somebody has
    /// the home. [`Error::TooOften`]: too many restores since the last base. [`Error::Store`]: it
    /// may be done or not; restoring again is safe.
    pub(crate) async fn restore_to(
        &self,
        on: &Head,
        state: &Head,
        holder: ServerId,
        nonce: [u8; 16],
    ) -> Result<Head> {
        if !on.released {
            return Err(held(on));
        }
        let seq = on.seq + 1;
        let base = self.base_of(state).await?;
        let descent = state.descent.restored(seq, state.seq).above(base);
        let header = Header {
            descent,
            parent_base: base,
            time: self.clock().now(),
            ..follow(state, on.seq, on.epoch, holder, nonce)
        };
        if header.check().is_err() {
            return Err(Error::TooOften {
                what: "the chain of restores",
                max: RESTORES_MAX as u64,
            });
        }
        let body = container::encode(&header, b"", b"")?;
        if !self.won(seq, body).await? {
            self.published_before(seq, Nonce(nonce)).await?;
        }
        Ok(Head::from(&header))
    }
}

/// A commit after commit `seq` of epoch `epoch` that has the pages of `state`.
fn follow(state: &Head, seq: u64, epoch: Epoch, holder: ServerId, nonce: [u8; 16]) -> Header {
    Header {
        seq: seq + 1,
        epoch: epoch.next(),
        nonce: Nonce(nonce),
        kind: Kind::Release,
        holder,
        time: state.time,
        page_size: state.page_size,
        page_count: state.page_count,
        parent_base: state.base_seq,
        bytes_above_base: state.bytes_above_base,
        sections: Vec::new(),
        index: None,
        data: None,
        descent: state.descent.clone(),
    }
}
