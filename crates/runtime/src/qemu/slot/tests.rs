use super::*;

fn registry() -> (tempfile::TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    let slots = dir.path().join("instances");
    fs::create_dir(&slots).unwrap();
    (dir, Registry { dir: slots })
}

#[test]
fn two_instances_of_one_machine_have_two_slots() {
    let (_dir, registry) = registry();
    let machine = MachineId::generate();
    let one = registry.claim_free(&machine).unwrap().unwrap();
    let two = registry.claim_free(&machine).unwrap().unwrap();
    assert_ne!(one.number(), two.number());
    let first = one.number();
    drop(one);
    assert_eq!(registry.claim_free(&machine).unwrap().unwrap().number(), first);
}

#[test]
fn only_slots_of_the_dead_are_swept() {
    let (_dir, registry) = registry();
    let held = registry.claim_free(&MachineId::generate()).unwrap().unwrap();
    let dead = held.number().wrapping_add(7);
    fs::write(registry.path(dead), "dm-of-a-killed-keeper\n").unwrap();
    let mut swept = Vec::new();
    registry
        .sweep(&mut |number| {
            swept.push(number);
            Ok(())
        })
        .unwrap();
    assert_eq!(swept, [dead]);
    assert!(registry.holds(1), "the one that is alive");
}

#[test]
fn what_cannot_be_taken_down_stays_taken() {
    let (_dir, registry) = registry();
    fs::write(registry.path(7), "dm-of-a-killed-keeper\n").unwrap();
    registry.sweep(&mut |_| Err(io::Error::other("ip: no"))).unwrap();
    assert!(registry.path(7).exists());
}

#[test]
fn what_is_still_ending_is_waited_for_without_the_lock() {
    let (_dir, registry) = registry();
    fs::write(registry.path(7), "dm-of-a-killed-keeper\n").unwrap();
    let file = || File::create(registry.dir.with_extension("lock")).unwrap();
    let is_free = || Flock::lock(file(), FlockArg::LockExclusiveNonblock).is_ok();
    let (mut tries, mut pauses, mut tables) = (0, 0, 0);
    let mut remove = |_| {
        assert!(!is_free(), "slots are taken down under the lock");
        tries += 1;
        if tries < 4 { Err(io::ErrorKind::ResourceBusy.into()) } else { Ok(()) }
    };
    let mut remove_table = || {
        tables += 1;
        Ok(())
    };
    let mut pause = || {
        assert!(is_free(), "others can start meanwhile");
        pauses += 1;
    };
    registry.clean_with(&mut remove, &mut remove_table, &mut pause).unwrap();
    assert_eq!((tries, pauses, tables), (4, 3, 1));
    assert!(registry.holds(0));
}

#[test]
fn what_does_not_end_is_left_to_the_next_sweep() {
    let (_dir, registry) = registry();
    fs::write(registry.path(7), "dm-of-a-killed-keeper\n").unwrap();
    let mut pauses = 0;
    let mut busy = |_| Err(io::ErrorKind::ResourceBusy.into());
    let mut no_table = || panic!("a slot is still taken");
    registry.clean_with(&mut busy, &mut no_table, &mut || pauses += 1).unwrap();
    assert_eq!(pauses, CLEAN_TRIES - 1);
    // A start does not wait at all, and one that cannot be mended is not tried again.
    assert_eq!(registry.sweep(&mut busy).unwrap(), 1);
    let mut failing = |_| Err(io::Error::other("ip: no"));
    registry.clean_with(&mut failing, &mut no_table, &mut || panic!("for nothing")).unwrap();
    assert!(registry.path(7).exists());
}

#[test]
fn a_user_namespace_without_our_ids_is_noticed() {
    assert!(maps_user("         0          0 4294967295\n", USER_ID_BASE + 0xffff));
    assert!(!maps_user("0 100000 65536\n", USER_ID_BASE));
    assert!(!maps_user("", USER_ID_BASE));
}
