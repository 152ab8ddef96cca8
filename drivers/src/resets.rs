//! How often a device may be reset, so that one that only lies costs little.

use core::time::Duration;
use network_nic::Instant;

/// Resets within [`WINDOW`] after which the device gets a rest.
const MOST: u32 = 8;
const WINDOW: Duration = Duration::from_secs(1);

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

/// The resets of one device.
#[derive(Debug)]
pub(crate) struct Resets {
    /// Since when they are counted, and how many there were.
    since: Instant,
    count: u32,
}

impl Resets {
    pub(crate) const NONE: Self = Self { since: Instant::ZERO, count: 0 };

    /// One more. Answers until when the device has to rest, if there are too many.
    pub(crate) fn another(&mut self, now: Instant) -> Option<Instant> {
        let window = WINDOW.into();
        if now >= self.since + window {
            *self = Self { since: now, count: 0 };
        }
        self.count += 1;
        (self.count > MOST).then_some(self.since + window)
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
}
