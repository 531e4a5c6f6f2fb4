//! What a hypervisor sees and may, looked at from outside.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use runtime::{Memory, Network, Qemu, QemuSettings, Spec};

use crate::guest::{Guest, image, spec};

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hypervisor_sees_nothing_of_its_host() {
    let Some(image) = image() else { return };
    if let Err(why) = Qemu::new(QemuSettings::default()).jails() {
        assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot run: {why}");
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    let machine = |dir: &Path| {
        fs::create_dir(dir).unwrap();
        let memory = Memory::File(dir.join("memory"));
        Spec { memory, ..spec(&image, dir, Network::Isolated) }
    };
    let (spec, other_spec) = (machine(&one), machine(&other));
    let mut guest = Guest::start(&spec).await;
    let neighbour = Guest::start(&other_spec).await;
    assert_eq!(guest.shell("echo here").1, "here");
    let (pid, next) = (guest.instance.pid(), neighbour.instance.pid());
    let proc = |what: &str| Path::new("/proc").join(pid.to_string()).join(what);

    // The way to the data, to homes, to the store of images, to itself.
    let root = proc("root");
    let known = ["dev", "etc", "lib", "lib32", "lib64", "proc", "usr"].map(str::to_owned);
    let roots = names(&root);
    assert!(roots.is_subset(&BTreeSet::from(known)), "{roots:?}");
    for hidden in
        [dir.path(), Path::new("/root"), Path::new("/tmp"), Path::new("/run"), &image.root]
    {
        let inside = root.join(hidden.strip_prefix("/").unwrap());
        assert!(!inside.exists(), "{}", inside.display());
    }
    for mount in fs::read_to_string(proc("mountinfo")).unwrap().lines() {
        let (at, options) = (mount.split(' ').nth(4).unwrap(), mount.split(' ').nth(5).unwrap());
        if at.starts_with("/dev/") {
            continue;
        }
        assert!(options.split(',').any(|option| option == "ro"), "{mount}");
    }

    // Of its own: its user, its processes, its names.
    let status = fs::read_to_string(proc("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), (vec!["1".into()], vec!["2".into()]));
    assert_eq!(field("NSpid:"), [pid.to_string(), "1".to_owned()]);
    let uid = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert!(uid(pid) != "0" && uid(pid) != uid(next), "{} and {}", uid(pid), uid(next));
    for namespace in ["mnt", "pid", "ipc", "uts", "net"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        let (its, ours, next) = (of(&pid.to_string()), of("self"), of(&next.to_string()));
        assert!(its != ours && its != next, "{namespace}");
    }

    // What it has open is what it was given.
    let its =
        [&spec.kernel, &spec.initrd, &spec.root_image, &spec.upper_image, &one.join("memory")];
    let its: Vec<_> = its.into_iter().map(|path| fs::canonicalize(path).unwrap()).collect();
    for fd in fs::read_dir(proc("fd")).unwrap().flatten() {
        let Ok(target) = fs::read_link(fd.path()) else { continue };
        let text = target.to_string_lossy().into_owned();
        let nameless = ["socket:", "pipe:", "anon_inode:", "/memfd:"];
        assert!(
            text == "/dev/null"
                || nameless.iter().any(|kind| text.starts_with(kind))
                || its.contains(&target),
            "{text}"
        );
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&one.join("memory")), 0o600);
    assert_eq!(mode(Path::new("/run/dormouse/instances")), 0o700);
}
