//! Names of things. Each is a newtype, so that one cannot stand where another belongs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Timestamp;

/// A text that is not an id of the expected sort.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {what} id: expected {prefix}- and a lower-case UUID")]
pub struct IdError {
    what: &'static str,
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new id; ids made later sort later.
            #[must_use]
            pub fn generate() -> Self {
                Self(format!(concat!($prefix, "-{}"), Uuid::now_v7()))
            }

            /// When it was made, by the clock of whoever made it; `None` of an id that does not say.
            #[must_use]
            pub fn made_at(&self) -> Option<Timestamp> {
                let (_, uuid) = self.0.split_once('-')?;
                let (secs, nanos) = Uuid::try_parse(uuid).ok()?.get_timestamp()?.to_unix();
                Timestamp::new(secs.try_into().ok()?, nanos.try_into().ok()?).ok()
            }

            /// The text form.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let error = IdError { what: $what, prefix: $prefix };
                let uuid = text.strip_prefix(concat!($prefix, "-")).ok_or(error.clone())?;
                let parsed = Uuid::try_parse(uuid).map_err(|_| error.clone())?;
                // Only the canonical form: two spellings of one id would be two store keys.
                if parsed.hyphenated().to_string() == uuid { Ok(Self(text.to_owned())) } else { Err(error) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A machine: what users create.
    MachineId, "machine", "dm"
);
id!(
    /// A home: the persistent file system of a machine.
    HomeId, "home", "home"
);
id!(
    /// One command run in a machine.
    ExecutionId, "execution", "exec"
);
id!(
    /// A state of a home that is kept.
    SnapshotId, "snapshot", "snap"
);
id!(
    /// One dormouse server, that is one data directory.
    ServerId, "server", "srv"
);

/// The number of a home's writer. A larger one fences all smaller ones.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the next writer.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_an_id() {
        let id = MachineId::generate();
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert!(id.as_str().to_uppercase().parse::<MachineId>().is_err());
        assert!("dm-../../etc".parse::<MachineId>().is_err());
        assert!(HomeId::generate().as_str().parse::<MachineId>().is_err());
    }

    #[test]
    fn an_id_says_when_it_was_made() {
        let before = Timestamp::now().as_second();
        let made = SnapshotId::generate().made_at().unwrap().as_second();
        assert!((before..=before + 60).contains(&made), "{made}");
        // No other version of UUIDs says so.
        let id: SnapshotId = "snap-00000000-0000-4000-8000-000000000000".parse().unwrap();
        assert_eq!(id.made_at(), None);
    }
}
