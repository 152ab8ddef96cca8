//! The time of day, as the machine tells it when it is asked: nobody keeps it here.
//!
//! | source | where it is found |
//! |---|---|
//! | KVM's or Xen's wall clock, of the second at which its clock stood at zero | KVM, Firecracker, Cloud Hypervisor, Xen |
//! | the PC's clock with a battery (MC146818), in UTC | where the FADT is that of a PC's hardware and does not deny it |
//!
//! Each call reads anew, so that whoever asks now and then follows the host's clock, whatever our own counter drifts. What is
//! told is bounded: a time outside of [`SANE`] is none.

use super::CLOCK;
use crate::acpi::Acpi;
use crate::cpu::{self, port};
use core::ops::Range;
use spin::Once;

/// Times that are believed, in seconds since 1970: of 2026 and later, until 2200.
const SANE: Range<u64> = 1_767_225_600..7_258_118_400;

/// The register of the century in the clock with a battery, or zero; unset without such a clock.
static BATTERY: Once<u8> = Once::new();

/// Note whether there is a clock with a battery.
pub(super) fn init(acpi: &Acpi) {
    if let Some(century) = acpi.fadt.as_ref().and_then(|fadt| fadt.battery_clock) {
        BATTERY.call_once(|| century);
    }
}

/// The time of day in seconds since 1970, and who tells it; `None` where nobody knows it.
pub fn read() -> Option<(u64, &'static str)> {
    let kept = || Some((CLOCK.get()?.page.as_ref()?.0.wall_clock()?, "the hypervisor's clock"));
    let battery = || Some((battery(*BATTERY.get()?, &mut Cmos)?, "the clock with a battery"));
    kept().or_else(battery).filter(|(seconds, _)| SANE.contains(seconds))
}

/// Registers of the clock.
const SECOND: u8 = 0;
const MINUTE: u8 = 2;
const HOUR: u8 = 4;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
/// An update is about to begin, or goes on.
const UPDATING: u8 = 1 << 7;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
const AFTERNOON: u8 = 1 << 7;
/// The last register there is a place for.
const LAST: u8 = 0x7f;
/// How often it is read until two readings agree, and how often its status until an update is over: that takes two
/// milliseconds, and a read one microsecond at least.
const READINGS: u32 = 8;
const PATIENCE: u32 = 4_000;

/// Whatever holds the registers.
trait Registers {
    fn read(&mut self, register: u8) -> u8;
}

/// Behind the ports 0x70 and 0x71.
struct Cmos;

impl Registers for Cmos {
    fn read(&mut self, register: u8) -> u8 {
        // SAFETY: the tables of the machine promise the clock at these ports; choosing a register changes none.
        unsafe { port::write8(0x70, register & LAST) };
        // SAFETY: as above; the registers that are read here have no effect.
        unsafe { port::read8(0x71) }
    }
}

/// Read the clock until two readings agree, with no update on the way.
fn battery(century: u8, clock: &mut impl Registers) -> Option<u64> {
    let mut last = None;
    for _ in 0..READINGS {
        for _ in 0..PATIENCE {
            if clock.read(STATUS_A) & UPDATING == 0 {
                break;
            }
            cpu::relax();
        }
        let raw = [SECOND, MINUTE, HOUR, DAY, MONTH, YEAR].map(|register| clock.read(register));
        let century = (century != 0 && century <= LAST).then(|| clock.read(century));
        let reading = (raw, century, clock.read(STATUS_B));
        if clock.read(STATUS_A) & UPDATING == 0 && last == Some(reading) {
            return seconds(reading.0, reading.1, reading.2);
        }
        last = Some(reading);
    }
    None
}

/// What the registers say, if it is a time.
fn seconds(
    [second, minute, hour, day, month, year]: [u8; 6],
    century: Option<u8>,
    status: u8,
) -> Option<u64> {
    let number = |raw: u8| match status & BINARY {
        0 => (raw & 0x0f < 10 && raw >> 4 < 10).then_some(u64::from(raw >> 4) * 10 + u64::from(raw & 0x0f)),
        _ => Some(u64::from(raw)),
    };
    let hour = match status & HOURS_24 {
        0 => {
            let twelfth = number(hour & !AFTERNOON).filter(|hour| (1..=12).contains(hour))?;
            twelfth % 12 + if hour & AFTERNOON == 0 { 0 } else { 12 }
        }
        _ => number(hour)?,
    };
    // Some name a register for the century and keep nothing in it.
    let century = century.and_then(number).filter(|century| (19..100).contains(century)).unwrap_or(20);
    let (second, minute, day, month) = (number(second)?, number(minute)?, number(day)?, number(month)?);
    let year = number(year).filter(|year| *year < 100)? + century * 100;
    let is_time = second < 60 && minute < 60 && hour < 24 && (1..=12).contains(&month);
    let exists = is_time && (1..=days(year, month)).contains(&day);
    let of_day = (hour * 60 + minute) * 60 + second;
    exists.then(|| days_before(year, month, day) * 86_400 + of_day).filter(|_| year >= 1970)
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

/// The days of a month.
const fn days(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The days from 1970 to a day.
fn days_before(year: u64, month: u64, day: u64) -> u64 {
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let months: u64 = (1..month).map(|month| days(year, month)).sum();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-27T13:45:59Z.
    const THEN: u64 = 1_795_787_159;

    /// A clock that is updated, or lies, as a script says: at each reading of the status the next of its states.
    struct Script {
        states: Vec<(u8, [u8; 128])>,
        at: usize,
    }

    fn registers(time: [u8; 6], century: u8, status: u8) -> [u8; 128] {
        let mut all = [0; 128];
        for (register, value) in [SECOND, MINUTE, HOUR, DAY, MONTH, YEAR].into_iter().zip(time) {
            all[usize::from(register)] = value;
        }
        (all[0x32], all[usize::from(STATUS_B)]) = (century, status);
        all
    }

    impl Registers for Script {
        fn read(&mut self, register: u8) -> u8 {
            let (status, all) = &self.states[self.at.min(self.states.len() - 1)];
            if register == STATUS_A {
                self.at += 1;
                return *status;
            }
            all[usize::from(register)]
        }
    }

    fn told(states: Vec<(u8, [u8; 128])>) -> Option<u64> {
        battery(0x32, &mut Script { states, at: 0 })
    }

    #[test]
    fn every_way_to_write_a_time_is_read() {
        let bcd = [0x59, 0x45, 0x13, 0x27, 0x11, 0x26];
        assert_eq!(seconds(bcd, Some(0x20), HOURS_24), Some(THEN));
        assert_eq!(seconds(bcd, None, HOURS_24), Some(THEN), "without a century it is ours");
        assert_eq!(seconds(bcd, Some(0), HOURS_24), Some(THEN), "nor with an empty one");
        assert_eq!(seconds([59, 45, 13, 27, 11, 26], Some(20), HOURS_24 | BINARY), Some(THEN));
        assert_eq!(seconds([0x59, 0x45, 0x81, 0x27, 0x11, 0x26], Some(0x20), 0), Some(THEN), "afternoon");
        let noon = THEN - 13 * 3600 - 45 * 60 - 59 + 12 * 3600;
        assert_eq!(seconds([0, 0, 0x92, 0x27, 0x11, 0x26], Some(0x20), 0), Some(noon));
        assert_eq!(seconds([0, 0, 0x12, 0x27, 0x11, 0x26], Some(0x20), 0), Some(noon - 12 * 3600));
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (year, month, day, days) in [
            (1970, 1, 1, 0),
            (2000, 2, 29, 11_016),
            (2026, 1, 1, 20_454),
            (2100, 3, 1, 47_541),
            (2199, 12, 31, 84_005),
        ] {
            assert_eq!(days_before(year, month, day), days, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        let good = [0x59, 0x45, 0x13, 0x27, 0x11, 0x26];
        for (place, value) in
            [(0, 0x60), (1, 0x60), (2, 0x24), (3, 0x31), (3, 0), (4, 0x13), (4, 0), (5, 0xff), (0, 0x5a)]
        {
            let mut time = good;
            time[place] = value;
            assert_eq!(seconds(time, Some(0x20), HOURS_24), None, "{place} {value:#x}");
        }
        // 2025 had no 29th of February, and all ones are nobody's answer.
        assert_eq!(seconds([0, 0, 0, 0x29, 0x02, 0x25], Some(0x20), HOURS_24), None);
        assert_eq!(told(vec![(0, [0xff; 128])]), None);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = 1_u64;
        for _ in 0..if cfg!(miri) { 200 } else { 200_000 } {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let [a, b, c, d, e, f, century, status] = random.to_be_bytes();
            if let Some(seconds) = seconds([a, b, c, d, e, f], Some(century), status) {
                assert!(seconds < 253_402_300_800, "before the year 10000");
            }
        }
    }

    #[test]
    fn a_reading_with_an_update_in_it_does_not_count() {
        let before = registers([0x59, 0x59, 0x13, 0x27, 0x11, 0x26], 0x20, HOURS_24);
        let torn = registers([0x00, 0x59, 0x13, 0x27, 0x11, 0x26], 0x20, HOURS_24);
        let after = registers([0x00, 0x00, 0x14, 0x27, 0x11, 0x26], 0x20, HOURS_24);
        // The first reading meets the update at its end, the second a torn time, and then two agree.
        let states = vec![(0, before), (UPDATING, torn), (0, torn), (0, after), (0, after), (0, after)];
        let wanted = seconds([0x00, 0x00, 0x14, 0x27, 0x11, 0x26], Some(0x20), HOURS_24);
        assert_eq!(told(states), wanted);
        // One that is always being updated tells nothing, and one that never stands still neither.
        assert_eq!(told(vec![(UPDATING, after)]), None);
        let moving = (0..64u8).map(|n| (0, registers([n % 60, 0, 0, 1, 1, 0x30], 0x20, BINARY | HOURS_24)));
        assert_eq!(told(moving.collect()), None);
    }
}
