//! Collecting the garbage of a home that nobody writes, without taking it.
//!
//! The graves of the published state say what may go. They stay in the database, which is not
//! written: the next writer finds the objects gone and lets go of the graves. The boundary is raised
//! at the first call that finds a reason, and what lies below it goes at one that comes later.
//!
//! What nothing came to name is swept as a writer does it (`sweep`), also what a restore left behind.
//!
//! # Failure
//! Where the home is claimed meanwhile, this goes on for a while beside its writer: both delete only
//! what is dead for good.

use std::path::Path;
use std::time::Duration;

use base::HomeId;

use super::chain::{Chain, Went};
use super::graves::{self, Grave};
use super::keep::Kept;
use super::sweep;
use crate::error::{Error, Result};
use crate::meta::schema;
use crate::nearby;
use crate::opening::Opening;
use crate::replica::limits::HORIZON;
use crate::replica::log::{Head, Log};
use crate::settings::Parts;

/// Other hosts' clocks are involved, so everything waits twice as long as under a writer's own.
const GRACE: Duration = HORIZON.saturating_mul(2);

/// A fork that was not begun by then never will be.
const FORK_PATIENCE: Duration = Duration::from_secs(3600);

/// What a collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Objects that were deleted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// There is, or may be, more to delete after this time.
    pub again_after: Option<Duration>,
}

/// Deletes what the published state of a home does not need any more. A home that somebody holds is
/// left to its writer. `scratch`: a local directory for the home's metadata while this runs.
///
/// # Errors
/// `NotFound` where there is no such home; `Corrupt` where it is not certain what is needed: nothing
/// was deleted then; those of the store and of the disk. Calling again is safe.
pub async fn collect(parts: &Parts, home: &HomeId, scratch: &Path) -> Result<Collected> {
    let log = parts.log(home);
    let none = || Error::NoSuchHome { home: home.clone() };
    let head = log.head(None).await?.filter(|head| head.page_count > 0).ok_or_else(none)?;
    let age = age_of(parts, head.time);
    if !head.released {
        return Ok(Collected::default());
    }
    if age < GRACE {
        return Ok(Collected { again_after: Some(GRACE - age), ..Collected::default() });
    }
    let base = log.base_of(&head).await?;
    let upto = base.saturating_sub(1);
    log.abandon_stale_forks(FORK_PATIENCE).await?;
    let kept = Kept::new(&log.pins_that_hold().await?, log.keys().origins());
    // Nobody comes to name anything of this epoch any more.
    let unknown = sweep::candidates(&log, &kept, head.epoch.next(), head.seq).await?;
    let Dead { graves, ridden, unknown } = dead(&log, &head, scratch, (upto, unknown)).await?;
    if log.head(Some(head.seq)).await?.map(|now| now.seq) != Some(head.seq) {
        return Ok(Collected::default());
    }
    let mut went = Went::default();
    log.empty_graves(graves, &kept, &mut went).await?;
    log.delete_all(unknown, &mut went).await?;
    let mut again_after = None;
    if kept.is_own(upto) && upto > 0 {
        log.raise_boundary(upto, head.epoch).await?;
        let raised = log.boundary().await?.and_then(|boundary| boundary.raised);
        let said = raised.map_or(GRACE, |raised| age_of(parts, raised));
        if said >= GRACE {
            let ridden = ridden.into_iter().collect();
            let chain = log
                .shorten(&Chain { upto, claim: head.seq, head: head.seq, ridden }, &kept)
                .await?;
            went.objects += chain.objects;
            went.bytes += chain.bytes;
        } else {
            again_after = Some(GRACE - said);
        }
    }
    Ok(Collected { objects: went.objects, bytes: went.bytes, again_after })
}

struct Dead {
    graves: Vec<Grave>,
    ridden: Vec<u64>,
    /// What a crash or a restore left behind.
    unknown: Vec<(String, u64)>,
}

/// What the database of `head` says.
async fn dead(
    log: &Log,
    head: &Head,
    scratch: &Path,
    (upto, candidates): (u64, Vec<(String, u64)>),
) -> Result<Dead> {
    std::fs::create_dir_all(scratch).map_err(Error::local("make"))?;
    let database = scratch.join("collect.db");
    nearby::fetch(log, head, &database, None, &Opening::default()).await?;
    let (seq, keys) = (head.seq, log.keys().clone());
    let read = move || -> Result<Dead> {
        let conn = schema::open_immutable(&database)?;
        schema::check(&conn)?;
        let (mut all, mut key) = (Vec::new(), String::new());
        loop {
            let page = graves::after(&conn, &key, seq)?;
            let Some(last) = page.last() else { break };
            key.clone_from(&last.key);
            all.extend(page);
        }
        let ridden = graves::ridden(&conn, upto)?;
        let unknown = sweep::unknown(&conn, &keys, candidates)?;
        drop(conn);
        std::fs::remove_file(&database).map_err(Error::local("clear"))?;
        Ok(Dead { graves: all, ridden, unknown })
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(dead) => dead,
        Err(_) => Err(crate::replica::error::Error::Stopping.into()),
    }
}

fn age_of(parts: &Parts, time: base::Timestamp) -> Duration {
    parts.clock.now().duration_since(time).try_into().unwrap_or_default()
}
