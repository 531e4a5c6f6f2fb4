//! From a spec to QEMU's arguments. Pure.
//!
//! Every choice here was measured; the reasons that do not show:
//! - `force-legacy=false`: the default is virtio 0.9, without features that we need.
//! - `acpi` stays on: Debian's kernels find virtio-mmio devices only there.
//! - `-no-reboot`: a reboot of the guest ends QEMU, which is how a guest stops.
//! - A guest that goes on from its memory gets the same devices: QEMU builds the same machine and then reads
//!   their state. Its kernel is in that memory; reading it from the file once more took 10 ms.
//! - `guest_announce=off`: nobody on the guest's network would learn anything from it, and a guest that woke
//!   spent a tenth of its first instructions on saying where it is.
//! - `lsm=`: without it Debian's kernel asks SELinux, Tomoyo and BPF at every call, for which no image has
//!   rules. Those that a program sets up for itself stay.
//! - Disks go through `-add-fd`, so that QEMU needs no right to open their paths; the kernel loader
//!   knows only paths, so it gets `/proc/self/fd/N`.

use std::os::fd::RawFd;

use super::Accelerator;
use crate::limits::{KERNEL_ARGS_BYTES_MAX, TRANSLATION_MIB};
use crate::{Error, Purpose, Spec};

/// Name of the control port in the guest.
const CONTROL_PORT: &str = "dormouse.ctl";
/// What an emulated guest sees as its processor. Without `erms`: kernels copy and clear memory by one `rep movsb` where
/// it is there, which QEMU translates into a step for each byte; writing and reading large files went at half the pace.
const TCG_CPU: &str = "max,-erms";
/// A disk that is served says "no space" where the guest is about to be suspended: QEMU keeps the request with the guest,
/// and sends it again when that goes on. Written requests are treated so anyway.
const SERVED_ERRORS: &str = ",rerror=enospc";
/// Name of the FUSE port in the guest.
const FUSE_PORT: &str = "dormouse.fuse";

/// Words that tell the agent how user-mode networking has set the guest up.
const USER_NETWORK: &str = " dormouse.ip=10.0.2.15/24 dormouse.gw=10.0.2.2 dormouse.dns=10.0.2.3";

/// Numbers of the descriptors that QEMU inherits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptors {
    pub(crate) kernel: RawFd,
    pub(crate) initrd: RawFd,
    pub(crate) root: RawFd,
    pub(crate) upper: RawFd,
    /// That is a connection to what serves it, not a file.
    pub(crate) upper_served: bool,
    pub(crate) control: RawFd,
    pub(crate) fuse: RawFd,
    pub(crate) console: RawFd,
    /// The guest's memory; anonymous without it.
    pub(crate) memory: Option<RawFd>,
    /// A monitor to suspend the guest with, and to see whether it waits for room.
    pub(crate) monitor: Option<RawFd>,
    /// A monitor to bring a saved guest back with: QEMU waits for it and does not boot.
    pub(crate) incoming: Option<RawFd>,
}

/// The arguments for `spec`; `user_network` gives it QEMU's user-mode network. A guest that goes on from
/// its memory has read its kernel's arguments already, `tsc_khz` among them.
pub(crate) fn arguments(
    spec: &Spec,
    accelerator: Accelerator,
    user_network: bool,
    tsc_khz: Option<u64>,
    fds: &Descriptors,
) -> Result<Vec<String>, Error> {
    let mut args: Vec<String> = Vec::new();
    let mut arg = |option: &str, value: String| args.extend([option.to_owned(), value]);

    arg("-name", format!("{},debug-threads=on", spec.machine));
    let backend = if fds.memory.is_some() { ",memory-backend=memory" } else { "" };
    arg("-machine", format!("microvm,x-option-roms=off,rtc=on{backend}"));
    arg("-global", "virtio-mmio.force-legacy=false".to_owned());
    match accelerator {
        Accelerator::Tcg => {
            arg("-accel", format!("tcg,thread=multi,tb-size={TRANSLATION_MIB}"));
            arg("-cpu", TCG_CPU.to_owned());
        }
        Accelerator::Kvm => {
            arg("-accel", "kvm".to_owned());
            arg("-cpu", "host".to_owned());
        }
    }
    arg("-smp", vcpus(spec.vcpu, accelerator).to_string());
    arg("-m", format!("{}M", spec.memory_mib));
    if let Some(fd) = fds.memory {
        let (size, path) = (spec.memory_mib, format!("/proc/self/fd/{fd}"));
        arg(
            "-object",
            format!("memory-backend-file,id=memory,size={size}M,mem-path={path},share=on"),
        );
    }
    arg(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned(),
    );
    if fds.incoming.is_none() {
        arg("-kernel", format!("/proc/self/fd/{}", fds.kernel));
        arg("-initrd", format!("/proc/self/fd/{}", fds.initrd));
        arg("-append", kernel_arguments(spec, accelerator, user_network, tsc_khz)?);
    }

    for (set, (name, fd, mode)) in
        [("root", fds.root, "read-only=on"), ("upper", fds.upper, "discard=unmap")]
            .into_iter()
            .enumerate()
    {
        let served = name == "upper" && fds.upper_served;
        let file = if served {
            format!("file.driver=nbd,file.server.type=fd,file.server.str={fd}")
        } else {
            arg("-add-fd", format!("fd={fd},set={set}"));
            format!("file.driver=file,file.filename=/dev/fdset/{set}")
        };
        arg("-blockdev", format!("driver=raw,node-name={name},{mode},{file}"));
        // The guest may tell its disks apart by serial as well as by order.
        let errors = if served { SERVED_ERRORS } else { "" };
        // Zeros that it has the host write in its place would take the host's disk at once, before anybody looks.
        let device = format!("virtio-blk-device,drive={name},serial={name}{errors}");
        arg("-device", format!("{device},write-zeroes=off"));
    }

    arg("-device", "virtio-serial-device,max_ports=8".to_owned());
    for (id, fd, port) in [("ctl", fds.control, CONTROL_PORT), ("fuse", fds.fuse, FUSE_PORT)] {
        arg("-chardev", format!("socket,id={id},fd={fd}"));
        arg("-device", format!("virtserialport,chardev={id},name={port}"));
    }
    arg("-chardev", format!("socket,id=console,fd={}", fds.console));
    arg("-serial", "chardev:console".to_owned());

    if user_network {
        // A template is nobody's: it reaches nothing, also where no namespace holds it.
        let restrict = if spec.purpose == Purpose::Template { ",restrict=on" } else { "" };
        arg("-netdev", format!("user,id=net,ipv6=off{restrict}"));
        arg("-device", "virtio-net-device,netdev=net,guest_announce=off".to_owned());
    }
    arg("-device", "virtio-balloon-device,free-page-reporting=on".to_owned());
    arg("-object", "rng-builtin,id=rng".to_owned());
    arg("-device", "virtio-rng-device,rng=rng".to_owned());
    for (id, fd) in [("monitor", fds.monitor), ("incoming", fds.incoming)] {
        if let Some(fd) = fd {
            arg("-chardev", format!("socket,id={id},fd={fd}"));
            arg("-mon", format!("chardev={id},mode=control"));
        }
    }
    if fds.incoming.is_some() {
        arg("-incoming", "defer".to_owned());
        args.push("-S".to_owned());
    }
    let mut arg = |option: &str, value: String| args.extend([option.to_owned(), value]);
    arg("-display", "none".to_owned());
    args.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned));
    Ok(args)
}

/// Whole CPUs for `vcpu`.
pub(crate) fn vcpus(vcpu: f64, accelerator: Accelerator) -> u32 {
    match accelerator {
        Accelerator::Tcg => 1,
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and 255: the spec was checked, and the cast saturates"
        )]
        Accelerator::Kvm => vcpu.ceil().clamp(1.0, 255.0) as u32,
    }
}

fn kernel_arguments(
    spec: &Spec,
    accelerator: Accelerator,
    user_network: bool,
    tsc_khz: Option<u64>,
) -> Result<String, Error> {
    let tsc = tsc_khz.map(|khz| format!("tsc_early_khz={khz} ")).unwrap_or_default();
    let mut line = format!(
        "console=ttyS0 quiet reboot=t panic=-1 {tsc}tsc=reliable no5lvl audit=0 \
         lsm=landlock,yama cryptomgr.notests random.trust_cpu=on 8250.nr_uarts=1"
    );
    if accelerator == Accelerator::Tcg {
        // Speculation that the first guards against does not happen in translated code. Addresses that are
        // drawn anew for each process have QEMU translate the same programs each time: starting `true` took
        // 33 ms in place of 7, all of Python 220 in place of 90.
        line.push_str(" mitigations=off nokaslr norandmaps");
        // It is a seventh of writing a file to zero what is written over at once, and keeps nothing from anybody but
        // the guest's own programs.
        line.push_str(" init_on_alloc=0");
    }
    if user_network {
        // Before the caller's: the agent takes the last.
        line.push_str(USER_NETWORK);
    }
    for (key, value) in &spec.agent_args {
        check_word(key)?;
        check_word(value)?;
        line.push_str(&format!(" dormouse.{key}={value}"));
    }
    if line.len() > KERNEL_ARGS_BYTES_MAX {
        return Err(Error::Spec(format!(
            "a kernel command line of {} bytes; the kernel takes {KERNEL_ARGS_BYTES_MAX}",
            line.len()
        )));
    }
    Ok(line)
}

/// A word on the kernel's command line cannot hold what would end it.
fn check_word(word: &str) -> Result<(), Error> {
    if word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
        Ok(())
    } else {
        Err(Error::Spec(format!("an agent argument with blanks, quotes or other signs: {word:?}")))
    }
}

#[cfg(test)]
mod tests {
    use base::ErrorKind;

    use super::*;
    use crate::{EgressPolicy, Memory, Network};

    const FDS: Descriptors = Descriptors {
        kernel: 3,
        initrd: 4,
        root: 5,
        upper: 6,
        upper_served: false,
        control: 7,
        fuse: 8,
        console: 9,
        memory: None,
        monitor: None,
        incoming: None,
    };

    fn spec() -> Spec {
        Spec {
            machine: "dm-01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            vcpu: 0.5,
            memory_mib: 512,
            kernel: "/images/vmlinux".into(),
            initrd: "/images/initrd".into(),
            root_image: "/images/root".into(),
            upper_image: "/data/upper".into(),
            upper_server: None,
            agent_args: vec![("home".to_owned(), "/root".to_owned())],
            memory: Memory::Anonymous,
            network: Network::Isolated,
            egress: EgressPolicy::default(),
            purpose: Purpose::Machine,
            log_dir: "/data".into(),
        }
    }

    fn line(spec: &Spec, accelerator: Accelerator, network: bool) -> String {
        arguments(spec, accelerator, network, Some(2_700_000), &FDS).unwrap().join(" ")
    }

    #[test]
    fn the_options_that_a_boot_depends_on_are_there() {
        let line = line(&spec(), Accelerator::Tcg, true);
        for needed in [
            "tsc_early_khz=2700000 tsc=reliable",
            "-global virtio-mmio.force-legacy=false",
            "-no-reboot",
            "-sandbox on,",
            "-smp 1 ",
            "dormouse.home=/root",
            "name=dormouse.ctl",
            "name=dormouse.fuse",
            "free-page-reporting=on",
        ] {
            assert!(line.contains(needed), "{needed} in {line}");
        }
        assert!(!line.contains("acpi=off"));
    }

    #[test]
    fn the_root_is_the_first_disk_and_read_only() {
        let line = line(&spec(), Accelerator::Tcg, true);
        let (root, upper) = (line.find("drive=root").unwrap(), line.find("drive=upper").unwrap());
        assert!(root < upper);
        assert!(line.contains("node-name=root,read-only=on"));
        assert!(!line.contains("node-name=upper,read-only"));
    }

    #[test]
    fn a_disk_that_is_served_is_a_connection() {
        let fds = Descriptors { upper_served: true, ..FDS };
        let line = arguments(&spec(), Accelerator::Tcg, true, Some(1), &fds).unwrap().join(" ");
        assert!(line.contains("node-name=upper,discard=unmap,file.driver=nbd,file.server.type=fd,file.server.str=6 "), "{line}");
        assert!(line.contains("drive=upper,serial=upper,rerror=enospc"), "{line}");
        assert_eq!(line.matches(",write-zeroes=off ").count(), 2, "{line}");
        assert!(!line.contains("fd=6,set"), "{line}");
    }

    #[test]
    fn no_path_of_the_machine_reaches_qemu() {
        let line = line(&spec(), Accelerator::Tcg, true);
        assert!(!line.contains("/images") && !line.contains("/data"), "{line}");
    }

    #[test]
    fn without_a_network_there_is_neither_device_nor_address() {
        let without = line(&spec(), Accelerator::Tcg, false);
        assert!(!without.contains("net") && !without.contains("dormouse.ip"), "{without}");
        let with = line(&spec(), Accelerator::Tcg, true);
        assert!(with.contains("dormouse.ip=10.0.2.15/24 dormouse.gw=10.0.2.2"), "{with}");
    }

    #[test]
    fn memory_in_a_file_can_be_saved_and_brought_back() {
        let line = |fds: &Descriptors| {
            arguments(&spec(), Accelerator::Tcg, true, Some(1), fds).unwrap().join(" ")
        };
        let plain = line(&FDS);
        assert!(
            !plain.contains("memory-backend") && !plain.contains("-mon") && !plain.contains("-S")
        );
        let file = line(&Descriptors { memory: Some(20), monitor: Some(21), ..FDS });
        assert!(file.contains("size=512M,mem-path=/proc/self/fd/20,share=on"), "{file}");
        assert!(
            file.contains("rtc=on,memory-backend=memory") && !file.contains("-incoming"),
            "{file}"
        );
        let back =
            line(&Descriptors { memory: Some(20), monitor: Some(21), incoming: Some(22), ..FDS });
        assert!(back.contains("chardev=incoming,mode=control -incoming defer -S"), "{back}");
        assert!(!back.contains("-kernel") && !back.contains("-append"), "{back}");
    }

    #[test]
    fn a_template_reaches_nothing() {
        let of = |purpose| line(&Spec { purpose, ..spec() }, Accelerator::Tcg, true);
        assert!(of(Purpose::Template).contains("-netdev user,id=net,ipv6=off,restrict=on "));
        assert!(!of(Purpose::Machine).contains("restrict"));
    }

    #[test]
    fn kvm_keeps_the_mitigations() {
        let line = line(&Spec { vcpu: 1.5, ..spec() }, Accelerator::Kvm, true);
        for left_out in ["mitigations=off", "norandmaps", "init_on_alloc"] {
            assert!(!line.contains(left_out), "{left_out}");
        }
        assert!(line.contains("-cpu host") && line.contains("-smp 2 "));
    }

    #[test]
    fn an_agent_argument_cannot_add_kernel_arguments() {
        for value in ["a b", "a\tinit=/bin/sh", "\"", "é", "a\n"] {
            let spec = Spec { agent_args: vec![("k".to_owned(), value.to_owned())], ..spec() };
            let error = arguments(&spec, Accelerator::Tcg, true, Some(1), &FDS).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{value:?}");
        }
        let spec = Spec { agent_args: vec![("k".to_owned(), "v".repeat(2048))], ..spec() };
        assert!(arguments(&spec, Accelerator::Tcg, true, Some(1), &FDS).is_err());
    }
}
