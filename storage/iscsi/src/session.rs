//! The sequence numbers of a session and its connection (4.2.2), apart from the connection's other business so
//! that several connections can share a session one day.

use crate::wire::SerialNumber;

/// How a CmdSN stands to the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// The next one: take it.
    Next,
    /// Outside the window, or already received: say nothing, do nothing.
    Ignored,
    /// Inside the window, but an earlier one is missing. TCP keeps order, so on a session's only connection the
    /// missing one never comes.
    Gap,
}

/// Command and status numbering.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sequence {
    /// The next CmdSN we expect.
    exp_cmd_sn: SerialNumber,
    /// Slots of the window that hold no command.
    open: u32,
    /// The next StatSN we give.
    stat_sn: SerialNumber,
    /// Bit `n` stands for `exp_cmd_sn + 1 + n`: aborted before it arrived, to be taken for received.
    plugged: u128,
}

impl Sequence {
    /// Begin with the numbers of the leading login request and `window` slots.
    pub(crate) fn new(cmd_sn: u32, stat_sn: u32, window: u16) -> Self {
        Self {
            exp_cmd_sn: SerialNumber(cmd_sn),
            open: u32::from(window),
            stat_sn: SerialNumber(stat_sn),
            plugged: 0,
        }
    }

    pub(crate) const fn exp_cmd_sn(&self) -> u32 {
        self.exp_cmd_sn.0
    }

    /// One before ExpCmdSN when the window is closed. It never goes back: a command that arrives moves both
    /// ends' distance and ExpCmdSN by one, a slot that becomes free moves this end alone.
    pub(crate) const fn max_cmd_sn(&self) -> u32 {
        self.exp_cmd_sn.plus(self.open.wrapping_sub(1)).0
    }

    /// Whether there is no room for a command in sequence.
    pub(crate) const fn is_closed(&self) -> bool {
        self.open == 0
    }

    /// The status number the next response will have.
    pub(crate) const fn stat_sn(&self) -> u32 {
        self.stat_sn.0
    }

    /// A status number for this response alone.
    pub(crate) fn take_stat_sn(&mut self) -> u32 {
        let taken = self.stat_sn;
        self.stat_sn = taken.plus(1);
        taken.0
    }

    /// Where a CmdSN of a command in sequence stands.
    pub(crate) fn place(&self, cmd_sn: u32) -> Arrival {
        match SerialNumber(cmd_sn).since(self.exp_cmd_sn) {
            _ if self.open == 0 => Arrival::Ignored,
            0 => Arrival::Next,
            ahead if ahead < self.open => Arrival::Gap,
            _ => Arrival::Ignored,
        }
    }

    /// Whether a command with this number is still to come and has room.
    pub(crate) fn is_awaited(&self, cmd_sn: u32) -> bool {
        SerialNumber(cmd_sn).since(self.exp_cmd_sn) < self.open && !self.is_plugged(cmd_sn)
    }

    /// Whether this number lies before the ones still to come.
    pub(crate) fn is_past(&self, cmd_sn: u32) -> bool {
        SerialNumber(cmd_sn).is_before(self.exp_cmd_sn)
    }

    fn is_plugged(&self, cmd_sn: u32) -> bool {
        let ahead = SerialNumber(cmd_sn).since(self.exp_cmd_sn);
        (1..=128).contains(&ahead) && self.plugged >> (ahead - 1) & 1 != 0
    }

    /// The next command has arrived. `hold` says that it keeps a slot of the window until [`Self::release`].
    pub(crate) fn arrived(&mut self, hold: bool) {
        if hold {
            self.open = self.open.saturating_sub(1);
        }
        loop {
            self.exp_cmd_sn = self.exp_cmd_sn.plus(1);
            let taken_for_received = self.plugged & 1 != 0;
            self.plugged >>= 1;
            if !taken_for_received {
                return;
            }
        }
    }

    /// A slot of the window is free again.
    pub(crate) fn release(&mut self) {
        self.open += 1;
    }

    /// Take a command that has not arrived for received, as an ABORT TASK for it demands (11.5.1). False if it is
    /// too far ahead to be remembered.
    pub(crate) fn plug(&mut self, cmd_sn: u32) -> bool {
        match SerialNumber(cmd_sn).since(self.exp_cmd_sn) {
            0 => self.arrived(false),
            ahead @ 1..=128 => self.plugged |= 1 << (ahead - 1),
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_opens_and_closes_across_the_wrap_and_never_shrinks() {
        let mut sequence = Sequence::new(0xffff_fffe, 0xffff_ffff, 4);
        let mut last = sequence.max_cmd_sn();
        assert_eq!(last, 1);
        for cmd_sn in [0xffff_fffe, 0xffff_ffff, 0, 1] {
            assert_eq!(sequence.place(cmd_sn), Arrival::Next);
            sequence.arrived(true);
            assert_eq!(sequence.max_cmd_sn(), last);
        }
        assert_eq!(sequence.max_cmd_sn(), sequence.exp_cmd_sn().wrapping_sub(1), "closed");
        assert_eq!(sequence.place(2), Arrival::Ignored);
        sequence.release();
        assert!(SerialNumber(last).is_before(SerialNumber(sequence.max_cmd_sn())));
        last = sequence.max_cmd_sn();
        assert_eq!((sequence.place(2), last), (Arrival::Next, 2));
        assert_eq!([sequence.take_stat_sn(), sequence.take_stat_sn()], [0xffff_ffff, 0]);
    }

    #[test]
    fn numbers_outside_the_window_are_ignored_however_far() {
        let sequence = Sequence::new(5, 0, 4);
        for cmd_sn in [4, 9, 5 + 0x8000_0000, 0, 0xffff_ffff] {
            assert_eq!(sequence.place(cmd_sn), Arrival::Ignored, "{cmd_sn}");
        }
        assert_eq!([5, 6, 8].map(|n| sequence.place(n)), [Arrival::Next, Arrival::Gap, Arrival::Gap]);
    }

    #[test]
    fn a_command_aborted_before_it_came_counts_as_received() {
        let mut sequence = Sequence::new(0xffff_ffff, 0, 8);
        assert!(sequence.plug(1));
        assert!(!sequence.is_awaited(1));
        sequence.arrived(true);
        assert_eq!(sequence.exp_cmd_sn(), 0);
        sequence.arrived(true);
        assert_eq!(sequence.exp_cmd_sn(), 2, "1 was passed over");
        assert!(sequence.plug(2));
        assert_eq!(sequence.exp_cmd_sn(), 3);
        assert!(!sequence.plug(500));
    }
}
