//! The running commands of all sessions, in slots taken at start.

use crate::mailbox::CommandIndex;
use alloc::vec::Vec;

/// Which part of the slots is for those who hold few.
const RESERVE: usize = 8;

/// A fixed number of slots, the free ones in a list. What is in a slot stays there when it is free: the next who gets it
/// makes of it what he needs, and nothing large is ever moved.
pub(crate) struct Commands<T> {
    /// Reserved in full, and made as far as they were ever used.
    slots: Vec<Slot<T>>,
    capacity: usize,
    free: Vec<CommandIndex>,
}

struct Slot<T> {
    taken: bool,
    value: T,
}

impl<T: Default> Commands<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { slots: Vec::with_capacity(capacity), capacity, free: Vec::with_capacity(capacity) }
    }

    /// Whether one of `users`, who holds `held` slots, may have another one. The last slots are for those who hold less
    /// than an equal part, and of these some are each user's own, so that users who never end what they begin do not keep
    /// out the others: `owed` answers how many slots the others lack to that many.
    pub(crate) fn admits(&self, held: usize, users: usize, owed: impl FnOnce(usize) -> usize) -> bool {
        let left = self.capacity - self.slots.len() + self.free.len();
        let (reserve, users) = (self.capacity / RESERVE, users.max(1));
        left > reserve || held < self.capacity / users && left > owed(reserve / users)
    }

    /// Take a free slot, with what it was left with.
    ///
    /// # Panics
    /// When there is none; ask [`Commands::admits`] first.
    pub(crate) fn claim(&mut self) -> (CommandIndex, &mut T) {
        let index = self.free.pop().unwrap_or_else(|| {
            assert!(self.slots.len() < self.capacity, "all command slots are taken");
            self.slots.push(Slot { taken: false, value: T::default() });
            (self.slots.len() - 1) as CommandIndex
        });
        let slot = &mut self.slots[index as usize];
        slot.taken = true;
        (index, &mut slot.value)
    }

    pub(crate) fn get(&self, index: CommandIndex) -> Option<&T> {
        self.slots.get(index as usize).filter(|slot| slot.taken).map(|slot| &slot.value)
    }

    pub(crate) fn get_mut(&mut self, index: CommandIndex) -> Option<&mut T> {
        self.slots.get_mut(index as usize).filter(|slot| slot.taken).map(|slot| &mut slot.value)
    }

    /// Give a slot back.
    pub(crate) fn release(&mut self, index: CommandIndex) {
        if let Some(slot) = self.slots.get_mut(index as usize).filter(|slot| slot.taken) {
            slot.taken = false;
            self.free.push(index);
        }
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (CommandIndex, &mut T)> {
        let slots = (0..).zip(&mut self.slots);
        slots.filter(|(_, slot)| slot.taken).map(|(index, slot)| (index, &mut slot.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_much_leaves_the_last_slots_to_who_holds_little() {
        let mut commands = Commands::<()>::new(32);
        let mut greedy = 0;
        while commands.admits(greedy, 4, |_| 0) {
            commands.claim();
            greedy += 1;
        }
        assert_eq!(greedy, 28);
        let mut modest = 0;
        while commands.admits(modest, 4, |_| 0) {
            commands.claim();
            modest += 1;
        }
        assert_eq!(modest, 4);
    }

    #[test]
    fn who_begins_anew_all_the_time_leaves_everybody_a_slot() {
        let mut commands = Commands::<()>::new(64);
        // Four greedy ones, who are told in turn to begin anew, and one who has nothing yet.
        let mut held = [Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for round in 0..100 {
            for user in 0..4 {
                let owed = |each: usize, held: &[Vec<CommandIndex>]| {
                    let others = held.iter().enumerate().filter(|(other, _)| *other != user);
                    others.map(|(_, held)| each.saturating_sub(held.len())).sum::<usize>()
                };
                while commands.admits(held[user].len(), 8, |each| owed(each, &held)) {
                    held[user].push(commands.claim().0);
                }
            }
            assert!(commands.admits(0, 8, |_| 0), "round {round}: nothing is left for the modest");
            for index in core::mem::take(&mut held[round % 4]) {
                commands.release(index);
            }
        }
    }

    #[test]
    fn a_slot_is_used_again_and_keeps_what_was_in_it() {
        let mut commands = Commands::<u32>::new(2);
        let (first, value) = commands.claim();
        *value = 7;
        let (second, _) = commands.claim();
        assert!(!commands.admits(0, 1, |_| 0));
        commands.release(first);
        commands.release(first);
        assert!(commands.get(first).is_none() && commands.get(second).is_some());
        assert_eq!(commands.iter_mut().map(|(index, _)| index).collect::<Vec<_>>(), [second]);
        assert_eq!(commands.claim(), (first, &mut 7));
        assert!(!commands.admits(0, 1, |_| 0));
    }
}
