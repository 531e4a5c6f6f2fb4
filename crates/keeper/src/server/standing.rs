//! How the keeper stands, and the call that has it end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::reply::Args;
use super::{Ctx, Shared};
use crate::{KeeperState, Stage, Status};

/// Longest that anybody waits for the next stage.
const NEXT_MAX: Duration = Duration::from_secs(60);

/// How the keeper stands.
pub(super) async fn status(State(shared): Ctx) -> Json<Status> {
    Json(now(&shared))
}

/// One that was asked to end says so at once, not only when it comes to it: whoever asks next would take it for one
/// that stays.
fn now(shared: &Shared) -> Status {
    let mut now = (shared.status)();
    if now.state == KeeperState::Running && shared.stop.is_cancelled() {
        now.state = KeeperState::Stopping;
    }
    now
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NextArgs {
    pub(crate) seen: Stage,
    pub(crate) wait_ms: u64,
}

/// Answers once the keeper is at another stage than the one that was seen, or after the given time.
pub(super) async fn next(
    State(shared): Ctx,
    Args(NextArgs { seen, wait_ms }): Args<NextArgs>,
) -> Json<Status> {
    let mut moved = shared.moved.clone();
    let changed = async {
        loop {
            moved.borrow_and_update();
            // One that stops does not wait for those who wait for it.
            let stage = now(&shared).stage();
            if stage != seen
                || stage.state == KeeperState::Stopping
                || moved.changed().await.is_err()
            {
                return;
            }
        }
    };
    drop(tokio::time::timeout(Duration::from_millis(wait_ms).min(NEXT_MAX), changed).await);
    Json(now(&shared))
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StopArgs {
    pub(crate) forget: bool,
}

/// Asks the keeper to put the machine to sleep and end. Whoever wants nothing but that gives no arguments.
pub(super) async fn stop(State(shared): Ctx, Args(args): Args<Option<StopArgs>>) -> Json<Status> {
    if args.is_some_and(|args| args.forget) {
        // It stays so: who does not want the memory any more throws it away.
        shared.forget.store(true, Ordering::SeqCst);
    }
    shared.stop.cancel();
    Json(now(&shared))
}
