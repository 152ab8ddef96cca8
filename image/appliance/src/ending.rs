//! The end of an appliance that was asked to: how far it is, and how long each step may take.

use core::time::Duration;
use kernel_runtime::Instant;

/// What is kept of the time for the disks, behind the initiators: as long as storage lets a farewell take.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long peers may take to see that connections end.
const PARTING: Duration = Duration::from_secs(1);

/// How far the end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nobody has asked for it.
    #[default]
    Unasked,
    /// Initiators are to log out, and disks to be left, until then.
    Draining(Instant),
    /// Connections end, until then.
    Parting(Instant),
    /// It is over.
    Ended,
}

impl Ending {
    /// Begin. Answers how long initiators have to log out: where the time is short, two thirds of it.
    pub(crate) fn ask(&mut self, within: Duration, now: Instant) -> Duration {
        *self = Self::Draining(now + within);
        within.saturating_sub(FAREWELL.min(within / 3))
    }

    pub(crate) fn is_asked(self) -> bool {
        self != Self::Unasked
    }

    /// Whether it is now that connections are to end: disks have been left, or there is no more time for it.
    pub(crate) fn leave(&mut self, now: Instant, is_drained: bool) -> bool {
        let leaves = matches!(self, Self::Draining(until) if is_drained || now >= *until);
        if leaves {
            *self = Self::Parting(now + PARTING);
        }
        leaves
    }

    /// Whether it is now that all is over: connections have ended, or their peers do not answer.
    pub(crate) fn part(&mut self, now: Instant, are_closed: bool) -> bool {
        let parts = matches!(self, Self::Parting(until) if are_closed || now >= *until);
        if parts {
            *self = Self::Ended;
        }
        parts
    }

    /// When to look again at the latest.
    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Draining(until) | Self::Parting(until) => Some(until),
            Self::Unasked | Self::Ended => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_micros(5_000_000);

    #[test]
    fn initiators_have_what_the_disks_do_not_need() {
        let mut ending = Ending::default();
        assert_eq!(ending.ask(Duration::from_secs(30), START), Duration::from_secs(20));
        assert_eq!(ending.deadline(), Some(START + Duration::from_secs(30)));
        assert_eq!(Ending::default().ask(Duration::from_secs(6), START), Duration::from_secs(4));
        assert_eq!(Ending::default().ask(Duration::ZERO, START), Duration::ZERO);
    }

    #[test]
    fn each_step_ends_by_itself_or_with_its_time() {
        for (drained, closed) in [(true, true), (false, false)] {
            let mut ending = Ending::default();
            assert!(!ending.leave(START, true) && !ending.part(START, true), "nobody has asked");
            ending.ask(Duration::from_secs(30), START);
            assert!(!ending.part(START, true), "not before the disks were left");
            let early = START + Duration::from_secs(29);
            assert_eq!(ending.leave(early, drained), drained);
            let left = if drained { early } else { START + Duration::from_secs(30) };
            assert!(drained || ending.leave(left, false));
            assert!(!ending.leave(left, true), "once");
            assert_eq!(ending.part(left, closed), closed);
            assert!(closed || ending.part(left + PARTING, false));
            assert_eq!((ending, ending.deadline()), (Ending::Ended, None));
        }
    }
}
