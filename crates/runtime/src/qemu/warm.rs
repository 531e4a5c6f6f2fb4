//! A guest that was suspended and whose hypervisor is still there, for whoever wakes it soon.
//!
//! All that a suspend writes is on the disk, as if the hypervisor were gone: a warm one is a copy of it in memory, which
//! may be lost at any time. What it saves is the start of a hypervisor and, under emulation, that all code is translated
//! anew, which is most of a wake.
//!
//! # Invariants
//! - It goes on only for the very files that it was suspended into, and for a [`Spec`] that is the same in all else.
//! - Nothing runs in it, the hypervisor neither, and nothing is sent to it by its channels, which are kept open, so that the guest sees nobody leave.
//! - One runtime has one of them at most. Whatever else the runtime starts or loads takes its place.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use guest_ring::GuestMemory;
use serde_json::{Value, json};

use super::hypervisor::Hypervisor;
use super::instance::QemuInstance;
use super::qmp::{Line, Qmp};
use super::room::Grows;
use super::{Accelerator, memory};
use crate::{Error, Loaded, Memory, Purpose, Spec, Started};

/// How long a hypervisor that stood still may take to say how it is. One that was swapped out may take longer than it is worth.
const READY_PATIENCE: Duration = Duration::from_secs(2);

/// Where the warm guest of a runtime is. It ends with the runtime.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Option<Warm>>>);

impl Shelf {
    /// Takes it out. Whoever drops it ends it, and blocks for that.
    pub(crate) fn take(&self) -> Option<Warm> {
        self.swap(None)
    }

    /// Whether there is one that has not ended.
    pub(crate) fn is_taken(&self) -> bool {
        let warm = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        warm.as_ref().is_some_and(|warm| !warm.hypervisor.has_ended())
    }

    fn swap(&self, warm: Option<Warm>) -> Option<Warm> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), warm)
    }
}

/// What it takes to have an instance go on once it was warm; kept beside it while it runs.
#[derive(Debug)]
pub(crate) struct Ends {
    control: UnixStream,
    fuse: UnixStream,
    memory: File,
    upper: File,
    spec: Spec,
    /// Its own, which it is not to keep alive.
    shelf: Weak<Mutex<Option<Warm>>>,
}

/// A file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    device: u64,
    inode: u64,
}

impl Id {
    fn of(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino() }
    }

    fn is_at(self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|meta| Self::of(&meta) == self)
    }
}

impl Ends {
    /// Those of an instance of `spec`; `None` where it is none that can stay so: one without a file for its memory, one
    /// whose disk is served by somebody who may leave, a template; and one whose clock would go on while it sleeps, as that
    /// of a processor that is not emulated does.
    pub(crate) fn of(
        spec: &Spec,
        (control, fuse): (&UnixStream, &UnixStream),
        memory: Option<&File>,
        upper: &File,
        (accelerator, shelf): (Accelerator, &Shelf),
    ) -> io::Result<Option<Self>> {
        let (Some(memory), None, (Purpose::Machine, Accelerator::Tcg)) =
            (memory, &spec.upper_server, (spec.purpose, accelerator))
        else {
            return Ok(None);
        };
        Ok(Some(Self {
            control: control.try_clone()?,
            fuse: fuse.try_clone()?,
            memory: memory.try_clone()?,
            upper: upper.try_clone()?,
            spec: spec.clone(),
            shelf: Arc::downgrade(&shelf.0),
        }))
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            control: self.control.try_clone()?,
            fuse: self.fuse.try_clone()?,
            memory: self.memory.try_clone()?,
            upper: self.upper.try_clone()?,
            spec: self.spec.clone(),
            shelf: self.shelf.clone(),
        })
    }

    /// The instance is another one now in what can be changed while it runs.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Spec)) {
        change(&mut self.spec);
    }
}

/// See the module. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Warm {
    hypervisor: Hypervisor,
    qmp: Qmp,
    ends: Ends,
    /// The same for the next time, once it is ready.
    again: Option<Ends>,
    /// Kept open: nobody else's file has its number as long as it is.
    state: File,
}

impl Warm {
    /// A guest that was saved into `state`, which is on the disk as its memory is. Its hypervisor stands still: one that a
    /// guest has broken into does nothing while the machine sleeps.
    pub(crate) fn new(hypervisor: Hypervisor, qmp: Qmp, ends: Ends, state: File) -> Self {
        Self { hypervisor, qmp, ends, again: None, state }
    }

    /// Puts it where its runtime finds it; where that is gone it ends.
    pub(crate) fn put_away(self) {
        let shelf = self.ends.shelf.upgrade().map(Shelf);
        if let Some(shelf) = shelf {
            drop(shelf.swap(Some(self)));
        }
    }

    /// Has it ready to go on, as what `spec` would be loaded from.
    ///
    /// # Errors
    /// Why that is another one, for people.
    pub(crate) fn ready(&mut self, spec: &Spec) -> Result<(), String> {
        self.fits(spec)?;
        let not = |error: io::Error| format!("its hypervisor: {error}");
        self.again = Some(self.ends.try_clone().map_err(not)?);
        self.hypervisor.place().map_or(Ok(()), |place| place.serve_again()).map_err(not)?;
        self.hypervisor.release().map_err(not)?;
        self.qmp.begin_within(READY_PATIENCE);
        let seen = self.qmp.execute("query-status", json!({})).map_err(not)?;
        match seen.get("status").and_then(Value::as_str) {
            Some("postmigrate") => Ok(()),
            other => Err(format!("its hypervisor is {other:?}")),
        }
    }

    fn fits(&self, spec: &Spec) -> Result<(), &'static str> {
        let Memory::Saved { file, state } = &spec.memory else { return Err("it is to boot") };
        if self.hypervisor.has_ended() {
            return Err("its hypervisor has ended");
        }
        let is_at =
            |file: &File, path: &Path| file.metadata().is_ok_and(|meta| Id::of(&meta).is_at(path));
        let files = is_at(&self.ends.memory, file) && is_at(&self.state, state);
        if !files || !is_at(&self.ends.upper, &spec.upper_image) {
            return Err("its files are other ones now");
        }
        let (memory, upper_image) = (spec.memory.clone(), spec.upper_image.clone());
        if *spec != (Spec { memory, upper_image, ..self.ends.spec.clone() }) {
            return Err("it is to be another one now");
        }
        let place = self.hypervisor.place().ok_or("its hypervisor has ended")?;
        if place.is_up_to_date() { Ok(()) } else { Err("the host's name servers are other ones") }
    }

    /// Lets it run. Where that fails it is gone.
    fn let_run(self) -> Result<Started, Error> {
        let Self { hypervisor, mut qmp, ends, again, .. } = self;
        let resume = |error: io::Error| Error::Resume(error.to_string());
        qmp.begin_anew();
        hypervisor.is_suspended(false);
        qmp.execute("cont", json!({})).map_err(resume)?;
        let Ends { control, fuse, memory, upper, spec, .. } = ends;
        let file = memory.try_clone().map_err(resume)?;
        let instance = QemuInstance::of(hypervisor, Line::Met(qmp), spec.memory.file(), again);
        // One whose disk is served does not stay warm.
        instance.look_for_room(Grows { upper, served: None, memory: Some(file) })?;
        let memory = Some(GuestMemory::new(memory, memory::arrangement(spec.memory_mib)));
        Ok(Started { instance: Box::new(instance), control, fuse, memory })
    }
}

#[async_trait]
impl Loaded for Warm {
    fn is_there(&self) -> bool {
        !self.hypervisor.has_ended()
    }

    async fn go_on(self: Box<Self>) -> Result<Started, Error> {
        super::blocking(|| self.let_run()).await
    }
}
