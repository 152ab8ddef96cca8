//! What a driver is at, as a table; `STATES.txt` in this package's folder shows it. A test compares the two, and writes the
//! text anew when `CORBEL_WRITE_STATES` is set.

use crate::driver::{Driver, Rewriting};

/// What the driver is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// There is no connection.
    Away,
    /// The journal is written again for a service that may have forgotten it.
    Replaying,
    /// Requests are sent.
    Open,
    /// The journal is written again because a flush failed.
    Repairing,
}

/// What moves the driver from one phase to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// The first connection is up, and the service has all that was acknowledged.
    Up,
    /// A connection is up, and the service may have forgotten something.
    Forgotten,
    /// The journal was written again.
    Replayed,
    /// A flush failed.
    FlushFailed,
    /// All that was acknowledged is durable after all.
    Repaired,
    /// It is not.
    NotRepaired,
    /// The last connection is gone.
    Lost,
}

storage_block::arrows! {
    pub(crate) Phase by Trigger;
    "D1" Away      --Up-->          Open;
    "D2" Away      --Forgotten-->   Replaying;
    "D3" Open      --Forgotten-->   Replaying;
    "D3" Repairing --Forgotten-->   Replaying;
    "D3" Replaying --Forgotten-->   Replaying;
    "D4" Replaying --Replayed-->    Open;
    "D5" Open      --FlushFailed--> Repairing;
    "D6" Repairing --Repaired-->    Open;
    "D7" Repairing --NotRepaired--> Replaying;
    "D8" Open      --Lost-->        Away;
    "D8" Replaying --Lost-->        Away;
    "D8" Repairing --Lost-->        Away;
}

impl Driver {
    /// Go where the table says, and begin there from the beginning.
    pub(crate) fn step(&mut self, trigger: Trigger) {
        let next = self.phase.after(trigger);
        debug_assert!(next.is_some(), "{:?} in {:?} is not drawn", trigger, self.phase);
        if let Some(phase) = next {
            self.phase = phase;
            self.rewriting = Rewriting::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_shows_the_table() {
        let states = [
            (Phase::Away, "Away"),
            (Phase::Replaying, "Replaying"),
            (Phase::Open, "Open"),
            (Phase::Repairing, "Repairing"),
        ];
        let drawn =
            storage_block::draw("The driver of a disk, as src/phase.rs has it", &states, Phase::ARROWS);
        storage_block::assert_states_shown!(drawn);
    }
}
