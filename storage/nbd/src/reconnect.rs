//! When to dial, and whom: the policy for reaching a server again.
//!
//! The first try is made at once, the next after a tenth of a second, and each further one after twice as long, up
//! to 0.8 seconds, so that a service that is back is found within one; for ever. Who dies of each connection, or whom
//! somebody has to mend, is tried every five seconds. Portals take turns. A part of each pause is left to chance, so that the clients of a
//! server that comes back do not come back together.

use crate::Retry;
use core::time::Duration;
use kernel_runtime::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause while nobody answers.
const LONGEST_SEARCH: Duration = Duration::from_millis(800);
/// A connection that lasted this long was a good one; before, its loss counts as another failed try, so that a
/// server that dies of each connection is not dialled in a tight loop.
const PROVEN: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next try is due at this moment.
    Waiting(Instant),
    /// A try is under way.
    Trying,
    /// There is a connection since this moment.
    Up(Instant),
}

/// The policy of one disk. It is told what happens, and tells when to dial which portal.
#[derive(Clone, Debug)]
pub struct Reconnect {
    portals: usize,
    portal: usize,
    /// Tries that failed one after the other.
    failures: u32,
    chance: u64,
    state: State,
    /// Something was done over the connection that stands.
    proved: bool,
}

impl Reconnect {
    /// A policy for this many portals, at least one. The first try is due at once. `seed` should be another for each
    /// disk and each start.
    pub const fn new(portals: usize, seed: u64) -> Self {
        Self {
            portals: if portals == 0 { 1 } else { portals },
            portal: 0,
            failures: 0,
            // The generator must not stand at zero.
            chance: seed | 1,
            state: State::Waiting(Instant::ZERO),
            proved: false,
        }
    }

    /// When [`Reconnect::poll_dial`] will have a portal to dial; `None` while there is a connection, or a try.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Waiting(due) => Some(due),
            State::Trying | State::Up(_) => None,
        }
    }

    /// The number of the portal to be dialled now. After it, [`Reconnect::up`] or [`Reconnect::down`] is due.
    pub fn poll_dial(&mut self, now: Instant) -> Option<usize> {
        match self.state {
            State::Waiting(due) if due <= now => {
                self.state = State::Trying;
                Some(self.portal)
            }
            State::Waiting(_) | State::Trying | State::Up(_) => None,
        }
    }

    /// The handshake succeeded: requests are being served.
    pub const fn up(&mut self, now: Instant) {
        self.state = State::Up(now);
    }

    /// A request was done over the connection, so the portal is a good one however soon the connection is lost. Only the
    /// shortest pause stands then before the next try.
    pub const fn proved(&mut self) {
        if let State::Up(_) = self.state {
            self.failures = 0;
            self.proved = true;
        }
    }

    /// The connection was lost, or the try failed. With [`Retry::Slowly`] the next try waits for the longest pause.
    pub fn down(&mut self, now: Instant, retry: Retry) {
        let was_up = matches!(self.state, State::Up(_));
        match self.state {
            // The portal was a good one a moment ago.
            State::Up(since) if now.since(since) >= PROVEN => self.failures = 0,
            State::Up(_) if self.proved => self.failures = 1,
            State::Up(_) | State::Trying | State::Waiting(_) => {
                self.failures = self.failures.saturating_add(1);
                self.portal = (self.portal + 1) % self.portals;
            }
        }
        let pause = match (retry, self.failures) {
            (Retry::Slowly, _) => LONGEST_PAUSE,
            (Retry::Soon, 0) => Duration::ZERO,
            (Retry::Soon, failures) => {
                let longest = if was_up { LONGEST_PAUSE } else { LONGEST_SEARCH };
                FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(longest)
            }
        };
        self.proved = false;
        self.state = State::Waiting(now + self.jittered(pause));
    }

    /// Tries that failed since the last good connection.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Three quarters of `pause`, and up to a quarter more.
    fn jittered(&mut self, pause: Duration) -> Duration {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let quarter = pause / 4;
        quarter * 3 + quarter * (self.chance >> 48) as u32 / (1 << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The pauses before tries that all fail at once.
    fn pauses(reconnect: &mut Reconnect, mut now: Instant, tries: usize) -> Vec<(Duration, usize)> {
        (0..tries)
            .map(|_| {
                let due = reconnect.poll_timeout().expect("a try is due some day");
                let pause = due.since(now);
                if pause > Duration::ZERO {
                    assert_eq!(reconnect.poll_dial(now), None, "not before its time");
                }
                now = now.max(due);
                let portal = reconnect.poll_dial(now).expect("the time has come");
                assert_eq!(reconnect.poll_dial(now), None, "one try at a time");
                reconnect.down(now, Retry::Soon);
                (pause, portal)
            })
            .collect()
    }

    #[test]
    fn pauses_double_from_nothing_to_less_than_a_second_and_stay_there() {
        let mut reconnect = Reconnect::new(1, 42);
        let pauses = pauses(&mut reconnect, Instant::ZERO, 40);
        assert_eq!(pauses[0].0, Duration::ZERO);
        for (index, (pause, _)) in pauses.iter().enumerate().skip(1) {
            let full = (FIRST_PAUSE * (1 << (index - 1).min(10))).min(LONGEST_SEARCH);
            assert!(*pause <= full && *pause >= full * 3 / 4, "{index}: {pause:?}");
        }
    }

    #[test]
    fn portals_take_turns_and_seeds_differ() {
        let mut first = Reconnect::new(3, 1);
        let mut second = Reconnect::new(3, 2);
        let (first, second) = (pauses(&mut first, Instant::ZERO, 9), pauses(&mut second, Instant::ZERO, 9));
        let portals: Vec<_> = first.iter().map(|(_, portal)| *portal).collect();
        assert_eq!(portals, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert_ne!(first, second);
    }

    #[test]
    fn a_good_connection_that_is_lost_is_dialled_again_at_once_at_the_same_portal() {
        let mut reconnect = Reconnect::new(2, 7);
        pauses(&mut reconnect, Instant::ZERO, 5);
        let mut now = reconnect.poll_timeout().expect("a try");
        let portal = reconnect.poll_dial(now);
        reconnect.up(now);
        assert_eq!(reconnect.poll_timeout(), None);
        now = now + PROVEN;
        reconnect.down(now, Retry::Soon);
        assert_eq!((reconnect.poll_timeout(), reconnect.failures()), (Some(now), 0));
        assert_eq!(reconnect.poll_dial(now), portal);
    }

    #[test]
    fn a_server_that_dies_of_each_connection_is_not_dialled_in_a_tight_loop() {
        let mut reconnect = Reconnect::new(1, 7);
        let (mut now, mut dials) = (Instant::ZERO, 0);
        while now < Instant::ZERO + SECOND * 60 {
            now = now.max(reconnect.poll_timeout().expect("a try"));
            reconnect.poll_dial(now).expect("due");
            reconnect.up(now);
            now = now + Duration::from_millis(1);
            reconnect.down(now, Retry::Soon);
            dials += 1;
        }
        assert!(dials < 25, "{dials}");
    }

    #[test]
    fn trouble_that_somebody_must_end_is_retried_slowly() {
        let mut reconnect = Reconnect::new(1, 7);
        reconnect.poll_dial(Instant::ZERO).expect("due");
        reconnect.down(Instant::ZERO, Retry::Slowly);
        let due = reconnect.poll_timeout().expect("a try");
        assert!(due >= Instant::ZERO + LONGEST_PAUSE * 3 / 4 && due <= Instant::ZERO + LONGEST_PAUSE);
    }
}
