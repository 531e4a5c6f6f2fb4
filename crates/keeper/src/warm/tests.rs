use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const LONG: Duration = Duration::from_secs(60);

struct Machine {
    _folder: tempfile::TempDir,
    dir: MachineDir,
}

fn machine() -> Machine {
    let folder = tempfile::tempdir().unwrap();
    let dir = MachineDir::new(folder.path());
    std::fs::write(dir.asleep(), b"{}").unwrap();
    Machine { _folder: folder, dir }
}

/// Waits as the process of a warm guest does, until that is over; what it took.
fn stay(
    machine: &Machine,
    patience: Duration,
    is_of_use: Arc<AtomicBool>,
) -> std::thread::JoinHandle<Option<Hold>> {
    let dir = machine.dir.clone();
    let hold = Hold::take(&dir).unwrap();
    let begun = dir.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let of_use = || is_of_use.load(Ordering::SeqCst);
        let terminate = CancellationToken::new();
        let waits = Waits { identity: "me", patience, terminate: &terminate };
        runtime.block_on(wait(&dir, hold, &waits, of_use)).unwrap()
    });
    while Lock::is_held(&begun) {
        std::thread::sleep(Duration::from_millis(1));
    }
    thread
}

fn of_use() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(true))
}

#[test]
fn it_is_roused_by_who_would_start_the_same_and_holds_the_lock_then() {
    let machine = machine();
    let warm = stay(&machine, LONG, of_use());
    let roused = rouse(&machine.dir, "me").unwrap();
    assert!(roused.is_some());
    let hold = warm.join().unwrap();
    assert!(hold.is_some() && Lock::is_held(&machine.dir));
    assert!(!machine.dir.warm().exists());
    drop(hold);
    assert!(!Lock::is_held(&machine.dir));
    assert!(rouse(&machine.dir, "me").unwrap().is_none(), "there is none");
    end(&machine.dir).unwrap();
}

#[test]
fn it_is_of_no_use_to_others() {
    for word in ["wake another", "wake", "end", "", "garbage", &"x".repeat(1000)] {
        let machine = machine();
        let warm = stay(&machine, LONG, of_use());
        let stream =
            through_directory(&machine.dir.warm(), |short| Stream::connect(short)).unwrap();
        (&stream).write_all(format!("{word}\n").as_bytes()).ok();
        assert!(warm.join().unwrap().is_none(), "{word:?}");
        assert!(!Lock::is_held(&machine.dir));
    }
}

#[test]
fn who_gave_it_up_does_not_rouse_it() {
    let machine = machine();
    let warm = stay(&machine, LONG, of_use());
    // It asks, and is gone before the answer.
    drop(call(&machine.dir, "wake me").unwrap());
    assert!(warm.join().unwrap().is_none());
    assert!(!Lock::is_held(&machine.dir));
}

#[test]
fn one_that_finds_another_keeper_is_none() {
    let machine = machine();
    let warm = stay(&machine, LONG, of_use());
    let other = Lock::take(&machine.dir).unwrap();
    let stream = through_directory(&machine.dir.warm(), |short| Stream::connect(short)).unwrap();
    (&stream).write_all(b"wake me\n").unwrap();
    assert!(warm.join().unwrap().is_none());
    drop(other);
}

#[test]
fn it_leaves_when_its_time_is_over_and_when_it_is_of_no_use_any_more() {
    let short = Duration::from_millis(1);
    assert!(stay(&machine(), short, of_use()).join().unwrap().is_none());
    let (machine_here, of_use_here) = (machine(), of_use());
    let warm = stay(&machine_here, LONG, of_use_here.clone());
    of_use_here.store(false, Ordering::SeqCst);
    assert!(warm.join().unwrap().is_none());
    let machine_here = machine();
    let warm = stay(&machine_here, LONG, of_use());
    std::fs::remove_file(machine_here.dir.asleep()).unwrap();
    assert!(warm.join().unwrap().is_none(), "nothing to wake from");
}

#[test]
fn it_takes_what_the_host_has_to_spare() {
    let stays = |available| stays_for(LONG, &Free { available, total: 1000 }).as_secs();
    assert_eq!([1000, 500, 350, 200, 10, 0].map(stays), [60, 60, 30, 0, 0, 0]);
    assert_eq!(stays_for(LONG, &Free::default()), Duration::ZERO, "where nobody can say");
    let told = "MemTotal:       24000 kB\nMemFree:  1 kB\nMemAvailable:   12000 kB\n";
    assert_eq!(free_of(told), Free { available: 12000, total: 24000 });
    assert_eq!(free_of("garbage\nMemTotal: x kB"), Free::default());
    assert!(memory_free().total > 0);
}
