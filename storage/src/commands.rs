//! The running commands of all sessions, in slots taken at start.

use crate::mailbox::CommandIndex;
use alloc::vec::Vec;

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

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Put `value` into a free slot.
    ///
    /// # Panics
    /// When there is none; ask [`Commands::is_full`] first.
    pub(crate) fn insert(&mut self, value: T) -> CommandIndex {
        let Some(index) = self.free.pop() else { panic!("all command slots are taken") };
        self.slots[index as usize] = Some(value);
        index
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
