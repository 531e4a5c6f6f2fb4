//! Who lost a home shortly before it was deleted.
//!
//! A writer that was overtaken and did not notice creates the number that the claim over it has. It
//! believes that create for half a horizon without a look at the boundary, so for as long something
//! must stand there, whatever became of the home.
//!
//! Epochs never go down from one commit to the next: where one began is found by halving, and a home
//! with many commits costs some dozen reads.

use super::error::{Error, Result};
use super::header::{Header, Kind};
use super::limits::{CLAIMS_KEPT_MAX, EPOCHS_LOOKED_AT_MAX, HORIZON};
use super::log::{Head, Log};

impl Log {
    /// Numbers of the claims up to `head` that may have overtaken a writer so lately that it does not
    /// look at the boundary yet; newest first. A claim of a home that was given up overtook nobody.
    ///
    /// Of a log that cannot be read, those above what cannot: a damaged home can be deleted.
    pub(super) async fn late_claims(&self, head: &Head) -> Result<Vec<u64>> {
        let mut claims = Vec::new();
        match self.collect_late_claims(head, &mut claims).await {
            Err(Error::Corrupt { key, why }) => {
                tracing::warn!(%key, %why, "claims below it are not looked for");
            }
            done => done?,
        }
        Ok(claims)
    }

    async fn collect_late_claims(&self, head: &Head, claims: &mut Vec<u64>) -> Result<()> {
        // What lies below is an ancestor's, and so are those who wrote it.
        let floor = head.descent.origins.first().map_or(0, |origin| origin.seq);
        let mut last = self.read(head.seq).await?.map(|stored| stored.header().clone());
        for _ in 0..EPOCHS_LOOKED_AT_MAX {
            let Some(of_epoch) = last.take() else { return Ok(()) };
            let Some(claim) = self.beginning(&of_epoch, floor).await? else { return Ok(()) };
            if claim.seq <= floor + 1 {
                return Ok(());
            }
            last = self.read(claim.seq - 1).await?.map(|stored| stored.header().clone());
            // One whose predecessor is gone may have overtaken it.
            if last.as_ref().is_none_or(|before| before.kind != Kind::Release) {
                claims.push(claim.seq);
            }
            if claims.len() == CLAIMS_KEPT_MAX {
                break;
            }
        }
        tracing::warn!(home = %self.keys().home(), "more late claims than are kept");
        Ok(())
    }

    /// The first commit of the epoch of `later`. None where it is too old to matter.
    async fn beginning(&self, later: &Header, floor: u64) -> Result<Option<Header>> {
        let (mut below, mut first) = (floor, later.clone());
        let mut step = 1;
        while below + 1 < first.seq {
            let seq = match step {
                // Back from the end, ever further.
                1.. => first.seq.saturating_sub(step).max(below + 1),
                _ => below + (first.seq - below) / 2,
            };
            match self.read(seq).await? {
                Some(there) if there.header().epoch == later.epoch => {
                    if self.is_long_ago(there.header()) {
                        return Ok(None);
                    }
                    first = there.header().clone();
                    step *= 2;
                }
                // Another epoch's, or collected: of an earlier time in any case.
                _ => (below, step) = (seq, 0),
            }
        }
        Ok((!self.is_long_ago(&first)).then_some(first))
    }

    /// True of a commit so old that whoever it overtook looks at the boundary. Its time is that of
    /// another host's clock: four times what is needed.
    fn is_long_ago(&self, commit: &Header) -> bool {
        let age = self.clock().now().duration_since(commit.time);
        std::time::Duration::try_from(age).is_ok_and(|age| age > 2 * HORIZON)
    }
}

#[cfg(test)]
mod tests {
    use base::ServerId;
    use bytes::Bytes;

    use super::super::append::Commit;
    use super::super::testing::{TestStore, unchanged};
    use super::*;

    async fn commit(writer: &mut Log, release: bool) {
        let pages = unchanged(writer.writer_head().unwrap());
        writer.append(Commit { pages, data: Bytes::new(), release }).await.unwrap();
    }

    /// A home with an epoch for each of `tenures`: how many commits, whether it was released, and the
    /// seconds that passed after.
    async fn home(tenures: &[(u64, bool, u64)]) -> (std::sync::Arc<TestStore>, Log) {
        let (store, log) = TestStore::with_log();
        for (n, (commits, release, pause)) in tenures.iter().enumerate() {
            let mut writer = store.log(log.keys().home());
            writer.claim(ServerId::generate(), true, [n as u8 + 1; 16]).await.unwrap();
            for n in 1..=*commits {
                commit(&mut writer, *release && n == *commits).await;
            }
            store.clock.advance(*pause);
        }
        (store, log)
    }

    async fn late(log: &Log) -> Vec<u64> {
        log.late_claims(&log.head(None).await.unwrap().unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn claims_over_writers_that_gave_nothing_up_are_found() {
        for (tenures, expected) in [
            (&[(3, false, 0)][..], &[][..]),
            (&[(3, false, 0), (0, false, 0)], &[5]),
            (&[(3, true, 0), (2, false, 0)], &[]),
            (&[(0, false, 0), (0, false, 0), (0, false, 0)], &[3, 2]),
            (&[(3, false, 0), (2, true, 0), (1, true, 0)], &[5]),
            (&[(1, false, 0), (40, false, 0), (33, false, 0)], &[44, 3]),
        ] {
            let (_, log) = home(tenures).await;
            assert_eq!(late(&log).await, expected, "{tenures:?}");
        }
    }

    #[tokio::test]
    async fn what_is_long_ago_is_not_looked_through() {
        let (store, log) = home(&[(2, false, 2_000), (600, false, 0), (0, false, 0)]).await;
        store.take_calls();
        assert_eq!(late(&log).await, [605, 4], "the time of a claim counts, not of what is below");
        assert!(store.take_calls().len() < 60);
        let (store, log) = home(&[(2, false, 0), (600, false, 2_000), (300, false, 0)]).await;
        store.take_calls();
        assert_eq!(late(&log).await, [605]);
        assert!(store.take_calls().len() < 40);
    }

    #[tokio::test]
    async fn a_log_with_gaps_and_damage_gives_what_is_above() {
        let tenures = [(5, false, 0), (5, false, 0), (5, false, 0)];
        let (store, log) = home(&tenures).await;
        // Collected: what is gone below a claim may have been anybody's.
        store.objects.lock().remove(&log.keys().log(6));
        assert_eq!(late(&log).await, [13, 7]);
        let (store, log) = home(&tenures).await;
        store.damage(&log.keys().log(9), 30);
        let found = late(&log).await;
        assert_eq!(found, [13]);
    }
}
