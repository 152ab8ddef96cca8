//! Sets of physical addresses, in a fixed number of pieces: the memory map is worked out before there is a heap.

use core::fmt;

/// The size of a page and of a page table.
pub(crate) const PAGE: u64 = 4096;

/// Addresses from `start` up to, and without, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first address.
    pub(crate) start: u64,
    /// One past the last; never below `start`.
    pub(crate) end: u64,
}

impl Range {
    /// No addresses.
    pub(crate) const EMPTY: Self = Self { start: 0, end: 0 };

    /// `length` addresses from `start`, cut at the end of the address space.
    pub(crate) const fn with_length(start: u64, length: u64) -> Self {
        Self { start, end: start.saturating_add(length) }
    }

    /// How many addresses there are.
    pub(crate) const fn length(self) -> u64 {
        self.end - self.start
    }

    /// Whether there are none.
    pub(crate) const fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Whether both have an address in common.
    pub(crate) const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Whether all of `other` is in it.
    pub(crate) const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The whole pages inside.
    pub(crate) const fn shrunk_to_pages(self) -> Self {
        let start = match self.start.checked_next_multiple_of(PAGE) {
            Some(start) => start,
            None => return Self::EMPTY,
        };
        let end = self.end & !(PAGE - 1);
        if start < end { Self { start, end } } else { Self::EMPTY }
    }

    /// The pages that it touches.
    pub(crate) const fn grown_to_pages(self) -> Self {
        let end = match self.end.checked_next_multiple_of(PAGE) {
            Some(end) => end,
            None => !(PAGE - 1),
        };
        Self { start: self.start & !(PAGE - 1), end }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

/// The most pieces a set can have.
const CAPACITY: usize = 160;

/// Ranges in a fixed array. Pushing one too many is remembered, not lost silently.
#[derive(Clone)]
pub(crate) struct Ranges {
    items: [Range; CAPACITY],
    length: usize,
    overflowed: bool,
}

impl Ranges {
    /// None.
    pub(crate) const fn new() -> Self {
        Self { items: [Range::EMPTY; CAPACITY], length: 0, overflowed: false }
    }

    /// Add a range; an empty one is ignored.
    pub(crate) fn push(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        match self.items.get_mut(self.length) {
            Some(slot) => {
                *slot = range;
                self.length += 1;
            }
            None => self.overflowed = true,
        }
    }

    /// Whether a range did not fit.
    pub(crate) const fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// The ranges, in the order in which they were pushed or, after [`Ranges::usable`], by address.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = Range> + '_ {
        self.items[..self.length].iter().copied()
    }

    /// Addresses in all of them.
    pub(crate) fn total(&self) -> u64 {
        self.iter().map(Range::length).sum()
    }

    /// The whole pages of `ram` that are in none of `reserved`: sorted, disjoint and not adjacent. Where a map
    /// contradicts itself, the entry that takes memory away wins.
    pub(crate) fn usable(ram: &Self, reserved: &Self) -> Self {
        let mut sorted = ram.clone();
        sorted.items[..sorted.length].sort_unstable_by_key(|range| range.start);
        let mut merged = Self::new();
        for range in sorted.iter().map(Range::shrunk_to_pages).filter(|range| !range.is_empty()) {
            match merged.items[..merged.length].last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        reserved.iter().fold(merged, |left, hole| left.without(hole.grown_to_pages()))
    }

    fn without(&self, hole: Range) -> Self {
        let mut left = Self { overflowed: self.overflowed, ..Self::new() };
        for range in self.iter() {
            if range.overlaps(hole) {
                left.push(Range { start: range.start, end: hole.start.max(range.start) });
                left.push(Range { start: hole.end.min(range.end), end: range.end });
            } else {
                left.push(range);
            }
        }
        left
    }
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::new();
        list.iter().for_each(|&(start, end)| ranges.push(Range { start, end }));
        ranges
    }

    fn usable(ram: &[(u64, u64)], reserved: &[(u64, u64)]) -> Vec<(u64, u64)> {
        Ranges::usable(&ranges(ram), &ranges(reserved)).iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn only_whole_pages_are_usable() {
        assert_eq!(usable(&[(0x1001, 0x4fff)], &[]), [(0x2000, 0x4000)]);
        assert_eq!(usable(&[(0x1001, 0x1fff)], &[]), []);
    }

    #[test]
    fn overlapping_and_unsorted_ram_becomes_one_piece() {
        let ram = [(0x8000, 0x9000), (0x1000, 0x3000), (0x2000, 0x5000), (0x5000, 0x6000)];
        assert_eq!(usable(&ram, &[]), [(0x1000, 0x6000), (0x8000, 0x9000)]);
    }

    #[test]
    fn what_is_reserved_is_cut_out_with_the_pages_it_touches() {
        assert_eq!(
            usable(&[(0, 0x8000)], &[(0x2010, 0x2020), (0x7fff, 0x9000)]),
            [(0, 0x2000), (0x3000, 0x7000)]
        );
        assert_eq!(usable(&[(0x1000, 0x2000)], &[(0, 0x10000)]), []);
    }

    #[test]
    fn the_end_of_the_address_space_does_not_wrap() {
        let last = !(PAGE - 1);
        assert_eq!(Range::with_length(u64::MAX - 5, 100).end, u64::MAX);
        assert_eq!(usable(&[(last - PAGE, u64::MAX)], &[]), [(last - PAGE, last)]);
        assert_eq!(usable(&[(0x1000, 0x3000)], &[(0x2000, u64::MAX)]), [(0x1000, 0x2000)]);
    }

    #[test]
    fn one_range_too_many_is_noticed() {
        let mut ranges = Ranges::new();
        for index in 0..CAPACITY as u64 {
            ranges.push(Range::with_length(index * 2 * PAGE, PAGE));
        }
        assert!(!ranges.overflowed());
        ranges.push(Range::with_length(1 << 40, PAGE));
        assert!(ranges.overflowed());
        let full = Ranges::usable(&ranges, &Ranges::new());
        assert!(!full.overflowed());
        assert!(full.without(Range { start: 1, end: 2 }).overflowed());
    }
}
