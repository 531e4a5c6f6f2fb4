//! The home as programs in the machine see it.

use anyhow::Context;

use super::{BUDGET, Bench, LONG_RUNS, RUNS, commands};
use crate::bench::report::{Row, Unit};
use crate::bench::samples::Samples;

pub(super) const CREATE: &str = "in the guest: create 1,000 files of 1 KiB";
pub(super) const WRITE: &str = "in the guest: write 256 MB, with fsync";
pub(super) const READ: &str = "in the guest: read them, caches dropped";

/// Seconds, by the guest's own clock: starting a program is not what is measured.
const CREATE_FILES: &str = r#"
import os, shutil, time
shutil.rmtree("/root/small", ignore_errors=True)
os.mkdir("/root/small")
data = os.urandom(1024)
begun = time.perf_counter()
for n in range(1000):
    with open(f"/root/small/{n}", "wb") as file:
        file.write(data)
print(time.perf_counter() - begun)
"#;
const WRITE_LARGE: &str = r#"
import os, time
if os.path.exists("/root/large"):
    os.remove("/root/large")
pieces = [os.urandom(1 << 20) for _ in range(8)]
begun = time.perf_counter()
with open("/root/large", "wb") as file:
    for n in range(256_000_000 // (1 << 20) + 1):
        file.write(pieces[n % 8])
    os.fsync(file.fileno())
    length = file.tell()
print((time.perf_counter() - begun) * 256e6 / length)
"#;
const READ_LARGE: &str = r#"
import os, time
os.sync()
with open("/proc/sys/vm/drop_caches", "w") as caches:
    caches.write("3")
begun = time.perf_counter()
length = 0
with open("/root/large", "rb", buffering=0) as file:
    while piece := file.read(1 << 20):
        length += len(piece)
print((time.perf_counter() - begun) * 256e6 / length)
"#;

/// In `/root`, on a store that is a directory.
pub(super) fn files(bench: &mut Bench) -> anyhow::Result<()> {
    let seconds = |bench: &Bench, script| {
        let said = commands::said(&bench.endpoint, &bench.path("")?, &["python3", "-c", script])?;
        said.trim().parse::<f64>().with_context(|| format!("no number of seconds: {said:?}"))
    };
    let created = Samples::take(RUNS, BUDGET, |_| seconds(bench, CREATE_FILES))?;
    let (mut wrote, mut read) = (Samples::default(), Samples::default());
    Samples::take(LONG_RUNS, 2 * BUDGET, |_| {
        wrote.push(seconds(bench, WRITE_LARGE)?);
        read.push(seconds(bench, READ_LARGE)?);
        Ok(0.0)
    })?;
    let rate = |samples: &Samples| samples.map(|seconds| 256.0 / seconds);
    bench.report.push(Row::new(CREATE, Unit::Seconds, &created));
    bench.report.push(Row::new(WRITE, Unit::MegabytesPerSecond, &rate(&wrote)));
    bench.report.push(Row::new(READ, Unit::MegabytesPerSecond, &rate(&read)));
    let clean = "rm -r /root/small /root/large && echo here";
    commands::output_of(bench, &["sh", "-c", clean])
}
