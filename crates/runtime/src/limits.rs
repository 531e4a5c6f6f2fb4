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
/// CPUs that a hypervisor may use beside those of its guest: disks, files of the home, network. One thread does
/// nearly all of it, so that more would not be used.
pub(crate) const HYPERVISOR_CPUS: f64 = 1.0;
/// CPUs that the process which serves a guest may use: its home, and what is stored of it.
pub(crate) const SERVING_CPUS: f64 = 2.0;
/// What that process counts of a CPU of its guest where there is not enough time for all. With as much as its guest a
/// machine could count twice: `docs/design/0003-sleep-with-memory.md` has what that is for those beside it.
pub(crate) const SERVING_WEIGHT: f64 = 0.25;
/// How long the threads of virtual CPUs are waited for: QEMU makes them within some 30 ms, on an overloaded host
/// within seconds.
pub(crate) const VCPU_THREADS_PATIENCE: Duration = Duration::from_secs(30);
/// Threads of a hypervisor: virtual CPUs, and up to 64 that wait for a disk.
pub(crate) const THREADS_MAX: u32 = 512;
/// How many instances one host may run at a time: one slot each.
pub(crate) const SLOTS: u32 = 1 << 16;
/// Largest `resolv.conf` that is read, in bytes.
pub(crate) const RESOLV_CONF_BYTES_MAX: u64 = 64 * 1024;
/// How many name servers are taken from it.
pub(crate) const RESOLVERS_MAX: usize = 8;
/// Bytes that are free on the disk below which a guest's memory takes all the room that it may still need, and above which a
/// guest that found none goes on. Enough for its keeper and a sleep, and for a guest that writes all it can for seconds.
pub const ROOM_MIN: u64 = 1 << 30;
/// Bytes below which no guest runs: what it wrote to its home would find no room, and its keeper and the server need some.
/// More than a guest writes between two looks.
pub(crate) const ROOM_HELD: u64 = 512 << 20;
/// A guest leaves so great a part free, beside [`ROOM_HELD`], of what its machine has grown by since it began to run: others
/// run on where one has filled the disk.
pub(crate) const ROOM_LEFT_PART: u64 = 4;
/// But no more than this, in bytes.
pub(crate) const ROOM_LEFT_MAX: u64 = 4 << 30;
/// How much memory takes at a time: some guests that do so at once leave [`ROOM_HELD`], but for as many of these.
pub(crate) const ROOM_PIECE: i64 = 32 << 20;
/// How often it is looked whether there is room.
pub(crate) const ROOM_LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a hypervisor may take to say how its guest stands, or to stop it. One that takes longer is asked nothing more
/// until it has answered: it waits for a disk's requests, and those for a store, say.
pub(crate) const ROOM_ANSWER: Duration = Duration::from_secs(5);
/// The longest pause of a guest that stops again and again although there seems to be room: another bound than the
/// disk's size may hold it.
pub(crate) const ROOM_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Within this time a guest that stops has stopped again.
pub(crate) const ROOM_RELAPSE: Duration = Duration::from_secs(60);
/// Longest line of a hypervisor's monitor, in bytes; the longest that we ask for has under 2 KiB.
pub(crate) const QMP_LINE_BYTES_MAX: usize = 64 * 1024;
/// How many events are taken at once.
pub(crate) const QMP_LINES_MAX: usize = 256;
/// How long a monitor may take for all that it is asked: a suspend or a resume takes 0.05 s, on an
/// overloaded host a second.
pub(crate) const QMP_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest device state that is taken for one, in bytes.
pub(crate) const DEVICE_STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How many addresses that names were resolved to a machine may reach at a time.
pub(crate) const GRANTS_MAX: usize = 4096;
/// Longest that an address may be reached after its answer, and what is added to the time that the answer lives:
/// who asked connects a little later.
pub(crate) const GRANT_MAX: Duration = Duration::from_secs(24 * 3600);
/// See [`GRANT_MAX`].
pub(crate) const GRANT_GRACE: Duration = Duration::from_secs(60);
/// How many answers may wait for their addresses to be let out.
pub(crate) const GRANTS_WAITING_MAX: usize = 256;
/// How many names are remembered of an address that several were resolved to.
pub(crate) const NAMES_OF_ADDRESS_MAX: usize = 8;
/// Longest question to a name server, in bytes, that is read from a datagram.
pub(crate) const QUESTION_BYTES_MAX: usize = 4096;
/// How many questions a guest may ask a second, and at once after a pause. An `npm install` asks some tens in all.
pub(crate) const QUESTIONS_PER_SECOND: f64 = 100.0;
/// See [`QUESTIONS_PER_SECOND`].
pub(crate) const QUESTIONS_BURST: f64 = 400.0;
/// How many questions of a guest may wait for the host's name servers.
pub(crate) const QUESTIONS_AT_ONCE_MAX: usize = 64;
/// How many connections with questions a guest may have.
pub(crate) const QUESTION_CONNECTIONS_MAX: usize = 16;
/// How long such a connection may be quiet.
pub(crate) const QUESTION_IDLE: Duration = Duration::from_secs(10);
/// Largest answer by datagram: what fits the smallest packet that IPv6 knows (the flag day's 1232).
pub(crate) const ANSWER_BYTES_UDP_MAX: u16 = 1232;
/// How many addresses of an answer are let out.
pub(crate) const ANSWER_ADDRESSES_MAX: usize = 64;
/// How many aliases an answer may lead through.
pub(crate) const ALIASES_MAX: usize = 16;
/// How long one of the host's name servers may take; how many are asked, and how often each.
pub(crate) const RESOLVER_PATIENCE: Duration = Duration::from_secs(3);
/// See [`RESOLVER_PATIENCE`].
pub(crate) const RESOLVERS_ASKED_MAX: usize = 3;
/// See [`RESOLVER_PATIENCE`].
pub(crate) const RESOLVER_ROUNDS: usize = 2;
/// How long what `resolv.conf` says is taken for what it still says.
pub(crate) const RESOLVERS_LOOKED_UP: Duration = Duration::from_secs(5);
/// Program headers of an ELF file that are looked at.
pub(crate) const ELF_HEADERS_MAX: u64 = 64;
/// Longest notes of an ELF file that are read, in bytes.
pub(crate) const ELF_NOTE_BYTES_MAX: u64 = 64 * 1024;
