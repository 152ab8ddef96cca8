//! The time of day, and how it stays true while the machine runs for months.
//!
//! It is counted by the machine's own clock, from a time that was told once. That clock drifts: where its rate was measured
//! at the boot by some seconds a day, and it stands still while the machine does. So whoever knows better is asked now and
//! then ([`Day::told`]), and what it says is followed at once; there is nothing here that could tell which of the two is
//! right. What must not happen is that something which was over is valid again: a signature whose nonce has been forgotten.
//! Hence a time that turns out to be a little ahead stands still until it is true; and one that was far ahead is put back, and
//! [`Day::start`] with it, by which all that was signed before is refused, as after a restart.

use crate::Instant;
use alloc::rc::Rc;
use core::cell::Cell;

/// By how many seconds what is told may differ without a reason: it is told in whole ones.
const GRAIN: u64 = 1;
/// How far ahead a time may be that stands still until it is true.
const STANDSTILL: u64 = 5;

/// The time of day in seconds since 1970. Clones are the same.
#[derive(Clone, Debug)]
pub struct Day(Rc<Cell<State>>);

#[derive(Clone, Copy, Debug)]
struct State {
    /// The time when the machine's clock stood at zero.
    zero: u64,
    /// The latest that was given out.
    latest: u64,
    /// When it was put back, or zero.
    put_back: Instant,
}

/// What was done about a time that differed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// It was put ahead by so many seconds.
    Ahead(u64),
    /// It stands still for so many seconds.
    Held(u64),
    /// It was put back by so many seconds.
    Back(u64),
}

impl Day {
    /// It is `seconds` at `now`.
    pub fn new(seconds: u64, now: Instant) -> Self {
        let zero = seconds.saturating_sub(now.since(Instant::ZERO).as_secs());
        Self(Rc::new(Cell::new(State { zero, latest: 0, put_back: Instant::ZERO })))
    }

    /// The time at `now`. It never goes back but by [`Correction::Back`].
    pub fn at(&self, now: Instant) -> u64 {
        let state = self.0.get();
        let latest = state.at(now).max(state.latest);
        self.0.set(State { latest, ..state });
        latest
    }

    /// What is from before then is from before the start of the machine, or from before a time at which this was put back.
    pub fn start(&self) -> u64 {
        let state = self.0.get();
        state.at(state.put_back)
    }

    /// Who knows better says that it is `seconds` at `now`. Answers what was done if that is worth a word.
    pub fn told(&self, seconds: u64, now: Instant) -> Option<Correction> {
        let state = self.0.get();
        let counted = state.at(now);
        if counted.abs_diff(seconds) <= GRAIN {
            return None;
        }
        let told = State { zero: seconds.saturating_sub(now.since(Instant::ZERO).as_secs()), ..state };
        let ahead = counted.max(state.latest).saturating_sub(seconds);
        let (state, correction) = match ahead {
            0 => (told, Correction::Ahead(seconds - counted)),
            1..=STANDSTILL => (told, Correction::Held(ahead)),
            _ => (State { latest: seconds, put_back: now, ..told }, Correction::Back(ahead)),
        };
        self.0.set(state);
        Some(correction)
    }
}

impl State {
    fn at(self, now: Instant) -> u64 {
        self.zero.saturating_add(now.since(Instant::ZERO).as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: u64 = 1_795_787_159;

    fn second(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn it_goes_on_with_the_clock() {
        let day = Day::new(THEN, second(5));
        assert_eq!((day.at(second(5)), day.at(second(65)), day.start()), (THEN, THEN + 60, THEN - 5));
        assert_eq!(day.told(THEN + 54, second(60)), None, "of whole seconds one is none");
    }

    #[test]
    fn a_clock_that_is_slow_is_put_ahead() {
        let day = Day::new(THEN, second(0));
        assert_eq!(day.told(THEN + 603, second(600)), Some(Correction::Ahead(3)));
        assert_eq!((day.at(second(600)), day.start()), (THEN + 603, THEN + 3));
        // A machine that was held for a day.
        assert_eq!(day.told(THEN + 87_000, second(601)), Some(Correction::Ahead(86_396)));
    }

    #[test]
    fn a_clock_that_is_fast_stands_still_and_never_shows_a_time_again() {
        let day = Day::new(THEN, second(0));
        assert_eq!(day.at(second(600)), THEN + 600);
        assert_eq!(day.told(THEN + 597, second(600)), Some(Correction::Held(3)));
        assert_eq!(
            [600, 602, 603, 604].map(|at| day.at(second(at))),
            [600, 600, 600, 601].map(|at| THEN + at)
        );
        assert_eq!(day.start(), THEN - 3, "what was signed since the start is still good");
    }

    #[test]
    fn a_clock_that_was_far_ahead_is_put_back_and_nothing_from_before_counts() {
        let day = Day::new(THEN + 3600, second(0));
        assert_eq!(day.at(second(600)), THEN + 4200);
        assert_eq!(day.told(THEN + 600, second(600)), Some(Correction::Back(3600)));
        assert_eq!((day.at(second(601)), day.start()), (THEN + 601, THEN + 600));
    }

    #[test]
    fn whatever_is_told_no_time_below_the_start_is_shown_and_none_twice_between_two_starts() {
        let mut random = 7_u64;
        let mut below = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        for _ in 0..200 {
            let (day, mut now, mut last) = (Day::new(THEN, second(0)), 0, (0, 0));
            for _ in 0..200 {
                now += below(100);
                if below(3) == 0 {
                    day.told(THEN + now + below(40) - 20, second(now));
                }
                let seen = (day.start(), day.at(second(now)));
                assert!(seen.1 >= seen.0, "{seen:?}");
                assert!(seen.1 >= last.1 || seen.0 == seen.1, "{last:?} {seen:?}");
                last = seen;
            }
        }
        let day = Day::new(u64::MAX, second(9));
        assert_eq!(day.told(0, second(10)), Some(Correction::Back(u64::MAX)));
        assert_eq!(day.told(u64::MAX, second(11)), Some(Correction::Ahead(u64::MAX - 11)));
    }
}
