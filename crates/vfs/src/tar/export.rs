//! A tree as a tar stream, pulled piece by piece.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tar::{EntryType, Header};

use super::EXPORT_PATH_BYTES_MAX;
use crate::held::Held;
use crate::{Attr, Errno, FileSystem, FsError, Ino, Kind, Result, Time};

/// How much of a file is read at a time.
const COPY_BYTES: u32 = 256 << 10;
/// How many entries of a directory are asked for at a time.
const LIST_ENTRIES: usize = 512;
/// Bytes of a block.
const BLOCK: usize = 512;

/// A tar stream of a directory's content: names are relative to it, the directory itself comes first
/// as `./`. Times have nanoseconds (PAX), extended attributes ride along, hard links within the tree
/// stay links. Sockets are left out, as tar has no entry for them.
///
/// A file that shrinks while it is sent is filled up with zeros, one that grows is cut at the size
/// that its header has promised: the stream stays readable whatever happens to the tree.
#[derive(Debug)]
pub struct Bundle<'a> {
    fs: Held<'a>,
    /// Directories that are being walked, innermost last.
    walk: Vec<Level>,
    /// The path of the innermost one, with a slash at its end. One for all levels: a path for each
    /// would cost memory by the square of the depth, and a guest can nest tens of thousands deep.
    path: Vec<u8>,
    /// The file whose content goes out now.
    file: Option<Content>,
    /// Single paths that are still to go, last one first.
    listed: Vec<(Vec<u8>, Attr)>,
    /// First path of each inode that has several names.
    links: HashMap<Ino, Vec<u8>>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Start(Ino),
    Walking,
    Ended,
}

#[derive(Debug)]
struct Level {
    dir: Ino,
    /// How much of the path stands for the directories above this one.
    above: usize,
    cookie: u64,
    /// Entries read and not sent yet, last one first.
    batch: Vec<crate::DirEntry>,
}

#[derive(Debug)]
struct Content {
    ino: Ino,
    at: u64,
    size: u64,
}

impl Bundle<'static> {
    /// The content of the directory `root`, for a reader that comes back for every piece.
    #[must_use]
    pub fn shared(fs: Arc<dyn FileSystem>, root: Ino) -> Self {
        Self::of_tree(Held::Shared(fs), root)
    }
}

impl<'a> Bundle<'a> {
    /// The content of the directory `root`.
    #[must_use]
    pub fn new(fs: &'a dyn FileSystem, root: Ino) -> Self {
        Self::of_tree(Held::Borrowed(fs), root)
    }

    fn of_tree(fs: Held<'a>, root: Ino) -> Self {
        Self {
            fs,
            walk: Vec::new(),
            path: Vec::new(),
            file: None,
            listed: Vec::new(),
            links: HashMap::new(),
            state: State::Start(root),
        }
    }

    /// Just these paths, in this order; a directory stands for itself, not for what is in it.
    #[must_use]
    pub fn of_paths(fs: &'a dyn FileSystem, paths: Vec<(Vec<u8>, Attr)>) -> Self {
        let mut listed = paths;
        listed.reverse();
        Self { listed, state: State::Walking, ..Self::new(fs, crate::ROOT) }
    }

    /// The next piece of the stream, never empty; `None` after the end-of-archive marker.
    ///
    /// # Errors
    /// Those of the file system. The stream is then cut short, which a reader can tell.
    pub fn next_piece(&mut self) -> Result<Option<Bytes>> {
        if let Some(piece) = self.content()? {
            return Ok(Some(piece));
        }
        match self.state {
            State::Start(root) => {
                self.state = State::Walking;
                let attr = self.fs.get().getattr(root)?;
                self.walk.push(Level { dir: root, above: 0, cookie: 0, batch: Vec::new() });
                self.headers(&attr, b"./", None).map(Some)
            }
            State::Walking => self.next_entry(),
            State::Ended => Ok(None),
        }
    }

    fn content(&mut self) -> Result<Option<Bytes>> {
        let Some(file) = &mut self.file else { return Ok(None) };
        let left = file.size - file.at;
        let want = u32::try_from(left).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        let data = self.fs.get().read(file.ino, file.at, want)?;
        let mut piece = Vec::with_capacity(want as usize + BLOCK);
        piece.extend_from_slice(&data[..data.len().min(want as usize)]);
        piece.resize(want as usize, 0);
        file.at += u64::from(want);
        if file.at == file.size {
            piece.resize(piece.len().next_multiple_of(BLOCK), 0);
            self.file = None;
        }
        Ok(Some(piece.into()))
    }

    fn next_entry(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some((mut path, attr)) = self.listed.pop() {
                match attr.kind {
                    Kind::Socket => continue,
                    Kind::Directory => path.push(b'/'),
                    _ => {}
                }
                return self.leaf(&attr, path).map(Some);
            }
            let Some(level) = self.walk.last_mut() else {
                self.state = State::Ended;
                return Ok(Some(Bytes::from_static(&[0; 2 * BLOCK])));
            };
            let Some(entry) = level.batch.pop() else {
                let mut batch = self.fs.get().readdir(level.dir, level.cookie, LIST_ENTRIES)?;
                match batch.last() {
                    None => {
                        self.path.truncate(level.above);
                        self.walk.pop();
                    }
                    Some(last) => {
                        level.cookie = last.cookie;
                        batch.reverse();
                        level.batch = batch;
                    }
                }
                continue;
            };
            let above = self.path.len();
            if above + entry.name.len() >= EXPORT_PATH_BYTES_MAX {
                return Err(FsError::with(
                    Errno::ENAMETOOLONG,
                    format!(
                        "a path has more than {EXPORT_PATH_BYTES_MAX} bytes: bundle the directories below it"
                    ),
                ));
            }
            let mut path = self.path.clone();
            path.extend_from_slice(&entry.name);
            let attr = entry.attr;
            match attr.kind {
                Kind::Socket => {}
                Kind::Directory => {
                    path.push(b'/');
                    let piece = self.headers(&attr, &path, None)?;
                    self.walk.push(Level { dir: attr.ino, above, cookie: 0, batch: Vec::new() });
                    self.path = path;
                    return Ok(Some(piece));
                }
                _ => return self.leaf(&attr, path).map(Some),
            }
        }
    }

    fn leaf(&mut self, attr: &Attr, path: Vec<u8>) -> Result<Bytes> {
        if attr.nlink > 1 && attr.kind != Kind::Directory {
            if let Some(first) = self.links.get(&attr.ino) {
                let first = first.clone();
                return self.headers(attr, &path, Some(&first));
            }
            self.links.insert(attr.ino, path.clone());
        }
        let piece = self.headers(attr, &path, None)?;
        if attr.kind == Kind::File && attr.size > 0 {
            self.file = Some(Content { ino: attr.ino, at: 0, size: attr.size });
        }
        Ok(piece)
    }

    /// The header of one entry, with a PAX header before it where ustar cannot say it all.
    fn headers(&self, attr: &Attr, path: &[u8], hard_link: Option<&[u8]>) -> Result<Bytes> {
        let symlink;
        let (kind, link) = match (hard_link, attr.kind) {
            (Some(first), _) => (EntryType::Link, Some(first)),
            (None, Kind::Symlink) => {
                symlink = self.fs.get().readlink(attr.ino)?;
                (EntryType::Symlink, Some(symlink.as_slice()))
            }
            (None, Kind::Directory) => (EntryType::Directory, None),
            (None, Kind::Fifo) => (EntryType::Fifo, None),
            (None, Kind::CharDevice) => (EntryType::Char, None),
            (None, Kind::BlockDevice) => (EntryType::Block, None),
            (None, Kind::File | Kind::Socket) => (EntryType::Regular, None),
        };
        let size = if kind == EntryType::Regular { attr.size } else { 0 };
        let mut header = Header::new_ustar();
        let mut pax = Vec::new();
        header.set_entry_type(kind);
        header.set_mode(attr.perm);
        header.set_uid(u64::from(attr.owner.uid));
        header.set_gid(u64::from(attr.owner.gid));
        set_name(&mut header, 0, path, b"path", &mut pax);
        if let Some(link) = link {
            set_name(&mut header, 157, link, b"linkpath", &mut pax);
        }
        if size < 1 << 33 {
            header.set_size(size);
        } else {
            // Eleven octal digits end here. The header says 0, so that no reader sees two sizes.
            header.set_size(0);
            record(&mut pax, b"size", size.to_string().as_bytes());
        }
        header.set_mtime(u64::try_from(attr.mtime.seconds()).unwrap_or(0));
        if attr.mtime.nanos() != 0 || attr.mtime.seconds() < 0 {
            record(&mut pax, b"mtime", pax_time(attr.mtime).as_bytes());
        }
        if matches!(attr.kind, Kind::CharDevice | Kind::BlockDevice) {
            // Cannot fail: a ustar header has these fields. Linux packs 12 bits of major and 20 of minor.
            header.set_device_major((attr.rdev >> 8) & 0xfff).ok();
            header.set_device_minor((attr.rdev & 0xff) | ((attr.rdev >> 12) & 0xf_ff00)).ok();
        }
        if hard_link.is_none() && attr.kind != Kind::Symlink {
            for name in self.fs.get().listxattr(attr.ino)? {
                let value = self.fs.get().getxattr(attr.ino, &name)?;
                record(&mut pax, &[b"SCHILY.xattr.", name.as_slice()].concat(), &value);
            }
        }
        header.set_cksum();
        let mut out = Vec::with_capacity(4 * BLOCK);
        if !pax.is_empty() {
            let mut before = Header::new_ustar();
            before.set_entry_type(EntryType::XHeader);
            before.set_mode(0o644);
            before.set_size(pax.len() as u64);
            before.as_mut_bytes()[..9].copy_from_slice(b"PaxHeader");
            before.set_cksum();
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(&pax);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        out.extend_from_slice(header.as_bytes());
        Ok(out.into())
    }
}

/// Puts a name into its 100-byte field at `at`, or where it is too long into a PAX record.
fn set_name(header: &mut Header, at: usize, name: &[u8], key: &[u8], pax: &mut Vec<u8>) {
    let fits = name.len().min(100);
    header.as_mut_bytes()[at..at + fits].copy_from_slice(&name[..fits]);
    if name.len() > 100 {
        record(pax, key, name);
    }
}

/// Appends a PAX record, whose length counts its own digits.
fn record(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    pax.extend_from_slice(format!("{length} ").as_bytes());
    pax.extend_from_slice(key);
    pax.push(b'=');
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

fn pax_time(time: Time) -> String {
    let (sign, nanos) =
        if time.0 < 0 { ("-", time.0.unsigned_abs()) } else { ("", time.0.unsigned_abs()) };
    format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}
