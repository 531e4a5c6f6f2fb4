//! Chooses what runs the guest's instructions.
//!
//! KVM where the CPU shows `vmx` or `svm` and `/dev/kvm` opens. The flag is what decides: some hosts
//! offer a `/dev/kvm` without it (paravirtual, for kernels made for it), where an ordinary kernel
//! hangs in its first instructions. A trial boot would cost every start its time and could only
//! confirm the flag, so there is none; where a host lies, the settings name the accelerator.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

const KVM: &str = "/dev/kvm";

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The CPU, by the host's kernel.
    Kvm,
    /// QEMU's translator, about ten to thirty times slower.
    Tcg,
}

impl Accelerator {
    /// Groups that QEMU needs beside its own.
    pub(crate) fn groups(self) -> Vec<u32> {
        match self {
            Self::Kvm => fs::metadata(KVM).map(|found| vec![found.gid()]).unwrap_or_default(),
            Self::Tcg => Vec::new(),
        }
    }

    /// Devices that QEMU opens by their paths. Upon `/dev/null` it tries which sort of lock works; without it
    /// two of them could write to one disk.
    pub(crate) fn devices(self) -> Vec<&'static Path> {
        let null = Path::new("/dev/null");
        match self {
            Self::Kvm => vec![null, Path::new(KVM)],
            Self::Tcg => vec![null],
        }
    }
}

/// The accelerator for this host.
pub(crate) fn detect() -> Accelerator {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let opens = OpenOptions::new().read(true).write(true).open(Path::new(KVM)).is_ok();
    choose(&cpuinfo, opens)
}

fn choose(cpuinfo: &str, kvm_opens: bool) -> Accelerator {
    let has_flag = cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("flags"))
        .any(|flags| flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"));
    if has_flag && kvm_opens { Accelerator::Kvm } else { Accelerator::Tcg }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_needs_both_the_flag_and_the_device() {
        let with = "processor : 0\nflags\t\t: fpu vmx sse\n";
        assert_eq!(choose(with, true), Accelerator::Kvm);
        assert_eq!(choose(with, false), Accelerator::Tcg);
        assert_eq!(choose("flags : fpu svm\n", true), Accelerator::Kvm);
    }

    #[test]
    fn a_kvm_device_on_a_cpu_without_the_flag_is_not_used() {
        assert_eq!(choose("flags : fpu sse vmx_not svm_lock\n", true), Accelerator::Tcg);
        assert_eq!(choose("", true), Accelerator::Tcg);
    }
}
