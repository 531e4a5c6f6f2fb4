//! What can go wrong with the log of a home.

use std::io;
use std::path::{Path, PathBuf};

use base::{Epoch, ErrorKind, HomeId, ServerId, SnapshotId, Timestamp};

/// What a call returns.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call on the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else writes this home now. Final for the `Log` value that says it.
    #[error("another writer (epoch {theirs}) has taken this home from us (epoch {ours})")]
    Fenced {
        /// The epoch that was ours.
        ours: Epoch,
        /// The epoch found where our commit should be, as far as it could be told.
        theirs: Epoch,
    },
    /// Another server holds the home and did not release it.
    #[error(
        "server {holder} has this home, committed to it last at {since}, and did not release it; \
         if that server is lost for good, take the home over (dormouse adopt --take-over)"
    )]
    HeldBy {
        /// Who.
        holder: ServerId,
        /// When its newest commit was made, by its clock.
        since: Timestamp,
    },
    /// The head is no longer where the caller's work began.
    #[error("the home moved from commit {expected} to commit {found}")]
    Moved {
        /// The commit that the work began on.
        expected: u64,
        /// The head now.
        found: u64,
    },
    /// The home was deleted.
    #[error("home {home} has been deleted")]
    Deleted {
        /// Which.
        home: HomeId,
    },
    /// The home that a fork was to become has commits already.
    #[error("home {home} exists already and is not this fork; fork into a new one")]
    Taken {
        /// Which.
        home: HomeId,
    },
    /// A fork was not finished in time, or somebody gave it up, so nothing is kept for it.
    #[error(
        "the fork {home} was begun long ago and never finished, so it was given up; fork again, into a new home"
    )]
    GivenUp {
        /// What it was to become.
        home: HomeId,
    },
    /// There is no such snapshot.
    #[error("there is no snapshot {id} of this home; it may have been deleted")]
    NoSnapshot {
        /// Which.
        id: SnapshotId,
    },
    /// A home has as many snapshots, forks or drafts as it can have.
    #[error(
        "a home has at most {max} snapshots, as many forks and as many open drafts; delete some first"
    )]
    TooManyPins {
        /// The bound.
        max: usize,
    },
    /// It is not known whether commit `seq` was stored. `Log::settle` finds out.
    #[error("it is not known yet whether commit {seq} was stored; settle it first")]
    InDoubt {
        /// Its number.
        seq: u64,
    },
    /// This `Log` did not claim the home, or has released it.
    #[error("this home is not claimed; claim it before writing")]
    Unclaimed,
    /// Others committed each time that we tried to claim.
    #[error("could not claim the home: it was written {attempts} times meanwhile; try again")]
    Contended {
        /// How often we tried.
        attempts: u32,
    },
    /// More than the format holds.
    #[error("{what} is larger than the {max} that a home can have")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound, with the unit that `what` implies.
        max: u64,
    },
    /// Forked or restored as often in a row as the format holds.
    #[error("{what} is longer than the {max} that a home can have")]
    TooOften {
        /// What.
        what: &'static str,
        /// The bound.
        max: u64,
    },
    /// An object does not hold what it must.
    #[error("object {key} is damaged: {why}")]
    Corrupt {
        /// Its key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A local file does not hold what it must.
    #[error("local file {} is damaged: {why}", path.display())]
    CorruptLocal {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A local file could not be read or written.
    #[error("could not {verb} {}", path.display())]
    Local {
        /// What was tried.
        verb: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A base was to be made of another state than its commit's. A defect of ours.
    #[error("the database at hand is not that of commit {seq}")]
    OtherState {
        /// The commit.
        seq: u64,
    },
    /// What a reader held was collected, a while after a newer state was published.
    #[error("commit {seq} of the home is no longer kept; read the newest one")]
    Superseded {
        /// The commit.
        seq: u64,
    },
    /// The program is shutting down.
    #[error("the program is shutting down")]
    Stopping,
    /// The store.
    #[error(transparent)]
    Store(#[from] objstore::Error),
}

impl Error {
    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Fenced { .. } | Self::HeldBy { .. } => ErrorKind::Fenced,
            Self::Moved { .. } | Self::InDoubt { .. } | Self::Unclaimed | Self::TooOften { .. } => {
                ErrorKind::Conflict
            }
            Self::Deleted { .. } | Self::NoSnapshot { .. } | Self::GivenUp { .. } => {
                ErrorKind::NotFound
            }
            Self::Taken { .. } => ErrorKind::AlreadyExists,
            Self::TooManyPins { .. } => ErrorKind::TooMany,
            Self::Contended { .. } | Self::Superseded { .. } | Self::Stopping => {
                ErrorKind::Unavailable
            }
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Corrupt { .. } | Self::CorruptLocal { .. } => ErrorKind::Corrupt,
            Self::Local { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Exhausted,
                _ => ErrorKind::Internal,
            },
            Self::OtherState { .. } => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }

    /// Whether it is what is stored under one key that cannot be used, and not the store: asking again brings the same.
    /// What an encryption key is missing for is whole, and is read once that is there.
    pub(crate) fn is_damage(&self) -> bool {
        use objstore::Error as Store;
        matches!(self, Self::Corrupt { .. } | Self::Store(Store::Corrupt { .. }))
    }

    pub(crate) fn corrupt(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Corrupt { key: key.into(), why: why.into() }
    }

    pub(crate) fn local<'a>(
        verb: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Local { verb, path: path.to_owned(), source }
    }
}

/// Bytes that are not what the format says, before it is known which object they are from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Damaged {
    why: String,
}

impl Damaged {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }

    /// The same, of this object.
    pub(crate) fn of(self, key: impl Into<String>) -> Error {
        Error::corrupt(key, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losing_a_home_is_told_from_losing_the_store() {
        let fenced = Error::Fenced { ours: Epoch(1), theirs: Epoch(2) };
        assert_eq!(fenced.kind(), ErrorKind::Fenced);
        let store = Error::from(objstore::Error::Unavailable { message: "down".into() });
        assert_eq!(store.kind(), ErrorKind::Unavailable);
        assert_eq!(Damaged::new("too short").of("k").kind(), ErrorKind::Corrupt);
        let full = Error::local("write", Path::new("f"))(io::ErrorKind::StorageFull.into());
        assert_eq!(full.kind(), ErrorKind::Exhausted);
    }

    #[test]
    fn what_a_key_is_missing_for_is_not_damaged() {
        let key = || "pins/one".to_owned();
        let missing = objstore::Error::KeyMissing { key: key(), id: 7 };
        assert!(!Error::Store(missing).is_damage(), "it is read once the key is there");
        assert!(Error::Store(objstore::Error::Corrupt { key: key(), what: "cut" }).is_damage());
    }
}
