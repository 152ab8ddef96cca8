//! The sequence numbers of a session and its connection (4.2.2): those of commands are shared by the connections of a
//! session, those of statuses are each one's own.

use crate::negotiation::Parameters;
use crate::wire::SerialNumber;
use alloc::rc::Rc;
use core::cell::Cell;

/// How a CmdSN stands to the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// The next one: take it.
    Next,
    /// Outside the window, or already received: say nothing, do nothing.
    Ignored,
    /// Inside the window, but an earlier one is missing. TCP keeps order, so it comes by another connection or never.
    Gap,
}

/// The commands of a session, by their numbers.
#[derive(Debug, Default)]
struct Commands {
    /// The next CmdSN we expect.
    next: Cell<SerialNumber>,
    /// Slots of the window that hold no command.
    open: Cell<u32>,
    /// Bit `n` stands for `next + 1 + n`: aborted before it arrived, to be taken for received.
    plugged: Cell<u128>,
    /// What `next` was when a connection came to wait for the others.
    awaited: Cell<Option<SerialNumber>>,
    /// The window was closed, and a connection that ended has opened it.
    reopened: Cell<bool>,
}

/// What the connections of a session have in common, for [`crate::Connection::join`].
#[derive(Clone, Debug)]
pub struct Session {
    commands: Rc<Commands>,
    pub(crate) parameters: Parameters,
}

impl Session {
    /// How many connections it may have.
    pub fn max_connections(&self) -> usize {
        self.parameters.max_connections() as usize
    }
}

/// Command and status numbering.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    commands: Rc<Commands>,
    /// The next StatSN we give.
    stat_sn: SerialNumber,
}

impl Sequence {
    /// Begin with the numbers of the leading login request and `window` slots.
    pub(crate) fn begin(&mut self, cmd_sn: u32, stat_sn: u32, window: u16) {
        let commands = Commands {
            next: Cell::new(SerialNumber(cmd_sn)),
            open: Cell::new(u32::from(window)),
            ..Commands::default()
        };
        match Rc::get_mut(&mut self.commands) {
            Some(own) => *own = commands,
            // Others of a session that this connection has left go on with the old ones.
            None => self.commands = Rc::new(commands),
        }
        self.stat_sn = SerialNumber(stat_sn);
    }

    /// What other connections share with this one.
    pub(crate) fn session(&self, parameters: Parameters) -> Session {
        Session { commands: self.commands.clone(), parameters }
    }

    /// Go on with the command numbers of a session.
    pub(crate) fn join(&mut self, session: &Session) {
        self.commands = session.commands.clone();
    }

    pub(crate) fn exp_cmd_sn(&self) -> u32 {
        self.commands.next.get().0
    }

    /// One before ExpCmdSN when the window is closed. It never goes back: a command that arrives moves both
    /// ends' distance and ExpCmdSN by one, a slot that becomes free moves this end alone.
    pub(crate) fn max_cmd_sn(&self) -> u32 {
        self.commands.next.get().plus(self.commands.open.get().wrapping_sub(1)).0
    }

    /// Whether there is no room for a command in sequence.
    pub(crate) fn is_closed(&self) -> bool {
        self.commands.open.get() == 0
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
        let open = self.commands.open.get();
        match SerialNumber(cmd_sn).since(self.commands.next.get()) {
            _ if open == 0 => Arrival::Ignored,
            0 => Arrival::Next,
            ahead if ahead < open => Arrival::Gap,
            _ => Arrival::Ignored,
        }
    }

    /// Whether a command with this number is still to come and has room.
    pub(crate) fn is_awaited(&self, cmd_sn: u32) -> bool {
        let ahead = SerialNumber(cmd_sn).since(self.commands.next.get());
        ahead < self.commands.open.get() && !self.is_plugged(ahead)
    }

    /// Whether numbers before this one, of those there is room for, are still to come.
    pub(crate) fn lies_ahead(&self, cmd_sn: u32) -> bool {
        (1..=self.commands.open.get()).contains(&SerialNumber(cmd_sn).since(self.commands.next.get()))
    }

    /// Whether this number lies before the ones still to come.
    pub(crate) fn is_past(&self, cmd_sn: u32) -> bool {
        SerialNumber(cmd_sn).is_before(self.commands.next.get())
    }

    fn is_plugged(&self, ahead: u32) -> bool {
        (1..=128).contains(&ahead) && self.commands.plugged.get() >> (ahead - 1) & 1 != 0
    }

    /// The next command has arrived. `hold` says that it keeps a slot of the window until [`Self::release`].
    pub(crate) fn arrived(&mut self, hold: bool) {
        let Commands { next, open, plugged, .. } = &*self.commands;
        if hold {
            open.set(open.get().saturating_sub(1));
        }
        loop {
            next.set(next.get().plus(1));
            let after = plugged.get();
            if after == 0 {
                return;
            }
            plugged.set(after >> 1);
            if after & 1 == 0 {
                return;
            }
        }
    }

    /// A slot of the window is free again.
    pub(crate) fn release(&mut self) {
        self.commands.open.set(self.commands.open.get() + 1);
    }

    /// A connection has ended, and with it so many commands of the window.
    pub(crate) fn release_all(&mut self, count: u32) {
        let Commands { open, reopened, .. } = &*self.commands;
        if open.get() == 0 && count > 0 {
            reopened.set(true);
        }
        open.set(open.get() + count);
    }

    /// Whether the window that was closed has been opened by the end of a connection. Answered once.
    pub(crate) fn take_reopened(&self) -> bool {
        self.commands.reopened.take()
    }

    /// This connection waits for commands that come by others.
    pub(crate) fn wait(&self) {
        let Commands { next, awaited, .. } = &*self.commands;
        // Who waits longer is told with the next command that comes.
        if awaited.get().is_none() {
            awaited.set(Some(next.get()));
        }
    }

    /// Whether commands have come since a connection began to wait for some. Answered once to all who wait but this
    /// connection, which does itself if `waits`.
    pub(crate) fn take_progress(&self, waits: bool) -> bool {
        let Commands { next, awaited, .. } = &*self.commands;
        let has_moved = awaited.get().is_some_and(|at| at != next.get());
        if has_moved {
            awaited.set(waits.then_some(next.get()));
        }
        has_moved
    }

    /// Take a command that has not arrived for received, as an ABORT TASK for it demands (11.5.1). False if it is
    /// too far ahead to be remembered.
    pub(crate) fn plug(&mut self, cmd_sn: u32) -> bool {
        match SerialNumber(cmd_sn).since(self.commands.next.get()) {
            0 => self.arrived(false),
            ahead @ 1..=128 => self.commands.plugged.set(self.commands.plugged.get() | 1 << (ahead - 1)),
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(cmd_sn: u32, stat_sn: u32, window: u16) -> Sequence {
        let mut sequence = Sequence::default();
        sequence.begin(cmd_sn, stat_sn, window);
        sequence
    }

    #[test]
    fn the_window_opens_and_closes_across_the_wrap_and_never_shrinks() {
        let mut sequence = sequence(0xffff_fffe, 0xffff_ffff, 4);
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
        let sequence = sequence(5, 0, 4);
        for cmd_sn in [4, 9, 5 + 0x8000_0000, 0, 0xffff_ffff] {
            assert_eq!(sequence.place(cmd_sn), Arrival::Ignored, "{cmd_sn}");
        }
        assert_eq!([5, 6, 8].map(|n| sequence.place(n)), [Arrival::Next, Arrival::Gap, Arrival::Gap]);
    }

    #[test]
    fn a_command_aborted_before_it_came_counts_as_received() {
        let mut sequence = sequence(0xffff_ffff, 0, 8);
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

    #[test]
    fn connections_of_a_session_count_their_commands_together_and_their_answers_apart() {
        let mut one = sequence(0xffff_ffff, 10, 3);
        let mut two = sequence(77, 20, 3);
        two.join(&one.session(Parameters::default()));
        assert_eq!((two.exp_cmd_sn(), two.max_cmd_sn()), (0xffff_ffff, 1));
        assert_eq!(two.place(0), Arrival::Gap);
        two.wait();
        assert!(!one.take_progress(false), "nothing has come yet");
        one.arrived(true);
        assert!(one.take_progress(false) && !one.take_progress(false), "it is told once");
        assert_eq!(two.place(0), Arrival::Next);
        two.arrived(true);
        two.arrived(true);
        assert_eq!(one.max_cmd_sn(), one.exp_cmd_sn().wrapping_sub(1), "closed for both");
        assert_eq!([one.take_stat_sn(), two.take_stat_sn()], [10, 20]);
        two.release_all(2);
        assert!(one.take_reopened() && !two.take_reopened());
        assert_eq!(one.max_cmd_sn(), one.exp_cmd_sn().wrapping_add(1));
    }

    #[test]
    fn a_connection_that_begins_anew_leaves_the_numbers_of_its_session_to_the_others() {
        let mut one = sequence(5, 0, 8);
        let mut two = Sequence::default();
        two.join(&one.session(Parameters::default()));
        one.begin(100, 0, 8);
        assert_eq!((one.exp_cmd_sn(), two.exp_cmd_sn()), (100, 5));
    }
}
