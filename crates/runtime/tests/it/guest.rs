//! A guest to talk to.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base::MachineId;
use images::{BASE_IMAGE, Image, Images};
use runtime::{
    EgressPolicy, Instance, Memory, Network, Purpose, Qemu, QemuSettings, Runtime, Spec, Started,
};

/// Longest wait for one answer: on a loaded host a boot takes 10 s, `apt-get update` 30, and a guest waits for what it
/// writes for 150 and more before it reads all of that.
const TIMEOUT: Duration = Duration::from_secs(400);

/// The base image, or why these tests cannot run.
pub(crate) fn image() -> Option<Image> {
    let dir = images::default_dir(
        std::env::var_os("XDG_CACHE_HOME").as_deref(),
        std::env::var_os("HOME").as_deref(),
    );
    let image = match Images::open(dir).get(BASE_IMAGE) {
        Ok(image) => image,
        Err(error) => return skip(&error.to_string()),
    };
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    match Qemu::new(QemuSettings::default()).missing().first() {
        Some(missing) => skip(&format!("{} is missing", missing.what)),
        None => Some(image),
    }
}

/// `cargo xtask test` says where nothing may be skipped: there a missing part is a failure.
fn skip<T>(why: &str) -> Option<T> {
    assert!(std::env::var_os("DORMOUSE_TESTS_MUST_RUN").is_none(), "cannot run: {why}");
    eprintln!("skipped: {why}");
    None
}

/// A spec for the test's own PID 1; its files live in `dir`.
pub(crate) fn spec(image: &Image, dir: &Path, network: Network) -> Spec {
    let upper = dir.join("upper.ext4");
    if !upper.exists() {
        images::make_upper(&upper, 1 << 30).unwrap();
    }
    Spec {
        machine: MachineId::generate(),
        vcpu: 1.0,
        memory_mib: 512,
        kernel: image.kernel.clone(),
        initrd: initrd(image, dir),
        root_image: image.root.clone(),
        upper_image: upper,
        upper_server: None,
        agent_args: Vec::new(),
        memory: Memory::Anonymous,
        network,
        egress: EgressPolicy::default(),
        purpose: Purpose::Machine,
        log_dir: dir.join("log"),
    }
}

/// The image's initramfs with our own `/init` after it: the kernel unpacks one over the other.
fn initrd(image: &Image, dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/guest_init.rs");
    let built = Command::new("rustc")
        .args(["--edition=2024", "-O", "-Ctarget-feature=+crt-static", "-Cpanic=abort", "-o"])
        .arg(dir.join("init"))
        .arg(source)
        .status();
    assert!(built.unwrap().success(), "compile the test's init");
    let mut cpio = Command::new("cpio")
        .args(["-o", "-H", "newc", "--quiet"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cpio.stdin.take().unwrap().write_all(b"init\n").unwrap();
    let ours = cpio.wait_with_output().unwrap().stdout;
    let path = dir.join("initrd.cpio");
    fs::write(&path, [fs::read(&image.initrd).unwrap(), ours].concat()).unwrap();
    path
}

/// A running guest that answers shell commands.
pub(crate) struct Guest {
    pub(crate) instance: Box<dyn Instance>,
    console: PathBuf,
    lines: BufReader<UnixStream>,
    /// Kept open: the guest's port stays connected.
    _fuse: UnixStream,
}

impl Guest {
    pub(crate) async fn start(spec: &Spec) -> Self {
        let mut guest = Self::resume(spec).await;
        guest.is_ready();
        guest
    }

    /// Waits until one that booted says so.
    pub(crate) fn is_ready(&mut self) {
        assert_eq!(self.line(), "READY");
    }

    /// Starts a guest that has said already that it is ready.
    pub(crate) async fn resume(spec: &Spec) -> Self {
        Self::of(Qemu::new(QemuSettings::default()).start(spec).await.unwrap(), spec)
    }

    /// The same with one that was started.
    pub(crate) fn of(started: Started, spec: &Spec) -> Self {
        started.control.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self {
            instance: started.instance,
            console: spec.log_dir.join("console.log"),
            lines: BufReader::new(started.control),
            _fuse: started.fuse,
        }
    }

    /// Exit code and output of a shell command.
    pub(crate) fn shell(&mut self, command: &str) -> (i32, String) {
        self.send(command);
        let mut output = String::new();
        loop {
            let line = self.line();
            if let Some(code) = line.strip_prefix("END ") {
                return (code.parse().unwrap(), output.trim_end().to_owned());
            }
            output.push_str(&line);
            output.push('\n');
        }
    }

    pub(crate) fn send(&mut self, line: &str) {
        writeln!(self.lines.get_mut(), "{line}").unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line);
        let console = || fs::read_to_string(&self.console).unwrap_or_default();
        match read {
            Ok(0) => panic!("the guest hung up; its console:\n{}", console()),
            Ok(_) => line.trim_end_matches('\n').to_owned(),
            Err(error) => panic!("{error}; the guest's console:\n{}", console()),
        }
    }
}
