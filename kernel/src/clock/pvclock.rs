//! The clock that hypervisors keep in memory of ours, as Xen has defined it and KVM taken it over: a time, when the counter stood
//! where, and the counter's rate; and the time of day when that clock stood at zero.

use crate::cpu;
use core::sync::atomic::{Ordering, fence};

/// `pvclock_vcpu_time_info`, by the offsets of its fields.
const VERSION: u64 = 0;
const TSC: u64 = 8;
const SYSTEM_TIME: u64 = 16;
const FACTOR: u64 = 24;
const SHIFT: u64 = 28;
/// `pvclock_wall_clock`: its version comes first too.
const SECONDS: u64 = 4;
const NANOS: u64 = 8;

/// The clock, while a hypervisor keeps it.
pub(super) struct Clock {
    time: u64,
    wall_clock: u64,
    /// What has the time of day written anew.
    renew: Option<fn(u64)>,
}

/// What the clock says at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time {
    tsc: u64,
    nanos: u64,
    factor: u32,
    shift: i8,
}

impl Clock {
    /// The one that is kept at these addresses; `None` as long as nothing is there. What has the time of day written is called with its
    /// address.
    ///
    /// # Safety
    /// For ever, there must be 32 bytes at the first address and 12 at the second, aligned to eight and four, that nobody but a
    /// hypervisor writes to.
    pub(super) unsafe fn new(time: u64, wall_clock: u64, renew: Option<fn(u64)>) -> Option<Self> {
        let clock = Self { time, wall_clock, renew };
        (clock.time()?.factor != 0).then_some(clock)
    }

    fn read<T: Copy>(address: u64) -> T {
        // SAFETY: the address is that of a field, with its type, of what `new` was promised; the hypervisor writes whole words.
        unsafe { (address as *const T).read_volatile() }
    }

    /// A consistent copy of what `copy` reads: the version is odd while the hypervisor writes, and changes with every update. `None`
    /// when it is never consistent.
    fn consistent<T>(version: u64, copy: impl Fn() -> T) -> Option<T> {
        for _ in 0..1000 {
            let before: u32 = Self::read(version);
            fence(Ordering::Acquire);
            let copied = copy();
            fence(Ordering::Acquire);
            if before & 1 == 0 && before == Self::read::<u32>(version) {
                return Some(copied);
            }
            cpu::relax();
        }
        None
    }

    fn time(&self) -> Option<Time> {
        let at = self.time;
        Self::consistent(at + VERSION, || Time {
            tsc: Self::read(at + TSC),
            nanos: Self::read(at + SYSTEM_TIME),
            factor: Self::read(at + FACTOR),
            shift: Self::read(at + SHIFT),
        })
    }

    /// The counter's rate in hertz.
    pub(super) fn rate(&self) -> u64 {
        self.time().map_or(0, Time::rate)
    }

    /// Microseconds since a moment of the hypervisor's choice.
    pub(super) fn micros(&self) -> u64 {
        self.time().map_or(0, |time| time.nanos_at(cpu::tsc()) / 1000)
    }

    /// The time of day in seconds since 1970.
    pub(super) fn wall_clock(&self) -> Option<u64> {
        let at = self.wall_clock;
        if let Some(renew) = self.renew {
            renew(at);
        }
        let read = || (Self::read::<u32>(at + SECONDS), Self::read::<u32>(at + NANOS));
        let (seconds, nanos) = Self::consistent(at + VERSION, read)?;
        self.time().and_then(|time| wall_clock(seconds, nanos, time.nanos_at(cpu::tsc())))
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
        assert_eq!(wall_clock(0, 0, 5), None, "the hypervisor has not written");
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
