//! Bounds on what an instance may use of its host, and on what is read from it.

use std::time::Duration;

/// Largest console or hypervisor log file, in bytes. Two are kept, so an instance writes at most
/// four times this.
pub(crate) const LOG_BYTES_MAX: u64 = 512 * 1024;
/// How much of the console's end is kept for messages, in bytes.
pub(crate) const TAIL_BYTES_MAX: usize = 8 * 1024;
/// How many lines of it go into a message.
pub(crate) const TAIL_LINES_MAX: usize = 20;
/// How many characters of one of them: a guest may write all of it without an end of line.
pub(crate) const LINE_CHARS_MAX: usize = 300;
/// Longest kernel command line, in bytes: `COMMAND_LINE_SIZE` of x86, with its NUL.
pub(crate) const KERNEL_ARGS_BYTES_MAX: usize = 2047;
/// Least memory, in MiB, that kernel and agent come up in.
pub(crate) const MEMORY_MIB_MIN: u64 = 128;
/// Most memory, in MiB: what microvm addresses without surprises.
pub(crate) const MEMORY_MIB_MAX: u64 = 1024 * 1024;
/// Most virtual CPUs.
pub(crate) const VCPU_MAX: f64 = 255.0;
/// Memory for translated code under TCG, in MiB. QEMU's own default is 1024 an instance.
pub(crate) const TRANSLATION_MIB: u32 = 256;
/// What the hypervisor may need beside the guest's memory and translated code, in MiB: 40 to 90 measured,
/// and page cache of its disks, which is given up under pressure.
pub(crate) const HYPERVISOR_MIB: u64 = 256;
/// For each this many MiB of the guest's memory, a MiB for what the kernel knows of its pages, which counts as
/// the group's: 170 bytes a page of 4 KiB. Measured 120 to 129 with a file on ext4 that was written page by
/// page: a buffer head of 104 bytes, 9 to 16 in the index of the page cache, 8 in QEMU's page tables. Reckoned:
/// 8 of EPT, 18 more (reverse map, write tracking, a nested EPT) where the guest runs guests. Dirty bitmaps are
/// a bit each.
pub(crate) const PAGE_METADATA_SHARE: u64 = 24;
/// Threads of a hypervisor: virtual CPUs, and up to 64 that wait for a disk.
pub(crate) const THREADS_MAX: u32 = 512;
/// How many instances one host may run at a time: one slot each.
pub(crate) const SLOTS: u32 = 1 << 16;
/// Largest `resolv.conf` that is read, in bytes.
pub(crate) const RESOLV_CONF_BYTES_MAX: u64 = 64 * 1024;
/// How many name servers are taken from it.
pub(crate) const RESOLVERS_MAX: usize = 8;
/// Longest line of a hypervisor's monitor, in bytes; the longest that we ask for has under 2 KiB.
pub(crate) const QMP_LINE_BYTES_MAX: usize = 64 * 1024;
/// How many lines of it are read for one answer: events may come before it.
pub(crate) const QMP_LINES_MAX: usize = 256;
/// How long a monitor may take for all that it is asked: a suspend or a resume takes 0.05 s, on an
/// overloaded host a second.
pub(crate) const QMP_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest device state that is taken for one, in bytes.
pub(crate) const DEVICE_STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;
