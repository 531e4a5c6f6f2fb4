//! The bytes of one file: pages that exist, and holes that read as zeros.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Size of a page in bytes.
pub(super) const PAGE: u64 = 4096;
/// Largest file: what a signed 64-bit offset can say.
pub(super) const SIZE_MAX: u64 = i64::MAX as u64;

type Page = [u8; PAGE as usize];

/// Pages are shared between copies of the state until one of them writes.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    size: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// Bytes that a write to this range would allocate anew.
    pub(super) fn missing(&self, offset: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let (first, last) = (offset / PAGE, (offset + len - 1) / PAGE);
        let there = self.pages.range(first..=last).count() as u64;
        (last - first + 1 - there) * PAGE
    }

    pub(super) fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let end = offset.saturating_add(len).min(self.size);
        if end <= offset {
            return Vec::new();
        }
        let mut out = vec![0; end.saturating_sub(offset) as usize];
        for (index, page) in self.pages.range(offset / PAGE..) {
            let start = index * PAGE;
            if start >= end {
                break;
            }
            let (from, to) = (start.max(offset), (start + PAGE).min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
        }
        out
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let mut at = offset;
        while at < end {
            let (index, within) = (at / PAGE, (at % PAGE) as usize);
            let step = (PAGE as usize - within).min((end - at) as usize);
            let page = self.page(index);
            let from = (at - offset) as usize;
            page[within..within + step].copy_from_slice(&data[from..from + step]);
            at += step as u64;
        }
        if !data.is_empty() {
            self.size = self.size.max(end);
        }
    }

    pub(super) fn resize(&mut self, size: u64) {
        if size < self.size {
            self.punch(size, self.size - size);
        }
        self.size = size;
    }

    /// Makes the range read as zeros; whole pages become holes. The size stays.
    pub(super) fn punch(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let touched: Vec<u64> =
            self.pages.range(offset / PAGE..end.div_ceil(PAGE)).map(|(index, _)| *index).collect();
        for index in touched {
            let start = index * PAGE;
            let (from, to) = (start.max(offset), (start + PAGE).min(end));
            if to - from == PAGE {
                self.pages.remove(&index);
            } else {
                self.page(index)[(from - start) as usize..(to - start) as usize].fill(0);
            }
        }
    }

    /// Gives the range pages, and the file a size that covers it if `grow`.
    pub(super) fn allocate(&mut self, offset: u64, len: u64, grow: bool) {
        for index in offset / PAGE..(offset + len).div_ceil(PAGE) {
            self.page(index);
        }
        if grow {
            self.size = self.size.max(offset + len);
        }
    }

    /// The first page at or after `offset` that exists, as an offset below the size.
    pub(super) fn next_data(&self, offset: u64) -> Option<u64> {
        let (index, _) = self.pages.range(offset / PAGE..).next()?;
        let at = (index * PAGE).max(offset);
        (at < self.size).then_some(at)
    }

    /// The first hole at or after `offset`; the end of the file is one.
    pub(super) fn next_hole(&self, offset: u64) -> u64 {
        let mut index = offset / PAGE;
        while self.pages.contains_key(&index) {
            index += 1;
        }
        (index * PAGE).max(offset).min(self.size)
    }

    fn page(&mut self, index: u64) -> &mut Page {
        Arc::make_mut(self.pages.entry(index).or_insert_with(|| Arc::new([0; PAGE as usize])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_end_there_is_nothing_also_within_the_last_page() {
        let mut content = Content::default();
        content.write(0, b"short");
        assert!(content.read(100, 10).is_empty() && content.read(5, 1).is_empty());
        assert_eq!(content.read(4, 9), b"t");
    }
}
