//! From what a machine was promised to what the kernel is told. Pure.

use std::path::Path;
use std::{fs, io};

use super::super::Accelerator;
use super::super::command_line::vcpus;
use crate::limits::{
    HYPERVISOR_CPUS, HYPERVISOR_MIB, PAGE_METADATA_SHARE, SERVING_CPUS, SERVING_WEIGHT,
    THREADS_MAX, TRANSLATION_MIB,
};
use crate::{Purpose, Spec};

/// What counts the use of what.
pub(super) const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// In which a share of CPU time is given out. Short, so that a guest that has used its own waits little.
const PERIOD_MICROS: u32 = 20_000;

/// File of a quota in version 1, and what means none there.
const QUOTA: &str = "cpu.cfs_quota_us";
const NO_QUOTA: &str = "-1";

/// What a template counts of a machine of its size where machines need the time.
const TEMPLATE_WEIGHT: f64 = 0.1;

/// An instance's share of its host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shares {
    /// CPUs of the guest. What the hypervisor does for it has a bound of its own.
    pub(crate) vcpu: f64,
    /// Threads that the guest's virtual CPUs are. Where each of them has a whole CPU, none is held: a quota that
    /// nobody can exceed still stops threads for moments, by the way in which kernels count.
    pub(crate) cpus: u32,
    /// CPUs that count where there are too few for all.
    pub(crate) weight: f64,
    /// Memory: the guest's, what the kernel knows of its pages, and the hypervisor's own. More is not swapped
    /// out, it is refused.
    pub(crate) memory_bytes: u64,
    /// Threads of the hypervisor.
    pub(crate) threads: u32,
}

/// How a host arranges its control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hierarchy {
    /// Version 2: one tree.
    Unified,
    /// Version 1: a tree for each controller.
    Split,
}

/// A file of a group, and what it is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: &'static str,
    pub(super) file: &'static str,
    pub(super) value: String,
    /// Kernels that do not count swap lack the file.
    pub(super) may_lack: bool,
}

impl Setting {
    /// Writes it to its file in `dir`. Version 1 refuses a group more time than one around it has (a container's, say):
    /// it then has what that one has.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        match fs::write(dir.join(self.file), &self.value) {
            Err(error) if self.may_lack && error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(())
            }
            Err(error) if self.file == QUOTA && error.kind() == io::ErrorKind::InvalidInput => {
                fs::write(dir.join(QUOTA), NO_QUOTA)
            }
            written => written,
        }
    }
}

impl Hierarchy {
    pub(super) fn of(root: &Path) -> Self {
        if root.join("cgroup.controllers").exists() { Self::Unified } else { Self::Split }
    }
}

/// What the group of all instances is given against everything else of the host, which would be as much as
/// one process has: as much as processes that keep all of its CPUs busy.
pub(super) fn weight_of_all(hierarchy: Hierarchy, cpus: u16) -> Setting {
    weight(hierarchy, f64::from(cpus))
}

/// CPU time against others', where there is not enough for all.
fn weight(hierarchy: Hierarchy, cpus: f64) -> Setting {
    let (file, value) = match hierarchy {
        Hierarchy::Unified => ("cpu.weight", (cpus * 100.0).clamp(1.0, 10_000.0)),
        Hierarchy::Split => ("cpu.shares", (cpus * 1024.0).clamp(2.0, 262_144.0)),
    };
    Setting { controller: "cpu", file, value: format!("{value:.0}"), may_lack: false }
}

impl Shares {
    /// What an instance of `spec` is held to.
    pub(crate) fn of(spec: &Spec, accelerator: Accelerator) -> Self {
        let translated = if accelerator == Accelerator::Tcg { TRANSLATION_MIB } else { 0 };
        let metadata = spec.memory_mib.div_ceil(PAGE_METADATA_SHARE);
        let mib = spec.memory_mib + metadata + u64::from(translated) + HYPERVISOR_MIB;
        let weight = match spec.purpose {
            Purpose::Machine => spec.vcpu,
            Purpose::Template => spec.vcpu * TEMPLATE_WEIGHT,
        };
        let cpus = vcpus(spec.vcpu, accelerator);
        Self { vcpu: spec.vcpu, cpus, weight, memory_bytes: mib << 20, threads: THREADS_MAX }
    }

    /// The same with another share of CPU time.
    pub(super) fn with_vcpu(self, vcpu: f64) -> Self {
        Self { vcpu, weight: self.weight / self.vcpu * vcpu, ..self }
    }

    /// Of the group that all threads of the hypervisor enter, those of virtual CPUs too at first.
    pub(super) fn settings(&self, hierarchy: Hierarchy) -> Vec<Setting> {
        let setting =
            |controller, file, value| Setting { controller, file, value, may_lack: false };
        let swap = |file, value| Setting { controller: "memory", file, value, may_lack: true };
        let (memory, threads) = (self.memory_bytes.to_string(), self.threads.to_string());
        let rest = match hierarchy {
            Hierarchy::Unified => vec![
                setting("memory", "memory.max", memory),
                swap("memory.swap.max", "0".to_owned()),
                setting("pids", "pids.max", threads),
            ],
            Hierarchy::Split => vec![
                setting("memory", "memory.limit_in_bytes", memory.clone()),
                // Of both together, so that it cannot be less.
                swap("memory.memsw.limit_in_bytes", memory),
                setting("pids", "pids.max", threads),
            ],
        };
        [self.settings_of_cpu(hierarchy, true), rest].concat()
    }

    /// Those of them that are of CPU time. Where virtual CPUs are not `apart`, in no group of their own, the
    /// hypervisor's work counts as the guest's.
    pub(super) fn settings_of_cpu(&self, hierarchy: Hierarchy, apart: bool) -> Vec<Setting> {
        let more = if apart { HYPERVISOR_CPUS } else { 0.0 };
        let weight = weight(hierarchy, self.weight);
        [vec![weight], quota(hierarchy, Some(self.vcpu + more))].concat()
    }

    /// Of the group of virtual CPUs, which is in the other one.
    pub(super) fn settings_of_vcpus(&self, hierarchy: Hierarchy) -> Vec<Setting> {
        // Against the hypervisor's other threads, each of which counts as one CPU.
        let weight = weight(hierarchy, self.vcpu.max(1.0));
        let held = self.vcpu < f64::from(self.cpus);
        [vec![weight], quota(hierarchy, held.then_some(self.vcpu))].concat()
    }
}

/// Of the group of a process that serves a guest with `vcpu`, on a host that has `cpus`.
pub(super) fn settings_of_serving(hierarchy: Hierarchy, vcpu: f64, cpus: usize) -> Vec<Setting> {
    // A quota that nobody can exceed still stops threads for moments.
    let held = u32::try_from(cpus).is_ok_and(|cpus| f64::from(cpus) > SERVING_CPUS);
    // What it does for a small machine it does under locks of the host, too.
    let weight = weight(hierarchy, vcpu.max(1.0) * SERVING_WEIGHT);
    [vec![weight], quota(hierarchy, held.then_some(SERVING_CPUS))].concat()
}

/// The same, where the guest has no group of its own and is in this one.
pub(super) fn settings_of_both(hierarchy: Hierarchy, vcpu: f64) -> Vec<Setting> {
    [vec![weight(hierarchy, vcpu.max(1.0))], quota(hierarchy, None)].concat()
}

/// CPU time that is not exceeded, however much of it there is; as much as there is where it is `None`.
fn quota(hierarchy: Hierarchy, cpus: Option<f64>) -> Vec<Setting> {
    let quota = cpus.map(|cpus| quota_micros(cpus).to_string());
    let setting = |file, value| Setting { controller: "cpu", file, value, may_lack: false };
    match hierarchy {
        Hierarchy::Unified => vec![setting(
            "cpu.max",
            format!("{} {PERIOD_MICROS}", quota.as_deref().unwrap_or("max")),
        )],
        Hierarchy::Split => vec![
            setting("cpu.cfs_period_us", PERIOD_MICROS.to_string()),
            setting(QUOTA, quota.as_deref().unwrap_or(NO_QUOTA).to_owned()),
        ],
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 1,000 and 5,120,000: the kernel takes no less than a millisecond"
)]
fn quota_micros(cpus: f64) -> u32 {
    (cpus * f64::from(PERIOD_MICROS)).clamp(1_000.0, 256.0 * 20_000.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EgressPolicy, Memory, Network};

    fn spec(memory_mib: u64) -> Spec {
        Spec {
            machine: base::MachineId::generate(),
            vcpu: 0.5,
            memory_mib,
            kernel: "/images/vmlinux".into(),
            initrd: "/images/initrd".into(),
            root_image: "/images/root".into(),
            upper_image: "/data/upper".into(),
            upper_server: None,
            agent_args: Vec::new(),
            memory: Memory::Anonymous,
            network: Network::Isolated,
            egress: EgressPolicy::default(),
            purpose: Purpose::Machine,
            log_dir: "/data".into(),
        }
    }

    #[test]
    fn the_memory_of_a_group_holds_the_guest_its_page_tables_and_the_hypervisor() {
        let mib =
            |memory_mib, accelerator| Shares::of(&spec(memory_mib), accelerator).memory_bytes >> 20;
        assert_eq!(mib(128, Accelerator::Kvm), 128 + 6 + 256, "a part of a MiB is a whole one");
        assert_eq!(mib(1024, Accelerator::Kvm), 1024 + 43 + 256);
        assert_eq!(mib(1024, Accelerator::Tcg), 1024 + 43 + 256 + 256, "and translated code");
        // What was measured of a file on ext4, and EPT: it must leave the hypervisor its own.
        let (pages, largest) = (129_024 * 256, mib(129_024, Accelerator::Kvm));
        assert!(largest - 129_024 - HYPERVISOR_MIB >= (pages * (129 + 8)) >> 20);
    }

    #[test]
    fn a_template_gives_way_and_is_else_what_a_machine_is() {
        let of = |purpose| Shares::of(&Spec { purpose, ..spec(512) }, Accelerator::Tcg);
        let (machine, template) = (of(Purpose::Machine), of(Purpose::Template));
        assert!(template.weight < machine.weight / 5.0);
        assert_eq!(Shares { weight: machine.weight, ..template }, machine);
    }

    #[test]
    fn a_quota_is_given_only_where_it_can_be_exceeded() {
        let of = |vcpu, cpus| {
            let shares = Shares { vcpu, cpus, weight: 1.0, memory_bytes: 1 << 30, threads: 99 };
            let values = |hierarchy| {
                shares
                    .settings_of_vcpus(hierarchy)
                    .last()
                    .map(|setting| setting.value.clone())
                    .unwrap()
            };
            (values(Hierarchy::Unified), values(Hierarchy::Split))
        };
        let (none, text) = (("max 20000".to_owned(), "-1".to_owned()), str::to_owned);
        assert_eq!((of(1.0, 1), of(2.0, 1), of(2.0, 2)), (none.clone(), none.clone(), none));
        assert_eq!(of(1.0, 2), (text("20000 20000"), text("20000")), "shrunk while it runs");
        assert_eq!(of(1.5, 2), (text("30000 20000"), text("30000")));
    }

    #[test]
    fn shares_become_what_either_version_takes() {
        let shares =
            Shares { vcpu: 0.25, cpus: 1, weight: 0.25, memory_bytes: 1 << 30, threads: 99 };
        let text = |settings: Vec<Setting>| {
            let settings = settings.into_iter();
            settings.map(|s| format!("{}={}", s.file, s.value)).collect::<Vec<_>>().join(" ")
        };
        let (unified, split) = (Hierarchy::Unified, Hierarchy::Split);
        assert_eq!(
            text(shares.settings(unified)),
            "cpu.weight=25 cpu.max=25000 20000 memory.max=1073741824 memory.swap.max=0 pids.max=99"
        );
        assert_eq!(
            text(shares.settings(split)),
            "cpu.shares=256 cpu.cfs_period_us=20000 cpu.cfs_quota_us=25000 memory.limit_in_bytes=1073741824 \
             memory.memsw.limit_in_bytes=1073741824 pids.max=99"
        );
        assert_eq!(text(shares.settings_of_vcpus(unified)), "cpu.weight=100 cpu.max=5000 20000");
        assert_eq!(
            text(shares.settings_of_vcpus(split)),
            "cpu.shares=1024 cpu.cfs_period_us=20000 cpu.cfs_quota_us=5000"
        );
        assert_eq!(
            text(shares.settings_of_cpu(unified, false)),
            "cpu.weight=25 cpu.max=5000 20000"
        );
        assert_eq!(
            text(shares.settings_of_cpu(split, false)),
            "cpu.shares=256 cpu.cfs_period_us=20000 cpu.cfs_quota_us=5000"
        );
        let more = shares.with_vcpu(1.5);
        assert_eq!(text(more.settings_of_cpu(unified, true)), "cpu.weight=150 cpu.max=50000 20000");
        assert_eq!(Shares { vcpu: 0.25, weight: 0.25, ..more }, shares);
        assert!(
            shares.settings(Hierarchy::Split).iter().all(|s| CONTROLLERS.contains(&s.controller))
        );
    }

    #[test]
    fn all_instances_together_weigh_as_much_as_the_host_has_cpus() {
        assert_eq!(weight_of_all(Hierarchy::Unified, 4).value, "400");
        assert_eq!(weight_of_all(Hierarchy::Unified, 512).value, "10000", "the most there is");
        assert_eq!(weight_of_all(Hierarchy::Split, 2).value, "2048");
    }

    #[test]
    fn who_serves_a_guest_weighs_less_than_it_and_is_held_where_there_is_more() {
        let text = |settings: Vec<Setting>| {
            let settings = settings.into_iter();
            settings.map(|s| format!("{}={}", s.file, s.value)).collect::<Vec<_>>().join(" ")
        };
        let of = |hierarchy, vcpu, cpus| text(settings_of_serving(hierarchy, vcpu, cpus));
        let (unified, split) = (Hierarchy::Unified, Hierarchy::Split);
        assert_eq!(of(unified, 1.0, 2), "cpu.weight=25 cpu.max=max 20000");
        assert_eq!(of(unified, 2.0, 64), "cpu.weight=50 cpu.max=40000 20000");
        let quota = "cpu.cfs_period_us=20000 cpu.cfs_quota_us=";
        assert_eq!(of(split, 1.0, 2), format!("cpu.shares=256 {quota}-1"));
        assert_eq!(of(split, 0.25, 64), format!("cpu.shares=256 {quota}40000"), "not too little");
        assert_eq!(text(settings_of_both(split, 2.0)), format!("cpu.shares=2048 {quota}-1"));
    }

    #[test]
    fn no_share_is_too_small_for_the_kernel() {
        assert_eq!(quota_micros(0.001), 1_000);
        assert_eq!(quota_micros(255.0 + HYPERVISOR_CPUS), 5_120_000);
    }
}
