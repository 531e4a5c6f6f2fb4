//! What saved memory can go on upon: the machine that QEMU builds has to be the same, down to its processor.
//!
//! On one host a file is told by its place and time of change; between hosts, which have other places and times, by
//! what identifies its content. The guest reads the host's time stamp counter and was told its frequency at
//! boot, so another host has to have the same.
//!
//! Which devices there are is told by the arguments that QEMU is started with: so a version of this program that
//! passes others has another fingerprint, without anybody having to think of it.
//!
//! What only a boot reads is a fingerprint of its own ([`of_boot`]). Not here: the files that it reads (kernel and
//! initramfs), and what the agent tells a guest that wakes (clock, entropy). Whether disk and home are those that
//! the memory knew is the caller's to say.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use base::Digest;

use super::Accelerator;
use super::command_line::{Descriptors, arguments, vcpus};
use crate::limits::{ELF_HEADERS_MAX, ELF_NOTE_BYTES_MAX};
use crate::{Network, Purpose, Spec};

/// Any numbers do: they are the same for all.
const BOOTS: Descriptors = Descriptors {
    kernel: 3,
    initrd: 4,
    root: 5,
    upper: 6,
    // The guest sees the same disk.
    upper_served: false,
    control: 7,
    fuse: 8,
    console: 9,
    memory: Some(10),
    monitor: Some(11),
    incoming: None,
};
/// Of a guest that goes on from its memory.
const GOES_ON: Descriptors = Descriptors { incoming: Some(12), ..BOOTS };

/// What tells the frequency of the time stamp counter, in kHz.
const CLOCK: &str = "clock";
/// Frequencies that differ by less than one part in so many are the same: what crystals of one kind differ by, and
/// the error of measuring them. A guest's clock is set at every wake.
const CLOCK_PARTS: u64 = 5_000;

/// See the module. A file is told by size and time of change: reading it would take longer than a wake.
pub(crate) fn of(
    spec: &Spec,
    program: Option<&Path>,
    accelerator: Accelerator,
) -> BTreeMap<String, String> {
    [("hypervisor", program.map_or_else(String::new, file)), ("image", file(&spec.root_image))]
        .map(|(what, is)| (what.to_owned(), is))
        .into_iter()
        .chain(of_any_host(spec, accelerator))
        .collect()
}

/// The same in words that mean the same on every host; none where they cannot be had.
pub(crate) fn portable(
    spec: &Spec,
    program: Option<&Path>,
    accelerator: Accelerator,
    khz: u64,
) -> BTreeMap<String, String> {
    let Some(build) = program.and_then(|program| build_of(program).ok()) else {
        return BTreeMap::new();
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().display().to_string();
    let root = fs::metadata(&spec.root_image).map_or(0, |meta| meta.len());
    [
        ("hypervisor", build),
        // Its name is its digest.
        ("image", format!("{} {root}", name(&spec.root_image))),
        (CLOCK, khz.to_string()),
    ]
    .map(|(what, is)| (what.to_owned(), is))
    .into_iter()
    .chain(of_any_host(spec, accelerator))
    .collect()
}

/// What of a [`portable`] fingerprint is another one.
pub(crate) fn other(
    one: &BTreeMap<String, String>,
    two: &BTreeMap<String, String>,
) -> Option<String> {
    let same = |name: &String| match (one.get(name), two.get(name)) {
        (Some(one), Some(two)) if name == CLOCK => {
            let khz = |text: &str| text.parse().unwrap_or(0_u64);
            let (one, two) = (khz(one), khz(two));
            one > 0 && two > 0 && one.abs_diff(two) <= one / CLOCK_PARTS
        }
        (one, two) => one == two,
    };
    one.keys().chain(two.keys()).find(|name| !same(name)).cloned()
}

/// What a guest that boots is started with, of which it keeps some as long as it runs: its kernel's command line.
pub(crate) fn of_boot(spec: &Spec, accelerator: Accelerator) -> String {
    passed(spec, accelerator, &BOOTS)
}

/// A digest of what QEMU is started with, the same for all machines that differ by name and size only, which have words
/// of their own, and for their template.
fn passed(spec: &Spec, accelerator: Accelerator, fds: &Descriptors) -> String {
    let spec = Spec { purpose: Purpose::Machine, vcpu: 1.0, memory_mib: 1024, ..spec.clone() };
    let network = spec.network != Network::None;
    // Measured at each boot of a guest, which its host tells.
    let arguments = arguments(&spec, accelerator, network, None, fds);
    // What cannot be started has none, and does not come to be.
    let arguments = arguments.unwrap_or_default().join("\n");
    Digest::of(arguments.replace(spec.machine.as_str(), "").as_bytes()).to_string()
}

fn of_any_host(
    spec: &Spec,
    accelerator: Accelerator,
) -> impl Iterator<Item = (String, String)> + use<> {
    let processor = match accelerator {
        // The translator's, whatever the host has.
        Accelerator::Tcg => "tcg".to_owned(),
        Accelerator::Kvm => {
            let flags = processor(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
            format!("kvm {}", Digest::of(flags.as_bytes()))
        }
    };
    [
        ("processor", processor),
        // What the guest sees: its share of the host's time may be another one.
        ("size", format!("{} CPUs, {} MiB", vcpus(spec.vcpu, accelerator), spec.memory_mib)),
        ("network", format!("{:?}", spec.network)),
        ("set of devices", passed(spec, accelerator, &GOES_ON)),
    ]
    .map(|(what, is)| (what.to_owned(), is))
    .into_iter()
}

fn file(path: &Path) -> String {
    let meta = fs::metadata(path).ok();
    let meta = meta.map(|meta| format!("{} {}.{:09}", meta.len(), meta.mtime(), meta.mtime_nsec()));
    format!("{} {}", path.display(), meta.unwrap_or_default())
}

/// What identifies the content of a program: the id that its linker gave it, or else its digest.
fn build_of(program: &Path) -> io::Result<String> {
    let file = File::open(program)?;
    match build_id(&file) {
        Some(id) => Ok(id.iter().map(|byte| format!("{byte:02x}")).collect()),
        None => Ok(Digest::of(&fs::read(program)?).to_string()),
    }
}

/// The note that a linker leaves in an ELF file, of 64 bits and little-endian.
fn build_id(file: &File) -> Option<Vec<u8>> {
    let read = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
    };
    let number = |bytes: &[u8], at: usize, len: usize| {
        let bytes = bytes.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let head = read(0, 64).filter(|head| head.starts_with(b"\x7fELF\x02\x01"))?;
    let (table, size) = (number(&head, 32, 8)?, number(&head, 54, 2)?);
    let headers = number(&head, 56, 2)?.min(ELF_HEADERS_MAX);
    (0..headers).find_map(|n| {
        let header = read(table.checked_add(n * size)?, 56)?;
        let (kind, at, len) =
            (number(&header, 0, 4)?, number(&header, 8, 8)?, number(&header, 32, 8)?);
        if kind != 4 || len > ELF_NOTE_BYTES_MAX {
            return None;
        }
        let notes = read(at, usize::try_from(len).ok()?)?;
        let mut rest = &notes[..];
        while let (Some(name), Some(id), Some(kind)) =
            (number(rest, 0, 4), number(rest, 4, 4), number(rest, 8, 4))
        {
            let padded = |len: u64| usize::try_from(len).ok()?.checked_next_multiple_of(4);
            let begin = padded(name)?.checked_add(12)?;
            let end = begin.checked_add(usize::try_from(id).ok()?)?;
            if kind == 3 && rest.get(12..16) == Some(b"GNU\0") {
                return rest.get(begin..end).filter(|id| !id.is_empty()).map(<[u8]>::to_vec);
            }
            rest = rest.get(begin.checked_add(padded(id)?)?..)?;
        }
        None
    })
}

/// What `/proc/cpuinfo` says of the first processor's make and abilities.
fn processor(cpuinfo: &str) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let of_the_model = ["vendor_id", "cpu family", "model", "stepping", "microcode", "flags"];
    let lines = first.lines().filter(|line| {
        line.split_once(':').is_some_and(|(name, _)| of_the_model.contains(&name.trim()))
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;

    fn spec(vcpu: f64, memory_mib: u64) -> Spec {
        Spec {
            machine: "dm-01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            vcpu,
            memory_mib,
            kernel: "/k".into(),
            initrd: "/i".into(),
            root_image: "/r".into(),
            upper_image: "/u".into(),
            upper_server: None,
            agent_args: Vec::new(),
            memory: Memory::Anonymous,
            network: Network::None,
            egress: crate::EgressPolicy::default(),
            purpose: Purpose::Machine,
            log_dir: "/l".into(),
        }
    }

    #[test]
    fn what_qemu_is_started_with_is_told_and_not_for_whom() {
        let one = spec(1.0, 512);
        let template = Spec {
            machine: base::MachineId::generate(),
            memory: Memory::File("/m".into()),
            purpose: Purpose::Template,
            network: Network::User,
            ..one.clone()
        };
        let two = Spec { network: Network::User, ..one.clone() };
        let (goes_on, boots) = (
            |spec: &Spec| of(spec, None, Accelerator::Tcg),
            |spec: &Spec| of_boot(spec, Accelerator::Tcg),
        );
        assert_eq!((goes_on(&template), boots(&template)), (goes_on(&two), boots(&two)));
        assert_ne!(goes_on(&one)["set of devices"], goes_on(&two)["set of devices"]);
        let larger = of(&spec(1.0, 640), None, Accelerator::Tcg);
        let differs = |name: &&String| goes_on(&one).get(*name) != larger.get(*name);
        assert_eq!(larger.keys().filter(differs).collect::<Vec<_>>(), ["size"]);
        // Only a boot reads what the agent is told.
        let told = Spec { agent_args: vec![("k".into(), "v".into())], ..one.clone() };
        assert_eq!(goes_on(&one), goes_on(&told));
        assert_ne!(boots(&one), boots(&told));
        assert_ne!(boots(&one), of_boot(&one, Accelerator::Kvm), "its kernel's mitigations");
    }

    #[test]
    fn a_share_of_a_processor_is_nothing_that_the_guest_sees() {
        let size = |vcpu, mib| of(&spec(vcpu, mib), None, Accelerator::Kvm)["size"].clone();
        assert_eq!(size(0.25, 512), size(1.0, 512));
        assert_ne!(size(1.0, 512), size(1.25, 512));
        assert_ne!(size(1.0, 512), size(1.0, 640));
    }

    #[test]
    fn the_processor_is_told_by_make_and_abilities_and_not_by_its_speed() {
        let one = "processor\t: 0\nmodel\t\t: 143\ncpu MHz\t\t: 2600.1\nflags\t\t: fpu vmx\n\nprocessor\t: 1\n";
        assert_eq!(processor(one), processor(&one.replace("2600.1", "3100.0")));
        assert_ne!(processor(one), processor(&one.replace("vmx", "vmx avx2")));
        assert_ne!(processor(one), processor(&one.replace("143", "85")));
        assert!(!processor(one).is_empty());
    }

    #[test]
    fn two_hosts_are_the_same_but_for_what_their_crystals_differ_by() {
        let on = |khz: &str, size: &str| {
            [(CLOCK, khz), ("size", size)].map(|(a, b)| (a.to_owned(), b.to_owned())).into()
        };
        let here = on("2600000", "small");
        assert_eq!(other(&here, &here), None);
        assert_eq!(other(&here, &on("2600519", "small")), None);
        assert_eq!(other(&on("2599481", "small"), &here), None);
        for khz in ["2600521", "2600", "0", "", "x"] {
            assert_eq!(other(&here, &on(khz, "small")).as_deref(), Some(CLOCK), "{khz}");
        }
        assert_eq!(other(&here, &on("2600000", "large")).as_deref(), Some("size"));
        assert_eq!(other(&BTreeMap::new(), &here).as_deref(), Some(CLOCK), "nothing is known");
    }

    #[test]
    fn a_program_is_told_by_its_build_wherever_it_lies() {
        let ours = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (copy, text) = (dir.path().join("copy"), dir.path().join("text"));
        fs::copy(&ours, &copy).unwrap();
        let build = build_of(&ours).unwrap();
        assert!(build.len() >= 16, "{build}");
        assert_eq!(build, build_of(&copy).unwrap());
        fs::write(&text, "#!/bin/sh\n").unwrap();
        assert_eq!(build_of(&text).unwrap(), Digest::of(b"#!/bin/sh\n").to_string());
        // Whatever stands there.
        let whole = fs::read(&ours).unwrap();
        for cut in [0, 10, 63, 64, 200, 1_000] {
            fs::write(&text, &whole[..cut.min(whole.len())]).unwrap();
            build_of(&text).unwrap();
        }
        let mut odd = whole[..4_096.min(whole.len())].to_vec();
        for at in 16..odd.len() {
            odd[at] ^= 0xff;
            if at % 64 == 0 {
                fs::write(&text, &odd).unwrap();
                build_of(&text).unwrap();
            }
        }
        build_of(&dir.path().join("none")).unwrap_err();
    }

    #[test]
    fn a_file_that_was_replaced_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        fs::write(&path, "one").unwrap();
        let before = file(&path);
        assert_eq!(before, file(&path));
        fs::write(&path, "other").unwrap();
        assert_ne!(before, file(&path));
        fs::remove_file(&path).unwrap();
        assert_ne!(before, file(&path));
    }
}
