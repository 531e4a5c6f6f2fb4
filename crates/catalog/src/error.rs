//! What can go wrong with the catalog.

use base::ErrorKind;

/// What a call returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another machine has the name.
    #[error("a machine named {name:?} exists already; choose another name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No such row.
    #[error("no machine {id}")]
    NoMachine {
        /// Its id.
        id: String,
    },
    /// As many machines as are allowed.
    #[error("this server has its {max} machines; delete one, or raise the limit")]
    TooMany {
        /// How many are allowed.
        max: u64,
    },
    /// A later program wrote this catalog.
    #[error(
        "the catalog has format {found} and this program knows up to {known}; \
         run the newer program, or start with another data directory and adopt"
    )]
    Newer {
        /// Its format.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// SQLite does not do what is needed.
    #[error("the catalog cannot be used: {0}")]
    Unusable(String),
    /// A stored value that cannot be.
    #[error(
        "the catalog holds an impossible value in {column}; restore it, or start anew and adopt"
    )]
    Corrupt {
        /// Where.
        column: &'static str,
    },
    /// SQLite failed.
    #[error("the catalog's database failed")]
    Database(#[from] rusqlite::Error),
}

impl Error {
    /// What a caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NameTaken { .. } => ErrorKind::AlreadyExists,
            Self::NoMachine { .. } => ErrorKind::NotFound,
            Self::TooMany { .. } => ErrorKind::TooMany,
            Self::Newer { .. } => ErrorKind::Unsupported,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Unusable(_) => ErrorKind::Internal,
            Self::Database(error) => match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull) => ErrorKind::Exhausted,
                Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                    ErrorKind::Corrupt
                }
                Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                    ErrorKind::Unavailable
                }
                _ => ErrorKind::Internal,
            },
        }
    }
}
