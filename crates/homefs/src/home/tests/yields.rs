//! What can wait lets a caller go first who waits for a round.

use vfs::{Expect, FileSystem as _, Kind, Owner, ROOT};

use super::World;
use crate::HomeFs;
use crate::garbage::compact::compact;

const FILE: u64 = 100_000;

fn put(home: &HomeFs, name: &str, byte: u8) {
    let ino = home.create_detached(Kind::File, 0o644, Owner::default()).unwrap().ino;
    home.write(ino, 0, &vec![byte; FILE as usize]).unwrap();
    home.place(ino, ROOT, &[name.as_bytes()], Expect::Any).unwrap();
    home.unpin(ino);
}

#[test]
fn compaction_stops_after_one_extent_where_somebody_waits_and_goes_on_later() {
    let world = World::new();
    let home = world.open();
    for n in 0..40 {
        put(&home, &format!("f{n}"), n);
    }
    home.sync(None).unwrap();
    // Less than half of the pack lives.
    for n in 15..40 {
        home.unlink(ROOT, format!("f{n}").as_bytes()).unwrap();
    }
    home.sync(None).unwrap();
    let (engine, epoch) = (&home.engine, home.epoch.0);
    let waits = engine.wait_for_round();
    assert_eq!(compact(engine, epoch, 0, false).unwrap(), FILE);
    assert_eq!(compact(engine, epoch, 0, false).unwrap(), FILE, "each turn gets on");
    drop(waits);
    assert_eq!(compact(engine, epoch, 0, false).unwrap(), 13 * FILE);
    assert_eq!(compact(engine, epoch, 0, false).unwrap(), 0);
    for n in 0..15 {
        let ino = home.lookup(ROOT, format!("f{n}").as_bytes()).unwrap().ino;
        assert_eq!(home.read(ino, 0, FILE as u32).unwrap(), vec![n; FILE as usize]);
    }
    // Whoever syncs is somebody who waits, and no longer than that.
    home.sync(None).unwrap();
    assert!(!engine.is_waited_for());
}
