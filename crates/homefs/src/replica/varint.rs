//! Numbers of variable length: seven bits a byte, least significant first.

/// The most bytes of one number.
const BYTES_MAX: u32 = 10;

/// Bytes that grow.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7F) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Bytes that are read from the front. Everything answers `None` where they end too early.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next `len` bytes.
    pub(crate) fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(first)
    }

    /// A number in its only spelling: no zeros at its end, nothing above 64 bits.
    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for place in 0..BYTES_MAX {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            let shifted = bits.checked_shl(7 * place)?;
            if shifted >> (7 * place) != bits || (byte == 0 && place > 0) {
                return None;
            }
            number |= shifted;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// How many follow, each of at least `bytes` bytes: never more than there can be.
    pub(crate) fn count(&mut self, bytes: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count.checked_mul(bytes)? <= self.left()).then_some(count)
    }
}

/// Small numbers of either sign as small numbers.
pub(crate) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// Back again; `None` of what is far beyond any page number.
pub(crate) fn unzigzag(number: u64) -> Option<i64> {
    let half = i64::try_from(number >> 1).ok().filter(|half| *half <= i64::from(u32::MAX))?;
    Some(if number & 1 == 0 { half } else { -half - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Writer::default();
            out.number(number);
            let bytes = out.into_bytes();
            let mut from = Reader::new(&bytes);
            assert_eq!(from.number(), Some(number));
            assert_eq!(from.left(), 0);
            assert_eq!(Reader::new(&bytes[..bytes.len() - 1]).number(), None);
        }
        for number in [0, 1, -1, 5_000_000, -5_000_000, i64::from(u32::MAX)] {
            assert_eq!(unzigzag(zigzag(number)), Some(number));
        }
    }

    #[test]
    fn a_number_has_one_spelling() {
        for bytes in [&[0x80, 0][..], &[0xFF; 10], &[0x80; 11], &[0xFF, 0xFF, 0xFF]] {
            assert_eq!(Reader::new(bytes).number(), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_count_is_bounded_by_what_is_there() {
        assert_eq!(Reader::new(&[3, 0, 0, 0]).count(1), Some(3));
        assert_eq!(Reader::new(&[4, 0, 0, 0]).count(1), None);
    }
}
