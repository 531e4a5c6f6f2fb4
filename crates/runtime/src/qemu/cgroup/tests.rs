//! What the kernel does with real groups, and what is told to it. Needs root and control groups; says so and
//! passes without.

use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::super::spawn::{Confinement, spawn};
use super::shares::Setting;
use super::vcpus::LOOK_EVERY;
use super::*;
use crate::limits::VCPU_THREADS_PATIENCE;

/// Slots that no machine beside these tests is likely to have, one for each test.
const SLOTS: [u16; 5] = [0xfff1, 0xfff2, 0xfff3, 0xfff4, 0xfff5];

fn shares(vcpu: f64, memory_mib: u64) -> Shares {
    let cpus = if vcpu > 1.0 { 2 } else { 1 };
    Shares { vcpu, cpus, weight: vcpu, memory_bytes: memory_mib << 20, threads: 20 }
}

fn usable() -> bool {
    match probe() {
        Ok(()) => true,
        Err(error) => {
            let must_run = std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_some();
            assert!(!must_run, "cannot run: no control groups: {error}");
            eprintln!("skipped: this host gives no control groups: {error}");
            false
        }
    }
}

/// One that is nothing but this folder.
fn group_at(dir: &Path) -> Cgroup {
    let dirs = vec![dir.to_owned()];
    let cpu_time = Mutex::new(CpuTime { shares: shares(1.0, 64), apart: true });
    Cgroup { dirs, cpu: dir.to_owned(), hierarchy: Hierarchy::Unified, cpu_time }
}

fn behind(doors: &[File]) -> Confinement {
    Confinement {
        user: None,
        groups: Vec::new(),
        keep_open: Vec::new(),
        enter: doors.iter().map(AsRawFd::as_raw_fd).collect(),
        jail: None,
        small_pages: false,
    }
}

/// Starts a shell in `group`.
fn begin_in(group: &Cgroup, script: &str) -> Child {
    let doors = group.doors().unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::null());
    spawn(&mut command, &behind(&doors)).unwrap()
}

/// Runs a shell in `group`; its standard output.
fn run_in(group: &Cgroup, script: &str) -> (Option<i32>, String) {
    let output = begin_in(group, script).wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn a_quarter_of_a_cpu_is_a_quarter() {
    if !usable() {
        return;
    }
    // As a virtual CPU that is found, and as all there is where none is found.
    for (name, patience) in [("CPU 0/TCG", VCPU_THREADS_PATIENCE), ("sh", LOOK_EVERY)] {
        let group = Cgroup::create(SLOTS[0], &shares(0.25, 256)).unwrap();
        let begun = Instant::now();
        // Busy for two to three seconds, by the clock; then the CPU time of the shell and that of all the
        // `date`s which it ran, each as user and system time.
        let script = format!(
            "printf '{name}' >/proc/$$/comm; end=$(($(date +%s) + 3)); \
             while [ $(date +%s) -lt $end ]; do :; done; times"
        );
        let running = begin_in(&group, &script);
        group.hold_vcpus_within(1, patience).unwrap();
        let output = running.wait_with_output().unwrap();
        let elapsed = begun.elapsed().as_secs_f64();
        assert_eq!(output.status.code(), Some(0));
        let said = String::from_utf8(output.stdout).unwrap();
        let used: f64 = said
            .split_whitespace()
            .map(|word| {
                let (minutes, seconds) = word.trim_end_matches('s').split_once('m').unwrap();
                minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
            })
            .sum();
        assert!(used <= elapsed * 0.30 + 0.5, "{name}: {used} s of CPU in {elapsed} s");
        assert!(used > 0.0, "{said}");
    }
}

/// A shell that keeps a CPU busy, in `group`.
fn busy(group: &Cgroup, name: &str) -> Child {
    let script = format!("printf '{name}' >/proc/$$/comm; while :; do :; done");
    begin_in(group, &script)
}

/// CPU time that a process has used, in ticks of the kernel.
fn ticks(process: &Child) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1;
    fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u32>().unwrap()).sum()
}

#[test]
fn what_a_hypervisor_does_is_not_its_guests_share() {
    if !usable() {
        return;
    }
    let group = Cgroup::create(SLOTS[3], &shares(0.25, 256)).unwrap();
    let (mut vcpu, mut other) = (busy(&group, "CPU 0/TCG"), busy(&group, "qemu"));
    group.hold_vcpus(1).unwrap();
    let mut attempts = 0;
    let (used, elapsed) = loop {
        let (begun, before) = (Instant::now(), [ticks(&vcpu), ticks(&other)]);
        thread::sleep(Duration::from_secs(3));
        let used = [ticks(&vcpu) - before[0], ticks(&other) - before[1]];
        let used = used.map(|ticks| f64::from(ticks) / 100.0);
        let elapsed = begun.elapsed().as_secs_f64();
        eprintln!("CPU time in {elapsed} s: {used:?}");
        assert!(used[0] <= elapsed * 0.30 + 0.5, "{used:?} s of CPU in {elapsed} s");
        // With one quota for both it would have as much. On a host that does nothing else it has a whole CPU; on one that
        // does it may have to wait for its turn.
        attempts += 1;
        if used[1] > used[0] * 1.3 || attempts == 8 {
            break (used, elapsed);
        }
    };
    // Up and down: the kernel refuses what comes in the wrong order.
    for vcpu in [3.0, 0.25, 1.0] {
        group.set_vcpu(vcpu).unwrap();
    }
    for process in [&mut vcpu, &mut other] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    assert!(used[1] > used[0] * 1.3, "{used:?} s of CPU in {elapsed} s");
    let dirs = group.dirs.clone();
    drop(group);
    assert!(dirs.iter().all(|dir| !dir.exists()), "{dirs:?}");
}

#[test]
fn more_than_the_group_around_has_is_what_that_has() {
    let root = Path::new(ROOT);
    if !usable() || Hierarchy::of(root) == Hierarchy::Unified {
        eprintln!("no control groups of version 1 here: nothing was tried");
        return;
    }
    let group = Cgroup::create(SLOTS[4], &shares(0.25, 64)).unwrap();
    let own = group.cpu.join("vcpu");
    let quota = |value: &str| Setting {
        controller: "cpu",
        file: "cpu.cfs_quota_us",
        value: value.to_owned(),
        may_lack: false,
    };
    let there = || fs::read_to_string(own.join("cpu.cfs_quota_us")).unwrap();
    quota("4000").write(&own).unwrap();
    assert_eq!(there().trim(), "4000");
    quota("900000").write(&own).unwrap();
    assert_eq!(there().trim(), "-1");
}

#[test]
fn threads_are_moved_by_name_or_all_of_them_are_held() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids").unwrap();
    for dir in ["", "dormouse"] {
        let enabled = root.path().join(dir).join("cgroup.subtree_control");
        fs::create_dir_all(enabled.parent().unwrap()).unwrap();
        fs::write(enabled, "cpu memory pids").unwrap();
    }
    let group = Cgroup::create_below(root.path(), "0007", &shares(0.5, 64)).unwrap();
    let file = |name: &str| group.cpu.join(name);
    let read = |name: &str| fs::read_to_string(file(name)).unwrap();
    let moment = Duration::from_millis(20);

    fs::write(file("cgroup.threads"), "").unwrap();
    group.hold_vcpus_within(1, moment).unwrap();
    assert_eq!(read("cpu.max"), "30000 20000", "nobody is there any more");

    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let vcpu = thread::Builder::new().name("CPU 1/KVM".to_owned()).spawn(move || {
        tell.send(nix::unistd::gettid()).unwrap();
        ended.recv().ok();
    });
    let vcpu_id = told.recv().unwrap();
    fs::write(file("cgroup.threads"), format!("{}\n{vcpu_id}\n", nix::unistd::gettid())).unwrap();
    group.hold_vcpus_within(1, moment).unwrap();
    assert_eq!(read("vcpu/cgroup.threads"), vcpu_id.to_string());
    assert_eq!(read("cpu.max"), "30000 20000");
    for (vcpu, all, own) in [(2.0, "60000 20000", "max 20000"), (0.5, "30000 20000", "10000 20000")]
    {
        group.set_vcpu(vcpu).unwrap();
        assert_eq!((read("cpu.max").as_str(), read("vcpu/cpu.max").as_str()), (all, own));
    }

    fs::write(file("cgroup.threads"), nix::unistd::gettid().to_string()).unwrap();
    group.hold_vcpus_within(1, moment).unwrap();
    assert_eq!(read("cpu.max"), "10000 20000", "one that is not found");
    fs::write(file("cpu.max"), "").unwrap();
    fs::write(file("cgroup.threads"), vcpu_id.to_string()).unwrap();
    fs::remove_dir_all(file("vcpu")).unwrap();
    group.hold_vcpus_within(1, moment).unwrap();
    assert_eq!(read("cpu.max"), "10000 20000", "one that cannot be moved");
    group.set_vcpu(0.75).unwrap();
    assert_eq!(read("cpu.max"), "15000 20000", "still all of them");
    drop(end);
    vcpu.unwrap().join().unwrap();
    // These are files here, so that the directory cannot be removed.
    std::mem::forget(group);
}

#[test]
fn more_memory_or_threads_than_there_are_hurt_only_the_group() {
    if !usable() {
        return;
    }
    let group = Cgroup::create(SLOTS[1], &shares(1.0, 32)).unwrap();
    let (code, _) = run_in(&group, "head -c 200000000 /dev/zero | tail -c 199999999 > /dev/null");
    assert_ne!(code, Some(0), "200 MB in a group of 32 MiB");
    let (_, said) = run_in(&group, "for i in $(seq 40); do sleep 1 & done; wait; echo done");
    assert_eq!(said, "", "40 processes in a group of 20");
    assert_eq!(run_in(&group, "echo well").1, "well", "and others go on");
    let dirs = group.dirs.clone();
    drop(group);
    assert!(dirs.iter().all(|dir| !dir.exists()), "{dirs:?}");
}

#[test]
fn a_unified_hierarchy_is_set_up_once() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    fs::write(at("cgroup.controllers"), "cpuset cpu io memory pids").unwrap();
    fs::write(at("cgroup.subtree_control"), "memory").unwrap();
    fs::create_dir(at("dormouse")).unwrap();
    fs::write(at("dormouse/cgroup.subtree_control"), "cpu memory pids").unwrap();
    let group = Cgroup::create_below(root.path(), "0007", &shares(1.5, 64)).unwrap();
    let read = |path: &str| fs::read_to_string(at(path)).unwrap();
    assert_eq!(read("cgroup.subtree_control"), "+cpu +pids");
    assert_eq!(read("dormouse/cgroup.subtree_control"), "cpu memory pids", "as it was");
    assert_eq!(read("dormouse/0007/cpu.max"), "50000 20000");
    assert_eq!(read("dormouse/0007/cgroup.subtree_control"), "+cpu");
    assert_eq!(read("dormouse/0007/vcpu/cgroup.type"), "threaded");
    assert_eq!(read("dormouse/0007/vcpu/cpu.max"), "30000 20000");
    assert_eq!(read("dormouse/0007/memory.max"), "67108864");
    assert_eq!(read("dormouse/0007/pids.max"), "20");
    // These are files here, so that the directory cannot be removed.
    std::mem::forget(group);
}

#[test]
fn a_host_without_groups_says_so() {
    let root = tempfile::tempdir().unwrap();
    assert!(Cgroup::create_below(root.path(), "0007", &shares(1.0, 64)).is_err());
}

#[test]
fn a_group_that_nobody_can_enter_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let group = || group_at(dir.path());
    fs::write(dir.path().join("keep"), "").unwrap();
    assert_eq!(group().tried().unwrap_err().kind(), io::ErrorKind::NotFound);
    // Opens, and refuses what is written.
    symlink("/dev/full", dir.path().join("cgroup.procs")).unwrap();
    let error = group().tried().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().starts_with("enter a group: "), "{error}");
}

#[test]
fn who_cannot_enter_its_group_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let group = group_at(dir.path());
    symlink("/dev/full", dir.path().join("cgroup.procs")).unwrap();
    let doors = group.doors().unwrap();
    let ran = dir.path().join("ran");
    let mut command = Command::new("/usr/bin/touch");
    let error = spawn(command.arg(&ran), &behind(&doors)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(!ran.exists());
}

#[test]
fn a_probe_leaves_nothing() {
    if !usable() {
        return;
    }
    let root = Path::new(ROOT);
    let name = format!("probe-{}", nix::unistd::gettid());
    for parent in parents(root, Hierarchy::of(root)) {
        assert!(parent.exists() && !parent.join(&name).exists());
    }
}

#[test]
fn a_sweep_does_not_wait_for_a_group_that_is_in_use() {
    if !usable() {
        return;
    }
    let group = Cgroup::create(SLOTS[2], &shares(1.0, 32)).unwrap();
    let doors = group.doors().unwrap();
    let mut command = Command::new("/bin/cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut inside = spawn(&mut command, &behind(&doors)).unwrap();
    let begun = Instant::now();
    let error = remove(SLOTS[2]).unwrap_err();
    let waited = begun.elapsed();
    inside.kill().unwrap();
    inside.wait().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    assert!(waited < REMOVE_PAUSE * REMOVE_TRIES, "{waited:?}");
    let dirs = group.dirs.clone();
    drop(group);
    assert!(dirs.iter().all(|dir| !dir.exists()), "its owner does wait: {dirs:?}");
    remove(SLOTS[2]).unwrap();
}

#[test]
fn who_serves_a_guest_is_held_with_all_that_it_starts_and_its_group_goes_after_it() {
    if !usable() {
        return;
    }
    let (root, hierarchy) = (Path::new(ROOT), Hierarchy::of(Path::new(ROOT)));
    let machine = base::MachineId::generate();
    let name = format!("serves-{machine}");
    let dir = parent_of(root, hierarchy, "cpu").join(&name);
    let of_host = thread::available_parallelism().unwrap().get();
    serving::hold_this_process(&machine, 1.0).unwrap();
    let of_another = || fs::read_to_string("/proc/thread-self/cgroup").unwrap();
    let groups = thread::spawn(of_another).join().unwrap();
    assert!(groups.contains(&name), "{groups}");
    let (weight, all, outside) = match hierarchy {
        Hierarchy::Unified => ("cpu.weight", ["25", "50"], root.join("cgroup.procs")),
        Hierarchy::Split => ("cpu.shares", ["256", "512"], root.join("cpu/cgroup.procs")),
    };
    let weight = || fs::read_to_string(dir.join(weight)).unwrap().trim().to_owned();
    assert_eq!(weight(), all[0]);
    serving::set_vcpu(&machine, 2.0);
    assert_eq!(weight(), all[1]);
    // A process that is held to one CPU is told that there is one.
    let (quota, one) = match hierarchy {
        Hierarchy::Unified => ("cpu.max", "20000 20000"),
        Hierarchy::Split => ("cpu.cfs_quota_us", "20000"),
    };
    fs::write(dir.join(quota), one).unwrap();
    fs::write(dir.join("cgroup.procs"), "0").unwrap();
    let told = thread::available_parallelism().unwrap().get();
    assert_eq!(told, 1);
    assert_eq!(cpus(), of_host, "and all others are held to what there is still");
    serving::set_with_guest(&machine, 3.0);
    assert_ne!(weight(), all[1]);
    serving::sweep(root, hierarchy);
    assert!(dir.exists(), "somebody is in it");
    fs::write(outside, "0").unwrap();
    serving::sweep(root, hierarchy);
    assert!(!dir.exists());
    serving::set_vcpu(&machine, 1.0);
    assert!(!dir.exists(), "who is held to nothing stays so");
}

#[test]
fn a_group_that_is_swept_before_anybody_is_in_it_is_made_again() {
    if !usable() {
        return;
    }
    let (root, hierarchy) = (Path::new(ROOT), Hierarchy::of(Path::new(ROOT)));
    let over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let sweeps = scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                serving::sweep(root, hierarchy);
                thread::sleep(Duration::from_micros(200));
            }
        });
        let held: Vec<io::Result<()>> = (0..50)
            .map(|_| serving::hold_this_process(&base::MachineId::generate(), 1.0))
            .collect();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        sweeps.join().unwrap();
        for held in held {
            held.unwrap();
        }
    });
    let outside = if hierarchy == Hierarchy::Unified { "cgroup.procs" } else { "cpu/tasks" };
    fs::write(root.join(outside), "0").unwrap();
    serving::sweep(root, hierarchy);
}
