//! Adding commits to a log that was claimed.
//!
//! Order of one commit: create the object of the next number, then look at the boundary. Only when
//! both went well is it durable and ours.
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

use super::container;
use super::error::{Error, Result};
use super::header::{Header, Kind, Nonce, Section};
use super::log::{Head, Log, Standing};

/// Pages, compressed, as they go into a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(super) page_size: u32,
    pub(super) page_count: u32,
    pub(super) sections: Vec<Section>,
    /// Those of the last section, where it lies in the commit itself.
    pub(super) inline: Vec<u8>,
}

impl Pages {
    /// Compressed bytes, wherever they lie.
    pub(crate) fn len(&self) -> u64 {
        self.sections.iter().map(Section::len).sum()
    }
}

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
    in_doubt: Option<InDoubt>,
    /// Commits above the newest base: number, and compressed bytes of their pages. The first also
    /// stands for all that came before it.
    above_base: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct InDoubt {
    header: Header,
    body: Bytes,
}

impl Tenure {
    /// The tenure that begins with the claim `head`.
    pub(super) fn new(head: Head) -> Self {
        let above_base = vec![(head.seq, head.bytes_above_base)];
        Self { head, in_doubt: None, above_base }
    }

    fn accept(&mut self, header: &Header) {
        self.head = header.into();
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
        let time = self.clock().now();
        let tenure = self.tenure_mut()?;
        let author = Author {
            seq,
            epoch: tenure.head.epoch,
            nonce: tenure.head.nonce,
            holder: tenure.head.holder.clone(),
            base_seq: tenure.head.base_seq,
            bytes_above_base: tenure.bytes_above_base(),
        };
        let (header, body) = commit.into_object(author, time)?;
        tenure.in_doubt = Some(InDoubt { header, body });
        self.settle().await?;
        Ok(seq)
    }

    /// Finishes the commit that is in doubt; its number, or `None` where there is none.
    ///
    /// # Errors
    /// As [`Log::append`]; it stays in doubt while the store does not answer.
    pub(crate) async fn settle(&mut self) -> Result<Option<u64>> {
        let Some(in_doubt) = &self.tenure()?.in_doubt else { return Ok(None) };
        let (seq, ours) = (in_doubt.header.seq, in_doubt.header.epoch);
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
        match self.boundary().await {
            Ok(Some(boundary)) if boundary.seq >= seq => {
                return Err(self.fence(ours, boundary.epoch));
            }
            Ok(_) => {}
            Err(error @ Error::Deleted { .. }) => {
                self.fence(ours, Epoch(u64::MAX));
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        self.note_seen(seq);
        let tenure = self.tenure_mut()?;
        if let Some(in_doubt) = tenure.in_doubt.take() {
            tenure.accept(&in_doubt.header);
        }
        if tenure.head.released {
            self.standing = Standing::Reader;
        }
        Ok(Some(seq))
    }

    /// The commit whose fate is not known.
    pub(crate) fn in_doubt(&self) -> Option<u64> {
        self.tenure().ok()?.in_doubt.as_ref().map(|in_doubt| in_doubt.header.seq)
    }

    /// A base of commit `seq` is stored; what lies above it is counted anew.
    pub(crate) fn note_base(&mut self, seq: u64) {
        let Ok(tenure) = self.tenure_mut() else { return };
        if seq > tenure.head.base_seq && seq <= tenure.head.seq {
            tenure.above_base.retain(|commit| commit.0 > seq);
            tenure.head.base_seq = seq;
            tenure.head.bytes_above_base = tenure.bytes_above_base();
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
        let bytes_above_base = author.bytes_above_base + self.pages.len();
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
            sections: self.pages.sections,
            data: container::describe_data(&self.data)?,
        };
        let body = container::encode(&header, &self.pages.inline, &self.data)?;
        Ok((header, body))
    }
}

#[cfg(test)]
mod tests;
