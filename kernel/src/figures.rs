//! What the machine tells of itself to whoever watches it: numbers that cost next to nothing to read.

use crate::{clock, cpu, memory};

/// The time stamp counter, without a fence: what is measured with it may be off by the few instructions in flight.
pub fn cycles() -> u64 {
    cpu::cycles()
}

/// By how much [`cycles`] grows in a second; zero before the clock runs.
pub fn hertz() -> u64 {
    clock::rate()
}

/// How often memory was allocated since the start.
pub fn allocations() -> u64 {
    memory::HEAP.allocations()
}

/// Bytes of the heap that are free, in all.
pub fn free() -> u64 {
    memory::free() as u64
}
