//! The table of machines.

use base::{Egress, HomeId, MachineId, Timestamp};
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

/// SQL that holds for the rows of `machine_active`.
const ACTIVE: &str = "NOT (desired = 'sleeping' AND phase = 'sleeping' AND recorded)";

impl Catalog {
    /// Adds a machine, if there are fewer than `max`.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::TooMany`].
    pub fn insert_machine(&self, row: &MachineRow, max: u64) -> Result<()> {
        self.write(|db| {
            let count: i64 = db.query_row("SELECT count(*) FROM machine", [], |r| r.get(0))?;
            if count >= int(max) {
                return Err(Error::TooMany { max });
            }
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

    /// Up to `max` machines whose time to be woken has come by `now`.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Corrupt`].
    pub fn machines_due(&self, now: Timestamp, max: usize) -> Result<Vec<MachineRow>> {
        self.read(|db| {
            let sql = format!("SELECT * FROM machine WHERE {DUE} LIMIT ?2");
            let mut statement = db.prepare_cached(&sql)?;
            let mut rows = statement.query((nanos(now), i64::try_from(max).unwrap_or(i64::MAX)))?;
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
    let MachineChange { name, spec, desired, observed, take_over, recorded, alarm, reboot } =
        change;
    after.name = name.unwrap_or(after.name);
    after.spec = spec.unwrap_or(after.spec);
    after.desired = desired.unwrap_or(after.desired);
    after.observed = observed.unwrap_or(after.observed);
    after.take_over = take_over.unwrap_or(after.take_over);
    after.recorded = recorded.unwrap_or(after.recorded);
    after.alarm = alarm.unwrap_or(after.alarm);
    after.reboot = reboot.unwrap_or(after.reboot);
    after
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
        ":take_over": row.take_over,
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
        take_over: row.get("take_over")?,
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
pub(crate) mod tests {
    use std::convert::Infallible;

    use super::*;

    pub(crate) fn row(name: &str) -> MachineRow {
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        MachineRow {
            id: MachineId::generate(),
            name: name.to_owned(),
            spec: MachineSpec {
                vcpu: 0.25,
                memory_mib: 512,
                storage_gib: 10,
                autosleep_seconds: 300,
                image: "base".to_owned(),
                fsync: Fsync::Local,
                egress: "allow=*.example.com,192.0.2.0/24".parse().unwrap(),
            },
            home: HomeId::generate(),
            forked_from: None,
            forked_machine: None,
            desired: Desired::Running,
            observed: Observation::of(Phase::Accepted, "accepted"),
            take_over: false,
            alarm: Alarm::default(),
            reboot: None,
            recorded: false,
            revision: 1,
            created_at: at,
            transition_at: at,
            progress_at: at,
        }
    }

    pub(crate) fn open() -> (tempfile::TempDir, Catalog) {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("catalog.db")).unwrap();
        (dir, catalog)
    }

    fn phase(phase: Phase) -> Result<MachineChange, Infallible> {
        Ok(MachineChange { observed: Some(Observation::of(phase, "test")), ..Default::default() })
    }

    #[test]
    fn a_row_comes_back_as_it_went_in() {
        let (_dir, catalog) = open();
        let mut row = row("one");
        row.observed.last_error = Some("no luck; try again".to_owned());
        row.take_over = true;
        row.forked_from = Some(HomeId::generate());
        row.forked_machine = Some(MachineId::generate());
        row.reboot = Some(Reboot::Forced);
        catalog.insert_machine(&row, 10).unwrap();
        assert_eq!(catalog.machine(&row.id).unwrap(), Some(row.clone()));
        assert_eq!(catalog.machine_by_name("one").unwrap(), Some(row));
        assert_eq!(catalog.machine(&MachineId::generate()).unwrap(), None);
    }

    #[test]
    fn an_egress_policy_that_cannot_be_read_allows_nothing_and_hides_no_machine() {
        let (_dir, catalog) = open();
        let rows = [row("one"), row("two")];
        rows.iter().for_each(|row| catalog.insert_machine(row, 10).unwrap());
        let id = rows[0].id.as_str();
        let spoil = "UPDATE machine SET egress = 'allow=1.2.3' WHERE id = ?1";
        catalog.write(|db| Ok(db.execute(spoil, [id])?)).unwrap();
        let found = catalog.machines(None, 10).unwrap();
        let policies: Vec<_> = found.iter().map(|row| &row.spec.egress).collect();
        assert_eq!(policies, [&Egress::None, &rows[1].spec.egress]);
    }

    #[test]
    fn what_is_remembered_is_what_the_catalog_says() {
        let (_dir, catalog) = open();
        let one = row("one");
        catalog.insert_machine(&one, 10).unwrap();
        assert_eq!(catalog.recent_machine(&one.id), None, "nobody read it yet");
        catalog.machine(&one.id).unwrap();
        assert_eq!(catalog.recent_machine(&one.id), Some(one.clone()));
        assert_eq!(catalog.recent_machine_by_name("one"), Some(one.clone()));
        let rename = MachineChange { name: Some("two".to_owned()), ..MachineChange::default() };
        let renamed = catalog
            .edit_machine(&one.id, one.created_at, |_| Ok::<_, Infallible>(rename))
            .unwrap()
            .unwrap();
        assert_eq!(catalog.recent_machine(&one.id), None);
        assert_eq!(catalog.recent_machine_by_name("one"), None);
        assert_eq!(catalog.machine_by_name("two").unwrap(), Some(renamed.clone()));
        assert_eq!(catalog.recent_machine(&one.id), Some(renamed));
        catalog.remove_machine(&one.id).unwrap();
        assert_eq!(catalog.recent_machine_by_name("two"), None);
    }

    #[test]
    fn a_name_is_given_once_until_its_machine_is_gone() {
        let (_dir, catalog) = open();
        let first = row("one");
        catalog.insert_machine(&first, 10).unwrap();
        let error = catalog.insert_machine(&row("one"), 10).unwrap_err();
        assert_eq!(error.kind(), base::ErrorKind::AlreadyExists);
        catalog.remove_machine(&first.id).unwrap();
        catalog.insert_machine(&row("one"), 10).unwrap();
    }

    #[test]
    fn a_rename_to_a_taken_name_changes_nothing() {
        let (_dir, catalog) = open();
        let (one, two) = (row("one"), row("two"));
        catalog.insert_machine(&one, 10).unwrap();
        catalog.insert_machine(&two, 10).unwrap();
        let rename = |_: &MachineRow| {
            Ok::<_, Infallible>(MachineChange {
                name: Some("one".to_owned()),
                ..Default::default()
            })
        };
        let error = catalog.edit_machine(&two.id, two.created_at, rename).unwrap_err();
        assert!(matches!(error, Error::NameTaken { .. }));
        assert_eq!(catalog.machine(&two.id).unwrap().unwrap().revision, 1);
        // Its own name is not taken from itself.
        assert!(catalog.edit_machine(&one.id, one.created_at, rename).is_ok());
    }

    #[test]
    fn the_revision_counts_changes_and_nothing_else() {
        let (_dir, catalog) = open();
        let row = row("one");
        catalog.insert_machine(&row, 10).unwrap();
        let later = Timestamp::from_second(1_700_000_100).unwrap();
        let started =
            catalog.edit_machine(&row.id, later, |_| phase(Phase::Starting)).unwrap().unwrap();
        assert_eq!((started.revision, started.transition_at), (2, later));
        let latest = Timestamp::from_second(1_700_000_200).unwrap();
        let same =
            catalog.edit_machine(&row.id, latest, |_| phase(Phase::Starting)).unwrap().unwrap();
        assert_eq!(same, started);
        let refused = catalog.edit_machine(&row.id, later, |_| Err("no")).unwrap();
        assert_eq!(refused, Err("no"));
        assert_eq!(catalog.machine(&row.id).unwrap(), Some(started));
    }

    #[test]
    fn lists_are_in_order_of_creation_and_go_on_after_a_cursor() {
        let (_dir, catalog) = open();
        let rows: Vec<_> = (0..5).map(|n| row(&format!("m{n}"))).collect();
        for row in rows.iter().rev() {
            catalog.insert_machine(row, 10).unwrap();
        }
        let first = catalog.machines(None, 2).unwrap();
        assert_eq!(first, rows[..2]);
        assert_eq!(catalog.machines(Some(&first[1].id), 10).unwrap(), rows[2..]);
    }

    #[test]
    fn those_that_sleep_and_are_meant_to_are_not_active() {
        let (_dir, catalog) = open();
        let mut asleep = row("asleep");
        asleep.recorded = true;
        asleep.desired = Desired::Sleeping;
        asleep.observed = Observation::of(Phase::Sleeping, "asleep");
        let awake = row("awake");
        catalog.insert_machine(&asleep, 10).unwrap();
        catalog.insert_machine(&awake, 10).unwrap();
        assert_eq!(catalog.active_machines(None, 10).unwrap(), [awake]);
    }

    #[test]
    fn there_are_no_more_machines_than_allowed() {
        let (_dir, catalog) = open();
        catalog.insert_machine(&row("one"), 1).unwrap();
        let error = catalog.insert_machine(&row("two"), 1).unwrap_err();
        assert_eq!(error.kind(), base::ErrorKind::TooMany);
    }

    #[test]
    fn machines_are_found_when_the_sooner_of_their_times_has_come() {
        let (_dir, catalog) = open();
        let at = |second| Timestamp::from_second(second).ok();
        let alarms = [
            ("none", None, None),
            ("asked", at(100), None),
            ("guest", None, at(200)),
            ("both", at(300), at(50)),
        ];
        for (name, asked, guest) in alarms {
            let row = MachineRow { alarm: Alarm { asked, guest }, ..row(name) };
            catalog.insert_machine(&row, 10).unwrap();
            assert_eq!(catalog.machine(&row.id).unwrap(), Some(row));
        }
        let due = |second| {
            let rows = catalog.machines_due(at(second).unwrap(), 10).unwrap();
            let mut names: Vec<String> = rows.into_iter().map(|row| row.name).collect();
            names.sort();
            names
        };
        assert_eq!(due(49), Vec::<String>::new());
        assert_eq!(due(50), ["both"]);
        assert_eq!(due(200), ["asked", "both", "guest"]);
        assert_eq!(catalog.machines_due(at(200).unwrap(), 1).unwrap().len(), 1);
        let sql = format!("EXPLAIN QUERY PLAN SELECT * FROM machine WHERE {DUE} LIMIT ?2");
        let plan: String =
            catalog.read(|db| Ok(db.query_row(&sql, (1, 1), |row| row.get(3))?)).unwrap();
        assert!(plan.contains("USING INDEX machine_alarm"), "{plan}");
    }
}
