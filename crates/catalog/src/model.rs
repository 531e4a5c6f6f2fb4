//! Rows, as plain values.

use base::{Egress, Epoch, HomeId, MachineId, Timestamp};
use serde::{Deserialize, Serialize};

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The text form, the same as on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Back from the text form.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

text_enum!(
    /// What was asked for.
    Desired {
        /// Awake.
        Running = "running",
        /// Asleep.
        Sleeping = "sleeping",
        /// Gone, with its home.
        Destroyed = "destroyed",
    }
);

text_enum!(
    /// What is observed.
    Phase {
        /// Written down, nothing done yet.
        Accepted = "accepted",
        /// Waiting for a host.
        PlacementPending = "placement_pending",
        /// Its keeper is coming up.
        Starting = "starting",
        /// Awake.
        Running = "running",
        /// Its keeper is putting it to sleep.
        Stopping = "stopping",
        /// Asleep: its home is in the store, whole.
        Sleeping = "sleeping",
        /// Being removed.
        Destroying = "destroying",
        /// Removed.
        Destroyed = "destroyed",
        /// Not where it should be; `last_error` says why and what to do.
        Failed = "failed",
    }
);

text_enum!(
    /// What a guest's `fsync` waits for.
    Fsync {
        /// The object store: what it returned for survives the loss of the host.
        Store = "store",
        /// This host's disk: it survives the loss of power, not that of the host.
        Local = "local",
    }
);

text_enum!(
    /// How far a reboot is that was asked for.
    Reboot {
        /// The guest is to be stopped in order.
        Orderly = "orderly",
        /// The guest is to be ended at once.
        Forced = "forced",
        /// It has ended, and what it had in memory is thrown away; the next one comes up.
        Booting = "booting",
    }
);

impl Default for Fsync {
    /// The one that loses nothing.
    fn default() -> Self {
        Self::Store
    }
}

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// Virtual CPUs.
    pub vcpu: f64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Size of the home in GiB.
    pub storage_gib: u64,
    /// Seconds of idleness before sleep; 0 never.
    pub autosleep_seconds: u64,
    /// Image name.
    pub image: String,
    /// What a guest's `fsync` waits for. Records of before there was a choice do not have it.
    #[serde(default)]
    pub fsync: Fsync,
    /// What it may reach. Records of before there was a choice do not have it.
    #[serde(default)]
    pub egress: Egress,
}

/// What is known of where a machine is. Changed as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What is observed.
    pub phase: Phase,
    /// Why, as a code.
    pub reason: String,
    /// True where asking again may help.
    pub retryable: bool,
    /// What went wrong and what to do.
    pub last_error: Option<String>,
}

impl Observation {
    /// A phase without trouble.
    #[must_use]
    pub fn of(phase: Phase, reason: &str) -> Self {
        Self { phase, reason: reason.to_owned(), retryable: false, last_error: None }
    }
}

/// When a machine that sleeps is to be woken. Each time stands until it has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alarm {
    /// As somebody asked who may wake it.
    pub asked: Option<Timestamp>,
    /// As its guest asked when it was last put to sleep.
    pub guest: Option<Timestamp>,
}

impl Alarm {
    /// The sooner one.
    #[must_use]
    pub fn next(self) -> Option<Timestamp> {
        self.asked.into_iter().chain(self.guest).min()
    }

    /// What is left after `now`.
    #[must_use]
    pub fn after(self, now: Timestamp) -> Self {
        let later = |at: &Timestamp| *at > now;
        Self { asked: self.asked.filter(later), guest: self.guest.filter(later) }
    }
}

/// A machine.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineRow {
    /// Its id.
    pub id: MachineId,
    /// Its unique name.
    pub name: String,
    /// What it is made of.
    pub spec: MachineSpec,
    /// Its home.
    pub home: HomeId,
    /// The home that its home goes on from, as long as the fork may not have been finished and after.
    pub forked_from: Option<HomeId>,
    /// The machine that it begins with what is outside of its home, as long as that may not be finished and after.
    pub forked_machine: Option<MachineId>,
    /// What was asked for.
    pub desired: Desired,
    /// Where it is.
    pub observed: Observation,
    /// The next wake may take the home from a writer that never released it, as long as that is who has this epoch.
    pub take_over_from: Option<Epoch>,
    /// True where the record in the object store says the same as this row.
    pub recorded: bool,
    /// When it is to be woken.
    pub alarm: Alarm,
    /// The reboot that is under way.
    pub reboot: Option<Reboot>,
    /// Counts changes, from 1.
    pub revision: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the phase last changed.
    pub transition_at: Timestamp,
    /// When anything last changed.
    pub progress_at: Timestamp,
}

/// What to change of a row; `None` leaves it as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineChange {
    /// Its name.
    pub name: Option<String>,
    /// What it is made of.
    pub spec: Option<MachineSpec>,
    /// What is asked for.
    pub desired: Option<Desired>,
    /// Where it is.
    pub observed: Option<Observation>,
    /// See [`MachineRow::take_over_from`].
    pub take_over_from: Option<Option<Epoch>>,
    /// See [`MachineRow::recorded`].
    pub recorded: Option<bool>,
    /// See [`MachineRow::alarm`].
    pub alarm: Option<Alarm>,
    /// See [`MachineRow::reboot`].
    pub reboot: Option<Option<Reboot>>,
}
