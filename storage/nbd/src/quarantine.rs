//! Ranges that a dead connection may still be writing.
//!
//! A server may execute a write long after the connection it came by is gone. If by then a newer write to the same
//! range has been acknowledged over another connection, the older one undoes it: a ghost write. So the ranges of
//! writes that were without an answer when a connection died are kept here for a time, and a newer write that
//! overlaps one waits. The same write sent again need not wait: executed twice in a row it leaves what it says.
//!
//! The list is bounded. When it is full, the two ranges nearest to each other become one, with what lies between
//! them: that delays more than need be, and lets nothing through.

use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
    until: Instant,
}

/// The ranges held of one disk.
#[derive(Clone, Debug)]
pub struct Quarantine {
    /// In ascending order, without overlap.
    ranges: Vec<Range>,
    capacity: usize,
    hold: Duration,
}

impl Quarantine {
    /// An empty quarantine of at most `capacity` ranges, at least one, each held for `hold`: the longest time the
    /// server may take to execute a request that it has received.
    pub fn new(capacity: usize, hold: Duration) -> Self {
        let capacity = capacity.max(1);
        // One more, for the moment in which a range is added to a full list.
        Self { ranges: Vec::with_capacity(capacity + 1), capacity, hold }
    }

    /// A connection died at `now` with a write to this range unanswered.
    pub fn hold(&mut self, now: Instant, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        let mut new = Range { start: offset, end: offset.saturating_add(length), until: now + self.hold };
        // What it overlaps or touches becomes one with it, and waits as long as the one that waits longer.
        let first = self.ranges.partition_point(|range| range.end < new.start);
        let last = self.ranges.partition_point(|range| range.start <= new.end);
        for range in self.ranges.drain(first..last) {
            new.start = new.start.min(range.start);
            new.end = new.end.max(range.end);
            new.until = new.until.max(range.until);
        }
        self.ranges.insert(first, new);
        if self.ranges.len() > self.capacity {
            self.join_nearest();
        }
    }

    /// Until when a newer write to this range has to wait; `None` when it need not.
    pub fn blocked(&self, now: Instant, offset: u64, length: u64) -> Option<Instant> {
        if self.ranges.is_empty() {
            return None;
        }
        let end = offset.saturating_add(length);
        let first = self.ranges.partition_point(|range| range.end <= offset);
        let overlapping = self.ranges[first..].iter().take_while(|range| range.start < end);
        overlapping.map(|range| range.until).filter(|until| *until > now).max()
    }

    /// Forget the ranges whose time has passed. Tells whether any was.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.ranges.len();
        self.ranges.retain(|range| range.until > now);
        self.ranges.len() < before
    }

    /// When the next range expires.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ranges.iter().map(|range| range.until).min()
    }

    /// The server has proved that nothing of its old connections is left to be executed.
    pub fn release(&mut self) {
        self.ranges.clear();
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn join_nearest(&mut self) {
        let gap = |index: usize| self.ranges[index + 1].start - self.ranges[index].end;
        let Some(nearest) = (0..self.ranges.len() - 1).min_by_key(|&index| gap(index)) else { return };
        let second = self.ranges.remove(nearest + 1);
        let first = &mut self.ranges[nearest];
        first.end = second.end;
        first.until = first.until.max(second.until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn only_what_overlaps_waits_and_only_for_its_time() {
        let mut quarantine = Quarantine::new(8, HOLD);
        quarantine.hold(at(0), 4096, 4096);
        quarantine.hold(at(10), 65536, 512);
        let blocked = |offset, length| quarantine.blocked(at(11), offset, length);
        assert_eq!(blocked(0, 4096), None);
        assert_eq!(blocked(8192, 4096), None);
        assert_eq!(blocked(0, 4097), Some(at(30)));
        assert_eq!(blocked(8191, 1), Some(at(30)));
        assert_eq!(blocked(0, 1 << 40), Some(at(40)), "the longest of all it overlaps");
        assert_eq!(blocked(65536, u64::MAX), Some(at(40)));
        assert_eq!(quarantine.blocked(at(30), 4096, 1), None);
        assert_eq!(quarantine.poll_timeout(), Some(at(30)));
        assert!(!quarantine.expire(at(29)) && quarantine.expire(at(30)) && !quarantine.is_empty());
        assert_eq!(quarantine.poll_timeout(), Some(at(40)));
        quarantine.release();
        assert!(quarantine.is_empty() && quarantine.poll_timeout().is_none());
    }

    #[test]
    fn a_range_lost_again_is_held_again() {
        let mut quarantine = Quarantine::new(8, HOLD);
        quarantine.hold(at(0), 0, 4096);
        quarantine.hold(at(20), 0, 4096);
        assert_eq!(quarantine.blocked(at(31), 0, 1), Some(at(50)));
        assert_eq!(quarantine.ranges.len(), 1);
    }

    #[test]
    fn a_full_list_holds_more_rather_than_less() {
        let mut quarantine = Quarantine::new(4, HOLD);
        let capacity = quarantine.ranges.capacity();
        let offsets = [0, 1 << 20, 10 << 20, 11 << 20, 40 << 20, 80 << 20];
        for (second, offset) in offsets.into_iter().enumerate() {
            quarantine.hold(at(second as u64), offset, 512);
        }
        assert_eq!((quarantine.ranges.len(), quarantine.ranges.capacity()), (4, capacity));
        for offset in offsets {
            assert!(quarantine.blocked(at(6), offset, 512).is_some());
        }
        assert_eq!(quarantine.blocked(at(6), 5 << 20, 512), None, "the wide gaps stay open");
        assert_eq!(quarantine.blocked(at(6), 20 << 20, 512), None);
        assert!(quarantine.blocked(at(6), 512 << 10, 512).is_some(), "a narrow one was closed");
    }

    #[test]
    fn it_agrees_with_a_plain_list() {
        let mut seed = 1u64;
        let mut random = |end: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % end
        };
        for capacity in [1, 3, 64] {
            let mut quarantine = Quarantine::new(capacity, HOLD);
            let mut plain: Vec<Range> = Vec::new();
            for second in 0..2000 {
                let (offset, length) = (random(1000), 1 + random(20));
                if random(3) == 0 {
                    quarantine.hold(at(second), offset, length);
                    plain.push(Range { start: offset, end: offset + length, until: at(second + 30) });
                }
                if random(4) == 0 {
                    quarantine.expire(at(second));
                }
                let overlapping =
                    plain.iter().filter(|range| range.start < offset + length && offset < range.end);
                let until = overlapping.map(|range| range.until).filter(|until| *until > at(second)).max();
                let blocked = quarantine.blocked(at(second), offset, length);
                assert!(blocked >= until, "second {second}: {blocked:?} {until:?}");
                assert!(quarantine.ranges.len() <= capacity);
                assert!(quarantine.ranges.is_sorted_by(|a, b| a.end < b.start));
            }
        }
    }
}
