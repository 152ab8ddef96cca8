//! What a guest wrote to its console lately, and what it is still to read.

use std::collections::VecDeque;

/// How much of what a guest wrote is kept. It writes what it likes, so more would be memory that a guest can take.
const KEPT: usize = 16 * 1024;
/// How much a guest that does not read is to read at most.
const WAITING: usize = 4 * 1024;

/// What a console holds from some place on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsolePage {
    /// How many bytes the guest had written before the first of these. More than was asked for: those between are not
    /// kept any more.
    pub from: u64,
    /// What it wrote then, as it wrote it: to be shown to nobody's terminal as it is.
    pub bytes: Vec<u8>,
}

/// One console.
#[derive(Debug, Default)]
pub(crate) struct Console {
    kept: VecDeque<u8>,
    /// How many bytes have been written in all.
    written: u64,
    waiting: VecDeque<u8>,
}

impl Console {
    /// The guest wrote this.
    pub(crate) fn wrote(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        let last = &bytes[bytes.len().saturating_sub(KEPT)..];
        let excess = (self.kept.len() + last.len()).saturating_sub(KEPT);
        self.kept.drain(..excess);
        self.kept.extend(last);
    }

    /// What it wrote after the first `after` bytes, at most `most` of it.
    pub(crate) fn page(&self, after: u64, most: usize) -> ConsolePage {
        let first = self.written - self.kept.len() as u64;
        let from = after.clamp(first, self.written);
        // Within what is kept, so it is small.
        let skipped = (from - first) as usize;
        ConsolePage { from, bytes: self.kept.iter().skip(skipped).take(most).copied().collect() }
    }

    /// The guest is to read this; how much of it there was room for.
    pub(crate) fn type_in(&mut self, bytes: &[u8]) -> usize {
        let room = WAITING.saturating_sub(self.waiting.len()).min(bytes.len());
        self.waiting.extend(&bytes[..room]);
        room
    }

    /// What it is to read next.
    pub(crate) fn to_read(&self) -> &[u8] {
        self.waiting.as_slices().0
    }

    /// It has read so much of it.
    pub(crate) fn has_read(&mut self, count: usize) {
        self.waiting.drain(..count.min(self.waiting.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_writes_without_end_takes_no_more_memory_and_who_reads_is_told_of_the_gap() {
        let mut console = Console::default();
        console.wrote(b"first ");
        assert_eq!(console.page(0, 3), ConsolePage { from: 0, bytes: b"fir".to_vec() });
        for _ in 0..10 {
            console.wrote(&[b'x'; 5000]);
        }
        console.wrote(&[b'y'; KEPT + 3]);
        let page = console.page(0, usize::MAX);
        assert_eq!(page.bytes, [b'y'; KEPT]);
        assert_eq!(page.from, 6 + 50_000 + 3);
        console.wrote(b"end");
        assert_eq!(console.page(page.from + KEPT as u64, 100).bytes, b"end");
        assert_eq!(
            console.page(u64::MAX, 100),
            ConsolePage { from: page.from + KEPT as u64 + 3, bytes: vec![] }
        );
    }

    #[test]
    fn a_guest_that_does_not_read_is_not_written_to_without_end() {
        let mut console = Console::default();
        assert_eq!(console.type_in(&[b'a'; WAITING + 1]), WAITING);
        assert_eq!(console.type_in(b"b"), 0);
        let count = console.to_read().len();
        console.has_read(count);
        assert_eq!(console.type_in(b"b"), 1);
        assert_eq!(console.to_read(), b"b");
    }
}
