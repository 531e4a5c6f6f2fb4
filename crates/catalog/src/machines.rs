//! The table of machines.

use base::{Egress, Epoch, HomeId, MachineId, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use crate::model::{
    Alarm, Desired, Fsync, MachineChange, MachineRow, MachineSpec, Observation, Phase, Reboot,
};
use crate::{Catalog, Error, Result, int, moment, nanos, parsed, parsed_if_there, uint};

pub(crate) const TABLE: &str = "
CREATE TABLE machine (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    vcpu REAL NOT NULL,
    memory_mib INTEGER NOT NULL,
    storage_gib INTEGER NOT NULL,
    autosleep_seconds INTEGER NOT NULL,
    image TEXT NOT NULL,
    home TEXT NOT NULL UNIQUE,
    desired TEXT NOT NULL,
    phase TEXT NOT NULL,
    reason TEXT NOT NULL,
    retryable INTEGER NOT NULL,
    last_error TEXT,
    take_over INTEGER NOT NULL,
    recorded INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    transition_at INTEGER NOT NULL,
    progress_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- Those that are on their way or awake: few, and looked for at every start.
CREATE INDEX machine_active ON machine (id) WHERE NOT (desired = 'sleeping' AND phase = 'sleeping' AND recorded);
";

/// Format 2: what a guest's `fsync` waits for.
pub(crate) const FSYNC: &str = "ALTER TABLE machine ADD COLUMN fsync TEXT NOT NULL DEFAULT 'store'";

/// Format 3: where a machine's home was forked from.
pub(crate) const FORKED_FROM: &str = "ALTER TABLE machine ADD COLUMN forked_from TEXT;";

/// Format 4: when a machine is to be woken, as asked through the API and by its guest; and an index of those
/// that are, by the sooner one.
pub(crate) const ALARM: &str = "
ALTER TABLE machine ADD COLUMN wake_at INTEGER;
ALTER TABLE machine ADD COLUMN guest_wake_at INTEGER;
CREATE INDEX machine_alarm ON machine (min(ifnull(wake_at, guest_wake_at), ifnull(guest_wake_at, wake_at)))
    WHERE ifnull(wake_at, guest_wake_at) IS NOT NULL;
";

/// Format 5: what a machine may reach, in the text form of [`Egress`].
pub(crate) const EGRESS: &str =
    "ALTER TABLE machine ADD COLUMN egress TEXT NOT NULL DEFAULT 'open';";

/// Format 6: how far a reboot is, so that one that was accepted is finished after a crash.
pub(crate) const REBOOT: &str = "ALTER TABLE machine ADD COLUMN reboot TEXT;";

/// Format 7: the machine that keeps for this one what it has outside of its home, where it is a fork with that.
pub(crate) const FORKED_MACHINE: &str = "ALTER TABLE machine ADD COLUMN forked_machine TEXT;";

/// SQL that holds for the rows of `machine_alarm` that are due at `?1`; the words are those of the index.
const DUE: &str = "ifnull(wake_at, guest_wake_at) IS NOT NULL
     AND min(ifnull(wake_at, guest_wake_at), ifnull(guest_wake_at, wake_at)) <= ?1";

/// Rows that are due at `?1`, after `?3`, up to `?2`: found by their times, of which few have come, and then sorted.
fn due() -> String {
    format!("SELECT * FROM machine WHERE {DUE} AND id > ?3 ORDER BY +id LIMIT ?2")
}

/// SQL that holds for the rows of `machine_active`.
const ACTIVE: &str = "NOT (desired = 'sleeping' AND phase = 'sleeping' AND recorded)";

impl Catalog {
    /// Refuses one machine more where there are `max`, as [`Self::insert_machine`] would.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn refuse_beyond(&self, max: u64) -> Result<()> {
        self.read(|db| refuse_beyond(db, max))
    }

    /// Adds a machine, if there are fewer than `max`.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::TooMany`].
    pub fn insert_machine(&self, row: &MachineRow, max: u64) -> Result<()> {
        self.write(|db| {
            refuse_beyond(db, max)?;
            refuse_taken(db, &row.name, &row.id)?;
            store(
                db,
                "INSERT INTO machine VALUES (:id, :name, :vcpu, :memory_mib, :storage_gib,
                :autosleep_seconds, :image, :home, :desired, :phase, :reason, :retryable,
                :last_error, :take_over, :recorded, :revision, :created_at, :transition_at, :progress_at,
                :fsync, :forked_from, :wake_at, :guest_wake_at, :egress, :reboot, :forked_machine)",
                row,
            )
        })
    }

    /// The machine of that id.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Corrupt`].
    pub fn machine(&self, id: &MachineId) -> Result<Option<MachineRow>> {
        let changes = self.recent.changes();
        let found = self.read(|db| one(db, "id", id.as_str()))?;
        Ok(found.inspect(|row| self.recent.keep(changes, row)))
    }

    /// The machine of that name.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Corrupt`].
    pub fn machine_by_name(&self, name: &str) -> Result<Option<MachineRow>> {
        let changes = self.recent.changes();
        let found = self.read(|db| one(db, "name", name))?;
        Ok(found.inspect(|row| self.recent.keep(changes, row)))
    }

    /// As [`machine`](Self::machine), from memory: never waits. `None` says nothing.
    #[must_use]
    pub fn recent_machine(&self, id: &MachineId) -> Option<MachineRow> {
        self.recent.by_id(id)
    }

    /// As [`machine_by_name`](Self::machine_by_name), from memory: never waits. `None` says nothing.
    #[must_use]
    pub fn recent_machine_by_name(&self, name: &str) -> Option<MachineRow> {
        self.recent.by_name(name)
    }

    /// Up to `max` machines with ids after `after`, in order; that is the order of creation.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Corrupt`].
    pub fn machines(&self, after: Option<&MachineId>, max: usize) -> Result<Vec<MachineRow>> {
        self.select("1", after, max)
    }

    /// As [`machines`](Self::machines), without those that sleep and are meant to.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Corrupt`].
    pub fn active_machines(
        &self,
        after: Option<&MachineId>,
        max: usize,
    ) -> Result<Vec<MachineRow>> {
        self.select(ACTIVE, after, max)
    }

    /// Up to `max` machines whose time to be woken has come by `now`, in the order of their ids, after one of them.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Corrupt`].
    pub fn machines_due(
        &self,
        now: Timestamp,
        after: Option<&MachineId>,
        max: usize,
    ) -> Result<Vec<MachineRow>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(&due())?;
            let after = after.map_or("", MachineId::as_str);
            let max = i64::try_from(max).unwrap_or(i64::MAX);
            let mut rows = statement.query((nanos(now), max, after))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(read_row(row)?);
            }
            Ok(found)
        })
    }

    fn select(
        &self,
        filter: &str,
        after: Option<&MachineId>,
        max: usize,
    ) -> Result<Vec<MachineRow>> {
        self.read(|db| {
            let sql =
                format!("SELECT * FROM machine WHERE id > ?1 AND {filter} ORDER BY id LIMIT ?2");
            let mut statement = db.prepare_cached(&sql)?;
            let after = after.map_or("", MachineId::as_str);
            let mut rows = statement.query((after, i64::try_from(max).unwrap_or(i64::MAX)))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(read_row(row)?);
            }
            Ok(found)
        })
    }

    /// Reads a machine, lets `decide` say what to change, and changes it, all in one transaction.
    /// A change that changes nothing leaves the revision as it is. The outer result is the catalog's,
    /// the inner one is `decide`'s.
    ///
    /// # Errors
    /// [`Error::NoMachine`], [`Error::NameTaken`].
    pub fn edit_machine<E>(
        &self,
        id: &MachineId,
        now: Timestamp,
        decide: impl FnOnce(&MachineRow) -> Result<MachineChange, E>,
    ) -> Result<Result<MachineRow, E>> {
        let edited = self.write(|db| {
            let before = one(db, "id", id.as_str())?
                .ok_or_else(|| Error::NoMachine { id: id.to_string() })?;
            let change = match decide(&before) {
                Ok(change) => change,
                Err(refused) => return Ok(Err(refused)),
            };
            let mut after = apply(&before, change);
            if after == before {
                return Ok(Ok(before));
            }
            if after.name != before.name {
                refuse_taken(db, &after.name, id)?;
            }
            // Whether the store has the record is nobody's business but the driver's.
            if (MachineRow { recorded: before.recorded, ..after.clone() }) != before {
                after.revision += 1;
                after.progress_at = now;
            }
            if after.observed.phase != before.observed.phase {
                after.transition_at = now;
            }
            store(
                db,
                "UPDATE machine SET name = :name, vcpu = :vcpu, memory_mib = :memory_mib,
                storage_gib = :storage_gib, autosleep_seconds = :autosleep_seconds, image = :image,
                home = :home, desired = :desired, phase = :phase, reason = :reason,
                retryable = :retryable, last_error = :last_error, take_over = :take_over, recorded = :recorded,
                revision = :revision, created_at = :created_at, transition_at = :transition_at,
                progress_at = :progress_at, fsync = :fsync, forked_from = :forked_from,
                wake_at = :wake_at, guest_wake_at = :guest_wake_at, egress = :egress,
                reboot = :reboot, forked_machine = :forked_machine WHERE id = :id",
                &after,
            )?;
            Ok(Ok(after))
        });
        // Whatever came of it: a commit that failed may be on the disk.
        self.recent.forget(id);
        edited
    }

    /// Forgets a machine. A missing one is no error.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn remove_machine(&self, id: &MachineId) -> Result<()> {
        let removed = self.write(|db| {
            db.execute("DELETE FROM snapshot WHERE machine = ?1", [id.as_str()])?;
            db.execute("DELETE FROM waiting_execution WHERE machine = ?1", [id.as_str()])?;
            db.execute("DELETE FROM machine WHERE id = ?1", [id.as_str()])?;
            Ok(())
        });
        self.recent.forget(id);
        removed
    }
}

fn apply(before: &MachineRow, change: MachineChange) -> MachineRow {
    let mut after = before.clone();
    let MachineChange { name, spec, desired, observed, take_over_from, recorded, alarm, reboot } =
        change;
    after.name = name.unwrap_or(after.name);
    after.spec = spec.unwrap_or(after.spec);
    after.desired = desired.unwrap_or(after.desired);
    after.observed = observed.unwrap_or(after.observed);
    after.take_over_from = take_over_from.unwrap_or(after.take_over_from);
    after.recorded = recorded.unwrap_or(after.recorded);
    after.alarm = alarm.unwrap_or(after.alarm);
    after.reboot = reboot.unwrap_or(after.reboot);
    after
}

fn refuse_beyond(db: &Connection, max: u64) -> Result<()> {
    let count: i64 = db.query_row("SELECT count(*) FROM machine", [], |r| r.get(0))?;
    if count >= int(max) { Err(Error::TooMany { max }) } else { Ok(()) }
}

fn refuse_taken(db: &Connection, name: &str, id: &MachineId) -> Result<()> {
    match one(db, "name", name)? {
        Some(other) if other.id != *id => Err(Error::NameTaken { name: name.to_owned() }),
        _ => Ok(()),
    }
}

fn store(db: &Connection, sql: &str, row: &MachineRow) -> Result<()> {
    db.prepare_cached(sql)?.execute(named_params! {
        ":id": row.id.as_str(),
        ":name": row.name,
        ":vcpu": row.spec.vcpu,
        ":memory_mib": int(row.spec.memory_mib),
        ":storage_gib": int(row.spec.storage_gib),
        ":autosleep_seconds": int(row.spec.autosleep_seconds),
        ":image": row.spec.image,
        ":fsync": row.spec.fsync.as_str(),
        ":egress": row.spec.egress.to_string(),
        ":home": row.home.as_str(),
        ":forked_from": row.forked_from.as_ref().map(HomeId::as_str),
        ":forked_machine": row.forked_machine.as_ref().map(MachineId::as_str),
        ":desired": row.desired.as_str(),
        ":phase": row.observed.phase.as_str(),
        ":reason": row.observed.reason,
        ":retryable": row.observed.retryable,
        ":last_error": row.observed.last_error,
        // No writer has the epoch 0.
        ":take_over": int(row.take_over_from.unwrap_or_default().0),
        ":recorded": row.recorded,
        ":revision": int(row.revision),
        ":created_at": nanos(row.created_at),
        ":transition_at": nanos(row.transition_at),
        ":progress_at": nanos(row.progress_at),
        ":wake_at": row.alarm.asked.map(nanos),
        ":guest_wake_at": row.alarm.guest.map(nanos),
        ":reboot": row.reboot.map(Reboot::as_str),
    })?;
    Ok(())
}

/// `column` is one of ours, never a caller's text.
pub(crate) fn one(
    db: &Connection,
    column: &'static str,
    value: &str,
) -> Result<Option<MachineRow>> {
    let sql = format!("SELECT * FROM machine WHERE {column} = ?1");
    let mut statement = db.prepare_cached(&sql)?;
    let found = statement.query_row([value], |row| Ok(read_row(row))).optional()?;
    found.transpose()
}

fn read_row(row: &Row<'_>) -> Result<MachineRow> {
    Ok(MachineRow {
        id: parsed(row, "id", |text| text.parse().ok())?,
        name: row.get("name")?,
        spec: MachineSpec {
            vcpu: row.get("vcpu")?,
            memory_mib: uint(row, "memory_mib")?,
            storage_gib: uint(row, "storage_gib")?,
            autosleep_seconds: uint(row, "autosleep_seconds")?,
            image: row.get("image")?,
            fsync: fsync(row)?,
            egress: egress(row)?,
        },
        home: parsed(row, "home", |text| text.parse().ok())?,
        forked_from: parsed_if_there(row, "forked_from")?,
        forked_machine: parsed_if_there(row, "forked_machine")?,
        desired: parsed(row, "desired", Desired::parse)?,
        observed: Observation {
            phase: parsed(row, "phase", Phase::parse)?,
            reason: row.get("reason")?,
            retryable: row.get("retryable")?,
            last_error: row.get("last_error")?,
        },
        take_over_from: match uint(row, "take_over")? {
            0 => None,
            epoch => Some(Epoch(epoch)),
        },
        recorded: row.get("recorded")?,
        alarm: Alarm { asked: later(row, "wake_at")?, guest: later(row, "guest_wake_at")? },
        reboot: reboot(row)?,
        revision: uint(row, "revision")?,
        created_at: moment(row, "created_at")?,
        transition_at: moment(row, "transition_at")?,
        progress_at: moment(row, "progress_at")?,
    })
}

fn fsync(row: &Row<'_>) -> Result<Fsync> {
    // As below.
    if row.as_ref().column_index("fsync").is_err() {
        return Ok(Fsync::default());
    }
    parsed(row, "fsync", Fsync::parse)
}

fn egress(row: &Row<'_>) -> Result<Egress> {
    // As below.
    if row.as_ref().column_index("egress").is_err() {
        return Ok(Egress::default());
    }
    // One row that cannot be read must not hide all others, and what is not known allows nothing.
    let text: String = row.get("egress")?;
    Ok(text.parse().unwrap_or_else(|error| {
        let machine = row.get::<_, String>("id").unwrap_or_default();
        tracing::error!(machine, %error, "an egress policy cannot be read: the machine reaches nothing");
        Egress::None
    }))
}

fn reboot(row: &Row<'_>) -> Result<Option<Reboot>> {
    // As below.
    if row.as_ref().column_index("reboot").is_err() {
        return Ok(None);
    }
    let text: Option<String> = row.get("reboot")?;
    text.map(|text| Reboot::parse(&text).ok_or(Error::Corrupt { column: "reboot" })).transpose()
}

/// A time of format 4.
fn later(row: &Row<'_>, column: &'static str) -> Result<Option<Timestamp>> {
    // As below.
    if row.as_ref().column_index(column).is_err() || row.get::<_, Option<i64>>(column)?.is_none() {
        return Ok(None);
    }
    moment(row, column).map(Some)
}

#[cfg(test)]
pub(crate) mod tests;
