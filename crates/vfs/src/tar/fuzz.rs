//! Archives that are not what they say.

use std::sync::Arc;

use fuzz::{Target, outcome};
use tar::{Builder, EntryType, Header};

use super::{EXTENDED_BYTES_MAX, ImportOptions, import};
use crate::memfs::MemFs;
use crate::path::TreePath;
use crate::{FileSystem, ROOT};

/// What a file system in memory may hold here.
const FS_BYTES_MAX: u64 = 4 << 20;
const BLOCK: usize = 512;

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(1_000_000);
    header
}

fn examples() -> Vec<Vec<u8>> {
    let mut plain = Builder::new(Vec::new());
    plain.append_data(&mut header(EntryType::Directory, 0), "d/", &b""[..]).unwrap();
    plain.append_data(&mut header(EntryType::Regular, 700), "d/file", &[b'x'; 700][..]).unwrap();
    plain.append_link(&mut header(EntryType::Symlink, 0), "d/symlink", "file").unwrap();
    plain.append_link(&mut header(EntryType::Link, 0), "hard", "d/file").unwrap();
    let mut extended = Builder::new(Vec::new());
    let records = [("path", &b"d/long"[..]), ("mtime", b"-1.5"), ("SCHILY.xattr.user.x", b"v")];
    extended.append_pax_extensions(records).unwrap();
    extended.append_data(&mut header(EntryType::Regular, 3), "short", &b"abc"[..]).unwrap();
    extended.append_pax_extensions([("size", &b"3"[..]), ("uid", b"7")]).unwrap();
    extended.append_data(&mut header(EntryType::Regular, 0), "sized", &b""[..]).unwrap();
    let mut long = Builder::new(Vec::new());
    let name = "long/".repeat(60);
    long.append_data(&mut Header::new_gnu(), format!("{name}file"), &b""[..]).unwrap();
    [plain, extended, long].map(|tar| tar.into_inner().unwrap()).to_vec()
}

/// Sums of headers are made right again: behind a wrong one nothing is read.
fn with_sums(input: &[u8]) -> Vec<u8> {
    let mut archive = input.to_vec();
    for block in archive.chunks_exact_mut(BLOCK) {
        if block.get(257..262) == Some(b"ustar") {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    archive
}

#[test]
fn archives() {
    let target = Target {
        name: "tar-import",
        examples: examples(),
        words: &[b"../", b"/", b"ustar\0", b"30 SCHILY.xattr.user.y=value\n", b"12 size=99\n"],
        bytes_max: 64 << 10,
        memory_max: 2 * FS_BYTES_MAX as usize + 4 * EXTENDED_BYTES_MAX as usize,
    };
    target.run(|input| {
        let fs: Arc<dyn FileSystem> =
            Arc::new(MemFs::new(Arc::new(base::SystemClock::new()), FS_BYTES_MAX));
        let archive = with_sums(input);
        let options = ImportOptions::default();
        let done = import(&*fs, &TreePath::root(), &archive[..], &[], options);
        let there = fs.readdir(ROOT, 0, 1_000).unwrap().len() as u64;
        if done.is_err() {
            assert_eq!(there, 0, "what is refused leaves nothing behind");
        }
        // What differs from archive to archive stands in quotes and digits.
        let said = |error: crate::FsError| -> String {
            error
                .to_string()
                .split('"')
                .step_by(2)
                .flat_map(str::chars)
                .filter(|c| !c.is_numeric())
                .collect()
        };
        vec![outcome(done.map(|done| (done.entries, there)).map_err(said))]
    });
}
