//! Commits and bases that no state needs any more which anybody may read.
//!
//! A state is read from a full one (a base) and the commits above it. So once a base is there and
//! old enough that nobody reads an older state, what lies below it goes, but for
//! - what a pinned state is read from,
//! - commits whose data section is still named (`compact` moves such data), also by a pinned state
//!   that a restore left behind, of which the newest database knows nothing,
//! - the first commit of each epoch (see the parent). One that carries pages is replaced by a stub.
//!
//! # Order
//! The boundary is raised when the base is noticed; a horizon later commits go, then bases. A crash
//! in between leaves what the next listing finds.

use std::collections::BTreeSet;

use base::Epoch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::keep::Kept;
use crate::replica::boundary::Boundary;
use crate::replica::container;
use crate::replica::error::{Error, Result};
use crate::replica::header::{Header, Kind};
use crate::replica::limits::{DELETES_AT_ONCE, LIST_PAGE};
use crate::replica::log::Log;

/// A commit of an epoch's beginning that is larger than this is replaced by a stub.
const STUB_BYTES_MAX: u64 = 4 << 10;

/// What may go, and what of it must not.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    /// Everything up to this number is of no use as part of the newest states. The boundary is there
    /// already.
    pub(crate) upto: u64,
    /// The claim of whoever collects; its commits after that need no look. The head where nobody
    /// writes.
    pub(crate) claim: u64,
    /// The newest commit.
    pub(crate) head: u64,
    /// Commits whose data is named.
    pub(crate) ridden: BTreeSet<u64>,
}

/// What went.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Went {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// A commit that may go.
struct Looked {
    seq: u64,
    bytes: u64,
    /// It begins an epoch, and is this.
    begins: Option<Header>,
    has_data: bool,
}

/// All restores of a home, as far as they matter. The commits that one left behind are in no later
/// database, so nobody but the pins knows whether their data is named.
#[derive(Debug, Default)]
struct Restores(BTreeSet<(u64, u64)>);

impl Restores {
    fn note(&mut self, header: &Header) {
        self.0.extend(header.descent.restores.iter().map(|restore| (restore.of, restore.at)));
    }

    /// The numbers of restores that left commit `seq` behind.
    fn left_behind(&self, seq: u64) -> impl Iterator<Item = u64> {
        self.0.iter().filter(move |(of, at)| (*of + 1..*at).contains(&seq)).map(|(_, at)| *at)
    }
}

impl Log {
    /// Says that commits up to `seq` may be gone from now on. Never lowers what is said already.
    pub(crate) async fn raise_boundary(&self, seq: u64, epoch: Epoch) -> Result<()> {
        let said = self.boundary().await?.map_or(0, |boundary| boundary.seq);
        if said >= seq {
            return Ok(());
        }
        let time = Some(self.clock().now());
        let boundary = Boundary { seq, epoch, raised: time, ..Boundary::default() };
        let json = serde_json::to_vec(&boundary).expect("a boundary is plain data");
        Ok(self.store().put(&self.keys().boundary(), Bytes::from(json)).await?)
    }

    /// Deletes commits, bases and page objects up to `chain.upto` that nothing keeps. The base right
    /// above must be there.
    pub(crate) async fn shorten(&self, chain: &Chain, kept: &Kept) -> Result<Went> {
        let mut went = Went::default();
        self.shorten_log(chain, kept, &mut went).await?;
        let bases = self.own_numbers(&self.keys().bases(), chain.upto).await?;
        let doomed = bases.into_iter().filter(|(seq, _)| !kept.base(*seq));
        let doomed = doomed.map(|(seq, bytes)| (self.keys().base(seq), bytes)).collect();
        self.delete_all(doomed, &mut went).await?;
        self.forget_pages(chain, kept, &mut went).await?;
        Ok(went)
    }

    async fn shorten_log(&self, chain: &Chain, kept: &Kept, went: &mut Went) -> Result<()> {
        let listed = self.own_numbers(&self.keys().logs(), chain.upto).await?;
        let (mut looked, mut restores) = (Vec::with_capacity(listed.len()), Restores::default());
        let mut epoch = None;
        for (seq, bytes) in listed {
            // Which ones begin an epoch is known of one's own, and read from the others.
            if seq > chain.claim {
                looked.push(Looked { seq, bytes, begins: None, has_data: false });
                continue;
            }
            let Some(stored) = self.read(seq).await? else { continue };
            let header = stored.header();
            restores.note(header);
            let begins = epoch.replace(header.epoch) != Some(header.epoch);
            let (begins, has_data) = (begins.then(|| header.clone()), header.data.is_some());
            looked.push(Looked { seq, bytes, begins, has_data });
        }
        // Later ones are named by the commit above, or by the newest.
        for seq in [chain.upto + 1, chain.head] {
            if let Some(stored) = self.read(seq).await? {
                restores.note(stored.header());
            }
        }
        let mut doomed = Vec::new();
        for Looked { seq, bytes, begins, has_data } in looked {
            let left_behind =
                || has_data && restores.left_behind(seq).any(|at| kept.within(seq, at));
            let needed = kept.commit(seq) || chain.ridden.contains(&seq) || left_behind();
            match (needed, begins) {
                (true, _) => {}
                (false, Some(stub)) if bytes > STUB_BYTES_MAX => {
                    self.make_stub(stub).await?;
                    went.bytes += bytes;
                }
                (false, Some(_)) => {}
                (false, None) => doomed.push((self.keys().log(seq), bytes)),
            }
        }
        self.delete_all(doomed, went).await
    }

    /// Takes pages and data out of a commit that must stay.
    async fn make_stub(&self, header: Header) -> Result<()> {
        let seq = header.seq;
        let stub =
            Header { kind: Kind::Claim, sections: Vec::new(), index: None, data: None, ..header };
        let body = container::encode(&stub, b"", b"")?;
        Ok(self.store().put(&self.keys().log(seq), body).await?)
    }

    /// Numbers up to `upto` below a prefix of this home, with the sizes of their objects.
    async fn own_numbers(&self, prefix: &str, upto: u64) -> Result<Vec<(u64, u64)>> {
        let keys = self.keys();
        let mut numbers = Vec::new();
        let mut after = None::<String>;
        loop {
            let page = self.store().list(prefix, after.as_deref(), LIST_PAGE).await?;
            for object in &page {
                let seq = keys.log_seq(&object.key).or_else(|| keys.base_seq(&object.key));
                match seq {
                    Some(seq) if seq > upto => return Ok(numbers),
                    Some(seq) => numbers.push((seq, object.size)),
                    None => {}
                }
            }
            match page.last() {
                Some(last) if page.len() == LIST_PAGE => after = Some(last.key.clone()),
                _ => return Ok(numbers),
            }
        }
    }

    /// Deletes objects of which the size is known.
    pub(crate) async fn delete_all(
        &self,
        doomed: Vec<(String, u64)>,
        went: &mut Went,
    ) -> Result<()> {
        let deletes = doomed.into_iter().map(|(key, bytes)| async move {
            self.store().delete(&key).await?;
            Ok::<_, Error>(bytes)
        });
        let mut deletes = futures::stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE);
        while let Some(bytes) = deletes.try_next().await? {
            went.objects += 1;
            went.bytes += bytes;
        }
        Ok(())
    }
}
