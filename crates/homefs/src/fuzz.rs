//! Bytes from the store and from this disk that nobody of ours wrote, behind sums that fit.

use base::HomeId;
use bytes::Bytes;
use fuzz::{Target, outcome};

use crate::front::delta::{Delta, EntryKey};
use crate::front::record::{self, Patch, SpoolStep};
use crate::layout::HomeKeys;
use crate::meta::counters::Counters;
use crate::meta::rows::Entry;
use crate::replica::fuzz as replica;

#[test]
fn headers_of_commits() {
    let target = Target {
        name: "commit-header",
        examples: replica::headers(),
        words: &[
            b"\"restores\":[{\"at\":5,\"of\":3}]",
            b"\"origins\":[",
            b"\"base\"",
            b"\"release\"",
        ],
        bytes_max: 16 << 10,
        memory_max: 512 << 10,
    };
    target.run(|input| vec![outcome(replica::read_header(input))]);
}

#[test]
fn indexes_of_commits() {
    let target = Target {
        name: "commit-index",
        examples: replica::indexes(),
        words: &[b"\x80\x01", b"\xff\xff\xff\xff\x0f"],
        bytes_max: 8 << 10,
        memory_max: 4 << 20,
    };
    target.run(|input| vec![outcome(replica::read_index(input))]);
}

#[test]
fn objects_of_commits() {
    let keys = HomeKeys::new(HomeId::generate());
    let target = Target {
        name: "commit-object",
        examples: replica::objects(),
        words: &[b"DMCOMMIT"],
        bytes_max: 32 << 10,
        memory_max: 8 << 20,
    };
    target.run(|input| vec![outcome(replica::read_object(input, &keys))]);
}

fn records() -> Vec<Vec<u8>> {
    let mut rows = Delta::default();
    let key = EntryKey { parent: 1, name: b"name"[..].into() };
    rows.put_entry(key, Some(Entry { ino: 300, cookie: 7 }), true);
    rows.blobs.insert(300, Some(Bytes::from_static(b"0123456789")));
    rows.inodes.insert(299, None);
    rows.orphans.insert(298, Some(true));
    rows.cuts.insert(297, 4096);
    let steps = [
        SpoolStep::Cover { ino: 5, generation: 1 << 50, start: 0, end: 1 << 40 },
        SpoolStep::Drop(6),
    ];
    let counters = Counters { next_ino: 301, version: u64::MAX, ..Counters::default() };
    let patches = [None, Some(Patch { at: 4, len: 3 })];
    patches.map(|patch| encoded(&counters, &rows, patch, &steps)).to_vec()
}

fn encoded(of: &Counters, rows: &Delta, patch: Option<Patch>, steps: &[SpoolStep]) -> Vec<u8> {
    let mut record = Vec::new();
    record::encode(&mut record, of, rows, |_| patch, steps);
    record
}

#[test]
fn records_of_the_journal() {
    let target = Target {
        name: "journal-record",
        examples: records(),
        words: &[b"\x01", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"],
        bytes_max: 4096,
        memory_max: 64 << 10,
    };
    target.run(|input| {
        let (mut counters, mut made) = (Counters::default(), Vec::new());
        let done = record::decode(input, &mut counters, |item| {
            made.push(outcome(std::mem::discriminant(&item)));
            Ok(())
        });
        made.push(u64::from(done.is_ok()));
        made
    });
}
