//! The end of an appliance that was asked to: how far it is, and how long each step may take.

use core::time::Duration;
use kernel_runtime::Instant;

/// What is kept of the time for the disks, behind the initiators: as long as storage lets a farewell take.
const FAREWELL: Duration = Duration::from_secs(10);
/// And behind these: how long peers may take to see that connections end, and NICs to send what tells them.
const PARTING: Duration = Duration::from_secs(1);
/// How often is looked whether it has left a NIC, which tells nobody.
const LOOK: Duration = Duration::from_millis(1);

/// How far the end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nobody has asked for it.
    #[default]
    Unasked,
    /// Initiators are to log out, and disks to be left, until the first; all is to be over at the second.
    Draining(Instant, Instant),
    /// Connections end, until then.
    Parting(Instant),
    /// It is over.
    Ended,
}

impl Ending {
    /// Begin. Answers how long initiators have to log out: what neither disks nor connections need. Where the time is short these
    /// have a third and a sixth of it.
    pub(crate) fn ask(&mut self, within: Duration, now: Instant) -> Duration {
        let parting = PARTING.min(within / 6);
        *self = Self::Draining(now + (within - parting), now + within);
        within - parting - FAREWELL.min(within / 3)
    }

    pub(crate) fn is_asked(self) -> bool {
        self != Self::Unasked
    }

    /// Whether it is now that connections are to end: disks have been left, or there is no more time for it.
    pub(crate) fn leave(&mut self, now: Instant, is_drained: bool) -> bool {
        let Self::Draining(until, end) = *self else { return false };
        let leaves = is_drained || now >= until;
        if leaves {
            *self = Self::Parting(end.min(now + PARTING));
        }
        leaves
    }

    pub(crate) fn is_parting(self) -> bool {
        matches!(self, Self::Parting(_))
    }

    /// Whether it is now that all is over: connections have ended, and their peers been told, or these do not answer.
    pub(crate) fn part(&mut self, now: Instant, are_closed: bool) -> bool {
        let parts = matches!(self, Self::Parting(until) if are_closed || now >= *until);
        if parts {
            *self = Self::Ended;
        }
        parts
    }

    /// When to look again at the latest.
    pub(crate) fn deadline(self, now: Instant) -> Option<Instant> {
        match self {
            Self::Draining(until, _) => Some(until),
            Self::Parting(until) => Some(until.min(now + LOOK)),
            Self::Unasked | Self::Ended => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_micros(5_000_000);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn initiators_have_what_disks_and_connections_do_not_need() {
        let mut ending = Ending::default();
        assert_eq!(ending.ask(seconds(30), START), seconds(19));
        assert_eq!(ending.deadline(START), Some(START + seconds(29)));
        assert_eq!(Ending::default().ask(seconds(6), START), seconds(3));
        assert_eq!(Ending::default().ask(seconds(1), START), Duration::from_nanos(500_000_001));
        assert_eq!(Ending::default().ask(Duration::ZERO, START), Duration::ZERO);
    }

    #[test]
    fn each_step_ends_by_itself_or_with_its_time() {
        for (drained, closed) in [(true, true), (false, false)] {
            let mut ending = Ending::default();
            assert!(!ending.leave(START, true) && !ending.part(START, true), "nobody has asked");
            ending.ask(seconds(30), START);
            assert!(!ending.part(START, true), "not before the disks were left");
            let early = START + seconds(20);
            assert_eq!(ending.leave(early, drained), drained);
            let left = if drained { early } else { START + seconds(29) };
            assert!(drained || ending.leave(left, false));
            assert!(!ending.leave(left, true), "once");
            assert_eq!(ending.deadline(left), Some(left + LOOK));
            assert_eq!(ending.part(left, closed), closed);
            assert!(closed || ending.part(left + PARTING, false));
            assert_eq!((ending, ending.deadline(left)), (Ending::Ended, None));
        }
    }

    #[test]
    fn whoever_takes_all_the_time_there_is_takes_no_more_than_that() {
        for within in [1, 2, 3, 6, 7, 30, 3600] {
            let mut ending = Ending::default();
            ending.ask(seconds(within), START);
            let mut now = START;
            while ending != Ending::Ended {
                now = ending.deadline(now).expect("it goes on");
                let _ = ending.leave(now, false) || ending.part(now, false);
            }
            assert_eq!(now, START + seconds(within));
        }
    }
}
