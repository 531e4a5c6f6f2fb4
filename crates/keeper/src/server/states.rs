//! Keeping the state of the live home: for a snapshot, for a fork.

use axum::Json;
use axum::extract::State;
use base::{Epoch, HomeId, SnapshotId, Timestamp};
use homefs::HomeFs;
use serde::{Deserialize, Serialize};

use super::Ctx;
use super::reply::Args;
use crate::{Failure, Result};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotArgs {
    pub(crate) id: SnapshotId,
    pub(crate) name: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ForkArgs {
    pub(crate) into: HomeId,
}

/// A kept state of the home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its id.
    pub id: SnapshotId,
    /// What people call it.
    pub name: Option<String>,
    /// Under which epoch; 0 where a keeper of an earlier version does not say.
    #[serde(default)]
    pub epoch: Epoch,
    /// When it was made.
    pub time: Timestamp,
}

pub(super) async fn snapshot(
    State(ctx): Ctx,
    Args(args): Args<SnapshotArgs>,
) -> Result<Json<Kept>> {
    let _inside = ctx.door.enter()?;
    let made = with_home(&ctx, move |home| home.snapshot(&args.id, args.name.as_deref())).await?;
    Ok(Json(Kept { id: made.id, name: made.name, epoch: made.epoch, time: made.time }))
}

pub(super) async fn hold_fork(State(ctx): Ctx, Args(args): Args<ForkArgs>) -> Result<Json<u64>> {
    let _inside = ctx.door.enter()?;
    with_home(&ctx, move |home| home.hold_fork(&args.into)).await.map(Json)
}

async fn with_home<T: Send + 'static>(
    ctx: &super::Shared,
    work: impl FnOnce(&HomeFs) -> homefs::Result<T> + Send + 'static,
) -> Result<T> {
    let home = ctx.home()?.clone();
    crate::files::blocking(move || {
        work(&home).map_err(|error| Failure::new(error.kind(), error.to_string()))
    })
    .await
}
