//! What is known of the volatile cache below: whether it holds writes that were acknowledged, and whether such writes
//! may have been lost.
//!
//! The truth that an initiator is owed: a GOOD for a flush says that every write acknowledged before it is on stable
//! storage. When that can no longer be said, because a flush failed or because the storage service went away with
//! writes in its cache, it must not be said, and no later flush may paper over it. So a loss is remembered for every
//! nexus, and each flush or force-unit-access command of that nexus fails with MEDIUM ERROR, WRITE ERROR. Two things
//! end it: a reset by an initiator *after* that nexus was given the error (a reset before would clear what nobody was
//! told of; Linux resets on a mere time-out), and the operator saying so. The driver's journal, which keeps what was
//! acknowledged until it is durable, makes this rare, not wrong: a write that fails with force unit access harms no other
//! because of it, but a flush that fails although all was written again stays failed.

use crate::nexus::Nexus;
use alloc::vec;
use alloc::vec::Vec;

/// What a nexus is owed about lost writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Nothing was lost.
    None,
    /// Writes may be lost and the nexus has not been told.
    Owed,
    /// The nexus was told by a failed command.
    Told,
}

/// The volatile cache below one logical unit, as far as it shows.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Writes acknowledged below so far that were not durable at once.
    written: u64,
    /// How many of them a flush has made durable.
    flushed: u64,
    losses: Vec<Loss>,
}

/// The writes that a flush covers: those acknowledged when it was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Cache {
    pub(crate) fn new(nexuses: usize) -> Self {
        Self { written: 0, flushed: 0, losses: vec![Loss::None; nexuses] }
    }

    /// A write was acknowledged below and is not durable yet.
    pub(crate) fn wrote(&mut self) {
        self.written += 1;
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark(self.written)
    }

    /// A flush issued at `mark` succeeded.
    pub(crate) fn flushed(&mut self, mark: Mark) {
        self.flushed = self.flushed.max(mark.0);
    }

    /// Whether acknowledged writes are not known to be durable.
    pub(crate) fn is_dirty(&self) -> bool {
        self.written > self.flushed
    }

    /// Acknowledged writes may be gone.
    pub(crate) fn lose(&mut self) {
        self.losses.fill(Loss::Owed);
        // They are no longer in any cache; what is lost is lost, and only new writes can be lost again.
        self.flushed = self.written;
    }

    /// Whether a flush of this nexus must fail. Whoever asks fails the command, so the nexus has been told.
    pub(crate) fn tell_loss(&mut self, nexus: Nexus) -> bool {
        match self.losses.get_mut(nexus.index()) {
            Some(loss) if *loss != Loss::None => {
                *loss = Loss::Told;
                true
            }
            _ => false,
        }
    }

    /// Whether this nexus has yet to be told of a loss.
    pub(crate) fn owes(&self, nexus: Nexus) -> bool {
        self.losses.get(nexus.index()) == Some(&Loss::Owed)
    }

    /// The logical unit was reset: who was told of a loss starts anew.
    pub(crate) fn reset(&mut self) {
        for loss in &mut self.losses {
            if *loss == Loss::Told {
                *loss = Loss::None;
            }
        }
    }

    /// A place in the table of nexuses has got a new owner, who has written nothing.
    pub(crate) fn forget(&mut self, nexus: Nexus) {
        if let Some(loss) = self.losses.get_mut(nexus.index()) {
            *loss = Loss::None;
        }
    }

    /// The operator has dealt with the loss.
    pub(crate) fn accept_loss(&mut self) {
        self.losses.fill(Loss::None);
    }

    /// Whether any nexus is still owed something or failing.
    pub(crate) fn has_loss(&self) -> bool {
        self.losses.iter().any(|loss| *loss != Loss::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_covers_what_was_acknowledged_when_it_was_issued() {
        let mut cache = Cache::new(1);
        cache.wrote();
        let mark = cache.mark();
        cache.wrote();
        cache.flushed(mark);
        assert!(cache.is_dirty(), "the second write came after the flush");
        cache.flushed(cache.mark());
        assert!(!cache.is_dirty());
    }

    #[test]
    fn a_loss_stays_until_a_reset_by_somebody_who_was_told() {
        let (one, two) = (Nexus(0), Nexus(1));
        let mut cache = Cache::new(2);
        cache.wrote();
        cache.lose();
        cache.reset();
        assert!(cache.owes(one) && cache.owes(two));
        assert!(cache.tell_loss(one), "a reset before anybody was told clears nothing");
        assert!(cache.tell_loss(one) && !cache.owes(one), "and it stays failed");
        cache.reset();
        assert!(!cache.tell_loss(one));
        assert!(cache.tell_loss(two), "the other was not told before the reset");
        cache.accept_loss();
        assert!(!cache.has_loss());
    }
}
