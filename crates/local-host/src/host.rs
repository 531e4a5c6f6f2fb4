//! Machines on this host: their directories, their keepers, their images.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Entropy, Epoch, ErrorKind, GIB, HomeId, Ipv4Range, MachineId, ServerId, SnapshotId};
use control::host::{
    ExecutionRecords, Host, KeeperFailure, KeeperLink, KeeperPhase, KeeperSpec, LastWords,
    MemoryStanding, Mounted, UpperHolder, UpperKept, UpperStanding, UpperStored,
};
use control::{Error, Result};
use images::Images;
use keeper::launch;
use keeper::layout::MachineDir;
use objstore::ObjectStore;
use parking_lot::Mutex;
use runtime::{Qemu, QemuSettings};
use tokio_util::sync::CancellationToken;

use crate::convert;
use crate::leftovers::Leftovers;
use crate::link::LocalLink;
use crate::records::LocalRecords;
use crate::templates::{Begun, TEMPLATES, Templates};
use crate::uppers::LocalUppers;

/// Size of a machine's writable layer: sparse, so it takes what is written to it.
const UPPER_BYTES: u64 = 16 * GIB;

/// What the binary decides.
#[derive(Debug, Clone)]
pub struct LocalHostSettings {
    /// The data directory; machines are below `machines/`.
    pub data_dir: PathBuf,
    /// Which server this is.
    pub server: ServerId,
    /// The object store's URL, without credentials.
    pub store_url: String,
    /// The same, opened: uppers of sleeping machines go there.
    pub store: Arc<dyn ObjectStore>,
    /// Memory of a sleeping machine that takes more on the disk than so many bytes is not stored.
    pub stored_memory_bytes_max: u64,
    /// Where images are.
    pub images_dir: PathBuf,
    /// What is started for each machine that wakes.
    pub keeper: launch::Program,
    /// Seconds that a guest stays loaded once it sleeps; 0: not at all.
    pub warm_seconds: u64,
    /// How machines reach the network.
    pub network: runtime::Network,
    /// Private ranges that egress policies may name.
    pub private_ranges: Vec<Ipv4Range>,
    /// The hypervisor's program; the usual one where it is not given.
    pub hypervisor: Option<PathBuf>,
    /// Seconds a guest may take to boot.
    pub boot_timeout_seconds: u64,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// New machines begin with templates, which are made in the background.
    pub templates: bool,
}

/// The place where machines run: this host.
#[derive(Debug)]
pub struct LocalHost {
    directories: Arc<Directories>,
    leftovers: Leftovers,
    /// Of machines whose keepers live: their connections are used again.
    links: Mutex<HashMap<MachineId, Arc<LocalLink>>>,
}

/// What a machine needs on this disk before its keeper starts.
#[derive(Debug)]
struct Directories {
    settings: LocalHostSettings,
    images: Images,
    templates: Option<Templates>,
}

impl LocalHost {
    /// Machines below the data directory of `settings`.
    #[must_use]
    pub fn new(settings: LocalHostSettings) -> Self {
        let images = Images::open(&settings.images_dir);
        let leftovers = Leftovers::of(Qemu::new(QemuSettings::default()));
        let templates = settings.templates.then(|| templates(&settings));
        let directories = Arc::new(Directories { settings, images, templates });
        Self { directories, leftovers, links: Mutex::default() }
    }

    /// Takes down what keepers left that were killed while no server ran, and templates that are over. Machines
    /// that run are not touched.
    pub async fn sweep(&self) {
        if let Some(templates) = self.directories.templates.clone() {
            let tidied = tokio::task::spawn_blocking(move || templates.tidy()).await;
            if let Err(error) = tidied {
                tracing::warn!(%error, "tidy the templates");
            }
        }
        self.leftovers.sweep().await;
    }

    fn dir(&self, machine: &MachineId) -> MachineDir {
        self.directories.dir(machine)
    }

    fn uppers(&self) -> LocalUppers<'_> {
        let LocalHostSettings { store, data_dir, .. } = &self.directories.settings;
        let memory_bytes_max = self.directories.settings.stored_memory_bytes_max;
        LocalUppers { store, data_dir, memory_bytes_max }
    }
}

impl Directories {
    fn dir(&self, machine: &MachineId) -> MachineDir {
        machine_dir(&self.settings.data_dir, machine)
    }

    /// Writes what the keeper needs to know. For a new machine: what it begins with.
    fn prepare(&self, spec: &KeeperSpec) -> Result<(MachineDir, Option<Begun>)> {
        let dir = self.dir(&spec.machine);
        let io = |doing: &'static str| {
            move |error: std::io::Error| {
                Error::internal(format!("{doing}: {error}")).caused_by(error)
            }
        };
        private_dir(dir.path()).map_err(io("make the machine's directory"))?;
        private_dir(&dir.instance_logs()).map_err(io("make the machine's directory"))?;
        let image = self.images.get(&spec.image).map_err(image_error)?;
        let instance = runtime::Spec {
            machine: spec.machine.clone(),
            vcpu: spec.vcpu,
            memory_mib: spec.memory_mib,
            kernel: image.kernel,
            initrd: image.initrd,
            root_image: image.root,
            upper_image: dir.upper(),
            upper_server: None,
            agent_args: Vec::new(),
            memory: runtime::Memory::Anonymous,
            network: self.settings.network,
            egress: runtime::EgressPolicy {
                allowed: spec.egress.clone(),
                private_ranges: self.settings.private_ranges.clone(),
            },
            purpose: runtime::Purpose::Machine,
            log_dir: dir.instance_logs(),
        };
        let spec = keeper::KeeperSpec {
            machine: spec.machine.clone(),
            name: spec.name.clone(),
            home: spec.home.clone(),
            holder: self.settings.server.clone(),
            store_url: self.settings.store_url.clone(),
            storage_bytes_max: spec.storage_gib.saturating_mul(GIB),
            fsync_local: spec.fsync_local,
            take_over_from: spec.take_over_from,
            keep_memory: true,
            warm_seconds: self.settings.warm_seconds,
            boot_timeout_seconds: self.settings.boot_timeout_seconds,
            hypervisor: self.settings.hypervisor.clone(),
            instance,
            upper: keeper::UpperSpec {
                bytes: UPPER_BYTES,
                root: image.digest,
                images_dir: self.settings.images_dir.clone(),
            },
        };
        spec.store(&dir).map_err(convert::failure)?;
        let begun = self.templates.as_ref().and_then(|templates| templates.give(&dir, &spec));
        Ok((dir, begun))
    }
}

/// Where a data directory has its machines.
#[must_use]
pub fn machines_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("machines")
}

pub(crate) fn machine_dir(data_dir: &Path, machine: &MachineId) -> MachineDir {
    MachineDir::new(machines_dir(data_dir).join(machine.as_str()))
}

fn templates(settings: &LocalHostSettings) -> Templates {
    let mut qemu = QemuSettings::default();
    if let Some(program) = &settings.hypervisor {
        qemu.program.clone_from(program);
    }
    Templates::new(
        settings.data_dir.join(TEMPLATES),
        Arc::new(Qemu::new(qemu)),
        settings.entropy.clone(),
        Duration::from_secs(settings.boot_timeout_seconds),
    )
}

pub(crate) fn private_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// What is wrong with an image, for whoever asked for the machine: without this host's paths, which the
/// log has.
fn image_error(error: images::Error) -> Error {
    let kind = match error.kind() {
        // This server may not read its own files; what its caller may is another matter.
        ErrorKind::PermissionDenied => ErrorKind::Internal,
        kind => kind,
    };
    let (code, message) = match &error {
        images::Error::Name(_) => ("IMAGE_MISSING", error.to_string()),
        images::Error::Missing { name, .. } => (
            "IMAGE_MISSING",
            format!(
                "there is no image {name:?} on this host; run `cargo xtask setup` to build it, \
                 `dormouse doctor` to see what is missing"
            ),
        ),
        images::Error::Damaged { detail, .. } => (
            "IMAGE_MISSING",
            format!("the image is damaged ({detail}); run `cargo xtask setup --rebuild`"),
        ),
        images::Error::ProgramMissing { .. } => ("RUNTIME_MISSING", error.to_string()),
        images::Error::Io { doing, source, .. } => {
            (kind.code(), format!("{doing} a file of the machine's image: {source}"))
        }
        _ => (kind.code(), error.to_string()),
    };
    tracing::warn!(%error, "an image cannot be used");
    Error::new(kind, message).with_code(code).caused_by(error)
}

#[async_trait]
impl Host for LocalHost {
    async fn start_keeper(&self, spec: &KeeperSpec) -> Result<()> {
        let dir = self.dir(&spec.machine);
        if launch::is_alive(&dir) {
            return Ok(());
        }
        let (directories, spec) = (self.directories.clone(), spec.clone());
        let (dir, begun) =
            tokio::task::spawn_blocking(move || directories.prepare(&spec))
                .await
                .map_err(|error| Error::internal(format!("prepare the machine: {error}")))??;
        let client = launch::start(&self.directories.settings.keeper, &dir)
            .await
            .map_err(|failure| not_started(&dir, failure))?;
        if let Some((templates, begun)) = self.directories.templates.as_ref().zip(begun) {
            templates.watch(client, begun);
        }
        Ok(())
    }

    async fn images(&self) -> Result<Vec<String>> {
        let directories = self.directories.clone();
        tokio::task::spawn_blocking(move || directories.images.names())
            .await
            .map_err(|error| Error::internal(format!("look for images: {error}")))?
            .map_err(image_error)
    }

    async fn connect(&self, machine: &MachineId) -> Option<Arc<dyn KeeperLink>> {
        let dir = self.dir(machine);
        if !launch::is_alive(&dir) {
            self.links.lock().remove(machine);
            return None;
        }
        let mut links = self.links.lock();
        let link = links.entry(machine.clone()).or_insert_with(|| {
            Arc::new(LocalLink::new(machine.clone(), dir, self.leftovers.clone()))
        });
        Some(link.clone())
    }

    async fn room_lacking(&self, machine: &MachineId, memory_mib: Option<u64>) -> u64 {
        let (dir, data) = (self.dir(machine), self.directories.settings.data_dir.clone());
        let look = move || keeper::room_lacking(&data, &dir, memory_mib);
        tokio::task::spawn_blocking(look).await.unwrap_or(0)
    }

    async fn mounted(&self, home: &HomeId) -> Option<Mounted> {
        let holder = keeper::mounted::holder(&self.directories.settings.data_dir, home)?;
        Some(Mounted { process: holder.process })
    }

    async fn last_words(&self, machine: &MachineId) -> Option<LastWords> {
        let words = keeper::LastWords::read(&self.dir(machine))?;
        Some(LastWords {
            phase: if words.released && words.error.is_none() {
                KeeperPhase::Stopped
            } else {
                KeeperPhase::Failed
            },
            failure: words.error.map(|(kind, message)| KeeperFailure {
                code: failure_code(kind, words.home_gone).to_owned(),
                message,
                retryable: kind.is_retryable(),
            }),
            wake_at: words.wake_at,
        })
    }

    fn executions(&self, machine: &MachineId) -> Arc<dyn ExecutionRecords> {
        Arc::new(LocalRecords { machine: machine.clone(), dir: self.dir(machine) })
    }

    async fn forget_memory(&self, machine: &MachineId) -> Result<()> {
        let dir = self.dir(machine);
        let forgotten = tokio::task::spawn_blocking(move || {
            // Of a machine that never ran here there is none yet.
            private_dir(dir.path()).map_err(|error| {
                Error::internal(format!("make the machine's directory: {error}"))
            })?;
            launch::forget_memory(&dir).map_err(convert::failure)
        });
        forgotten
            .await
            .map_err(|error| Error::internal(format!("forget the machine's memory: {error}")))?
    }

    async fn upper_standing(&self, machine: &MachineId) -> UpperStanding {
        self.uppers().standing(machine).await
    }

    async fn store_upper(
        &self,
        machine: &MachineId,
        stop: &CancellationToken,
    ) -> Result<UpperStored> {
        self.uppers().store(machine, stop).await
    }

    async fn memory_standing(&self, machine: &MachineId) -> MemoryStanding {
        self.uppers().memory_standing(machine).await
    }

    async fn store_memory(
        &self,
        machine: &MachineId,
        stop: &CancellationToken,
    ) -> Result<UpperStored> {
        self.uppers().store_memory(machine, stop).await
    }

    async fn unstore_memory(&self, machine: &MachineId) -> Result<()> {
        self.uppers().unstore_memory(machine).await
    }

    async fn collect_upper(&self, machine: &MachineId, since: &str) -> Result<u64> {
        self.uppers().collect(machine, since).await
    }

    async fn collect_templates(&self, known: &HashSet<MachineId>) -> Result<u64> {
        self.uppers().collect_templates(known).await
    }

    async fn freed_upper(&self, machine: &MachineId) -> Result<Option<String>> {
        self.uppers().freed(machine).await
    }

    async fn keep_upper(
        &self,
        machine: &MachineId,
        home: Epoch,
        holder: &UpperHolder,
    ) -> Result<UpperKept> {
        self.uppers().keep(machine, home, holder).await
    }

    async fn keep_upper_again(
        &self,
        machine: &MachineId,
        at: &SnapshotId,
        into: &MachineId,
    ) -> Result<Option<Result<(), String>>> {
        self.uppers().keep_again(machine, at, into).await
    }

    async fn let_go_of_upper(&self, machine: &MachineId, holder: &UpperHolder) -> Result<()> {
        self.uppers().let_go(machine, holder).await
    }

    async fn kept_uppers(&self, machine: &MachineId) -> Result<Vec<(SnapshotId, bool)>> {
        self.uppers().all_kept(machine).await
    }

    async fn kept_upper(&self, machine: &MachineId, at: &SnapshotId) -> Result<Option<bool>> {
        self.uppers().kept(machine, at).await
    }

    async fn begin_upper(
        &self,
        from: &MachineId,
        into: &MachineId,
        home: &HomeId,
    ) -> Result<Option<String>> {
        self.uppers().begin(from, into, home).await
    }

    async fn abandon_upper(&self, from: &MachineId, into: &MachineId) -> Result<()> {
        self.uppers().abandon(from, into).await
    }

    async fn delete_upper(&self, machine: &MachineId) -> Result<Option<MachineId>> {
        self.uppers().delete(machine).await
    }

    async fn remove(&self, machine: &MachineId) -> Result<()> {
        self.links.lock().remove(machine);
        let dir = self.dir(machine);
        if launch::is_alive(&dir) {
            return Err(Error::new(ErrorKind::Conflict, "the machine's keeper is still running"));
        }
        let warm = dir.clone();
        tokio::task::spawn_blocking(move || keeper::warm::end(&warm))
            .await
            .map_err(|error| Error::internal(format!("end a warm guest: {error}")))?
            .map_err(convert::failure)?;
        match tokio::fs::remove_dir_all(dir.path()).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::internal(format!("remove the machine's directory: {error}")))
            }
            _ => Ok(()),
        }
    }
}

/// Why a keeper did not come up. One that ended at once has said what it is that is not there.
fn not_started(dir: &MachineDir, failure: keeper::Failure) -> Error {
    let kind = failure.kind;
    let error = convert::failure(failure);
    match keeper::LastWords::read(dir) {
        Some(words) if kind == ErrorKind::NotFound => {
            error.with_code(failure_code(kind, words.home_gone).to_ascii_uppercase())
        }
        _ => error,
    }
}

fn failure_code(kind: ErrorKind, home_gone: bool) -> &'static str {
    match kind {
        ErrorKind::NotFound if home_gone => "home_gone",
        ErrorKind::Fenced => "fenced",
        ErrorKind::Unreachable | ErrorKind::Timeout => "guest_silent",
        ErrorKind::Conflict => "guest_ended",
        ErrorKind::Corrupt => "unhealthy",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::NotFound => "image_missing",
        _ => "keeper_failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_with_an_image_names_no_path_of_this_host() {
        let path = PathBuf::from("/srv/secret/images");
        let io = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        for (error, code) in [
            (images::Error::Missing { name: "base".into(), dir: path.clone() }, "IMAGE_MISSING"),
            (
                images::Error::Damaged { path: path.clone(), detail: "digest".into() },
                "IMAGE_MISSING",
            ),
            (images::Error::Io { doing: "read", path, source: io }, "INTERNAL"),
        ] {
            let told = image_error(error);
            assert!(!told.message.contains("/srv"), "{}", told.message);
            assert_eq!(told.code, code, "{}", told.message);
        }
    }
}
