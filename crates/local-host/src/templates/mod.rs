//! Templates: guests that were booted before they were anybody's, so that a new machine need not boot.
//!
//! # Order
//! A machine starts for the first time. Where a template of its kind lies there, it is given a copy
//! ([`Templates::give`]); its keeper goes on from that, or says why it booted. Where there is none, one is
//! made once the machine is up, one at a time, with little of the host's time. Copies are made beforehand,
//! while nobody waits.
//!
//! # Failure
//! None that a machine would feel: without a template it boots. A template whose clones do not come up twice in
//! a row is thrown away. A crash leaves nothing that has a template's name.
//!
//! # Parts
//! `policy` decides, `shelf` is the disk, `make` boots and saves.

mod copy;
mod make;
mod policy;
mod shelf;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use base::Entropy;
use keeper::layout::MachineDir;
use keeper::template::{self, Kind, TemplateDir};
use keeper::{Client, KeeperSpec, KeeperState, Status};
use parking_lot::Mutex;
use runtime::Runtime;

use self::make::Maker;
use self::policy::Known;
use self::shelf::Shelf;

/// Where they lie in a data directory.
pub(crate) const TEMPLATES: &str = "templates";
/// What a keeper says of a guest that was cloned.
const CLONED: &str = "cloned";
/// The same of one that could not be; why follows.
const REFUSED: &str = "booted without template";
/// How long the machine whose boot asked for a template has for itself.
const QUIET: Duration = Duration::from_secs(1);
/// The longest note of a template's name.
const NAME_BYTES_MAX: u64 = 64;
/// How long one question to a keeper is held.
const HELD: Duration = Duration::from_secs(20);

/// See the module. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Templates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shelf: Shelf,
    maker: Maker,
    known: Mutex<Known>,
    tidied: Once,
    /// Held by whoever makes a template or copies of one.
    making: tokio::sync::Mutex<()>,
}

/// The memory of the template that the machine in `dir` was given, among those below `templates`, where it is still
/// there. Another one of the same name may lie there by now. Blocks.
pub(crate) fn memory_of(dir: &MachineDir, templates: &Path) -> Option<PathBuf> {
    if std::fs::metadata(dir.cloned()).ok()?.len() > NAME_BYTES_MAX {
        return None;
    }
    let name = std::fs::read_to_string(dir.cloned()).ok()?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let memory = TemplateDir::new(templates.join(name)).memory();
    (is_name && memory.exists()).then_some(memory)
}

/// How a machine begins that has no upper here.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    name: String,
    kind: Kind,
    spec: KeeperSpec,
    given: bool,
}

impl Templates {
    /// Templates below `dir`.
    pub(crate) fn new(
        dir: PathBuf,
        runtime: Arc<dyn Runtime>,
        entropy: Arc<dyn Entropy>,
        patience: Duration,
    ) -> Self {
        let (known, making) = Default::default();
        let (maker, tidied) = (Maker { runtime, entropy, patience }, Once::new());
        Self(Arc::new(Inner { shelf: Shelf::new(dir), maker, known, tidied, making }))
    }

    /// Takes away what an earlier server left that is of no use; before anything else is done here, and once.
    /// Blocks.
    pub(crate) fn tidy(&self) {
        self.0.tidied.call_once(|| self.0.shelf.tidy());
    }

    /// Gives the machine in `dir` a copy of the template that fits, if there is one. `None` for a machine that
    /// has an upper here, or in the store as a fork. Blocks; most often for no longer than a rename takes.
    pub(crate) fn give(&self, dir: &MachineDir, spec: &KeeperSpec) -> Option<Begun> {
        if dir.upper().exists() || dir.forked().exists() {
            return None;
        }
        self.tidy();
        let kind = template::kind(&*self.0.maker.runtime, spec);
        let name = template::name(&kind);
        let to = dir.template();
        // Of a start that came to nothing.
        to.remove();
        let given = match self.0.shelf.has(&name, &kind) {
            Ok(true) => match self.0.shelf.give(&name, &to) {
                Ok(()) => {
                    // Its memory is stored over the template's then; without that whole.
                    if let Err(error) = std::fs::write(dir.cloned(), &name) {
                        tracing::warn!(%error, name, "note a machine's template");
                    }
                    true
                }
                Err(error) => {
                    tracing::warn!(%error, name, "copy a template");
                    false
                }
            },
            Ok(false) => false,
            Err(why) => {
                tracing::warn!(why, name, "a template is thrown away");
                self.0.shelf.remove(&name);
                false
            }
        };
        Some(Begun { name, kind, spec: spec.clone(), given })
    }

    /// Looks in the background how the machine comes up, and does what follows from that.
    pub(crate) fn watch(&self, client: Client, begun: Begun) {
        let this = self.clone();
        tokio::spawn(async move {
            let woken = up(&client).await;
            let Begun { name, given, .. } = &begun;
            match woken {
                Some(woken) if *given && woken == CLONED => this.cloned(name, true).await,
                Some(woken) if *given && woken.starts_with(REFUSED) => {
                    this.cloned(name, false).await;
                }
                // It turned out not to be a new one, or was put to sleep or deleted before it was up.
                _ if *given => this.refill(name).await,
                Some(_) => this.make(begun).await,
                None => {}
            }
        });
    }

    async fn cloned(&self, name: &str, well: bool) {
        let bad = self.0.known.lock().cloned(name, well);
        if bad {
            tracing::warn!(name, "a template is thrown away: its clones do not come up");
            self.with_shelf(name, |shelf, name| shelf.remove(name)).await;
        } else {
            self.with_shelf(name, |shelf, name| shelf.touch(name)).await;
            self.refill(name).await;
        }
    }

    async fn refill(&self, name: &str) {
        let _one = self.0.making.lock().await;
        let refilled = self.with_shelf(name, |shelf, name| {
            if keeper::has_room_for_memory(shelf.dir(), shelf.memory_mib(name)) {
                shelf.refill(name)
            } else {
                Err(std::io::ErrorKind::StorageFull.into())
            }
        });
        let refilled = refilled.await;
        if let Some(Err(error)) = refilled {
            tracing::warn!(%error, name, "copy a template");
        }
    }

    async fn make(&self, begun: Begun) {
        if !self.0.known.lock().wants(&begun.name) {
            return;
        }
        let _one = self.0.making.lock().await;
        tokio::time::sleep(QUIET).await;
        let made = self.try_to_make(&begun).await;
        self.0.known.lock().made(&begun.name, made.is_ok());
        drop(_one);
        match made {
            Ok(()) => self.refill(&begun.name).await,
            Err(why) => tracing::warn!(why, "no template: machines of this kind boot"),
        }
    }

    async fn try_to_make(&self, begun: &Begun) -> Result<(), String> {
        let Begun { name, kind, spec, .. } = begun;
        let shelf = &self.0.shelf;
        if shelf.has(name, kind) == Ok(true) {
            return Ok(());
        }
        let told = |error: std::io::Error| error.to_string();
        let new = shelf.begin().map_err(told)?;
        if !keeper::has_room_for_memory(shelf.dir(), spec.instance.memory_mib) {
            new.remove();
            return Err("there is too little room on the disk".to_owned());
        }
        let started = tokio::time::Instant::now();
        let made = self.0.maker.make(spec, kind.clone(), &new).await;
        let put = made.and_then(|()| shelf.put(&new, name).map_err(told));
        if put.is_err() {
            new.remove();
        }
        put?;
        tracing::info!(name, took = ?started.elapsed(), "made a template");
        self.with_shelf(name, |shelf, name| {
            for gone in policy::superfluous(shelf.list(), name) {
                tracing::info!(name = gone, "a template is given up for newer ones");
                shelf.remove(&gone);
            }
        })
        .await;
        Ok(())
    }

    /// Does something that blocks. `None` where that panicked.
    async fn with_shelf<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Shelf, &str) -> T + Send + 'static,
    ) -> Option<T> {
        let (inner, name) = (self.0.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || work(&inner.shelf, &name)).await.ok()
    }
}

/// How the guest came up; `None` where it did not.
async fn up(client: &Client) -> Option<String> {
    let mut status: Status = client.status().await.ok()?;
    while status.state == KeeperState::Starting {
        status = client.next_status(status.stage(), HELD).await.ok()?;
    }
    (status.state == KeeperState::Running).then_some(status.woken)
}
