//! What numbers were measured on.

use std::fmt;
use std::fs;

use serde::Serialize;

/// This computer.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Host {
    cores: usize,
    memory_mib: u64,
    cpu: String,
    kernel: String,
    /// Load average of the last minute, before we began: numbers from a busy host mean little.
    load: f64,
    /// How guests ran, as QEMU was told; null until one has.
    accelerator: Option<String>,
}

impl Host {
    /// As the kernel describes it.
    pub(crate) fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: mebibytes(&read("/proc/meminfo"), "MemTotal"),
            cpu: field(&read("/proc/cpuinfo"), "model name").to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: first_number(&read("/proc/loadavg")),
            accelerator: None,
        }
    }

    /// What programs could have of its memory now.
    pub(crate) fn available_mib() -> u64 {
        mebibytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemAvailable")
    }

    /// Looks how the guest below the process `keeper` runs.
    pub(crate) fn look_at_guest(&mut self, keeper: i32) {
        let found = processes().into_iter().find_map(|pid| {
            let accelerator = accelerator(&fs::read(format!("/proc/{pid}/cmdline")).ok()?)?;
            descends(pid, keeper).then_some(accelerator)
        });
        self.accelerator = found.or(self.accelerator.take());
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, memory_mib, cpu, kernel, load, accelerator } = self;
        let accelerator = accelerator.as_deref().unwrap_or("no guest");
        write!(
            f,
            "{cores} cores {cpu}, {memory_mib} MiB, Linux {kernel}, {accelerator}, load {load}"
        )
    }
}

/// The value of a line `name : value`; empty where there is none.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
        .unwrap_or_default()
}

fn mebibytes(meminfo: &str, what: &str) -> u64 {
    let kib = field(meminfo, what).split(' ').next().and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

fn first_number(text: &str) -> f64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// What stands after `-accel` in a command line, without its options.
fn accelerator(command_line: &[u8]) -> Option<String> {
    let mut words = command_line.split(|byte| *byte == 0);
    words.find(|word| *word == b"-accel")?;
    let word = String::from_utf8_lossy(words.next()?).into_owned();
    Some(word.split(',').next().unwrap_or_default().to_owned())
}

fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether `ancestor` is above `pid`.
fn descends(mut pid: i32, ancestor: i32) -> bool {
    while pid > 1 {
        if pid == ancestor {
            return true;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        pid = field(&status, "PPid").parse().unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_computer_has_cores_memory_and_a_kernel() {
        let host = Host::this();
        assert!(host.cores >= 1 && host.memory_mib > 100, "{host:?}");
        let available = Host::available_mib();
        assert!(available > 0 && available < host.memory_mib, "{available} of {host:?}");
        assert!(!host.kernel.is_empty());
        assert!((first_number("0.25 1.00 2.00 1/99 7\n") - 0.25).abs() < 1e-9);
    }

    #[test]
    fn the_accelerator_is_read_off_the_command_line() {
        let line = b"qemu\0-M\0microvm\0-accel\0tcg,thread=multi\0-smp\x001\0";
        assert_eq!(accelerator(line).as_deref(), Some("tcg"));
        assert_eq!(accelerator(b"sleep\x001\0"), None);
        assert_eq!(accelerator(b"qemu\0-accel"), None);
    }

    #[test]
    fn a_process_descends_from_its_parent() {
        let parent = std::os::unix::process::parent_id();
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(descends(me, i32::try_from(parent).unwrap()));
        assert!(!descends(me, i32::MAX));
    }
}
