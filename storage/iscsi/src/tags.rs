//! Which slots have an initiator task tag, so that no command is searched for among all others.

use alloc::boxed::Box;
use alloc::vec;

/// The end of a list, and no slot.
const NONE: u16 = u16::MAX;

/// Slots by a hash of their tags. An initiator that chooses its tags so that they all fall together has its own slots
/// searched through one by one, and no others.
#[derive(Debug)]
pub(crate) struct Tags {
    /// The first slot of each hash.
    first: Box<[u16]>,
    /// The next one of the same hash, by slot.
    next: Box<[u16]>,
}

impl Tags {
    pub(crate) fn new(slots: usize) -> Self {
        let lists = (2 * slots).next_power_of_two();
        Self { first: vec![NONE; lists].into_boxed_slice(), next: vec![NONE; slots].into_boxed_slice() }
    }

    pub(crate) fn clear(&mut self) {
        self.first.fill(NONE);
    }

    fn list(&self, tag: u32) -> usize {
        // Initiators count, or use high bits for something else: both are spread (Knuth's multiplier).
        let spread = tag.wrapping_mul(0x9e37_79b1);
        (spread >> 16 ^ spread) as usize & (self.first.len() - 1)
    }

    /// The slots whose tag may be this one.
    pub(crate) fn with_hash_of(&self, tag: u32) -> impl Iterator<Item = u16> + '_ {
        let mut at = self.first[self.list(tag)];
        core::iter::from_fn(move || {
            let next = *self.next.get(usize::from(at))?;
            Some(core::mem::replace(&mut at, next))
        })
    }

    /// A slot has got this tag.
    pub(crate) fn add(&mut self, slot: u16, tag: u32) {
        let list = self.list(tag);
        self.next[usize::from(slot)] = core::mem::replace(&mut self.first[list], slot);
    }

    /// A slot had this tag.
    pub(crate) fn remove(&mut self, slot: u16, tag: u32) {
        let after = self.next[usize::from(slot)];
        let list = self.list(tag);
        let first = self.first[list];
        if first == slot {
            self.first[list] = after;
            return;
        }
        let mut before = usize::from(first);
        while let Some(next) = self.next.get_mut(before) {
            if *next == slot {
                *next = after;
                return;
            }
            before = usize::from(*next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tags: &Tags, tag: u32) -> Vec<u16> {
        let mut found: Vec<_> = tags.with_hash_of(tag).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn slots_are_found_by_their_tags_until_they_are_removed() {
        let mut tags = Tags::new(8);
        // The same tag may be in a slot that is just being freed and in a new one; others of its hash come between.
        let same = (1..).find(|&tag| tags.list(tag) == tags.list(0)).expect("lists are few");
        for (slot, tag) in [(3, 0), (5, same), (7, 0)] {
            tags.add(slot, tag);
        }
        assert_eq!(found(&tags, 0), [3, 5, 7]);
        for (slot, rest) in [(5, vec![3, 7]), (3, vec![7]), (7, vec![])] {
            tags.remove(slot, same);
            assert_eq!(found(&tags, same), rest);
        }
        tags.remove(7, 0);
        tags.add(1, 0);
        tags.clear();
        assert_eq!(found(&tags, 0), []);
    }

    #[test]
    fn tags_that_initiators_choose_are_spread() {
        for step in [1, 2, 256, 1 << 16, 0x0100_0001] {
            let mut tags = Tags::new(128);
            for slot in 0..128 {
                tags.add(slot, u32::from(slot).wrapping_mul(step));
            }
            let longest = (0..128_u32).map(|slot| tags.with_hash_of(slot.wrapping_mul(step)).count()).max();
            assert!(longest < Some(6), "{step:#x}: {longest:?}");
        }
    }
}
