//! Programs as people run them, on a mount.

use crate::mounted::Mounted;

#[test]
fn git_makes_a_repository_and_finds_it_whole() {
    Mounted::both_ways(|m| {
        m.run("git", &["init", "-q", "-b", "main", "repo"]);
        let git = |args: &[&str]| {
            let mut all = vec!["-C", "repo", "-c", "user.name=a", "-c", "user.email=a@b"];
            all.extend(args);
            m.run("git", &all)
        };
        for i in 0..60 {
            std::fs::write(m.path(&format!("repo/file-{i}")), format!("{i}\n").repeat(i * 50))
                .unwrap();
        }
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "first"]);
        assert_eq!(git(&["status", "--porcelain"]), "");
        std::fs::write(m.path("repo/file-5"), "changed").unwrap();
        assert_eq!(git(&["status", "--porcelain"]), " M file-5\n");
        git(&["checkout", "-q", "-b", "other"]);
        git(&["commit", "-q", "-a", "-m", "second"]);
        git(&["checkout", "-q", "main"]);
        git(&["gc", "-q"]);
        git(&["fsck", "--strict"]);
        git(&["clone", "-q", ".", "../clone"]);
        assert_eq!(m.run("git", &["-C", "clone", "log", "--format=%s"]), "first\n");
        assert_eq!(git(&["status", "--porcelain"]), "");
    });
}

#[test]
fn a_mapped_file_is_written_through_memory() {
    Mounted::both_ways(|m| {
        m.python(
            "import mmap
with open('a', 'w+b') as f:
    f.truncate(3 * 4096 + 5)
    with mmap.mmap(f.fileno(), 0) as shared:
        shared[4090:4100] = b'0123456789'
        shared[-1] = 0x21
        shared.flush()
    f.seek(4090)
    assert f.read(10) == b'0123456789'
with open('a', 'rb') as f:
    assert f.read()[-1:] == b'!'
    with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert view[4095] == ord('5')",
        );
        let ino = m.fs.lookup(vfs::ROOT, b"a").unwrap().ino;
        assert_eq!(&m.fs.read(ino, 4090, 10).unwrap()[..], b"0123456789");
    });
}

#[test]
fn a_database_in_wal_mode_works() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    m.python(
        "import sqlite3
db = sqlite3.connect('test.db')
assert db.execute('pragma journal_mode=wal').fetchone() == ('wal',)
db.execute('create table t (n integer primary key, b blob)')
for n in range(200):
    with db:
        db.execute('insert into t values (?, ?)', (n, os.urandom(5000)))
other = sqlite3.connect('test.db')
assert other.execute('select count(*), sum(length(b)) from t').fetchone() == (200, 1000000)
db.execute('pragma wal_checkpoint(truncate)')
assert db.execute('pragma integrity_check').fetchone() == ('ok',)",
    );
}

#[test]
fn extended_attributes_are_kept() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    m.python(
        "open('a', 'w').close()
os.setxattr('a', 'user.one', b'\\0value')
os.setxattr('a', 'user.two', b'x' * 50000)
assert os.getxattr('a', 'user.one') == b'\\0value'
assert len(os.getxattr('a', 'user.two')) == 50000
assert sorted(os.listxattr('a')) == ['user.one', 'user.two']
os.removexattr('a', 'user.one')
assert os.listxattr('a') == ['user.two']
for flag, code in ((os.XATTR_CREATE, 17), (os.XATTR_REPLACE, 61)):
    try:
        os.setxattr('a', 'user.two' if code == 17 else 'user.three', b'y', flag)
        raise SystemExit('no error')
    except OSError as e:
        assert e.errno == code, e
try:
    os.setxattr('a', 'system.posix_acl_access', b'\\2\\0\\0\\0')
    raise SystemExit('an ACL was taken and will not be obeyed')
except OSError as e:
    assert e.errno == 95, e",
    );
}

#[test]
fn files_are_allocated_copied_and_made_without_a_name() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    m.python(
        "a = os.open('a', os.O_RDWR | os.O_CREAT)
os.posix_fallocate(a, 0, 100000)
assert os.fstat(a).st_size == 100000
os.pwrite(a, b'data' * 25000, 0)
b = os.open('b', os.O_RDWR | os.O_CREAT)
assert os.copy_file_range(a, b, 100000, 0, 10) == 100000
assert os.pread(b, 8, 10) == b'datadata'
assert os.pread(b, 10, 0) == bytes(10)
assert os.lseek(a, 0, os.SEEK_HOLE) == 100000
assert os.lseek(a, 5, os.SEEK_DATA) == 5
t = os.open('.', os.O_RDWR | os.O_TMPFILE, 0o600)
os.write(t, b'nameless')
here = os.open('.', os.O_RDONLY)
os.link(f'/proc/self/fd/{t}', 'named', dst_dir_fd=here, follow_symlinks=True)
assert open('named', 'rb').read() == b'nameless'
os.mkfifo('fifo')
s = os.statvfs('.')
assert s.f_bsize == 4096 and s.f_blocks * 4096 == 1 << 30, s
os.fsync(a); os.fdatasync(b)
os.fsync(here)",
    );
}

#[test]
fn locks_are_the_kernels_own() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    m.python(
        "import fcntl, subprocess, sys
f = open('lock', 'w')
fcntl.flock(f, fcntl.LOCK_EX)
fcntl.lockf(f, fcntl.LOCK_EX)
for call in ('flock', 'lockf'):
    code = f\"import fcntl; fcntl.{call}(open('lock', 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)\"
    assert subprocess.run([sys.executable, '-c', code], stderr=subprocess.DEVNULL).returncode != 0
fcntl.flock(f, fcntl.LOCK_UN)
code = \"import fcntl; fcntl.flock(open('lock', 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)\"
assert subprocess.run([sys.executable, '-c', code]).returncode == 0",
    );
}

#[test]
fn other_users_are_held_to_the_modes() {
    let Some(m) = Mounted::new(Default::default()) else { return };
    m.python(
        "open('secret', 'w').close(); os.chmod('secret', 0o600)
open('program', 'w').close(); os.chmod('program', 0o6777)
os.mkdir('sticky'); os.chmod('sticky', 0o1777); open('sticky/root', 'w').close()
os.mkdir('group'); os.chown('group', 0, 77); os.chmod('group', 0o2777)
os.setgroups([]); os.setgid(12345); os.setuid(12345)
def refused(call):
    try:
        call()
    except PermissionError:
        return
    raise SystemExit('allowed')
refused(lambda: open('secret'))
refused(lambda: open('new', 'w'))
refused(lambda: os.unlink('sticky/root'))
refused(lambda: os.chmod('program', 0o777))
open('sticky/mine', 'w').close()
s = os.stat('sticky/mine')
assert (s.st_uid, s.st_gid) == (12345, 12345), s
os.mkdir('group/sub')
s = os.stat('group/sub')
assert s.st_gid == 77 and s.st_mode & 0o2000, s
with open('program', 'w') as f:
    f.write('not by its owner')
assert os.stat('program').st_mode & 0o7777 == 0o777, oct(os.stat('program').st_mode)",
    );
}
