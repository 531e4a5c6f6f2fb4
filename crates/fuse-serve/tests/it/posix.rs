//! System calls on a mount, and what they must do.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::mounted::Mounted;

#[test]
fn files_of_every_size_come_back() {
    Mounted::both_ways(|m| {
        for size in [0_usize, 1, 4096, 16_385, 1 << 20, (5 << 20) + 7] {
            let data: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
            let path = m.path(&format!("file-{size}"));
            fs::write(&path, &data).unwrap();
            assert!(fs::read(&path).unwrap() == data, "{size} bytes");
            assert_eq!(fs::metadata(&path).unwrap().len(), size as u64);
            // And it is so in the file system, not only in the kernel's cache.
            let ino = fs::metadata(&path).unwrap().ino();
            assert_eq!(m.fs.getattr(ino).unwrap().size, size as u64);
        }
        let shorter = m.path("file-4096");
        fs::write(&shorter, b"truncated at open").unwrap();
        assert_eq!(fs::read(&shorter).unwrap(), b"truncated at open");
    });
}

#[test]
fn directories_hold_thousands_of_names() {
    Mounted::both_ways(|m| {
        fs::create_dir_all(m.path("a/b/c")).unwrap();
        let mut expected: Vec<String> = (0..3000).map(|i| format!("name-{i}")).collect();
        for name in &expected {
            File::create(m.path("a").join(name)).unwrap();
        }
        expected.push("b".to_owned());
        expected.sort();
        for _ in 0..2 {
            let mut found: Vec<String> = fs::read_dir(m.path("a"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            assert!(found == expected, "{} names", found.len());
        }
        assert_eq!(fs::remove_dir(m.path("a")).unwrap_err().raw_os_error(), Some(39));
        fs::remove_dir_all(m.path("a")).unwrap();
        assert_eq!(fs::read_dir(m.root()).unwrap().count(), 0);
        // The kernel tells that it forgot the last of them when it comes to that, and hears no answer.
        let until = Instant::now() + Duration::from_secs(10);
        while m.fs.statfs().unwrap().inodes_used > 1 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(m.fs.statfs().unwrap().inodes_used, 1);
    });
}

#[test]
fn names_move_replace_and_swap() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    fs::write(m.path("a"), b"a").unwrap();
    fs::write(m.path("b"), b"b").unwrap();
    fs::create_dir(m.path("dir")).unwrap();
    let swap = |flags| renameat2(AT_FDCWD, &m.path("a"), AT_FDCWD, &m.path("b"), flags);
    assert_eq!(swap(RenameFlags::RENAME_NOREPLACE), Err(nix::errno::Errno::EEXIST));
    swap(RenameFlags::RENAME_EXCHANGE).unwrap();
    assert_eq!(fs::read(m.path("a")).unwrap(), b"b");
    fs::rename(m.path("a"), m.path("b")).unwrap();
    assert_eq!(fs::read(m.path("b")).unwrap(), b"b");
    fs::rename(m.path("b"), m.path("dir/b")).unwrap();
    assert!(!m.path("b").exists() && m.path("dir/b").exists());
    let below = fs::rename(m.path("dir"), m.path("dir/x")).unwrap_err();
    assert_eq!(below.raw_os_error(), Some(22));
}

#[test]
fn links_hard_and_symbolic() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    fs::write(m.path("a"), b"data").unwrap();
    fs::hard_link(m.path("a"), m.path("b")).unwrap();
    assert_eq!(fs::metadata(m.path("a")).unwrap().nlink(), 2);
    fs::write(m.path("b"), b"through b").unwrap();
    assert_eq!(fs::read(m.path("a")).unwrap(), b"through b");
    fs::remove_file(m.path("a")).unwrap();
    assert_eq!(fs::metadata(m.path("b")).unwrap().nlink(), 1);
    symlink("b", m.path("link")).unwrap();
    assert_eq!(fs::read_link(m.path("link")).unwrap().to_str(), Some("b"));
    assert_eq!(fs::read(m.path("link")).unwrap(), b"through b");
    symlink("nowhere", m.path("dangling")).unwrap();
    assert!(!m.path("dangling").exists());
    fs::write(m.path("nowhere"), b"x").unwrap();
    assert!(m.path("dangling").exists());
}

#[test]
fn an_unlinked_file_is_used_until_it_is_closed() {
    Mounted::both_ways(|m| {
        let mut file =
            OpenOptions::new().read(true).write(true).create_new(true).open(m.path("a")).unwrap();
        file.write_all(b"before").unwrap();
        let ino = file.metadata().unwrap().ino();
        fs::remove_file(m.path("a")).unwrap();
        file.write_all(b" and after").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before and after");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        fs::write(m.path("a"), b"another").unwrap();
        assert_eq!(m.fs.getattr(ino).unwrap().size, 16);
        drop(file);
        // The kernel lets go in its own time.
        for _ in 0..100 {
            if m.fs.getattr(ino).is_err() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("the inode is still held");
    });
}

#[test]
fn appends_go_to_the_end() {
    Mounted::both_ways(|m| {
        let open = || OpenOptions::new().append(true).create(true).open(m.path("log")).unwrap();
        let (mut one, mut two) = (open(), open());
        for i in 0..50 {
            writeln!(one, "one {i}").unwrap();
            writeln!(two, "two {i}").unwrap();
        }
        let text = fs::read_to_string(m.path("log")).unwrap();
        assert_eq!(text.lines().count(), 100);
        assert_eq!(text.lines().nth(3), Some("two 1"));
    });
}

#[test]
fn attributes_are_kept() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    let path = m.path("a");
    fs::write(&path, b"data").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&path, Some(1234), Some(5678)).unwrap();
    let times = fs::FileTimes::new()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 123_456_789))
        .set_accessed(std::time::UNIX_EPOCH);
    File::open(&path).unwrap().set_times(times).unwrap();
    let attr = fs::metadata(&path).unwrap();
    assert_eq!((attr.mode() & 0o7777, attr.uid(), attr.gid()), (0o640, 1234, 5678));
    assert_eq!((attr.mtime(), attr.mtime_nsec(), attr.atime()), (1_000_000, 123_456_789, 0));
    let born = attr.created().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    let btime = m.fs.getattr(attr.ino()).unwrap().btime;
    assert_eq!(born.as_nanos(), u128::try_from(btime.0).unwrap());
    File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), 100);
}

#[test]
fn threads_work_beside_each_other() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    fs::create_dir(m.path("shared")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let m = &m;
            scope.spawn(move || {
                let own = m.path(&format!("own-{thread}"));
                fs::create_dir(&own).unwrap();
                for i in 0..150 {
                    let data = vec![i as u8; 1000 + i * 37];
                    let (temp, last) = (own.join("temp"), m.path("shared/last"));
                    fs::write(&temp, &data).unwrap();
                    assert_eq!(fs::read(&temp).unwrap(), data);
                    fs::rename(&temp, &last).unwrap();
                    // Whoever was last: what is there is whole.
                    let seen = fs::read(&last).unwrap();
                    let first = seen.first().copied().unwrap_or_default();
                    assert_eq!(seen.len(), 1000 + usize::from(first) * 37);
                    assert!(seen.iter().all(|byte| *byte == first));
                }
            });
        }
    });
    assert_eq!(fs::read_dir(m.path("shared")).unwrap().count(), 1);
}

#[test]
fn holes_read_as_zeros() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).open(m.path("a")).unwrap();
    file.write_at(b"end", 20 << 20).unwrap();
    let mut middle = [1; 100];
    file.read_exact_at(&mut middle, 10 << 20).unwrap();
    assert_eq!(middle, [0; 100]);
    assert!(file.metadata().unwrap().blocks() < 100);
}
