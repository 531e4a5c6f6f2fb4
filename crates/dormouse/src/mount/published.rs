//! A home mounted to be read: its published state, moved along while it is mounted.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuse_serve::{Config, Session};
use homefs::Snapshot;

use super::{Here, LOOK, Place, Served, blocking, of_home, say};
use crate::Failure;

/// How often a newer published state is looked for. Below the time that the store keeps what only
/// an older state needs.
const REFRESH: Duration = Duration::from_secs(60);
/// How long the kernel believes names and attributes: nobody tells it which of them a newer state
/// changed.
const TTL: Duration = Duration::from_secs(10);

pub(super) async fn mount(place: Place, target: &Path, mut here: Here) -> Result<(), Failure> {
    let (home, dir, parts) = (place.home.clone(), place.dir.snapshot(), here.parts.clone());
    let snapshot =
        blocking(move || Snapshot::open_published(home, dir, parts).map(Arc::new).map_err(of_home))
            .await?;
    let config = Config { entry_ttl: TTL, attr_ttl: TTL, negative_ttl: TTL, ..Config::default() };
    let session = Session::new(snapshot.clone(), config);
    let served = Served::begin(session, target, true, place.home.as_str()).await?;
    let mut refreshed = Instant::now();
    loop {
        tokio::select! {
            () = here.ends.wait() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
        if served.is_gone() {
            break;
        }
        if refreshed.elapsed() >= REFRESH {
            refreshed = Instant::now();
            refresh(&snapshot, &served).await;
        }
    }
    served.end().await
}

/// Moves to the newest state. A store that is away is no reason to end: what is shown stays good.
async fn refresh(snapshot: &Arc<Snapshot>, served: &Served) {
    let (snapshot, notifier) = (snapshot.clone(), served.notifier());
    let moved = blocking(move || {
        let moved = snapshot.refresh().map_err(of_home)?;
        if moved {
            notifier.forget_all();
        }
        Ok(moved)
    });
    if let Err(error) = moved.await {
        say(&format!("look for a newer state: {error}"));
    }
}
