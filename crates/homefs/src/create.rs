//! Making, finding and ending homes.

use std::sync::Arc;

use base::{HomeId, ServerId};
use bytes::Bytes;

use crate::error::Result;
use crate::meta::arrange::arrange;
use crate::meta::{schema, writer};
use crate::replica::append::Commit;
use crate::replica::collect::Full;
use crate::replica::delete::End;
use crate::replica::error::{Error as LogError, Result as LogResult};
use crate::replica::log::Head;
use crate::replica::pages::PageSource;
use crate::replica::pinned::PinKind;
use crate::settings::Parts;

/// Makes an empty home, released, so that it can be read and claimed. One that exists is left as
/// it is.
///
/// # Errors
/// Those of the store; `NotFound` for a home that was deleted.
pub async fn create_home(parts: &Parts, home: &HomeId, holder: &ServerId) -> Result<()> {
    let log = parts.log(home);
    if log.head(None).await?.is_some() {
        return Ok(());
    }
    let image = Image(schema::image(writer::now_ns(parts.clock.as_ref()))?);
    let full = Full { source: Arc::new(image), above: 0, changed: None, born: 1 };
    let pages = log.collect_full(full, arrange).await?;
    let commit = Commit { pages, data: Bytes::new(), release: true };
    match log.publish(0, commit, holder.clone(), parts.entropy.nonce()).await {
        // Somebody else made it meanwhile.
        Ok(_) | Err(LogError::Moved { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The newest commit of a home; `None` where there is no such home.
///
/// # Errors
/// Those of the store; `NotFound` for a home that was deleted.
pub async fn head(parts: &Parts, home: &HomeId) -> Result<Option<Head>> {
    let log = parts.log(home);
    Ok(log.head(None).await?)
}

/// Ends a home: whoever still writes it is fenced, and all its objects go, snapshots included, but
/// for what forks of it need. That goes with the last fork. Doing it again goes on where it was broken
/// off. Pins need not be readable: where it is not certain what forks need, all stays as long as they.
///
/// # Errors
/// Those of the store.
pub async fn delete_home(parts: &Parts, home: &HomeId) -> Result<()> {
    let mut log = parts.log(home);
    loop {
        let End::Gone { parent: Some(parent), .. } = log.delete_home().await? else {
            return Ok(());
        };
        let child = log.keys().home().clone();
        log = parts.log(&parent);
        log.unpin(&PinKind::Fork { child }).await?;
        if !log.is_deleted().await? {
            return Ok(());
        }
        // It was only kept for its forks, of which there is one less.
    }
}

/// A database in memory.
struct Image(Vec<u8>);

impl PageSource for Image {
    fn page_size(&self) -> u32 {
        schema::PAGE_BYTES
    }

    fn page_count(&self) -> u32 {
        u32::try_from(self.0.len() / schema::PAGE_BYTES as usize).unwrap_or(0)
    }

    fn read_page(&self, page: u32, into: &mut [u8]) -> LogResult<()> {
        let start = (page as usize).saturating_sub(1).saturating_mul(into.len());
        match self.0.get(start..start.saturating_add(into.len())) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => into.fill(0),
        }
        Ok(())
    }
}
