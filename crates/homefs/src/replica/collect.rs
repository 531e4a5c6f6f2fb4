//! Pages of a database into a commit or a base, with bounded memory.
//!
//! Pages are compressed in groups, groups gathered in sections. A section that is full goes to the
//! store at once as an object named by its content; the last stays and goes into the commit itself.
//! So whatever the size of the database, one section is in memory. Page objects of a commit that
//! is never made stay behind; they go when the home goes.
//!
//! Not here: which pages changed (`crate::wal`).

use std::collections::BTreeSet;
use std::sync::Arc;

use base::Digest;
use bytes::Bytes;

use super::append::Pages;
use super::container::encode_group;
use super::error::{Error, Result};
use super::header::Section;
use super::limits::{GROUP_PAGES_MAX, SECTION_BYTES};
use super::log::Log;
use super::pages::PageSource;

impl Log {
    /// Compresses `pages` of `source`; those above its page count were cut off, and are left out.
    /// What a commit cannot hold is in the store when this returns.
    pub(crate) async fn collect(
        &self,
        source: Arc<dyn PageSource>,
        pages: &BTreeSet<u32>,
    ) -> Result<Pages> {
        let pages = pages.range(1..=source.page_count()).copied().collect();
        self.collect_sections(source, pages, SECTION_BYTES).await
    }

    /// Compresses all pages of `source`.
    pub(crate) async fn collect_all(&self, source: Arc<dyn PageSource>) -> Result<Pages> {
        let pages = (1..=source.page_count()).collect();
        self.collect_sections(source, pages, SECTION_BYTES).await
    }

    pub(super) async fn collect_sections(
        &self,
        source: Arc<dyn PageSource>,
        mut pages: Vec<u32>,
        section_bytes: u64,
    ) -> Result<Pages> {
        let (page_size, page_count) = (source.page_size(), source.page_count());
        let (mut sections, mut at) = (Vec::new(), 0);
        loop {
            let source = source.clone();
            let (groups, bytes);
            (groups, bytes, pages, at) = blocking(move || {
                let (mut groups, mut bytes, mut at) = (Vec::new(), Vec::new(), at);
                while at < pages.len() && (bytes.len() as u64) < section_bytes {
                    let end = pages.len().min(at + GROUP_PAGES_MAX as usize);
                    groups.push(encode_group(&*source, &pages[at..end], &mut bytes)?);
                    at = end;
                }
                Ok((groups, bytes, pages, at))
            })
            .await?;
            if at == pages.len() {
                if !groups.is_empty() {
                    sections.push(Section { object: None, groups });
                }
                return Ok(Pages { page_size, page_count, sections, inline: bytes });
            }
            let key = self.keys().pages(&Digest::of(&bytes));
            self.store().put(&key, Bytes::from(bytes)).await?;
            sections.push(Section { object: Some(key), groups });
        }
    }
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
mod tests {
    use super::super::header::Group;
    use super::super::testing::{MemoryPages, TestStore};
    use super::*;

    #[tokio::test]
    async fn few_pages_stay_in_the_commit_and_cost_no_request() {
        let (store, log) = TestStore::with_log();
        let source = Arc::new(MemoryPages::numbered(4096, 100));
        let wanted = BTreeSet::from([3, 4, 99, 100, 101, 4_000_000]);
        let pages = log.collect(source, &wanted).await.unwrap();
        assert!(store.take_calls().is_empty());
        assert_eq!(pages.sections.len(), 1);
        assert_eq!(pages.sections[0].groups[0].runs, [(3, 2), (99, 2)]);
        assert_eq!(pages.len(), pages.inline.len() as u64);
    }

    #[tokio::test]
    async fn many_pages_go_to_objects_named_by_their_content() {
        let (store, log) = TestStore::with_log();
        let source = Arc::new(MemoryPages::numbered(4096, 200));
        let pages = log.collect_sections(source, (1..=200).collect(), 100).await.unwrap();
        let (last, own) = pages.sections.split_last().unwrap();
        assert!(last.object.is_none() && own.len() > 3);
        for section in own {
            let key = section.object.as_ref().unwrap();
            let bytes = store.objects.lock()[key].clone();
            assert_eq!(log.keys().pages_digest(key), Some(Digest::of(&bytes)));
            assert_eq!(section.len(), bytes.len() as u64);
        }
        let groups = pages.sections.iter().flat_map(|section| &section.groups);
        let numbers: Vec<u32> = groups.flat_map(Group::pages).collect();
        assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_empty_database_has_no_pages() {
        let (_store, log) = TestStore::with_log();
        let pages = log.collect_all(Arc::new(MemoryPages::numbered(4096, 0))).await.unwrap();
        assert!(pages.sections.is_empty() && pages.inline.is_empty());
    }
}
