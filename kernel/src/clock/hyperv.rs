//! Hyper-V's clock (TLFS, "Partition Reference Time"): a counter of 100 ns, as a page that the hypervisor keeps and that
//! makes it of the time stamp counter, or as a register.

use crate::hyperv::{self, ACCESS_REFERENCE_COUNTER, ACCESS_REFERENCE_TSC, Features};
use crate::{cpu, memory};
use core::sync::atomic::{Ordering, fence};

const REFERENCE_COUNTER: u32 = 0x4000_0020;
const REFERENCE_TSC: u32 = 0x4000_0021;

/// `HV_REFERENCE_TSC_PAGE`, by the offsets of its fields.
const SEQUENCE: u64 = 0;
const SCALE: u64 = 8;
const OFFSET: u64 = 16;

/// Counts in a second, and in a microsecond.
const RATE: u64 = 10_000_000;
const MICROSECOND: u64 = 10;

/// The clock, while Hyper-V keeps it.
pub(super) struct Page {
    /// Where the page is, if there is one.
    page: Option<u64>,
    /// Whether there is the register.
    register: bool,
}

/// What the page says at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time {
    scale: u64,
    offset: u64,
}

impl Page {
    /// Ask for the page; `None` when neither it nor the register can be had.
    pub(super) fn enable(features: Features) -> Option<Self> {
        let page = if features.has(ACCESS_REFERENCE_TSC) { memory::allocate_pages(4096) } else { None };
        if let Some(page) = page {
            // SAFETY: the hypervisor has announced the register. The page is ours, is never freed, and is accessed by
            // volatile reads only.
            unsafe { hyperv::set_page(REFERENCE_TSC, page) };
        }
        let clock = Self { page, register: features.has(ACCESS_REFERENCE_COUNTER) };
        (clock.register || clock.time().is_some()).then_some(clock)
    }

    fn read<T: Copy>(page: u64, offset: u64) -> T {
        // SAFETY: all offsets, with their types, lie in the page and are aligned; the hypervisor writes whole words.
        unsafe { ((page + offset) as *const T).read_volatile() }
    }

    /// A consistent copy: the sequence changes with every update, and is zero while the page does not hold good. With it goes
    /// the time stamp counter of a moment at which it did.
    fn time(&self) -> Option<(Time, u64)> {
        let page = self.page?;
        for _ in 0..1000 {
            let before: u32 = Self::read(page, SEQUENCE);
            if before == 0 {
                return None;
            }
            fence(Ordering::Acquire);
            let time = Time { scale: Self::read(page, SCALE), offset: Self::read(page, OFFSET) };
            let tsc = cpu::tsc();
            fence(Ordering::Acquire);
            if before == Self::read::<u32>(page, SEQUENCE) {
                return Some((time, tsc));
            }
            cpu::relax();
        }
        None
    }

    /// The time stamp counter's rate in hertz, if the page tells it.
    pub(super) fn rate(&self) -> Option<u64> {
        self.time().and_then(|(time, _)| time.rate())
    }

    /// Microseconds since the partition was made.
    pub(super) fn micros(&self) -> u64 {
        let counts = match self.time() {
            Some((time, tsc)) => time.counts_at(tsc),
            // SAFETY: the hypervisor has announced the register; reading it has no effect.
            None if self.register => unsafe { cpu::read_msr(REFERENCE_COUNTER) },
            None => 0,
        };
        counts / MICROSECOND
    }
}

impl Time {
    /// Counts when the time stamp counter stands at `tsc`.
    fn counts_at(self, tsc: u64) -> u64 {
        (((u128::from(tsc) * u128::from(self.scale)) >> 64) as u64).wrapping_add(self.offset)
    }

    /// Counts per tick are `scale / 2^64`.
    fn rate(self) -> Option<u64> {
        u64::try_from((u128::from(RATE) << 64) / u128::from(self.scale.max(1))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For a counter of 2.5 GHz, in a partition that was made when it had counted for two seconds.
    const TIME: Time = Time { scale: 73_786_976_294_838_206, offset: (-2 * RATE as i64) as u64 };

    #[test]
    fn the_rate_follows_from_the_scale() {
        assert_eq!(TIME.rate().map(|rate| rate / 1_000), Some(2_500_000));
        assert_eq!(Time { scale: 0, ..TIME }.rate(), None);
        assert_eq!(Time { scale: 1, ..TIME }.rate(), None);
    }

    #[test]
    fn time_is_the_counter_scaled_and_moved() {
        for (seconds, expected) in [(2, 0), (3, RATE), (86_402, 86_400 * RATE)] {
            let counts = TIME.counts_at(seconds * 2_500_000_000) as i64;
            assert!(counts.abs_diff(expected as i64) <= 1, "{seconds} s: {counts}");
        }
    }
}
