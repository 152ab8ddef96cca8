//! Going through the journal to write it again.
//!
//! From the newest entry to the oldest, leaving out what a newer entry covers: so each byte is written once, with what
//! it has to hold in the end. That is not for speed. A write of this kind may itself be without an answer when its
//! connection dies, and be done late; if it carried an older content than the newest, it would undo an acknowledged
//! write. And as no two pieces overlap, all may be under way together.

use crate::journal::{Content, Journal};
use alloc::vec::Vec;
use storage_block::{Operation, Request};

/// How far the journal has been gone through.
#[derive(Debug)]
pub(crate) struct Rewrite {
    /// Ranges of entries that are done, ascending and apart.
    covered: Vec<(u64, u64)>,
    /// Entries that are not done, from the oldest on.
    left: usize,
    /// Where to go on in the newest of them.
    at: u64,
}

/// What is next.
#[derive(Debug)]
pub(crate) enum Next {
    /// This, which is of the entry at `index`.
    Piece {
        /// The entry's place in the journal.
        index: usize,
        /// What is to be sent; its cookie is the caller's.
        request: Request,
    },
    /// Something that is under way must come back first.
    Wait,
    /// Nothing: all was handed out.
    Done,
}

impl Rewrite {
    /// For journals of at most `capacity` entries.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { covered: Vec::with_capacity(capacity + 1), left: 0, at: 0 }
    }

    /// Begin with the newest entry there is.
    pub(crate) fn start(&mut self, journal: &Journal) {
        self.covered.clear();
        self.left = journal.len();
        self.at = 0;
    }

    /// The next piece, to be durable at once if `fua` says so.
    pub(crate) fn next(&mut self, journal: &mut Journal, fua: bool) -> Next {
        while let Some(index) = self.left.checked_sub(1) {
            let Some(entry) = journal.entry(index) else { return Next::Done };
            let (start, end) = (entry.offset, entry.end());
            let Some((from, to)) = self.uncovered(self.at.max(start), end) else {
                self.cover(start, end);
                self.left = index;
                self.at = 0;
                continue;
            };
            let operation = match entry.content {
                Content::Bytes(_) => Operation::Write { fua },
                Content::Zeroes { no_hole } => Operation::WriteZeroes { fua, no_hole, fast: false },
                Content::Trim => Operation::Trim { fua },
            };
            let buffer = match operation {
                Operation::Write { .. } => match journal.take_bytes(index, from, to) {
                    Some(bytes) => Some(bytes),
                    // Another piece of the same entry is under way.
                    None => return Next::Wait,
                },
                _ => None,
            };
            self.at = to;
            let request = Request { cookie: 0, operation, offset: from, length: to - from, buffer };
            return Next::Piece { index, request };
        }
        Next::Done
    }

    /// The first part of `from..end` that is not covered.
    fn uncovered(&self, mut from: u64, end: u64) -> Option<(u64, u64)> {
        let first = self.covered.partition_point(|&(_, covered)| covered <= from);
        for &(start, covered) in &self.covered[first..] {
            if start > from {
                return (from < end).then_some((from, end.min(start)));
            }
            from = covered;
        }
        (from < end).then_some((from, end))
    }

    fn cover(&mut self, mut start: u64, mut end: u64) {
        let first = self.covered.partition_point(|&(_, covered)| covered < start);
        let last = self.covered.partition_point(|&(begin, _)| begin <= end);
        for (begin, covered) in self.covered.drain(first..last) {
            start = start.min(begin);
            end = end.max(covered);
        }
        self.covered.insert(first, (start, end));
    }
}
