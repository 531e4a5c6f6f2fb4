//! What saved memory can go on upon: the machine that QEMU builds has to be the same, down to its processor.
//!
//! Not here: what only a boot reads (kernel and initramfs), and what the agent tells a guest that wakes
//! (clock, entropy). Whether disk and home are those that the memory knew is the caller's to say.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base::Digest;

use super::Accelerator;
use super::command_line::vcpus;
use crate::Spec;

/// Raised when the arguments for QEMU change so that an older state does not fit.
const ARGUMENTS: u32 = 2;

/// See the module. A file is told by size and time of change: reading it would take longer than a wake.
pub(crate) fn of(
    spec: &Spec,
    program: Option<&Path>,
    accelerator: Accelerator,
) -> BTreeMap<String, String> {
    let processor = match accelerator {
        // The translator's, whatever the host has.
        Accelerator::Tcg => "tcg".to_owned(),
        Accelerator::Kvm => {
            let flags = processor(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
            format!("kvm {}", Digest::of(flags.as_bytes()))
        }
    };
    [
        ("hypervisor", format!("{} {ARGUMENTS}", program.map_or_else(String::new, file))),
        ("processor", processor),
        // What the guest sees: its share of the host's time may be another one.
        ("size", format!("{} CPUs, {} MiB", vcpus(spec.vcpu, accelerator), spec.memory_mib)),
        ("image", file(&spec.root_image)),
        ("network", format!("{:?}", spec.network)),
    ]
    .map(|(what, is)| (what.to_owned(), is))
    .into()
}

fn file(path: &Path) -> String {
    let meta = fs::metadata(path).ok();
    let meta = meta.map(|meta| format!("{} {}.{:09}", meta.len(), meta.mtime(), meta.mtime_nsec()));
    format!("{} {}", path.display(), meta.unwrap_or_default())
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

    #[test]
    fn a_share_of_a_processor_is_nothing_that_the_guest_sees() {
        let spec = |vcpu, memory_mib| Spec {
            machine: "dm-01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            vcpu,
            memory_mib,
            kernel: "/k".into(),
            initrd: "/i".into(),
            root_image: "/r".into(),
            upper_image: "/u".into(),
            agent_args: Vec::new(),
            memory: Memory::Anonymous,
            network: crate::Network::None,
            egress: crate::EgressPolicy::default(),
            purpose: crate::Purpose::Machine,
            log_dir: "/l".into(),
        };
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
