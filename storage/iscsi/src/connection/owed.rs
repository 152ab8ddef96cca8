//! Data that the initiator owes: announced with a command, or asked for by Ready To Transfer.
//!
//! A command whose data does not come holds its buffers, and its place before all that overlap it. So the connection of an
//! initiator that sends nothing of it for [`crate::Limits::data_within`] is dropped, and likewise if a single sequence
//! takes ten times as long however it drips. Time in which we do not read counts a quarter: the data may stand there, but
//! who sees to it that we never read gains nothing for ever.
//!
//! No instant is kept for a task. As long as any data is owed a clock looks at all tasks, six times in that time, and
//! counts for which of them nothing has come since it looked last.

use super::Connection;
use crate::event::Fatal;
use crate::state::State;
use core::time::Duration;
use kernel_runtime::Instant;

/// How often the clock looks in [`crate::Limits::data_within`].
const LOOKS: u16 = 6;
/// Units of time between two looks.
const UNITS: u16 = 4;
/// Units until data is withheld. It may have been asked for just before the clock looked first.
const MOST: u16 = LOOKS * UNITS;

/// The clock that looks after data that is owed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    /// Something may be owed.
    is_on: bool,
    /// When it looks next, if it has looked before.
    next: Option<Instant>,
}

impl Watch {
    /// Data was announced or asked for.
    pub(super) fn start(&mut self) {
        self.is_on = true;
    }
}

impl Connection {
    fn look_every(&self) -> Duration {
        self.limits.data_within / u32::from(LOOKS)
    }

    /// When the clock is to look.
    pub(super) fn owed_timeout(&self) -> Option<Instant> {
        let is_in_use = matches!(self.state, State::LoggedIn | State::LogoutRequested);
        (self.owed.is_on && is_in_use && !self.outgoing.is_closing())
            .then(|| self.owed.next.unwrap_or(self.heard() + self.look_every()))
    }

    /// Look, if it is time to.
    pub(super) fn check_owed(&mut self, now: Instant) -> Result<(), Fatal> {
        if self.owed_timeout().is_none_or(|due| now < due) {
            return Ok(());
        }
        let units = if self.is_held_up() { 1 } else { UNITS };
        let Some(worst) = self.tasks.age_owed(units) else {
            self.owed = Watch::default();
            return Ok(());
        };
        self.owed.next = Some(now + self.look_every());
        let is_withheld = worst.quiet > MOST || worst.unfinished > 10 * MOST;
        if is_withheld { Err(Fatal::DataWithheld) } else { Ok(()) }
    }
}
