//! Which bytes of the reads in flight have been delivered.
//!
//! Chunks of a structured reply come in any order. Each is noted as a run of bytes, joined with its neighbours; a
//! reply in order is one run, a reply in one chunk none at all. The runs of all reads share one bounded list.

use crate::Fatal;
use alloc::vec::Vec;

/// Runs for all reads in flight together. Servers deliver in order, so a handful is what one sees.
const MAX_RUNS: usize = 512;

#[derive(Clone, Copy, Debug)]
struct Run {
    command: usize,
    start: u32,
    end: u32,
}

/// The runs delivered of reads that are not complete.
#[derive(Debug)]
pub(crate) struct Coverage(Vec<Run>);

impl Coverage {
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(MAX_RUNS))
    }

    /// Forget everything.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Note that bytes `start..end` of `command` are being delivered. The range is not empty.
    pub(crate) fn add(&mut self, command: usize, start: u32, end: u32) -> Result<(), Fatal> {
        let mut joined = Run { command, start, end };
        let mut at = 0;
        while let Some(run) = self.0.get(at) {
            if run.command == command {
                if run.start < end && start < run.end {
                    return Err(Fatal::ChunkOverlap);
                }
                if run.end == start || end == run.start {
                    joined.start = joined.start.min(run.start);
                    joined.end = joined.end.max(run.end);
                    self.0.swap_remove(at);
                    continue;
                }
            }
            at += 1;
        }
        if self.0.len() == MAX_RUNS {
            return Err(Fatal::TooFragmented);
        }
        self.0.push(joined);
        Ok(())
    }

    /// Forget `command` and tell whether all its `length` bytes were delivered.
    pub(crate) fn finish(&mut self, command: usize, length: u32) -> bool {
        let complete = self.0.iter().any(|run| run.command == command && run.start == 0 && run.end == length);
        self.0.retain(|run| run.command != command);
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_completes_and_nothing_else_does() {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            let mut coverage = Coverage::new();
            for part in order {
                assert!(!coverage.0.iter().any(|run| run.command == 7 && run.end - run.start == 40));
                coverage.add(7, part * 10, part * 10 + 10).expect("new bytes");
                coverage.add(8, part * 10, part * 10 + 5).expect("those of another command");
            }
            assert!(!coverage.finish(8, 40), "halves are missing");
            assert_eq!(coverage.0.len(), 1, "one run is left");
            assert!(coverage.finish(7, 40));
            assert!(!coverage.finish(7, 40), "it was forgotten");
        }
        let mut coverage = Coverage::new();
        coverage.add(1, 0, 40).expect("new bytes");
        assert!(!coverage.finish(1, 41));
    }

    #[test]
    fn a_byte_delivered_twice_is_noticed_whatever_was_joined() {
        let mut coverage = Coverage::new();
        for start in [0, 20, 10] {
            coverage.add(1, start, start + 10).expect("new");
        }
        for (start, end) in [(0, 1), (29, 30), (9, 11), (0, 30), (5, 100)] {
            assert_eq!(coverage.add(1, start, end), Err(Fatal::ChunkOverlap));
        }
        coverage.add(1, 30, u32::MAX).expect("new");
        assert!(coverage.finish(1, u32::MAX));
    }

    #[test]
    fn disorder_is_bounded() {
        let mut coverage = Coverage::new();
        for run in 0..MAX_RUNS as u32 {
            coverage.add(1, run * 2, run * 2 + 1).expect("room");
        }
        assert_eq!(coverage.add(1, u32::MAX - 1, u32::MAX), Err(Fatal::TooFragmented));
        coverage.add(1, 1, 2).expect("it joins two");
    }
}
