//! How much a disk may do: buckets that fill with time.

use core::time::Duration;
use kernel_runtime::Instant;

/// Limits of one disk; zero stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Reads and changes in a second.
    pub iops: u32,
    /// Bytes of them in a second.
    pub bandwidth: u64,
    /// For how many seconds' worth a disk that was idle may go faster. At least one.
    pub burst: u32,
}

/// Millionths, so that a microsecond's share of one operation in a second is a whole number.
const PARTS: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Units in a second; zero for no limit.
    rate: u64,
    /// The most that can be in it, in parts.
    most: u64,
    /// What is in it, in parts; less than nothing after a request larger than what was there.
    level: i64,
}

impl Bucket {
    fn new(rate: u64, burst: u32) -> Self {
        // A rate is bounded such that all its figures have room.
        let rate = rate.min(1 << 40);
        let most = rate.saturating_mul(u64::from(burst.clamp(1, 60))).saturating_mul(PARTS).min(1 << 62);
        Self { rate, most, level: most as i64 }
    }

    fn fill(&mut self, passed: Duration) {
        let passed = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let more = i64::try_from(self.rate.saturating_mul(passed)).unwrap_or(i64::MAX);
        self.level = self.level.saturating_add(more).min(self.most as i64);
    }

    /// How long until there is something in it; `None` when there is.
    fn wait(&self) -> Option<Duration> {
        if self.rate == 0 || self.level > 0 {
            return None;
        }
        let lacking = self.level.unsigned_abs() + 1;
        Some(Duration::from_micros(lacking.div_ceil(self.rate)))
    }

    fn take(&mut self, units: u64) {
        if self.rate != 0 {
            let parts = units.saturating_mul(PARTS).min(1 << 62);
            self.level = self.level.saturating_sub(parts as i64);
        }
    }
}

/// The state of a disk's limits.
///
/// A request is let through when there is anything in both buckets, and takes all that it needs out of them: so one that
/// is larger than a bucket passes too, and those behind it wait the longer.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    operations: Bucket,
    bytes: Bucket,
    filled: Instant,
}

impl Meter {
    pub(crate) fn new(now: Instant, rate: Rate) -> Self {
        Self {
            operations: Bucket::new(u64::from(rate.iops), rate.burst),
            bytes: Bucket::new(rate.bandwidth, rate.burst),
            filled: now,
        }
    }

    /// Until when the next request has to wait; `None` if it need not.
    pub(crate) fn blocked(&mut self, now: Instant) -> Option<Instant> {
        if self.operations.rate == 0 && self.bytes.rate == 0 {
            return None;
        }
        let passed = now.since(self.filled);
        self.filled = now;
        self.operations.fill(passed);
        self.bytes.fill(passed);
        let wait = self.operations.wait().max(self.bytes.wait())?;
        Some(now + wait)
    }

    /// A request of so many bytes goes.
    pub(crate) fn take(&mut self, bytes: u64) {
        self.operations.take(1);
        self.bytes.take(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    /// How many requests of `bytes` go in the time up to `end`, one as soon as it may.
    fn run(meter: &mut Meter, bytes: u64, from: u64, end: u64) -> u64 {
        let (mut now, mut count) = (at(from), 0);
        while now < at(end) {
            match meter.blocked(now) {
                Some(until) => now = until,
                None => {
                    meter.take(bytes);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn a_disk_without_limits_never_waits() {
        let mut meter = Meter::new(at(0), Rate::default());
        meter.take(u64::MAX);
        assert_eq!(meter.blocked(at(0)), None);
    }

    #[test]
    fn operations_are_held_to_their_rate_after_the_burst() {
        let mut meter = Meter::new(at(0), Rate { iops: 100, bandwidth: 0, burst: 2 });
        let first = run(&mut meter, 4096, 0, 1000);
        assert!((299..=301).contains(&first), "two seconds' worth at once, then the rate: {first}");
        let then = run(&mut meter, 4096, 1000, 11_000);
        assert!((999..=1001).contains(&then), "{then}");
    }

    #[test]
    fn bytes_are_held_to_theirs_whatever_the_size_of_a_request() {
        for size in [4096, 1 << 20, 64 << 20] {
            let mut meter = Meter::new(at(0), Rate { iops: 0, bandwidth: 10 << 20, burst: 1 });
            let bytes = size * run(&mut meter, size, 0, 1_000_000);
            let wanted = 1001 * (10 << 20);
            assert!((wanted - size..=wanted + size).contains(&bytes), "{bytes} bytes in pieces of {size}");
        }
    }

    #[test]
    fn an_idle_disk_saves_up_no_more_than_its_burst() {
        let mut meter = Meter::new(at(0), Rate { iops: 10, bandwidth: 0, burst: 3 });
        run(&mut meter, 1, 0, 1000);
        let burst = run(&mut meter, 1, 3_600_000, 3_600_001);
        assert!((30..=31).contains(&burst), "{burst}");
    }
}
