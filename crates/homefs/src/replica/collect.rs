//! Pages of a database into a commit or a base, with bounded memory.
//!
//! Pages are compressed in groups, groups gathered in page objects. One that is full goes to the
//! store at once; what is left at the end, if it is small, goes into the commit itself. So whatever
//! the size of the database, one object is in memory. Page objects of a commit that is never made
//! stay behind until somebody sweeps.
//!
//! A *delta* has pages that changed. A *full* state says where every page is: what lies in page
//! objects already is only named, what lies in commits is stored again, and so is what a `plan`
//! finds to be mostly superseded. Its hot pages come first, right behind its index.
//!
//! Not here: which pages changed (`crate::wal`), which are hot and which lie side by side (an
//! [`Arrange`] of the caller), what is stored again (`plan`).

use std::collections::BTreeSet;
use std::sync::Arc;

use base::Digest;
use bytes::Bytes;

use super::container::encode_group;
use super::error::{Error, Result};
use super::header::{IndexAt, Sum};
use super::index::{Group, Index, PageObject};
use super::limits::{
    GROUP_PAGES_MAX, HINTS_BYTES_MAX, HOT_BYTES, HOT_PAGES_MAX, OBJECT_BYTES, SMALL_BYTES,
};
use super::log::Log;
use super::pages::PageSource;
use super::plan::Plan;

/// Pages, compressed, as they go into a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(super) page_size: u32,
    pub(super) page_count: u32,
    /// What the header says of them; `None` where there are none.
    pub(super) at: Option<IndexAt>,
    /// Index, hints, and the groups that lie in the commit itself.
    pub(super) body: Vec<u8>,
}

impl Pages {
    /// No page changed in a database of this size.
    pub(crate) fn none(page_size: u32, page_count: u32) -> Self {
        Self { page_size, page_count, at: None, body: Vec::new() }
    }

    /// `own` are the groups in the commit itself, the first `hot` bytes of them hot. All other page
    /// objects of `index` are older, or stored for it: `elsewhere` bytes.
    pub(super) fn new(
        (page_size, page_count): (u32, u32),
        index: &Index,
        hints: &[u8],
        own: &[u8],
        hot: u64,
        elsewhere: u64,
    ) -> Self {
        let (packed, plain) = index.encode();
        let at = IndexAt {
            full: index.full,
            len: u32::try_from(packed.len()).unwrap_or(u32::MAX),
            plain,
            sum: Sum::of(&packed),
            hints: u32::try_from(hints.len()).unwrap_or(u32::MAX),
            hints_sum: if hints.is_empty() { Sum::default() } else { Sum::of(hints) },
            own: own.len() as u64,
            hot,
            stored: own.len() as u64 + elsewhere,
        };
        Self { page_size, page_count, at: Some(at), body: [&packed, hints, own].concat() }
    }

    /// Compressed bytes that were stored for it, wherever they lie.
    pub(crate) fn len(&self) -> u64 {
        self.at.map_or(0, |at| at.stored)
    }
}

/// How a database is best laid out: what only those know who know what its pages mean.
pub(crate) trait Arrangement: Send {
    /// Pages that everyone needs, most wanted first.
    fn hot(&self) -> &[u32];
    /// What readers are told of a full state beside its pages; this folder does not look into it.
    fn hints(&self) -> &[u8];
    /// Pages that are read after some of `pages` and nothing else: they are stored with them.
    fn companions(&self, source: &dyn PageSource, pages: &BTreeSet<u32>) -> Result<Vec<u32>>;
    /// Puts `pages` into the order in which they are to lie.
    fn order(&self, source: &dyn PageSource, pages: &mut [u32]) -> Result<()>;
}

/// Looks at a database and says how to lay it out.
pub(crate) type Arrange = fn(&Arc<dyn PageSource>) -> Result<Box<dyn Arrangement>>;

/// A delta below this many pages is not worth arranging.
const ARRANGED_PAGES_MIN: usize = 2_048;

/// A full state to be made: of `source`, which differs from commit `above` in `changed` (`None`:
/// perhaps in everything) and is or will be commit or base `born`.
pub(crate) struct Full {
    pub(crate) source: Arc<dyn PageSource>,
    pub(crate) above: u64,
    pub(crate) changed: Option<BTreeSet<u32>>,
    pub(crate) born: u64,
}

impl Log {
    /// Compresses `pages` of `source` for commit `born`; those above its page count were cut off,
    /// and are left out. What the commit cannot hold is in the store when this returns.
    pub(crate) async fn collect(
        &self,
        source: Arc<dyn PageSource>,
        pages: &BTreeSet<u32>,
        born: u64,
        arrange: Arrange,
    ) -> Result<Pages> {
        let mut pages: Vec<u32> = pages.range(1..=source.page_count()).copied().collect();
        if pages.len() >= ARRANGED_PAGES_MIN {
            let source = source.clone();
            pages = blocking(move || {
                arrange(&source)?.order(&*source, &mut pages)?;
                Ok(pages)
            })
            .await?;
        }
        self.collect_delta(source, pages, born, OBJECT_BYTES).await
    }

    pub(super) async fn collect_delta(
        &self,
        source: Arc<dyn PageSource>,
        pages: Vec<u32>,
        born: u64,
        object_bytes: u64,
    ) -> Result<Pages> {
        let size = (source.page_size(), source.page_count());
        if pages.is_empty() {
            return Ok(Pages::none(size.0, size.1));
        }
        let mut sink = Sink::new(source, born, object_bytes);
        sink.store(self, pages, object_bytes).await?;
        let Sink { index, own, elsewhere, .. } = sink;
        Ok(Pages::new(size, &index, b"", &own, 0, elsewhere))
    }

    /// Says where every page of a database is. What was not stored before, or lies in commits, is
    /// in the store when this returns, or in the result.
    pub(crate) async fn collect_full(&self, full: Full, arrange: Arrange) -> Result<Pages> {
        let Full { source, above, changed, born } = full;
        let size = (source.page_size(), source.page_count());
        let before = match &changed {
            Some(_) if above > 0 => self.merged_at(above).await?,
            _ => None,
        };
        // A database of another page size shares nothing with what was.
        let before = before.filter(|before| before.page_size == size.0);
        let from = source.clone();
        let (plan, hot, cold, hints) = blocking(move || {
            let arrangement = arrange(&from)?;
            let pages = arrangement.hot().iter().copied();
            let mut seen = BTreeSet::new();
            let hot: Vec<u32> = pages
                .filter(|page| (1..=size.1).contains(page) && seen.insert(*page))
                .take(HOT_PAGES_MAX)
                .collect();
            let mut plan = Plan::of(before.as_ref(), changed.as_ref(), &hot, size.1);
            if before.is_some() {
                // What is stored again takes along what is read with it.
                let mut taken = arrangement.companions(&*from, &plan.write)?;
                taken.retain(|page| !plan.write.contains(page));
                if !taken.is_empty() {
                    taken.extend(&plan.write);
                    let changed = taken.into_iter().collect();
                    plan = Plan::of(before.as_ref(), Some(&changed), &hot, size.1);
                }
            }
            let mut cold: Vec<u32> =
                plan.write.iter().filter(|page| !seen.contains(page)).copied().collect();
            arrangement.order(&*from, &mut cold)?;
            let hints = arrangement.hints();
            let fits = hints.len() <= HINTS_BYTES_MAX as usize;
            Ok((plan, hot, cold, if fits { hints.to_vec() } else { Vec::new() }))
        })
        .await?;
        let mut sink = Sink::new(source, born, OBJECT_BYTES);
        let left = sink.fill(hot, HOT_BYTES).await?;
        let hot = sink.own.len() as u64;
        // Pages for which there was no room there lie before all others elsewhere.
        let cold = left.into_iter().chain(cold).collect();
        sink.store(self, cold, SMALL_BYTES).await?;
        let Sink { mut index, own, elsewhere, .. } = sink;
        index.full = true;
        plan.add_kept(&mut index);
        Ok(Pages::new(size, &index, &hints, &own, hot, elsewhere))
    }
}

/// Where groups go.
struct Sink {
    source: Arc<dyn PageSource>,
    born: u64,
    object_bytes: u64,
    index: Index,
    /// Groups of the commit itself.
    own: Vec<u8>,
    /// Bytes of groups in page objects.
    elsewhere: u64,
}

impl Sink {
    fn new(source: Arc<dyn PageSource>, born: u64, object_bytes: u64) -> Self {
        let (index, own) = (Index::default(), Vec::new());
        Self { source, born, object_bytes, index, own, elsewhere: 0 }
    }

    /// Adds groups to the commit itself up to `bytes`; the pages that are left over.
    async fn fill(&mut self, pages: Vec<u32>, bytes: u64) -> Result<Vec<u32>> {
        let (groups, packed, pages, at) = pack(self.source.clone(), pages, 0, bytes).await?;
        self.add_own(groups, &packed);
        Ok(pages[at..].to_vec())
    }

    fn add_own(&mut self, groups: Vec<Group>, packed: &[u8]) {
        let start = self.own.len() as u64;
        let moved = groups.into_iter().map(|group| Group { offset: start + group.offset, ..group });
        // Those of the commit itself come first, and later ones lie behind earlier ones.
        let own = self.index.groups.iter().take_while(|group| group.object == 0).count();
        self.index.groups.splice(own..own, moved);
        self.own.extend_from_slice(packed);
    }

    /// Stores groups as objects; the last ones go to the commit itself where they are no more than
    /// `small` bytes.
    async fn store(&mut self, log: &Log, mut pages: Vec<u32>, small: u64) -> Result<()> {
        let mut at = 0;
        while at < pages.len() {
            let (groups, packed);
            (groups, packed, pages, at) =
                pack(self.source.clone(), pages, at, self.object_bytes).await?;
            let is_last = at == pages.len();
            if is_last && (packed.len() as u64) <= small {
                self.add_own(groups, &packed);
                continue;
            }
            let (born, digest, len) = (self.born, Digest::of(&packed), packed.len() as u64);
            let object = PageObject { born, old: false, digest, len };
            log.store().put(&log.keys().page_object(born, &digest), Bytes::from(packed)).await?;
            self.index.objects.push(object);
            let number = u32::try_from(self.index.objects.len()).unwrap_or(u32::MAX);
            let stored = groups.into_iter().map(|group| Group { object: number, ..group });
            self.index.groups.extend(stored);
            self.elsewhere += len;
        }
        Ok(())
    }
}

/// Compresses `pages` from index `at` on until there are `bytes`; how far it came.
async fn pack(
    source: Arc<dyn PageSource>,
    pages: Vec<u32>,
    mut at: usize,
    bytes: u64,
) -> Result<(Vec<Group>, Vec<u8>, Vec<u32>, usize)> {
    blocking(move || {
        let (mut groups, mut packed) = (Vec::new(), Vec::new());
        while at < pages.len() && (packed.len() as u64) < bytes {
            let end = pages.len().min(at + GROUP_PAGES_MAX as usize);
            groups.push(encode_group(&*source, &pages[at..end], &mut packed)?);
            at = end;
        }
        Ok((groups, packed, pages, at))
    })
    .await
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Stopping),
        },
    }
}

#[cfg(test)]
mod tests;
