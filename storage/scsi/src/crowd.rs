//! Where on the medium commands are under way, as roughly as it can be kept in one small table.
//!
//! The medium is cut into chunks, and each chunk has a counter, which it shares with others: so many ranges touch one of
//! these chunks. A range all of whose counters say one, which is itself, overlaps no other, whatever their number. What
//! the table cannot tell, because a counter is shared or a range long, is left to who can.

/// Counters.
const COUNTERS: usize = 256;
/// Bits of an offset within a chunk.
const CHUNK: u32 = 16;
/// Chunks of a range at most that is counted; longer ones are only known to be there.
const MOST: u64 = 2;

/// The ranges under way.
#[derive(Debug)]
pub(crate) struct Crowd {
    counters: [u16; COUNTERS],
    /// Ranges that are longer.
    long: usize,
}

impl Default for Crowd {
    fn default() -> Self {
        Self { counters: [0; COUNTERS], long: 0 }
    }
}

/// The counters of a range, unless it is too long. One without bytes counts as its first byte.
fn places(start: u64, end: u64) -> Option<impl Iterator<Item = usize>> {
    let (first, last) = (start >> CHUNK, end.saturating_sub(1).max(start) >> CHUNK);
    let places = (first..=last).map(|chunk| chunk as usize % COUNTERS);
    (last - first < MOST).then_some(places)
}

impl Crowd {
    /// A range comes. There are never more of them than a counter can count.
    pub(crate) fn enter(&mut self, start: u64, end: u64) {
        match places(start, end) {
            Some(places) => places.for_each(|place| self.counters[place] += 1),
            None => self.long += 1,
        }
    }

    /// A range that came goes.
    pub(crate) fn leave(&mut self, start: u64, end: u64) {
        match places(start, end) {
            Some(places) => places.for_each(|place| self.counters[place] -= 1),
            None => self.long -= 1,
        }
    }

    /// Whether it is certain that a range which came overlaps no other.
    pub(crate) fn is_alone(&self, start: u64, end: u64) -> bool {
        self.long == 0
            && places(start, end).is_some_and(|mut places| places.all(|place| self.counters[place] == 1))
    }

    /// Whether there is none.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.long == 0 && self.counters.iter().all(|counter| *counter == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_other_chunks_do_not_meet() {
        let mut crowd = Crowd::default();
        let ranges = [(0, 4096), (1 << 16, 3 << 16), (10 << 16, (10 << 16) + 512)];
        ranges.iter().for_each(|&(start, end)| crowd.enter(start, end));
        assert!(ranges.iter().all(|&(start, end)| crowd.is_alone(start, end)));
        crowd.enter((2 << 16) + 512, (2 << 16) + 1024);
        assert!(!crowd.is_alone(1 << 16, 3 << 16) && crowd.is_alone(0, 4096));
        crowd.leave((2 << 16) + 512, (2 << 16) + 1024);
        assert!(crowd.is_alone(1 << 16, 3 << 16));
    }

    #[test]
    fn a_long_range_may_be_anywhere() {
        let mut crowd = Crowd::default();
        crowd.enter(0, 4096);
        crowd.enter(1 << 30, (1 << 30) + (1 << 20));
        assert!(!crowd.is_alone(0, 4096));
        crowd.leave(1 << 30, (1 << 30) + (1 << 20));
        assert!(crowd.is_alone(0, 4096));
    }
}
