//! What a program sees in a jail. Those that need root say so and pass without.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::qemu::slot::Registry;
use crate::qemu::spawn::{Confinement, spawn};

/// An id that nothing runs as.
const USER: u32 = 0x7fff_fff0;

fn can_run() -> bool {
    let why =
        if nix::unistd::geteuid().is_root() { possible().err() } else { Some("needs root".into()) };
    if let Some(why) = &why {
        assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot run: {why}");
        eprintln!("skipped: {why}");
    }
    why.is_none()
}

fn confinement(jail: Option<Jail>) -> Confinement {
    let user = Some(USER);
    let (groups, keep_open, enter) = (Vec::new(), Vec::new(), Vec::new());
    Confinement { user, groups, keep_open, enter, jail, small_pages: true }
}

/// What a program says that runs as a hypervisor does.
fn jailed(program: &str, arguments: &[&str]) -> String {
    // Makes the place where jails are put together.
    Registry::host().unwrap();
    let program: PathBuf = fs::canonicalize(program).unwrap();
    let jail = Jail::of(&program, &[], None).unwrap();
    let mut command = Command::new(&program);
    command.args(arguments).env_clear().current_dir("/").stdout(Stdio::piped());
    let said = spawn(&mut command, &confinement(Some(jail))).unwrap().wait_with_output().unwrap();
    String::from_utf8(said.stdout).unwrap()
}

#[test]
fn a_jail_holds_what_a_program_runs_from_and_nothing_else() {
    if !can_run() {
        return;
    }
    let names = |dir: &str| -> BTreeSet<String> {
        jailed("/usr/bin/ls", &["-A", dir]).lines().map(str::to_owned).collect()
    };
    let roots = names("/");
    let known = ["etc", "lib", "lib32", "lib64", "proc", "usr"];
    assert!(roots.iter().all(|name| known.contains(&name.as_str())), "{roots:?}");
    assert!(roots.contains("proc") && roots.contains("usr"), "{roots:?}");
    assert_eq!(names("/usr/bin"), BTreeSet::from(["ls".to_owned()]));
    let etc = names("/etc");
    assert!(
        etc.iter().all(|name| ["ld.so.cache", "resolv.conf"].contains(&name.as_str())),
        "{etc:?}"
    );
    for hidden in ["/root", "/home", "/tmp", "/var", "/run", "/dev", "/sys", "/etc/passwd"] {
        assert!(names(hidden).is_empty(), "{hidden}");
    }
}

#[test]
fn a_jail_can_be_written_to_nowhere() {
    if !can_run() {
        return;
    }
    let mounts = jailed("/usr/bin/cat", &["/proc/self/mountinfo"]);
    assert!(mounts.lines().count() >= 4, "{mounts}");
    for mount in mounts.lines() {
        let options = mount.split(' ').nth(5).unwrap();
        for option in ["ro", "nosuid", "nodev"] {
            assert!(options.split(',').any(|has| has == option), "{mount}");
        }
    }
}

#[test]
fn a_jailed_program_has_no_capability_and_sees_no_process_but_itself() {
    if !can_run() {
        return;
    }
    let status = jailed("/usr/bin/cat", &["/proc/self/status"]);
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {status}")).trim()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Pid:"), field("PPid:")), ("1", "1", "0"));
    assert_eq!(field("THP_enabled:"), "0");
    assert_eq!(field("Uid:"), [USER.to_string().as_str(); 4].join("\t"));
    let seen = jailed("/usr/bin/ls", &["/proc"]);
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["1", "self", "thread-self"]);
    for other in ["pid", "ipc", "uts", "mnt"] {
        let ours = fs::read_link(format!("/proc/self/ns/{other}")).unwrap();
        let theirs = jailed("/usr/bin/readlink", &[&format!("/proc/self/ns/{other}")]);
        assert_ne!(ours.to_str().unwrap(), theirs.trim());
    }
}

#[test]
fn what_is_open_by_accident_is_not_inherited() {
    if !can_run() {
        return;
    }
    use std::os::fd::AsRawFd;
    let secret = tempfile::tempfile().unwrap();
    nix::fcntl::fcntl(&secret, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let seen = jailed("/usr/bin/ls", &["/proc/self/fd"]);
    let number = secret.as_raw_fd().to_string();
    // The third is the folder that is listed; it may have got our number.
    assert!(seen.split_whitespace().count() <= 4, "{number} among {seen}");
}

#[test]
fn the_thread_goes_on_outside() {
    if !can_run() {
        return;
    }
    let before = fs::read_dir("/").unwrap().count();
    jailed("/usr/bin/true", &[]);
    assert_eq!(fs::read_dir("/").unwrap().count(), before);
    std::thread::spawn(|| ()).join().unwrap();
    let said = Command::new("/usr/bin/readlink").arg("/proc/self/ns/pid").output().unwrap();
    let ours = fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), ours.to_str().unwrap());
}

/// Prints what a jail costs; `--no-capture` shows it.
#[test]
fn a_jail_takes_little_time() {
    if !can_run() {
        return;
    }
    Registry::host().unwrap();
    let program = fs::canonicalize("/usr/bin/true").unwrap();
    let median = |jail: &dyn Fn() -> Option<Jail>| -> Duration {
        let mut times: Vec<Duration> = (0..30)
            .map(|_| {
                let begun = Instant::now();
                let confinement = confinement(jail());
                let mut child = spawn(&mut Command::new(&program), &confinement).unwrap();
                let took = begun.elapsed();
                child.wait().unwrap();
                took
            })
            .collect();
        times.sort();
        times[times.len() / 2]
    };
    let (without, with) =
        (median(&|| None), median(&|| Some(Jail::of(&program, &[], None).unwrap())));
    eprintln!("spawned in {without:?}, jailed in {with:?}");
    assert!(with < without + Duration::from_millis(100), "{with:?}, {without:?} without");
}

#[test]
fn a_host_that_cannot_jail_says_why() {
    let (root, map) = ("Uid:\t0\nCapEff:\t000001fffeffffff\n", "  0  0 4294967295\n");
    let mounts = "21 1 254:0 / / rw,relatime - ext4 /dev/root rw\n";
    assert_eq!(check(root, map, mounts), Ok(()));
    assert!(
        check("CapEff:\t00000000a80425fb\n", map, mounts).unwrap_err().contains("CAP_SYS_ADMIN")
    );
    assert!(check("", map, mounts).unwrap_err().contains("CAP_SYS_ADMIN"));
    assert!(check(root, "0 100000 65536\n", mounts).unwrap_err().contains("user namespace"));
    let elsewhere = "21 1 254:0 /jail /srv rw,relatime - ext4 /dev/root rw\n";
    assert!(check(root, map, elsewhere).unwrap_err().contains("chroot"));
}

#[test]
fn a_program_of_its_own_prefix_brings_its_firmware() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = fs::canonicalize(dir.path()).unwrap();
    for made in ["bin", "share/qemu", "lib"] {
        fs::create_dir_all(prefix.join(made)).unwrap();
    }
    let program = prefix.join("bin/qemu");
    fs::write(&program, "").unwrap();
    let jail =
        Jail::of(&program, &[Path::new("/dev/null"), Path::new("/dev/absent")], None).unwrap();
    for shown in
        [program.clone(), prefix.join("share/qemu"), prefix.join("lib"), "/dev/null".into()]
    {
        assert!(jail.shows(&shown), "{}", shown.display());
    }
    assert!(!jail.shows(&prefix.join("bin")) && !jail.shows(Path::new("/dev/absent")));
    assert!(Jail::of(Path::new("relative/qemu"), &[], None).is_err());
    assert!(Jail::of(&prefix.join("bin/../bin/qemu"), &[], None).is_err());
}
