//! What single calls of an open home cost in this process: microseconds each, and memory.
//!
//! `cargo run --release -p homefs --example hot_calls [FILES]`. No kernel and no store in between,
//! so this is the part of a mount's cost that is ours.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example that measures")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{HomeId, ServerId, SystemClock, SystemEntropy};
use homefs::{HomeFs, HomeSettings, Parts};
use objstore::MemoryStore;
use vfs::{Expect, FileSystem, Kind, NewFile, Owner, ROOT, SetAttr, SetTime, Time};

const OWNER: Owner = Owner { uid: 0, gid: 0 };

struct World {
    parts: Parts,
    home: HomeId,
    server: ServerId,
}

impl World {
    fn open(&self, dir: &Path) -> HomeFs {
        let settings = HomeSettings {
            // No round runs meanwhile.
            replicate_after: Duration::from_secs(3_600),
            ..HomeSettings::new(self.home.clone(), dir, self.server.clone())
        };
        HomeFs::open_writer(settings, self.parts.clone()).unwrap().0
    }
}

fn timed(what: &str, calls: usize, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    let each = start.elapsed().as_secs_f64() * 1e6 / calls as f64;
    println!("{what:<44} {each:>9.2} us each, {:>8.0} KiB resident", resident_kib());
}

fn resident_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

fn main() {
    let files: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = World {
        parts: Parts {
            store: Arc::new(MemoryStore::default()),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            runtime: runtime.handle().clone(),
        },
        home: HomeId::generate(),
        server: ServerId::generate(),
    };
    runtime.block_on(homefs::create_home(&world.parts, &world.home, &world.server)).unwrap();
    let disk = tempfile::tempdir_in(".").unwrap();
    let dir = disk.path().join("home");
    let fs = world.open(&dir);
    small_files(&fs, files);
    large_file(&fs);
    puts(&fs, files);
    let many = files * 10;
    timed("create, without content", many, || {
        let dir = fs.mknod(ROOT, b"many", Kind::Directory, 0o755, OWNER, 0).unwrap().ino;
        for n in 0..many {
            fs.mknod(dir, format!("f{n}").as_bytes(), Kind::File, 0o644, OWNER, 0).unwrap();
        }
    });
    drop(fs);
    timed("open again, all of it", 1, || drop(world.open(&dir)));
}

fn small_files(fs: &HomeFs, files: usize) {
    let dir = fs.mknod(ROOT, b"small", Kind::Directory, 0o755, OWNER, 0).unwrap().ino;
    let data = vec![7; 4_096];
    let names: Vec<Vec<u8>> = (0..files).map(|n| format!("file{n}").into_bytes()).collect();
    let mut inodes = Vec::new();
    timed("lookup of a name that is not there", files, || {
        for name in &names {
            fs.lookup(dir, name).unwrap_err();
        }
    });
    timed("create", files, || {
        for name in &names {
            inodes.push(fs.mknod(dir, name, Kind::File, 0o644, OWNER, 0).unwrap().ino);
        }
    });
    timed("write 4 KiB", files, || {
        for ino in &inodes {
            fs.write(*ino, 0, &data).unwrap();
        }
    });
    let set = SetAttr { mtime: Some(SetTime::At(Time(5))), ..SetAttr::default() };
    timed("setattr", files, || {
        for ino in &inodes {
            fs.setattr(*ino, &set).unwrap();
        }
    });
    timed("lookup", files, || {
        for name in &names {
            fs.lookup(dir, name).unwrap();
        }
    });
    timed("read 4 KiB", files, || {
        for ino in &inodes {
            fs.read(*ino, 0, 4_096).unwrap();
        }
    });
    timed("readdir, an entry", files, || {
        let mut cookie = 0;
        while let Some(last) = fs.readdir(dir, cookie, 512).unwrap().last() {
            cookie = last.cookie;
        }
    });
    timed("unlink", files, || {
        for name in &names {
            fs.unlink(dir, name).unwrap();
        }
    });
    timed("create, write 20 KiB, unlink", files, || {
        let data = vec![7; 20_480];
        for name in &names {
            let ino = fs.mknod(dir, name, Kind::File, 0o644, OWNER, 0).unwrap().ino;
            fs.write(ino, 0, &data).unwrap();
            fs.unlink(dir, name).unwrap();
        }
    });
    timed("sync_local", 1, || fs.sync_local().unwrap());
}

fn large_file(fs: &HomeFs) {
    const MIB: usize = 1 << 20;
    let data = vec![7; MIB];
    let ino = fs.mknod(ROOT, b"large", Kind::File, 0o644, OWNER, 0).unwrap().ino;
    timed("write 1 MiB, one after the other", 512, || {
        for n in 0..512 {
            fs.write(ino, n << 20, &data).unwrap();
        }
    });
    timed("read 4 KiB of it, anywhere", 20_000, || {
        for n in 0..20_000_u64 {
            fs.read(ino, (n * 7_919 % (512 * 256)) << 12, 4_096).unwrap();
        }
    });
    timed("write 4 KiB into it, anywhere", 20_000, || {
        for n in 0..20_000_u64 {
            fs.write(ino, (n * 7_919 % (512 * 256)) << 12, &data[..4_096]).unwrap();
        }
    });
    fs.unlink(ROOT, b"large").unwrap();
}

fn puts(fs: &HomeFs, files: usize) {
    let content = vec![7; 4_096];
    timed("put_file of 4 KiB, 32 threads, each synced", files, || {
        std::thread::scope(|scope| {
            for thread in 0..32 {
                let content = &content;
                scope.spawn(move || {
                    for n in (thread..files).step_by(32) {
                        let (dir, name) = (format!("put{}", n % 10), format!("f{n}"));
                        let path = [dir.as_bytes(), name.as_bytes()];
                        let file = NewFile { perm: 0o644, owner: OWNER, content };
                        fs.put_file(ROOT, &path, &file, Expect::Any).unwrap();
                        fs.sync_local().unwrap();
                    }
                });
            }
        });
    });
}
