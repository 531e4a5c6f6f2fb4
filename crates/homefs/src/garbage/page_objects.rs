//! Page objects that no state names any more.
//!
//! What the base above the boundary names is what any later state can name of the objects that are
//! older. Besides, what the newest state and the pinned ones are read from stays.

use std::collections::BTreeSet;

use super::chain::{Chain, Went};
use super::keep::Kept;
use crate::replica::error::{Error, Result};
use crate::replica::limits::LIST_PAGE;
use crate::replica::log::Log;
use crate::replica::merged::Place;

impl Log {
    /// Deletes page objects born at or before `chain.upto` that nobody needs. Nobody may be writing a
    /// base meanwhile.
    pub(super) async fn forget_pages(
        &self,
        chain: &Chain,
        kept: &Kept,
        went: &mut Went,
    ) -> Result<()> {
        let mut doomed = self.page_objects_upto(chain.upto).await?;
        if doomed.is_empty() {
            return Ok(());
        }
        let base = self.read_base(chain.upto + 1).await?;
        let index = self.index(&base).await?;
        let named: BTreeSet<_> =
            index.objects.iter().map(|object| self.object_key(object)).collect();
        doomed.retain(|(key, _)| !named.contains(key));
        for seq in kept.seqs().chain([chain.head]) {
            if doomed.is_empty() {
                break;
            }
            let missing = || Error::corrupt(self.keys().log(seq), "it is missing");
            let state = self.merged_at(seq).await?.ok_or_else(missing)?;
            let objects = state.places.iter().filter_map(|place| match place {
                Place::Object(object) => Some(self.object_key(object)),
                Place::Own { .. } => None,
            });
            let named: BTreeSet<_> = objects.collect();
            doomed.retain(|(key, _)| !named.contains(key));
        }
        self.delete_all(doomed, went).await
    }

    /// Those of this home that are so old, or of format 1, which do not say.
    async fn page_objects_upto(&self, upto: u64) -> Result<Vec<(String, u64)>> {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let prefix = self.keys().page_objects();
            let page = self.store().list(&prefix, after.as_deref(), LIST_PAGE).await?;
            for object in &page {
                let id = self.keys().page_object_id(&object.key);
                if id.is_some_and(|(born, _)| born.is_none_or(|born| born <= upto)) {
                    found.push((object.key.clone(), object.size));
                }
            }
            match page.last() {
                Some(last) if page.len() == LIST_PAGE => after = Some(last.key.clone()),
                _ => return Ok(found),
            }
        }
    }
}
