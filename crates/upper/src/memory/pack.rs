//! From pieces to packs and back.
//!
//! A machine that began with a template has most pages of that at the same place. A piece that does is stored as its
//! difference from the template's (exclusive or, so that what is the same is zeros), which compresses to next to nothing.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use base::Digest;
use tokio_util::sync::CancellationToken;

use super::manifest::{Image, Pack, Piece, Place, len_of, pieces_of};
use crate::error::{Error, Result};
use crate::limits::{PACK_BYTES, PAGE_BYTES, PIECE_BYTES, SMALL_PACKS_MAX, ZSTD_LEVEL};
use crate::scan;

/// The content of a memory.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    pub(crate) file_bytes: u64,
    state: Vec<u8>,
    /// Memory of the same length that pieces can lie over.
    template: Option<Arc<File>>,
}

/// A piece that is not all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) index: u32,
    pub(crate) digest: Digest,
    /// It is to be stored as its difference from the template's.
    pub(crate) over: bool,
}

impl Found {
    pub(crate) fn place(&self) -> Place {
        (self.digest, self.over.then_some(self.index))
    }

    /// Where it is stored, over a template or not.
    pub(crate) fn find<'a, T>(&self, places: &'a HashMap<Place, T>) -> Option<(&'a Place, &'a T)> {
        let over = places.get_key_value(&(self.digest, Some(self.index)));
        over.or_else(|| places.get_key_value(&(self.digest, None)))
    }
}

/// A pack that was made, and how many pieces went into it.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) body: Vec<u8>,
    pub(crate) digest: Digest,
    /// Each piece, where it begins, and its bytes.
    pub(crate) pieces: Vec<(Found, u32, u32)>,
}

impl Source {
    pub(crate) fn open(path: &Path, file_bytes: u64, state: Vec<u8>) -> Result<Self> {
        let file = File::open(path).map_err(Error::disk("open the guest's memory"))?;
        Ok(Self { file, file_bytes, state, template: None })
    }

    /// The same, to be stored over a template that has the same length.
    pub(crate) fn over(self, template: Option<Arc<File>>) -> Self {
        Self { template, ..self }
    }

    /// The difference of piece `index` from the template's, where they have enough in common.
    fn over_template(&self, index: u32, content: &[u8]) -> Result<Option<Vec<u8>>> {
        let (_, of_state) = len_of(self.file_bytes, self.state_bytes(), index);
        let Some(template) = self.template.as_ref().filter(|_| of_state.is_none()) else {
            return Ok(None);
        };
        // A piece of zeros has nothing in common with one that is not.
        let theirs = scan::read(template, self.file_bytes, PIECE_BYTES, index)?;
        Ok(theirs.filter(|theirs| is_alike(content, theirs)).map(|mut theirs| {
            lay_over(&mut theirs, content);
            theirs
        }))
    }

    pub(crate) fn state_bytes(&self) -> u64 {
        self.state.len() as u64
    }

    /// What piece `index` holds; `None` where it is all zeros.
    fn read(&self, index: u32) -> Result<Option<Vec<u8>>> {
        let (len, of_state) = len_of(self.file_bytes, self.state_bytes(), index);
        let Some(at) = of_state else {
            return scan::read(&self.file, self.file_bytes, PIECE_BYTES, index);
        };
        let begin = at as usize * PIECE_BYTES;
        let content = self.state.get(begin..begin + len).unwrap_or_default();
        Ok((!scan::is_zeros(content)).then(|| content.to_vec()))
    }

    /// All pieces that are not zeros, with their digests; `None` where it is told to stop.
    pub(crate) fn survey(&self, stop: &CancellationToken) -> Result<Option<Vec<Found>>> {
        let mut indexes = scan::with_data(&self.file, self.file_bytes, PIECE_BYTES)?;
        let of_file = pieces_of(self.file_bytes);
        let of_state = of_file..of_file + pieces_of(self.state_bytes());
        indexes.extend(of_state.filter_map(|index| u32::try_from(index).ok()));
        let mut found = Vec::with_capacity(indexes.len());
        for index in indexes {
            if stop.is_cancelled() {
                return Ok(None);
            }
            if let Some(content) = self.read(index)? {
                let over = self.over_template(index, &content)?.is_some();
                found.push(Found { index, digest: Digest::of(&content), over });
            }
        }
        Ok(Some(found))
    }

    /// Fills one pack from the front of `wanted`; `None` where it is told to stop.
    pub(crate) fn pack(
        &self,
        wanted: &[Found],
        stop: &CancellationToken,
    ) -> Result<Option<Packed>> {
        let (mut body, mut pieces) = (Vec::new(), Vec::new());
        for found in wanted {
            if stop.is_cancelled() {
                return Ok(None);
            }
            let content = self.read(found.index)?.ok_or(Error::Changed)?;
            if Digest::of(&content) != found.digest {
                return Err(Error::Changed);
            }
            let over = if found.over { self.over_template(found.index, &content)? } else { None };
            if over.is_some() != found.over {
                return Err(Error::Changed);
            }
            let piece = zstd::bulk::compress(&over.unwrap_or(content), ZSTD_LEVEL)
                .map_err(Error::disk("compress the guest's memory"))?;
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            pieces.push((*found, number(body.len()), number(piece.len())));
            body.extend_from_slice(&piece);
            if body.len() >= PACK_BYTES {
                break;
            }
        }
        Ok(Some(Packed { digest: Digest::of(&body), body, pieces }))
    }
}

/// Whether at least half of the pages that either of two pieces has are the same.
fn is_alike(one: &[u8], other: &[u8]) -> bool {
    let (mut same, mut different) = (0, 0);
    for (one, other) in one.chunks(PAGE_BYTES).zip(other.chunks(PAGE_BYTES)) {
        match one == other {
            true if scan::is_zeros(one) => {}
            true => same += 1,
            false => different += 1,
        }
    }
    same >= different
}

/// Makes of what lies below and what is to lie over it their difference, and of the difference what lay over it.
pub(crate) fn lay_over(below: &mut [u8], over: &[u8]) {
    below.iter_mut().zip(over).for_each(|(below, over)| *below ^= over);
}

/// Where pieces that are `wanted` lie already, in packs that are worth keeping: at least half of each is still
/// needed, and there are not many small ones. The others are packed anew; but where a template is not `at_hand`, what lies
/// over it would be stored whole then, and its packs are kept whatever else is in them.
pub(crate) fn kept(
    before: Option<&Image>,
    wanted: &[Found],
    at_hand: bool,
    file_bytes: u64,
) -> HashMap<Place, (Pack, Piece)> {
    let Some(before) = before else { return HashMap::new() };
    let lies_well = before.template_for(file_bytes).is_some();
    let there = before.pieces.iter().filter(|(_, piece)| !piece.over || lies_well);
    let there: HashMap<Place, &Piece> =
        there.map(|(index, piece)| (piece.place(*index), piece)).collect();
    let wanted = wanted.iter().filter_map(|found| found.find(&there));
    let wanted: HashMap<Place, &Piece> = wanted.map(|(place, piece)| (*place, *piece)).collect();
    let mut needed: HashMap<u32, Needed> = HashMap::new();
    for piece in wanted.values() {
        let needed = needed.entry(piece.pack).or_default();
        needed.bytes += u64::from(piece.stored);
        needed.dear |= piece.over && !at_hand;
    }
    let pack = |number: u32| before.packs.get(number as usize).copied();
    let is_small = |pack: &Pack| (pack.len as usize) < PACK_BYTES / 4;
    let mut packs: HashMap<u32, (Needed, Pack)> = needed
        .into_iter()
        .filter_map(|(number, needed)| Some((number, (needed, pack(number)?))))
        .filter(|(_, (needed, pack))| needed.dear || needed.bytes * 2 >= u64::from(pack.len))
        .collect();
    if packs.values().filter(|(_, pack)| is_small(pack)).count() > SMALL_PACKS_MAX {
        packs.retain(|_, (needed, pack)| needed.dear || !is_small(pack));
    }
    let in_pack =
        |(place, piece): (Place, &Piece)| Some((place, (packs.get(&piece.pack)?.1, *piece)));
    wanted.into_iter().filter_map(in_pack).collect()
}

/// What is still needed of a pack.
#[derive(Debug, Clone, Copy, Default)]
struct Needed {
    bytes: u64,
    /// Some of it cannot be packed anew as it is.
    dear: bool,
}

#[cfg(test)]
mod tests {
    use base::Epoch;

    use super::*;
    use crate::keys::{Generation, Kind, TemplateId};
    use crate::origins::Origins;

    fn digest(n: u32) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    /// One whose packs have this length and ten pieces each.
    fn image(packs: u32, len: u32) -> Image {
        let pack = |n: u32| Pack { digest: digest(1_000_000 + n), born: Epoch(1), len };
        let piece = |n: u32| Piece {
            digest: digest(n),
            pack: n / 10,
            at: n % 10 * (len / 10),
            stored: len / 10,
            over: false,
        };
        Image {
            epoch: Epoch(1),
            upper: Generation { epoch: Epoch(1), kind: Kind::Stored },
            file_bytes: u64::from(packs) * 10 * PIECE_BYTES as u64,
            state_bytes: 0,
            about: Vec::new(),
            origins: Origins::default(),
            template: None,
            packs: (0..packs).map(pack).collect(),
            pieces: (0..packs * 10).map(|n| (n, piece(n))).collect(),
        }
    }

    /// Where the memory is as long as it was.
    fn kept_of(
        before: Option<&Image>,
        wanted: &[Found],
        at_hand: bool,
    ) -> HashMap<Place, (Pack, Piece)> {
        kept(before, wanted, at_hand, before.map_or(0, |before| before.file_bytes))
    }

    fn plain(n: u32) -> Found {
        Found { index: n, digest: digest(n), over: false }
    }

    #[test]
    fn a_pack_of_which_less_than_half_is_needed_is_packed_anew() {
        let before = image(2, 8_000_000);
        let wanted = |n: std::ops::Range<u32>| n.map(plain).collect::<Vec<_>>();
        assert_eq!(kept_of(Some(&before), &wanted(0..20), true).len(), 20);
        assert_eq!(kept_of(Some(&before), &wanted(0..15), true).len(), 15);
        assert_eq!(
            kept_of(Some(&before), &wanted(0..14), true).len(),
            10,
            "of the second too little is needed"
        );
        assert_eq!(kept_of(Some(&before), &wanted(500..520), true).len(), 0);
        assert_eq!(kept_of(None, &wanted(0..20), true).len(), 0);
        // A piece that is wanted twice is needed once.
        let same: Vec<_> = (0..10).map(|index| Found { index, ..plain(3) }).collect();
        assert_eq!(kept_of(Some(&before), &same, true).len(), 0);
    }

    #[test]
    fn small_packs_do_not_become_many() {
        let wanted = |packs: u32| (0..packs * 10).map(plain).collect::<Vec<_>>();
        let few = SMALL_PACKS_MAX as u32;
        assert_eq!(kept_of(Some(&image(few, 10_000)), &wanted(few), true).len(), few as usize * 10);
        assert_eq!(kept_of(Some(&image(few + 1, 10_000)), &wanted(few + 1), true).len(), 0);
        let large = image(few + 1, 8_000_000);
        assert_eq!(kept_of(Some(&large), &wanted(few + 1), true).len(), (few as usize + 1) * 10);
    }

    #[test]
    fn what_lies_over_a_template_is_kept_where_it_is_and_nowhere_else() {
        let mut before = image(1, 8_000_000);
        before.pieces.values_mut().for_each(|piece| piece.over = true);
        before.template = Some(TemplateId(digest(7)));
        let wanted = (0..10).map(plain).collect::<Vec<_>>();
        assert_eq!(kept_of(Some(&before), &wanted, true).len(), 10, "whatever it would be now");
        let longer = before.file_bytes + 1;
        assert_eq!(kept(Some(&before), &wanted, true, longer).len(), 0, "of another length");
        let moved: Vec<_> =
            wanted.iter().map(|found| Found { index: found.index + 1, ..*found }).collect();
        assert_eq!(kept_of(Some(&before), &moved, true).len(), 0);
        // Where it cannot be made again it is kept in whatever company.
        let few = &wanted[..2];
        assert_eq!(kept_of(Some(&before), few, true).len(), 0);
        assert_eq!(kept_of(Some(&before), few, false).len(), 2);
        let many = image(SMALL_PACKS_MAX as u32 + 1, 10_000);
        let over = |image: Image| {
            let pieces =
                image.pieces.into_iter().map(|(n, piece)| (n, Piece { over: n == 0, ..piece }));
            Image { pieces: pieces.collect(), template: before.template, ..image }
        };
        let all: Vec<_> = (0..many.pieces.len() as u32).map(plain).collect();
        assert_eq!(kept_of(Some(&over(many)), &all, false).len(), 10, "all of its pack");
        // What is stored by itself is good anywhere.
        let over: Vec<_> = moved.iter().map(|found| Found { over: true, ..*found }).collect();
        assert_eq!(kept_of(Some(&image(1, 8_000_000)), &over, true).len(), 10);
    }

    #[test]
    fn pieces_are_alike_that_have_half_of_their_pages_in_common() {
        let pages =
            |numbers: &[u8]| -> Vec<u8> { numbers.iter().flat_map(|n| [*n; PAGE_BYTES]).collect() };
        assert!(is_alike(&pages(&[1, 2, 3, 4]), &pages(&[1, 2, 8, 9])));
        assert!(!is_alike(&pages(&[1, 2, 3, 4]), &pages(&[1, 7, 8, 9])));
        assert!(!is_alike(&pages(&[1, 0, 0, 0]), &pages(&[2, 0, 0, 0])), "zeros do not count");
        let (mut below, over) = (pages(&[1, 2, 3]), pages(&[1, 9, 3]));
        let was = below.clone();
        lay_over(&mut below, &over);
        assert_eq!(below, pages(&[0, 2 ^ 9, 0]));
        let mut back = was;
        lay_over(&mut back, &below);
        assert_eq!(back, over);
    }
}
