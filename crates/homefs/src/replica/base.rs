//! Bases: the whole database as of one commit, so that a reader need not go through the log.
//!
//! A base is written beside the log after its commit and may be written at any time, by anybody
//! who has that state: two bases of one commit hold the same pages. So one that is there already
//! is left alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::collect::{Arrange, Full};
use super::container;
use super::error::{Error, Result};
use super::header::{Header, Kind};
use super::limits::{BYTES_ABOVE_BASE, COMMITS_ABOVE_BASE, COMMITS_ABOVE_BASE_MAX};
use super::log::{Head, Log};
use super::pages::PageSource;

/// True where so much lies above the newest base that a new one cannot wait.
#[must_use]
pub(crate) fn needs_base(head: &Head) -> bool {
    is_above(head, COMMITS_ABOVE_BASE_MAX)
}

/// True where a new one pays, for readers and for the collector, once the home is at rest.
#[must_use]
pub(crate) fn base_pays(head: &Head) -> bool {
    is_above(head, COMMITS_ABOVE_BASE)
}

fn is_above(head: &Head, commits: u64) -> bool {
    head.page_count > 0
        && (head.seq.saturating_sub(head.base_seq) > commits
            || head.bytes_above_base > BYTES_ABOVE_BASE)
}

impl Log {
    /// Stores the base of commit `head`, whose state `source` must be. The commit must be known to
    /// be in the log. The writer then says [`Log::note_base`].
    pub(crate) async fn write_base(
        &self,
        head: &Head,
        source: Arc<dyn PageSource>,
        arrange: Arrange,
    ) -> Result<()> {
        // Cheap, and catches a source that was taken too early or too late by whole pages.
        if (source.page_count(), source.page_size()) != (head.page_count, head.page_size) {
            return Err(Error::OtherState { seq: head.seq });
        }
        let full = Full { source, above: head.seq, changed: Some(BTreeSet::new()), born: head.seq };
        let pages = self.collect_full(full, arrange).await?;
        let header = Header {
            seq: head.seq,
            epoch: head.epoch,
            nonce: head.nonce,
            kind: Kind::Base,
            holder: head.holder.clone(),
            time: self.clock().now(),
            page_size: pages.page_size,
            page_count: pages.page_count,
            parent_base: head.seq,
            bytes_above_base: 0,
            sections: Vec::new(),
            index: pages.at,
            data: None,
            descent: head.descent.above(head.seq),
        };
        let body: Bytes = container::encode(&header, &pages.body, b"")?;
        match self.store().create(&self.keys().base(head.seq), body).await {
            Ok(()) | Err(objstore::Error::Exists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ByNumber, MemoryPages, TestStore, header};
    use super::*;

    #[test]
    fn a_base_is_due_by_number_or_by_size() {
        let head = |seq, base_seq, bytes| Head {
            base_seq,
            bytes_above_base: bytes,
            page_count: 1,
            ..Head::from(&header(seq))
        };
        assert!(!needs_base(&head(512, 0, 0)));
        assert!(needs_base(&head(513, 0, 0)));
        assert!(!base_pays(&head(64, 0, 0)) && base_pays(&head(65, 0, 0)));
        assert!(!base_pays(&head(165, 101, 32 << 20)));
        assert!(needs_base(&head(165, 164, (32 << 20) + 1)));
        assert!(
            !needs_base(&Head { page_count: 0, ..head(99, 0, 0) }),
            "there is nothing to write"
        );
    }

    #[tokio::test]
    async fn a_second_base_of_a_commit_changes_nothing() {
        let (store, log) = TestStore::with_log();
        let pages = MemoryPages::numbered(512, 40);
        let head = Head { page_count: 40, page_size: 512, ..Head::from(&header(9)) };
        log.write_base(&head, Arc::new(pages.clone()), ByNumber::arrange).await.unwrap();
        let first = store.objects.lock()[&log.keys().base(9)].clone();
        let again = Head { nonce: super::super::header::Nonce([1; 16]), ..head };
        log.write_base(&again, Arc::new(pages), ByNumber::arrange).await.unwrap();
        assert_eq!(store.objects.lock()[&log.keys().base(9)], first);
        assert_eq!(log.read_base(9).await.unwrap().header().page_count, 40);
    }

    #[tokio::test]
    async fn a_base_of_another_state_is_refused() {
        let (store, log) = TestStore::with_log();
        let head = Head { page_count: 40, page_size: 512, ..Head::from(&header(9)) };
        for source in [MemoryPages::numbered(512, 41), MemoryPages::numbered(1024, 40)] {
            let written = log.write_base(&head, Arc::new(source), ByNumber::arrange).await;
            assert!(matches!(written, Err(Error::OtherState { seq: 9 })));
        }
        assert!(store.keys().is_empty());
    }
}
