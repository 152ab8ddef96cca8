//! KVM's clock: a page that the hypervisor keeps, with a time and the counter's rate.

use crate::cpu;
use crate::memory;
use core::sync::atomic::{Ordering, fence};

/// CPUID 0x4000_0001, EAX: the clock by the newer of its registers.
const FEATURE: u32 = 1 << 3;
const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;
const MSR_WALL_CLOCK: u32 = 0x4b56_4d00;
const ENABLE: u64 = 1;
/// Where in our page the wall clock is put (`pvclock_wall_clock`: version, seconds, nanoseconds).
const WALL_CLOCK: u64 = 2048;

/// `pvclock_vcpu_time_info`, by the offsets of its fields.
const VERSION: u64 = 0;
const TSC: u64 = 8;
const SYSTEM_TIME: u64 = 16;
const FACTOR: u64 = 24;
const SHIFT: u64 = 28;

/// The page, while KVM keeps it.
pub(super) struct Page(u64);

/// What the page says at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time {
    tsc: u64,
    nanos: u64,
    factor: u32,
    shift: i8,
}

impl Page {
    /// Ask KVM for the page; `None` when there is no such thing, or it stays empty.
    pub(super) fn enable() -> Option<Self> {
        if cpu::hypervisor_signature() != Some(*b"KVMKVMKVM\0\0\0") {
            return None;
        }
        if cpu::hypervisor_leaf(1)?.eax & FEATURE == 0 {
            return None;
        }
        let page = memory::allocate_pages(4096)?;
        // SAFETY: KVM has announced the register. The page is ours, is never freed, and is accessed by volatile reads only.
        unsafe { cpu::write_msr(MSR_SYSTEM_TIME, page | ENABLE) };
        let page = Self(page);
        (page.time()?.factor != 0).then_some(page)
    }

    fn read<T: Copy>(&self, offset: u64) -> T {
        // SAFETY: all offsets, with their types, lie in the page and are aligned; KVM writes whole words.
        unsafe { ((self.0 + offset) as *const T).read_volatile() }
    }

    /// A consistent copy: the version is odd while KVM writes, and changes with every update. `None` when it is never
    /// consistent.
    fn time(&self) -> Option<Time> {
        for _ in 0..1000 {
            let before: u32 = self.read(VERSION);
            fence(Ordering::Acquire);
            let time = Time {
                tsc: self.read(TSC),
                nanos: self.read(SYSTEM_TIME),
                factor: self.read(FACTOR),
                shift: self.read(SHIFT),
            };
            fence(Ordering::Acquire);
            if before & 1 == 0 && before == self.read::<u32>(VERSION) {
                return Some(time);
            }
            cpu::relax();
        }
        None
    }

    /// The counter's rate in hertz.
    pub(super) fn rate(&self) -> u64 {
        self.time().map_or(0, Time::rate)
    }

    /// Microseconds since a moment of KVM's choice.
    pub(super) fn micros(&self) -> u64 {
        self.time().map_or(0, |time| time.nanos_at(cpu::tsc()) / 1000)
    }

    /// The time of day in seconds since 1970. KVM writes what it was at its clock's zero, by the host's clock of this
    /// moment, each time it is asked.
    pub(super) fn wall_clock(&self) -> Option<u64> {
        // SAFETY: KVM has announced the register with the one of the clock itself. This part of the page is ours, is never freed, holds
        // nothing else, and is accessed by volatile reads only.
        unsafe { cpu::write_msr(MSR_WALL_CLOCK, self.0 + WALL_CLOCK) };
        for _ in 0..1000 {
            let before: u32 = self.read(WALL_CLOCK);
            fence(Ordering::Acquire);
            let (seconds, nanos): (u32, u32) = (self.read(WALL_CLOCK + 4), self.read(WALL_CLOCK + 8));
            fence(Ordering::Acquire);
            if before & 1 == 0 && before == self.read::<u32>(WALL_CLOCK) {
                return self.time().and_then(|time| wall_clock(seconds, nanos, time.nanos_at(cpu::tsc())));
            }
            cpu::relax();
        }
        None
    }
}

/// The second of the day, when it was `seconds` and `nanos` at zero and `passed` nanoseconds have gone since.
fn wall_clock(seconds: u32, nanos: u32, passed: u64) -> Option<u64> {
    let since = passed.checked_add(u64::from(nanos))? / 1_000_000_000;
    (seconds != 0 && nanos < 1_000_000_000).then_some(u64::from(seconds) + since)
}

impl Time {
    /// Nanoseconds when the counter stands at `tsc`.
    fn nanos_at(self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.tsc));
        let shifted = if self.shift >= 0 {
            ticks << self.shift.min(63)
        } else {
            ticks >> self.shift.unsigned_abs().min(63)
        };
        let passed = shifted.wrapping_mul(u128::from(self.factor)) >> 32;
        self.nanos.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// Nanoseconds per tick are `factor / 2^32 * 2^shift`.
    fn rate(self) -> u64 {
        let billion = 1_000_000_000u128 << 32;
        let unshifted = billion / u128::from(self.factor.max(1));
        let rate = if self.shift >= 0 {
            unshifted >> self.shift.min(63)
        } else {
            unshifted << self.shift.unsigned_abs().min(32)
        };
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As KVM writes it for a counter of 2.59613 GHz.
    const TIME: Time = Time { tsc: 1_000, nanos: 5_000_000_000, factor: 3_308_745_937, shift: -1 };

    #[test]
    fn the_rate_follows_from_factor_and_shift() {
        assert_eq!(TIME.rate() / 1_000_000, 2596);
        let doubled = Time { shift: 0, ..TIME };
        assert_eq!(doubled.rate() / 1_000_000, 1298);
        assert_eq!(Time { factor: 1 << 31, shift: 1, ..TIME }.rate(), 1_000_000_000);
    }

    #[test]
    fn the_time_of_day_is_that_at_zero_and_what_has_passed() {
        assert_eq!(wall_clock(1_795_787_159, 900_000_000, 5_099_999_999), Some(1_795_787_164));
        assert_eq!(wall_clock(1_795_787_159, 900_000_000, 5_100_000_000), Some(1_795_787_165));
        assert_eq!(wall_clock(0, 0, 5), None, "KVM has not written");
        assert_eq!(wall_clock(1, 1_000_000_000, 5), None);
        assert_eq!(wall_clock(1, 1, u64::MAX), None);
    }

    #[test]
    fn time_goes_on_from_the_last_update() {
        assert_eq!(TIME.nanos_at(1_000), 5_000_000_000);
        let second = TIME.nanos_at(1_000 + 2_596_130_000);
        assert!(second.abs_diff(6_000_000_000) < 1_000, "{second}");
        assert_eq!(TIME.nanos_at(0), 5_000_000_000);
    }
}
