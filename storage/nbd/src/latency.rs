//! How long requests took: a histogram for each kind of them.

use core::time::Duration;
use storage_block::Operation;

/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = 28;

/// Counts of requests by the time they took, from submission to completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// The one of number `n` counts those of at least 2^n and less than 2^(n+1) microseconds; the first also those of
    /// no time at all, the last also those of more.
    pub buckets: [u64; BUCKETS],
    /// All these times added up, in microseconds.
    pub micros: u64,
}

impl Histogram {
    pub(crate) fn add(&mut self, micros: u64) {
        let bucket = (micros.max(1).ilog2() as usize).min(BUCKETS - 1);
        self.buckets[bucket] += 1;
        self.micros = self.micros.saturating_add(micros);
    }

    fn add_all(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(bucket, more)| *bucket += more);
        self.micros = self.micros.saturating_add(other.micros);
    }

    /// How many took less than 2^`exponent` microseconds.
    pub fn below(&self, exponent: usize) -> u64 {
        self.buckets.iter().take(exponent).sum()
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The time within which `part` of `whole` requests ended, rounded up to the end of a bucket; `None` when there were
    /// none. So `quantile(99, 100)` is the 99th percentile.
    pub fn quantile(&self, part: u64, whole: u64) -> Option<Duration> {
        let wanted = self.count().checked_mul(part)?.div_ceil(whole.max(1)).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(Duration::from_micros(2 << bucket))
    }
}

/// The histograms of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Of reads.
    pub read: Histogram,
    /// Of writes.
    pub write: Histogram,
    /// Of flushes.
    pub flush: Histogram,
    /// Of everything else.
    pub other: Histogram,
}

impl Latency {
    /// Add those of another client.
    pub fn add_all(&mut self, other: &Self) {
        self.read.add_all(&other.read);
        self.write.add_all(&other.write);
        self.flush.add_all(&other.flush);
        self.other.add_all(&other.other);
    }

    pub(crate) fn add(&mut self, operation: Operation, micros: u64) {
        let histogram = match operation {
            Operation::Read => &mut self.read,
            Operation::Write { .. } => &mut self.write,
            Operation::Flush => &mut self.flush,
            Operation::Trim { .. } | Operation::WriteZeroes { .. } | Operation::Cache | Operation::Status => {
                &mut self.other
            }
        };
        histogram.add(micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_counted_where_it_belongs() {
        let mut histogram = Histogram::default();
        for micros in [0, 1, 2, 3, 4, 1000, 1 << 27, u64::MAX] {
            histogram.add(micros);
        }
        histogram.add(u64::MAX);
        let mut expected = [0; BUCKETS];
        (expected[0], expected[1], expected[2], expected[9], expected[27]) = (2, 2, 1, 1, 3);
        assert_eq!((histogram.buckets, histogram.count()), (expected, 9));
        assert_eq!((histogram.below(0), histogram.below(2), histogram.below(27)), (0, 4, 6));
        assert_eq!(histogram.micros, u64::MAX, "it stays at the end");
    }

    #[test]
    fn quantiles_are_ends_of_buckets() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(1, 2), None);
        for micros in 1..=100 {
            histogram.add(micros);
        }
        let quantile = |part| histogram.quantile(part, 100).map(|time| time.as_micros());
        assert_eq!(
            (quantile(0), quantile(50), quantile(63), quantile(64), quantile(100)),
            (Some(2), Some(64), Some(64), Some(128), Some(128))
        );
    }
}
