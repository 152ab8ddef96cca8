//! What the connection of an initiator has done, in figures: enough to tell whether commands wait for their initiator, for
//! the appliance or for the storage service.

use crate::Control;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;
use kernel_runtime::Instant;

/// The connection of an initiator that is logged in to a target, and what it has done since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Its slot, which no other connection has meanwhile.
    pub connection: usize,
    /// The initiator's name.
    pub initiator: String,
    /// The target's name.
    pub target: String,
    /// Commands that have begun and not ended.
    pub commands: usize,
    /// How many commands its window has room for, begun and not.
    pub window: usize,
    /// Commands that have ended, in whatever way.
    pub ended: u64,
    /// How long these took, added up, from when they began.
    pub took: Duration,
    /// How long commands that asked for data waited for it, added up over each that they asked for.
    pub awaited: Duration,
    /// Task management functions that were asked for.
    pub functions: u64,
    /// How often it was kept from beginning a command, because it was ahead of another session.
    pub kept_back: u64,
}

/// The figures of one connection slot.
#[derive(Default)]
pub(crate) struct Figures {
    ended: Cell<u64>,
    /// In microseconds.
    took: Cell<u64>,
    awaited: Cell<u64>,
    functions: Cell<u64>,
}

impl Figures {
    /// Somebody else has the slot now.
    pub(crate) fn clear(&self) {
        for figure in [&self.ended, &self.took, &self.awaited, &self.functions] {
            figure.set(0);
        }
    }

    /// A command has ended after so many microseconds.
    pub(crate) fn ended(&self, took: u64) {
        self.ended.set(self.ended.get() + 1);
        self.took.set(self.took.get() + took);
    }

    /// Commands have had the data that they asked for, and waited so long for it in all.
    pub(crate) fn awaited(&self, micros: u64) {
        self.awaited.set(self.awaited.get() + micros);
    }

    /// A task management function was asked for.
    pub(crate) fn function(&self) {
        self.functions.set(self.functions.get() + 1);
    }
}

/// How long a command waits for data, though it asks for several pieces and they may come in any order: the times at which
/// they came, added up, less those at which they were asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wait {
    open: u32,
    /// In microseconds, modulo 2^64.
    sum: u64,
}

impl Wait {
    /// It asks for a piece.
    pub(crate) fn asks(&mut self, now: Instant) {
        self.open += 1;
        self.sum = self.sum.wrapping_sub(now.as_micros());
    }

    /// A piece has come. Once it waits for none, answers for how long it has waited in all, in microseconds.
    pub(crate) fn has(&mut self, now: Instant) -> Option<u64> {
        self.open = self.open.checked_sub(1)?;
        self.sum = self.sum.wrapping_add(now.as_micros());
        (self.open == 0).then(|| core::mem::take(&mut self.sum))
    }
}

impl Control {
    /// The connections of all initiators that are logged in to a target.
    pub fn connections(&self) -> Vec<Connected> {
        let state = self.0.state.borrow();
        let connected = self.0.figures.iter().enumerate().filter_map(|(connection, figures)| {
            let (initiator, target) = state.registry.names_of(connection)?;
            Some(Connected {
                connection,
                initiator: initiator.to_string(),
                target: target.to_string(),
                commands: self.0.running[connection].get(),
                window: usize::from(self.0.limits.iscsi.commands),
                ended: figures.ended.get(),
                took: Duration::from_micros(figures.took.get()),
                awaited: Duration::from_micros(figures.awaited.get()),
                functions: figures.functions.get(),
                kept_back: self.0.turns.kept_back(connection),
            })
        });
        connected.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_waits_for_each_piece_of_data_from_when_it_asked_for_it() {
        let (mut wait, at) = (Wait::default(), Instant::from_micros);
        wait.asks(at(100));
        wait.asks(at(110));
        assert_eq!(wait.has(at(150)), None);
        wait.asks(at(150));
        assert_eq!(wait.has(at(160)), None);
        assert_eq!(wait.has(at(170)), Some(150 + 160 + 170 - 100 - 110 - 150));
        wait.asks(at(200));
        assert_eq!(wait.has(at(200)), Some(0), "what was there already");
    }

    #[test]
    fn what_comes_unasked_is_no_wait() {
        let mut wait = Wait::default();
        assert_eq!(wait.has(Instant::from_micros(7)), None);
        wait.asks(Instant::from_micros(20));
        assert_eq!(wait.has(Instant::from_micros(25)), Some(5));
    }
}
