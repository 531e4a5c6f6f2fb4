//! From pieces to packs and back.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use base::Digest;
use tokio_util::sync::CancellationToken;

use super::manifest::{Image, Pack, Piece, len_of, pieces_of};
use crate::error::{Error, Result};
use crate::limits::{PACK_BYTES, PIECE_BYTES, SMALL_PACKS_MAX, ZSTD_LEVEL};
use crate::scan;

/// The content of a memory.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    pub(crate) file_bytes: u64,
    state: Vec<u8>,
}

/// A pack that was made, and how many pieces went into it.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) body: Vec<u8>,
    pub(crate) digest: Digest,
    /// Where each piece begins, and its bytes.
    pub(crate) pieces: Vec<(Digest, u32, u32)>,
}

impl Source {
    pub(crate) fn open(path: &Path, file_bytes: u64, state: Vec<u8>) -> Result<Self> {
        let file = File::open(path).map_err(Error::disk("open the guest's memory"))?;
        Ok(Self { file, file_bytes, state })
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
    pub(crate) fn survey(&self, stop: &CancellationToken) -> Result<Option<Vec<(u32, Digest)>>> {
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
                found.push((index, Digest::of(&content)));
            }
        }
        Ok(Some(found))
    }

    /// Fills one pack from the front of `wanted`; `None` where it is told to stop.
    pub(crate) fn pack(
        &self,
        wanted: &[(u32, Digest)],
        stop: &CancellationToken,
    ) -> Result<Option<Packed>> {
        let (mut body, mut pieces) = (Vec::new(), Vec::new());
        for (index, digest) in wanted {
            if stop.is_cancelled() {
                return Ok(None);
            }
            let content = self.read(*index)?.ok_or(Error::Changed)?;
            if Digest::of(&content) != *digest {
                return Err(Error::Changed);
            }
            let piece = zstd::bulk::compress(&content, ZSTD_LEVEL)
                .map_err(Error::disk("compress the guest's memory"))?;
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            pieces.push((*digest, number(body.len()), number(piece.len())));
            body.extend_from_slice(&piece);
            if body.len() >= PACK_BYTES {
                break;
            }
        }
        Ok(Some(Packed { digest: Digest::of(&body), body, pieces }))
    }
}

/// Where pieces that are `wanted` lie already, in packs that are worth keeping: at least half of each is still
/// needed, and there are not many small ones. The others are packed anew.
pub(crate) fn kept(
    before: Option<&Image>,
    wanted: &[(u32, Digest)],
) -> HashMap<Digest, (Pack, Piece)> {
    let Some(before) = before else { return HashMap::new() };
    let there: HashMap<Digest, &Piece> =
        before.pieces.values().map(|piece| (piece.digest, piece)).collect();
    let wanted: HashSet<Digest> = wanted.iter().map(|(_, digest)| *digest).collect();
    let mut needed: HashMap<u32, u64> = HashMap::new();
    for piece in wanted.iter().filter_map(|digest| there.get(digest)) {
        *needed.entry(piece.pack).or_default() += u64::from(piece.stored);
    }
    let pack = |number: u32| before.packs.get(number as usize).copied();
    let is_small = |pack: &Pack| (pack.len as usize) < PACK_BYTES / 4;
    let mut packs: HashMap<u32, Pack> = needed
        .into_iter()
        .filter_map(|(number, needed)| Some((number, needed, pack(number)?)))
        .filter(|(_, needed, pack)| needed * 2 >= u64::from(pack.len))
        .map(|(number, _, pack)| (number, pack))
        .collect();
    if packs.values().filter(|pack| is_small(pack)).count() > SMALL_PACKS_MAX {
        packs.retain(|_, pack| !is_small(pack));
    }
    wanted
        .into_iter()
        .filter_map(|digest| {
            let piece = **there.get(&digest)?;
            Some((digest, (*packs.get(&piece.pack)?, piece)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use base::Epoch;

    use super::*;
    use crate::keys::{Generation, Kind};
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
        };
        Image {
            epoch: Epoch(1),
            upper: Generation { epoch: Epoch(1), kind: Kind::Stored },
            file_bytes: u64::from(packs) * 10 * PIECE_BYTES as u64,
            state_bytes: 0,
            about: Vec::new(),
            origins: Origins::default(),
            packs: (0..packs).map(pack).collect(),
            pieces: (0..packs * 10).map(|n| (n, piece(n))).collect(),
        }
    }

    #[test]
    fn a_pack_of_which_less_than_half_is_needed_is_packed_anew() {
        let before = image(2, 8_000_000);
        let wanted = |n: std::ops::Range<u32>| n.map(|n| (n, digest(n))).collect::<Vec<_>>();
        assert_eq!(kept(Some(&before), &wanted(0..20)).len(), 20);
        assert_eq!(kept(Some(&before), &wanted(0..15)).len(), 15);
        assert_eq!(
            kept(Some(&before), &wanted(0..14)).len(),
            10,
            "of the second too little is needed"
        );
        assert_eq!(kept(Some(&before), &wanted(500..520)).len(), 0);
        assert_eq!(kept(None, &wanted(0..20)).len(), 0);
        // A piece that is wanted twice is needed once.
        let same: Vec<_> = (0..10).map(|n| (n, digest(3))).collect();
        assert_eq!(kept(Some(&before), &same).len(), 0);
    }

    #[test]
    fn small_packs_do_not_become_many() {
        let wanted = |packs: u32| (0..packs * 10).map(|n| (n, digest(n))).collect::<Vec<_>>();
        let few = SMALL_PACKS_MAX as u32;
        assert_eq!(kept(Some(&image(few, 10_000)), &wanted(few)).len(), few as usize * 10);
        assert_eq!(kept(Some(&image(few + 1, 10_000)), &wanted(few + 1)).len(), 0);
        let large = image(few + 1, 8_000_000);
        assert_eq!(kept(Some(&large), &wanted(few + 1)).len(), (few as usize + 1) * 10);
    }
}
