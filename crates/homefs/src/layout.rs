//! Every object key of a home, and the paths of its local directory. Nothing else builds a key.
//!
//! Invariants:
//! - Numbers in keys that are listed are 20 decimal digits, so that the order of keys is the order
//!   of numbers, up to the largest `u64`.
//! - A name parsed back is accepted only in the form in which it is written, so that one object has
//!   one name.
//! - Names of packs begin with the epoch of their writer. Two writers that *try for* the same epoch
//!   (a waking machine, a draft being published) can still choose the same one: packs are stored
//!   with `create`, and a writer that finds the name taken takes the next number.
//! - Page objects and chunks are named by their content, so that storing one twice is harmless and
//!   nobody can store another under its name.
//!
//! Not here: what the objects hold (`replica::container`, `data`), names that only one module knows
//! (`data::spool`), and docs/formats.md, which describes it all to people.

use std::path::{Path, PathBuf};

use base::{Digest, Epoch, HomeId};

/// Digits of a number in a key.
const DIGITS: usize = 20;

/// The object keys of one home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HomeKeys {
    home: HomeId,
}

impl HomeKeys {
    /// The keys of `home`.
    pub(crate) fn new(home: HomeId) -> Self {
        Self { home }
    }

    /// Whose keys these are.
    pub(crate) fn home(&self) -> &HomeId {
        &self.home
    }

    /// Everything of this home starts with this.
    pub(crate) fn prefix(&self) -> String {
        format!("homes/{}/", self.home)
    }

    /// Commit `seq` of the log.
    pub(crate) fn log(&self, seq: u64) -> String {
        format!("{}{}", self.logs(), number(seq))
    }

    /// All commits.
    pub(crate) fn logs(&self) -> String {
        format!("{}log/", self.prefix())
    }

    /// The sequence number in the key of a commit.
    pub(crate) fn log_seq(&self, key: &str) -> Option<u64> {
        parse_number(key.strip_prefix(&self.logs())?)
    }

    /// The whole database as of commit `seq`.
    pub(crate) fn base(&self, seq: u64) -> String {
        format!("{}{}", self.bases(), number(seq))
    }

    /// All bases.
    pub(crate) fn bases(&self) -> String {
        format!("{}base/", self.prefix())
    }

    /// The sequence number in the key of a base.
    pub(crate) fn base_seq(&self, key: &str) -> Option<u64> {
        parse_number(key.strip_prefix(&self.bases())?)
    }

    /// The object that says up to where commits may be gone.
    pub(crate) fn boundary(&self) -> String {
        format!("{}boundary", self.prefix())
    }

    /// Pack `pack` of the writer with this epoch. Stored with `create`, see above.
    pub(crate) fn pack(&self, epoch: Epoch, pack: u64) -> String {
        format!("{}{}", self.packs(), pack_name(epoch, pack))
    }

    /// All packs.
    pub(crate) fn packs(&self) -> String {
        format!("{}packs/", self.prefix())
    }

    /// Epoch and number in the key of a pack.
    pub(crate) fn pack_id(&self, key: &str) -> Option<(Epoch, u64)> {
        parse_pack_name(key.strip_prefix(&self.packs())?)
    }

    /// The chunk with this content.
    pub(crate) fn chunk(&self, digest: &Digest) -> String {
        let hex = digest.to_string();
        format!("{}{}/{hex}", self.chunks(), &hex[..2])
    }

    /// All chunks.
    pub(crate) fn chunks(&self) -> String {
        format!("{}chunks/", self.prefix())
    }

    /// Pages of a commit or a base that are an object of their own, by their content.
    pub(crate) fn pages(&self, digest: &Digest) -> String {
        format!("{}{digest}", self.page_objects())
    }

    /// All page objects.
    pub(crate) fn page_objects(&self) -> String {
        format!("{}pages/", self.prefix())
    }

    /// The content that a page object must have, from its key.
    pub(crate) fn pages_digest(&self, key: &str) -> Option<Digest> {
        let hex = key.strip_prefix(&self.page_objects())?;
        hex.parse().ok().filter(|digest: &Digest| digest.to_string() == hex)
    }
}

/// The local directory of a home or of a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HomeDir {
    root: PathBuf,
}

impl HomeDir {
    /// The paths below `root`. Nothing is created.
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The metadata.
    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("home.db")
    }

    /// Where the bytes of files wait until they are sealed.
    pub(crate) fn spool_dir(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Packs that are here.
    pub(crate) fn packs_dir(&self) -> PathBuf {
        self.root.join("packs")
    }

    /// A sealed pack.
    pub(crate) fn pack(&self, epoch: Epoch, pack: u64) -> PathBuf {
        self.packs_dir().join(pack_name(epoch, pack))
    }

    /// Chunks that are here.
    pub(crate) fn chunks_dir(&self) -> PathBuf {
        self.root.join("chunks")
    }

    /// One chunk.
    pub(crate) fn chunk(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.chunks_dir().join(&hex[..2]).join(hex)
    }

    /// What the replicator knew of the log, see `replica::state`.
    pub(crate) fn replica_state(&self) -> PathBuf {
        self.root.join("replica.json")
    }

    /// Locked by the process that has this directory open.
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
}

/// SQLite's log beside a database file.
pub(crate) fn wal_of(database: &Path) -> PathBuf {
    with_suffix(database, "-wal")
}

/// SQLite's shared memory beside a database file.
pub(crate) fn shm_of(database: &Path) -> PathBuf {
    with_suffix(database, "-shm")
}

/// Where a new version of a file is written before it is renamed over the old one.
pub(crate) fn temporary_of(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn number(n: u64) -> String {
    format!("{n:0DIGITS$}")
}

fn parse_number(text: &str) -> Option<u64> {
    let digits = text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn pack_name(epoch: Epoch, pack: u64) -> String {
    format!("{epoch}-{pack}")
}

fn parse_pack_name(name: &str) -> Option<(Epoch, u64)> {
    let (epoch, pack) = name.split_once('-')?;
    let (epoch, pack) = (Epoch(epoch.parse().ok()?), pack.parse().ok()?);
    // Only the way it is written: no `+1`, no leading zeros.
    (pack_name(epoch, pack) == name).then_some((epoch, pack))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> HomeKeys {
        HomeKeys::new(HomeId::generate())
    }

    #[test]
    fn the_order_of_log_keys_is_the_order_of_commits() {
        let keys = keys();
        let seqs = [1, 9, 10, 99, 100, u64::from(u32::MAX), u64::MAX - 1, u64::MAX];
        let names: Vec<_> = seqs.iter().map(|n| keys.log(*n)).collect();
        assert!(names.is_sorted());
        assert!(names.iter().zip(seqs).all(|(name, seq)| keys.log_seq(name) == Some(seq)));
    }

    #[test]
    fn a_number_has_one_spelling() {
        let keys = keys();
        for text in ["1", "+0000000000000000001", "000000000000000000001", "99999999999999999999"] {
            assert_eq!(keys.log_seq(&format!("{}{text}", keys.logs())), None, "{text}");
        }
        assert_eq!(keys.log_seq(&keys.base(1)), None);
        assert_eq!(keys.base_seq(&keys.base(7)), Some(7));
        for text in ["1-01", "+1-1", "1-1-1", "1", "-1"] {
            assert_eq!(keys.pack_id(&format!("{}{text}", keys.packs())), None, "{text}");
        }
        assert_eq!(keys.pack_id(&keys.pack(Epoch(3), 12)), Some((Epoch(3), 12)));
    }

    #[test]
    fn a_page_object_is_named_by_its_content() {
        let keys = keys();
        let digest = Digest::of(b"pages");
        assert_eq!(keys.pages_digest(&keys.pages(&digest)), Some(digest));
        assert_eq!(keys.pages_digest(&keys.pages(&digest).to_uppercase()), None);
        assert_eq!(keys.pages_digest(&keys.chunk(&digest)), None);
    }

    #[test]
    fn everything_of_a_home_is_below_its_prefix() {
        let keys = keys();
        let digest = Digest::of(b"");
        let all = [
            keys.log(1),
            keys.base(1),
            keys.boundary(),
            keys.pack(Epoch(1), 1),
            keys.chunk(&digest),
            keys.pages(&digest),
        ];
        assert!(all.iter().all(|key| key.starts_with(&keys.prefix())));
        let dir = HomeDir::new("/data/home");
        assert_eq!(wal_of(&dir.database()), Path::new("/data/home/home.db-wal"));
        assert_eq!(dir.pack(Epoch(3), 4), Path::new("/data/home/packs/3-4"));
    }
}
