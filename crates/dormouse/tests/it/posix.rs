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

/// Runs `fsx` on files that grow up to each of `sizes`, in turn, with operations of up to
/// `operation` bytes; then unmounts and compares what another mount shows.
fn fsx(sizes: &[u64], operation: u64) {
    let (Some(place), Some(tools)) = (Place::new(), tools()) else { return };
    let wanted = std::env::var("DORMOUSE_FSX_OPERATIONS").ok();
    let wanted = wanted.map_or(OPERATIONS, |text| text.parse().expect("a number of operations"));
    let first_seed = std::env::var("DORMOUSE_FSX_SEED").ok();
    let first_seed = first_seed.map_or(1, |text| text.parse().expect("a seed"));
    let mounted = place.mount(&["--new"]);
    let home = mounted.home.clone();
    let rounds = wanted.div_ceil(OPERATIONS_ON_A_FILE);
    for (round, size) in (0..rounds).zip(sizes.iter().cycle()) {
        let operations = OPERATIONS_ON_A_FILE.min(wanted - round * OPERATIONS_ON_A_FILE);
        run_fsx(&place, &tools, first_seed + round, *size, operation, operations);
    }
    // And so it is in the store.
    let files = |place: &Place| -> Vec<(String, Vec<u8>)> {
        let mut found: Vec<_> = fs::read_dir(place.target())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
            })
            .collect();
        found.sort();
        found
    };
    let written = files(&place);
    assert!(!written.is_empty());
    assert_eq!(mounted.end(), Some(0));
    fs::remove_dir_all(place.root.path().join("data/mounts")).unwrap();
    let mounted = place.mount(&[&home]);
    for ((name, read), (_, written)) in files(&place).iter().zip(&written) {
        assert!(read == written, "{name} is another after the unmount");
    }
    assert_eq!(mounted.end(), Some(0));
}

fn run_fsx(place: &Place, tools: &Path, seed: u64, size: u64, operation: u64, operations: u64) {
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
    let output = Command::new(tools.join("fsx"))
        .arg("-f")
        .arg(&path)
        .args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-P"])
        .arg(&artifacts)
        .arg(&file)
        .output()
        .unwrap();
    let said = text(&output);
    let from = said.len().saturating_sub(8000);
    assert!(
        output.status.success(),
        "fsx, seed {seed}, size {size}: {}",
        said.get(from..).unwrap_or(&said)
    );
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
