//! A mounted home against the file-system suites that others wrote: `pjdfstest` and `fsx`.
//!
//! `cargo xtask` installs both (`xtask/src/posix.rs`) and runs this file: in a bounded form with all
//! the other tests, in full as `cargo xtask posix`. Each test runs on the program as users have it:
//! `dormouse mount`, the host's kernel, a store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::Place;

/// Operations of `fsx` at each boundary, where `DORMOUSE_FSX_OPERATIONS` does not say.
const OPERATIONS: u64 = 20_000;
/// Operations on one file: a file moves up to a larger tier once, so many files are needed.
const OPERATIONS_ON_A_FILE: u64 = 5_000;
/// Operations on one home. What syncs store of a file that changes all the time is kept for a quarter
/// of an hour (70 kB each operation): with homes of bounded length the disk need not hold all of it.
const OPERATIONS_ON_A_HOME: u64 = 125_000;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Where the suites are; `None`, with a word about it, where they are not.
fn tools() -> Option<PathBuf> {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin");
    let tools = std::env::var_os("DORMOUSE_POSIX_TOOLS").map_or_else(usual, PathBuf::from);
    if ["pjdfstest", "fsx"].iter().all(|name| tools.join(name).exists()) {
        return Some(tools);
    }
    // `cargo xtask test` has installed them: there it is a failure.
    assert!(
        std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(),
        "no suites: {}",
        tools.display()
    );
    eprintln!("skipped: pjdfstest and fsx are not installed (cargo xtask posix)");
    None
}

/// A suite, run in the mount at `place`.
struct Pjdfstest<'a> {
    place: &'a Place,
    program: PathBuf,
    work: PathBuf,
}

/// What came of its cases.
#[derive(Debug, Default)]
struct Outcome {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl<'a> Pjdfstest<'a> {
    fn new(place: &'a Place, tools: &Path) -> Self {
        // The suite counts what is left of PATH_MAX in parts of 127 bytes and cannot live with a
        // remainder of none; its own directory adds 22.
        let mut work = place.target().join("work");
        while (4095 - work.as_os_str().len() - 22) % 127 < 2 {
            work.as_mut_os_string().push("k");
        }
        fs::create_dir(&work).unwrap();
        // It remounts by mount(8), which would look for a helper of the mount's type.
        let bin = place.root.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("mount"), "#!/bin/sh\nexec /bin/mount -i \"$@\"\n").unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(bin.join("mount"), executable).unwrap();
        Self { place, program: tools.join("pjdfstest"), work }
    }

    /// Runs all cases whose names contain `pattern`.
    fn run(&self, pattern: &str, remount: bool) -> Outcome {
        let path = |name: &str| self.place.root.path().join(name);
        let config = format!(
            "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nstat_st_birthtime = {{}}\n\
             utime_now = {{}}\nutimensat = {{}}\n[settings]\nnaptime = 0.01\n\
             allow_remount = {remount}\n[dummy_auth]\nentries = [[\"nobody\", {:?}], [\"daemon\", \"daemon\"]]\n",
            group_of_nobody(),
        );
        fs::write(path("pjdfstest.toml"), config).unwrap();
        let search =
            format!("{}:{}", path("bin").display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(path("pjdfstest.toml")).arg("-p").arg(&self.work);
        command.arg("-s").arg(path("other")).args(["--", pattern]).env("PATH", search);
        let output = command.output().unwrap();
        let outcome = Outcome::of(&output);
        assert_eq!(output.status.success(), outcome.failed.is_empty(), "{}", text(&output));
        if !outcome.failed.is_empty() {
            eprintln!("{}", text(&output));
        }
        outcome
    }
}

impl Outcome {
    fn of(output: &Output) -> Self {
        let mut outcome = Self::default();
        for line in text(output).lines().filter(|line| line.contains("::")) {
            let mut words = line.split_whitespace();
            let (Some(name), Some(word), None) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            match word {
                "ok" => outcome.passed += 1,
                "FAILED" => outcome.failed.push(name.to_owned()),
                "skipped" => outcome.skipped.push(name.to_owned()),
                _ => {}
            }
        }
        outcome
    }
}

fn group_of_nobody() -> String {
    let output = Command::new("id").args(["-gn", "nobody"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn text(output: &Output) -> String {
    let of = |bytes| String::from_utf8_lossy(bytes).into_owned();
    of(&output.stdout) + &of(&output.stderr)
}

#[test]
fn pjdfstest_passes_whole() {
    let (Some(place), Some(tools)) = (Place::new(), tools()) else { return };
    let mounted = place.mount(&["--new"]);
    let suite = Pjdfstest::new(&place, &tools);
    let all = suite.run("", false);
    assert_eq!(all.failed, Vec::<String>::new());
    // Those that remount: each by itself, because the suite leaves files open that keep the next
    // remount from succeeding, on every file system.
    let (read_only, other): (Vec<_>, Vec<_>) =
        all.skipped.into_iter().partition(|name| name.contains("::erofs_"));
    assert!(read_only.len() >= 10, "{read_only:?}");
    // The C library knows no maximum of hard links for file systems that it has not heard of.
    assert_eq!(other, ["link::link_count_max"]);
    let mut passed = all.passed;
    for name in read_only {
        let one = suite.run(&name, true);
        assert_eq!((one.failed.len(), one.skipped.len()), (0, 0), "{name}: {one:?}");
        passed += one.passed;
    }
    assert!(passed >= 390, "{passed} cases");
    eprintln!("pjdfstest: {passed} passed");
    assert_eq!(mounted.end(), Some(0));
}

/// How `fsx` is to be run.
struct Fsx<'a> {
    /// Files grow up to each of these, in turn.
    sizes: &'a [u64],
    /// The largest operation, in bytes.
    operation: u64,
    tools: PathBuf,
}

/// As many operations as are asked for, on homes of bounded length.
fn fsx(sizes: &[u64], operation: u64) {
    let Some(tools) = tools() else { return };
    let asked = |name: &str, usual: u64| {
        std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
    };
    let (wanted, mut seed) =
        (asked("DORMOUSE_FSX_OPERATIONS", OPERATIONS), asked("DORMOUSE_FSX_SEED", 1));
    let fsx = Fsx { sizes, operation, tools };
    let mut done = 0;
    while done < wanted {
        let Some(place) = Place::new() else { return };
        (done, seed) = fsx.run_on_a_home(&place, done, wanted, seed);
        eprintln!("fsx: {done} operations, files of up to {sizes:?} bytes, before seed {seed}");
    }
}

impl Fsx<'_> {
    /// Runs it on a new home; then unmounts and compares what another mount shows. Returns the
    /// operations done in all, and the next seed.
    fn run_on_a_home(&self, place: &Place, done: u64, wanted: u64, first: u64) -> (u64, u64) {
        let mounted = place.mount(&["--new"]);
        let home = mounted.home.clone();
        let end = wanted.min(done + OPERATIONS_ON_A_HOME);
        let (mut done, mut seed) = (done, first);
        while done < end {
            done += self.run_on_a_file(place, seed, OPERATIONS_ON_A_FILE.min(end - done));
            seed += 1;
        }
        let written = files(place);
        assert!(!written.is_empty());
        assert_eq!(mounted.end(), Some(0));
        // And so it is in the store.
        fs::remove_dir_all(place.root.path().join("data/mounts")).unwrap();
        let mounted = place.mount(&[&home]);
        let stored = files(place);
        assert_eq!(stored.len(), written.len());
        for ((name, stored), (_, written)) in stored.iter().zip(&written) {
            assert!(stored == written, "{name} is another after the unmount");
        }
        assert_eq!(mounted.end(), Some(0));
        (done, seed)
    }

    /// Runs it on one file; returns how many operations it did.
    fn run_on_a_file(&self, place: &Place, seed: u64, operations: u64) -> u64 {
        let size = self.sizes[usize::try_from(seed).unwrap() % self.sizes.len()];
        let operation = self.operation;
        let config = format!(
            "flen = {size}\n[opsize]\nmax = {operation}\n[weights]\nclose_open = 1\nread = 10\n\
             write = 10\nmapread = 10\nmapwrite = 10\ninvalidate = 1\ntruncate = 5\nfsync = 0.1\n\
             fdatasync = 0.1\nposix_fallocate = 2\npunch_hole = 5\nsendfile = 2\n\
             posix_fadvise = 1\ncopy_file_range = 5\n"
        );
        let (path, artifacts) = (place.root.path().join("fsx.toml"), place.root.path().join("fsx"));
        fs::write(&path, config).unwrap();
        fs::create_dir_all(&artifacts).unwrap();
        // A few files are kept for the comparison at the end.
        let file = place.target().join(format!("file-{}", seed % 8));
        if file.exists() {
            fs::remove_file(&file).unwrap();
        }
        let output = Command::new(self.tools.join("fsx"))
            .arg("-f")
            .arg(&path)
            .args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-P"])
            .arg(&artifacts)
            .arg(&file)
            .output()
            .unwrap();
        let said = text(&output);
        if let Some(done) = ended_by_allocating_nothing(&said) {
            return done;
        }
        let from = said.len().saturating_sub(8000);
        assert!(
            output.status.success(),
            "fsx, seed {seed}, size {size}: {}",
            said.get(from..).unwrap_or(&said)
        );
        operations
    }
}

/// Names and contents of what is in the mount at `place`.
fn files(place: &Place) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(place.target())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    found.sort();
    found
}

/// How many operations were done where `fsx` ended because it allocated a range of no bytes: POSIX
/// refuses that with EINVAL on every file system, which version 0.3.2 takes for a missing feature.
fn ended_by_allocating_nothing(said: &str) -> Option<u64> {
    if !said.contains("Test file system does not support posix_fallocate.") {
        return None;
    }
    let last = said.lines().rfind(|line| line.starts_with("[ERROR fsx] "))?;
    let last = last.trim_start_matches("[ERROR fsx] ");
    let (step, what) = last.trim_start().split_once(' ')?;
    let empty = what.starts_with("POSIX_FALLOCATE") && what.ends_with("(   0x0 bytes)");
    step.parse().ok().filter(|_| empty)
}

#[test]
fn fsx_is_content_around_the_inline_boundary() {
    fsx(&[16 * KIB, 17 * KIB, 64 * KIB], 16 * KIB);
}

#[test]
fn fsx_is_content_around_the_pack_boundary() {
    fsx(&[4 * MIB, 6 * MIB], 128 * KIB);
}

#[test]
fn fsx_is_content_around_the_edges_of_chunks() {
    fsx(&[12 * MIB, 20 * MIB + 4097], 256 * KIB);
}

#[test]
fn only_an_allocation_of_nothing_may_end_fsx_early() {
    let message = "Test file system does not support posix_fallocate.\n";
    let empty = "[ERROR fsx] 3440 POSIX_FALLOCATE  0xb9c3 =>  0xb9c2 (   0x0 bytes)\n";
    let some = "[ERROR fsx] 3440 POSIX_FALLOCATE  0xb9c3 =>  0xb9c4 (   0x2 bytes)\n";
    let ended = |parts: &[&str]| ended_by_allocating_nothing(&parts.concat());
    assert_eq!(ended(&[message, some, empty]), Some(3440));
    assert_eq!(ended(&[message, empty, some]), None);
    assert_eq!(ended(&[message]), None);
    assert_eq!(ended(&[empty]), None);
}
