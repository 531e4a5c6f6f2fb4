//! A host whose disk is full: its guests wait, and lose nothing.

use std::time::Duration;

use runtime::{Memory, Network, Spec};
use testkit::SmallDisk;

use crate::guest::{Guest, image, spec};

const MIB: u64 = 1 << 20;
const WRITES_MIB: u64 = 200;

async fn until(guest: &Guest, waits: bool) {
    let mut seen = guest.instance.waits_for_room();
    let seen = tokio::time::timeout(Duration::from_secs(120), seen.wait_for(|now| *now == waits));
    seen.await.unwrap_or_else(|_| panic!("it is not so: waits {waits}")).unwrap();
}

/// Has the guest write more than there is room for. The file is whole once `/tmp/code` says 0.
fn overfill(guest: &mut Guest) {
    let write = format!(
        "(dd if=/dev/urandom bs=1M count={WRITES_MIB} 2>/dev/null | tee /var/large | sha256sum >/tmp/sum; sync; \
          echo $? >/tmp/code) >/dev/null 2>&1 & true"
    );
    assert_eq!(guest.shell(&write).0, 0);
}

fn assert_whole(guest: &mut Guest) {
    let whole = "for i in $(seq 1500); do test -e /tmp/code && break; sleep 0.1; done; cat /tmp/code; \
                 echo 3 >/proc/sys/vm/drop_caches; sha256sum </var/large | cmp - /tmp/sum && echo whole; \
                 stat -c %s /var/large; dmesg | grep -ci 'i/o error'";
    assert_eq!(guest.shell(whole).1, format!("0\nwhole\n{}\n0", WRITES_MIB * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_write_finds_no_room_waits_and_goes_on_by_itself() {
    let Some(image) = image() else { return };
    let disk = SmallDisk::new(3 << 30).unwrap();
    let plain = spec(&image, disk.path(), Network::None);
    let mut guest = Guest::start(&plain).await;
    overfill(&mut guest);
    tokio::time::sleep(Duration::from_secs(2)).await;
    disk.fill(0).unwrap();
    until(&guest, true).await;
    // A little room is none: it would be back at once.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(*guest.instance.waits_for_room().borrow());
    disk.make_room().unwrap();
    until(&guest, false).await;
    assert_whole(&mut guest);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_is_suspended_and_killed_like_any_other() {
    let Some(image) = image() else { return };
    let disk = SmallDisk::new(4 << 30).unwrap();
    let (memory, state) = (disk.path().join("memory"), disk.path().join("devices"));
    let plain = spec(&image, disk.path(), Network::None);
    let fresh = Spec { memory: Memory::File(memory.clone()), ..plain };
    let saved =
        Spec { memory: Memory::Saved { file: memory, state: state.clone() }, ..fresh.clone() };
    let mut guest = Guest::start(&fresh).await;
    let little = disk.path().join("little");
    std::fs::write(&little, vec![1; 8 << 20]).unwrap();
    // Its memory takes what it needs, and there is enough left to run. Then there is nothing at once.
    disk.fill(970 * MIB).unwrap();
    overfill(&mut guest);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!*guest.instance.waits_for_room().borrow(), "{:?}", disk.free());
    disk.fill(0).unwrap();
    until(&guest, true).await;
    // For the state of the devices.
    std::fs::remove_file(&little).unwrap();
    guest.instance.suspend(&state).await.unwrap();
    drop(guest);
    disk.make_room().unwrap();
    let mut guest = Guest::resume(&saved).await;
    assert_whole(&mut guest);

    disk.fill(0).unwrap();
    until(&guest, true).await;
    let begun = std::time::Instant::now();
    guest.instance.stop(Duration::ZERO).await;
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_memory_would_find_no_room_is_held_before_it_is_in_want_of_it() {
    let Some(image) = image() else { return };
    let disk = SmallDisk::new(3 << 30).unwrap();
    let plain = spec(&image, disk.path(), Network::None);
    let memory = disk.path().join("memory");
    let fresh = Spec { memory: Memory::File(memory.clone()), ..plain };
    let mut guest = Guest::start(&fresh).await;
    disk.fill(600 * MIB).unwrap();
    until(&guest, true).await;
    // What it cannot have all of it leaves to others, also while it waits.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(disk.free().unwrap() > 512 * MIB, "{:?}", disk.free());
    disk.make_room().unwrap();
    until(&guest, false).await;
    // Whoever fills the disk next.
    let taken = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&memory).unwrap()) * 512;
    assert!(taken > 400 * MIB, "{taken}");
    assert_eq!(guest.shell("echo here"), (0, "here".to_owned()));
}
