//! Measuring the time stamp counter, and the local APIC's timer with it.
//!
//! A virtual CPU may be taken away at any point. What is read with a pause between is worthless, so a reading counts
//! only with the CPU's counter just before and just after it, the closest of a few is used, and two windows in a row
//! must agree. That takes about 0.8 ms in all, on a crowded host some windows more. A pause inside of a window does no harm:
//! both counters go on. So what the ends may be wrong by is all that can be wrong, and it is a hundredth of the window at
//! most, in practice a tenth of that.

use super::reference::Reference;
use crate::acpi::Acpi;
use crate::cpu;
use crate::interrupt::Apic;
use crate::promised::Promised;

/// How long a window lasts, in microseconds: a boot waits for two.
const WINDOW: u64 = 400;
/// Windows until the best that was seen has to do.
const MOST_WINDOWS: usize = 24;
/// Readings of which the closest counts.
const TRIES: usize = 6;
/// Readings without progress after which a reference is taken for dead.
const PATIENCE: u32 = 100_000;
/// The most that a reading at each end of a window may be uncertain, in microseconds.
const CLOSE: u64 = 2;
/// Two windows agree when they differ by less than one part in this many.
const AGREEMENT: u64 = 250;

/// The same moment on three counters.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    tsc: u64,
    /// How far apart the counter of the CPU was before and after.
    gap: u64,
    reference: u64,
    timer: u32,
}

/// One window's outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Measured {
    /// Ticks of the CPU's counter in a second.
    rate: u64,
    /// Ticks of the local APIC's timer in a second.
    timer: u64,
    /// By how many microseconds the ends of the window may be wrong.
    uncertain: u64,
}

/// The name of what was measured against, and the rates of the CPU's counter and of the local APIC's timer.
pub(super) fn against_reference(acpi: &Acpi, promised: Promised, apic: &Apic) -> (&'static str, u64, u64) {
    apic.mask_timer(true);
    apic.arm_count(u32::MAX);
    let measured = Reference::candidates(acpi, promised, apic).find_map(|reference| {
        let measured = best(|| window(&reference, apic))?;
        Some((reference.name(), measured.rate, measured.timer))
    });
    apic.arm_count(0);
    apic.mask_timer(false);
    match measured {
        Some(measured) => measured,
        None => panic!("nothing tells the rate of the time stamp counter: no KVM clock, no CPUID, no timer"),
    }
}

/// Measure until two windows in a row are certain and agree, or take the most certain of many; `None` when the
/// reference does not count.
fn best(mut window: impl FnMut() -> Option<Measured>) -> Option<Measured> {
    let mut last = window()?;
    let mut best = last;
    for _ in 1..MOST_WINDOWS {
        let next = window()?;
        let certain = last.uncertain <= 2 * CLOSE && next.uncertain <= 2 * CLOSE;
        if certain && next.rate.abs_diff(last.rate) < next.rate / AGREEMENT {
            let middle = |a: u64, b: u64| a / 2 + b / 2;
            return Some(Measured {
                rate: middle(last.rate, next.rate),
                timer: middle(last.timer, next.timer),
                uncertain: next.uncertain,
            });
        }
        if next.uncertain < best.uncertain {
            best = next;
        }
        last = next;
    }
    Some(best)
}

fn window(reference: &Reference<'_>, apic: &Apic) -> Option<Measured> {
    let length = reference.rate() * WINDOW / 1_000_000;
    let start = read(reference, apic);
    let mut last = start.reference;
    let mut passed = 0;
    let mut stuck = 0;
    while passed < length {
        let (_, value, _) = reference.sample();
        let step = value.wrapping_sub(last) & reference.mask();
        passed += step;
        last = value;
        stuck = if step == 0 { stuck + 1 } else { 0 };
        if stuck > PATIENCE {
            return None;
        }
    }
    let end = read(reference, apic);
    passed += end.reference.wrapping_sub(last) & reference.mask();
    measure(start, end, passed, reference.rate())
}

/// The closest of a few readings.
fn read(reference: &Reference<'_>, apic: &Apic) -> Reading {
    let readings = (0..TRIES).map(|_| {
        let (before, value, after) = reference.sample();
        let timer = apic.count();
        Reading { tsc: before + (after - before) / 2, gap: cpu::tsc() - before, reference: value, timer }
    });
    readings.min_by_key(|reading| reading.gap).unwrap_or_default()
}

fn measure(start: Reading, end: Reading, passed: u64, rate: u64) -> Option<Measured> {
    let ticks = u128::from(end.tsc.checked_sub(start.tsc)?);
    let timer_ticks = u128::from(start.timer.wrapping_sub(end.timer));
    let per_second = |ticks: u128| u64::try_from(ticks * u128::from(rate) / u128::from(passed.max(1))).ok();
    let counter = per_second(ticks)?;
    if !(1_000_000..1 << 40).contains(&counter) {
        return None;
    }
    let uncertain = ((start.gap + end.gap) * 1_000_000).div_ceil(counter);
    Some(Measured { rate: counter, timer: per_second(timer_ticks)?, uncertain })
}

/// The rate of the local APIC's timer, by a counter whose rate is known.
pub(super) fn timer(apic: &Apic, rate: u64) -> u64 {
    apic.mask_timer(true);
    apic.arm_count(u32::MAX);
    let reading = || {
        let readings = (0..TRIES).map(|_| {
            let before = cpu::tsc();
            let timer = apic.count();
            let gap = cpu::tsc() - before;
            Reading { tsc: before + gap / 2, gap, reference: 0, timer }
        });
        readings.min_by_key(|reading| reading.gap).unwrap_or_default()
    };
    let start = reading();
    let length = rate * WINDOW / 1_000_000;
    while cpu::tsc().saturating_sub(start.tsc) < length {
        cpu::relax();
    }
    let end = reading();
    apic.arm_count(0);
    apic.mask_timer(false);
    let ticks = u128::from(start.timer.wrapping_sub(end.timer));
    let passed = u128::from(end.tsc.saturating_sub(start.tsc).max(1));
    match u64::try_from(ticks * u128::from(rate) / passed) {
        Ok(timer) if timer != 0 => timer,
        _ => panic!("the timer of the local APIC does not count"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rate: u64, uncertain: u64) -> Option<Measured> {
        Some(Measured { rate, timer: 1_000_000_000, uncertain })
    }

    #[test]
    fn two_windows_that_agree_end_it() {
        let mut windows = [measured(2_600_000_000, 3), measured(2_600_100_000, 3)].into_iter();
        assert_eq!(best(|| windows.next().flatten()).unwrap().rate, 2_600_050_000);
    }

    #[test]
    fn a_window_with_a_pause_in_it_does_not_count() {
        let mut windows =
            [measured(3_500_000_000, 900), measured(2_600_000_000, 3), measured(2_600_000_000, 4)]
                .into_iter();
        assert_eq!(best(|| windows.next().flatten()).unwrap().rate, 2_600_000_000);
    }

    #[test]
    fn on_a_host_that_never_gives_peace_the_most_certain_window_is_taken() {
        let mut turn = 0;
        let mut window = || {
            turn += 1;
            measured(2_000_000_000 + turn * 100_000_000, if turn == 6 { 30 } else { 500 })
        };
        assert_eq!(best(&mut window).unwrap().rate, 2_600_000_000);
        assert_eq!(best(|| None), None);
    }

    #[test]
    fn rates_follow_from_the_ends_of_a_window() {
        let start = Reading { tsc: 1000, gap: 2600, reference: 0, timer: u32::MAX };
        let end = Reading { tsc: 1000 + 26_000_000, gap: 2600, reference: 0, timer: u32::MAX - 10_000_000 };
        let measured = measure(start, end, 35_795, 3_579_545).unwrap();
        assert!(measured.rate.abs_diff(2_600_000_000) < 100_000, "{measured:?}");
        assert!(measured.timer.abs_diff(1_000_000_000) < 100_000, "{measured:?}");
        assert_eq!(measured.uncertain, 2);
        assert_eq!(measure(end, start, 1, 1), None);
    }
}
