//! The running commands of all sessions, in slots taken at start.

use crate::mailbox::CommandIndex;
use alloc::vec::Vec;

/// Which part of the slots is for those who hold few.
const RESERVE: usize = 8;

/// A fixed number of slots, the free ones in a list.
pub(crate) struct Commands<T> {
    slots: Vec<Option<T>>,
    free: Vec<CommandIndex>,
}

impl<T> Commands<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        let indices = 0..CommandIndex::try_from(capacity).unwrap_or(CommandIndex::MAX);
        Self { slots: indices.clone().map(|_| None).collect(), free: indices.rev().collect() }
    }

    /// Whether one of `users`, who holds `held` slots, may have another one. The last slots are for those who hold less
    /// than an equal part, so that users who never end what they begin do not keep out the others.
    pub(crate) fn admits(&self, held: usize, users: usize) -> bool {
        let reserve = if held < self.slots.len() / users.max(1) { 0 } else { self.slots.len() / RESERVE };
        self.free.len() > reserve
    }

    /// Put `value` into a free slot.
    ///
    /// # Panics
    /// When there is none; ask [`Commands::admits`] first.
    pub(crate) fn insert(&mut self, value: T) -> CommandIndex {
        let Some(index) = self.free.pop() else { panic!("all command slots are taken") };
        self.slots[index as usize] = Some(value);
        index
    }

    pub(crate) fn get(&self, index: CommandIndex) -> Option<&T> {
        self.slots.get(index as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: CommandIndex) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, index: CommandIndex) -> Option<T> {
        let value = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(value)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (CommandIndex, &mut T)> {
        (0..).zip(&mut self.slots).filter_map(|(index, slot)| slot.as_mut().map(|value| (index, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_much_leaves_the_last_slots_to_who_holds_little() {
        let mut commands = Commands::new(32);
        let mut greedy = 0;
        while commands.admits(greedy, 4) {
            commands.insert(());
            greedy += 1;
        }
        assert_eq!(greedy, 28);
        let mut modest = 0;
        while commands.admits(modest, 4) {
            commands.insert(());
            modest += 1;
        }
        assert_eq!(modest, 4);
    }
}
