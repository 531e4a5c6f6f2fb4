//! Pins that cannot be read: what nobody can be sure of is kept, and what goes need not be readable.

use base::{ErrorKind, HomeId, SnapshotId};
use homefs::{Depth, Listed};
use objstore::ObjectStore as _;

use crate::support::{World, block_on, get, noise, put, upload};

/// Pins that cannot be read: nothing, not a pin, that of somebody else, that of a later version.
const DAMAGED: [&str; 4] = ["", "\u{0}garbage", "{\"format\":1}", "{\"format\":3}"];

fn asleep() -> World {
    let world = World::new();
    let (home, _) = world.open("a");
    put(&home, "small", b"first");
    upload(&home, "chunked", &noise(9 << 20, 2));
    home.release().unwrap();
    world
}

impl World {
    fn damage(&self, pin: &str, body: &'static str) {
        let key = format!("homes/{}/pins/{pin}", self.home);
        block_on(self.store.put(&key, body.into())).unwrap();
    }

    fn snapshot_named(&self, name: &str) -> SnapshotId {
        let id = SnapshotId::generate();
        block_on(homefs::snapshot(&self.parts(), &self.home, &id, Some(name))).unwrap();
        id
    }

    fn forked(&self) -> World {
        let child = HomeId::generate();
        let parts = self.parts();
        block_on(homefs::fork(&parts, &self.home, None, &child, &self.server)).unwrap();
        self.other(child)
    }

    fn delete(&self) {
        block_on(homefs::delete_home(&self.parts(), &self.home)).unwrap();
    }

    fn abandon(&self, child: &World) -> homefs::Result<()> {
        block_on(homefs::abandon_fork(&self.parts(), &self.home, &child.home))
    }

    /// What is left but the mark and what fences the last writer.
    fn left(&self) -> Vec<String> {
        let all = self.keys("").into_iter().map(|object| object.key);
        all.filter(|key| !key.ends_with("/boundary") && !key.contains("/log/")).collect()
    }

    fn is_whole(&self, host: &str) {
        let fresh = self.snapshot(host);
        assert_eq!(get(&fresh, "small"), b"first");
        assert_eq!(get(&fresh, "chunked"), noise(9 << 20, 2));
    }
}

#[test]
fn a_snapshot_that_cannot_be_read_is_listed_beside_the_others_and_can_be_let_go_of() {
    let world = asleep();
    let parts = world.parts();
    let ids = ["one", "two", "three"].map(|name| world.snapshot_named(name));
    world.damage("of-later", "{}");
    for body in DAMAGED {
        world.damage(ids[1].as_str(), body);
        let listed = block_on(homefs::snapshots(&parts, &world.home)).unwrap();
        let found: Vec<_> = listed.iter().map(|one| one.id().clone()).collect();
        assert_eq!(found, ids);
        let Listed::Damaged { why, .. } = &listed[1] else { panic!("{listed:?}") };
        assert!(why.contains(ids[1].as_str()), "{why}");
        assert!(matches!(&listed[2], Listed::Whole(info) if info.name.as_deref() == Some("three")));
        let error = block_on(homefs::snapshot_info(&parts, &world.home, &ids[1])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    // Each is said, and the rest is looked at all the same.
    let scratch = world.dir("f", "scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let report =
        homefs::fsck(&parts, &world.home, None, Depth::Quick, &scratch, &mut |_| {}).unwrap();
    assert_eq!((report.damaged.total, report.checked.pins), (2, 2), "{report:?}");
    block_on(homefs::delete_snapshot(&parts, &world.home, &ids[1])).unwrap();
    assert_eq!(block_on(homefs::snapshots(&parts, &world.home)).unwrap().len(), 2);
    world.is_whole("after");
}

#[test]
fn a_home_goes_whatever_is_wrong_with_its_own_snapshots_and_drafts() {
    for body in DAMAGED {
        let world = asleep();
        world.snapshot_named("good");
        world.damage(SnapshotId::generate().as_str(), body);
        world.damage("draft-00112233445566778899aabbccddeeff", body);
        world.delete();
        assert_eq!(world.left(), Vec::<String>::new(), "{body}");
        world.delete();
    }
}

#[test]
fn where_it_is_not_certain_what_a_fork_needs_all_stays_until_that_goes() {
    for body in DAMAGED {
        let parent = asleep();
        let child = parent.forked();
        parent.damage(child.home.as_str(), body);
        let before = parent.left();
        for _ in 0..2 {
            parent.delete();
            assert_eq!(parent.left(), before, "{body}");
        }
        let gone = block_on(homefs::head(&parent.parts(), &parent.home)).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "it is deleted all the same");
        child.is_whole("reader");
        let (home, _) = child.open("b");
        put(&home, "own", b"goes on");
        home.release().unwrap();
        // It can go as any other, and takes all of that along.
        let begun = parent.abandon(&child).unwrap_err();
        assert_eq!(begun.kind(), ErrorKind::AlreadyExists);
        child.is_whole("again");
        child.delete();
        assert_eq!((parent.left(), child.left()), (Vec::new(), Vec::new()), "{body}");
    }
}

#[test]
fn a_fork_of_a_fork_needs_what_the_first_home_has_whatever_its_pin_says() {
    let parent = asleep();
    let child = parent.forked();
    let grandchild = child.forked();
    parent.damage(child.home.as_str(), "{}");
    child.delete();
    parent.delete();
    grandchild.is_whole("reader");
    grandchild.delete();
    assert_eq!((parent.left(), child.left()), (Vec::new(), Vec::new()));
}

#[test]
fn a_fork_that_has_not_begun_is_given_up_whatever_is_wrong_with_its_pin() {
    for body in DAMAGED {
        for parent_goes_first in [false, true] {
            let parent = asleep();
            let (parts, child) = (parent.parts(), parent.other(HomeId::generate()));
            block_on(homefs::hold_fork(&parts, &parent.home, None, &child.home)).unwrap();
            parent.damage(child.home.as_str(), body);
            if parent_goes_first {
                let before = parent.left();
                parent.delete();
                assert_eq!(parent.left(), before, "it may be being made");
            }
            for _ in 0..2 {
                parent.abandon(&child).unwrap();
            }
            assert!(parent.keys("pins/").is_empty(), "{body}");
            let again =
                block_on(homefs::fork(&parts, &parent.home, None, &child.home, &parent.server));
            assert_eq!(again.unwrap_err().kind(), ErrorKind::NotFound);
            if !parent_goes_first {
                parent.is_whole("after");
                parent.delete();
            }
            child.delete();
            assert_eq!((parent.left(), child.left()), (Vec::new(), Vec::new()), "{body}");
        }
    }
}

#[test]
fn the_pin_of_a_fork_that_is_gone_keeps_nothing() {
    let parent = asleep();
    let child = parent.forked();
    child.delete();
    parent.damage(child.home.as_str(), "{}");
    parent.delete();
    assert_eq!(parent.left(), Vec::<String>::new());
}

#[test]
fn what_is_pinned_for_something_unknown_stays() {
    let world = asleep();
    world.damage("of-later", "{\"format\":3}");
    let before = world.left();
    world.delete();
    assert_eq!(world.left(), before);
}

#[test]
fn a_collector_deletes_nothing_while_a_pin_cannot_be_read() {
    let world = asleep();
    world.damage(world.snapshot_named("good").as_str(), "{}");
    let before = world.left();
    world.clock.pass_minutes(600);
    let scratch = world.dir("c", "scratch");
    let error = block_on(homefs::collect(&world.parts(), &world.home, &scratch)).unwrap_err();
    assert_eq!((error.kind(), world.left()), (ErrorKind::Corrupt, before));
}
