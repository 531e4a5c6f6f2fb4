use std::io::{BufRead, Write};

use super::*;

#[test]
fn only_a_guest_that_waits_for_room_goes_on_and_only_where_there_is_enough() {
    let (little, some, enough) = (ROOM_HELD - 1, ROOM_MIN - 1, ROOM_MIN);
    for (guest, free, memory, expected) in [
        (Guest::Runs, enough, true, Step::Nothing),
        (Guest::Runs, enough, false, Step::Hold),
        (Guest::Runs, some, true, Step::Nothing),
        (Guest::Runs, some, false, Step::Hold),
        (Guest::Runs, little, true, Step::Hold),
        (Guest::Stopped, enough, true, Step::GoOn),
        (Guest::Stopped, enough, false, Step::Nothing),
        (Guest::Stopped, some, true, Step::Nothing),
        (Guest::Held, enough, true, Step::GoOn),
        (Guest::Held, enough, false, Step::Nothing),
        (Guest::Held, some, true, Step::Nothing),
        (Guest::Other, enough, true, Step::Nothing),
        (Guest::Other, little, false, Step::Nothing),
    ] {
        for leaves in [0, 1, ROOM_LEFT_MAX] {
            let seen = step(guest, free + leaves, leaves, memory);
            assert_eq!(seen, expected, "{guest:?} {free} {leaves} {memory}");
        }
    }
}

#[test]
fn one_that_stops_again_and_again_waits_longer_each_time() {
    let mut pace = Pace::default();
    let mut now = Instant::now();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        pace.stopped(now);
        assert!(!pace.may_go_on(now));
        now += pace.pause;
        assert!(pace.may_go_on(now));
        pauses.push(pace.pause.as_secs());
        pace.went_on = Some(now);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    now += ROOM_RELAPSE;
    pace.stopped(now);
    assert_eq!(pace.pause, ROOM_LOOK_EVERY, "it ran for a while");
}

#[test]
fn memory_takes_its_room_and_stays_what_it_is() {
    let mut memory = tempfile::tempfile().unwrap();
    memory.write_all(&[7; 4096]).unwrap();
    memory.set_len(4 << 20).unwrap();
    assert!(memory.metadata().unwrap().blocks() < 1024);
    assert!(!has_its_room(&memory, u64::MAX));
    assert!(
        memory.metadata().unwrap().blocks() < 1024,
        "it takes nothing where it cannot have all"
    );
    assert!(has_its_room(&memory, 0));
    let meta = memory.metadata().unwrap();
    assert!(meta.blocks() * 512 >= 4 << 20 && meta.len() == 4 << 20, "{meta:?}");
    let mut found = [0; 4097];
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut found, 0).unwrap();
    assert!(found[..4096] == [7; 4096] && found[4096] == 0);
}

#[test]
fn guests_that_want_more_than_there_is_leave_some() {
    let Ok(disk) = testkit::SmallDisk::new(3 << 30) else {
        assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot run: needs root");
        return;
    };
    let memories = ["one", "two", "three"].map(|name| {
        let memory = File::create(disk.path().join(name)).unwrap();
        memory.set_len(3 << 29).unwrap();
        memory
    });
    for _ in 0..3 {
        let have = thread::scope(|scope| {
            let asked = memories
                .each_ref()
                .map(|memory| scope.spawn(move || has_its_room(memory, ROOM_HELD)));
            asked.map(|asked| asked.join().unwrap()).into_iter().filter(|has| *has).count()
        });
        let least = ROOM_HELD - 3 * ROOM_PIECE.unsigned_abs();
        assert!(have <= 1 && disk.free().unwrap() >= least, "{have} {:?}", disk.free());
    }
}

fn growth() -> Growth {
    let upper = tempfile::tempfile().unwrap();
    Growth::begin(Grows { upper, served: None, memory: None }, Arc::default())
}

/// A QEMU whose guest stands still for want of room. It answers late, refuses at first, and ends when asked to.
fn speak_as_qemu(stream: &UnixStream) {
    let mut said = io::BufReader::new(stream);
    let mut stream = stream;
    let mut say = |line: String| writeln!(stream, "{line}").unwrap();
    say(json!({ "QMP": {} }).to_string());
    let (mut status, mut refused, mut line) = ("io-error", false, String::new());
    while said.read_line(&mut line).is_ok_and(|n| n > 0) {
        let command: Value = serde_json::from_str(&line).unwrap();
        line.clear();
        match command["execute"].as_str().unwrap() {
            "quit" => return,
            "cont" if !refused => {
                refused = true;
                say(json!({ "error": { "desc": "no" }, "id": command["id"] }).to_string());
                continue;
            }
            "cont" => status = "running",
            "qmp_capabilities" => {}
            _ => (0..1000).for_each(|_| say(json!({ "event": "BLOCK_IO_ERROR" }).to_string())),
        }
        if status != "running" {
            thread::sleep(Duration::from_millis(300));
        }
        say(json!({ "return": { "status": status }, "id": command["id"] }).to_string());
    }
}

#[test]
fn one_whose_hypervisor_answers_late_is_looked_after_on() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let qemu = thread::spawn(move || speak_as_qemu(&theirs));
    let (end, ended) = UnixStream::pair().unwrap();
    let (waits, mut seen) = watch::channel(false);
    let growth = growth();
    let patience = Duration::from_millis(100);
    let watched = Watched { ended, growth, waits, pace: Pace::default(), patience };
    let thread = thread::spawn(move || watched.until_ended(Line::New(ours)));
    let until = |waits: bool, seen: &mut watch::Receiver<bool>| {
        let begun = Instant::now();
        while *seen.borrow_and_update() != waits {
            assert!(begun.elapsed() < Duration::from_secs(30), "it is not so: waits {waits}");
            thread::sleep(Duration::from_millis(10));
        }
    };
    until(true, &mut seen);
    until(false, &mut seen);
    let mut qmp = Watch { end, thread }.end().unwrap();
    qmp.begin_anew();
    qmp.execute("query-status", json!({})).unwrap();
    qmp.execute("quit", json!({})).unwrap_err();
    qemu.join().unwrap();
}

#[test]
fn nobody_waits_for_room_once_the_monitor_is_lost() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (_end, ended) = UnixStream::pair().unwrap();
    let (waits, seen) = watch::channel(true);
    let growth = growth();
    (&theirs).write_all(b"hello\n").unwrap();
    let patience = ROOM_ANSWER;
    let watched = Watched { ended, growth, waits, pace: Pace::default(), patience };
    watched.until_ended(Line::New(ours)).unwrap_err();
    assert!(!*seen.borrow());
}
