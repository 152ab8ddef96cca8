//! Rings with a generation bit: an entry is the other side's news when its bit is that of this round.

use core::sync::atomic::{Ordering, fence};
use kernel_io::{Error, Shared};

/// Bytes of an entry of any ring.
const ENTRY: usize = 16;
/// Rings have a multiple of so many entries.
const LEAST: usize = 32;
/// Where the generation is in the last word of a completion.
const COMPLETED: u32 = 1 << 31;

/// One ring, and the place in it that is next.
#[derive(Debug)]
pub(super) struct Ring {
    memory: Shared,
    size: u16,
    next: u16,
    /// Of this round: 1 in the first.
    generation: u32,
}

impl Ring {
    /// A ring that can hold so many entries and one more.
    pub(super) fn allocate(entries: usize) -> Result<Self, Error> {
        let size = (entries + 1).next_power_of_two().max(LEAST);
        let memory = Shared::allocate(size * ENTRY)?;
        Ok(Self { memory, size: size as u16, next: 0, generation: 1 })
    }

    /// As new.
    pub(super) fn clear(&mut self) {
        for offset in (0..self.size()).map(|entry| entry * ENTRY) {
            self.memory.write_pair(offset, [0; 2]);
        }
        (self.next, self.generation) = (0, 1);
    }

    pub(super) fn address(&self) -> u64 {
        self.memory.address()
    }

    pub(super) fn size(&self) -> usize {
        usize::from(self.size)
    }

    /// The place that is next.
    pub(super) fn next(&self) -> usize {
        usize::from(self.next)
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Go on to the place after it.
    pub(super) fn advance(&mut self) {
        self.next += 1;
        if self.next == self.size {
            self.next = 0;
            self.generation ^= 1;
        }
    }

    /// The completion at the next place, if there is one.
    pub(super) fn completion(&self) -> Option<[u32; 4]> {
        let at = self.next() * ENTRY;
        let last = self.memory.read32(at + 12);
        if (last & COMPLETED != 0) != (self.generation == 1) {
            return None;
        }
        // The rest was written before it.
        fence(Ordering::Acquire);
        let [first, second] = self.memory.read_pair(at);
        Some([first, second, self.memory.read32(at + 8), last])
    }

    /// Write an entry all but its word of the generation.
    pub(super) fn prepare(&self, place: usize, address: u64, last: u32) {
        self.memory.write64(place * ENTRY, address);
        self.memory.write32(place * ENTRY + 12, last);
    }

    /// Write an entry's word of the generation: the device may have it, and what was written before.
    pub(super) fn hand_over(&self, place: usize, word: u32) {
        fence(Ordering::Release);
        self.memory.write32(place * ENTRY + 8, word);
    }
}
