//! The pages of a published state, read where they lie.
//!
//! # Order of a read
//! Which group has the page; is it in memory; else one request for it and its neighbours, which are
//! likely to be wanted next (`meta::arrange`). Whoever reads on gets more at a time.
//!
//! # Bounds
//! Groups in memory: [`PACKED_BYTES`] as they came and [`PLAIN_BYTES`] unpacked. A request waits no
//! longer than [`PATIENCE`]. Several threads that want the same group wait for one request.
//!
//! # Failure
//! The store's own errors, of their own kind. An object that is gone because a newer state was
//! published long ago is [`LogError::Superseded`]: who reads begins again with the newest.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::data::block_cache::BlockCache;
use crate::limits::{PACKED_BYTES, PLAIN_BYTES};
use crate::replica::container::decode_group;
use crate::replica::error::{Error as LogError, Result};
use crate::replica::index::Group;
use crate::replica::limits::{PIECE_BYTES, PIECE_GAP_BYTES};
use crate::replica::log::Log;
use crate::replica::merged::Merged;

/// Bytes fetched behind the wanted group, and before it.
const AHEAD_BYTES: u64 = 64 << 10;
const BACK_BYTES: u64 = 16 << 10;
/// How long one request may take, the store's retries included.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests under way at once, by group.
const FLIGHTS: usize = 16;

/// The pages of one state.
pub(crate) struct Published {
    log: Log,
    runtime: tokio::runtime::Handle,
    seq: u64,
    state: Merged,
    /// By page, from 1: its group, counted from 1; 0 for a page that is zeros.
    group_of: Vec<u32>,
    packed: BlockCache<u32>,
    plain: BlockCache<u32>,
    flights: [Mutex<()>; FLIGHTS],
    ahead: Mutex<Ahead>,
    requests: AtomicU64,
}

/// Where someone who reads on would go on, and how much to fetch then.
#[derive(Debug, Default, Clone, Copy)]
struct Ahead {
    next: usize,
    bytes: u64,
}

impl std::fmt::Debug for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Published")
            .field("seq", &self.seq)
            .field("pages", &self.state.page_count)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

impl Published {
    /// The pages of commit `seq`, which lie where `state` says.
    pub(crate) fn new(
        log: Log,
        runtime: tokio::runtime::Handle,
        seq: u64,
        mut state: Merged,
    ) -> Self {
        let mut group_of = vec![0; state.page_count as usize];
        let packed = BlockCache::new(PACKED_BYTES);
        for (number, group) in state.groups.iter().enumerate() {
            let counted = u32::try_from(number + 1).unwrap_or(u32::MAX);
            for page in group.live() {
                if let Some(place) = group_of.get_mut(page as usize - 1) {
                    *place = counted;
                }
            }
            if let Some(bytes) = state.near(group.object, &(group.offset..group.end())) {
                packed.put(counted, Bytes::copy_from_slice(&bytes));
            }
        }
        state.forget_near();
        Self {
            log,
            runtime,
            seq,
            state,
            group_of,
            packed,
            plain: BlockCache::new(PLAIN_BYTES),
            flights: Default::default(),
            ahead: Mutex::default(),
            requests: AtomicU64::new(0),
        }
    }

    /// Requests that were made for pages.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Bytes of the database.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.state.page_size) * u64::from(self.state.page_count)
    }

    fn read_page(&self, page: u32, into: &mut [u8]) -> Result<()> {
        let at = (page as usize).checked_sub(1);
        let counted = at.and_then(|at| self.group_of.get(at)).copied().unwrap_or(0);
        let Some(number) = (counted as usize).checked_sub(1) else {
            into.fill(0);
            return Ok(());
        };
        let plain = self.group(number)?;
        let slot = self.state.groups[number].pages.iter().position(|found| *found == page);
        let size = self.state.page_size as usize;
        match slot.and_then(|slot| plain.get(slot * size..(slot + 1) * size)) {
            Some(bytes) if bytes.len() == into.len() => into.copy_from_slice(bytes),
            _ => return Err(self.damaged(number, "a group does not hold its pages")),
        }
        Ok(())
    }

    /// A group, unpacked.
    fn group(&self, number: usize) -> Result<Bytes> {
        let counted = u32::try_from(number + 1).unwrap_or(u32::MAX);
        if let Some(plain) = self.plain.get(counted) {
            return Ok(plain);
        }
        let _flight = self.flights[number / 8 % FLIGHTS].lock();
        if let Some(plain) = self.plain.get(counted) {
            return Ok(plain);
        }
        let packed = match self.packed.get(counted) {
            Some(packed) => packed,
            None => self.fetch(number)?,
        };
        let group = &self.state.groups[number];
        let plain = decode_group(group, self.state.page_size, &packed)
            .map_err(|damage| damage.of(self.key(number)))?;
        let plain = Bytes::from(plain);
        self.plain.put(counted, plain.clone());
        Ok(plain)
    }

    /// Fetches a group with its neighbours.
    fn fetch(&self, number: usize) -> Result<Bytes> {
        let (first, last) = self.window(number);
        let groups = &self.state.groups;
        let range = groups[first].offset..groups[last].end();
        let place = &self.state.places[groups[number].object as usize];
        self.requests.fetch_add(1, Ordering::Relaxed);
        let fetched = self.runtime.block_on(async {
            match tokio::time::timeout(PATIENCE, self.log.part_if_there(place, &range)).await {
                Ok(Ok(Some(bytes))) => Ok(bytes),
                Ok(Ok(None)) => Err(self.missing(number).await),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(LogError::Store(objstore::Error::Unavailable {
                    message: format!("no answer for {} s", PATIENCE.as_secs()),
                })),
            }
        })?;
        let part = |group: &Group| {
            let start = usize::try_from(group.offset - range.start).unwrap_or(usize::MAX);
            let end = start.saturating_add(group.len as usize);
            // A copy: what is kept of a request must not keep all of it.
            fetched.get(start..end).map(Bytes::copy_from_slice)
        };
        for (n, group) in groups.iter().enumerate().take(last + 1).skip(first) {
            if let (Ok(counted), Some(packed)) = (u32::try_from(n + 1), part(group)) {
                self.packed.put(counted, packed);
            }
        }
        part(&groups[number]).ok_or_else(|| self.damaged(number, "it is cut off"))
    }

    /// Which groups to fetch where one is wanted: the first and the last.
    fn window(&self, number: usize) -> (usize, usize) {
        let groups = &self.state.groups;
        let (back, forward) = {
            let mut ahead = self.ahead.lock();
            let goes_on = ahead.next == number && ahead.bytes > 0;
            ahead.bytes = if goes_on { (ahead.bytes * 2).min(PIECE_BYTES) } else { AHEAD_BYTES };
            (if goes_on { 0 } else { BACK_BYTES }, ahead.bytes)
        };
        let beside = |a: &Group, b: &Group| {
            a.object == b.object && b.offset.saturating_sub(a.end()) <= PIECE_GAP_BYTES
        };
        let (mut first, mut last) = (number, number);
        while let Some(next) = groups.get(last + 1).filter(|next| beside(&groups[last], next))
            && next.end() - groups[number].offset <= forward
        {
            last += 1;
        }
        while let Some(before) = first.checked_sub(1).map(|at| &groups[at])
            && beside(before, &groups[first])
            && groups[number].offset - before.offset <= back
        {
            first -= 1;
        }
        self.ahead.lock().next = last + 1;
        (first, last)
    }

    /// An object is not there. Where there is a newer state, it was collected.
    async fn missing(&self, number: usize) -> LogError {
        match self.log.newest(Some(self.seq)).await {
            Ok(Some(newest)) if newest.header().seq == self.seq => {
                self.damaged(number, "it is missing")
            }
            Ok(_) => LogError::Superseded { seq: self.seq },
            Err(error) => error,
        }
    }

    fn damaged(&self, number: usize, why: &str) -> LogError {
        LogError::corrupt(self.key(number), why)
    }

    fn key(&self, number: usize) -> String {
        self.log.place_key(&self.state.places[self.state.groups[number].object as usize])
    }
}

impl sqlite_pages::Pages for Published {
    fn page_size(&self) -> u32 {
        self.state.page_size
    }

    fn page_count(&self) -> u32 {
        self.state.page_count
    }

    fn read(&self, page: u32, into: &mut [u8]) -> Result<(), sqlite_pages::Cause> {
        Ok(self.read_page(page, into)?)
    }
}
