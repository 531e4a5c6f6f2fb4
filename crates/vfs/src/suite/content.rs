//! Bytes: reading, writing, sizes, holes.

use super::Case;
use super::tree::{OWNER, Tree, fails, ok, same};
use crate::{Errno, Kind, ROOT, SeekFrom, SetAttr};

const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const COLLAPSE_RANGE: u32 = 0x08;
const ZERO_RANGE: u32 = 0x10;
/// Sizes on both sides of the borders of pages, of 16 KiB and of 4 MiB.
const SIZES: [usize; 10] =
    [0, 1, 4095, 4096, 4097, 16_384, 16_385, 1 << 20, 4 << 20, (4 << 20) + 1];

pub(super) const CASES: &[Case] = &[
    ("what was written is read", round_trip),
    ("a file grows through every size", growth),
    ("a read ends at the end of the file", short_reads),
    ("writes overlap as they come", overlaps),
    ("a gap reads as zeros", gaps),
    ("an empty write changes nothing", empty_write),
    ("truncation cuts, and what comes back is zeros", truncation),
    ("a large file shrinks and grows again", large_truncation),
    ("a file can be huge and almost empty", sparse),
    ("no file is larger than an offset can say", too_large),
    ("only files have content", wrong_kinds),
    ("fallocate extends the file or keeps its size", allocate),
    ("a punched hole reads as zeros and keeps the size", punch),
    ("a zeroed range reads as zeros", zero_range),
    ("unknown ways of fallocate are refused", bad_allocate),
    ("seeking finds data, and the end is a hole", seek),
    ("a write changes times and version", times),
];

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8) ^ seed).collect()
}

fn round_trip(t: &Tree) {
    for (i, size) in SIZES.into_iter().enumerate() {
        let data = pattern(size, i as u8);
        let file = t.file_with(ROOT, &format!("file-{size}"), &data);
        same(t.attr(file).size, size as u64);
        assert!(t.content(file) == data, "{size} bytes come back");
    }
}

fn growth(t: &Tree) {
    let (file, mut expected) = (t.file("a"), Vec::new());
    let mut step = 1000;
    while expected.len() < 5 << 20 {
        let piece = pattern(step, step as u8);
        ok(t.fs.write(file, expected.len() as u64, &piece));
        expected.extend(piece);
        step = (step * 3).min(1 << 20);
    }
    assert!(t.content(file) == expected, "appended pieces come back");
    // A small change in the middle of it.
    ok(t.fs.write(file, 3_000_000, b"small"));
    expected[3_000_000..3_000_005].copy_from_slice(b"small");
    assert!(t.content(file) == expected, "a small change is all that changed");
}

fn short_reads(t: &Tree) {
    let file = t.file_with(ROOT, "a", b"0123456789");
    same(ok(t.fs.read(file, 2, 3)).to_vec(), b"234".to_vec());
    same(ok(t.fs.read(file, 8, 100)).to_vec(), b"89".to_vec());
    same(ok(t.fs.read(file, 10, 1)).len(), 0);
    same(ok(t.fs.read(file, 1 << 40, 1)).len(), 0);
    same(ok(t.fs.read(file, u64::MAX, 1)).len(), 0);
    same(ok(t.fs.read(file, 0, 0)).len(), 0);
}

fn overlaps(t: &Tree) {
    for base in [0_usize, 16_380, 4_194_300] {
        let file = t.mknod(ROOT, &format!("file-{base}"), Kind::File);
        let mut expected = vec![0; base];
        expected.extend(*b"aaccbbd");
        ok(t.fs.write(file, base as u64, b"aaaa"));
        ok(t.fs.write(file, base as u64 + 3, b"bbbd"));
        ok(t.fs.write(file, base as u64 + 2, b"cc"));
        assert!(t.content(file) == expected, "at {base}");
    }
}

fn gaps(t: &Tree) {
    for gap in [10_u64, 5_000, 20_000, 5_000_000] {
        let file = t.file_with(ROOT, &format!("file-{gap}"), b"start");
        ok(t.fs.write(file, gap, b"end"));
        same(t.attr(file).size, gap + 3);
        let content = t.content(file);
        same(&content[..5], &b"start"[..]);
        assert!(content[5..gap as usize].iter().all(|byte| *byte == 0), "zeros in {gap}");
        same(&content[gap as usize..], &b"end"[..]);
    }
}

fn empty_write(t: &Tree) {
    let file = t.file_with(ROOT, "a", b"x");
    ok(t.fs.write(file, 100, b""));
    same(t.content(file), b"x".to_vec());
}

fn truncation(t: &Tree) {
    let file = t.file_with(ROOT, "a", b"0123456789");
    t.resize(file, 4);
    same(t.content(file), b"0123".to_vec());
    t.resize(file, 8);
    same(t.content(file), b"0123\0\0\0\0".to_vec());
    t.resize(file, 0);
    same(t.content(file), Vec::new());
    t.resize(file, 3);
    same(t.content(file), vec![0; 3]);
}

fn large_truncation(t: &Tree) {
    for size in [20_000_usize, 6 << 20] {
        let mut expected = pattern(size, 5);
        let file = t.file_with(ROOT, &format!("file-{size}"), &expected);
        for cut in [size - 1, size / 2 + 3, 16_384, 16_383, 1] {
            t.resize(file, cut as u64);
            t.resize(file, size as u64);
            expected.truncate(cut);
            expected.resize(size, 0);
            assert!(t.content(file) == expected, "{size} cut to {cut}");
        }
    }
}

fn sparse(t: &Tree) {
    let file = t.file("a");
    ok(t.fs.write(file, 10 << 30, b"end"));
    let attr = t.attr(file);
    same(attr.size, (10 << 30) + 3);
    assert!(attr.blocks < 64 << 11, "{} blocks for 3 bytes", attr.blocks);
    same(ok(t.fs.read(file, 5 << 30, 4)).to_vec(), vec![0; 4]);
    same(ok(t.fs.read(file, 10 << 30, 10)).to_vec(), b"end".to_vec());
    t.resize(file, 1);
    same(t.content(file), vec![0]);
}

fn too_large(t: &Tree) {
    let (file, large) = (t.file("a"), &[Errno::EFBIG, Errno::EINVAL]);
    fails(t.fs.write(file, i64::MAX as u64, b"xx"), large);
    fails(t.fs.write(file, u64::MAX, b"x"), large);
    fails(t.fs.write(file, u64::MAX - 1, b"xxxx"), large);
    fails(t.fs.fallocate(file, 0, u64::MAX - 1, 10), large);
    fails(t.fs.setattr(file, &SetAttr { size: Some(u64::MAX), ..SetAttr::default() }), large);
    same(t.attr(file).size, 0);
}

fn wrong_kinds(t: &Tree) {
    let (dir, fifo) = (t.dir("dir"), t.mknod(ROOT, "fifo", Kind::Fifo));
    let link = ok(t.fs.symlink(ROOT, b"link", b"x", OWNER)).ino;
    let cut = SetAttr { size: Some(0), ..SetAttr::default() };
    fails(t.fs.read(dir, 0, 1), &[Errno::EISDIR]);
    fails(t.fs.write(dir, 0, b"x"), &[Errno::EISDIR]);
    fails(t.fs.setattr(dir, &cut), &[Errno::EISDIR, Errno::EINVAL]);
    for ino in [fifo, link] {
        fails(t.fs.read(ino, 0, 1), &[Errno::EINVAL]);
        fails(t.fs.write(ino, 0, b"x"), &[Errno::EINVAL]);
        fails(t.fs.setattr(ino, &cut), &[Errno::EINVAL]);
    }
    let refused = &[Errno::EISDIR, Errno::EINVAL, Errno::EOPNOTSUPP];
    fails(t.fs.fallocate(dir, 0, 0, 1), refused);
    fails(t.fs.seek(dir, SeekFrom::Data(0)), refused);
}

fn allocate(t: &Tree) {
    let file = t.file_with(ROOT, "a", b"data");
    ok(t.fs.fallocate(file, 0, 100, 50_000));
    same(t.attr(file).size, 50_100);
    same(&t.content(file)[..6], &b"data\0\0"[..]);
    ok(t.fs.fallocate(file, 0, 0, 10));
    same(t.attr(file).size, 50_100);
    ok(t.fs.fallocate(file, KEEP_SIZE, 0, 200_000));
    same(t.attr(file).size, 50_100);
}

fn punch(t: &Tree) {
    for size in [10_000_usize, 100_000, 5 << 20] {
        let mut expected = pattern(size, 9);
        let file = t.file_with(ROOT, &format!("file-{size}"), &expected);
        for (from, len) in [(10_usize, 5_usize), (4000, 5000), (size / 2, 1), (size - 3, 100)] {
            ok(t.fs.fallocate(file, PUNCH_HOLE | KEEP_SIZE, from as u64, len as u64));
            expected[from..(from + len).min(size)].fill(0);
            same(t.attr(file).size, size as u64);
            assert!(t.content(file) == expected, "{size}: hole of {len} at {from}");
        }
        ok(t.fs.fallocate(file, PUNCH_HOLE | KEEP_SIZE, size as u64 + 10, 10));
        same(t.attr(file).size, size as u64);
    }
}

fn zero_range(t: &Tree) {
    let mut expected = pattern(30_000, 3);
    let file = t.file_with(ROOT, "a", &expected);
    ok(t.fs.fallocate(file, ZERO_RANGE, 100, 9_000));
    expected[100..9_100].fill(0);
    assert!(t.content(file) == expected, "inside");
    ok(t.fs.fallocate(file, ZERO_RANGE | KEEP_SIZE, 29_000, 9_000));
    expected[29_000..].fill(0);
    assert!(t.content(file) == expected, "past the end, size kept");
    ok(t.fs.fallocate(file, ZERO_RANGE, 29_000, 9_000));
    expected.resize(38_000, 0);
    assert!(t.content(file) == expected, "past the end");
}

fn bad_allocate(t: &Tree) {
    let file = t.file_with(ROOT, "a", b"data");
    for mode in [PUNCH_HOLE, COLLAPSE_RANGE, 0x20, 0x40, 1 << 30, PUNCH_HOLE | ZERO_RANGE] {
        fails(t.fs.fallocate(file, mode, 0, 4096), &[Errno::EOPNOTSUPP]);
    }
    fails(t.fs.fallocate(file, 0, 0, 0), &[Errno::EINVAL]);
    same(t.content(file), b"data".to_vec());
}

fn seek(t: &Tree) {
    let file = t.file_with(ROOT, "a", &pattern(10_000, 1));
    same(ok(t.fs.seek(file, SeekFrom::Data(0))), 0);
    same(ok(t.fs.seek(file, SeekFrom::Data(1234))), 1234);
    same(ok(t.fs.seek(file, SeekFrom::Hole(1234))), 10_000);
    for from in [SeekFrom::Data(10_000), SeekFrom::Hole(10_000), SeekFrom::Data(u64::MAX)] {
        fails(t.fs.seek(file, from), &[Errno::ENXIO]);
    }
    // Where there may be a hole, it is reported as one or as data, but data is never a hole.
    ok(t.fs.write(file, 10 << 20, b"end"));
    let hole = ok(t.fs.seek(file, SeekFrom::Hole(0)));
    assert!((10_000..=(10 << 20) + 3).contains(&hole), "hole at {hole}");
    let data = ok(t.fs.seek(file, SeekFrom::Data(1 << 20)));
    assert!((1 << 20..=10 << 20).contains(&data), "data at {data}");
    same(ok(t.fs.seek(file, SeekFrom::Data(10 << 20))), 10 << 20);
}

fn times(t: &Tree) {
    let file = t.file_with(ROOT, "a", b"data");
    let changes: [(&str, &dyn Fn()); 4] = [
        ("write", &|| ok(t.fs.write(file, 0, b"x"))),
        ("extend", &|| t.resize(file, 100)),
        ("cut", &|| t.resize(file, 10)),
        ("punch", &|| ok(t.fs.fallocate(file, PUNCH_HOLE | KEEP_SIZE, 0, 5))),
    ];
    for (what, change) in changes {
        t.age(file);
        let before = t.attr(file);
        change();
        let after = t.attr(file);
        assert!(t.is_fresh(file), "{what} changes mtime");
        assert!(after.ctime >= before.ctime, "{what}: ctime does not go back");
        assert!(after.version > before.version, "{what} raises the version");
        same(after.btime, before.btime);
    }
    t.age(file);
    let before = t.attr(file);
    ok(t.fs.read(file, 0, 10));
    same(t.attr(file).version, before.version);
    assert!(!t.is_fresh(file), "a read is no change");
}
