//! How often a device may be reset, so that one that only lies costs little.

use core::time::Duration;
use network_nic::{Instant, NEVER};

/// Resets within [`WINDOW`] after which the device gets a rest.
const MOST: u32 = 8;
const WINDOW: Duration = Duration::from_secs(1);
/// One that could not be started again rests for a second, and twice as long each time, up to so many times.
const DOUBLED: u32 = 5;

/// What has become of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Up,
    /// Stopped; it gets another chance then.
    Resting {
        until: Instant,
    },
    /// It does not come back. What it had stays lost.
    Dead,
}

impl State {
    /// What [`network_nic::Nic::rests_until`] is to say.
    pub(crate) fn rests_until(self) -> Option<Instant> {
        match self {
            Self::Up => None,
            Self::Resting { until } => Some(until),
            Self::Dead => Some(NEVER),
        }
    }
}

/// The resets of one device.
#[derive(Debug)]
pub(crate) struct Resets {
    /// Since when they are counted, and how many there were.
    since: Instant,
    count: u32,
    /// How often in a row it could not be started again.
    failures: u32,
}

impl Resets {
    pub(crate) const NONE: Self = Self { since: Instant::ZERO, count: 0, failures: 0 };

    /// One more. Answers until when the device has to rest, if there are too many.
    pub(crate) fn another(&mut self, now: Instant) -> Option<Instant> {
        let window = WINDOW.into();
        if now >= self.since + window {
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
        (self.count > MOST).then_some(self.since + window)
    }

    /// It could not be started again, which may pass. Answers until when it rests.
    pub(crate) fn failed(&mut self, now: Instant) -> Instant {
        let rest = WINDOW * (1 << self.failures);
        self.failures = (self.failures + 1).min(DOUBLED);
        now + rest.into()
    }

    /// It was started again.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_resets_in_a_second_are_borne_and_the_ninth_is_a_rest() {
        let mut resets = Resets::NONE;
        let at = Instant::from_millis;
        for number in 0..8 {
            assert_eq!(resets.another(at(5000 + number)), None);
        }
        assert_eq!(resets.another(at(5999)), Some(at(6000)));
        assert_eq!(resets.another(at(6000)), None);
    }

    #[test]
    fn what_cannot_be_started_again_rests_longer_each_time() {
        let mut resets = Resets::NONE;
        let at = Instant::from_millis;
        for seconds in [1, 2, 4, 8, 16, 32, 32] {
            assert_eq!(resets.failed(at(500)), at(500 + 1000 * seconds));
        }
        resets.succeeded();
        assert_eq!(resets.failed(at(0)), at(1000));
    }
}
