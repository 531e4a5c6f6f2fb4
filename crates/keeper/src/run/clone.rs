//! A new machine that begins with a guest which was booted before it was anybody's.
//!
//! # Order
//! Memory and devices of the copy become the machine's own, and are loaded while the home is claimed
//! ([`early`](super::early)). The claim finds that the machine has no upper yet: the copy's becomes it. Then the
//! guest goes on; the agent is told whose it is (entropy and clock first) and mounts the home. Nothing runs
//! for the user before that.
//!
//! # Failure
//! Until the agent has answered, nobody has used what was copied: it is thrown away, an empty upper is
//! made, and the machine boots and says why.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_proto::AgentClient;
use homefs::HomeFs;
use runtime::{Memory, Spec};

use super::early::Early;
use super::home::until_fenced;
use super::start::{Awake, Started, close};
use super::{Keeper, give_up, guest_ended};
use crate::asleep::RanOn;
use crate::guest::{Guest, said};
use crate::{Failure, Result, template};

/// How long a guest that goes on may take to answer; a boot takes less than to wait for one that will not.
const CLONE_PATIENCE: Duration = Duration::from_secs(10);

/// What a machine begins with that has no upper yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Beginning {
    /// It is no new one, or there is no template.
    Boot,
    /// A copy of a template.
    Clone,
    /// There was a template, and why it is not used.
    Refused(String),
}

impl Keeper {
    /// Looks what a machine without saved memory may begin with, and begins to load that.
    pub(super) async fn stage_template(&self) -> (Beginning, Option<Early>) {
        let (dir, kind) = (self.dir.clone(), template::kind(&*self.parts.runtime, &self.spec));
        let has_room = self.has_room_for_memory();
        let staged = crate::files::blocking(move || {
            if dir.upper().exists() {
                // For a machine that turned out not to be a new one.
                dir.template().remove();
                return Ok(Ok(false));
            }
            let staged = template::stage(&dir, &kind);
            if staged == Ok(true) && !has_room {
                template::unstage(&dir);
                return Ok(Err("there is too little room on the disk".to_owned()));
            }
            Ok(staged)
        });
        match staged.await {
            Ok(Ok(true)) => {
                let memory = Memory::Saved { file: self.dir.memory(), state: self.dir.devices() };
                let upper_image = self.dir.template().upper();
                let copy = Spec { memory, upper_image, ..self.spec.instance.clone() };
                (Beginning::Clone, Some(self.load(self.spec.instance.clone(), copy)))
            }
            Ok(Ok(false)) => (Beginning::Boot, None),
            Ok(Err(why)) => (Beginning::Refused(why), None),
            Err(error) => (Beginning::Refused(error.message), None),
        }
    }

    /// Makes the upper of a machine that has none: the one that it begins with, or an empty one.
    pub(super) async fn make_upper(&self, beginning: Beginning) -> Result<Beginning> {
        let (dir, bytes) = (self.dir.clone(), self.spec.upper.bytes);
        crate::files::blocking(move || {
            let beginning = match beginning {
                Beginning::Clone => match template::place(&dir) {
                    Ok(()) => return Ok(Beginning::Clone),
                    Err(error) => Beginning::Refused(format!("its upper cannot be moved: {error}")),
                },
                other => other,
            };
            make_empty(&dir.upper(), bytes)?;
            Ok(beginning)
        })
        .await
    }

    /// Goes on as a clone.
    ///
    /// # Errors
    /// Outside: no guest can be started. Inside: why not, for people; no guest runs then, and the upper is
    /// empty.
    pub(super) async fn begin_as_clone(
        &self,
        home: &Arc<HomeFs>,
        early: Option<Early>,
    ) -> Result<Result<Awake, String>> {
        match self.try_to_clone(home, early).await {
            Ok(awake) => Ok(Ok(awake)),
            Err(why) => {
                let (dir, bytes) = (self.dir.clone(), self.spec.upper.bytes);
                crate::files::blocking(move || {
                    template::unstage(&dir);
                    std::fs::remove_file(dir.upper()).ok();
                    make_empty(&dir.upper(), bytes)
                })
                .await?;
                Ok(Err(why))
            }
        }
    }

    async fn try_to_clone(
        &self,
        home: &Arc<HomeFs>,
        early: Option<Early>,
    ) -> Result<Awake, String> {
        let here = self.parts.runtime.fingerprint(&self.spec.instance);
        let anywhere = self.portable_fingerprint();
        let begun = Instant::now();
        let started = async {
            let early = early.ok_or_else(|| Failure::internal("load a template", "it was not"))?;
            let started = early.loaded(&self.spec.instance).await?.go_on().await?;
            self.serve_home(home, started, None)
        };
        let started = started.await.map_err(|error| {
            // It may name paths of this host.
            tracing::warn!(%error, "begin with a template");
            "it could not be brought back".to_owned()
        })?;
        let running = begun.elapsed();
        let Started { instance, session, channel, control, line } = started;
        let met = async {
            let agent = AgentClient::reconnect(control, &*self.parts.entropy).await?;
            agent.configure(&self.configure()).await?;
            Ok::<_, agent_proto::Error>(agent)
        };
        let met = tokio::select! {
            met = tokio::time::timeout(CLONE_PATIENCE, met) => met
                .map_err(|_| format!("it did not answer within {} s", CLONE_PATIENCE.as_secs()))
                .and_then(|met| met.map_err(|error| said(&error.to_string()))),
            exit = instance.wait() => Err(guest_ended(&exit).message),
            why = until_fenced(home) => Err(why),
        };
        match met {
            Ok(agent) => {
                let answered = begun.elapsed();
                tracing::info!(?running, ?answered, "the guest goes on from a template");
                std::fs::remove_file(self.dir.devices()).ok();
                let guest = Arc::new(Guest::new(agent, channel.notifier(), 0));
                let keeps_memory = true;
                let ran_on = RanOn { here, anywhere: anywhere.await.unwrap_or_default() };
                Ok(Awake { instance, session, channel, guest, line, ran_on, keeps_memory })
            }
            Err(why) => {
                instance.stop(Duration::ZERO).await;
                close(channel).await.map_err(|error| error.message)?;
                Err(why)
            }
        }
    }

    /// Takes down what was loaded for a machine that turned out not to be a new one.
    pub(super) async fn unstage_template(&self, early: Option<Early>) {
        give_up(early).await;
        let dir = self.dir.clone();
        crate::files::blocking(move || {
            template::unstage(&dir);
            Ok(())
        })
        .await
        .ok();
    }
}

fn make_empty(upper: &std::path::Path, bytes: u64) -> Result<()> {
    images::make_upper(upper, bytes).map_err(|error| Failure::new(error.kind(), error.to_string()))
}
