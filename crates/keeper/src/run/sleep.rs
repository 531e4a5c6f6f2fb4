//! From a guest that runs to one that sleeps: with its memory, or else stopped in order.
//!
//! # Order of a sleep with memory
//! The kernel hears of every change that the API made; the agent holds the processes, writes back
//! what they wrote and lets no request out any more; the channel of the home stops between two
//! messages; the control session says good-bye; the guest stops and is saved; the record is written.
//! The home is given up after that: what the kernel holds open is kept by the session till then.
//!
//! # Failure
//! A guest that finds no room on this host's disk meanwhile is waited for ([`room`](super::room)).
//!
//! Until the guest is at rest, whatever fails leads to an orderly stop: processes end, nothing that was
//! written is lost. An agent that does not answer at all is not waited for: the guest is killed. One that is at rest and cannot be saved is killed: it had written back everything,
//! so that only its processes are lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{ErrorKind, Timestamp};
use fuse_serve::Session;
use homefs::{HomeFs, Opened, Step};
use vfs::Touched;

use super::home::until_fenced;
use super::memory::may_have_run_elsewhere;
use super::start::{Awake, close};
use super::{Keeper, room};
use crate::asleep::{HELD_MAX, SleepRecord};
use crate::guest::said;
use crate::meanwhile;
use crate::{Failure, Result};

/// How long processes in the guest have between TERM and KILL where they have to end.
const PROCESS_GRACE: Duration = Duration::from_secs(5);
/// How long the instance may take to power off after its agent said that it will.
const POWER_OFF_GRACE: Duration = Duration::from_secs(10);
/// How long a guest may take to say when it wants to be woken.
const WISH_PATIENCE: Duration = Duration::from_secs(2);
/// How long its agent may take to answer a question that needs no work; it runs already. On a host that does
/// too much it is some 50 ms.
const ANSWER_PATIENCE: Duration = Duration::from_secs(15);
/// How long a guest may take to come to rest; a busy one writes back what it has.
const FREEZE_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is tried where the host's disk has no room in between.
pub(super) const TRIES: u32 = 3;
/// How long what is under way in the home may take then.
const CHANNEL_PATIENCE: Duration = Duration::from_secs(5);

/// How many inodes the kernel may hold before its caches are dropped: each is in the record.
const HELD_UNTRIMMED_MAX: usize = 100_000;

/// What becomes of memory when a home is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asleep {
    /// This keeper has saved it.
    Saved,
    /// It sleeps on as it was found, with a home of this version: the wake came to nothing before its guest ran.
    On { found: u64 },
    /// There is none.
    No,
}

/// A guest that is at rest: nothing in it runs.
struct AtRest {
    record: SleepRecord,
    /// When its processes began to be held.
    since: Instant,
}

/// Keeps what the kernel of a sleeping guest holds, as long as it lives.
#[derive(Debug)]
pub(super) struct Held {
    _session: Arc<Session>,
}

impl Keeper {
    /// Puts the guest to sleep. It does not run when this returns. `keeps`: its memory is wanted, and nothing but
    /// the guest itself changes its home or starts something any more; else the memory is not kept.
    ///
    /// # Errors
    /// `Fenced` where the home became another server's while the guest was waited for.
    pub(super) async fn put_to_sleep(
        &self,
        home: &Arc<HomeFs>,
        awake: Awake,
        keeps: bool,
    ) -> Result<Option<Held>> {
        let rest = tokio::select! {
            rest = self.bring_to_rest(home, &awake, keeps) => rest,
            why = until_fenced(home) => {
                awake.end().await?;
                return Err(Failure::new(ErrorKind::Fenced, why));
            }
        };
        match rest {
            Some(rest) => self.save(home, awake, rest).await,
            None => awake.end().await.map(|()| None),
        }
    }

    /// What a wake has to know of the guest, which is at rest. `None`: its memory is not kept, and it is off or lost.
    async fn bring_to_rest(
        &self,
        home: &Arc<HomeFs>,
        awake: &Awake,
        keeps: bool,
    ) -> Option<AtRest> {
        if !answers(awake).await {
            return None;
        }
        self.ask_when_to_wake(awake).await;
        if self.spec.keep_memory && awake.keeps_memory && keeps {
            match self.freeze_with_room(home, awake).await {
                Ok(rest) => return Some(rest),
                Err(why) => tracing::warn!(%why, "the guest is stopped: its memory is not kept"),
            }
        }
        if stop(awake).await {
            room::powered_off(&awake.instance, POWER_OFF_GRACE).await;
        }
        None
    }

    /// Notes when the guest wants to be woken. One that does not say wants nothing.
    async fn ask_when_to_wake(&self, awake: &Awake) {
        let ask = || awake.guest.agent().wake_at();
        let asked = room::asked(&awake.instance, WISH_PATIENCE, ask).await;
        let wish = asked.and_then(Result::ok).flatten();
        // It may be any number.
        self.standing.lock().wake_at = wish.and_then(|at| Timestamp::from_second(at).ok());
    }

    /// The same as [`Self::freeze`], and again where it was for want of room that it came to nothing.
    async fn freeze_with_room(&self, home: &Arc<HomeFs>, awake: &Awake) -> Result<AtRest, String> {
        let mut waits = awake.instance.waits_for_room();
        let mut tries = 0;
        loop {
            tries += 1;
            waits.borrow_and_update();
            let frozen = self.freeze(home, awake).await;
            if frozen.is_ok() || tries >= TRIES || !room::lacked(&waits) {
                return frozen;
            }
        }
    }

    /// Brings the guest to rest; what a wake has to know of it.
    ///
    /// # Errors
    /// Why not, and the guest goes on.
    async fn freeze(&self, home: &Arc<HomeFs>, awake: &Awake) -> Result<AtRest, String> {
        let frozen = self.try_to_freeze(home, awake).await;
        if frozen.is_err() {
            room::there_is_room(&awake.instance).await;
            awake.channel.thaw();
            // Said also where the agent did not answer: it may have frozen all the same.
            awake.guest.agent().thaw(self.now_nanos(), &self.fresh_entropy()).await.ok();
        }
        frozen
    }

    async fn try_to_freeze(&self, home: &Arc<HomeFs>, awake: &Awake) -> Result<AtRest, String> {
        let guest = &awake.guest;
        let told = |error: agent_proto::Error| said(&error.to_string());
        guest.settle().await.map_err(told)?;
        if awake.session.held_count() > HELD_UNTRIMMED_MAX {
            guest.agent().trim().await.map_err(told)?;
        }
        let since = Instant::now();
        guest.agent().freeze(FREEZE_PATIENCE).await.map_err(told)?;
        let channel = awake.channel.clone();
        crate::files::blocking(move || Ok(channel.freeze(CHANNEL_PATIENCE)))
            .await
            .map_err(|error| error.message)?
            .map_err(|error| error.to_string())?;
        // A notification that is on its way would be lost with the channel.
        guest.heard_all().await?;
        let session = awake.session.save().ok_or("it has no home")?;
        if session.held.len() > HELD_MAX {
            return Err(format!("its kernel holds {} inodes", session.held.len()));
        }
        let (id, version, ran_on) = (self.spec.home.clone(), home.version(), awake.ran_on.clone());
        let record = SleepRecord::new(id, version, ran_on, session, guest.notified());
        Ok(AtRest { record, since })
    }

    /// Saves a guest that is at rest.
    async fn save(&self, home: &Arc<HomeFs>, awake: Awake, rest: AtRest) -> Result<Option<Held>> {
        let AtRest { record, since } = rest;
        let Awake { instance, session, channel, guest, line, .. } = awake;
        let held = since.elapsed();
        guest.agent().close().await;
        // A request that waits for the store would hold it up.
        self.hold_disk();
        let devices = self.dir.devices();
        let saved = if self.spec.warm_seconds > 0 {
            channel.leave_port();
            instance.suspend_warm(&devices).await.map(drop)
        } else {
            instance.suspend(&devices).await
        };
        if saved.is_ok() {
            self.note_pause(held, since.elapsed());
        }
        // A guest that saw it close would have to look for the next host.
        drop(line);
        instance.stop(Duration::ZERO).await;
        close(channel).await?;
        let ended = self.end_disk().await;
        let written = match saved
            .map_err(|error| error.to_string())
            .and(ended.map_err(|error| error.message))
        {
            Ok(()) => {
                let (dir, home) = (self.dir.clone(), home.clone());
                crate::files::blocking(move || {
                    // What the guest wrote has to be there as long as its memory is.
                    vfs::FileSystem::sync_local(&*home)?;
                    std::fs::File::open(dir.upper())
                        .and_then(|upper| upper.sync_all())
                        .and_then(|()| record.with_files(&dir)?.write(&dir))
                        .map_err(|error| Failure::internal("write the sleep record", error))
                })
                .await
                .map_err(|error| error.message)
            }
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => Ok(Some(Held { _session: session })),
            Err(why) => {
                tracing::error!(%why, "the guest's memory is lost; it had written back everything");
                // It may be there all the same, and nobody keeps what the kernel held.
                SleepRecord::remove(&self.dir)
                    .map_err(|error| Failure::internal("take the sleep record away", error))?;
                Ok(None)
            }
        }
    }

    /// Says how long the guest's processes were held until they could go on from the disk, and how much of that it
    /// took to hold them.
    fn note_pause(&self, held: Duration, paused: Duration) {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(held_ms = ms(held), paused_ms = ms(paused), "the guest is paused and saved");
        self.standing.lock().paused_ms = Some(ms(paused));
    }

    /// Whether the memory that was found here is as good as it was: no guest went on from it, none was booted, and the
    /// home is one that it can go on upon. What else it takes the next wake looks at.
    pub(super) fn sleeps_on(&self, opened: &Opened) -> Asleep {
        // It is there only while no guest has run.
        let Some(record) = SleepRecord::read(&self.dir) else { return Asleep::No };
        let knows = *record.home() == self.spec.home
            && opened.files_reverted == 0
            && !may_have_run_elsewhere(opened)
            && meanwhile::between(&self.dir, record.version(), opened.version).is_some();
        if knows { Asleep::On { found: opened.version } } else { Asleep::No }
    }

    /// Opening a home and giving it up gives it another version, which is no change that a guest would have to know
    /// of. Where there is no guest that sleeps, what is left of its memory is removed.
    pub(super) async fn renew_record(&self, home: &Arc<HomeFs>, asleep: Asleep) {
        let (dir, home) = (self.dir.clone(), home.clone());
        let renewed = crate::files::blocking(move || {
            let done = match (asleep, SleepRecord::read(&dir)) {
                (Asleep::Saved, Some(record)) => record.at_version(home.version()).write(&dir),
                (Asleep::On { found }, Some(_)) => {
                    let touched = Touched::default();
                    meanwhile::note(&dir, Step { from: found, to: home.version(), touched })
                }
                _ => SleepRecord::remove(&dir).map(|()| {
                    // They hold what the guest's memory held.
                    for file in [dir.devices(), dir.memory()] {
                        std::fs::remove_file(file).ok();
                    }
                }),
            };
            done.map_err(|error| Failure::internal("write the sleep record", error))
        });
        if let Err(error) = renewed.await {
            tracing::warn!(%error, "the guest's memory is lost");
        }
    }
}

/// Whether there is an agent that hears us. Its guest may have root of another mind.
async fn answers(awake: &Awake) -> bool {
    room::there_is_room(&awake.instance).await;
    let hello = || awake.guest.agent().hello();
    let heard = match room::asked(&awake.instance, ANSWER_PATIENCE, hello).await {
        Some(heard) => heard.map(drop).map_err(|error| said(&error.to_string())),
        None => Err(format!("no answer within {} s", ANSWER_PATIENCE.as_secs())),
    };
    if let Err(why) = &heard {
        tracing::warn!(%why, "the guest's agent is lost; the guest is killed");
    }
    heard.is_ok()
}

/// Has the guest power off; false where nobody hears us.
async fn stop(awake: &Awake) -> bool {
    if !answers(awake).await {
        return false;
    }
    if let Err(error) = awake.guest.agent().shutdown(PROCESS_GRACE).await {
        tracing::warn!(error = said(&error.to_string()), "the guest did not shut down by itself");
    }
    true
}
