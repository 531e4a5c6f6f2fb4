use std::sync::Arc;

use tar::{Builder, EntryType, Header};

use super::*;
use crate::memfs::MemFs;
use crate::path::TreePath;
use crate::path_ops::{self, Last};
use crate::{Errno, FileSystem, Kind, ROOT, Result, SetAttr, SetTime, Time};

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

fn unpack(fs: &dyn FileSystem, tar: &[u8]) -> Result<Imported> {
    import(fs, &TreePath::root(), tar, &[], ImportOptions::default())
}

/// An archive of entries whose names no library would write.
fn raw(entries: &[(&str, EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, link, content) in entries {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o640);
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn bundle(fs: &dyn FileSystem) -> Vec<u8> {
    let mut bundle = Bundle::new(fs, ROOT);
    let mut out = Vec::new();
    while let Some(piece) = bundle.next_piece().unwrap() {
        assert!(!piece.is_empty());
        out.extend_from_slice(&piece);
    }
    out
}

fn describe(fs: &dyn FileSystem) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![(String::new(), ROOT)];
    while let Some((at, dir)) = dirs.pop() {
        for entry in fs.readdir(dir, 0, 10_000).unwrap() {
            let name = format!("{at}/{}", String::from_utf8_lossy(&entry.name));
            let attr = entry.attr;
            let content = match attr.kind {
                Kind::File => fs.read(attr.ino, 0, 1 << 24).unwrap().to_vec(),
                Kind::Symlink => fs.readlink(attr.ino).unwrap(),
                _ => Vec::new(),
            };
            let xattrs: Vec<_> = fs
                .listxattr(attr.ino)
                .unwrap()
                .into_iter()
                .map(|name| (name.clone(), fs.getxattr(attr.ino, &name).unwrap()))
                .collect();
            let digest = base::Digest::of(&content);
            found.push(format!(
                "{name} {:?} {:o} {} {} {digest} {xattrs:?}",
                attr.kind, attr.perm, attr.nlink, attr.mtime.0
            ));
            if attr.kind == Kind::Directory {
                dirs.push((name, attr.ino));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_tree_survives_being_bundled_and_imported() {
    let fs = mem();
    let long = format!("{}/{}", "d".repeat(120), "n".repeat(200));
    unpack(&*fs, &gnu_archive(&long)).unwrap();
    let file = path_ops::stat(&*fs, &path(&long), Last::Keep).unwrap();
    fs.setxattr(file.ino, b"user.note", b"a\nb\0c", crate::XattrMode::Any).unwrap();
    for (at, mtime) in [(&*long, Time(-1_500_000_000)), ("big", Time(1_234_567_890_123_456_789))] {
        let ino = path_ops::stat(&*fs, &path(at), Last::Keep).unwrap().ino;
        let set = SetAttr { mtime: Some(SetTime::At(mtime)), ..SetAttr::default() };
        fs.setattr(ino, &set).unwrap();
    }
    fs.link(file.ino, ROOT, b"same").unwrap();
    fs.symlink(ROOT, b"link", b"big", crate::Owner::default()).unwrap();

    let copy = mem();
    unpack(&*copy, &bundle(&*fs)).unwrap();
    let (mut want, mut got) = (describe(&*fs), describe(&*copy));
    // What was changed last in a directory set its time; links carry whole seconds in tar.
    for tree in [&mut want, &mut got] {
        tree.retain(|line| !line.contains("Symlink"));
    }
    assert_eq!(got, want);
}

#[test]
fn attributes_that_are_too_large_are_no_full_disk() {
    let mut tar = Builder::new(Vec::new());
    let value = vec![b'x'; (64 << 10) + 1];
    tar.append_pax_extensions([("SCHILY.xattr.user.big", &value[..])]).unwrap();
    let mut header = Header::new_ustar();
    header.set_size(0);
    header.set_mode(0o600);
    tar.append_data(&mut header, "f", &b""[..]).unwrap();
    let error = unpack(&*mem(), &tar.into_inner().unwrap()).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (base::ErrorKind::TooLarge, crate::Errno::ENOSPC));
    assert!(error.to_string().contains("more than 64 KiB"), "{error}");
}

fn gnu_archive(long: &str) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(5);
    tar.append_data(&mut header, long, &b"hello"[..]).unwrap();
    let big = vec![7; 3_000_001];
    header.set_size(big.len() as u64);
    tar.append_data(&mut header, "big", &big[..]).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn what_could_leave_the_home_is_refused_whole() {
    let good = ("good", EntryType::Regular, "", &b"x"[..]);
    for (name, kind, link, says) in [
        ("/abs", EntryType::Regular, "", "absolute"),
        ("a/../../b", EntryType::Regular, "", ".."),
        ("l", EntryType::Symlink, "/etc/passwd", "outside"),
        ("d/l", EntryType::Symlink, "../../x", "outside"),
        ("h", EntryType::Link, "../x", ".."),
        ("h", EntryType::Link, "missing", "earlier"),
        ("c", EntryType::Char, "", "device"),
        ("b", EntryType::Block, "", "device"),
        ("good/below", EntryType::Regular, "", "earlier entry"),
    ] {
        let fs = mem();
        let before = fs.statfs().unwrap();
        let error = unpack(&*fs, &raw(&[good, (name, kind, link, b"")])).unwrap_err();
        assert_eq!(error.errno(), Errno::EINVAL, "{name}: {error}");
        assert!(error.to_string().contains(says), "{name}: {error}");
        assert!(error.to_string().contains(name), "{name}: {error}");
        assert_eq!(fs.statfs().unwrap(), before, "{name} left something behind");
    }
}

#[test]
fn outside_links_are_taken_where_that_is_asked_for() {
    let fs = mem();
    let tar = raw(&[("python", EntryType::Symlink, "/usr/bin/python3", b"")]);
    let options = ImportOptions { outside_links: true, ..ImportOptions::default() };
    import(&*fs, &TreePath::root(), &tar[..], &[], options).unwrap();
    let link = path_ops::stat(&*fs, &path("python"), Last::Keep).unwrap();
    assert_eq!(fs.readlink(link.ino).unwrap(), b"/usr/bin/python3");
}

#[test]
fn a_link_from_the_archive_is_never_walked_through() {
    let fs = mem();
    unpack(&*fs, &raw(&[("secret/key", EntryType::Regular, "", b"k")])).unwrap();
    let tar = raw(&[
        ("l", EntryType::Symlink, "secret", b""),
        ("l/key", EntryType::Regular, "", b"overwritten"),
    ]);
    unpack(&*fs, &tar).unwrap_err();
    let key = path_ops::stat(&*fs, &path("secret/key"), Last::Keep).unwrap();
    assert_eq!(&fs.read(key.ino, 0, 100).unwrap()[..], b"k");
}

#[test]
fn every_cut_and_every_flipped_header_bit_is_an_error_or_harmless() {
    let tar = raw(&[
        ("one", EntryType::Regular, "", &[1; 700]),
        ("two", EntryType::Regular, "", &[2; 10]),
    ]);
    for cut in 0..tar.len() - 1023 {
        let fs = mem();
        let error = unpack(&*fs, &tar[..cut]).unwrap_err();
        assert!(error.to_string().contains("ends early"), "{cut}: {error}");
        assert_eq!(fs.readdir(ROOT, 0, 10).unwrap().len(), 0, "{cut}");
    }
    // The checksum's own digits may be padded in more ways than one.
    for at in (0..148).chain(156..512) {
        let mut bad = tar.clone();
        bad[at] ^= 0x10;
        let fs = mem();
        assert!(unpack(&*fs, &bad).is_err(), "byte {at} of the header is not checked");
    }
}

#[test]
fn a_pax_size_that_contradicts_the_header_is_refused() {
    let record = b"16 size=1048576\n";
    let mut tar = raw(&[("pax", EntryType::XHeader, "", record)]);
    tar.truncate(tar.len() - 1024);
    tar.extend(raw(&[("file", EntryType::Regular, "", &[0; 600])]));
    let error = unpack(&*mem(), &tar).unwrap_err();
    assert!(error.to_string().contains("600") && error.to_string().contains("1048576"), "{error}");
}

#[test]
fn an_extended_header_cannot_ask_for_memory() {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(1 << 32);
    header.set_cksum();
    let error = unpack(&*mem(), header.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("PAX header"), "{error}");
}

#[test]
fn extended_headers_without_end_cannot_ask_for_memory_either() {
    let mut archive = Builder::new(Vec::new());
    let value = vec![b'v'; 500 << 10];
    for name in ["a", "b", "c", "d", "e"] {
        let name = format!("SCHILY.xattr.user.{name}");
        archive.append_pax_extensions([(name.as_str(), &value[..])]).unwrap();
    }
    let error = unpack(&*mem(), &archive.into_inner().unwrap()).unwrap_err();
    assert!(error.to_string().contains("PAX header"), "{error}");
}

#[test]
fn a_file_does_not_replace_a_directory_with_entries() {
    let fs = mem();
    unpack(&*fs, &raw(&[("d/file", EntryType::Regular, "", b"kept")])).unwrap();
    let error = unpack(&*fs, &raw(&[("d", EntryType::Regular, "", b"x")])).unwrap_err();
    assert_eq!(error.errno(), Errno::EEXIST);
    let kept = path_ops::stat(&*fs, &path("d/file"), Last::Keep).unwrap();
    assert_eq!(&fs.read(kept.ino, 0, 10).unwrap()[..], b"kept");
}

#[test]
fn directories_that_the_archive_does_not_name_keep_their_mode() {
    let fs = mem();
    let made = path_ops::make_dir(&*fs, &path("private/sub"), 0o700).unwrap();
    unpack(&*fs, &raw(&[("private/sub/file", EntryType::Regular, "", b"x")])).unwrap();
    assert_eq!(fs.getattr(made.ino).unwrap().perm, 0o700);
    unpack(&*fs, &raw(&[("private/sub/", EntryType::Directory, "", b"")])).unwrap();
    assert_eq!(fs.getattr(made.ino).unwrap().perm, 0o640);
}

#[test]
fn the_walk_finds_its_way_back_up_from_nested_directories() {
    let fs = mem();
    for dir in ["a/b/c", "a/bb", "d", "a/b/cc/e"] {
        path_ops::make_dir(&*fs, &path(dir), 0o755).unwrap();
    }
    let copy = mem();
    unpack(&*copy, &bundle(&*fs)).unwrap();
    assert_eq!(describe(&*copy), describe(&*fs));
}

#[test]
fn a_tree_nested_deeper_than_any_path_ends_its_bundle_with_an_error() {
    let fs = mem();
    let name = [b'd'; 255];
    let mut dir = ROOT;
    for _ in 0..=EXPORT_PATH_BYTES_MAX / name.len() {
        dir = fs.mknod(dir, &name, Kind::Directory, 0o755, crate::Owner::default(), 0).unwrap().ino;
    }
    let mut bundle = Bundle::new(&*fs, ROOT);
    let error = loop {
        match bundle.next_piece() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a whole bundle"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.errno(), Errno::ENAMETOOLONG);
}

fn mem() -> Arc<MemFs> {
    Arc::new(MemFs::new(Arc::new(base::SystemClock::new()), 1 << 30))
}
