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
        take_over_from: None,
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
    row.take_over_from = Some(base::Epoch(7));
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
        Ok::<_, Infallible>(MachineChange { name: Some("one".to_owned()), ..Default::default() })
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
    let same = catalog.edit_machine(&row.id, latest, |_| phase(Phase::Starting)).unwrap().unwrap();
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
    let due_at = |second| {
        let rows = catalog.machines_due(at(second).unwrap(), None, 10).unwrap();
        let mut names: Vec<String> = rows.into_iter().map(|row| row.name).collect();
        names.sort();
        names
    };
    assert_eq!(due_at(49), Vec::<String>::new());
    assert_eq!(due_at(50), ["both"]);
    assert_eq!(due_at(200), ["asked", "both", "guest"]);
    let mut one_by_one = Vec::new();
    while let [row] = &*catalog.machines_due(at(200).unwrap(), one_by_one.last(), 1).unwrap() {
        one_by_one.push(row.id.clone());
    }
    assert_eq!(one_by_one.len(), 3, "{one_by_one:?}");
    let sql = format!("EXPLAIN QUERY PLAN {}", due());
    let plan: String =
        catalog.read(|db| Ok(db.query_row(&sql, (1, 1, ""), |row| row.get(3))?)).unwrap();
    assert!(plan.contains("USING INDEX machine_alarm"), "{plan}");
}
