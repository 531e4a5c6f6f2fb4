//! Every bound of the agent, with the reason for its size.

use std::num::NonZeroUsize;
use std::time::Duration;

/// How long a device may take to appear after its driver is loaded. Under load, software
/// emulation takes seconds for what hardware does in milliseconds.
pub(crate) const DEVICE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often we look for something that has no event to wait for.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How often we look whether a host has come back to a port.
pub(crate) const HOST_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long the pipes of a command may stay open after it has ended, held by what it left behind.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// Most bytes that are still taken from each pipe when that time is over; a full pipe fits.
pub(crate) const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// Size of a read from a pipe, in bytes.
pub(crate) const PIPE_READ_BYTES: usize = 32 * 1024;
/// Most directories that are looked through for a program.
pub(crate) const PATH_DIRECTORIES_MAX: usize = 64;

/// Longest that can be told to a process that is to become a command, in bytes: a few times the longest
/// request, since each argument takes an address more. Linux itself takes 2 MiB of arguments.
pub(crate) const ORDER_BYTES: NonZeroUsize =
    NonZeroUsize::new(4 * agent_proto::REQUEST_BYTES_MAX).unwrap();
/// How long after a command's end the process for the next one is made: what is said of the end has left
/// by then. In a guest with one processor it would wait for the fork.
pub(crate) const READY_AFTER: Duration = Duration::from_millis(2);
/// The same after the start of a command that goes on: it begins meanwhile.
pub(crate) const READY_BESIDE_AFTER: Duration = Duration::from_millis(100);

/// How long a freeze waits for that process to be ready.
pub(crate) const READY_PATIENCE: Duration = Duration::from_millis(200);

/// How often we look whether all processes are frozen: of a sleep, everything waits for it.
pub(crate) const FREEZE_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Longest time that a freeze may take, whatever the host says: processes stand still meanwhile.
pub(crate) const FREEZE_PATIENCE_MAX: Duration = Duration::from_secs(60);
/// How long a trim may take; less than the host waits.
pub(crate) const TRIM_TIMEOUT: Duration = Duration::from_secs(30);
/// Most processes that are named where some do not stop.
pub(crate) const UNSTOPPED_NAMED_MAX: usize = 3;

/// Longest line that says when to wake, in bytes: the longest number has 20.
pub(crate) const WISH_BYTES_MAX: u64 = 32;
/// How long reading that line may take; less than the host waits. It is on a tmpfs, unless somebody in
/// the guest has put something else in its place.
pub(crate) const WISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest notification to the kernel, in bytes: two headers and a name of 255.
pub(crate) const NOTIFICATION_BYTES_MAX: usize = 1024;
/// How long the agent waits for the kernel to take notifications before it says so; less than
/// the host waits.
pub(crate) const BARRIER_TIMEOUT: Duration = Duration::from_secs(50);

/// Longest host name of Linux, in bytes.
pub(crate) const HOSTNAME_BYTES_MAX: usize = 64;
/// Most name servers that the C library reads.
pub(crate) const NAMESERVERS_MAX: usize = 3;
/// Most extra lines for `/etc/hosts`.
pub(crate) const HOSTS_LINES_MAX: usize = 256;
/// Most entropy that is taken at once, in bytes; the kernel's pool holds 32.
pub(crate) const ENTROPY_BYTES_MAX: usize = 512;

/// Longest grace between TERM and KILL.
pub(crate) const GRACE_MAX: Duration = Duration::from_secs(600);
/// How long killed processes may take to go away.
pub(crate) const KILLED_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the home may take to unmount; the host may have to store what was written.
pub(crate) const UNMOUNT_HOME_TIMEOUT: Duration = Duration::from_secs(30);
/// How long we try to unmount the upper before it is made read-only instead.
pub(crate) const UNMOUNT_UPPER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the last reply may take to reach the host before the power goes.
pub(crate) const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

/// Open files of every process in the guest: soft and hard limit. Soft is above the traditional
/// 1,024, because builds and servers run into that; not at the hard one, because some programs
/// walk all of it at start.
pub(crate) const FILES_SOFT: u64 = 65_536;
/// See [`FILES_SOFT`]; the kernel's `fs.nr_open`.
pub(crate) const FILES_HARD: u64 = 1_048_576;
