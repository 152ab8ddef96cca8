//! What goes wrong on command.

use std::collections::VecDeque;
use std::time::{Duration, Instant};
use storage_nbd::wire::command;

/// Kinds of commands that a fault can be aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// All of them.
    Any,
    /// One, of [`command`].
    Only(u16),
}

impl Aim {
    /// Its name in a line of control.
    pub const NAMES: [(&'static str, Self); 8] = [
        ("any", Self::Any),
        ("read", Self::Only(command::READ)),
        ("write", Self::Only(command::WRITE)),
        ("flush", Self::Only(command::FLUSH)),
        ("trim", Self::Only(command::TRIM)),
        ("cache", Self::Only(command::CACHE)),
        ("zeroes", Self::Only(command::WRITE_ZEROES)),
        ("status", Self::Only(command::BLOCK_STATUS)),
    ];

    /// Whether a command of this code is meant.
    #[must_use]
    pub fn meets(self, code: u16) -> bool {
        self == Self::Any || self == Self::Only(code)
    }
}

/// Commands that fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub aim: Aim,
    /// How many go well before.
    pub after: u32,
    /// How many fail then.
    pub count: u32,
    /// With what.
    pub errno: u32,
    /// Whether what the cache holds is lost with it, as after a failed `fsync`.
    pub drops: bool,
}

/// A reply that is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Its last bytes are missing, and the connection is closed.
    Short,
    /// It comes twice.
    Extra,
    /// It has a cookie that no request had.
    Cookie,
    /// Nothing comes, ever.
    Nothing,
    /// A read's data are those of the next block.
    Misdirected,
    /// One bit of a read's data is another.
    Flipped,
}

/// A write of which only the beginning is stored before the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Sectors of 512 bytes that are stored.
    pub sectors: u32,
    /// Writes that go well before.
    pub after: u32,
}

/// All that is ordered.
#[derive(Debug, Default)]
pub struct Faults {
    failures: Vec<Failure>,
    delays: Vec<(Aim, Duration)>,
    /// Nothing is read, accepted or answered until then, as if the process were stopped.
    pub hang_until: Option<Instant>,
    /// Nothing is executed until then; everything is accepted.
    pub stall_until: Option<Instant>,
    /// What a connection brought before it died is executed so long after its death. `None`: never.
    pub late: Option<Duration>,
    torn: Option<Torn>,
    /// For the next replies to commands of these kinds.
    pub lies: VecDeque<(Aim, Lie)>,
}

impl Faults {
    /// Some commands are to fail.
    pub fn fail(&mut self, failure: Failure) {
        self.failures.push(failure);
    }

    /// Commands are to take so long; zero takes it back.
    pub fn delay(&mut self, aim: Aim, time: Duration) {
        self.delays.retain(|(other, _)| *other != aim);
        if !time.is_zero() {
            self.delays.push((aim, time));
        }
    }

    /// A write is to be torn.
    pub fn tear(&mut self, torn: Torn) {
        self.torn = Some(torn);
    }

    /// When a command that came now is executed.
    #[must_use]
    pub fn due(&self, code: u16, now: Instant) -> Instant {
        let delays = self.delays.iter().filter(|(aim, _)| aim.meets(code)).map(|(_, time)| *time);
        now + delays.max().unwrap_or_default()
    }

    /// Whether this command fails, and how. Counts it.
    pub fn failure(&mut self, code: u16) -> Option<Failure> {
        let failure = self.failures.iter_mut().find(|failure| failure.aim.meets(code))?;
        if failure.after > 0 {
            failure.after -= 1;
            return None;
        }
        failure.count = failure.count.saturating_sub(1);
        let failure = *failure;
        self.failures.retain(|failure| failure.count > 0);
        Some(failure)
    }

    /// Whether this write is the one that is torn, and after how many bytes.
    pub fn torn(&mut self, code: u16) -> Option<usize> {
        let torn = self.torn.as_mut().filter(|_| code == command::WRITE)?;
        if torn.after > 0 {
            torn.after -= 1;
            return None;
        }
        Some(torn.sectors as usize * 512)
    }

    /// The lie for this command's reply.
    pub fn lie(&mut self, code: u16) -> Option<Lie> {
        let place = self.lies.iter().position(|(aim, _)| aim.meets(code))?;
        self.lies.remove(place).map(|(_, lie)| lie)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_strikes_those_it_is_aimed_at_and_so_many() {
        let mut faults = Faults::default();
        let aim = Aim::Only(command::FLUSH);
        faults.fail(Failure { aim, after: 1, count: 2, errno: 5, drops: true });
        assert_eq!(faults.failure(command::READ), None);
        let struck: Vec<_> = (0..4).map(|_| faults.failure(command::FLUSH).is_some()).collect();
        assert_eq!(struck, [false, true, true, false]);
    }

    #[test]
    fn a_delay_is_the_longest_that_is_meant_and_zero_ends_it() {
        let (mut faults, now) = (Faults::default(), Instant::now());
        faults.delay(Aim::Any, Duration::from_secs(1));
        faults.delay(Aim::Only(command::READ), Duration::from_secs(3));
        assert_eq!(faults.due(command::READ, now) - now, Duration::from_secs(3));
        assert_eq!(faults.due(command::WRITE, now) - now, Duration::from_secs(1));
        faults.delay(Aim::Any, Duration::ZERO);
        assert_eq!(faults.due(command::WRITE, now), now);
    }
}
