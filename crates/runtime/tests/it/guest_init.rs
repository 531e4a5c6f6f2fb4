//! PID 1 of the guests in these tests; no part of the crate.
//!
//! Compiled by `guest.rs` with plain rustc, so it has nothing but the standard library. It loads the
//! modules, mounts the root image with a layer in memory over it, sets up the network as QEMU's
//! user-mode network expects it, and then runs each line from the port `dormouse.ctl` as shell
//! command; the answer is the output and a line `END <code>`. The line `poweroff` ends it.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

unsafe extern "C" {
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn chroot(path: *const c_char) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn reboot(command: c_int) -> c_int;
    fn sync();
}

fn must_mount(source: &str, target: &str, kind: &str, data: &str) {
    let [source, to, kind, data] = [source, target, kind, data].map(|s| CString::new(s).unwrap());
    let flags = c_ulong::from(kind.as_bytes() == b"erofs"); // MS_RDONLY
    // SAFETY: four strings that end in NUL.
    let done =
        unsafe { mount(source.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    assert_eq!(done, 0, "mount {target}: {}", std::io::Error::last_os_error());
}

fn load_modules() {
    for path in fs::read_to_string("/modules.list").unwrap().lines() {
        let module = File::open(path).unwrap();
        // SAFETY: finit_module(fd, "", 0).
        let done = unsafe { syscall(313, module.as_raw_fd(), c"".as_ptr(), 0) };
        assert_eq!(done, 0, "load {path}: {}", std::io::Error::last_os_error());
    }
}

/// `struct ifreq` with an IPv4 address or flags, and `struct rtentry`, by their bytes.
fn set_up_network() {
    if !fs::exists("/sys/class/net/eth0").unwrap() {
        return;
    }
    let request = |payload: &[u8]| {
        let mut bytes = [0u8; 40];
        bytes[..4].copy_from_slice(b"eth0");
        bytes[16..16 + payload.len()].copy_from_slice(payload);
        bytes
    };
    let inet = |a: u8, b: u8, c: u8, d: u8| [2, 0, 0, 0, a, b, c, d];
    // SAFETY: the kernel reads structs of these sizes; all are at least that large.
    unsafe {
        let fd = socket(2, 2, 0);
        ioctl(fd, 0x8916, request(&inet(10, 0, 2, 15)).as_ptr()); // SIOCSIFADDR
        ioctl(fd, 0x891c, request(&inet(255, 255, 255, 0)).as_ptr()); // SIOCSIFNETMASK
        ioctl(fd, 0x8914, request(&[0x41, 0]).as_ptr()); // SIOCSIFFLAGS: up, running
        let mut route = [0u8; 120];
        route[8..16].copy_from_slice(&inet(0, 0, 0, 0)); // destination
        route[24..32].copy_from_slice(&inet(10, 0, 2, 2)); // gateway
        route[40..48].copy_from_slice(&inet(0, 0, 0, 0)); // mask
        route[56] = 3; // up, gateway
        ioctl(fd, 0x890b, route.as_ptr()); // SIOCADDRT
    }
}

fn control_port() -> File {
    for _ in 0..200 {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == "dormouse.ctl" {
                let device = format!("/dev/{}", entry.file_name().to_string_lossy());
                return OpenOptions::new().read(true).write(true).open(device).unwrap();
            }
        }
        sleep(Duration::from_millis(10));
    }
    panic!("no control port");
}

fn serve() {
    let port = control_port();
    let mut answers = port.try_clone().unwrap();
    writeln!(answers, "READY").unwrap();
    for line in BufReader::new(port).lines() {
        let line = line.unwrap();
        if line == "poweroff" {
            break;
        }
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("exec 2>&1; {line}")]).stdin(Stdio::null()).current_dir("/");
        shell.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        let output = shell.arg0("sh").output().unwrap();
        answers.write_all(&output.stdout).unwrap();
        writeln!(answers, "\nEND {}", output.status.code().unwrap_or(-1)).unwrap();
    }
}

fn main() {
    must_mount("proc", "/proc", "proc", "");
    must_mount("sys", "/sys", "sysfs", "");
    must_mount("dev", "/dev", "devtmpfs", "");
    load_modules();
    // Which disk is which must follow from the order.
    must_mount("/dev/vda", "/l", "erofs", "");
    must_mount("/dev/vdb", "/u", "ext4", "");
    for folder in ["/u/upper", "/u/work"] {
        fs::create_dir_all(folder).unwrap();
    }
    must_mount("o", "/newroot", "overlay", "lowerdir=/l,upperdir=/u/upper,workdir=/u/work");
    must_mount("proc", "/newroot/proc", "proc", "");
    must_mount("sys", "/newroot/sys", "sysfs", "");
    must_mount("dev", "/newroot/dev", "devtmpfs", "");
    set_up_network();
    // SAFETY: strings that end in NUL, and integers.
    unsafe {
        assert_eq!(chroot(c"/newroot".as_ptr()), 0);
    }
    std::env::set_current_dir("/").unwrap();
    fs::write("/etc/resolv.conf", "nameserver 10.0.2.3\n").unwrap();
    if fs::read_to_string("/proc/cmdline").unwrap().contains("dormouse.test=panic") {
        panic!("as asked");
    }
    serve();
    // SAFETY: integers only.
    unsafe {
        sync();
        reboot(0x0123_4567); // restart, which ends QEMU
    }
}
