//! Which machine and which path a file call is about.

use axum::extract::FromRequestParts;
use base::ErrorKind;
use control::MachineRef;
use http::request::Parts;
use http_kit::{ApiError, fs_path};
use vfs::Errno;
use vfs::path::TreePath;

/// A path in the home of a machine, both taken from the raw path of the request.
#[derive(Debug, Clone)]
pub(crate) struct FsTarget {
    pub(crate) machine: MachineRef,
    pub(crate) path: TreePath,
}

impl<S: Send + Sync> FromRequestParts<S> for FsTarget {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let raw = parts.uri.path();
        // `/v1/machines/{machine}/…`
        let machine = fs_path::component(raw.split('/').nth(3).unwrap_or_default())?;
        let machine = String::from_utf8(machine)
            .map_err(|_| ApiError::invalid("the machine in the path is not valid UTF-8"))?;
        Ok(Self { machine: machine.parse()?, path: fs_path::below_fs(raw)? })
    }
}

impl FsTarget {
    /// A directory where a file is needed: 409 that names it and says what can be done.
    pub(crate) fn is_directory(&self) -> ApiError {
        let message = format!(
            "{} is a directory: ?list=true lists it, ?bundle=tar downloads it, POST with ?import=tar \
             unpacks into it",
            self.path
        );
        ApiError::new(ErrorKind::Conflict, message)
            .with_code(http::StatusCode::CONFLICT, "IS_A_DIRECTORY")
            .with_detail("errno", Errno::EISDIR.number().to_string())
    }

    /// An error of a file call, with the path where the error itself does not say which.
    pub(crate) fn explain(&self, mut error: control::Error) -> ApiError {
        let errno = error.details.get("errno").and_then(|text| text.parse().ok());
        if errno == Some(Errno::EISDIR.number()) {
            return self.is_directory();
        }
        let path = self.path.to_string();
        if errno.is_some() && !error.message.contains(&path) {
            error.message = format!("{path}: {}", error.message);
        }
        error.into()
    }
}
