//! Adding commits to a log that was claimed.
//!
//! One commit is one request: create the object of the next number. The boundary is looked at after
//! it only where the writer has not heard from the store for so long that the number could have been
//! taken and deleted since (`horizon`). Only then is the commit durable and ours.
//!
//! Failure: where the store does not answer, the commit may be stored or not. The log keeps its
//! bytes and takes no other commit until [`Log::settle`] has found out; it creates the same bytes
//! again, so that whatever happened, they are stored once. A caller therefore never has to undo
//! metadata that speaks of commit *n* because *n* turned out to hold something else.
//!
//! Invariants:
//! - What stands at our next number and is not ours fences us, for good.
//! - A future of [`Log::append`] that is dropped half-way leaves the commit in doubt, not lost.
//!
//! Not here: what goes into a commit (`collect`), taking the home in the first place (`claim`).

use base::{Epoch, ServerId};
use bytes::Bytes;

use super::collect::Pages;
use super::container;
use super::descent::Descent;
use super::error::{Error, Result};
use super::header::{Header, Kind, Nonce};
use super::horizon::{Moment, create_proves};
use super::log::{Head, Log, Standing};

/// A commit to be made. Its number is [`Log::next_seq`], which its pages may speak of.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    /// The pages that changed.
    pub(crate) pages: Pages,
    /// Content of small files. Extents name it by number of the commit and offset in here.
    pub(crate) data: Bytes,
    /// The home is given up with it.
    pub(crate) release: bool,
}

/// What makes a `Log` the writer.
#[derive(Debug)]
pub(in crate::replica) struct Tenure {
    /// The newest commit, one of ours.
    head: Head,
    /// A moment at which nobody had taken the number after it.
    free: Moment,
    in_doubt: Option<InDoubt>,
    /// Commits above the newest base: number, and compressed bytes of their pages. The first also
    /// stands for all that came before it.
    above_base: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct InDoubt {
    header: Header,
    body: Bytes,
    /// When it was sent for the first time.
    sent: Moment,
}

impl Tenure {
    /// The tenure that begins with the claim `head`. `free`: a moment at which nobody had taken the
    /// number after it.
    pub(super) fn new(head: Head, free: Moment) -> Self {
        let above_base = vec![(head.seq, head.bytes_above_base)];
        Self { head, free, in_doubt: None, above_base }
    }

    fn accept(&mut self, header: &Header, free: Moment) {
        self.head = header.into();
        self.free = free;
        self.above_base.push((header.seq, header.page_bytes()));
        self.head.bytes_above_base = self.bytes_above_base();
    }

    fn bytes_above_base(&self) -> u64 {
        self.above_base.iter().map(|commit| commit.1).sum()
    }
}

/// What a commit says of itself, whoever makes it.
pub(super) struct Author {
    pub(super) seq: u64,
    pub(super) epoch: Epoch,
    pub(super) nonce: Nonce,
    pub(super) holder: ServerId,
    pub(super) base_seq: u64,
    /// In the commits above the base, before this one.
    pub(super) bytes_above_base: u64,
    pub(super) descent: Descent,
}

impl Log {
    /// The number of the commit that is to come.
    ///
    /// # Errors
    /// As [`Log::append`] before it asks the store anything.
    pub(crate) fn next_seq(&self) -> Result<u64> {
        let tenure = self.tenure()?;
        match &tenure.in_doubt {
            Some(in_doubt) => Err(Error::InDoubt { seq: in_doubt.header.seq }),
            None => Ok(tenure.head.seq + 1),
        }
    }

    /// The newest commit of this writer. None of a reader, and after a release.
    pub(crate) fn writer_head(&self) -> Option<&Head> {
        self.tenure().ok().map(|tenure| &tenure.head)
    }

    /// Adds a commit; returns its number once it is durable and certainly ours. After one with
    /// `release`, this value reads only.
    ///
    /// # Errors
    /// - [`Error::Fenced`]: the home is somebody else's; every later call says so too.
    /// - [`Error::Store`]: nobody knows whether it is stored; call [`Log::settle`] until it answers.
    /// - [`Error::InDoubt`]: that was not done for the commit before; this one was not looked at.
    /// - [`Error::Unclaimed`]: this value claimed nothing.
    pub(crate) async fn append(&mut self, commit: Commit) -> Result<u64> {
        let seq = self.next_seq()?;
        let (time, sent) = (self.clock().now(), Moment::of(self.clock().as_ref()));
        let tenure = self.tenure_mut()?;
        let author = Author {
            seq,
            epoch: tenure.head.epoch,
            nonce: tenure.head.nonce,
            holder: tenure.head.holder.clone(),
            base_seq: tenure.head.base_seq,
            bytes_above_base: tenure.bytes_above_base(),
            descent: tenure.head.descent.clone(),
        };
        let (header, body) = commit.into_object(author, time)?;
        tenure.in_doubt = Some(InDoubt { header, body, sent });
        self.settle().await?;
        Ok(seq)
    }

    /// Finishes the commit that is in doubt; its number, or `None` where there is none.
    ///
    /// # Errors
    /// As [`Log::append`]; it stays in doubt while the store does not answer.
    pub(crate) async fn settle(&mut self) -> Result<Option<u64>> {
        let tenure = self.tenure()?;
        let Some(in_doubt) = &tenure.in_doubt else { return Ok(None) };
        let (seq, ours) = (in_doubt.header.seq, in_doubt.header.epoch);
        // Nobody can have taken the number after ours before ours was there.
        let (was_free, mut free) = (tenure.free, in_doubt.sent);
        let created = self.store().create(&self.keys().log(seq), in_doubt.body.clone()).await;
        match created {
            Ok(()) => {}
            Err(objstore::Error::Exists { .. }) => {
                // Lost for certain; whose it is only helps who reads the message.
                let theirs = self.epoch_at(seq).await.unwrap_or_default();
                return Err(self.fence(ours, theirs));
            }
            Err(error) => return Err(error.into()),
        }
        let answered = Moment::of(self.clock().as_ref());
        if !create_proves(&was_free, &answered) {
            self.look_at_boundary(seq, ours).await?;
            free = answered;
        }
        self.note_seen(seq);
        let recent = self.recent.clone();
        let tenure = self.tenure_mut()?;
        if let Some(in_doubt) = tenure.in_doubt.take() {
            let lead = container::before_pages(&in_doubt.header, &in_doubt.body);
            recent.note(seq, lead, in_doubt.header.is_full());
            tenure.accept(&in_doubt.header, free);
        }
        if tenure.head.released {
            self.standing = Standing::Reader;
        }
        Ok(Some(seq))
    }

    /// Fences this writer where commit `seq`, which it created, may have been deleted before.
    async fn look_at_boundary(&mut self, seq: u64, ours: Epoch) -> Result<()> {
        match self.boundary().await {
            Ok(Some(boundary)) if boundary.seq >= seq => Err(self.fence(ours, boundary.epoch)),
            Ok(_) => Ok(()),
            Err(error @ Error::Deleted { .. }) => {
                self.fence(ours, Epoch(u64::MAX));
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The commit whose fate is not known.
    pub(crate) fn in_doubt(&self) -> Option<u64> {
        self.tenure().ok()?.in_doubt.as_ref().map(|in_doubt| in_doubt.header.seq)
    }

    /// A base of commit `seq` is stored; what lies above it is counted anew.
    pub(crate) fn note_base(&mut self, seq: u64) {
        self.recent.forget_upto(seq);
        let Ok(tenure) = self.tenure_mut() else { return };
        if seq > tenure.head.base_seq && seq <= tenure.head.seq {
            tenure.above_base.retain(|commit| commit.0 > seq);
            tenure.head.base_seq = seq;
            tenure.head.bytes_above_base = tenure.bytes_above_base();
            tenure.head.descent = tenure.head.descent.above(seq);
        }
    }

    /// The epoch of the commit that took our number; 0 where it went again meanwhile.
    async fn epoch_at(&self, seq: u64) -> Result<Epoch> {
        let stored = self.read(seq).await?;
        Ok(stored.map_or(Epoch::default(), |stored| stored.header().epoch))
    }

    fn fence(&mut self, ours: Epoch, theirs: Epoch) -> Error {
        tracing::warn!(home = %self.keys().home(), %ours, %theirs, "this writer has been fenced");
        self.standing = Standing::Fenced { ours, theirs };
        Error::Fenced { ours, theirs }
    }

    fn tenure(&self) -> Result<&Tenure> {
        match &self.standing {
            Standing::Writer(tenure) => Ok(tenure),
            Standing::Fenced { ours, theirs } => {
                Err(Error::Fenced { ours: *ours, theirs: *theirs })
            }
            Standing::Reader => Err(Error::Unclaimed),
        }
    }

    fn tenure_mut(&mut self) -> Result<&mut Tenure> {
        match &mut self.standing {
            Standing::Writer(tenure) => Ok(tenure),
            Standing::Fenced { ours, theirs } => {
                Err(Error::Fenced { ours: *ours, theirs: *theirs })
            }
            Standing::Reader => Err(Error::Unclaimed),
        }
    }
}

impl Commit {
    /// Header and bytes of the object.
    pub(super) fn into_object(
        self,
        author: Author,
        time: base::Timestamp,
    ) -> Result<(Header, Bytes)> {
        let kind = if self.release { Kind::Release } else { Kind::Delta };
        // What lies below a full state counts no more.
        let full = self.pages.at.is_some_and(|at| at.full);
        let bytes_above_base = if full { 0 } else { author.bytes_above_base + self.pages.len() };
        let header = Header {
            seq: author.seq,
            epoch: author.epoch,
            nonce: author.nonce,
            kind,
            holder: author.holder,
            time,
            page_size: self.pages.page_size,
            page_count: self.pages.page_count,
            parent_base: author.base_seq,
            bytes_above_base,
            sections: Vec::new(),
            index: self.pages.at,
            data: container::describe_data(&self.data)?,
            descent: author.descent,
        };
        let body = container::encode(&header, &self.pages.body, &self.data)?;
        Ok((header, body))
    }
}

#[cfg(test)]
mod tests;
