//! A home mounted for writing: claimed, served, given up.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::ErrorKind;
use fuse_serve::{Config, Session};
use homefs::{HomeFs, HomeSettings, Recovery, SyncMode};

use super::{Fsync, Here, LOOK, MountArgs, Place, Served, blocking, of_home, say};
use crate::Failure;

/// How often the way to the last commit is told.
const PROGRESS: Duration = Duration::from_secs(2);

pub(super) async fn mount(
    args: &MountArgs,
    place: Place,
    target: &Path,
    mut here: Here,
) -> Result<(), Failure> {
    let _lock = place.claim()?;
    let home = open(args, &place, &here).await?;
    let session = Session::new(home.clone(), Config::default());
    let served = match Served::begin(session, target, false, place.home.as_str()).await {
        Ok(served) => served,
        Err(error) => {
            // A writer that stays would keep everybody else out.
            return release(home, &place, &mut here).await.and(Err(error));
        }
    };
    let fenced = loop {
        tokio::select! {
            () = here.ends.wait() => break false,
            () = tokio::time::sleep(LOOK) => {}
        }
        if served.is_gone() {
            break false;
        }
        if home.status().fenced {
            break true;
        }
    };
    served.end().await?;
    if fenced {
        return Err(Failure::new(
            ErrorKind::Fenced,
            format!(
                "another server took {}; nothing more is written here, and what it did not get is kept in {}",
                place.name,
                place.dir.path().display()
            ),
        ));
    }
    release(home, &place, &mut here).await
}

async fn open(args: &MountArgs, place: &Place, here: &Here) -> Result<Arc<HomeFs>, Failure> {
    let settings = HomeSettings {
        bytes_max: place.bytes_max,
        sync: if args.fsync == Fsync::Local { SyncMode::Local } else { SyncMode::Store },
        take_over: args.take_over.into(),
        ..HomeSettings::new(place.home.clone(), place.dir.home(), here.server.clone())
    };
    let (parts, name) = (here.parts.clone(), place.name.clone());
    let (home, opened) = blocking(move || {
        HomeFs::open_writer(settings, parts).map_err(|error| refused(&name, &error))
    })
    .await?;
    match opened.recovery {
        Recovery::Clean | Recovery::FromStore { lost_local: false } => {}
        Recovery::LocalContinued => say("going on with what this host has and the store has not"),
        Recovery::FromStore { lost_local: true } => say(&format!(
            "what was here does not go with the store: another writer had overtaken it, or it is damaged; it is kept beside {}",
            place.dir.home().display()
        )),
    }
    Ok(Arc::new(home))
}

/// Why a home cannot be had for writing, and what to do.
pub(super) fn refused(name: &str, error: &homefs::Error) -> Failure {
    let message = match error {
        homefs::Error::InUse => format!(
            "{name} is in use on this host: awake, or mounted elsewhere; put it to sleep (dormouse sleep {name}) \
             or unmount it first, or leave --read-write away to see what is published"
        ),
        _ if error.kind() == ErrorKind::Fenced => {
            format!("{error}; for a mount: --take-over")
        }
        _ => error.to_string(),
    };
    Failure::new(error.kind(), message)
}

/// Seals, stores, last commit. A second signal ends the wait.
async fn release(home: Arc<HomeFs>, place: &Place, here: &mut Here) -> Result<(), Failure> {
    let releasing = home.clone();
    let mut released = tokio::task::spawn_blocking(move || releasing.release().map_err(of_home));
    let released = loop {
        tokio::select! {
            done = &mut released => break done.unwrap_or_else(|error| {
                Err(Failure::new(ErrorKind::Internal, format!("give the home up: {error}")))
            }),
            () = here.ends.wait() => break Err(Failure::new(
                ErrorKind::Timeout,
                "stopped before everything was stored",
            )),
            () = tokio::time::sleep(PROGRESS) => {
                let status = home.status();
                say(&format!(
                    "storing {}: {} MiB and {} changes to go",
                    place.name,
                    status.unreplicated_bytes >> 20,
                    status.unreplicated_ops
                ));
            }
        }
    };
    let released = released.map_err(|failure| {
        Failure::new(
            failure.kind,
            format!(
                "{failure}; {} is whole in {} and held by this server: mount it or wake it again",
                place.name,
                place.dir.home().display()
            ),
        )
    })?;
    say(&format!("{} is stored, commit {}", place.name, released.seq));
    Ok(())
}
