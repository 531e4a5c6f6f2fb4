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
//!   nobody can store another under its name. A chunk's name ends with its birth: one that comes
//!   back after its death is another object, which no late deletion can hit.
//! - A fork names what it has from its ancestors where it lies, below *their* prefix: a number at or
//!   below an origin's belongs to that origin. What it stores itself is always below its own.
//!
//! Not here: what the objects hold (`replica::container`, `data`), names that only one module knows
//! (`data::spool`), and docs/formats.md, which describes it all to people.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use base::{Digest, Epoch, HomeId, SnapshotId};

use crate::replica::descent::Origin;

/// Digits of a number in a key.
const DIGITS: usize = 20;

/// The object keys of one home. Clones share what is known of its origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HomeKeys {
    home: HomeId,
    /// Newest first; known once a commit of this home has been read, and the same for ever.
    origins: Arc<OnceLock<Vec<Origin>>>,
}

impl HomeKeys {
    /// The keys of `home`.
    pub(crate) fn new(home: HomeId) -> Self {
        Self { home, origins: Arc::default() }
    }

    /// Whose keys these are.
    pub(crate) fn home(&self) -> &HomeId {
        &self.home
    }

    /// Where the home was forked from, as one of its own commits says.
    pub(crate) fn learn_origins(&self, origins: &[Origin]) {
        self.origins.get_or_init(|| origins.to_vec());
    }

    /// Newest first; empty of a home that is no fork.
    pub(crate) fn origins(&self) -> &[Origin] {
        self.origins.get().map_or(&[], Vec::as_slice)
    }

    /// Everything of this home starts with this.
    pub(crate) fn prefix(&self) -> String {
        prefix(&self.home)
    }

    /// Where something lies that came with commit `seq`.
    fn prefix_at(&self, seq: u64) -> String {
        let from = self.origins().iter().rev().find(|origin| seq <= origin.seq);
        prefix(from.map_or(&self.home, |origin| &origin.home))
    }

    /// Commit `seq` of the log.
    pub(crate) fn log(&self, seq: u64) -> String {
        format!("{}log/{}", self.prefix_at(seq), number(seq))
    }

    /// Where listing the home's own commits above `seq` begins.
    pub(crate) fn logs_after(&self, seq: u64) -> String {
        format!("{}{}", self.logs(), number(seq))
    }

    /// All commits of its own.
    pub(crate) fn logs(&self) -> String {
        format!("{}log/", self.prefix())
    }

    /// The sequence number in the key of a commit.
    pub(crate) fn log_seq(&self, key: &str) -> Option<u64> {
        parse_number(key.strip_prefix(&self.logs())?)
    }

    /// The whole database as of commit `seq`.
    pub(crate) fn base(&self, seq: u64) -> String {
        format!("{}base/{}", self.prefix_at(seq), number(seq))
    }

    /// Where listing the home's own bases above `seq` begins.
    pub(crate) fn bases_after(&self, seq: u64) -> String {
        format!("{}{}", self.bases(), number(seq))
    }

    /// All bases of its own.
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

    /// Pack `pack` of the writer with this epoch. Stored with `create`, see above. The epochs of a
    /// fork's own writers are above those of all its origins.
    pub(crate) fn pack(&self, epoch: Epoch, pack: u64) -> String {
        let from = self.origins().iter().rev().find(|origin| epoch <= origin.epoch);
        let home = from.map_or(&self.home, |origin| &origin.home);
        format!("{}packs/{}", prefix(home), pack_name(epoch, pack))
    }

    /// All packs of its own.
    pub(crate) fn packs(&self) -> String {
        format!("{}packs/", self.prefix())
    }

    /// Epoch and number in the key of a pack.
    pub(crate) fn pack_id(&self, key: &str) -> Option<(Epoch, u64)> {
        parse_pack_name(key.strip_prefix(&self.packs())?)
    }

    /// The chunk with this content that commit `born` stored first. A `born` of 0 stands for the
    /// name that format 1 gave, which had none.
    pub(crate) fn chunk(&self, digest: &Digest, born: u64) -> String {
        let hex = digest.to_string();
        let folder = format!("{}chunks/{}/", self.prefix_at(born), &hex[..2]);
        if born == 0 { format!("{folder}{hex}") } else { format!("{folder}{hex}-{born}") }
    }

    /// Digest and birth in the key of a chunk.
    pub(crate) fn chunk_id(&self, key: &str) -> Option<(Digest, u64)> {
        let (_, name) = key.strip_prefix(&self.chunks())?.split_once('/')?;
        let (hex, born) = match name.split_once('-') {
            Some((hex, born)) => (hex, born.parse().ok()?),
            None => (name, 0),
        };
        let digest: Digest = hex.parse().ok()?;
        (self.chunk(&digest, born) == key).then_some((digest, born))
    }

    /// All chunks of its own.
    pub(crate) fn chunks(&self) -> String {
        format!("{}chunks/", self.prefix())
    }

    /// Pages that were stored for commit or base `born`, by their content.
    pub(crate) fn page_object(&self, born: u64, digest: &Digest) -> String {
        format!("{}pages/{born}-{digest}", self.prefix_at(born))
    }

    /// The same as format 1 named it, by commit or base `born`.
    pub(crate) fn old_page_object(&self, born: u64, digest: &Digest) -> String {
        format!("{}pages/{digest}", self.prefix_at(born))
    }

    /// Birth and content of a page object of its own; no birth where format 1 named it.
    pub(crate) fn page_object_id(&self, key: &str) -> Option<(Option<u64>, Digest)> {
        let name = key.strip_prefix(&self.page_objects())?;
        let (born, hex) = match name.split_once('-') {
            Some((born, hex)) => (Some(born.parse().ok()?), hex),
            None => (None, name),
        };
        let digest: Digest = hex.parse().ok()?;
        let spelled = born.map_or_else(|| digest.to_string(), |born| format!("{born}-{digest}"));
        (spelled == name).then_some((born, digest))
    }

    /// All page objects of its own.
    pub(crate) fn page_objects(&self) -> String {
        format!("{}pages/", self.prefix())
    }

    /// The content that a page object of format 1 must have, from its key; it may be that of an
    /// origin.
    pub(crate) fn pages_digest(&self, key: &str) -> Option<Digest> {
        let homes = self.origins().iter().map(|origin| &origin.home);
        let mut homes = std::iter::once(&self.home).chain(homes);
        let name = homes.find_map(|home| key.strip_prefix(&prefix(home)))?;
        let hex = name.strip_prefix("pages/")?;
        hex.parse().ok().filter(|digest: &Digest| digest.to_string() == hex)
    }

    /// What keeps a state of this home for a snapshot.
    pub(crate) fn snapshot_pin(&self, id: &SnapshotId) -> String {
        format!("{}{id}", self.pins())
    }

    /// What keeps a state of this home for the fork `child`.
    pub(crate) fn fork_pin(&self, child: &HomeId) -> String {
        format!("{}{child}", self.pins())
    }

    /// What keeps the state that a draft stands on. `draft` is drawn for it.
    pub(crate) fn draft_pin(&self, draft: &[u8; 16]) -> String {
        format!("{}draft-{}", self.pins(), hex::encode(draft))
    }

    /// All pins.
    pub(crate) fn pins(&self) -> String {
        format!("{}pins/", self.prefix())
    }
}

fn prefix(home: &HomeId) -> String {
    format!("homes/{home}/")
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

    /// Changes that the database does not have yet.
    pub(crate) fn journal_dir(&self) -> PathBuf {
        self.root.join("journal")
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

/// Pages of a database that the store may lack, beside it.
pub(crate) fn changed_of(database: &Path) -> PathBuf {
    with_suffix(database, "-changed")
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
    fn a_chunk_is_named_by_its_content_and_its_birth() {
        let keys = keys();
        let digest = Digest::of(b"chunk");
        for born in [0, 1, u64::MAX] {
            assert_eq!(keys.chunk_id(&keys.chunk(&digest, born)), Some((digest, born)));
        }
        let old = keys.chunk(&digest, 0);
        assert!(old.ends_with(&format!("/{digest}")), "as format 1 named it");
        for suffix in ["-0", "-01", "-", "-x", "-1-1"] {
            assert_eq!(keys.chunk_id(&format!("{old}{suffix}")), None, "{suffix}");
        }
        assert_eq!(keys.chunk_id(&keys.pack(Epoch(1), 1)), None);
    }

    #[test]
    fn a_fork_names_what_it_has_from_its_ancestors_where_it_lies() {
        let (keys, parent, first) = (keys(), HomeId::generate(), HomeId::generate());
        let origin = |home: &HomeId, seq, epoch| Origin { home: home.clone(), seq, epoch };
        let origins = [origin(&parent, 20, Epoch(5)), origin(&first, 10, Epoch(3))];
        keys.learn_origins(&origins);
        keys.learn_origins(&[]);
        let of = |home: &HomeId| prefix(home);
        for (seq, home) in [(1, &first), (10, &first), (11, &parent), (20, &parent)] {
            assert!(keys.log(seq).starts_with(&of(home)), "{seq}");
            assert!(keys.base(seq).starts_with(&of(home)), "{seq}");
            assert!(keys.chunk(&Digest::of(b""), seq).starts_with(&of(home)), "{seq}");
        }
        for (epoch, home) in [(1, &first), (3, &first), (4, &parent), (5, &parent)] {
            assert!(keys.pack(Epoch(epoch), 7).starts_with(&of(home)), "{epoch}");
        }
        assert_eq!(keys.log_seq(&keys.log(21)), Some(21));
        assert_eq!(keys.pack_id(&keys.pack(Epoch(6), 7)), Some((Epoch(6), 7)));
        assert!(keys.logs_after(3).starts_with(&keys.logs()), "what is listed is its own");
        let theirs = HomeKeys::new(parent).old_page_object(1, &Digest::of(b"pages"));
        assert_eq!(keys.pages_digest(&theirs), Some(Digest::of(b"pages")));
        let stranger = HomeKeys::new(HomeId::generate()).old_page_object(1, &Digest::of(b"pages"));
        assert_eq!(keys.pages_digest(&stranger), None);
    }

    #[test]
    fn a_page_object_is_named_by_its_birth_and_its_content() {
        let keys = keys();
        let digest = Digest::of(b"pages");
        let old = keys.old_page_object(3, &digest);
        assert_eq!(keys.pages_digest(&old), Some(digest));
        assert_eq!(keys.page_object_id(&old), Some((None, digest)));
        assert_eq!(keys.page_object_id(&keys.page_object(3, &digest)), Some((Some(3), digest)));
        for name in ["03-", "-", "+3-", "3-3-", "x"] {
            let key = format!("{}{name}{digest}", keys.page_objects());
            assert_eq!(keys.page_object_id(&key), None, "{name}");
        }
        assert_eq!(keys.pages_digest(&old.to_uppercase()), None);
        assert_eq!(keys.pages_digest(&keys.chunk(&digest, 0)), None);
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
            keys.chunk(&digest, 1),
            keys.page_object(7, &digest),
        ];
        assert!(all.iter().all(|key| key.starts_with(&keys.prefix())));
        let dir = HomeDir::new("/data/home");
        assert_eq!(wal_of(&dir.database()), Path::new("/data/home/home.db-wal"));
        assert_eq!(dir.pack(Epoch(3), 4), Path::new("/data/home/packs/3-4"));
    }
}
