//! Where the cycles go: each one belongs to the stage that the machine is in.

use alloc::rc::Rc;
use core::cell::Cell;

/// A part of the path that a byte takes through the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Nothing is to be done.
    Idle,
    /// Everything that is no other stage: management, the executor, timers.
    Other,
    /// The NICs' rings and notifications.
    Driver,
    /// TCP/IP: segments, checksums, and the copies between frames and sockets.
    Stack,
    /// The iSCSI target: PDUs, sessions, and the copies between its sockets and buffers.
    Iscsi,
    /// SCSI commands.
    Scsi,
    /// The storage driver and its NBD connections, and the copies between their sockets and buffers; and all that is done
    /// for what goes from there to an initiator in one step.
    Nbd,
}

impl Stage {
    /// All there are.
    pub const ALL: [Self; 7] =
        [Self::Idle, Self::Other, Self::Driver, Self::Stack, Self::Iscsi, Self::Scsi, Self::Nbd];

    const fn place(self) -> usize {
        self as usize % PLACES
    }

    /// Its name, for people and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Other => "other",
            Self::Driver => "driver",
            Self::Stack => "stack",
            Self::Iscsi => "iscsi",
            Self::Scsi => "scsi",
            Self::Nbd => "nbd",
        }
    }
}

/// Room for all stages: a power of two, so that a place is found without a check.
const PLACES: usize = Stage::ALL.len().next_power_of_two();

/// The counters. Clones are the same counters.
///
/// Changing the stage costs a reading of the cycle counter and two additions, so that it is always on.
#[derive(Clone, Debug)]
pub struct Profile(Rc<Counters>);

#[derive(Debug)]
struct Counters {
    counter: fn() -> u64,
    stage: Cell<Stage>,
    since: Cell<u64>,
    cycles: [Cell<u64>; PLACES],
    entries: [Cell<u64>; PLACES],
}

/// What a stage has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Ticks of the machine's counter.
    pub cycles: u64,
    /// How often it was entered.
    pub entries: u64,
}

impl Profile {
    /// Counters of what `counter` counts, from now on; the stage is [`Stage::Other`].
    pub fn new(counter: fn() -> u64) -> Self {
        let (stage, since) = (Cell::new(Stage::Other), Cell::new(counter()));
        let zeros = || core::array::from_fn(|_| Cell::new(0));
        Self(Rc::new(Counters { counter, stage, since, cycles: zeros(), entries: zeros() }))
    }

    /// Where nothing counts.
    pub fn off() -> Self {
        Self::new(|| 0)
    }

    /// From now on cycles are `stage`'s. Answers whose they were, to be entered again afterwards.
    pub fn enter(&self, stage: Stage) -> Stage {
        let Counters { counter, stage: current, since, cycles, entries } = &*self.0;
        let now = counter();
        let before = current.replace(stage);
        let taken = now.wrapping_sub(since.replace(now));
        cycles[before.place()].update(|sum| sum.wrapping_add(taken));
        entries[stage.place()].update(|sum| sum.wrapping_add(1));
        before
    }

    /// What `f` does is `stage`'s.
    pub fn within<T>(&self, stage: Stage, f: impl FnOnce() -> T) -> T {
        let before = self.enter(stage);
        let result = f();
        self.enter(before);
        result
    }

    /// What a stage has taken so far.
    pub fn spent(&self, stage: Stage) -> Spent {
        let place = stage.place();
        Spent { cycles: self.0.cycles[place].get(), entries: self.0.entries[place].get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    static COUNTER: AtomicU64 = AtomicU64::new(1000);

    fn work(cycles: u64) {
        COUNTER.fetch_add(cycles, Ordering::Relaxed);
    }

    #[test]
    fn every_cycle_is_one_stages_own() {
        let profile = Profile::new(|| COUNTER.load(Ordering::Relaxed));
        work(5);
        profile.within(Stage::Iscsi, || {
            work(20);
            profile.within(Stage::Scsi, || work(300));
            work(30);
        });
        profile.enter(Stage::Idle);
        work(4000);
        profile.enter(Stage::Other);
        let spent = Stage::ALL.map(|stage| profile.spent(stage).cycles);
        assert_eq!(spent, [4000, 5, 0, 0, 50, 300, 0]);
        assert_eq!(profile.spent(Stage::Iscsi).entries, 2);
        assert_eq!(spent.iter().sum::<u64>(), COUNTER.load(Ordering::Relaxed) - 1000);
    }
}
