//! Opening the object store: the one place where a backend is made.
//!
//! # Order
//! The backend; the probe; keys; the store's mark, which must fit them. Calls are counted below the
//! encryption, so what is counted is what is paid for. Who only reads needs neither proof nor, without keys,
//! the mark: in place of both, [`explain`] is asked where something could not be read.
//!
//! # Keys
//! As with the store's own credentials, no file of ours and no argument holds one. A keeper gets told
//! *where* keys are in its environment ([`KeySource::keeper_env`]) and reads them itself.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use base::SystemEntropy;
use objstore::{Backend, KeyRing, Metered, ObjectStore};

use crate::{Failure, dirs, keys};

/// Says which file holds the encryption keys.
const FILE_VARIABLE: &str = "DORMOUSE_ENCRYPTION_KEY_FILE";
/// Says which command prints them.
const COMMAND_VARIABLE: &str = "DORMOUSE_ENCRYPTION_KEY_COMMAND";

/// Where encryption keys come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum KeySource {
    /// Nothing is encrypted.
    #[default]
    None,
    /// A file that holds them.
    File(PathBuf),
    /// A command, for `sh -c`, that prints what such a file would hold.
    Command(String),
}

impl KeySource {
    /// Of a file or a command; `None` where neither is given.
    ///
    /// # Errors
    /// Where both are.
    pub(crate) fn of(
        file: Option<PathBuf>,
        command: Option<String>,
    ) -> Result<Option<Self>, Failure> {
        match (file, command) {
            (None, None) => Ok(None),
            (Some(file), None) => Ok(Some(Self::File(file))),
            (None, Some(command)) => Ok(Some(Self::Command(command))),
            (Some(_), Some(_)) => Err(Failure::new(
                base::ErrorKind::InvalidArgument,
                "encryption keys come from a file or from a command: give one of the two",
            )),
        }
    }

    /// What the environment says.
    pub(crate) fn from_env() -> Result<Option<Self>, Failure> {
        let file = dirs::variable(FILE_VARIABLE).map(PathBuf::from);
        Self::of(file, dirs::variable(COMMAND_VARIABLE))
    }

    /// What a keeper's environment must say, over what it inherits; `None` takes a variable away.
    pub(crate) fn keeper_env(&self) -> Vec<(String, Option<OsString>)> {
        let (file, command) = match self {
            Self::None => (None, None),
            Self::File(path) => (Some(path.clone().into_os_string()), None),
            Self::Command(command) => (None, Some(command.into())),
        };
        vec![(FILE_VARIABLE.to_owned(), file), (COMMAND_VARIABLE.to_owned(), command)]
    }

    async fn load(&self) -> Result<Option<KeyRing>, Failure> {
        let source = self.clone();
        let loaded = tokio::task::spawn_blocking(move || keys::load(&source)).await;
        loaded.map_err(|_| {
            Failure::new(base::ErrorKind::Internal, "encryption keys: the process is ending")
        })?
    }
}

/// Opens the object store, proves that it can do what homes need, and unlocks it.
pub(crate) async fn open(url: &str, keys: &KeySource) -> Result<Arc<dyn ObjectStore>, Failure> {
    let backend = backend(url)?;
    backend.probe().await.map_err(refused)?;
    unlock(backend, keys).await
}

/// Opens a store that the server has opened before.
pub(crate) async fn reopen(url: &str, keys: &KeySource) -> Result<Arc<dyn ObjectStore>, Failure> {
    let backend = Backend::reopen(url, &dirs::variable).map_err(refused)?;
    match keys {
        // The server has seen that it is a plain one, and a store stays what it is: no request for that.
        KeySource::None => Ok(Arc::new(Metered::new(backend))),
        _ => unlock(backend, keys).await,
    }
}

/// Refuses a store that no server has ever opened: whoever looks for something in it has named another one than meant.
/// Makes nothing.
pub(crate) async fn refuse_unused(url: &str) -> Result<(), Failure> {
    let opened = Backend::open_existing(url, &dirs::variable).map_err(refused)?;
    match objstore::was_opened(&opened).await {
        Ok(false) => {}
        Ok(true) => return Ok(()),
        // Rights to one home alone are enough to read that.
        Err(error) if error.kind() == base::ErrorKind::PermissionDenied => return Ok(()),
        Err(error) => return Err(refused(error)),
    }
    Err(Failure::new(
        base::ErrorKind::NotFound,
        format!("nothing is stored at {}; --store names the store of the machines", opened.url()),
    ))
}

/// Opens a store that nothing is written to: what a store cannot do for writers does not matter, and
/// encrypted objects that are read without keys are damaged ones. Then [`explain`] says why.
pub(crate) async fn open_to_read(
    url: &str,
    keys: &KeySource,
) -> Result<Arc<dyn ObjectStore>, Failure> {
    match keys {
        KeySource::None => {
            Backend::open_existing(url, &dirs::variable).map_err(refused)?;
            reopen(url, keys).await
        }
        _ => open_to_check(url, keys).await,
    }
}

/// Opens a store to look at: nothing is written to it, and keys must fit it.
pub(crate) async fn open_to_check(
    url: &str,
    keys: &KeySource,
) -> Result<Arc<dyn ObjectStore>, Failure> {
    refuse_unused(url).await?;
    let (backend, ring) = (backend(url)?, keys.load().await?);
    let store = Arc::new(Metered::new(backend));
    let opened = objstore::unlock_to_read(store, ring, Arc::new(SystemEntropy)).await;
    opened.map_err(refused)
}

/// Why something could not be read: that it is another store than meant, or that keys and store do not fit, where that is
/// so, else `failure`.
pub(crate) async fn explain(url: &str, keys: &KeySource, failure: Failure) -> Failure {
    match failure.kind() {
        base::ErrorKind::Corrupt => {}
        base::ErrorKind::NotFound => {
            let unused = refuse_unused(url).await.err();
            return unused
                .filter(|unused| unused.kind() == base::ErrorKind::NotFound)
                .unwrap_or(failure);
        }
        _ => return failure,
    }
    let (Ok(backend), Ok(ring)) = (backend(url), keys.load().await) else { return failure };
    match objstore::check_keys(&backend, ring.as_ref()).await {
        Err(why @ objstore::Error::Unusable { .. }) => refused(why),
        _ => failure,
    }
}

/// The backend behind it, to look at.
pub(crate) fn backend(url: &str) -> Result<Backend, Failure> {
    Backend::open(url, &dirs::variable).map_err(refused)
}

/// Whether keys and store fit, without storing anything.
pub(crate) async fn check_keys(backend: &Backend, keys: &KeySource) -> Result<(), Failure> {
    let ring = keys.load().await?;
    objstore::check_keys(backend, ring.as_ref()).await.map_err(refused)
}

async fn unlock(backend: Backend, keys: &KeySource) -> Result<Arc<dyn ObjectStore>, Failure> {
    let ring = keys.load().await?;
    let store = Arc::new(Metered::new(backend));
    objstore::unlock(store, ring, Arc::new(SystemEntropy)).await.map_err(refused)
}

fn refused(error: objstore::Error) -> Failure {
    Failure::new(error.kind(), format!("object store: {error}"))
}
